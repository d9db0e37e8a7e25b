"""What a tenant is signed in with, read anew for each token, and what msal makes of it."""

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
        """The value as it is now."""


class Identity(Protocol):
    """What a tenant is signed in with: one of the credentials."""

    @property
    def client_id(self) -> str | None:
        """The application's id; of a managed identity, None for the one that the system assigned."""

    @property
    def client_secret(self) -> Hidden[str] | None:
        """Its secret."""

    @property
    def client_certificate(self) -> Hidden[bytes] | None:
        """Its certificate with the key, PEM or PFX."""

    @property
    def client_certificate_password(self) -> Hidden[str] | None:
        """The certificate's password."""

    @property
    def federated_token(self) -> Hidden[str] | None:
        """What another identity provider says of it, such as Kubernetes."""

    @property
    def managed_identity(self) -> bool:
        """Whether Azure knows who this machine is."""


class CredentialError(Exception):
    """The identity cannot be used: the sentence says why and what to do, without any secret."""


class Credential(NamedTuple):
    """An identity as it is now. Equal ones sign in alike."""

    kind: Kind
    "The key that it is configured with."
    client_id: str
    value: str | certificates.Certificate = ""

    def __repr__(self) -> str:
        return f"Credential({self.kind})"


def read(identity: Identity) -> Credential:
    """The identity as it is now; reads files. Raises CredentialError."""
    client_id = identity.client_id or ""
    if identity.managed_identity:
        return Credential("managed_identity", client_id)
    if not client_id:
        raise CredentialError("client_id is missing; configure it, there or in [identity]")
    if identity.client_secret is not None:
        # No secret of Entra ends with a line, and a file may end with two.
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
    """What asks for tokens."""

    def acquire(self, scope: str) -> dict[str, Any]:
        """A token that nobody had before, as OAuth answers. Run with answers."""


def application(credential: Credential, authority: str, replies: Replies) -> Application:
    """What asks for tokens with a credential; `authority` is the tenant's. Run with answers."""
    if credential.kind == "managed_identity":
        return _Managed(credential.client_id, replies)
    return _Confidential(credential, authority, replies)


class _Confidential:
    """An application that proves who it is to the tenant's sign-in."""

    def __init__(self, credential: Credential, authority: str, replies: Replies) -> None:
        self._msal = msal.ConfidentialClientApplication(
            credential.client_id,
            client_credential=_for_msal(credential),
            authority=authority,
            # Else msal asks another host about aliases, and its failure hides the real one.
            instance_discovery=False,
            http_client=replies,
        )

    def acquire(self, scope: str) -> dict[str, Any]:
        # Renewal is decided elsewhere; what msal still holds would come back instead of a new token.
        self._msal.remove_tokens_for_client()
        result: dict[str, Any] = self._msal.acquire_token_for_client([scope])
        return result


class _Managed:
    """Azure vouches for this machine. One msal client a token: it has no other way to forget the last one."""

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
        # Without a thumbprint msal signs with SHA-256.
        return {"private_key": value.private_key, "public_certificate": value.certificates}
    if credential.kind == "workload_identity":
        return {"client_assertion": lambda: value}
    return value
