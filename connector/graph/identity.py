"""Credentials of a tenant, read again for each token, and the msal client that uses them."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, Protocol, TypeVar

import msal

from connector.core import certificates
from connector.errors import ConnectorError
from connector.graph.replay import Replies

Kind = Literal["client_secret", "client_certificate", "workload_identity", "managed_identity"]


_T = TypeVar("_T", str, bytes)
_T_co = TypeVar("_T_co", str, bytes, covariant=True)


class Hidden(Protocol[_T_co]):
    """A value that may change on disk and is never shown."""

    def get(self) -> _T_co:
        """Return the current value."""


class Identity(Protocol):
    """The configured identity of a tenant: a client id with one of the credentials, or a managed identity."""

    @property
    def client_id(self) -> str | None:
        """The application's client id. For a managed identity, None means the system-assigned one."""

    @property
    def client_secret(self) -> Hidden[str] | None:
        """The application's client secret."""

    @property
    def client_certificate(self) -> Hidden[bytes] | None:
        """The application's certificate with its private key, PEM or PFX."""

    @property
    def client_certificate_password(self) -> Hidden[str] | None:
        """The certificate's password."""

    @property
    def federated_token(self) -> Hidden[str] | None:
        """The token of another identity provider, such as Kubernetes, that proves the application's identity."""

    @property
    def managed_identity(self) -> bool:
        """Return whether the identity is a managed identity of this machine."""


class CredentialError(Exception):
    """The identity cannot be used. The message states the reason and what to do, without any secret."""


class Credential(NamedTuple):
    """An identity with the current value of its credential. Equal credentials sign in in the same way."""

    kind: Kind
    "The configuration key of the credential."
    client_id: str
    value: str | certificates.Certificate = ""

    def __repr__(self) -> str:
        return f"Credential({self.kind})"


def read(identity: Identity) -> Credential:
    """Return the identity with the current value of its credential, read from files. Raise CredentialError."""
    client_id = identity.client_id or ""
    if identity.managed_identity:
        return Credential("managed_identity", client_id)
    if not client_id:
        raise CredentialError("client_id is missing; configure it, there or in [identity]")
    if identity.client_secret is not None:
        # Entra's secrets do not end with a line break, and a file may end with two.
        secret = _value("client_secret", identity.client_secret).rstrip("\r\n")
        return Credential("client_secret", client_id, secret)
    if identity.federated_token is not None:
        token = _value("AZURE_FEDERATED_TOKEN_FILE", identity.federated_token).strip()
        return Credential("workload_identity", client_id, token)
    if identity.client_certificate is None:
        raise CredentialError(
            "client_secret, client_certificate, workload_identity and managed_identity are missing; configure one of"
            " them, there or in [identity]"
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


def _value(name: str, secret: Hidden[_T]) -> _T:
    try:
        value = secret.get()
    except (ConnectorError, OSError, ValueError, LookupError) as error:
        raise CredentialError(f"{name} cannot be read; check that its file is there and readable") from error
    if not value:
        raise CredentialError(f"{name} is empty; configure it")
    return value


class Application(Protocol):
    """Client that requests tokens with one credential."""

    def acquire(self, scope: str) -> dict[str, Any]:
        """Return a newly issued token, in the form of an OAuth response. Raise MissingAnswerError as `Replies` does."""


def application(credential: Credential, authority: str, replies: Replies) -> Application:
    """Return the client that requests tokens with a credential. `authority` is that of the tenant.

    Raise MissingAnswerError as `Replies` does, because msal may read the tenant's metadata at construction.
    """
    if credential.kind == "managed_identity":
        return _Managed(credential.client_id, replies)
    return _Confidential(credential, authority, replies)


class _Confidential:
    """An application that proves its identity to the tenant's sign-in."""

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
    """A managed identity, for which Azure vouches.

    Each token needs its own msal client, which caches the last token.
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
