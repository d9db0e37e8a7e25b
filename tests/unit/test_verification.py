"""Outcome of `connector verify`: what is missing, and what only a slower sweep finds."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from connector.commands.comparison import Key, id_keys
from connector.commands.verification import _Verification
from connector.commands.verification_report import Report
from connector.config import load
from connector.core import instants
from connector.core.coverage import Window
from connector.core.rows import RowSchema
from connector.kafka import avro

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


def test_row_that_a_second_reading_returns_is_not_withdrawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first reading returns none of three rows. One of them began before the horizon, so it is not read again."""
    file = tmp_path / "connector.toml"
    file.write_text(f"{SWEEPS}{IDENTITY}")
    settings = load(file, {})
    now = datetime.now(UTC).replace(microsecond=0)
    window = Window(now - timedelta(days=200), now)
    starts = [now - timedelta(days=190), now - timedelta(days=3), now - timedelta(days=2)]
    asked: list[Window] = []
    with _Verification(settings, settings.tenants[0], window) as verification:
        raws = [_row(number, start) for number, start in enumerate(starts)]
        records = [verification._shape.resolve(row, raw)[0] for row, raw in zip(_rows(raws), raws, strict=True)]
        records = [record | {"revision": 0} for record in records]
        keys = id_keys(record["id"] for record in records)
        digests = [verification._fields.digest(record) for record in records]
        verification._comparison.add_records(keys, [0, 0, 0], digests, [True, True, True])

        async def read(_show: Any, ranges: list[Window], only: set[Key]) -> None:
            asked.extend(ranges)
            verification._take(verification._only([raws[0], raws[2]], only), window)

        monkeypatch.setattr(verification._rows, "again", lambda: [records])
        monkeypatch.setattr(verification, "_tenant_rows", lambda entries: entries)
        monkeypatch.setattr(verification, "_read_graph", read)
        verification._read_again(lambda *_: None)
        comparison = verification._comparison
        ids = dict(zip(keys, [record["id"] for record in records], strict=True))
        report = verification._report(comparison.result(), comparison.suspects(), [], ids, {})
    hour = timedelta(hours=1)
    assert asked == [Window(starts[1] - hour, starts[2] + hour)]
    assert report.content["withdrawn"] == {"count": 1, "ids": ["row-1"]}
    assert sorted(report.content["unexpected"]["ids"]) == ["row-0", "row-1"]
    assert report.content["identical"] == 1
    assert not report.failed
    assert "\nwithdrawn by Graph" in report.describe("x")


def _rows(raws: list[msgspec.Raw]) -> Any:
    return RowSchema(avro.load(avro.ROW), "v1.0").read(raws).rows
