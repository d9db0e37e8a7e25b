"""Ranges that Graph cannot serve are narrowed, isolated, reported and requested again; other rows arrive as usual."""

import itertools
import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connector.core import failing_ranges, windows
from connector.core.coverage import Window, subtract
from connector.core.failing_ranges import MOST_RANGES, FailingRanges, RangeFailure
from connector.graph.transport import Response
from tests.reading_in_simulated_time import Fault, Tenant, at, error, reading, too_large

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
S = timedelta(seconds=1)


def window(start_s: int, end_s: int) -> Window:
    return Window(NOW + start_s * S, NOW + end_s * S)


def failure(at_s: float, served_s: float | None = None, *, too_long: bool = False) -> RangeFailure:
    served_at = None if served_s is None else NOW + served_s * S
    return RangeFailure("Graph answers 500", NOW + at_s * S, served_at, too_long)


def narrow(ranges: FailingRanges, length_s: int) -> tuple[FailingRanges, float]:
    """Fail the oldest part of [0, length) until a range is isolated, while Graph serves others.

    Return ranges and time.
    """
    at_s = 0.0
    while not failing_ranges.isolated(ranges):
        at_s += 2
        part = failing_ranges.fit(ranges, window(0, length_s), newest_first=False)
        ranges = failing_ranges.failed(ranges, part, failure(at_s, at_s - 1))
    return ranges, at_s


class TestNarrowing:
    def test_first_failure_halves_the_failing_range(self) -> None:
        ranges = failing_ranges.failed((), window(0, 900), failure(1))
        assert failing_ranges.left_out(ranges, NOW + S) == []
        assert failing_ranges.fit(ranges, window(0, 900), newest_first=True) == window(450, 900)
        assert failing_ranges.fit(ranges, window(-900, 900), newest_first=False) == window(-900, 0)

    def test_failing_range_is_narrowed_to_one_second_and_isolated(self) -> None:
        ranges, _ = narrow((), 900)
        assert failing_ranges.isolated(ranges) == [window(0, 1)]

    @pytest.mark.parametrize("served_s", [None, 0.5])
    def test_failing_range_is_not_narrowed_while_graph_serves_nothing(self, served_s: float | None) -> None:
        """If Graph has served nothing since the last failure, the range may not be the cause."""
        ranges = failing_ranges.failed((), window(0, 900), failure(1, served_s))
        for at_s in range(2, 300):
            half = window(0, 450) if at_s % 2 else window(450, 900)
            ranges = failing_ranges.failed(ranges, half, failure(at_s, served_s))
        assert min(failing.longest_s for failing in ranges) == 450
        assert failing_ranges.isolated(ranges) == []
        assert failing_ranges.next_retry(ranges, NOW + 299 * S) <= NOW + 316 * S  # type: ignore[operator]

    def test_range_is_not_isolated_if_graph_refuses_every_length(self) -> None:
        """If Graph responds 406 (too long) to a range of one second as well, the length is not the cause."""
        ranges: FailingRanges = ()
        part = window(0, 900)
        while not failing_ranges.refuses_any_length(ranges, part, failure(1, too_long=True)):
            ranges = failing_ranges.failed(ranges, part, failure(1, too_long=True))
            part = failing_ranges.fit(ranges, window(0, 900), newest_first=True)
        assert part == window(899, 900)
        assert failing_ranges.failed(ranges, part, failure(1, too_long=True)) == ()

    def test_success_doubles_the_length_limit_of_the_adjacent_range(self) -> None:
        ranges = failing_ranges.failed((), window(0, 900), failure(1))
        ranges = failing_ranges.failed(ranges, window(450, 900), failure(2, 1.5))
        ranges = failing_ranges.succeeded(ranges, window(675, 900), NOW + 3 * S)
        (older, newer) = ranges
        assert (older.window, older.longest_s) == (window(0, 450), 450)
        assert (newer.window, newer.longest_s) == (window(450, 675), 450)

    def test_failing_range_is_dropped_after_a_later_nearby_success(self) -> None:
        ranges = failing_ranges.failed((), window(0, 900), failure(1))
        assert failing_ranges.succeeded(ranges, window(899, 900), NOW + 61 * S) == ()
        far = failing_ranges.succeeded(ranges, window(5000, 6000), NOW + 61 * S)
        assert far
        assert failing_ranges.succeeded(far, window(5000, 6000), NOW + 901 * S) == ()


class TestIsolation:
    def test_isolated_range_is_retried_after_1_to_30_minutes(self) -> None:
        ranges, at_s = narrow((), 4)
        (isolated,) = failing_ranges.isolated(ranges)
        waits = []
        for _ in range(9):
            retry = min(r.retry_at for r in ranges if r.isolated)
            waits.append((retry - NOW).total_seconds() - at_s)
            assert failing_ranges.due(ranges, retry - S) == []
            assert failing_ranges.due(ranges, retry) == [isolated]
            at_s = (retry - NOW).total_seconds()
            ranges = failing_ranges.failed(ranges, isolated, failure(at_s, at_s - 1))
        assert waits == [60, 120, 240, 480, 960, 1800, 1800, 1800, 1800]

    def test_outage_does_not_slow_the_retries_of_an_isolated_range(self) -> None:
        ranges, at_s = narrow((), 4)
        (isolated,) = failing_ranges.isolated(ranges)
        for _ in range(5):
            at_s += 60
            ranges = failing_ranges.failed(ranges, isolated, failure(at_s))
        assert failing_ranges.due(ranges, NOW + (at_s + 60) * S) == [isolated]

    def test_long_failing_range_is_isolated_in_less_than_100_steps(self) -> None:
        ranges: FailingRanges = ()
        steps = 0
        while sum(w.seconds for w in failing_ranges.isolated(ranges)) < 3600:
            steps += 1
            left = subtract([window(0, 3600)], failing_ranges.isolated(ranges))
            part = failing_ranges.fit(ranges, left[-1], newest_first=True)
            ranges = failing_ranges.failed(ranges, part, failure(2 * steps, 2 * steps - 1))
        assert steps < 100
        assert len(ranges) < 10

    def test_isolated_range_that_fails_again_is_split(self) -> None:
        one_range = failing_ranges.failed((), window(0, 1), failure(1))
        one_range = failing_ranges.failed(one_range, window(0, 1), failure(3, 2))
        two = failing_ranges.failed(one_range, window(1, 2), failure(4, 3))
        two = failing_ranges.failed(two, window(1, 2), failure(6, 5))
        assert failing_ranges.isolated(two) == [window(0, 2)]
        split = failing_ranges.failed(two, window(0, 2), failure(66, 65))
        assert failing_ranges.isolated(split) == [window(0, 1), window(1, 2)]
        assert failing_ranges.isolated(failing_ranges.succeeded(split, window(0, 1), NOW)) == [window(1, 2)]

    @given(st.lists(st.integers(0, 100_000), max_size=400, unique=True))
    def test_failing_ranges_are_disjoint_sorted_and_limited(self, seconds: list[int]) -> None:
        ranges: FailingRanges = ()
        for at_s, second in enumerate(seconds):
            for attempt in range(2):
                ranges = failing_ranges.failed(
                    ranges, window(second, second + 1), failure(at_s + attempt / 2, at_s + 0.1)
                )
        assert len(ranges) <= MOST_RANGES
        assert all(earlier.window.end <= later.window.start for earlier, later in itertools.pairwise(ranges))
        for second in seconds:
            inside = any(w.start <= NOW + second * S < w.end for w in failing_ranges.isolated(ranges))
            assert inside, "a merged range is not isolated any more"

    def test_failing_ranges_before_the_readable_time_are_dropped(self) -> None:
        ranges, _ = narrow((), 900)
        assert failing_ranges.isolated(failing_ranges.as_known(ranges, NOW + S, NOW + 99 * S)) == []

    def test_corrected_clock_does_not_delay_the_retry_of_a_range(self) -> None:
        ranges, _ = narrow((), 900)
        before = NOW - timedelta(days=2)
        known = failing_ranges.as_known(ranges, before, before)
        assert failing_ranges.due(known, before + timedelta(minutes=30)) == failing_ranges.isolated(ranges)


FAULTS = [
    *(pytest.param(lambda status=status: error(status), id=str(status)) for status in (500, 400, 403, 404, 406)),
    pytest.param(too_large, id="too_large"),
]
BAD_S = 580


def instant(time_s: int, answer: Callable[[], Response], from_s: float, until_s: float) -> Fault:
    """Return a fault that gives `answer` to every request whose range contains a given time."""

    def fault(asked: Window, now_s: float) -> Response | None:
        holds = asked.start <= at(time_s) < asked.end
        return answer() if holds and from_s <= now_s < until_s else None

    return fault


def always(answer: Callable[[], Response], from_s: float, until_s: float) -> Fault:
    return lambda _, now_s: answer() if from_s <= now_s < until_s else None


def reasons(tenant: Tenant, until_s: float) -> list[tuple[float, str | None]]:
    """Let time pass; return since when and why the tenant failed."""
    found: list[tuple[float, str | None]] = [(tenant.loop.time(), None)]

    def watch() -> None:
        failing = tenant.source.failing()
        reason = failing.reason if failing else None
        if reason != found[-1][1]:
            found.append((tenant.loop.time(), reason))

    tenant.run(until_s, watch)
    return found[1:]


class TestReading:
    @pytest.mark.parametrize("answer", FAULTS)
    def test_isolated_range_does_not_delay_the_rows_around_it(self, answer: Callable[[], Response]) -> None:
        """The instant lies in the live window. Sweeps and budget are the defaults."""
        with reading(instant(BAD_S, answer, 600, 1650)) as tenant:
            tenant.run(600)
            assert reasons(tenant, 690) == []
            assert failing_ranges.isolated(tenant.plan.failing_ranges) == [Window(at(BAD_S), at(BAD_S + 1))]
            assert reasons(tenant, 1640) == []
            assert tenant.worst_delay_s(600, 1560) < 65
            assert tenant.worst_delay_s(0, 600, without=(BAD_S,)) < 110
            assert windows.gaps(tenant.plan) == [Window(at(BAD_S), at(BAD_S + 1))]
            live = tenant.plan.sweeps[0]
            assert live.last_ok is not None
            assert live.last_ok >= at(1560)
            assert live.through <= at(BAD_S) < live.resumes_at, "call time that was not read counts as complete"
            tenant.run(3400)
            assert BAD_S in tenant.handed.found_at
            assert tenant.plan.failing_ranges == ()
            assert windows.gaps(tenant.plan) == []
            assert tenant.plan.sweeps[0].position is None

    @pytest.mark.parametrize("status", [400, 403, 500])
    def test_first_start_reads_all_rows_outside_an_isolated_range(self, status: int) -> None:
        with reading(instant(-1, lambda: error(status), 0, 1e9)) as tenant:
            tenant.run(120)
            assert tenant.worst_delay_s(0, 60) < 65
            assert len(tenant.handed.found_at) > 360, "two hours of history were not read"
            assert windows.gaps(tenant.plan) == [Window(at(-1), at(0))]
            assert tenant.source.failing() is None

    def test_failing_ranges_end_when_graph_stops_sending_406(self) -> None:
        with reading(always(lambda: error(406), 600, 635)) as tenant:
            tenant.run(900)
            assert tenant.worst_delay_s(640, 820) < 65
            assert tenant.worst_delay_s(400, 640) < 110
            tenant.run(3600)
            assert tenant.plan.failing_ranges == ()

    @pytest.mark.parametrize(("status", "reason", "after_s"), [(403, "permission", 10), (500, "unreachable", 120)])
    def test_tenant_fails_if_graph_serves_no_range(self, status: int, reason: str, after_s: float) -> None:
        with reading(always(lambda: error(status), 600, 1200)) as tenant:
            tenant.run(600)
            ((since_s, failed),) = reasons(tenant, 1200)
            assert failed == reason
            assert since_s == pytest.approx(600 + after_s, abs=5)
            assert failing_ranges.isolated(tenant.plan.failing_ranges) == []
            tenant.run(1500)
            assert tenant.source.failing() is None
            assert tenant.worst_delay_s(1260, 1400) < 65

    def test_occasional_403_and_404_do_not_fail_the_tenant(self) -> None:
        """The test uses a share of these errors that was observed with real gateways."""
        chance = random.Random(1)
        with reading(
            lambda _, now_s: error(chance.choice([403, 404])) if now_s > 60 and chance.random() < 0.2 else None
        ) as tenant:
            assert reasons(tenant, 7200) == []
            assert tenant.worst_delay_s(100, 7000) < 100
            assert failing_ranges.isolated(tenant.plan.failing_ranges) == []

    def test_hour_that_graph_cannot_serve_does_not_delay_other_rows(self) -> None:
        with reading(
            lambda asked, _: error(500) if asked.start < at(-3600) and asked.end > at(-7200) else None,
            history=timedelta(days=2),
        ) as tenant:
            tenant.run(1500)
            assert tenant.worst_delay_s(0, 1400) < 150
            unread = sum(gap.seconds for gap in windows.gaps(tenant.plan))
            assert unread < 2 * 3600, "more than the unservable hour is unread"
