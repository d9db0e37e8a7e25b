"""Warnings about rows: how often they are logged."""

from datetime import timedelta
from typing import Any

import pytest
from structlog.testing import capture_logs

from connector.config import Identity, Tenant
from connector.pipeline.change import Change
from connector.pipeline.row_warnings import RowWarnings

TENANTS = [
    Tenant(key.upper(), key, key, key, Identity(None, None), -timedelta(days=1), 45, "calls") for key in ("aa", "bb")
]


def test_dead_letters_are_logged_at_most_once_per_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1_000.0
    monkeypatch.setattr("connector.pipeline.row_warnings.time.monotonic", lambda: now)
    warnings = RowWarnings()

    def commit(count: int, tenant: Tenant = TENANTS[0]) -> None:
        state: Any = None
        letters: list[Any] = [None] * count
        warnings.committed(tenant, Change(state, dead_letters=letters))

    with capture_logs() as logged:
        for count in (3, 0, 4, 1):
            commit(count)
        commit(5, TENANTS[1])
        now += 60
        commit(2)

    lines = [(line["tenant"], line["rows"], line["topic"]) for line in logged]
    assert lines == [("aa", 3, "calls.dlq"), ("bb", 5, "calls.dlq"), ("aa", 7, "calls.dlq")]
