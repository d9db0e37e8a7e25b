"""Redaction of a support-case file: a value stays readable only if its form rules out personal data."""

import json
from typing import Any

import pytest
from yarl import URL

from connector.commands.case_redaction import REMOVED, Redaction, visible_error_code, visible_headers
from connector.kafka import avro

CALL = "communications/callRecords/getDirectRoutingCalls(fromDateTime={0},toDateTime={0})"
NOON = "2026-03-01T12:00:00Z"
GUID = "0a0b0c0d-1111-4222-8333-444455556666"


@pytest.fixture
def redaction() -> Redaction:
    return Redaction(avro.load(avro.ROW))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("id", GUID),
        ("correlationId", GUID),
        ("startDateTime", "2026-03-01T12:00:00.1234567Z"),
        ("endDateTime", "0001-01-01T00:00:00Z"),
        ("duration", 73),
        ("callEndSubReason", 560486),
        ("successfulCall", True),
        ("callType", "ByotOutUserForwarding"),
        ("signalingLocation", "EUNO"),
        ("callerNumber", ""),
        ("userId", None),
    ],
)
def test_value_that_microsoft_needs_stays_readable(redaction: Redaction, name: str, value: object) -> None:
    assert redaction.row(json.dumps({name: value}).encode()) == {name: value}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("userId", GUID),
        ("callerNumber", "anonymous"),
        ("callerNumber", 4930),
        ("id", "sip:alice@contoso.example"),
        ("startDateTime", "2026-03-01T12:00:00.4930123456789Z"),
        ("startDateTime", 493012345),
        ("duration", 49301234567),
        ("duration", "73"),
        ("duration", 4930.5),
        ("callType", "Alice"),
        ("signalingLocation", "ALICE"),
        ("finalSipCodePhrase", "BYE"),
        ("trunkFullyQualifiedDomainName", "10.0.0.1"),
        ("administrativeUnitInfos", [{"id": GUID}]),
        ("startDateTime", "\uff12026-03-01T12:00:00Z"),
    ],
)
def test_value_that_may_be_personal_becomes_a_pseudonym(redaction: Redaction, name: str, value: object) -> None:
    raw = json.dumps({name: value}).encode()
    row = redaction.row(raw)
    assert isinstance(row, dict)
    assert is_pseudonym(row[name])
    assert row == redaction.row(raw)
    assert row != Redaction(avro.load(avro.ROW)).row(raw)


@pytest.mark.parametrize(
    "raw", [b'"alice"', b"[1]", b"17", b'{"id":"\\ud800"}', b'{"a":' + b"[" * 9000 + b"]" * 9000 + b"}"]
)
def test_row_that_cannot_be_read_holds_pseudonyms_only(redaction: Redaction, raw: bytes) -> None:
    row = redaction.row(raw)
    assert all(map(is_pseudonym, row.values() if isinstance(row, dict) else [row]))


def test_integer_field_with_personal_data_becomes_a_pseudonym() -> None:
    field: dict[str, Any] = {"name": "extension", "since": "v1.0", "type": ["null", "int"]}
    assert Redaction({"fields": [field]}).row(b'{"extension":4711}') == {"extension": 4711}
    row = Redaction({"fields": [field | {"pii": True}]}).row(b'{"extension":4711}')
    assert isinstance(row, dict)
    assert is_pseudonym(row["extension"])


def test_path_of_a_call_log_request_is_shown_without_the_gateway(redaction: Redaction) -> None:
    call = CALL.format(NOON)
    url = URL(f"https://gateway.example/secret-part/v1.0/{call.replace(':', '%3A')}?$skip=1000", encoded=True)
    assert (redaction.path(url), redaction.query(url)) == (f"/v1.0/{call}", "$skip=1000")


@pytest.mark.parametrize(
    "path", ["v1.0/users/alice", f"v1.0/{CALL.format('+4930123456')}", f"v1.0/{CALL.format(NOON)}/alice"]
)
def test_path_of_any_other_request_becomes_a_pseudonym(redaction: Redaction, path: str) -> None:
    assert is_pseudonym(redaction.path(URL(f"https://graph.example/{path}", encoded=True)))


def test_skip_token_and_unknown_parameters_become_pseudonyms(redaction: Redaction) -> None:
    url = URL("https://graph.example/?$skiptoken=c2VjcmV0&alice=%2B4930&$skip=4930123456&$top=5", encoded=True)
    token, unknown, skip, top = redaction.query(url).split("&")
    assert token.startswith("$skiptoken=")
    assert all(is_pseudonym(text.partition("=")[2]) for text in (token, unknown, skip))
    assert is_pseudonym(unknown.partition("=")[0])
    assert top == "$top=5"


def test_headers_that_support_asks_for_stay_readable() -> None:
    info = '{"ServerInfo":{"DataCenter":"West Europe","Slice":"E","Ring":"5","RoleInstance":"10.0.0.1"}}'
    headers = {
        "request-id": GUID,
        "client-request-id": "alice",
        "date": "Sun, 01 Mar 2026 12:00:00 GMT",
        "retry-after": "30",
        "content-type": "application/json; charset=utf-8",
        "x-ms-ags-diagnostic": info,
        "set-cookie": "a=b",
        "via": "10.0.0.1",
    }
    assert visible_headers(headers) == {
        "request-id": GUID,
        "client-request-id": REMOVED,
        "date": "Sun, 01 Mar 2026 12:00:00 GMT",
        "retry-after": "30",
        "content-type": "application/json",
        "x-ms-ags-diagnostic": {"ServerInfo": {"DataCenter": "West Europe", "Slice": "E", "Ring": "5"}},
    }


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"ServerInfo":7}', "ä" * 10])
def test_unreadable_server_information_is_removed(text: str) -> None:
    assert visible_headers({"x-ms-ags-diagnostic": text}) == {"x-ms-ags-diagnostic": REMOVED}


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b'{"error":{"code":"TooManyRequests"}}', "TooManyRequests"),
        (b'{"error":{"code":"10.0.0.1"}}', None),
        (b"<html>", None),
        (b'{"error":{}}', None),
    ],
)
def test_shown_error_code_is_a_single_word_or_none(body: bytes, code: str | None) -> None:
    assert visible_error_code(body) == code


def is_pseudonym(value: object) -> bool:
    kid, _, digest = str(value).partition(":")
    return len(kid) == 8 and len(digest) == 64 and not set(kid + digest) - set("0123456789abcdef")
