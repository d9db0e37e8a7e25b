"""Conversion of a valid configuration into settings. It also checks values that depend on other keys or on files."""

import json
from collections.abc import Iterable
from dataclasses import replace
from datetime import timedelta
from difflib import SequenceMatcher
from functools import cache
from typing import TYPE_CHECKING, Any

from connector.config import sasl
from connector.config.document import REFUSED_PROPERTIES, Document, SchemaRegistryTable
from connector.config.durations import duration_text, parse_instant
from connector.config.identities import credentials, event_hubs, identity_of, own_identity
from connector.config.quoting import shown
from connector.config.references import check_bundle, path_of, read_pseudonym_key, read_secret
from connector.config.settings import (
    Dedup,
    Graph,
    Http,
    Identity,
    Kafka,
    Log,
    Rows,
    SchemaRegistry,
    Settings,
    Tenant,
    Windows,
)
from connector.config.source import ConfigSource, Key, key_text, treatable
from connector.config.validation import check
from connector.config.values import Reference, is_protected, split_listen, to_authority
from connector.core.horizon import MARGIN
from connector.core.windows import Sweep
from connector.schema_files import schema_text

if TYPE_CHECKING:
    from connector.config.secret import Secret

_CLOUDS = {
    "global": ("https://graph.microsoft.com", "https://login.microsoftonline.com"),
    "us-gov-l4": ("https://graph.microsoft.us", "https://login.microsoftonline.us"),
    "us-gov-l5": ("https://dod-graph.microsoft.us", "https://login.microsoftonline.us"),
}
_START = parse_instant("-7d")
_UNSET = Reference("text", "")


def resolve(source: ConfigSource, checked: Document, required: Iterable[str]) -> Settings:
    """Compute the settings from the configuration `checked`, and report every problem to `source`.

    `required` names keys that must not be empty.
    """
    checked, azure_authority = _add_azure_tenant(source, checked)
    treatments = _privacy(source, checked)
    graph = _graph(source, checked, azure_authority)
    kafka = _kafka(source, checked)
    shared = own_identity(source, ("identity",), checked.identity)
    tenants = _tenants(source, checked, shared)
    kafka = replace(kafka, event_hubs=event_hubs(source, checked, shared, tenants))
    _check_names(source, checked)
    windows = _windows(source, checked)
    for name in required:
        section, key = name.split(".")
        if not getattr(getattr(checked, section), key):
            example = ', for example "broker-1:9092"' if key == "bootstrap_servers" else ""
            source.report((section, key), f"is empty; set it{example}")
    host, port = split_listen(checked.http.listen)
    return Settings(
        graph=graph,
        tenants=tenants,
        windows=windows,
        dedup=Dedup(checked.dedup.horizon),
        rows=Rows(
            key=checked.rows.key,
            timestamp=checked.rows.timestamp,
            revisions=checked.rows.revisions,
            additional_properties=checked.rows.additional_properties or ("drop" if treatments else "keep"),
            privacy=treatments,
            pseudonym_key=read_pseudonym_key(source, checked),
        ),
        kafka=kafka,
        schema_registry=_schema_registry(source, checked.schema_registry),
        http=Http(host, port),
        log=Log(checked.log.format, checked.log.level),
    )


def _add_azure_tenant(source: ConfigSource, checked: Document) -> tuple[Document, str]:
    """Add the tenant that the AZURE_* variables describe, unless the configuration has tenants.

    Return the configuration with this tenant, and the sign-in URL in AZURE_AUTHORITY_HOST. If the configuration has
    tenants, return it unchanged, with an empty URL. Report a problem if there is no tenant at all.
    """
    if checked.tenants or source.is_reported("tenants"):
        return checked, ""
    environ = source.environ
    tenant_id = environ.get("AZURE_TENANT_ID", "")
    if not tenant_id:
        have = [name for name in ("AZURE_CLIENT_ID", "AZURE_CLIENT_SECRET") if environ.get(name)]
        add = "add [[tenants]]" if source.path else "name a configuration file with --config"
        todo = (
            "set AZURE_TENANT_ID too"
            if have
            else f"{add}, or set AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_CLIENT_SECRET"
        )
        source.report(("tenants",), f"has no tenant; {todo}")
        return checked, ""
    tenant: dict[str, Any] = {"id": tenant_id}
    names: dict[Key, str] = {("tenants", 0, "id"): "AZURE_TENANT_ID"}
    if checked.identity.client_id is None and environ.get("AZURE_CLIENT_ID"):
        tenant["client_id"] = environ["AZURE_CLIENT_ID"]
        names["tenants", 0, "client_id"] = "AZURE_CLIENT_ID"
    if not credentials(checked.identity):
        for name, key, value in (
            ("AZURE_CLIENT_SECRET", "client_secret", environ.get("AZURE_CLIENT_SECRET")),
            (
                "AZURE_CLIENT_CERTIFICATE_PATH",
                "client_certificate",
                {"file": environ.get("AZURE_CLIENT_CERTIFICATE_PATH")},
            ),
            ("AZURE_FEDERATED_TOKEN_FILE", "workload_identity", True),
        ):
            if environ.get(name):
                tenant[key] = value
                names["tenants", 0, key] = name
                break
    if "client_certificate" in tenant and environ.get("AZURE_CLIENT_CERTIFICATE_PASSWORD"):
        tenant["client_certificate_password"] = environ["AZURE_CLIENT_CERTIFICATE_PASSWORD"]
        names["tenants", 0, "client_certificate_password"] = "AZURE_CLIENT_CERTIFICATE_PASSWORD"
    source.set_list("tenants", [tenant], names)
    return check(source), environ.get("AZURE_AUTHORITY_HOST", "")


def _privacy(source: ConfigSource, checked: Document) -> dict[str, str]:
    """Return the privacy setting (mask, pseudonymize or drop) of each field that has one.

    Report fields that cannot have a privacy setting.
    """
    treatments: dict[str, str] = {}
    for name, treatment in checked.rows.privacy.items():
        key: Key = ("rows", "privacy", name)
        if name in treatable():
            treatments[name] = treatment
        elif name == "id":
            source.report(key, "is not possible, because the id of a row must stay unchanged; remove this setting")
        elif _row_fields().get(name):
            source.report(
                key, "is not a string field, but privacy settings apply only to string fields; remove this setting"
            )
        elif name in _row_fields():
            source.report(
                key,
                "is a field that the connector adds, but privacy settings apply only to fields of Graph; remove this "
                "setting",
            )
        else:
            nearest = max(treatable(), key=lambda known: SequenceMatcher(None, name.lower(), known.lower()).ratio())
            source.report(key, f"is not a field of a row; the most similar is {nearest}")
    return treatments


@cache
def _row_fields() -> dict[str, bool]:
    """Return the fields of a row: true for a field that Graph provides, false for a field that the connector adds."""
    return {field["name"]: "since" in field for field in json.loads(schema_text("directRoutingLogRow"))["fields"]}


def _graph(source: ConfigSource, checked: Document, azure_authority: str) -> Graph:
    table = checked.graph
    root, authority = _CLOUDS[table.cloud]
    if table.authority:
        authority = table.authority
    elif azure_authority:
        try:
            authority = to_authority(azure_authority if "://" in azure_authority else f"https://{azure_authority}")
        except ValueError as error:
            source.report(("graph", "authority"), str(error), "AZURE_AUTHORITY_HOST")
    if table.timeout <= timedelta(0):
        source.report(("graph", "timeout"), 'must be greater than zero; write for example "30s"')
    bundle = path_of(source, table.ca_bundle) if table.ca_bundle else None
    if bundle is not None:
        check_bundle(source, ("graph", "ca_bundle"), bundle)
    return Graph(
        cloud=table.cloud,
        root=table.base_url or root,
        authority=authority,
        scope=f"{root}/.default",
        ca_bundle=bundle,
        api_version=table.api_version,
        requests_per_minute=table.requests_per_minute,
        timeout=table.timeout,
        concurrency=table.concurrency,
        tls_strict=table.tls_strict,
    )


def _tenants(source: ConfigSource, checked: Document, shared: Identity) -> tuple[Tenant, ...]:
    tenants: list[Tenant] = []
    ids: dict[str, int] = {}
    for number, table in enumerate(checked.tenants):
        identity = identity_of(source, checked, number, table, shared)
        if table.id is None:
            source.report(("tenants", number, "id"), "is missing; write the directory (tenant) id")
            continue
        key = table.id.lower()
        if key in ids:
            source.report(
                ("tenants", number, "id"), f"is also the id of tenants[{ids[key]}]; configure each tenant once"
            )
        ids.setdefault(key, number)
        tenants.append(
            Tenant(
                id=table.id,
                key=key,
                name=table.name or None,
                label=table.name or table.id,
                identity=identity,
                start=table.start if table.start is not None else _START,
                requests_per_minute=table.requests_per_minute or checked.graph.requests_per_minute,
                topic=table.topic or checked.kafka.topic,
            )
        )
    names: dict[str, int] = {}
    for number, table in enumerate(checked.tenants):
        if not table.name:
            continue
        if table.name in names:
            source.report(
                ("tenants", number, "name"), f"is also the name of tenants[{names[table.name]}]; choose another name"
            )
        elif ids.get(table.name.lower(), number) != number:
            source.report(
                ("tenants", number, "name"), f"is the id of tenants[{ids[table.name.lower()]}]; choose another name"
            )
        names.setdefault(table.name, number)
    return tuple(tenants)


def _kafka(source: ConfigSource, checked: Document) -> Kafka:
    table = checked.kafka
    properties: dict[str, str | Secret] = {}
    for name, reference in table.properties.items():
        key: Key = ("kafka", "properties", name)
        why = REFUSED_PROPERTIES.get(name.strip().lower())
        if why is not None:
            source.report(key, f"cannot be set, because {why}; remove it")
        elif reference.kind == "text":
            properties[name] = reference.value
        else:
            secret = read_secret(source, key, reference)
            if secret is not None:
                properties[name] = secret
    sasl.check(source, properties, azure_event_hubs=table.azure_event_hubs)
    topic_properties: dict[str, str] = {}
    for name, reference in table.topic_properties.items():
        if reference.kind == "text":
            topic_properties[name] = reference.value
        else:
            source.report(
                ("kafka", "topic_properties", name),
                "names a file or variable, but only secrets can be read from there; write the value itself as text",
            )
    return Kafka(
        bootstrap_servers=table.bootstrap_servers,
        topic=table.topic,
        app=table.app,
        shards=table.shards,
        delivery=table.delivery,
        create_topics=table.create_topics,
        partitions=table.partitions,
        replication_factor=table.replication_factor,
        event_hubs=None,
        topic_properties=topic_properties,
        properties=properties,
    )


def _schema_registry(source: ConfigSource, table: SchemaRegistryTable) -> SchemaRegistry:
    here = "schema_registry"
    has_password, has_token = table.password != _UNSET, table.token != _UNSET
    if has_token and (table.username or has_password):
        source.report((here, "token"), "cannot be combined with a user name or password; remove one of them")
    elif has_password and not table.username:
        source.report((here, "username"), f"is missing, but {here}.password is set; set the user name too")
    elif table.username and not has_password:
        source.report((here, "password"), f"is missing, but {here}.username is set; set the password too")
    elif ":" in table.username:
        source.report((here, "username"), "contains a colon, which a user name cannot contain; remove it")
    elif has_password or has_token:
        for url in filter(None, table.url.split(",")):
            if not is_protected(url):
                what = "which would send the secret unprotected; write https:// (http:// only for localhost)"
                source.report((here, "url"), f"is {shown(url)}, {what}")
    if table.client_key and not table.client_certificate:
        what = f"is missing, but {here}.client_key is set; set the certificate too"
        source.report((here, "client_certificate"), what)
    bundle = path_of(source, table.ca_bundle) if table.ca_bundle else None
    if bundle is not None:
        check_bundle(source, (here, "ca_bundle"), bundle)
    return SchemaRegistry(
        url=table.url,
        username=table.username,
        password=read_secret(source, (here, "password"), table.password) if has_password else None,
        token=read_secret(source, (here, "token"), table.token) if has_token else None,
        ca_bundle=bundle,
        client_certificate=path_of(source, table.client_certificate) if table.client_certificate else None,
        client_key=path_of(source, table.client_key) if table.client_key else None,
        subject_name_strategy=table.subject_name_strategy,
        auto_register=table.auto_register,
        tls_strict=table.tls_strict,
    )


def _check_names(source: ConfigSource, checked: Document) -> None:
    """Report a topic name that two topics of the connector would have.

    Names that differ only in '.' and '_' count as equal, because they collide in Kafka.
    """
    taken: dict[str, tuple[str, Key]] = {}
    app: Key = ("kafka", "app")
    uses: list[tuple[str, Key]] = [(f"{checked.kafka.app}.{suffix}", app) for suffix in ("control", "state", "seen")]
    row_topics: dict[str, Key] = {checked.kafka.topic: ("kafka", "topic")}
    for number, table in enumerate(checked.tenants):
        if table.topic is not None:
            row_topics.setdefault(table.topic, ("tenants", number, "topic"))
    for topic, key in row_topics.items():
        uses += [(topic, key), (f"{topic}.dlq", key), (f"{topic}.progress", key)]
    for name, key in uses:
        same = name.replace(".", "_")
        other, other_key = taken.setdefault(same, (name, key))
        if other_key != key:
            source.report(
                key,
                f"needs the topic {name}, which collides with {other} of {key_text(other_key)}; choose another name",
            )


def _check_horizon(source: ConfigSource, horizon: timedelta, sweeps: Iterable[Sweep]) -> None:
    """Report a `dedup.horizon` that is too short.

    It must be at least the overlap of the deepest sweep, plus the cadence of this sweep, plus one hour.
    """
    deepest = max(sweeps, key=lambda sweep: (sweep.overlap, sweep.every), default=None)
    if deepest is None:
        return
    shortest = deepest.overlap + deepest.every + MARGIN
    if horizon < shortest:
        source.report(
            ("dedup", "horizon"),
            f'is "{duration_text(horizon)}", but must be at least '
            f'the longest overlap "{duration_text(deepest.overlap)}" '
            f'plus the cadence of that sweep "{duration_text(deepest.every)}" plus "1h"; '
            f'write at least "{duration_text(shortest)}"',
        )


def _windows(source: ConfigSource, checked: Document) -> Windows:
    table = checked.windows
    if not timedelta(seconds=1) <= table.slice <= timedelta(days=30):
        source.report(("windows", "slice"), f'is "{duration_text(table.slice)}"; write a duration from "1s" to "30d"')
    if not table.sweeps:
        source.report(("windows", "sweeps"), "is empty; add a [[windows.sweeps]] table, or remove the key")
    seen: dict[timedelta, int] = {}
    sweeps: list[Sweep] = []
    for number, sweep in enumerate(table.sweeps):
        here: Key = ("windows", "sweeps", number)
        for name, value in (("every", sweep.every), ("overlap", sweep.overlap)):
            if value is None:
                source.report((*here, name), 'is missing; write a duration such as "15m"')
            elif value <= timedelta(0):
                source.report((*here, name), 'must be greater than zero; write a duration such as "15m"')
        if sweep.every is not None and sweep.every in seen:
            source.report(
                (*here, "every"),
                f"is also the cadence of windows.sweeps[{seen[sweep.every]}]; use each cadence only once",
            )
        if sweep.every is not None and sweep.overlap is not None:
            seen.setdefault(sweep.every, number)
            sweeps.append(Sweep(sweep.every, sweep.overlap))
    _check_horizon(source, checked.dedup.horizon, sweeps)
    return Windows(table.settle, table.slice, tuple(sorted(sweeps, key=lambda sweep: sweep.every)))
