"""What a token says that it is good for: read and not verified, which is Graph's part."""

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
    """Of a token that can be read; nothing of it is a secret."""

    audience: str
    "The service that takes it: a URL, or an application's id; empty when it does not say."
    roles: frozenset[str]
    "Application permissions that were consented to."
    tenant: str
    "Whose data it opens; empty when it does not say."


def read(token: str) -> TokenClaims | None:
    """None when the token cannot be read: its form is Graph's own matter."""
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
    """The Graph that a URL or a host names, with its cloud, in words; else nothing."""
    host = (urlsplit(graph).hostname if "://" in graph else graph) or ""
    return f"{host} (cloud {_CLOUDS[host]})" if host in _CLOUDS else ""
