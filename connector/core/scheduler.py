"""Scheduler of one tenant: decides what to read next and what each outcome means.

It plans ahead of what is committed: `plan` is the state as it will be once everything that was handed over is
committed. The shard applies the same pure functions of `windows`, with the same arguments in the same order, to the
state that it writes.

The caller asks `next` until it returns `Wait` or `Stop`, and reports how each slice ended: `finished`, `failed`, or
`closed` without an outcome.
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
"Failures of one page after which a range is split. A range that failed before has one attempt."
_NORMAL_STEP_S = 120.0
_FIRST_REST_S = 10.0
_LONGEST_REST_S = 60.0
_TRANSIENT_REST_S = 1.0


class LearnTime(NamedTuple):
    """Decision to let Graph confirm the time. Before that no run starts and no tenant's start is fixed."""


class StartRuns(NamedTuple):
    """Decision that runs have started, in the plan already."""

    start: datetime | None
    "The tenant's start if the tenant was never read before, else None."
    overtaken: tuple[int, ...]
    "Sweeps whose last run was replaced before it had ended."


class ReadSlice(NamedTuple):
    """Decision to read a slice."""

    slice: Slice
    attempts: int
    "Failures of one page after which the slice has failed."
    unread: tuple[Window, ...]
    "Call time that was never read. Its rows do not count towards lateness."


class Wait(NamedTuple):
    """Decision to read nothing until then, or until a slice ends or a command arrives."""

    until: datetime | None


class Stop(NamedTuple):
    """Decision to end: every due sweep has ended or failed."""


Decision = LearnTime | StartRuns | ReadSlice | Wait | Stop


class SliceFailure(NamedTuple):
    """Failure of a slice, with what it says about the rest of the tenant."""

    cause: RangeFailure
    of_range: bool
    "True if another range of call time may succeed."
    permanent: bool
    "True if only an operator can repair the cause."
    tenant_fails: bool
    "True if Graph serves nothing to the tenant."


class Rest(NamedTuple):
    """Pause after a failure of the tenant as a whole, in which nothing is read."""

    seconds: float
    dropped: bool
    "True if runs in progress have failed with it."
    cancelled: tuple[Slice, ...]
    "Open slices to give up."


class Outcome(NamedTuple):
    """Result of a slice that was read or failed."""

    steady: bool = True
    "True if no row can have moved between its pages while they were read."
    ended: tuple[int, ...] = ()
    "Sweeps whose run ended."
    isolated: tuple[tuple[Window, str], ...] = ()
    "Call time that runs leave out from now on, with the causes."
    read_again: tuple[Window, ...] = ()
    "Isolated call time that runs include again."
    rest: Rest | None = None


@dataclass
class _OpenSlice:
    unread: tuple[Window, ...]
    repeats: int = 0
    steady: bool = True


class Scheduler:
    """Plan of one tenant, and the slices that are being read for it."""

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
        """Continue from the state `plan`.

        `rows_per_hour` returns the rows in the deduplication index of the hours from one to another, since the epoch.
        `rows_per_second` is expected where nothing was read. `start` is the tenant's start as it is configured: it is
        fixed once the time is confirmed. Without it, the start of `plan` and the time count at once. With `once`, due
        sweeps are read once, and no jobs: other workers run the backfills.
        """
        self.plan = plan._replace(orders=plan.orders._replace(jobs=())) if once else plan
        "The state as it will be once everything that was handed over is committed."
        self.has_failed = False
        "True once a run has failed or a range was isolated."
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
        """Return what to do at `now`. A slice that is returned counts as open until its end is reported."""
        decision = None if self._is_resting(now) or self.plan.orders.paused else self._due(now)
        if decision is not None:
            return decision
        is_over = self._has_started or self.has_failed or self.plan.orders.paused
        if self._once and is_over and not self._open and (self.has_failed or self._is_idle(now)):
            return Stop()
        return Wait(self._wakes_at(now))

    def confirm_time(self) -> None:
        """Record that Graph has confirmed the time."""
        self._is_time_known = True

    def forget(self, before: datetime) -> None:
        """Record that the deduplication index may have forgotten rows of calls before that: commits decide it."""
        self.plan = self.plan._replace(forgotten_before=max(self.plan.forgotten_before, before))

    def command(self, command: jobs.Command, now: datetime) -> tuple[Slice, ...]:
        """Apply an operator's command, and return the open slices that it ends."""
        self.plan = windows.command(self.plan, command, now, now - self._rules.horizon)
        if self._once:
            self.plan = self.plan._replace(orders=self.plan.orders._replace(jobs=()))
        orders = self.plan.orders
        return tuple(
            piece for piece in self._open if orders.paused or (piece.job and not jobs.is_open(orders, piece.job))
        )

    def repeats(self, piece: Slice, *, repeated: bool) -> bool:
        """Return whether an open slice must be read again, after a chain that was read to its end.

        `repeated`: an id was on two pages, so that rows may have shifted between pages while they were read.
        """
        slice_ = self._open[piece]
        slice_.steady = not repeated
        slice_.repeats += repeated
        return repeated and slice_.repeats <= _REPEATS

    def finished(self, piece: Slice, rows: int, now: datetime) -> Outcome:
        """Apply the end of a slice whose last chain had so many rows, all of which were handed over."""
        slice_ = self._open.pop(piece)
        before = failing_ranges.isolated(self.plan.failing_ranges)
        self.plan, ended = windows.finish(self.plan, [(piece, slice_.steady)], now, self._rules)
        self._rest_s = 0.0
        if slice_.unread:
            self._rows_per_second = slices.next_guess(piece.window, rows)
        return self._with_ranges(Outcome(slice_.steady, tuple(ended)), before)

    def failed(self, piece: Slice, failure: SliceFailure, now: datetime) -> Outcome:
        """Apply the failure of a slice. The tenant fails as well, unless only this range may be affected."""
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
        """Record that a slice is not being read any longer, whether its end was reported or not."""
        self._open.pop(piece, None)

    def rest(self, now: datetime, *, permanent: bool) -> Rest | None:
        """Fail all runs in progress. They start again after a rest. Return None if the tenant is resting already."""
        if self._is_resting(now):
            return None
        self.has_failed = True
        self.plan, dropped = windows.drop_runs(self.plan)
        self._rest_s = min(_LONGEST_REST_S, max(_FIRST_REST_S, 2 * self._rest_s)) if permanent else _TRANSIENT_REST_S
        self._rests_until = now + timedelta(seconds=self._rest_s)
        return Rest(self._rest_s, bool(dropped), tuple(self._open))

    def end_rest(self) -> None:
        """End the rest after a failure: its cause may have been repaired."""
        self._rest_s, self._rests_until = 0.0, None

    def _is_resting(self, now: datetime) -> bool:
        if self._rests_until is None:
            return False
        # The clock may have been set back since. No rest is longer for that.
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
        return StartRuns(start, tuple(windows.overtaken(self.plan, started))) if started else None

    def _fix_start(self, now: datetime) -> datetime | None:
        """Return the start of a tenant that was never read; None for any other."""
        if self._start is None or self.plan.is_read:
            return None
        start = self._start if isinstance(self._start, datetime) else now + self._start
        self.plan = windows.start_earlier(self.plan, self._rules, start, now)
        return self.plan.start

    def _next_slice(self, now: datetime) -> ReadSlice | None:
        """Open the next slice as far as allowed. If several may be open, one is reserved for the live sweep."""
        first = (self.plan.start - EPOCH) // _HOUR
        counts = self._rows_per_hour(first, (now - EPOCH) // _HOUR + 1)
        sizes = Sizes(counts, first, self.plan.coverage, self._rows_per_second)
        live, others = slices.room(self._open, self._concurrency)
        piece = slices.next_slice(self.plan, self._rules, self._open, sizes, now, live=live, others=others)
        if piece is None:
            return None
        unread = tuple(self._unread(piece))
        self._open[piece] = _OpenSlice(unread)
        is_known = failing_ranges.is_known(self.plan.failing_ranges, piece.window)
        return ReadSlice(piece, 1 if is_known else _ATTEMPTS, unread)

    def _unread(self, piece: Slice) -> list[Window]:
        """Return the call time of a slice that was never read, whose rows therefore do not count towards lateness.

        All of a backfill's window counts as never read. A step of usual length of a live sweep does not: its rows are
        on time.
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
        """Return the outcome with the call time that was isolated, or is included in runs again, since `before`."""
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
