"""Scheduler of one tenant: it decides what to read next, and what follows from the outcome of each slice.

The scheduler works ahead of the commits. Its state `plan` already contains everything that was read and put into the
shard's buffer, although it may not be committed yet. When the shard commits, it applies the same functions of `windows`
to the committed state, with the same arguments and in the same order.

The caller repeats `next` until it returns `Wait` or `Stop`. It reports the end of each slice with `finished` or
`failed`, or with `closed` if there is no outcome.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from connector.core import failing_ranges, jobs, slices, windows
from connector.core.coverage import Window, subtract
from connector.core.failing_ranges import RangeFailure
from connector.core.instants import EPOCH
from connector.core.slices import Sizes
from connector.core.windows import Rules, Slice, State

_HOUR = timedelta(hours=1)
_REPEATS = 2
_ATTEMPTS = 3
"Number of failures of one page after which a slice has failed. A range that failed before gets only one attempt."
_NORMAL_STEP_S = 120.0
_FIRST_REST_S = 10.0
_LONGEST_REST_S = 60.0
_TRANSIENT_REST_S = 1.0


class LearnTime(NamedTuple):
    """Decision that the caller must first ask Graph for the current time.

    Before Graph has answered, no run starts, and the tenant's start is not fixed.
    """


class StartRuns(NamedTuple):
    """Notice that runs have started or that the tenant's start was fixed. The plan already contains both changes."""

    start: datetime | None
    "Start of the tenant if it was fixed now; otherwise None."
    overtaken: tuple[int, ...]
    "Indices of the sweeps whose previous run was replaced before it was done."


class ReadSlice(NamedTuple):
    """Decision to read the page chain of a slice."""

    slice: Slice
    attempts: int
    "Number of failures of one page after which the slice has failed."
    unread: tuple[Window, ...]
    "Parts of the slice that were never read before. Their rows do not count for the statistics of lateness."


class Wait(NamedTuple):
    """Decision to read nothing until the time `until`.

    The wait ends earlier when a slice ends or a command arrives. If `until` is None, there is no time limit.
    """

    until: datetime | None


class Stop(NamedTuple):
    """Decision to end the sweeper, because every due sweep has ended or failed. It is made only if `once` is set."""


Decision = LearnTime | StartRuns | ReadSlice | Wait | Stop


class SliceFailure(NamedTuple):
    """Failure of a slice: its cause, and whether it concerns only this range of call time or the whole tenant."""

    cause: RangeFailure
    of_range: bool
    "True if requests for another range of call time may still succeed."
    permanent: bool
    "True if only an operator can remove the cause."
    tenant_fails: bool
    "True if Graph currently serves nothing at all to the tenant."


class Rest(NamedTuple):
    """Pause in which nothing is read, after a failure that concerns the whole tenant."""

    seconds: float
    dropped: bool
    "True if runs were in progress. These runs have failed."
    cancelled: tuple[Slice, ...]
    "Open slices. The caller must stop reading them."


class Outcome(NamedTuple):
    """Consequences of the end of a slice. A slice ends when it was read, or when it has failed."""

    steady: bool = True
    "True if the paging was stable: no row can have moved from one page to another during the reading."
    ended: tuple[int, ...] = ()
    "Indices of the sweeps whose run is now done."
    isolated: tuple[tuple[Window, str], ...] = ()
    "Call time that has become isolated, with the causes. Runs no longer read it."
    read_again: tuple[Window, ...] = ()
    "Call time that is no longer isolated. Runs read it again."
    rest: Rest | None = None


@dataclass
class _OpenSlice:
    unread: tuple[Window, ...]
    repeats: int = 0
    steady: bool = True


class Scheduler:
    """Scheduler of one tenant, with its open slices and its plan: the tenant's state ahead of the commits."""

    def __init__(
        self,
        plan: State,
        rules: Rules,
        concurrency: int,
        rows_per_hour: Callable[[int, int], NDArray[np.int64]],
        *,
        start: datetime | timedelta | None = None,
        once: bool = False,
        rows_per_second: float | None = None,
    ) -> None:
        """Create the scheduler. It continues from `plan`, the state of the tenant.

        `rows_per_hour(first, end)` returns the number of rows in the deduplication index for each hour of call start,
        from hour `first` up to, not including, hour `end`. Hours are counted since the epoch. `rows_per_second` is the
        number of rows per second of call time to expect where nothing was read yet.

        `start` is the configured start of the tenant. It takes effect as soon as Graph has confirmed the time. If it is
        None, the plan already has its start, and the time needs no confirmation.

        With `once`, each due sweep is read once. Backfills are left to other workers.
        """
        self.plan = _without_jobs(plan) if once else plan
        "State of the tenant, including everything that is in the shard's buffer but not committed yet."
        self.has_failed = False
        "True as soon as a run has failed or a range was isolated."
        self.may_backfill = True
        "False while backfills must wait, because the caller has no memory for their page chains."
        self._rules = rules
        self._concurrency = concurrency
        self._rows_per_hour = rows_per_hour
        self._rows_per_second = slices.first_guess() if rows_per_second is None else rows_per_second
        self._start = start
        self._is_time_known = start is None
        self._once = once
        self._has_started = False
        self._open: dict[Slice, _OpenSlice] = {}
        self._rest_s = 0.0
        self._rests_until: datetime | None = None

    def next(self, now: datetime) -> Decision:
        """Return what to do next at `now`: ask Graph for the time, record started runs, read a slice, wait, or stop.

        A returned slice is open until the caller reports its end.
        """
        decision = None if self._is_resting(now) or self.plan.orders.paused else self._due(now)
        if decision is not None:
            return decision
        is_over = self._has_started or self.has_failed or self.plan.orders.paused
        if self._once and is_over and not self._open and (self.has_failed or self._is_idle(now)):
            return Stop()
        return Wait(self._wakes_at(now))

    def confirm_time(self) -> None:
        """Record that the current time is known from Graph, so that runs may start."""
        self._is_time_known = True

    def forget(self, before: datetime) -> None:
        """Record that the deduplication index may have forgotten rows of calls before `before`.

        `before` changes only with a commit, but the plan is ahead of the commits. Older call time may then count as
        read in the plan, but not in the committed state. This does no harm, because this call time is never read again.
        """
        self.plan = self.plan._replace(forgotten_before=max(self.plan.forgotten_before, before))

    def command(self, command: jobs.Command, now: datetime) -> tuple[Slice, ...]:
        """Apply an operator's command. Return the open slices that the caller must stop reading because of it."""
        self.plan = windows.command(self.plan, command, now, now - self._rules.horizon)
        if self._once:
            self.plan = _without_jobs(self.plan)
        orders = self.plan.orders
        return tuple(
            piece for piece in self._open if orders.paused or (piece.job and not jobs.is_open(orders, piece.job))
        )

    def repeats(self, piece: Slice, *, repeated: bool) -> bool:
        """Record that the page chain of an open slice was read to its end. Return whether the chain must be read again.

        `repeated` is True if an id occurred on two pages. Then rows may have moved between pages during the reading.
        """
        slice_ = self._open[piece]
        slice_.steady = not repeated
        slice_.repeats += repeated
        return repeated and slice_.repeats <= _REPEATS

    def finished(self, piece: Slice, rows: int, now: datetime) -> Outcome:
        """Record that a slice was read, and return the consequences.

        Call this after all pages of the slice were put into the shard's buffer. `rows` is the number of rows in the
        last reading of its page chain. It is used to estimate the lengths of the next slices.
        """
        slice_ = self._open.pop(piece)
        before = failing_ranges.isolated(self.plan.failing_ranges)
        self.plan, ended = windows.finish(self.plan, [(piece, slice_.steady)], now, self._rules)
        self._rest_s = 0.0
        if slice_.unread:
            self._rows_per_second = slices.next_guess(piece.window, rows)
        return self._with_ranges(Outcome(slice_.steady, tuple(ended)), before)

    def failed(self, piece: Slice, failure: SliceFailure, now: datetime) -> Outcome:
        """Record that a slice has failed, and return the consequences.

        If the failure concerns the whole tenant, the tenant begins a rest, in which nothing is read.
        """
        self.closed(piece)
        before, cause = self.plan.failing_ranges, failure.cause
        is_hopeless = failing_ranges.refuses_any_length(before, piece.window, cause)
        if failure.of_range:
            self.plan = windows.range_failed(self.plan, piece.window, cause)
        outcome = self._with_ranges(Outcome(), failing_ranges.isolated(before))
        if is_hopeless or (failure.tenant_fails and not cause.too_long):
            rest = self.rest(now, permanent=is_hopeless or failure.permanent)
            return outcome._replace(rest=rest)
        return outcome

    def closed(self, piece: Slice) -> None:
        """Close a slice that is no longer being read. Do nothing if the end of the slice was already reported."""
        self._open.pop(piece, None)

    def rest(self, now: datetime, *, permanent: bool) -> Rest | None:
        """Mark all runs in progress as failed, and begin a rest, in which nothing is read.

        The runs start again after the rest. The rest is longer if only an operator can remove the cause (`permanent`).
        Return None if the tenant already rests.
        """
        if self._is_resting(now):
            return None
        self.has_failed = True
        self.plan, dropped = windows.drop_runs(self.plan)
        self._rest_s = min(_LONGEST_REST_S, max(_FIRST_REST_S, 2 * self._rest_s)) if permanent else _TRANSIENT_REST_S
        self._rests_until = now + timedelta(seconds=self._rest_s)
        return Rest(self._rest_s, bool(dropped), tuple(self._open))

    def end_rest(self) -> None:
        """End the rest early, because the cause of the failure may have been removed."""
        self._rest_s, self._rests_until = 0.0, None

    def _is_resting(self, now: datetime) -> bool:
        if self._rests_until is None:
            return False
        # If the clock was set back since then, the rest must not become longer.
        self._rests_until = min(self._rests_until, now + timedelta(seconds=_LONGEST_REST_S))
        return now < self._rests_until

    def _due(self, now: datetime) -> Decision | None:
        if not self._is_time_known:
            return LearnTime()
        started = None if self._once and self._has_started else self._start_runs(now)
        return started or self._next_slice(now)

    def _start_runs(self, now: datetime) -> StartRuns | None:
        start = self._fix_start(now)
        self._has_started = True
        self.plan, started = windows.begin(self.plan, self._rules, now)
        # The start is passed on although no run can start yet: a backfill may be read before the first run, and a
        # tenant that was read keeps its start.
        is_decided = bool(started) or start is not None
        return StartRuns(start, tuple(windows.overtaken(self.plan, started))) if is_decided else None

    def _fix_start(self, now: datetime) -> datetime | None:
        """Set the start of a tenant that was never read, once and for all. Return it, or None if it was set before."""
        if self._start is None or self.plan.is_read:
            return None
        start = self._start if isinstance(self._start, datetime) else now + self._start
        self._start = None
        self.plan = windows.start_earlier(self.plan, self._rules, start, now)
        return self.plan.start

    def _next_slice(self, now: datetime) -> ReadSlice | None:
        """Open and return the next slice. Return None if there is nothing to read, or if too many slices are open.

        If several slices may be open, one of them is reserved for the live sweep.
        """
        first = (self.plan.start - EPOCH) // _HOUR
        counts = self._rows_per_hour(first, (now - EPOCH) // _HOUR + 1)
        sizes = Sizes(counts, first, self.plan.coverage, self._rows_per_second)
        live, others = slices.may_open_chain(self._open, self._concurrency)
        plan = self.plan if self.may_backfill else _without_jobs(self.plan)
        piece = slices.next_slice(plan, self._rules, self._open, sizes, now, live=live, others=others)
        if piece is None:
            return None
        unread = tuple(self._unread(piece))
        self._open[piece] = _OpenSlice(unread)
        is_known = failing_ranges.is_known(self.plan.failing_ranges, piece.window)
        return ReadSlice(piece, 1 if is_known else _ATTEMPTS, unread)

    def _unread(self, piece: Slice) -> list[Window]:
        """Return the parts of a slice that were never read before. Lateness is not measured for their rows.

        A row of such a part may have been readable long before the connector read it. All call time of a backfill is
        returned, because it counts as never read. Short parts are left out: they are recent call time, which the live
        sweep reads without delay.
        """
        window = piece.window
        if piece.job:
            return [window]
        unread = self.plan.coverage.missing(window)
        step_s = 2 * self._rules.sweeps[0].every.total_seconds()
        if self.plan.coverage.reads and sum(part.seconds for part in unread) <= max(step_s, _NORMAL_STEP_S):
            return []
        return unread

    def _with_ranges(self, outcome: Outcome, before: list[Window]) -> Outcome:
        """Add to `outcome` the ranges that have become isolated, and the ranges that are no longer isolated.

        `before` holds the ranges that were isolated before the slice ended.
        """
        ranges = self.plan.failing_ranges
        after = failing_ranges.isolated(ranges)
        isolated = tuple(failing_ranges.causes(ranges, subtract(after, before), ""))
        self.has_failed = self.has_failed or bool(isolated)
        return outcome._replace(isolated=isolated, read_again=tuple(subtract(before, after)))

    def _is_idle(self, now: datetime) -> bool:
        return slices.is_idle(self.plan, self._rules, now)

    def _wakes_at(self, now: datetime) -> datetime | None:
        if self._is_resting(now):
            return self._rests_until
        if self._once:
            return failing_ranges.next_retry(self.plan.failing_ranges, now)
        return windows.next_turn(self.plan, self._rules, now)


def _without_jobs(plan: State) -> State:
    return plan._replace(orders=plan.orders._replace(jobs=()))
