"""Outcome of `connector verify`: what is missing, and what only a slower sweep finds."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from connector.commands.verification import _Verification
from connector.commands.verification_report import Report
from connector.config import load
from connector.core import instants
from connector.core.coverage import Window

SWEEPS = """
[[windows.sweeps]]
every = "1m"
overlap = "15m"
[[windows.sweeps]]
every = "2h"
overlap = "26h"
"""
IDENTITY = """
[kafka]
bootstrap_servers = "127.0.0.1:1"
[[tenants]]
id = "11111111-1111-1111-1111-111111111111"
client_id = "a"
client_secret = "b"
"""


def verify(tmp_path: Path, *ages: timedelta, **rows: str) -> Report:
    """Return the report for rows that Graph shows and that are missing on the topic, by the age of their call."""
    file = tmp_path / "connector.toml"
    options = "".join(f'{name} = "{value}"\n' for name, value in rows.items())
    file.write_text(f"{SWEEPS}{IDENTITY}[rows]\n{options}")
    settings = load(file, {})
    now = datetime.now(UTC).replace(microsecond=0)
    window = Window(now - timedelta(days=10), now)
    with _Verification(settings, settings.tenants[0], window) as verification:
        verification._take([_row(number, now - age) for number, age in enumerate(ages)], window)
        comparison = verification._comparison
        return verification._report(comparison.result(), comparison.suspects(), [], {}, {})


def _row(number: int, start: datetime) -> msgspec.Raw:
    row: dict[str, Any] = {"id": f"row-{number}", "startDateTime": instants.text(start)}
    return msgspec.Raw(msgspec.json.encode(row))


@pytest.mark.parametrize(
    ("age", "outcome", "failed"),
    [
        (timedelta(minutes=5), "missing", True),
        (timedelta(hours=5), "pending", False),
        (timedelta(days=5), "missing", True),
    ],
    ids=["found by a sweep that was waited for", "found by a slower sweep", "found by no sweep"],
)
def test_missing_row_is_pending_if_a_slower_sweep_may_find_it(
    tmp_path: Path, age: timedelta, outcome: str, *, failed: bool
) -> None:
    report = verify(tmp_path, age)

    other = "pending" if outcome == "missing" else "missing"
    assert report.content[outcome] == {"count": 1, "ids": ["row-0"]}
    assert report.content[other] == {"count": 0, "ids": []}
    assert report.failed == failed


def test_verify_note_names_the_sweep_that_will_read_pending_rows(tmp_path: Path) -> None:
    report = verify(tmp_path, timedelta(hours=5), timedelta(hours=6))

    (note,) = report.content["notes"]
    assert note.startswith("2 rows are pending: slower sweeps will read them")
    assert "The slowest runs every 2h" in note
    assert "not on the topic yet; a later sweep will read them:\n  row-0\n  row-1" in report.describe("x")
    assert report.describe("x").endswith("\nidentical, except for the pending rows\n")
