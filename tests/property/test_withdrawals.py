"""Withdrawn rows are counted once each, and no other row is ever counted."""

import random
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import numpy as np
import pytest

from connector.core.coverage import Coverage, Read, Window
from connector.core.dedup import HOUR_MS, DedupIndex
from connector.core.fingerprints import ENTRY, LAYOUT, UNFIT
from connector.core.windows import Run, SweepState
from connector.core.withdrawals import Withdrawals, Withdrawn
from tests.property.model import (
    EPOCH,
    Call,
    Setting,
    Topics,
    Version,
    World,
    every,
    moment,
    poll,
    row,
    seconds_of,
    some_calls,
    sweep,
)

HOUR_S, DAY_S = 3600.0, 24 * 3600.0
STEP_S, UNTIL_S = 600.0, 30 * HOUR_S
SETTING = Setting((sweep(10, 30), sweep(60, 12 * 60)), start=timedelta(hours=-1))
"""The deepest sweep reads the last twelve hours once per hour."""
RULES = SETTING.rules
FIRST_HOUR = int(EPOCH.timestamp() * 1000) // HOUR_MS


def some_world(seed: int) -> World:
    """Return calls with late and revised rows. Some revisions are invalid, or move the start by less than an hour."""
    rng = random.Random(seed)
    world = World(some_calls(rng, 120, UNTIL_S - 2 * HOUR_S, 4 * HOUR_S), rng.choice([2, 7, 50]))
    for one in world.calls:
        last = one.versions[-1]
        if rng.random() < 0.3 and last.fits:
            start_s = last.start_s + rng.uniform(-0.9, 0.9) * HOUR_S
            text = row(one.id, start_s, len(one.versions))
            one.versions.append(Version(last.from_s + rng.uniform(1, 2 * HOUR_S), start_s, text))
        elif rng.random() < 0.1:
            text = row(one.id, last.start_s, f"{one.id}?")
            one.versions.append(Version(last.from_s + rng.uniform(1, 2 * HOUR_S), last.start_s, text, fits=False))
    return world


def withdraw(world: World, seed: int) -> list[Call]:
    """Withdraw some rows, each after the deepest sweep has read it twice, and hours before it reads it last."""
    rng = random.Random(seed)
    old = [one for one in world.calls if one.versions[-1].fits and one.versions[-1].from_s < UNTIL_S - 10 * HOUR_S]
    calls = [one for one in old if one.versions[-1].from_s - one.start_s < 4 * HOUR_S and rng.random() < 0.4]
    for one in calls:
        one.withdrawn_s = one.versions[-1].from_s + rng.uniform(2.2, 3) * HOUR_S
    return calls


def counted(topics: Topics) -> int:
    return sum(withdrawn.rows for _, withdrawn in topics.withdrawn)


@pytest.mark.parametrize(("seed", "revisions"), [(0, "publish"), (1, "ignore")])
def test_no_row_counts_as_withdrawn_while_graph_returns_all(seed: int, revisions: str) -> None:
    topics = poll(replace(SETTING, revisions=revisions), some_world(seed), every(STEP_S, 0, UNTIL_S))
    assert len(topics.rows) > 100
    assert topics.withdrawn == []


@pytest.mark.parametrize("seed", range(2))
def test_each_withdrawn_row_is_counted_once(seed: int) -> None:
    world = some_world(seed)
    calls = withdraw(world, seed)
    topics = poll(SETTING, world, every(STEP_S, 0, UNTIL_S))
    assert counted(topics) == len(calls) > 5
    for one in calls:
        start_s = one.versions[-1].start_s
        assert any(
            seconds_of(found.window.start) <= start_s < seconds_of(found.window.end) for _, found in topics.withdrawn
        )


def test_withdrawn_rows_are_not_counted_again_after_restarts() -> None:
    world, topics = some_world(1), Topics()
    calls = withdraw(world, 1)
    for begin_s in range(0, int(UNTIL_S), int(7 * HOUR_S)):
        poll(SETTING, world, every(STEP_S, begin_s, begin_s + 7 * HOUR_S), topics)
    assert 0 < counted(topics) <= len(calls)


def test_rows_read_before_a_restart_are_watched_again() -> None:
    """A restored row has only an approximate hour until Graph returns it again."""
    world, topics = World(some_calls(random.Random(3), 40, 5 * HOUR_S, 60.0)), Topics()
    calls = [one for one in world.calls if one.versions[-1].fits]
    poll(SETTING, world, every(STEP_S, 0, 6 * HOUR_S), topics)
    for one in calls[::2]:
        one.withdrawn_s = 8.5 * HOUR_S
    poll(SETTING, world, every(STEP_S, 6 * HOUR_S, 12 * HOUR_S), topics)
    assert counted(topics) == len(calls[::2])


class Bench:
    """An index with one row per hour, and runs of the deepest sweep that read the hours 0 to 12."""

    def __init__(self) -> None:
        self.index, self.withdrawals = DedupIndex(), Withdrawals()
        self.entries = np.zeros(12, ENTRY)
        self.entries["hi"] = np.arange(12)
        self.entries["meta"] = LAYOUT
        self.index.put(self.entries, self.hours().astype(np.uint32))
        self.runs = 0

    def hours(self) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        return np.arange(12, dtype=np.int64) + FIRST_HOUR

    def run(self, returned: list[int], reads: Callable[[Read], list[Read]] = lambda read: [read]) -> Withdrawn | None:
        """Let a run read the rows of the given hours. `reads` changes what coverage says about it afterwards."""
        self.withdrawals.begun([0, 1], RULES, self.index)
        self.runs += 1
        started = moment(DAY_S + self.runs)
        window = Window(EPOCH, moment(12 * HOUR_S))
        self.index.mark_returned(self.entries[returned], self.hours()[returned])
        coverage = Coverage(tuple(reads(Read(*window, started))))
        sweeps = [SweepState(one, EPOCH, started, run=Run(started, window)) for one in RULES.sweeps]
        state = type("", (), {"sweeps": sweeps, "coverage": coverage})
        return self.withdrawals.ended([1], state, RULES, self.index)  # type: ignore[arg-type]


ALL = list(range(12))
WITHOUT_5 = [hour for hour in ALL if hour != 5]


def test_row_is_withdrawn_if_two_runs_in_turn_do_not_return_it() -> None:
    bench = Bench()
    found = [bench.run(returned) for returned in (ALL, WITHOUT_5, WITHOUT_5, WITHOUT_5, WITHOUT_5)]
    window = Window(moment(5 * HOUR_S), moment(6 * HOUR_S))
    assert found == [None, None, Withdrawn(1, window), None, None]


def test_row_that_only_one_run_does_not_return_is_not_withdrawn() -> None:
    bench = Bench()
    assert [bench.run(returned) for returned in (ALL, WITHOUT_5, ALL, WITHOUT_5, ALL, ALL)] == [None] * 6


def test_row_that_graph_returns_again_can_be_withdrawn_again() -> None:
    bench = Bench()
    found = [bench.run(returned) for returned in (ALL, WITHOUT_5, WITHOUT_5, ALL, WITHOUT_5, WITHOUT_5)]
    assert [one.rows if one else 0 for one in found] == [0, 0, 1, 0, 0, 1]


def unstable(read: Read) -> list[Read]:
    first, last = moment(6 * HOUR_S - 1), moment(6 * HOUR_S)
    return [read._replace(end=first), Read(first, last, read.at, steady=False), read._replace(start=last)]


def partly_unread(read: Read) -> list[Read]:
    return [read._replace(end=moment(5 * HOUR_S)), read._replace(start=moment(5 * HOUR_S + 1))]


def partly_old(read: Read) -> list[Read]:
    middle = moment(6.5 * HOUR_S)
    return [read._replace(end=middle), read._replace(start=middle, at=moment(0))]


@pytest.mark.parametrize("reads", [unstable, partly_unread, partly_old])
@pytest.mark.parametrize("which", [1, 2])
def test_row_is_not_withdrawn_near_unread_or_unstable_call_time(
    reads: Callable[[Read], list[Read]], which: int
) -> None:
    bench = Bench()
    bench.run(ALL)
    assert [bench.run(WITHOUT_5, reads) if run == which else bench.run(WITHOUT_5) for run in (1, 2)] == [None, None]


def test_rows_at_the_edges_of_a_run_are_not_withdrawn() -> None:
    bench = Bench()
    found = [bench.run(returned) for returned in (ALL, [], [])]
    assert found[-1] == Withdrawn(10, Window(moment(HOUR_S), moment(11 * HOUR_S)))


def test_replaced_run_is_not_one_of_the_two_runs() -> None:
    """Neither of two complete runs returns row 5. Row 7 is not returned by the last run and by the replaced runs."""
    bench = Bench()
    bench.run(ALL)
    bench.run(WITHOUT_5)
    for _ in range(3):
        bench.withdrawals.begun([1], RULES, bench.index)
    assert bench.run([hour for hour in WITHOUT_5 if hour != 7]) == Withdrawn(
        1, Window(moment(5 * HOUR_S), moment(6 * HOUR_S))
    )


def test_marks_of_returned_rows_leave_the_index_unchanged() -> None:
    bench = Bench()
    before = bench.index.digest()
    bench.index.mark_returned(bench.entries, bench.hours())
    bench.index.age_marks()
    assert bench.index.digest() == before
    _, known = bench.index.find(bench.entries)
    assert not (known["meta"] & UNFIT).any()
    assert bench.index.nbytes == 12 * 28
