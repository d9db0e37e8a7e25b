"""The examples close minutes by progress records, in whatever order topics and partitions are read.

The figures of a minute follow the definitions in docs/downstream.md.
"""

import csv
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.modules import load_module

EXAMPLES = Path(__file__).parents[2] / "examples"
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
OVERLAP_S = 3600
PARTITIONS = 3


kpis = load_module(EXAMPLES / "kpis.py")
reader = load_module(EXAMPLES / "final_minutes.py")
OUTCOMES = kpis.read_outcomes()


def row(number: int, minute: float, revision: int = 0, *, tenant: str = "a", failed: bool = False) -> dict[str, Any]:
    return {
        "tenantId": tenant,
        "id": f"call-{number}",
        "revision": revision,
        "startDateTime": NOON + timedelta(minutes=minute),
        "trunkFullyQualifiedDomainName": f"sbc{number % 2}.example.com",
        "successfulCall": not failed,
        "endDateTime": None,
        "duration": None if failed else 60,
        "finalSipCode": 503 if failed else 0,
        "callEndSubReason": None,
    }


def statement(minute: int, offsets: list[int], *, tenant: str = "a", overlap_s: int = OVERLAP_S) -> dict[str, Any]:
    return {
        "tenantId": tenant,
        "overlapSeconds": overlap_s,
        "completeThroughDateTime": NOON + timedelta(minutes=minute),
        "offsets": offsets,
    }


def sums(found: list[Any]) -> dict[tuple[datetime, str], tuple[int, int]]:
    keys = [(datetime.fromisoformat(minute.minute), minute.trunk) for minute in found]
    assert len(keys) == len(set(keys)), "a minute is emitted twice"
    return {key: (one.attempts, one.attempts - one.answered) for key, one in zip(keys, found, strict=True)}


def call(
    start_s: float, end_s: float | None = None, code: int | None = 0, sub_reason: int | None = None, **more: Any
) -> Any:
    """Return a call, answered if it has an end. Seconds are counted from NOON."""
    noon_ms = kpis.milliseconds(NOON)
    end_ms = None if end_s is None else noon_ms + int(1000 * end_s)
    length = None if end_s is None else int(end_s - start_s)
    fields = {"revision": 0, "trunk": "sbc", "duration_s": length, "answered": end_s is not None, "sip_code": code}
    fields |= {"start_ms": noon_ms + int(1000 * start_s), "end_ms": end_ms, "sub_reason": sub_reason}
    return kpis.Call(**fields | more)


def minutes(*calls: Any, through_s: int = 86_400) -> list[Any]:
    """Return the minutes that begin at NOON or later and before `through_s`, if these are all calls."""
    noon_ms = kpis.milliseconds(NOON)
    found: list[Any] = kpis.minutes("a", calls, noon_ms, noon_ms + 1000 * through_s, OUTCOMES)
    return found


def concurrent(*calls: Any, through_s: int = 86_400) -> list[int]:
    return [minute.concurrent_calls for minute in minutes(*calls, through_s=through_s)]


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
    assert [minute.attempts for minute in final_minutes.row(1, 0, row(2, 0.5))] == [2]


def test_minute_is_emitted_although_aborted_rows_leave_offset_gaps() -> None:
    final_minutes = reader.FinalMinutes(OVERLAP_S)
    final_minutes.row(0, 0, row(0, 0.5))
    assert final_minutes.statement(statement(1, [5, 0, 0])) == []
    assert [minute.attempts for minute in final_minutes.reached(0, 5)] == [1]


def test_revision_with_a_changed_start_counts_in_its_new_minute() -> None:
    final_minutes = reader.FinalMinutes(OVERLAP_S)
    final_minutes.row(0, 0, row(0, 0.5, failed=True))
    final_minutes.row(0, 1, row(0, 1.5, 1))
    (minute,) = final_minutes.statement(statement(2, [2, 0, 0]))
    assert sums([minute]) == {(NOON + timedelta(minutes=1), minute.trunk): (1, 0)}


def test_row_is_late_if_its_minute_is_already_final() -> None:
    final_minutes = reader.FinalMinutes(OVERLAP_S)
    final_minutes.statement(statement(5, [0, 0, 0]))
    final_minutes.row(0, 0, row(0, 0.5))
    assert final_minutes.statement(statement(6, [1, 0, 0])) == []
    assert final_minutes.late == 1


def test_row_published_after_a_statement_does_not_change_its_minutes() -> None:
    """The row is late even if it is read before the statement, so that a restart gives the same numbers."""
    final_minutes = reader.FinalMinutes(OVERLAP_S)
    final_minutes.row(0, 0, row(0, 0.5))
    final_minutes.row(0, 1, row(1, 0.5))
    final_minutes.row(0, 2, row(0, 0.5, 1, failed=True))
    (minute,) = final_minutes.statement(statement(1, [1, 0, 0]))
    assert (minute.attempts, minute.answered) == (1, 1)
    assert final_minutes.statement(statement(2, [3, 0, 0])) == []
    assert final_minutes.late == 2


def test_call_counts_as_connected_in_each_minute_until_its_end() -> None:
    found = minutes(call(30, 150))
    assert [(m.minute[11:16], m.attempts, m.concurrent_calls) for m in found] == [
        ("12:00", 1, 1),
        ("12:01", 0, 1),
        ("12:02", 0, 1),
    ]
    assert [m.asr for m in found] == [100.0, None, None]


def test_late_row_counts_as_connected_in_minutes_that_are_not_final() -> None:
    tenant = kpis.TenantMinutes("a")
    noon_ms = kpis.milliseconds(NOON)
    assert tenant.close(noon_ms + 60_000, [0], OUTCOMES) == []
    tenant.add(0, 0, "late", call(30, 90))
    (minute,) = tenant.close(noon_ms + 600_000, [1], OUTCOMES)
    assert (minute.minute[11:16], minute.attempts, minute.concurrent_calls) == ("12:01", 0, 1)


def test_concurrent_calls_share_an_instant_not_only_a_minute() -> None:
    assert concurrent(call(0, 10), call(20, 30), call(25, 40)) == [2]
    assert concurrent(call(0, 10), call(10, 20)) == [1], "a call that ends does not meet one that begins then"
    assert concurrent(call(5, 5)) == [0]
    assert concurrent(call(0, 60)) == [1], "the end does not belong to the call"
    assert concurrent(call(-90, 61)) == [1, 1], "a call that began earlier counts too"
    assert concurrent(call(0, 200), through_s=120) == [1, 1]
    assert concurrent(call(10, 20), call(15, 30, trunk="other")) == [1, 1]
    assert concurrent(call(10, 20), call(12, None, 486)) == [1], "a failed call is not connected"


EFFECTIVE = [(486, 560486), (600, None), (480, 560480), (480, 999), (487, 540200), (603, 560603), (408, 560408)]
INEFFECTIVE = [(480, 10037), (408, 500001), (403, 560403), (404, 511404), (504, 569008), (799, 1), (None, None)]


@pytest.mark.parametrize(("code", "sub_reason"), EFFECTIVE)
def test_call_that_reached_the_called_party_is_effective(code: int, sub_reason: int | None) -> None:
    (minute,) = minutes(call(0, 5), call(1, None, code, sub_reason))
    assert (minute.answered, minute.effective, minute.ner) == (1, 2, 100.0)


@pytest.mark.parametrize(("code", "sub_reason"), INEFFECTIVE)
def test_call_that_failed_on_the_way_is_not_effective(code: int | None, sub_reason: int | None) -> None:
    (minute,) = minutes(call(0, 5), call(1, None, code, sub_reason))
    assert (minute.answered, minute.effective, minute.ner) == (1, 1, 50.0)


def test_minute_has_ratios_durations_and_failures_by_code() -> None:
    minute, *_ = minutes(
        call(0, 9), call(1, 301), call(2, None, 486, 560486), call(3, None, 486, 560486), call(4, None, 503, None)
    )
    assert minute._asdict() == {
        "tenant_id": "a",
        "trunk": "sbc",
        "minute": "2026-03-01T12:00:00Z",
        "attempts": 5,
        "answered": 2,
        "effective": 4,
        "duration_seconds": 309,
        "asr": 40.0,
        "ner": 80.0,
        "acd_seconds": 154.5,
        "short_calls": 1,
        "concurrent_calls": 2,
        "failures": [
            {"final_sip_code": 486, "call_end_sub_reason": 560486, "calls": 2},
            {"final_sip_code": 503, "call_end_sub_reason": None, "calls": 1},
        ],
    }


def test_sip_codes_are_listed_once_with_a_known_outcome() -> None:
    with (EXAMPLES / "sip_codes.csv").open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(OUTCOMES) == len(lines) > 80
    assert {line["outcome"] for line in lines} == {"answered", "failed"} | kpis.EFFECTIVE
    assert all(line["meaning"].endswith(".") for line in lines)
    assert {code for code, sub_reason in OUTCOMES if sub_reason is not None} <= {
        code for code, sub_reason in OUTCOMES if sub_reason is None
    }, "each SIP code has a line for the sub-codes that are not listed"


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
