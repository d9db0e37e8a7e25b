"""Slices: decides which call time to read next, in page chains of about ten pages.

A sweep's own overlap is read first, newest first. After an outage the catch-up range lies between where the sweep is
complete and the overlap. It is read oldest first, after the overlaps of all sweeps, and not at all where a deeper run
reads it anyway. Isolated ranges that are due come before the other sweeps, and jobs come last.
"""

from collections.abc import Collection
from datetime import datetime, timedelta
from functools import partial

import numpy as np
from numpy.typing import NDArray

from connector.core import failing_ranges, jobs, windows
from connector.core.coverage import Coverage, Window, clip, subtract
from connector.core.failing_ranges import FailingRanges
from connector.core.instants import EPOCH
from connector.core.windows import Rules, Run, Slice, State, SweepState

ROWS_A_SLICE = 9_500  # about ten pages; the last page of a chain is seldom full
_HOUR = timedelta(hours=1)
_SHORTEST_SLICE = timedelta(seconds=60)


def next_slice(
    state: State, rules: Rules, in_flight: Collection[Slice], sizes: "Sizes", now: datetime, *, live: bool, others: bool
) -> Slice | None:
    """Return the next slice to read, of about ten pages; None when all that is due was read or is in flight.

    `live` and `others` state whether a chain may be opened for the sweep with the shortest `every`, and for the rest.
    """
    if state.orders.paused:
        return None
    floor = windows.readable_from(state, rules, now)
    # Two chains over the same seconds could deliver an older version after a newer one.
    in_flight_windows = [piece.window for piece in in_flight]
    taken = [*in_flight_windows, *failing_ranges.left_out(state.failing_ranges, now)]
    cut = partial(_cut, state.failing_ranges, sizes, rules)
    if others:
        due = clip(failing_ranges.due(state.failing_ranges, now), Window(floor, max(floor, now)))
        retries = subtract(due, in_flight_windows)
        if retries:
            return Slice(sizes.cut(retries[0], rules.slice, newest_first=False), len(state.sweeps), windows.second(now))
    for index, sweep_state in enumerate(state.sweeps):
        run = sweep_state.run
        if run is None or not sweep_state.running or not (live if index == 0 else others):
            continue
        own = _own(state, run, taken, floor)
        if own:
            return Slice(cut(own[-1], newest_first=True), index, run.started)
    for index, sweep_state in enumerate(state.sweeps):
        if sweep_state.run is not None and others:
            pieces = subtract(_catch_up(state, sweep_state, floor), taken)
            if pieces:
                window = cut(pieces[0], newest_first=False)
                return Slice(window, len(state.sweeps) + index, sweep_state.run.started)
    found = jobs.next_piece(state.orders, taken, *windows.job_floors(state, rules, now)) if others else None
    if found is None:
        return None
    job, oldest = found
    window = cut(oldest, newest_first=False)
    return Slice(window, jobs.PRIORITY, windows.second(now), job.id, job.again)


def room(in_flight: Collection[Slice], concurrency: int) -> tuple[bool, bool]:
    """Return whether a further chain may be opened for the live sweep, and whether one may for the rest.

    One chain is reserved for the live sweep when there is more than one.
    """
    free = len(in_flight) < concurrency
    return free, free and sum(piece.priority != 0 for piece in in_flight) < max(1, concurrency - 1)


def is_idle(state: State, rules: Rules, now: datetime) -> bool:
    """Return whether nothing is left to read until a sweep is due."""
    floor = windows.readable_from(state, rules, now)
    passable = state.coverage.with_passable(failing_ranges.isolated(state.failing_ranges))
    runs = (s.run for s in state.sweeps if s.running and s.run is not None)
    is_read = not any(windows.unread(passable, run, floor) for run in runs)
    return state.orders.paused or (is_read and not any(_catch_up(state, s, floor) for s in state.sweeps))


def _own(state: State, run: Run, taken: list[Window], floor: datetime) -> list[Window]:
    """Return what a run has to read, oldest first.

    What the run that it replaced did not reach comes first, alone.
    """
    for since in (run.overtaken, run.started):
        missing = [] if since is None else subtract(windows.unread(state.coverage, run, floor, since), taken)
        if missing:
            return failing_ranges.most_promising(state.failing_ranges, missing)
    return []


def _cut(ranges: FailingRanges, sizes: "Sizes", rules: Rules, window: Window, *, newest_first: bool) -> Window:
    """Return the newest (else the oldest) part of `window` to read as one slice."""
    window = failing_ranges.fit(ranges, window, newest_first=newest_first)
    return failing_ranges.fit(
        ranges, sizes.cut(window, rules.slice, newest_first=newest_first), newest_first=newest_first
    )


def _catch_up(state: State, sweep_state: SweepState, floor: datetime) -> list[Window]:
    """Return the catch-up range of a sweep, without the parts that another run is going to read late enough.

    It lies between where the sweep was complete and the start of its last run's window.
    """
    run, overlap = sweep_state.run, sweep_state.sweep.overlap
    begin = max(sweep_state.resumes_at, floor)
    if run is None or begin >= run.window.start:
        return []
    found = state.coverage.unripe(Window(begin, run.window.start), overlap)
    found = subtract(found, failing_ranges.isolated(state.failing_ranges))
    others = [s.run for s in state.sweeps if s.running and s.run is not None]
    read_anyway = [Window(o.window.start, min(o.window.end, o.started - overlap)) for o in others]
    return subtract(found, [window for window in read_anyway if window.start < window.end])


class Sizes:
    """Estimate of how long a slice may be to fill about ten pages.

    It uses the rows in the deduplication index and, for call time that was never read, the density of call time nearby.
    """

    def __init__(
        self, rows_per_hour: NDArray[np.int64], first_hour: int, coverage: Coverage, rows_per_second: float
    ) -> None:
        """Set the densities.

        `rows_per_hour` are the rows in the index from the hour `first_hour` (since the epoch) on. `rows_per_second` is
        expected where nothing was read.
        """
        self._rows_per_hour = rows_per_hour
        self._first_hour = first_hour
        self._coverage = coverage
        self._rows_per_second = rows_per_second

    def cut(self, window: Window, longest: timedelta, *, newest_first: bool) -> Window:
        """Return the newest (else the oldest) part of `window` that is expected to hold at most ROWS_A_SLICE rows."""
        if window.end - window.start > longest:
            window = (
                Window(window.end - longest, window.end)
                if newest_first
                else Window(window.start, window.start + longest)
            )
        # Walk from the end that is kept until the rows are enough, hour by hour because the index counts rows per hour.
        rows = 0.0
        at = window.end if newest_first else window.start
        while window.start < at or not newest_first:
            if newest_first:
                edge = max(window.start, _hour_floor(at - timedelta(microseconds=1)))
                piece = Window(edge, at)
            else:
                if at >= window.end:
                    break
                edge = min(window.end, _hour_floor(at) + _HOUR)
                piece = Window(at, edge)
            expected = self._expected(piece)
            if rows + expected > ROWS_A_SLICE:
                share = (ROWS_A_SLICE - rows) / expected
                length = timedelta(seconds=int(piece.seconds * share))
                at = at - length if newest_first else at + length
                break
            rows += expected
            at = edge
        if newest_first:
            return Window(max(window.start, min(at, window.end - _SHORTEST_SLICE)), window.end)
        return Window(window.start, min(window.end, max(at, window.start + _SHORTEST_SLICE)))

    def _expected(self, piece: Window) -> float:
        """Return the rows expected in a piece within one hour."""
        hour = (piece.start - EPOCH) // _HOUR - self._first_hour
        remembered = float(self._rows_per_hour[hour]) if 0 <= hour < len(self._rows_per_hour) else 0.0
        expected = remembered * piece.seconds / 3600
        unread = sum(part.seconds for part in self._coverage.missing(piece))
        return expected + unread * self._rows_per_second


def first_guess() -> float:
    """Return the rows per second to expect for a tenant without any history: the first slices are one hour long."""
    return ROWS_A_SLICE / 3600


def next_guess(window: Window, rows: int) -> float:
    """Return the rows per second to expect next to a window that had `rows`. Slices grow at most fourfold."""
    return max(1.25 * rows / window.seconds, ROWS_A_SLICE / (4 * window.seconds))


def _hour_floor(moment: datetime) -> datetime:
    return moment.replace(minute=0, second=0, microsecond=0)
