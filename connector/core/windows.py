"""Sweeps of a tenant: when their runs start, what a run has read, and how far each sweep is complete.

1. A sweep starts a run at the cadence `every`. The run reads all calls that began in the last `overlap`. It also reads
   the catch-up range before them, back to `through`, the call time up to which the sweep was complete. So every call
   that began before `through` was last read at least `overlap` after it began.
2. A run is done when coverage shows that all of its window was read since the run started. No other progress of a run
   is stored. A run therefore continues after a restart where it stopped. Call time that one sweep reads also counts for
   every other sweep that needs it.
3. When several sweeps are due at the same time, each piece of call time is read once, for the sweep with the shortest
   `every` that needs it. In this way a deep sweep replaces the shallow sweeps that it contains.
4. No window begins before the tenant's start, or before the call time that may still be read (`horizon.readable_from`).
   This is checked at every step. Call time that a sweep could not read in time is missed. The sweep then continues from
   a later `position`, but its `through` stays at the missed call time.
"""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import NamedTuple

from connector.core import failing_ranges, horizon, jobs
from connector.core.coverage import Coverage, Read, Window, clip
from connector.core.failing_ranges import FailingRanges, RangeFailure
from connector.core.instants import EPOCH

_EARLIEST = datetime.min.replace(tzinfo=UTC)
_SECOND = timedelta(seconds=1)
_SHORTEST_RUN = timedelta(seconds=10)
"Minimum age of a run before the next run may replace it, however short `every` is."
_MOST_READS = 4_000  # 150 kB of the tenant's state record


class Sweep(NamedTuple):
    """Schedule of a sweep: at the cadence `every`, it reads all calls that began in the last `overlap`."""

    every: timedelta
    overlap: timedelta


class Rules(NamedTuple):
    """Settings that determine what the sweeps of a tenant read. `sweeps` is sorted by `every`."""

    sweeps: tuple[Sweep, ...]
    settle: timedelta
    slice: timedelta
    horizon: timedelta


class Run(NamedTuple):
    """One run of a sweep. It is done when all of `window` was read at or after `started`."""

    started: datetime
    window: Window
    overtaken: datetime | None = None
    "Start of the previous run, if this run replaced it before it was done. Its unread call time is read first."


class SweepState(NamedTuple):
    """Progress of a sweep. Times are aware UTC."""

    sweep: Sweep
    through: datetime
    "Every call that began before this time was last read at least `overlap` after it began."
    due: datetime
    "Time at which the next run is due. While a run is in progress: the time at which that run was due."
    last_ok: datetime | None = None
    "Time at which the last successful run ended."
    run: Run | None = None
    "The run in progress if `running`, otherwise the last run."
    running: bool = False
    position: datetime | None = None
    "Call time from which the sweep continues. Set only when it is later than `through`, because call time was missed."
    missed: tuple[Window, ...] = ()
    """Missed call time: the parts before the position that were not read late enough, because they are isolated or lie
    behind the horizon. The oldest part comes first.
    """

    @property
    def resumes_at(self) -> datetime:
        """Return the call time from which the sweep continues."""
        return self.through if self.position is None else self.position

    def moved(self, position: datetime, missed: Iterable[Window]) -> "SweepState":
        """Let the sweep continue from the call time `position`, and return its new state.

        `missed` is call time that the sweep did not read, or read before all of its rows were visible. The sweep counts
        as complete (`through`) up to the first missed call time before `position`. Without missed call time, it counts
        as complete up to `position`.
        """
        kept = horizon.bounded(clip(missed, Window(_EARLIEST, position)))
        through = kept[0].start if kept else position
        return self._replace(through=through, position=position if position > through else None, missed=kept)


class State(NamedTuple):
    """State of a tenant's scheduler. It is immutable: each step returns a new state."""

    start: datetime
    "Calls that began before this time are never requested. It is fixed at the tenant's first start."
    sweeps: tuple[SweepState, ...]
    coverage: Coverage = Coverage()
    orders: jobs.Orders = jobs.Orders()
    failing_ranges: FailingRanges = ()
    forgotten_before: datetime = EPOCH
    """Rows of calls that began before this time may be missing from the deduplication index, because it forgets old
    rows.
    """

    @property
    def is_read(self) -> bool:
        """Return whether any call time of the tenant was read or a run has started."""
        return bool(self.coverage.reads) or any(sweep_state.run for sweep_state in self.sweeps)


class Slice(NamedTuple):
    """Call time that one page chain reads."""

    window: Window
    priority: int
    """Priority of the chain's requests. 0 is the most urgent: the live sweep. Then come the other sweeps, then catch-up
    and isolated ranges, then jobs.
    """
    at: datetime
    "Read time that coverage records: the start of the run, so it is never later than the time of the actual requests."
    job: str = ""
    "Id of the backfill that the slice belongs to; empty for a slice of a sweep."
    again: bool = False
    "True if the backfill also publishes rows that are already in the deduplication index."


def first_state(rules: Rules, start: datetime, now: datetime) -> State:
    """Return the state of a tenant that was never read."""
    oldest = horizon.readable_from(EPOCH, rules.horizon, now, horizon.MARGIN)
    begin = max(min(second(start), second(now)), oldest)
    return State(begin, tuple(SweepState(sweep, begin, second(now)) for sweep in rules.sweeps))


def start_earlier(state: State, rules: Rules, start: datetime, now: datetime) -> State:
    """Move the start of a tenant to an earlier time if the tenant was never read; return other states unchanged.

    The stored start can be too late if the clock was ahead when the tenant was first configured.
    """
    if state.is_read:
        return state
    first = first_state(rules, min(start, state.start), now)
    return state._replace(start=first.start, sweeps=first.sweeps)


def resume(state: State, rules: Rules, now: datetime) -> State:
    """Adapt a stored state to the current configuration after a restart.

    Sweeps that are not in `rules` are removed, and new sweeps are added. A run in progress is ended if it began at
    least one cadence ago, so that the next run can start.
    """
    known = {sweep_state.sweep: sweep_state for sweep_state in state.sweeps}
    sweeps = []
    for sweep in rules.sweeps:
        found = known.get(sweep)
        if found is None:
            found = _added_sweep(state, sweep, now)
        elif found.running and found.run is not None and now >= found.run.started + sweep.every:
            found = found._replace(running=False)
        sweeps.append(found)
    return state._replace(sweeps=tuple(sweeps))


def begin(state: State, rules: Rules, now: datetime) -> tuple[State, list[int]]:
    """Start a run of every sweep that is due. Return the new state and the indices of these sweeps.

    No run starts while the tenant is paused.
    """
    if state.orders.paused:
        return state, []
    now = second(now)
    floor = readable_from(state, rules, now)
    end = now - rules.settle
    if end <= floor:
        return state, []
    sweeps, started = list(state.sweeps), []
    for index, sweep_state in enumerate(sweeps):
        sweep = sweep_state.sweep
        former = sweep_state.run if sweep_state.running else None
        if now < _begins_at(sweep_state, now):
            continue
        own_start = max(end - sweep.overlap, floor)
        passed = _moved_past(sweep_state, state.coverage, max(sweep_state.resumes_at, floor))
        position = min(passed.resumes_at, own_start)
        # A short catch-up range is part of the run's window, and read newest first. A longer one, after an outage, is
        # left to slices, so that the sweep's own overlap is not delayed by it.
        is_short = position >= own_start - 2 * sweep.every
        run = Run(now, Window(position if is_short else own_start, end), former.started if former else None)
        moved = passed.moved(position, passed.missed)
        sweeps[index] = moved._replace(run=run, running=True, due=min(sweep_state.due, now))
        started.append(index)
    if not started:
        return state, []
    coverage = state.coverage.until(now).merged(partial(_has_no_effect, sweeps)).limited(_MOST_READS)
    ranges = failing_ranges.as_known(state.failing_ranges, floor, now)
    orders = jobs.expired(state.orders, now, *job_floors(state, rules, now))
    return state._replace(sweeps=tuple(sweeps), coverage=coverage, failing_ranges=ranges, orders=orders), started


def overtaken(state: State, started: Iterable[int]) -> list[int]:
    """Return the indices of those sweeps in `started` whose previous run was not done when the new run replaced it."""
    runs = ((index, state.sweeps[index].run) for index in started)
    return [index for index, run in runs if run is not None and run.overtaken is not None]


def range_failed(state: State, window: Window, failure: RangeFailure) -> State:
    """Record that a page of `window` could not be read. Return the new state."""
    return state._replace(failing_ranges=failing_ranges.failed(state.failing_ranges, window, failure))


def finish(state: State, slices: Iterable[tuple[Slice, bool]], now: datetime, rules: Rules) -> tuple[State, list[int]]:
    """Record that slices were read. Return the new state and the indices of the sweeps whose run is now done.

    The second value of each pair in `slices` is True if the paging of the slice was stable.
    """
    coverage = state.coverage
    orders = state.orders
    ranges = state.failing_ranges
    for piece, steady in slices:
        ranges = failing_ranges.succeeded(ranges, piece.window, now)
        for window in _countable(state, piece):
            coverage = coverage.add(window, piece.at, steady=steady)
            if piece.job:
                orders = jobs.progressed(orders, piece.job, window, second(now))
    orders = jobs.expired(orders, second(now), *job_floors(state, rules, now))
    floor = readable_from(state, rules, now)
    isolated = failing_ranges.isolated(ranges)
    # Isolated ranges count as read here, so that they hold up neither runs nor positions. `_moved_past` uses the real
    # coverage, which records them as missed.
    passable = coverage.with_passable(isolated)
    sweeps, ended = list(state.sweeps), []
    for index, former in enumerate(sweeps):
        sweep, run = former.sweep, former.run
        position = passable.complete_through(max(former.resumes_at, floor), sweep.overlap)
        moved = _moved_past(former, coverage, position)
        if run is not None and former.running and not unread(passable, run, floor):
            moved = moved._replace(due=run.started + sweep.every, last_ok=second(now), running=False)
            ended.append(index)
        sweeps[index] = moved
    return state._replace(sweeps=tuple(sweeps), coverage=coverage, orders=orders, failing_ranges=ranges), ended


def command(state: State, order: jobs.Command, now: datetime, oldest: datetime) -> State:
    """Apply an operator's command and return the new state.

    A backfill reads no call time before `oldest`. The command `pause` ends the runs in progress.
    """
    orders = jobs.apply(state.orders, order, second(now), second(oldest), state.forgotten_before)
    state = state._replace(orders=orders)
    return drop_runs(state)[0] if orders.paused else state


def drop_runs(state: State) -> tuple[State, list[int]]:
    """Mark all runs in progress as failed. Return the new state and the indices of their sweeps.

    These sweeps are due again at once.
    """
    dropped = [index for index, sweep_state in enumerate(state.sweeps) if sweep_state.running]
    return state._replace(sweeps=tuple(s._replace(running=False) for s in state.sweeps)), dropped


def next_due(state: State) -> datetime | None:
    """Return when the next sweep is due; None if every sweep has a run in progress."""
    return min((s.due for s in state.sweeps if not s.running), default=None)


def next_turn(state: State, rules: Rules, now: datetime) -> datetime | None:
    """Return when a run can start or a failing range may be requested again, whichever is first.

    Return None while the tenant is paused.
    """
    if state.orders.paused:
        return None
    due = max(min(_begins_at(s, now) for s in state.sweeps), state.start + rules.settle + _SECOND)
    retry = failing_ranges.next_retry(state.failing_ranges, now)
    return due if retry is None else min(due, retry)


def overdue_seconds(sweep_state: SweepState, now: datetime) -> float:
    """Return by how many seconds a run exceeds its time limit; 0 if it does not.

    A run must end at most one cadence (`every`) after it was due.
    """
    return max(0.0, (now - sweep_state.due - sweep_state.sweep.every).total_seconds())


def gaps(state: State) -> list[Window]:
    """Return the gaps: call time that was never read although it is older than the newest call time that was read."""
    through = state.coverage.through
    return state.coverage.missing(Window(state.start, through)) if through and through > state.start else []


def readable_from(state: State, rules: Rules, now: datetime) -> datetime:
    """Return the earliest call time that sweeps of the tenant may read."""
    return max(state.start, horizon.readable_from(state.forgotten_before, rules.horizon, now))


def job_floors(state: State, rules: Rules, now: datetime) -> tuple[datetime, datetime]:
    """Return the earliest call time that backfills may read: first without `again`, then with `again`.

    A backfill with `again` publishes known rows once more. A backfill without `again` must not read call time whose
    rows may be missing from the deduplication index.
    """
    floor = horizon.readable_from(state.forgotten_before, rules.horizon, now)
    return floor, second(now - rules.horizon)


def _countable(state: State, piece: Slice) -> list[Window]:
    """Return the part of a slice that coverage may record as read.

    Rows of calls that began before `forgotten_before` are not published, because the deduplication index may have
    forgotten them. Their call time must therefore not count as read. A backfill with `again` publishes such rows, so
    all of its call time counts.
    """
    window = piece.window
    if piece.again:
        return [window]
    return clip([window], Window(state.forgotten_before, max(window.end, state.forgotten_before)))


def _added_sweep(state: State, sweep: Sweep, now: datetime) -> SweepState:
    """Return the first state of a sweep that was added to the configuration.

    The new sweep skips call time that was already read late enough: at least its overlap after the calls began. Old
    sweeps with the same or a longer overlap have read all call time before their positions late enough, so the new
    sweep begins at the latest of these positions. From there, it skips what coverage shows as read late enough.
    Coverage alone is not sufficient: merged ranges show only their oldest read time, which is often too early.
    """
    found = SweepState(sweep, state.coverage.complete_through(state.start, sweep.overlap), second(now))
    for former in state.sweeps:
        if former.sweep.overlap >= sweep.overlap and former.resumes_at > found.resumes_at:
            found = found.moved(former.resumes_at, former.missed)
    return _moved_past(found, state.coverage, state.coverage.complete_through(found.resumes_at, sweep.overlap))


def _moved_past(sweep_state: SweepState, coverage: Coverage, position: datetime) -> SweepState:
    """Let a sweep continue from `position`. Earlier call time that was not read late enough becomes missed."""
    missed = list(sweep_state.missed)
    if sweep_state.resumes_at < position:
        missed.append(Window(sweep_state.resumes_at, position))
    overlap = sweep_state.sweep.overlap
    return sweep_state.moved(position, [part for window in missed for part in coverage.unripe(window, overlap)])


def unread(coverage: Coverage, run: Run, floor: datetime, since: datetime | None = None) -> list[Window]:
    """Return the parts of a run's window that were not read at or after `since`, oldest first.

    The default of `since` is the start of the run. Call time before `floor` is left out.
    """
    begin = max(run.window.start, floor)
    return coverage.missing(Window(begin, run.window.end), since or run.started) if begin < run.window.end else []


def _begins_at(sweep_state: SweepState, now: datetime) -> datetime:
    """Return when the sweep's next run begins: when it is due, or when a run in progress may be replaced."""
    every = sweep_state.sweep.every
    if sweep_state.running and sweep_state.run is not None:
        return sweep_state.run.started + max(every, _SHORTEST_RUN)
    # A due time that is further ahead than the cadence was recorded by a clock that has been set back since.
    return sweep_state.due if sweep_state.due <= now + every else now


def _has_no_effect(sweeps: Sequence[SweepState], read: Read, at: datetime) -> bool:
    """Return whether every sweep behaves the same if `read` is recorded with the earlier read time `at`."""
    for sweep_state in sweeps:
        overlap, run = sweep_state.sweep.overlap, sweep_state.run
        begins = [] if run is None else [run.started, run.overtaken]
        if any(since is not None and at < since <= read.at for since in begins):
            return False  # a run that counts the piece as read would read it again
        # Progress stays the same if the sweep is past the piece, or if at both times all of it (or none) is old enough.
        is_passed = read.end <= sweep_state.resumes_at
        is_ripe, is_unripe = read.end <= at - overlap, read.start >= read.at - overlap
        if not (is_passed or is_ripe or is_unripe):
            return False
    return True


def halves(window: Window) -> list[Window]:
    """Split a window into two halves. A window of one second is returned as a list of one window."""
    middle = second(window.start + (window.end - window.start) / 2)
    return [w for w in (Window(window.start, middle), Window(middle, window.end)) if w.start < w.end]


def replaced_by(started: Sequence[int], rules: Rules) -> int | None:
    """Return the index of the sweep with the longest overlap among the sweeps in `started`; None if `started` is empty.

    Sweeps that start together are read as one: the run with the longest overlap also reads the windows of the others.
    """
    return max(started, key=lambda index: rules.sweeps[index].overlap, default=None)


def second(moment: datetime) -> datetime:
    """Return `moment` rounded down to a whole second."""
    return moment.replace(microsecond=0)
