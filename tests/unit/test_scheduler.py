"""Decisions of the scheduler: when it rests, waits, repeats and stops, and how it handles the outcome of a slice."""

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest

from connector.core import failing_ranges, windows
from connector.core.coverage import Window
from connector.core.failing_ranges import RangeFailure
from connector.core.jobs import Command
from connector.core.scheduler import LearnTime, ReadSlice, Scheduler, SliceFailure, StartRuns, Stop, Wait
from connector.core.windows import Rules, Sweep

NOW = datetime(2026, 3, 10, 12, tzinfo=UTC)
S, M, D = timedelta(seconds=1), timedelta(minutes=1), timedelta(days=1)
RULES = Rules((Sweep(M, 10 * M), Sweep(10 * M, D)), timedelta(), D, 150 * D)


def scheduler(history: timedelta = 5 * M, **options: Any) -> Scheduler:
    state = windows.first_state(RULES, NOW - history, NOW)
    return Scheduler(state, RULES, 4, lambda first, end: np.zeros(end - first, np.int64), **options)


def opened(plan: Scheduler, now: datetime = NOW) -> list[ReadSlice]:
    """Return the slices that are opened until the scheduler waits."""
    found = []
    while not isinstance(decision := plan.next(now), Wait | Stop):
        if isinstance(decision, ReadSlice):
            found.append(decision)
    return found


def failure(*, of_range: bool = False, permanent: bool = False, tenant_fails: bool = True) -> SliceFailure:
    return SliceFailure(RangeFailure("answers 500", NOW, None), of_range, permanent, tenant_fails)


def test_scheduler_starts_no_run_before_graph_confirms_the_clock() -> None:
    plan = scheduler(start=-D)
    assert isinstance(plan.next(NOW + D), LearnTime)
    plan.confirm_time()
    assert plan.next(NOW) == StartRuns(NOW - D, ())


def test_backfill_in_the_first_second_does_not_move_the_tenant_start() -> None:
    """No run can begin within the first second. A backfill that is read in this second must not replace the start."""
    plan = scheduler(-2 * D, start=0 * D)
    plan.confirm_time()
    plan.command(Command("j", "backfill", NOW, Window(NOW - 3 * D, NOW - 2 * D)), NOW)
    assert plan.next(NOW) == StartRuns(NOW, ())
    first, *_ = opened(plan)
    assert first.slice.job == "j"
    plan.finished(first.slice, 0, NOW)
    assert plan.next(NOW + M) == StartRuns(None, ())
    assert plan.plan.start == NOW


def test_scheduler_reads_call_time_that_is_due_and_then_waits() -> None:
    plan = scheduler()
    assert plan.next(NOW) == StartRuns(None, ())
    (read,) = opened(plan)
    assert read.slice.window == Window(NOW - 5 * M, NOW)
    assert read.unread == (read.slice.window,)
    assert plan.finished(read.slice, 3, NOW).ended == (0, 1)
    assert plan.next(NOW) == Wait(NOW + M)


def test_page_chain_counts_as_unstable_after_three_attempts() -> None:
    plan = scheduler()
    (read,) = opened(plan)
    assert [plan.repeats(read.slice, repeated=True) for _ in range(3)] == [True, True, False]
    assert not plan.finished(read.slice, 3, NOW).steady


def test_page_chain_without_repeated_ids_is_stable() -> None:
    plan = scheduler()
    (read,) = opened(plan)
    assert plan.repeats(read.slice, repeated=True)
    assert not plan.repeats(read.slice, repeated=False)
    assert plan.finished(read.slice, 3, NOW).steady


def test_tenant_waits_longer_after_each_permanent_error() -> None:
    plan, now, rests = scheduler(), NOW, []
    for _ in range(5):
        opened(plan, now)
        rest = plan.rest(now, permanent=True)
        assert rest is not None
        for piece in rest.cancelled:
            plan.closed(piece)
        rests.append(rest.seconds)
        assert plan.next(now) == Wait(now + rest.seconds * S)
        assert plan.rest(now, permanent=True) is None
        now += rest.seconds * S
    assert rests == [10, 20, 40, 60, 60]
    plan.end_rest()
    assert opened(plan, now)


def test_failed_tenant_drops_its_runs_and_open_slices() -> None:
    plan = scheduler(20 * D)
    first, *others = opened(plan)
    outcome = plan.failed(first.slice, failure(), NOW)
    assert outcome.rest is not None
    assert outcome.rest.dropped
    assert outcome.rest.seconds == 1
    assert set(outcome.rest.cancelled) == {read.slice for read in others}
    assert not any(sweep_state.running for sweep_state in plan.plan.sweeps)
    assert plan.has_failed


def test_one_failing_range_does_not_fail_the_tenant() -> None:
    plan = scheduler()
    (read,) = opened(plan)
    assert plan.failed(read.slice, failure(of_range=True, tenant_fails=False), NOW).rest is None
    assert failing_ranges.is_known(plan.plan.failing_ranges, read.slice.window)
    assert {again.attempts for again in opened(plan)} == {1}


def test_clock_set_back_does_not_prolong_the_wait_of_a_tenant() -> None:
    plan = scheduler()
    plan.rest(NOW + 2 * D, permanent=True)
    assert plan.next(NOW) == Wait(NOW + M)
    assert opened(plan, NOW + M)


def test_paused_tenant_waits_without_a_time_limit() -> None:
    plan = scheduler()
    (read,) = opened(plan)
    assert plan.command(Command("p", "pause", NOW), NOW) == (read.slice,)
    plan.closed(read.slice)
    assert plan.next(NOW + D) == Wait(None)


def test_cancelled_job_ends_only_its_own_slices() -> None:
    plan = scheduler()
    (live,) = opened(plan)
    plan.command(Command("j", "backfill", NOW, Window(NOW - 3 * D, NOW - 2 * D)), NOW)
    assert {read.slice.job for read in opened(plan)} == {"j"}
    ended = plan.command(Command("c", "cancel", NOW, job="j"), NOW)
    assert ended
    assert live.slice not in ended


@pytest.mark.parametrize("is_failing", [False, True])
def test_run_once_stops_when_all_sweeps_succeeded_or_failed(*, is_failing: bool) -> None:
    plan = scheduler(once=True)
    (read,) = opened(plan)
    assert isinstance(plan.next(NOW), Wait)
    if is_failing:
        plan.failed(read.slice, failure(), NOW)
    else:
        plan.finished(read.slice, 3, NOW)
    assert isinstance(plan.next(NOW), Stop)
    assert plan.has_failed is is_failing
