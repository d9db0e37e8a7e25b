"""Credential of a tenant, which is read again for every token, and the msal client that uses it."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, Protocol, TypeVar

import msal

from connector.config import certificates
from connector.config.secret import Hidden
from connector.config.settings import Identity
from connector.graph.replay import Replies

Kind = Literal["client_secret", "client_certificate", "workload_identity", "managed_identity"]


_Text = TypeVar("_Text", str, bytes)


class CredentialError(Exception):
    """Identity that cannot be used for sign-in. The message states the reason and what to do, without any secret."""


class Credential(NamedTuple):
    """Identity with the current value of its credential.

    Two equal objects mean that the credential has not changed. The existing msal client can then be used again.
    """

    kind: Kind
    "Configuration key of the credential."
    client_id: str
    value: str | certificates.Certificate = ""

    def __repr__(self) -> str:
        return f"Credential({self.kind})"


def read(identity: Identity) -> Credential:
    """Return the current credential of an identity. Its secret is read from the file again, if it is in a file.

    Raises CredentialError if the credential is missing or cannot be used.
    """
    client_id = identity.client_id or ""
    if identity.managed_identity:
        return Credential("managed_identity", client_id)
    if not client_id:
        raise CredentialError("client_id is missing; set it in [[tenants]] or in [identity]")
    if identity.client_secret is not None:
        return Credential("client_secret", client_id, _value("client_secret", identity.client_secret))
    if identity.federated_token is not None:
        token = _value("AZURE_FEDERATED_TOKEN_FILE", identity.federated_token).strip()
        return Credential("workload_identity", client_id, token)
    if identity.client_certificate is None:
        raise CredentialError(
            "client_secret, client_certificate, workload_identity and managed_identity are missing; set one of them in"
            " [[tenants]] or in [identity]"
        )
    content = _value("client_certificate", identity.client_certificate)
    password = identity.client_certificate_password
    try:
        certificate = certificates.read(
            content, _value("client_certificate_password", password) if password is not None else None
        )
    except certificates.NoCertificateError as error:
        raise CredentialError(f"client_certificate {error}") from None
    return Credential("client_certificate", client_id, certificate)


def has_changed(identity: Identity) -> bool:
    """Return whether a file of the credential has changed since it was last read."""
    files = (
        identity.client_secret,
        identity.client_certificate,
        identity.client_certificate_password,
        identity.federated_token,
    )
    return any(file.has_changed() for file in files if file is not None)


def _value(name: str, secret: Hidden[_Text]) -> _Text:
    value = secret.get()
    if not value:
        raise CredentialError(f"{name} is empty; configure it")
    return value


class Application(Protocol):
    """msal client that requests tokens with one credential."""

    def acquire(self, scope: str) -> dict[str, Any]:
        """Request a new token, and return the OAuth response.

        Raises MissingAnswerError when msal needs a response that has not arrived yet.
        """


def application(credential: Credential, authority: str, replies: Replies) -> Application:
    """Create the msal client for a credential. `authority` is the sign-in URL of the tenant.

    msal may already need the tenant's metadata at this point. Raises MissingAnswerError if it has not arrived yet.
    """
    if credential.kind == "managed_identity":
        return _Managed(credential.client_id, replies)
    return _Confidential(credential, authority, replies)


class _Confidential:
    """Application that signs in to the tenant with a secret, a certificate or a federated token."""

    def __init__(self, credential: Credential, authority: str, replies: Replies) -> None:
        self._msal = msal.ConfidentialClientApplication(
            credential.client_id,
            client_credential=_for_msal(credential),
            authority=authority,
            # Otherwise msal asks another host for aliases of the authority, and a failure there hides the real error.
            instance_discovery=False,
            http_client=replies,
        )

    def acquire(self, scope: str) -> dict[str, Any]:
        # SignIn decides when to renew. msal would return its cached token instead of a new one.
        self._msal.remove_tokens_for_client()
        result: dict[str, Any] = self._msal.acquire_token_for_client([scope])
        return result


class _Managed:
    """Managed identity, whose tokens come from the Azure machine that the process runs on.

    Each token request creates another msal client, because an msal client would return the token that it has cached.
    """

    def __init__(self, client_id: str, replies: Replies) -> None:
        self._client_id = client_id
        self._replies = replies

    def acquire(self, scope: str) -> dict[str, Any]:
        identity = (
            msal.UserAssignedManagedIdentity(client_id=self._client_id)
            if self._client_id
            else msal.SystemAssignedManagedIdentity()
        )
        client = msal.ManagedIdentityClient(identity, http_client=self._replies)
        result: dict[str, Any] = client.acquire_token_for_client(resource=scope.removesuffix("/.default"))
        return result


def _for_msal(credential: Credential) -> str | dict[str, str | Callable[[], str]]:
    value = credential.value
    if isinstance(value, certificates.Certificate):
        # Without a thumbprint msal computes one with SHA-256; a given one would be taken as SHA-1.
        return {"private_key": value.private_key, "public_certificate": value.certificates}
    if credential.kind == "workload_identity":
        return {"client_assertion": lambda: value}
    return value
