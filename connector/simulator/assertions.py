"""Check of client assertions by the rules of Entra.

With a client assertion, an application proves its identity at sign-in. It is signed with a certificate of the
application, or by another identity provider. Times are epoch seconds that the caller passes in.
"""

import base64
from collections.abc import Iterable
from typing import Any

import jwt
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from connector.simulator.options import Federation

TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
FEDERATED_AUDIENCE = "api://AzureADTokenExchange"

_SKEW_S = 300.0
_CLAIMS = ("aud", "exp", "iss", "sub")


class WrongAssertionError(Exception):
    """Error for a refused assertion, with the error code, the AADSTS number and the text that Entra would return."""

    def __init__(self, error: str, number: int, text: str) -> None:
        super().__init__(text)
        self.error = error
        self.number = number


class Registration:
    """Certificates and federated identity provider that are registered for an application."""

    def __init__(self, certificates: Iterable[bytes] = (), federation: Federation | None = None) -> None:
        """Register certificates (PEM) and a federated identity provider.

        Raises ValueError if a certificate or the provider's public key cannot be read.
        """
        self.federation = federation
        if federation is not None:
            serialization.load_pem_public_key(federation.public_key)
        self._certificates: dict[str, x509.Certificate] = {}
        self.register(certificates)

    def register(self, certificates: Iterable[bytes]) -> None:
        """Replace the registered certificates by `certificates` (PEM). Raises ValueError if one cannot be read."""
        found = [certificate for pem in certificates for certificate in x509.load_pem_x509_certificates(pem)]
        self._certificates = {_thumbprint(certificate): certificate for certificate in found}

    def check(self, assertion: str, client: str, endpoint: str, now: float) -> None:
        """Raise WrongAssertionError unless the assertion proves that its sender is the client with the id `client`.

        `endpoint` is the URL to which the assertion was sent, and `now` is the current time.
        """
        try:
            header = jwt.get_unverified_header(assertion)
            claims = jwt.decode(assertion, options={"verify_signature": False})
        except jwt.InvalidTokenError:
            text = "JWT token is invalid or malformed."
            raise WrongAssertionError("invalid_request", 50027, text) from None
        if "x5t#S256" in header or "x5t" in header or claims.get("iss") == client:
            self._check_own(assertion, header, claims, (client, endpoint, now))
        else:
            self._check_federated(assertion, claims, now)

    def _check_own(
        self, assertion: str, header: dict[str, Any], claims: dict[str, Any], expected: tuple[str, str, float]
    ) -> None:
        client, endpoint, now = expected
        certificate = self._certificates.get(str(header.get("x5t#S256", "")).rstrip("="))
        text = "The certificate with identifier used to sign the client assertion is not registered on application."
        if certificate is None:
            raise WrongAssertionError("invalid_client", 700027, text)
        if not certificate.not_valid_before_utc.timestamp() <= now <= certificate.not_valid_after_utc.timestamp():
            raise WrongAssertionError("invalid_client", 700027, "The certificate used to sign has expired.")
        key = certificate.public_key()
        if not isinstance(key, rsa.RSAPublicKey) or not _is_signed(assertion, key, ("RS256", "PS256")):
            raise WrongAssertionError("invalid_client", 700027, "Client assertion failed signature validation.")
        if not all(name in claims for name in (*_CLAIMS, "jti")) or {claims["iss"], claims["sub"]} != {client}:
            text = "Client assertion application identifier doesn't match 'client_id' parameter."
            raise WrongAssertionError("invalid_client", 700021, text)
        if claims["aud"] != endpoint:
            text = "Client assertion audience claim does not match Realm issuer."
            raise WrongAssertionError("invalid_client", 700023, text)
        _check_time(claims, now)

    def _check_federated(self, assertion: str, claims: dict[str, Any], now: float) -> None:
        federation = self.federation
        no_match = "No matching federated identity record found for presented assertion"
        if federation is None or claims.get("iss") != federation.issuer:
            raise WrongAssertionError("invalid_client", 700211, f"{no_match} issuer.")
        if claims.get("sub") != federation.subject:
            raise WrongAssertionError("invalid_client", 700213, f"{no_match} subject.")
        audience = claims.get("aud")
        if FEDERATED_AUDIENCE not in (audience if isinstance(audience, list) else [audience]):
            raise WrongAssertionError("invalid_client", 700212, f"{no_match} audience.")
        key = serialization.load_pem_public_key(federation.public_key)
        if not isinstance(key, rsa.RSAPublicKey) or not _is_signed(assertion, key, ("RS256",)):
            raise WrongAssertionError("invalid_client", 50013, "Assertion failed signature validation.")
        _check_time(claims, now)


def _thumbprint(certificate: x509.Certificate) -> str:
    return base64.urlsafe_b64encode(certificate.fingerprint(hashes.SHA256())).rstrip(b"=").decode()


def _is_signed(assertion: str, key: rsa.RSAPublicKey, algorithms: tuple[str, ...]) -> bool:
    # Times and claims are checked later, with the simulator's clock and Entra's error messages.
    options: Any = {f"verify_{name}": False for name in ("exp", "nbf", "iat", "aud", "iss", "sub", "jti")}
    try:
        jwt.decode(assertion, key, algorithms=list(algorithms), options=options)
    except jwt.InvalidTokenError:
        return False
    return True


def _check_time(claims: dict[str, Any], now: float) -> None:
    begins, ends = claims.get("nbf", 0), claims.get("exp")
    if isinstance(begins, int | float) and isinstance(ends, int | float) and begins - _SKEW_S <= now < ends:
        return
    text = "Client assertion is not within its valid time range."
    raise WrongAssertionError("invalid_client", 700024, text)
