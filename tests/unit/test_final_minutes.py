"""The Python example closes minutes by progress records, in whatever order topics and partitions are read."""

import importlib.util
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

PATH = Path(__file__).parents[2] / "examples" / "final_minutes.py"
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
OVERLAP_S = 3600
PARTITIONS = 3


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("final_minutes", PATH)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


reader = load()


def row(number: int, minute: float, revision: int = 0, *, tenant: str = "a", failed: bool = False) -> dict[str, Any]:
    return {
        "tenantId": tenant,
        "id": f"call-{number}",
        "revision": revision,
        "startDateTime": NOON + timedelta(minutes=minute),
        "trunkFullyQualifiedDomainName": f"sbc{number % 2}.example.com",
        "successfulCall": not failed,
    }


def statement(minute: int, offsets: list[int], *, tenant: str = "a", overlap_s: int = OVERLAP_S) -> dict[str, Any]:
    return {
        "tenantId": tenant,
        "overlapSeconds": overlap_s,
        "completeThroughDateTime": NOON + timedelta(minutes=minute),
        "offsets": offsets,
    }


def sums(found: list[Any]) -> dict[tuple[datetime, str], tuple[int, int]]:
    keys = [(minute.minute, minute.trunk) for minute in found]
    assert len(keys) == len(set(keys)), "a minute is emitted twice"
    return {(minute.minute, minute.trunk): (minute.calls, minute.failures) for minute in found}


@given(data=st.data())
def test_emitted_minutes_do_not_depend_on_record_order(data: st.DataObject) -> None:
    minutes = data.draw(st.lists(st.tuples(st.integers(0, 5), st.integers(0, PARTITIONS - 1)), max_size=30))
    partitions: list[list[dict[str, Any]]] = [[] for _ in range(PARTITIONS)]
    statements = []
    for through in range(1, 7):
        for number, (minute, partition) in enumerate(minutes):
            if minute == through - 1:
                partitions[partition].append(row(number, minute + 0.5, failed=number % 3 == 0))
        statements.append(statement(through, [len(rows) for rows in partitions]))
    queues = {number: list(enumerate(rows)) for number, rows in enumerate(partitions)} | {
        -1: list(enumerate(statements))
    }
    final_minutes, found = reader.FinalMinutes(OVERLAP_S), []
    while any(queues.values()):
        number = data.draw(st.sampled_from([number for number, queue in queues.items() if queue]))
        offset, record = queues[number].pop(0)
        found += final_minutes.statement(record) if number < 0 else final_minutes.row(number, offset, record)
    expected: dict[tuple[datetime, str], tuple[int, int]] = {}
    for number, (minute, _) in enumerate(minutes):
        key = NOON + timedelta(minutes=minute), f"sbc{number % 2}.example.com"
        calls, failures = expected.get(key, (0, 0))
        expected[key] = calls + 1, failures + (number % 3 == 0)
    assert sums(found) == expected
    assert final_minutes.late == 0


def test_minute_is_emitted_after_all_its_rows_were_read() -> None:
    final_minutes = reader.FinalMinutes(OVERLAP_S)
    assert final_minutes.statement(statement(1, [1, 1, 0])) == []
    assert final_minutes.row(0, 0, row(0, 0.5)) == []
    assert [minute.calls for minute in final_minutes.row(1, 0, row(2, 0.5))] == [2]


def test_minute_is_emitted_although_aborted_rows_leave_offset_gaps() -> None:
    final_minutes = reader.FinalMinutes(OVERLAP_S)
    final_minutes.row(0, 0, row(0, 0.5))
    assert final_minutes.statement(statement(1, [5, 0, 0])) == []
    assert [minute.calls for minute in final_minutes.reached(0, 5)] == [1]


def test_revision_with_a_changed_start_counts_in_its_new_minute() -> None:
    final_minutes = reader.FinalMinutes(OVERLAP_S)
    final_minutes.row(0, 0, row(0, 0.5, failed=True))
    final_minutes.row(0, 1, row(0, 1.5, 1))
    (minute,) = final_minutes.statement(statement(2, [2, 0, 0]))
    assert (minute.minute, minute.calls, minute.failures) == (NOON + timedelta(minutes=1), 1, 0)


def test_row_is_late_if_its_minute_is_already_final() -> None:
    final_minutes = reader.FinalMinutes(OVERLAP_S)
    final_minutes.statement(statement(5, [0, 0, 0]))
    final_minutes.row(0, 0, row(0, 0.5))
    assert final_minutes.late == 1
    assert final_minutes.statement(statement(6, [1, 0, 0])) == []


def test_progress_of_another_sweep_or_tenant_emits_no_minute() -> None:
    final_minutes = reader.FinalMinutes(OVERLAP_S)
    final_minutes.row(0, 0, row(0, 0.5))
    assert final_minutes.statement(statement(5, [0, 0, 0], overlap_s=900)) == []
    assert final_minutes.statement(statement(5, [0, 0, 0], tenant="b")) == []


def test_unknown_overlap_error_names_the_existing_overlaps() -> None:
    minutes = reader.FinalMinutes(7200)
    assert minutes.missing_sweep() is None, "nothing is known before the first statement"
    minutes.statement(statement(1, [0] * PARTITIONS, overlap_s=900))
    minutes.statement(statement(1, [0] * PARTITIONS, overlap_s=10_800))
    assert (
        minutes.missing_sweep() == "--overlap 2h: no sweep has stated progress for this overlap; choose one of 15m, 3h"
    )
    with pytest.raises(SystemExit, match="choose one of 15m, 3h"):
        minutes.check_overlap()
    minutes.statement(statement(1, [0] * PARTITIONS, overlap_s=7200))
    assert minutes.missing_sweep() is None
