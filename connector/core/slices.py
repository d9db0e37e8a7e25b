"""Slices: the choice of the call time to read next, in page chains of about ten pages.

1. Isolated ranges that are due to be requested again come first. If several page chains may be open, one of them is
   reserved for the live sweep, so that it need not wait for these ranges.
2. The windows of runs follow: the live sweep before all other sweeps, and newest call time first.
3. Catch-up ranges follow, oldest call time first. After an outage, a catch-up range lies between the call time up to
   which the sweep is complete and the window of its run. Call time that the run of another sweep reads anyway is left
   out.
4. Jobs come last.
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
    """Return the next slice to read; None if there is no slice that may be read.

    `in_flight` are the slices that are being read. `live` is True if a page chain of the live sweep may be opened, and
    `others` is True if any other chain may be opened.
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
        own = _left_of_run(state, run, taken, floor)
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


def may_open_chain(in_flight: Collection[Slice], concurrency: int) -> tuple[bool, bool]:
    """Return whether a page chain may be opened for the live sweep, and whether one may be opened for other reading.

    If `concurrency` allows several open chains, one of them is reserved for the live sweep.
    """
    free = len(in_flight) < concurrency
    return free, free and sum(piece.priority != 0 for piece in in_flight) < max(1, concurrency - 1)


def is_idle(state: State, rules: Rules, now: datetime) -> bool:
    """Return True if there is nothing left to read until the next sweep is due; otherwise False."""
    floor = windows.readable_from(state, rules, now)
    passable = state.coverage.with_passable(failing_ranges.isolated(state.failing_ranges))
    runs = (s.run for s in state.sweeps if s.running and s.run is not None)
    is_read = not any(windows.unread(passable, run, floor) for run in runs)
    return state.orders.paused or (is_read and not any(_catch_up(state, s, floor) for s in state.sweeps))


def _left_of_run(state: State, run: Run, taken: list[Window], floor: datetime) -> list[Window]:
    """Return the call time that a run still has to read, oldest first. Call time in `taken` is left out.

    If the run replaced a previous run, the call time that the previous run left unread comes first. Nothing else is
    returned until it was read.
    """
    for since in (run.overtaken, run.started):
        missing = [] if since is None else subtract(windows.unread(state.coverage, run, floor, since), taken)
        if missing:
            return failing_ranges.most_promising(state.failing_ranges, missing)
    return []


def _cut(ranges: FailingRanges, sizes: "Sizes", rules: Rules, window: Window, *, newest_first: bool) -> Window:
    """Shorten `window` to one slice. `newest_first` keeps its end; otherwise its start is kept."""
    window = failing_ranges.fit(ranges, window, newest_first=newest_first)
    return failing_ranges.fit(
        ranges, sizes.cut(window, rules.slice, newest_first=newest_first), newest_first=newest_first
    )


def _catch_up(state: State, sweep_state: SweepState, floor: datetime) -> list[Window]:
    """Return the call time in a sweep's catch-up range that must still be read, oldest first.

    The catch-up range lies between the call time up to which the sweep was complete and the window of its last run. A
    part is left out if the run of another sweep reads it anyway, and late enough: at least this sweep's `overlap` after
    the calls of the part began.
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
    """Estimate of the length at which a slice fills about ten pages.

    Where call time was read, the estimate uses the number of its rows in the deduplication index. Elsewhere it uses the
    density of rows in call time that was read recently.
    """

    def __init__(
        self, rows_per_hour: NDArray[np.int64], first_hour: int, coverage: Coverage, rows_per_second: float
    ) -> None:
        """Store the row densities from which the lengths of slices are estimated.

        `rows_per_hour` is the number of rows in the deduplication index per hour of call start, beginning with
        `first_hour` (hours since the epoch). `rows_per_second` is the number of rows per second of call time to expect
        where nothing was read.
        """
        self._rows_per_hour = rows_per_hour
        self._first_hour = first_hour
        self._coverage = coverage
        self._rows_per_second = rows_per_second

    def cut(self, window: Window, longest: timedelta, *, newest_first: bool) -> Window:
        """Shorten `window` to at most the length `longest`, and so that it probably holds at most ROWS_A_SLICE rows.

        `newest_first` keeps the end of the window; otherwise the start is kept.
        """
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
        """Return the number of rows to expect in a piece, which must lie within one hour."""
        hour = (piece.start - EPOCH) // _HOUR - self._first_hour
        known_rows = float(self._rows_per_hour[hour]) if 0 <= hour < len(self._rows_per_hour) else 0.0
        expected = known_rows * piece.seconds / 3600
        unread = sum(part.seconds for part in self._coverage.missing(piece))
        return expected + unread * self._rows_per_second


def first_guess() -> float:
    """Return the number of rows per second of call time to expect for a tenant that was never read.

    With this number, the first slices are one hour long.
    """
    return ROWS_A_SLICE / 3600


def next_guess(window: Window, rows: int) -> float:
    """Return the number of rows per second of call time to expect next to `window`, which held `rows` rows.

    The number has a lower limit, so that the next slice is at most four times as long as `window`.
    """
    return max(1.25 * rows / window.seconds, ROWS_A_SLICE / (4 * window.seconds))


def _hour_floor(moment: datetime) -> datetime:
    return moment.replace(minute=0, second=0, microsecond=0)
