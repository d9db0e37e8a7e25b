"""Claims of an access token. The signature of the token is not verified: only Graph can do this."""

import base64
import json
from typing import Any, NamedTuple
from urllib.parse import urlsplit

ROLE = "CallRecords.Read.All"
OLDER_ROLE = "CallRecord-PstnCalls.Read.All"
_CLOUDS = {
    "graph.microsoft.com": "global",
    "graph.microsoft.us": "us-gov-l4",
    "dod-graph.microsoft.us": "us-gov-l5",
    "microsoftgraph.chinacloudapi.cn": "China, where Microsoft does not offer this log",
}


class TokenClaims(NamedTuple):
    """Claims of an access token that the connector uses. None of them is a secret."""

    audience: str
    "Service that accepts the token, as a URL or as the id of an application. Empty if the token does not state it."
    roles: frozenset[str]
    "Application permissions that were granted with admin consent."
    tenant: str
    "Id of the tenant whose data the token gives access to. Empty if the token does not state it."


def read(token: str) -> TokenClaims | None:
    """Return the claims of a token, or None if the token cannot be read.

    Microsoft does not document the format of the token and may change it.
    """
    try:
        part = token.split(".")[1]
        claims: Any = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    except (IndexError, ValueError, RecursionError):
        return None
    if not isinstance(claims, dict):
        return None
    audience, roles, tenant = claims.get("aud"), claims.get("roles"), claims.get("tid")
    return TokenClaims(
        audience if isinstance(audience, str) else "",
        frozenset(role for role in roles if isinstance(role, str)) if isinstance(roles, list) else frozenset(),
        tenant if isinstance(tenant, str) else "",
    )


def cloud_of(graph: str) -> str:
    """Return a text such as "graph.microsoft.us (cloud us-gov-l4)" for a URL or host name of Graph.

    The text is empty for any other host.
    """
    host = (urlsplit(graph).hostname if "://" in graph else graph) or ""
    return f"{host} (cloud {_CLOUDS[host]})" if host in _CLOUDS else ""
