"""What an OAuth error of sign-in means, and what to do. Descriptions are not repeated: they may quote what was sent."""

import json
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

_AADSTS = re.compile(r"AADSTS([0-9]{4,9})")
_SAFE = re.compile(r"[A-Za-z0-9_.:-]{1,64}")
_PASSING = {"temporarily_unavailable", "server_error", "request_timeout"}
_PASSING_CODES = {90033, 50196}

_WRONG_CLOUD = "the tenant or the application is in another cloud; check graph.cloud"
_FEDERATION = "add a federated credential with the issuer and the subject of this token to the application"
_REMEDIES = {
    7000215: "the client secret is wrong; configure the secret's value, not its id",
    7000222: "the client secret has expired; create a new one for the application and configure it",
    7000216: "a client secret is missing; configure client_secret",
    7000218: "a client secret is missing; configure client_secret",
    700016: "the application is not known in this tenant; check client_id, and give admin consent in this tenant",
    7000112: "the application is disabled in this tenant; enable its enterprise application",
    700027: "the certificate is not the application's, or has expired; add its public part to the application",
    700021: "the assertion is another application's; check client_id",
    700023: "the assertion is for another sign-in; check graph.authority and graph.cloud",
    700024: "the assertion is not valid at this time; synchronise this machine's clock, or renew the federated token",
    700211: f"the federated token's issuer is not trusted; {_FEDERATION}",
    700212: "the federated token is for another audience; have it made for api://AzureADTokenExchange",
    700213: f"the federated token's subject is not trusted; {_FEDERATION}",
    70021: f"the federated token is not trusted; {_FEDERATION}",
    50013: "the federated token is not signed by its issuer; check which issuer the application trusts",
    50027: "the assertion is no token that sign-in can read; check what AZURE_FEDERATED_TOKEN_FILE names",
    90002: "the tenant does not exist in this cloud; check the tenant's id and graph.cloud",
    900023: "the tenant's id is not valid; check it",
    900021: "the tenant's id is not valid; check it",
    900382: _WRONG_CLOUD,
    900432: _WRONG_CLOUD,
    500011: "what the token is for is not known to this tenant; check graph.cloud",
    53003: "a Conditional Access policy blocks the application; exclude it, or allow this network",
    1002012: "the scope is not valid for an application; check graph.cloud",
}
_REMEDIES_BY_ERROR = {
    "invalid_client": "the credential does not fit; check client_id and {kind}",
    "unauthorized_client": "the application may not sign in here; check client_id, and give admin consent",
    "invalid_tenant": "the tenant does not exist in this cloud; check the tenant's id and graph.cloud",
    "invalid_scope": "the scope is not valid; check graph.cloud",
}
_REMEDY_OF_AZURE = "this machine has no such managed identity; assign it, and check managed_identity"


class Refusal(NamedTuple):
    """What sign-in said, in its own codes."""

    codes: str
    correlation_id: str
    remedy: str
    "Empty: it passes by itself."


def read(document: Mapping[str, Any], kind: str) -> Refusal | None:
    """The refusal in an answer; None when it is none. `kind`: the key of the credential."""
    error = document.get("error")
    if not isinstance(error, str) or not _SAFE.fullmatch(error):
        return None
    codes = _codes(document)
    correlation_id = str(document.get("correlation_id") or "")
    known = ", ".join([error, *(f"AADSTS{code}" for code in codes)])
    remedy = ""
    if error not in _PASSING and not _PASSING_CODES.intersection(codes):
        by_error = _REMEDIES_BY_ERROR.get(error, "check the tenant's id, client_id and {kind}").format(kind=kind)
        if kind == "managed_identity":
            by_error = _REMEDY_OF_AZURE
        remedy = next((_REMEDIES[code] for code in codes if code in _REMEDIES), by_error)
    return Refusal(known, correlation_id if _SAFE.fullmatch(correlation_id) else "", remedy)


def parse(body: bytes) -> dict[str, Any] | None:
    """The JSON object in an answer."""
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
