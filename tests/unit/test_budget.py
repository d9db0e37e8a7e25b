"""The request budget of a tenant, in simulated time."""

import math
import random
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connector.core.budget import (
    BACKFILL,
    LONGEST_PAUSE_S,
    LONGEST_RETRY_AFTER_S,
    Backoff,
    Budget,
    Elapsed,
    Slot,
    lane_name,
    retry_after_s,
)

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
rates = st.one_of(st.integers(1, 400), st.floats(1, 400))


@pytest.mark.parametrize("again", [60, 30, 120])
def test_restored_budget_keeps_earlier_pauses_and_requests(again: float) -> None:
    """After a change of the rate, no minute has more requests than the lower rate allows, and pauses still apply."""
    budget = Budget(60, 0.0)
    before = drain(budget, 0.0, 30.0)
    budget.failed(Slot(30.0), 30.0, "throttled", 20.0, 0.5)
    budget.resume(again, 31.0)
    after = drain(budget, 31.0, 200.0)
    assert after[0] >= 50.0
    assert most_in_a_minute(after) <= again
    if again >= 60:
        assert most_in_a_minute(before + after) <= again


def most_in_a_minute(times: list[float]) -> int:
    first = most = 0
    for last, time in enumerate(times):
        while times[first] <= time - 60.0:
            first += 1
        most = max(most, last - first + 1)
    return most


def drain(budget: Budget, start: float, end: float, late_s: float = 0.0, seed: int = 0) -> list[float]:
    """Return when requests are sent if one is always waiting and timers are late by up to `late_s`."""
    chance = random.Random(seed)
    now = start
    times: list[float] = []
    while True:
        delay_s = budget.delay_s(now)
        if delay_s > 0:
            now += delay_s + chance.random() * late_s
            if now >= end:
                return times
            continue
        slot = budget.take(now)
        budget.sent(slot, now)
        times.append(now)


@given(rate=rates, late_s=st.floats(0, 3), seed=st.integers(0, 99))
def test_no_minute_has_more_requests_than_the_budget(rate: float, late_s: float, seed: int) -> None:
    times = drain(Budget(rate, 1000.0), 1000.0, 1130.0, late_s, seed)
    assert most_in_a_minute(times) <= rate


@settings(max_examples=30)
@given(rate=st.integers(5, 200), seed=st.integers(0, 99), connecting=st.lists(st.floats(0, 20), min_size=5, max_size=9))
def test_requests_that_wait_for_a_connection_stay_in_the_budget(rate: int, seed: int, connecting: list[float]) -> None:
    """Requests may leave the queue at different times but be sent together. The budget counts the time of sending."""
    chance = random.Random(seed)
    budget, now = Budget(rate, 0.0), 0.0
    leaving: list[tuple[float, Slot]] = []
    left: list[float] = []
    while now < 200.0:
        for due in sorted((pair for pair in leaving if pair[0] <= now), key=lambda pair: pair[0]):
            budget.sent(due[1], due[0])
            left.append(due[0])
            leaving.remove(due)
        if len(leaving) < 4 and budget.delay_s(now) <= 0:
            wait_s = connecting[chance.randrange(len(connecting))] if chance.random() < 0.3 else 0.0
            slot = budget.take(now)
            if wait_s:
                leaving.append((now + wait_s, slot))
            else:
                budget.sent(slot, now)
                left.append(now)
        now += 0.05
    assert most_in_a_minute(sorted(left)) <= rate


@given(rate=st.integers(1, 300), seed=st.integers(0, 99))
def test_constant_load_can_use_95_percent_of_the_budget(rate: int, seed: int) -> None:
    minutes = 10
    times = drain(Budget(rate, 0.0), 0.0, 60.0 * minutes, late_s=0.005, seed=seed)
    assert len(times) + 1 >= 0.95 * rate * minutes


@given(rate=st.integers(1, 100), late_s=st.floats(0, 0.05))
def test_requests_are_spaced_evenly_also_after_a_pause(rate: int, late_s: float) -> None:
    budget = Budget(rate, 0.0)
    times = drain(budget, 0.0, 200.0, late_s) + drain(budget, 777.0, 977.0, late_s)
    assert all(later - earlier >= 60.0 / rate * 0.9 for earlier, later in pairwise(times))


@given(rate=rates, cuts=st.lists(st.floats(1, 100), max_size=6))
def test_requests_across_restarts_stay_in_the_budget(rate: float, cuts: list[float]) -> None:
    times: list[float] = []
    begin = 0.0
    for length in [*cuts, 100.0]:
        times += drain(Budget(rate, begin), begin, begin + length)
        begin += length
    assert most_in_a_minute(times) <= rate


def test_first_request_of_a_new_budget_waits_one_interval() -> None:
    assert 60 / 45 <= Budget(45, 5.0).delay_s(5.0) <= 60 / 45 * 1.05


def test_requests_slower_than_the_budget_never_wait() -> None:
    budget, now, slept = Budget(1_000_000, 0.0), 1.0, 0
    for _ in range(5000):
        now += 0.0005
        slept += budget.delay_s(now) > 0
        budget.sent(budget.take(now), now)
    assert slept == 0


@pytest.mark.parametrize("rate", [0, 0.99, -1, math.nan, math.inf])
def test_budget_refuses_an_invalid_rate(rate: float) -> None:
    with pytest.raises(ValueError, match="requests_per_minute"):
        Budget(rate, 0.0)


def taken(budget: Budget, now: float) -> tuple[float, float]:
    """Return when the next request may be sent, and the delay until then."""
    delay_s = budget.delay_s(now)
    return now + delay_s, delay_s


def test_retry_after_delays_all_requests() -> None:
    budget = Budget(60, 0.0)
    slot = budget.take(2.0)
    budget.sent(slot, 2.0)
    budget.failed(slot, 2.5, "throttled", 100.0, 0.5)
    assert budget.delay_s(2.5) == 100.0
    assert budget.asked_s(2.5) == 0.0
    assert budget.asked_s(52.5) == 50.0
    assert budget.asked_s(200.0) == 100.0
    assert budget.throttled_s(200.0) == 100.0


def test_time_of_overlapping_pauses_is_counted_once() -> None:
    elapsed = Elapsed()
    elapsed.extend(0.0, 10.0)
    elapsed.extend(5.0, 8.0)
    elapsed.extend(8.0, 20.0)
    elapsed.extend(30.0, 31.0)
    assert elapsed.at(30.5) == 20.5


def test_pauses_after_failures_double_up_to_a_minute() -> None:
    budget, now, pauses = Budget(1000, 0.0), 10.0, []
    for _ in range(10):
        now, _ = taken(budget, now)
        slot = budget.take(now)
        budget.failed(slot, now, "throttled", None, 0.5)
        pauses.append(budget.delay_s(now))
    assert pauses[:4] == [4.0, 8.0, 16.0, 32.0]
    assert pauses[4:] == [LONGEST_PAUSE_S] * 6


def test_first_broken_response_delays_requests_by_one_second() -> None:
    budget = Budget(1000, 0.0)
    budget.failed(budget.take(1.0), 1.0, "broken", None, 0.5)
    assert budget.delay_s(1.0) == 1.0
    assert budget.throttled_s(50.0) == 0.0


def test_concurrent_failures_lengthen_the_pause_once() -> None:
    backoff = Backoff()
    for _ in range(4):
        backoff.failed(sent_at=1.0, now=2.0, first_s=1.0, jitter=0.5)
    assert backoff.until == 3.0
    backoff.failed(sent_at=3.0, now=3.0, first_s=1.0, jitter=0.5)
    assert backoff.until == 5.0


def test_success_of_an_older_request_does_not_reset_the_backoff() -> None:
    backoff = Backoff()
    backoff.failed(1.0, 2.0, 1.0, 0.5)
    backoff.succeeded(1.5)
    assert backoff.failed(4.0, 4.0, 1.0, 0.5) == 6.0
    backoff.succeeded(6.0)
    assert backoff.failed(7.0, 7.0, 1.0, 0.5) == 8.0


@given(jitter=st.floats(0, 1, exclude_max=True), failures=st.integers(1, 2000))
def test_backoff_pause_is_at_most_a_minute(jitter: float, failures: int) -> None:
    backoff = Backoff()
    for at in range(failures):
        until = backoff.failed(at * 100.0, at * 100.0, 4.0, jitter)
        assert 0 < until - at * 100.0 <= LONGEST_PAUSE_S


def test_budget_used_ratio_covers_the_last_minute() -> None:
    budget = Budget(60, 0.0)
    drain(budget, 0.0, 120.0)
    assert 0.95 <= budget.used_ratio(120.0) <= 1.0
    assert budget.used_ratio(150.0) == pytest.approx(0.5, abs=0.05)
    assert budget.used_ratio(500.0) == 0.0


def test_unsent_request_does_not_use_up_the_budget() -> None:
    budget = Budget(1, 0.0)
    slot = budget.take(61.2)
    assert budget.delay_s(500.0) > 0
    budget.settled(slot)
    assert budget.delay_s(500.0) == 0


def test_request_sent_twice_counts_twice_in_the_budget() -> None:
    budget = Budget(10, 0.0)
    slot = budget.take(10.0)
    budget.sent(slot, 10.0)
    budget.sent(slot, 10.5)
    assert budget.used_ratio(11.0) == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("7", 7.0),
        (" 30 ", 30.0),
        ("1.5", 1.5),
        ("999999999", LONGEST_RETRY_AFTER_S),
        ("9" * 400, LONGEST_RETRY_AFTER_S),
        ("0", None),
        ("-5", None),
        ("", None),
        (None, None),
        ("soon", None),
        ("nan", None),
        ("inf", None),
        ("٣", None),
        ("Sun, 01 Mar 2026 12:00:20 GMT", 20.0),
        ("Sun, 01 Mar 2026 11:00:00 GMT", None),
        ("Fri, 01 Mar 2999 12:00:00 GMT", LONGEST_RETRY_AFTER_S),
        ("Sun, 01 Mar 99999999 12:00:00 GMT", None),
        ("Sun, 45 Mar 2026 12:00:00 GMT", None),
        (".5", 0.5),
        ("7.", 7.0),
        ("0.25", 0.25),
        ('"30"', 30.0),
        ("5, 30", 30.0),
        ("30,5", 30.0),
        ("120.5 , 30.25", 120.5),
        ("soon, 5", 5.0),
        ("5, -3, ", 5.0),
        ("0, 0", None),
        ("10, 999999999", LONGEST_RETRY_AFTER_S),
        ("5, Sun, 01 Mar 2026 12:00:20 GMT", 20.0),
        ("Sun, 01 Mar 2026 12:00:20 GMT, 45", 45.0),
        ("Sun, 01 Mar 2026 12:00:20 GMT, Sun, 01 Mar 2026 12:00:40 GMT", 40.0),
        ("Sunday, 01-Mar-26 12:00:20 GMT", 20.0),
        ("Sun Mar  1 12:00:20 2026, 5", 20.0),
        ("Sun, 45 Mar 2026 12:00:00 GMT, 5", 5.0),
    ],
)
def test_retry_after_header_is_parsed_and_bounded(value: str | None, seconds: float | None) -> None:
    assert retry_after_s(value, NOW) == seconds


@given(st.text())
def test_retry_after_header_counts_as_at_most_an_hour(value: str) -> None:
    wait_s = retry_after_s(value, NOW)
    assert wait_s is None or 0 < wait_s <= LONGEST_RETRY_AFTER_S


def test_retry_after_date_is_relative_to_the_server_clock() -> None:
    value = "Sun, 01 Mar 2026 12:00:20 GMT"
    assert retry_after_s(value, NOW - timedelta(minutes=5)) == 320.0


def test_each_request_priority_maps_to_a_lane() -> None:
    assert [lane_name(p) for p in (0, 1, 3, BACKFILL, BACKFILL + 1)] == [
        "live",
        "sweep",
        "sweep",
        "backfill",
        "backfill",
    ]


def test_unused_budget_does_not_accumulate() -> None:
    budget = Budget(60, 0.0)
    budget.take(500.0)
    assert budget.delay_s(500.0) >= 0.9


def test_shorter_retry_after_does_not_end_a_longer_pause() -> None:
    budget = Budget(1000, 0.0)
    first, second = budget.take(1.0), budget.take(1.1)
    budget.failed(first, 2.0, "throttled", 50.0, 0.5)
    budget.failed(second, 2.0, "throttled", 5.0, 0.5)
    assert budget.delay_s(2.0) == 50.0
