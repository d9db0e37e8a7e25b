"""What a token says that it is good for: read and not verified, which is Graph's part; it only explains refusals."""

import base64
import json
from typing import Any, NamedTuple

ROLE = "CallRecords.Read.All"
OLDER_ROLE = "CallRecord-PstnCalls.Read.All"


class Permit(NamedTuple):
    """Of a token that can be read; nothing of it is a secret."""

    audience: str
    "The service that takes it: a URL, or an application's id; empty when it does not say."
    roles: frozenset[str]
    "Application permissions that were consented to."


def read(token: str) -> Permit | None:
    """None when the token cannot be read: its form is Graph's own matter."""
    try:
        part = token.split(".")[1]
        claims: Any = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    except (IndexError, ValueError, RecursionError):
        return None
    if not isinstance(claims, dict):
        return None
    audience, roles = claims.get("aud"), claims.get("roles")
    return Permit(
        audience if isinstance(audience, str) else "",
        frozenset(role for role in roles if isinstance(role, str)) if isinstance(roles, list) else frozenset(),
    )
