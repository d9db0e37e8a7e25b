"""`connector status` for people: the total, the legend and the reasons."""

import io
from datetime import UTC, datetime
from typing import Any

from connector import status_json
from connector.commands import status_report, text
from connector.status_json import ReportedTenant

NOW = datetime(2026, 3, 10, 12, tzinfo=UTC)


def tenant(name: str, **changes: Any) -> dict[str, Any]:
    known = {"lag_seconds": 60.0, "unread_seconds": 60.0, "gap_seconds": 0, "records": 5, "dead_letters": 2}
    return status_json.unknown(ReportedTenant(name, None, 0), "") | {"state": "ok", "reason": None} | known | changes


def shown(*tenants: dict[str, Any]) -> list[str]:
    content = {"app": "a", "topic": "t", "version": "1", "workers": 1, "tenants": [*tenants], "jobs": []}
    stream = io.StringIO()
    text.show(status_report.tables(content, NOW), stream)
    return stream.getvalue().splitlines()


def test_status_table_ends_with_a_total_of_all_tenants() -> None:
    lines = shown(tenant("one"), tenant("two", state="paused", lag_seconds=3_600.0, unread_seconds=7_200.0))

    assert lines[1].split() == [
        *("tenant", "state", "lag", "not", "read", "yet", "gaps", "dead", "letters", "records"),
        *("dedup", "rows", "not", "read", "since", "reason"),
    ]
    assert " ".join(lines[4].split()) == "2 tenants 1 ok, 1 paused 1 h 2 h 1 min - 4 10 0"
    assert len(shown(tenant("one"))) == 3


def test_status_shows_when_a_lagging_tenant_will_be_done() -> None:
    lines = shown(tenant("one", state="catching_up", unread_seconds=86_400.0, unread_done="2026-03-10T14:30:00.000Z"))

    assert "1 d, done in 2 h 30 min" in lines[2]


def test_status_shows_reason_code_and_start_of_a_failure() -> None:
    failing = tenant(
        "one", state="failing", reason="the secret is wrong", reason_code="sign_in", since="2026-03-10T11:00:00.000Z"
    )

    assert shown(failing)[2].endswith("2026-03-10 11:00:00  sign_in: the secret is wrong")


def test_status_explains_the_symbols_of_the_coverage_bars() -> None:
    coverage = [{"from": "2026-03-10T00:00:00.000Z", "to": "2026-03-10T12:00:00.000Z", "last_read": None}]
    (title,) = [line for line in shown(tenant("one", coverage=coverage)) if line.startswith("Call time")]

    assert title == "Call time that was read   # read  + partly read  . not read yet  blank: before the start"
