"""Simulated sign-in: responses to token requests, and a check of the tokens that are sent to Graph.

Times are epoch seconds that the caller passes in.
"""

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from uuid import NAMESPACE_URL, uuid4, uuid5

import jwt
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from connector.simulator import assertions

GRAPH_ROOTS = {
    "global": "https://graph.microsoft.com",
    "us-gov-l4": "https://graph.microsoft.us",
    "us-gov-l5": "https://dod-graph.microsoft.us",
}
ROLE = "CallRecords.Read.All"
_KEY_ID = "simulator"


@dataclass(frozen=True, slots=True)
class IssuedToken:
    """Token that was issued, with its tenant, audience, expiry time and role."""

    tenant: str
    audience: str
    expires: float
    has_role: bool


@dataclass(frozen=True, slots=True)
class Answer:
    """Status and JSON body of a response."""

    status: int
    body: dict[str, object]


def refusal(status: int, code: str, number: int, text: str, now: float) -> Answer:
    """Return an error response in the format of Entra. `number` is the number after "AADSTS"."""
    moment = f"{datetime.fromtimestamp(now, UTC):%Y-%m-%d %H:%M:%SZ}"
    trace, correlation = str(uuid4()), str(uuid4())
    return Answer(
        status,
        {
            "error": code,
            "error_description": (
                f"AADSTS{number}: {text} Trace ID: {trace} Correlation ID: {correlation} Timestamp: {moment}"
            ),
            "error_codes": [number],
            "timestamp": moment,
            "trace_id": trace,
            "correlation_id": correlation,
            "error_uri": f"https://login.microsoftonline.com/error?code={number}",
        },
    )


@cache
def _signing_key() -> rsa.RSAPrivateKey:
    """Return the throw-away key with which all simulators of this process sign tokens.

    They share it because generating a key is slow, and because no client checks the signatures.
    """
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def _part(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _directory(tenant: str) -> str:
    """Return the id of a tenant. `tenant` is the id itself or a domain of the form ID.onmicrosoft.com."""
    return tenant.lower().partition(".")[0]


class TokenEndpoint:
    """Sign-in of one application: checks its credentials, issues tokens, and checks tokens that are sent to Graph.

    `tenants` has the id of each tenant as key. The value is true if the application has its role in that tenant.
    """

    def __init__(self, tenants: Mapping[str, bool], client_id: str, secret: str, lifetime_s: int) -> None:
        self._tenants = tenants
        self._client_id = client_id
        self.secret = secret
        self.lifetime_s = lifetime_s
        self.registration = assertions.Registration()
        self.graph_roots = tuple(GRAPH_ROOTS.values())
        "Audiences of the tokens that Graph accepts."
        self.machine = str(uuid5(NAMESPACE_URL, f"system-assigned:{client_id}"))
        "Client id of this machine's system-assigned managed identity, which belongs to the first tenant."
        self.machines = {str(uuid5(NAMESPACE_URL, f"user-assigned:{client_id}"))}
        "Client ids of this machine's user-assigned managed identities."
        self._key = _signing_key()
        self._tokens: dict[str, IssuedToken] = {}

    def discovery(self, tenant: str, root: str, now: float) -> Answer:
        """Return the OpenID Connect metadata of a tenant."""
        if _directory(tenant) not in self._tenants:
            return self._unknown(tenant, now)
        base = f"{root}/{tenant}"
        return Answer(
            200,
            {
                "token_endpoint": f"{base}/oauth2/v2.0/token",
                "token_endpoint_auth_methods_supported": [
                    "client_secret_post",
                    "private_key_jwt",
                    "client_secret_basic",
                ],
                "jwks_uri": f"{base}/discovery/v2.0/keys",
                "response_modes_supported": ["query", "fragment", "form_post"],
                "subject_types_supported": ["pairwise"],
                "id_token_signing_alg_values_supported": ["RS256"],
                "response_types_supported": ["code", "id_token", "code id_token", "id_token token"],
                "scopes_supported": ["openid", "profile", "email", "offline_access"],
                "issuer": f"{base}/v2.0",
                "authorization_endpoint": f"{base}/oauth2/v2.0/authorize",
                "device_authorization_endpoint": f"{base}/oauth2/v2.0/devicecode",
                "end_session_endpoint": f"{base}/oauth2/v2.0/logout",
                "claims_supported": ["sub", "iss", "aud", "exp", "iat"],
                "tenant_region_scope": "EU",
                "cloud_instance_name": "microsoftonline.com",
                "msgraph_host": self.graph_roots[0].removeprefix("https://"),
            },
        )

    def keys(self) -> Answer:
        """Return the public keys for checking the signature of tokens, as a JSON Web Key Set."""
        key: dict[str, object] = jwt.algorithms.RSAAlgorithm.to_jwk(self._key.public_key(), as_dict=True)
        return Answer(200, {"keys": [key | {"kid": _KEY_ID, "use": "sig", "alg": "RS256"}]})

    def token(self, tenant: str, form: Mapping[str, str], endpoint: str, now: float) -> Answer:
        """Check the client credentials in `form`, which was sent to `endpoint`.

        Return a token, or an error of Entra.
        """
        if _directory(tenant) not in self._tenants:
            return self._unknown(tenant, now)
        if form.get("grant_type") != "client_credentials":
            return refusal(400, "unsupported_grant_type", 70003, "The app requested an unsupported grant type.", now)
        client = form.get("client_id", "")
        if client.lower() != self._client_id:
            text = f"Application with identifier '{client}' was not found in the directory '{tenant}'."
            return refusal(400, "unauthorized_client", 700016, text, now)
        refused = self._credential_error(form, client, endpoint, now)
        if refused is not None:
            return refused
        scope = form.get("scope", "").split()
        if len(scope) != 1 or not scope[0].endswith("/.default") or not scope[0].startswith("https://"):
            text = f"The provided value for the input parameter 'scope' is not valid. The scope {scope} is not valid."
            return refusal(400, "invalid_scope", 70011, text, now)
        return Answer(
            200,
            {
                "token_type": "Bearer",
                "expires_in": self.lifetime_s,
                "ext_expires_in": self.lifetime_s,
                "access_token": self._issue(
                    _directory(tenant), scope[0].removesuffix("/.default").rstrip("/"), self._client_id, now
                ),
            },
        )

    def _credential_error(self, form: Mapping[str, str], client: str, endpoint: str, now: float) -> Answer | None:
        """Check the secret or assertion in `form`. Return an error if it does not prove that the sender is `client`."""
        if "client_assertion" in form:
            if form.get("client_assertion_type") != assertions.TYPE:
                text = "The request body must contain the following parameter: 'client_assertion_type'."
                return refusal(400, "invalid_request", 900144, text, now)
            try:
                self.registration.check(form["client_assertion"], client, endpoint, now)
            except assertions.WrongAssertionError as wrong:
                return refusal(401, wrong.error, wrong.number, str(wrong), now)
            return None
        if "client_secret" not in form:
            text = "The request body must contain the following parameter: 'client_assertion' or 'client_secret'."
            return refusal(401, "invalid_client", 7000218, text, now)
        if form["client_secret"] != self.secret:
            text = (
                "Invalid client secret provided. Ensure the secret being sent in the request is the client secret "
                f"value, not the client secret ID, for a secret added to app '{client}'."
            )
            return refusal(401, "invalid_client", 7000215, text, now)
        return None

    def managed(self, audience: str, client: str | None, now: float) -> str | None:
        """Issue a token for a managed identity of the first tenant.

        `client` is the client id of a user-assigned identity, or None for the system-assigned identity. Return None if
        this machine does not have the identity.
        """
        if client is not None and client not in self.machines:
            return None
        return self._issue(next(iter(self._tenants)), audience, client or self.machine, now)

    def _issue(self, tenant: str, audience: str, client: str, now: float) -> str:
        self._tokens = {text: token for text, token in self._tokens.items() if token.expires > now}
        has_role = self._tenants[tenant]
        header = {"typ": "JWT", "alg": "RS256", "kid": _KEY_ID}
        claims = {
            "aud": audience,
            "iss": f"https://sts.windows.net/{tenant}/",
            "iat": int(now),
            "nbf": int(now),
            "exp": int(now) + self.lifetime_s,
            "appid": client,
            "oid": str(uuid5(NAMESPACE_URL, f"{tenant}:{client}")),
            "sub": str(uuid5(NAMESPACE_URL, f"{tenant}:{client}")),
            "idtyp": "app",
            "roles": [ROLE] if has_role else [],
            "tid": tenant,
            "uti": uuid4().hex,
            "ver": "1.0",
        }
        if not has_role:
            del claims["roles"]
        signed = ".".join(_part(json.dumps(part, separators=(",", ":")).encode()) for part in (header, claims))
        signature = self._key.sign(signed.encode(), padding.PKCS1v15(), hashes.SHA256())
        token = f"{signed}.{_part(signature)}"
        self._tokens[token] = IssuedToken(tenant, audience, now + self.lifetime_s, has_role)
        return token

    def holder(self, authorization: str | None, now: float) -> IssuedToken | str:
        """Return the token in an Authorization header. If Graph would refuse it, return the reason as text."""
        scheme, _, text = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not text.strip():
            return "Access token is empty."
        token = self._tokens.get(text.strip())
        if token is None:
            return "Access token validation failure. Invalid signature."
        if token.expires <= now:
            return "Lifetime validation failed, the token is expired."
        if token.audience not in self.graph_roots:
            return "Access token validation failure. Invalid audience."
        return token

    def expire(self) -> int:
        """Invalidate all tokens that were issued so far, and return their number."""
        count = len(self._tokens)
        self._tokens.clear()
        return count

    @staticmethod
    def _unknown(tenant: str, now: float) -> Answer:
        text = (
            f"Tenant '{tenant}' not found. Check to make sure you have the correct tenant ID and are signing into the "
            "correct cloud. Check with your subscription administrator, this may happen if there are no active "
            "subscriptions for the tenant."
        )
        return refusal(400, "invalid_request", 90002, text, now)
