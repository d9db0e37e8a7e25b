"""Records of the control topic: a record that is not a command is ignored, whatever it contains."""

import json
from typing import Any

import pytest

from connector.kafka import control
from connector.kafka.membership import ControlRecord

VALID = {
    "id": "6f1c2a34-0b5d-4c7e-8f90-a1b2c3d4e5f6",
    "command": "backfill",
    "tenant": "AA",
    "filed": "2026-03-10T12:00:00Z",
    "from": "2026-03-01T00:00:00Z",
    "to": "2026-03-02T00:00:00Z",
}


def heard(value: bytes | None, key: bytes | None = b"aa") -> control.TenantCommand | None:
    return control.parse(ControlRecord(7, key, value))


def test_control_record_is_parsed_into_a_command() -> None:
    found = heard(json.dumps(VALID).encode())
    assert found is not None
    assert (found.tenant, found.order.command, found.order.again) == ("aa", "backfill", False)


def test_tenant_of_a_command_comes_from_the_record_value() -> None:
    found = heard(json.dumps(VALID).encode(), b"bb")
    assert found is not None
    assert found.tenant == "aa"


@pytest.mark.parametrize(
    "value",
    [
        None,
        b"",
        b"\xff\xfe\x00",
        b"{",
        b"null",
        b"[]",
        b"[" * 4_000,
        b'{"id":' * 600,
        b'{"id": ' + b"[" * 1_500 + b"]" * 1_500 + b"}",
        b'{"x": ' + b"[" * 2_000 + b"]" * 2_000 + b"}",
        b'{"id": "\xed\xa0\x80"}',
        b" " * 4_096 + json.dumps(VALID).encode(),
        json.dumps({**VALID, "more": "x" * 1_000_000}).encode(),
    ],
    ids=lambda value: repr(value)[:24],
)
def test_control_record_with_garbage_is_not_a_command(value: bytes | None) -> None:
    assert heard(value) is None


@pytest.mark.parametrize(
    "members",
    [
        {"id": 7},
        {"id": "../../etc"},
        {"id": ["6f1c2a34-0b5d-4c7e-8f90-a1b2c3d4e5f6"]},
        {"command": "delete"},
        {"command": ["pause"]},
        {"tenant": None},
        {"tenant": {"id": "AA"}},
        {"filed": 1e308},
        {"filed": "9" * 400},
        {"from": "2026-03-02T00:00:00Z"},
        {"from": "0000-00-00T00:00:00Z"},
        {"to": None},
        {"again": "yes"},
        {"command": "cancel"},
        {"command": "cancel", "job": "*"},
    ],
    ids=str,
)
def test_command_with_invalid_members_is_ignored(members: dict[str, Any]) -> None:
    assert heard(json.dumps({**VALID, **members}).encode()) is None
