"""Claims that are read from a token, whatever the token contains."""

import base64
import json
from typing import Any

import pytest

from connector.graph import token_claims


def token(claims: Any) -> str:
    part = base64.urlsafe_b64encode(json.dumps(claims).encode()).rstrip(b"=").decode()
    return f"header.{part}.signature"


def test_token_audience_and_roles_are_read_without_verification() -> None:
    found = token_claims.read(
        token({"aud": "https://graph.microsoft.com", "roles": ["CallRecords.Read.All", "Other", 5]})
    )

    assert found is not None
    assert found.audience == "https://graph.microsoft.com"
    assert found.roles == {token_claims.ROLE, "Other"}


def test_token_without_roles_has_an_empty_set_of_roles() -> None:
    found = token_claims.read(token({"aud": 5}))

    assert found is not None
    assert (found.audience, found.roles) == ("", frozenset())


@pytest.mark.parametrize("text", ["", "opaque", "a.b", "a.!!.c", "a..c", token([1]), token(None), "a.\u20ac.c"])
def test_unreadable_token_has_no_claims(text: str) -> None:
    assert token_claims.read(text) is None
