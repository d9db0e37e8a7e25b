"""Credentials of each tenant and of Azure Event Hubs. A tenant's own credential takes precedence over [identity]."""

from dataclasses import replace
from pathlib import Path

from connector.config import certificates
from connector.config.document import Document, IdentityTable, TenantTable
from connector.config.references import read_secret, read_secret_bytes
from connector.config.secret import Secret
from connector.config.settings import EventHubs, Identity, Tenant
from connector.config.source import ConfigSource, Key
from connector.config.values import Reference, is_protected

_CREDENTIALS = ("client_secret", "client_certificate", "workload_identity", "managed_identity")


def credentials(table: IdentityTable) -> list[str]:
    """Return the names of the credential keys that a table sets. A valid table sets at most one."""
    return [name for name in _CREDENTIALS if getattr(table, name) not in (None, False, "")]


def is_credential(key: Key) -> bool:
    """Return whether a key belongs to sign-in: whether the table [identity] has a key of this name.

    The key may be set in the table [identity] or in the table of a tenant.
    """
    return key[0] == "identity" or (key[0] == "tenants" and key[2:3] != () and key[2] in IdentityTable.model_fields)


def own_identity(source: ConfigSource, here: Key, table: IdentityTable) -> Identity:
    """Return the identity that one table sets, without inherited values. Report a second credential in the table.

    `here` is the key of the table. The certificate is not parsed yet, because its password may be in another table.
    """
    chosen = credentials(table)
    for name in chosen[1:]:
        what = f"cannot be combined with {chosen[0]}; remove one of them"
        source.report((*here, name), what)
    password, managed = table.client_certificate_password, table.managed_identity
    identity = Identity(
        client_id=table.client_id or None,
        client_certificate_password=(
            read_secret(source, (*here, "client_certificate_password"), password) if password is not None else None
        ),
    )
    if table.client_secret is not None:
        return replace(identity, client_secret=read_secret(source, (*here, "client_secret"), table.client_secret))
    if table.client_certificate is not None:
        content = read_secret_bytes(source, (*here, "client_certificate"), table.client_certificate)
        return replace(identity, client_certificate=content)
    if table.workload_identity:
        return replace(identity, federated_token=_federated_token(source, (*here, "workload_identity")))
    if managed:
        return replace(identity, client_id=managed if isinstance(managed, str) else None, managed_identity=True)
    return identity


def _federated_token(source: ConfigSource, key: Key) -> Secret | None:
    """Return the token in the file that AZURE_FEDERATED_TOKEN_FILE names, or report that the variable is not set.

    In Kubernetes, the webhook of Azure Workload Identity sets the variable.
    """
    written = source.environ.get("AZURE_FEDERATED_TOKEN_FILE", "")
    if not written:
        todo = "set it, or let Azure's workload identity webhook set it (label azure.workload.identity/use)"
        source.report(key, f"needs the variable AZURE_FEDERATED_TOKEN_FILE, which is not set; {todo}")
        return None
    return read_secret(source, key, Reference("file", str(Path(written).absolute())))


def identity_of(source: ConfigSource, checked: Document, number: int, table: TenantTable, shared: Identity) -> Identity:
    """Return the identity of a tenant for sign-in. Report a key that is missing.

    A tenant that sets no credential inherits the credential of [identity], which is in `shared`. To prevent this, the
    tenant can set the same key itself, for example `managed_identity = false`. `number` is the tenant's position in the
    configuration, starting at 0. `table` is its table.
    """
    here: Key = ("tenants", number)
    own = own_identity(source, here, table)
    chosen, there = credentials(table), credentials(checked.identity)
    identity = own
    if not chosen and there and getattr(table, there[0]) is None:
        identity = replace(
            shared,
            client_id=shared.client_id if shared.managed_identity else own.client_id or shared.client_id,
            client_certificate_password=own.client_certificate_password or shared.client_certificate_password,
        )
        chosen, here = there, ("identity",)
    elif chosen and not own.managed_identity:
        identity = replace(
            own,
            client_id=own.client_id or shared.client_id,
            client_certificate_password=own.client_certificate_password or shared.client_certificate_password,
        )
    if identity.federated_token is not None and identity.client_id is None:
        identity = replace(identity, client_id=source.environ.get("AZURE_CLIENT_ID") or None)
    _check_identity(source, number, table, identity, (*here, chosen[0]) if chosen else None)
    return identity


def _check_identity(
    source: ConfigSource, number: int, table: TenantTable, identity: Identity, chosen: Key | None
) -> None:
    """Report each key that a tenant needs for sign-in but does not have, and a certificate that cannot be read.

    `chosen` is the key of the tenant's credential, or None if the tenant has no credential.
    """
    here: Key = ("tenants", number)
    from_azure = source.variables.get((*here, "id")) == "AZURE_TENANT_ID"
    if identity.client_id is None and not identity.managed_identity and not source.is_reported("identity", "client_id"):
        todo = "set AZURE_CLIENT_ID" if from_azure else "set it for the tenant or in [identity]"
        source.report((*here, "client_id"), f"is missing; {todo}", "AZURE_CLIENT_ID" if from_azure else None)
    if chosen is None and not any(source.is_reported("identity", name) for name in _CREDENTIALS):
        todo = "set it for the tenant or in [identity], or client_certificate, workload_identity or managed_identity"
        if from_azure:
            todo = "set AZURE_CLIENT_SECRET, AZURE_CLIENT_CERTIFICATE_PATH or AZURE_FEDERATED_TOKEN_FILE"
        source.report((*here, "client_secret"), f"is missing; {todo}", "AZURE_CLIENT_SECRET" if from_azure else None)
    if identity.client_certificate is None:
        if table.client_certificate_password is not None:
            what = "is set, but there is no client_certificate; remove it"
            source.report((*here, "client_certificate_password"), what)
        return
    password = identity.client_certificate_password
    try:
        certificates.read(identity.client_certificate.get(), password.get() if password else None)
    except certificates.NoCertificateError as error:
        source.report(chosen or here, str(error))


def event_hubs(
    source: ConfigSource, checked: Document, shared: Identity, tenants: tuple[Tenant, ...]
) -> EventHubs | None:
    """Return the settings for sign-in to Azure Event Hubs, or None if kafka.azure_event_hubs is not set.

    The credential is that of [identity], or that of the first tenant if [identity] has none. The connector signs in to
    the Entra tenant in AZURE_TENANT_ID or, if the variable is not set, to the first tenant.
    """
    here: Key = ("kafka", "azure_event_hubs")
    table = checked.kafka
    if not table.azure_event_hubs or not tenants:
        return None
    for name in table.properties:
        if name.strip().lower() in ("sasl.mechanism", "sasl.mechanisms", "sasl.username", "sasl.password"):
            what = "is set, but kafka.azure_event_hubs signs in with OAUTHBEARER; remove one of them"
            source.report(("kafka", "properties", name), what)
    host = table.bootstrap_servers.split(",")[0].rpartition("://")[2].rpartition(":")[0]
    if not host:
        source.report(
            here, 'needs kafka.bootstrap_servers with a port, for example "NAMESPACE.servicebus.windows.net:9093"'
        )
    protocol = next((r.value for n, r in table.properties.items() if n.strip().lower() == "security.protocol"), "")
    if protocol and protocol.lower() != "sasl_ssl" and not is_protected(f"http://{host}"):
        what = "is not SASL_SSL, so that the token would be sent unprotected; remove it"
        source.report(("kafka", "properties", "security.protocol"), what)
    identity = tenants[0].identity
    if credentials(checked.identity):
        client_id = shared.client_id
        if client_id is None and not shared.managed_identity:
            client_id = source.environ.get("AZURE_CLIENT_ID") or identity.client_id
        identity = replace(shared, client_id=client_id)
    tenant = source.environ.get("AZURE_TENANT_ID") or tenants[0].id
    return EventHubs(tenant, f"Kafka at {host}", identity, f"https://{host}/.default")
