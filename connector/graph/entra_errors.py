"""Causes and remedies for OAuth errors of sign-in.

The description that an error contains is never shown, because it may quote secrets.
"""

import json
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

_AADSTS = re.compile(r"AADSTS([0-9]{4,9})")
_SAFE = re.compile(r"[A-Za-z0-9_.:-]{1,64}")
_PASSING = {"temporarily_unavailable", "server_error", "request_timeout"}

_WRONG_CLOUD = "the tenant or the application is in another cloud; check graph.cloud"
_FEDERATION = "add a federated credential with the issuer and the subject of this token to the application"
_CONSENT = "grant the application permission CallRecords.Read.All and give admin consent in this tenant"
_MALFORMED = (
    "sign-in cannot read the request; check graph.authority, and that no proxy changes requests, otherwise report a bug"
)
_SUPPORT = "sign-in has a permanent fault; open a support request at Microsoft with the correlation id"
_RESTRICTED = "the network's proxy blocks sign-in to this tenant; allow the tenant in its tenant restrictions"
_NO_TENANT = "the request names no tenant that sign-in knows; check the tenant's id and graph.authority"
_MISSING = "a client secret is missing; configure client_secret"
_NOT_VALID = (
    "the certificate is not valid now; check its dates and this machine's clock, and replace it if it has expired"
)
_BUSY = "sign-in is busy or partly unavailable"
# Source of the meanings: https://learn.microsoft.com/entra/identity-platform/reference-error-codes
REMEDIES = {
    # client secrets
    70002: "the client secret is wrong; configure the secret's value, not its id",
    7000215: "the client secret is wrong; configure the secret's value, not its id",
    7000222: "the client secret has expired; create a new one for the application and configure it",
    7000216: _MISSING,
    7000218: _MISSING,
    700025: "the application is a public client; switch off 'Allow public client flows' for it, or use another one",
    # certificates and assertions
    700027: "the certificate is unknown to the application, or has expired; add its public part to the application",
    700030: "the certificate's subject is not accepted; put the application's own certificate first in the file",
    50012: "the certificate or its signature is not accepted; add its public part to the application, or replace it",
    50017: "the certificate's issuer or revocation list cannot be checked; trust the issuer, or replace it",
    1000502: _NOT_VALID,
    700021: "the assertion belongs to another application; check client_id",
    700023: "the assertion is for another sign-in service; check graph.authority and graph.cloud",
    700024: "the assertion is not valid at this time; synchronize this machine's clock, or renew the federated token",
    500133: "the assertion is not valid at this time; synchronize this machine's clock, or renew the federated token",
    50048: "the assertion's subject and issuer differ; check client_id",
    900384: "the signature of the assertion is not accepted; check that key and certificate belong to the application",
    # federated tokens
    70021: f"the federated token is not trusted; {_FEDERATION}",
    700211: f"the federated token's issuer is not trusted; {_FEDERATION}",
    700212: "the federated token is for another audience; request it for the audience api://AzureADTokenExchange",
    700213: f"the federated token's subject is not trusted; {_FEDERATION}",
    700222: "the federated token was issued by Microsoft Entra, which is not accepted; use a token of another issuer",
    700229: "the federated token was issued to a user; use one that was issued to an application",
    50013: "the federated token is not signed by its issuer; check which issuer the application trusts",
    50027: "the assertion is not a token that sign-in can read; check what AZURE_FEDERATED_TOKEN_FILE names",
    # the application
    700016: "the application is not known in this tenant; check client_id, and give admin consent in this tenant",
    700011: "the application is not known in this tenant; check client_id, and give admin consent in this tenant",
    7000229: "the application has no service principal in this tenant; give admin consent in this tenant",
    7000112: "the application is disabled in this tenant; enable its enterprise application",
    70001: "the application is disabled or unknown in this tenant; check client_id, or enable its application",
    1000031: "the application cannot be used at this time; ask the tenant's administrator why it is blocked",
    50194: "the application belongs to another tenant; make it multitenant, or use one that belongs to this tenant",
    50105: "the application requires an assignment in this tenant; assign it, or switch off 'Assignment required'",
    90099: "the application is not authorized in this tenant; give admin consent in this tenant",
    # permissions
    65001: f"consent to the application is missing; {_CONSENT}",
    65005: f"the application's permissions are not configured correctly; {_CONSENT}",
    650056: f"the application's permissions are missing or not consented to; {_CONSENT}",
    650057: f"the application does not list Microsoft Graph among its permissions; {_CONSENT}",
    90008: f"consent to the application is missing; {_CONSENT}",
    90094: f"an administrator has to consent; {_CONSENT}",
    # the tenant
    90002: "the tenant does not exist in this cloud; check the tenant's id and graph.cloud",
    900021: "the tenant's id is not valid; check it",
    900023: "the tenant's id is not valid; check it",
    50059: _NO_TENANT,
    50128: _NO_TENANT,
    90019: _NO_TENANT,
    # the cloud
    90038: _WRONG_CLOUD,
    90051: _WRONG_CLOUD,
    900382: _WRONG_CLOUD,
    900432: _WRONG_CLOUD,
    50049: "sign-in does not know this authority; check graph.authority and graph.cloud",
    # the resource of the token
    50001: "the resource of the token is disabled in this tenant or unknown to it; check graph.cloud",
    500011: "the resource of the token is unknown to this tenant; check graph.cloud",
    650052: "this tenant has not enabled the service that the token is for; check its subscriptions and graph.cloud",
    650054: "the resource of the token was removed from this tenant; check its subscriptions and graph.cloud",
    28002: "the scope is not valid; check graph.cloud",
    70011: "the scope is not valid; check graph.cloud",
    700022: "the scope is not valid; check graph.cloud",
    1002012: "the scope is not valid for an application; check graph.cloud",
    # policies
    53003: "a Conditional Access policy blocks the application; exclude it, or allow this network",
    50131: "a Conditional Access policy blocks the application; exclude it, or allow this network",
    530032: "a security policy of the tenant blocks the application; exclude it, or allow this network",
    530035: "the tenant's security defaults block the application; ask its administrator for an exception",
    50053: "this network's address is blocked for malicious activity; read the tenant's sign-in log, and unblock it",
    50002: _RESTRICTED,
    500021: _RESTRICTED,
    500022: _RESTRICTED,
    # requests
    70003: _MALFORMED,
    90004: _MALFORMED,
    90013: _MALFORMED,
    90014: _MALFORMED,
    90023: _MALFORMED,
    90100: _MALFORMED,
    900144: _MALFORMED,
    900561: _MALFORMED,
    9002313: _MALFORMED,
    # Microsoft's own faults
    50000: _SUPPORT,
    90036: _SUPPORT,
    90092: _SUPPORT,
}
PASSING = {
    50033: f"{_BUSY}; wait, the fault is transient",
    50196: "the same request came too often; stop other programs that sign in with this client_id, and wait",
    90006: f"{_BUSY}; wait, the fault is transient",
    90012: f"{_BUSY}; wait, the fault is transient",
    90024: f"{_BUSY}; wait, the fault is transient",
    90033: f"{_BUSY}; wait, the fault is transient",
    90055: "there are too many requests for this tenant; stop other programs that sign in to it, and wait",
    90090: f"{_BUSY}; wait, the fault is transient",
    90091: f"{_BUSY}; wait, the fault is transient",
}
_REMEDIES_BY_ERROR = {
    "invalid_client": "the credential does not match; check client_id and {kind}",
    "unauthorized_client": "the application may not sign in here; check client_id, and give admin consent",
    "invalid_tenant": "the tenant does not exist in this cloud; check the tenant's id and graph.cloud",
    "invalid_scope": "the scope is not valid; check graph.cloud",
    "invalid_resource": "the resource of the token is unknown to this tenant; check graph.cloud",
    "access_denied": "a policy of the tenant refuses the application; read the tenant's sign-in log",
}
_UNKNOWN = "the connector does not know this error of sign-in; check the tenant's id, client_id and {kind}"
_REMEDY_OF_AZURE = "this machine has no such managed identity; assign it, and check managed_identity"


class EntraError(NamedTuple):
    """Error that sign-in returned. `codes` lists its error codes, as text for messages."""

    codes: str
    correlation_id: str
    remedy: str
    "Cause of a permanent error and, after a semicolon, what to do. It is empty for a transient error."
    wait: str = ""
    "Cause of a transient error and what to do. It is empty if the code of the error is not known."


def read(document: Mapping[str, Any], kind: str) -> EntraError | None:
    """Return the error in a response of sign-in, or None if the response contains none.

    `kind` is the configuration key of the credential. The remedy for the error names this key.
    """
    error = document.get("error")
    if not isinstance(error, str) or not _SAFE.fullmatch(error):
        return None
    codes = _codes(document)
    correlation_id = str(document.get("correlation_id") or "")
    known = ", ".join([error, *(f"AADSTS{code}" for code in codes)])
    correlation_id = correlation_id if _SAFE.fullmatch(correlation_id) else ""
    passing = [code for code in codes if code in PASSING]
    if passing or error in _PASSING:
        return EntraError(known, correlation_id, "", PASSING[passing[0]] if passing else "")
    by_error = _REMEDIES_BY_ERROR.get(error, _UNKNOWN).format(kind=kind)
    if kind == "managed_identity":
        by_error = _REMEDY_OF_AZURE
    remedy = next((REMEDIES[code] for code in codes if code in REMEDIES), by_error)
    return EntraError(known, correlation_id, remedy)


def parse(body: bytes) -> dict[str, Any] | None:
    """Return the JSON object in a response body, or None if the body is not one."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None


def _codes(document: Mapping[str, Any]) -> list[int]:
    given = document.get("error_codes")
    if isinstance(given, list):
        return [code for code in given if isinstance(code, int)][:3]
    return [int(code) for code in _AADSTS.findall(str(document.get("error_description") or ""))][:3]
