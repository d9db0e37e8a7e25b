"""The claims of an access token, read without verification, which is Graph's task."""

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
    """The claims of a token that can be read. None of them is a secret."""

    audience: str
    "The service that accepts the token: a URL or an application's id; empty if the token does not state it."
    roles: frozenset[str]
    "The application permissions that were consented to."
    tenant: str
    "The tenant whose data the token opens; empty if the token does not state it."


def read(token: str) -> TokenClaims | None:
    """Return the claims of a token, or None if it cannot be read, because Microsoft may change its format."""
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
    """Return the host of Graph that a URL or host names, with its cloud, in words; empty for another host."""
    host = (urlsplit(graph).hostname if "://" in graph else graph) or ""
    return f"{host} (cloud {_CLOUDS[host]})" if host in _CLOUDS else ""
