"""Sweeps of a tenant: when their runs start, what a run has read, and how far each sweep is complete.

1. Every `every` a sweep reads all calls that began in the last `overlap`, and the catch-up range back to where its last
   run was complete. So `through` holds exactly: every call that began before it was last read at least `overlap` after
   it began.
2. A run is done when coverage shows that all of its window was read since it started. No other progress of a run is
   kept. A run therefore continues after a restart where it stopped, and what one sweep reads serves every other sweep
   that needs it.
3. Sweeps that are due together read each piece once, for the sweep with the shortest `every` that needs it. In this way
   a deep sweep replaces the shallow ones that it contains.
4. No window begins before the tenant's start or before what may still be read (horizon.readable_from), at any step.
   Call time that a sweep could not read in time is missed: the sweep's position moves past it, its `through` does not.
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
"Minimum age at which a run can be replaced by the next one, however short `every` is."
_MOST_READS = 4_000  # 150 kB of the tenant's state record


class Sweep(NamedTuple):
    """Schedule that reads again, every `every`, all calls that began in the last `overlap`."""

    every: timedelta
    overlap: timedelta


class Rules(NamedTuple):
    """Configuration of a tenant's sweeps, in order of `every`."""

    sweeps: tuple[Sweep, ...]
    settle: timedelta
    slice: timedelta
    horizon: timedelta


class Run(NamedTuple):
    """One run of a sweep: all of the window must be read at or after `started`."""

    started: datetime
    window: Window
    overtaken: datetime | None = None
    "Start of the run that this one replaced before it had ended. What that run did not reach is read first."


class SweepState(NamedTuple):
    """Progress of a sweep. Times are aware UTC."""

    sweep: Sweep
    through: datetime
    "Every call that began before this was last read at least the overlap after it began."
    due: datetime
    "Time at which the next run is due or, during a run, at which this run was due."
    last_ok: datetime | None = None
    "Time at which the last run ended."
    run: Run | None = None
    "The run in progress, or the last one."
    running: bool = False
    position: datetime | None = None
    "Set, and later than `through`, when the sweep continues after call time that it missed."
    missed: tuple[Window, ...] = ()
    "Call time before the position that was not read late enough, isolated or behind the horizon; oldest first."

    @property
    def resumes_at(self) -> datetime:
        """Return the call time from which the sweep continues."""
        return self.through if self.position is None else self.position

    def moved(self, position: datetime, missed: Iterable[Window]) -> "SweepState":
        """Return the state of the sweep at `position`.

        It is complete up to the first call time that it missed before that.
        """
        kept = horizon.bounded(clip(missed, Window(_EARLIEST, position)))
        through = kept[0].start if kept else position
        return self._replace(through=through, position=position if position > through else None, missed=kept)


class State(NamedTuple):
    """State of a tenant's scheduler. It is immutable: each step returns a new one."""

    start: datetime
    "Calls before this are never requested; fixed at the first start."
    sweeps: tuple[SweepState, ...]
    coverage: Coverage = Coverage()
    orders: jobs.Orders = jobs.Orders()
    failing_ranges: FailingRanges = ()
    forgotten_before: datetime = EPOCH
    "The deduplication index may have forgotten rows of calls that began before this."

    @property
    def is_read(self) -> bool:
        """Return whether the tenant was ever read, or a run has started."""
        return bool(self.coverage.reads) or any(sweep_state.run for sweep_state in self.sweeps)


class Slice(NamedTuple):
    """One page chain to read."""

    window: Window
    priority: int
    "Priority of its requests: 0 is the live sweep; other sweeps, catch-up and isolated ranges, and jobs follow."
    at: datetime
    "Read time for coverage: when the run started, which is never later than the actual time."
    job: str = ""
    "Id of the backfill that it belongs to."
    again: bool = False
    "True if this backfill also publishes rows that are in the deduplication index."


def first_state(rules: Rules, start: datetime, now: datetime) -> State:
    """Return the state of a tenant that was never read."""
    oldest = horizon.readable_from(EPOCH, rules.horizon, now, horizon.MARGIN)
    begin = max(min(second(start), second(now)), oldest)
    return State(begin, tuple(SweepState(sweep, begin, second(now)) for sweep in rules.sweeps))


def start_earlier(state: State, rules: Rules, start: datetime, now: datetime) -> State:
    """Return a state that was never read with an earlier start; any other state is returned unchanged.

    A clock that was ahead may have set the start of the state.
    """
    if state.is_read:
        return state
    first = first_state(rules, min(start, state.start), now)
    return state._replace(start=first.start, sweeps=first.sweeps)


def resume(state: State, rules: Rules, now: datetime) -> State:
    """Return a stored state under the current rules: runs that are too old end, sweeps follow the configuration."""
    known = {sweep_state.sweep: sweep_state for sweep_state in state.sweeps}
    sweeps = []
    for sweep in rules.sweeps:
        found = known.get(sweep)
        if found is None:
            found = _taken_over(state, sweep, now)
        elif found.running and found.run is not None and now >= found.run.started + sweep.every:
            found = found._replace(running=False)
        sweeps.append(found)
    return state._replace(sweeps=tuple(sweeps))


def begin(state: State, rules: Rules, now: datetime) -> tuple[State, list[int]]:
    """Start a run of every sweep that is due; return the state and the indices of these sweeps.

    A paused tenant starts none.
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
        passed = _passed(sweep_state, state.coverage, max(sweep_state.resumes_at, floor))
        position = min(passed.resumes_at, own_start)
        # A short catch-up range is part of the run's window, and read newest first. A longer one, after an outage, is
        # left to slices, so that the sweep's own overlap is not delayed by it.
        is_strip = position >= own_start - 2 * sweep.every
        run = Run(now, Window(position if is_strip else own_start, end), former.started if former else None)
        moved = passed.moved(position, passed.missed)
        sweeps[index] = moved._replace(run=run, running=True, due=min(sweep_state.due, now))
        started.append(index)
    if not started:
        return state, []
    coverage = state.coverage.until(now).merged(partial(_is_alike, sweeps)).limited(_MOST_READS)
    ranges = failing_ranges.as_known(state.failing_ranges, floor, now)
    orders = jobs.expired(state.orders, now, *job_floors(state, rules, now))
    return state._replace(sweeps=tuple(sweeps), coverage=coverage, failing_ranges=ranges, orders=orders), started


def overtaken(state: State, started: Iterable[int]) -> list[int]:
    """Return which of the sweeps that just started replaced a run of their own that had not ended."""
    runs = ((index, state.sweeps[index].run) for index in started)
    return [index for index, run in runs if run is not None and run.overtaken is not None]


def range_failed(state: State, window: Window, failure: RangeFailure) -> State:
    """Return the state after a page of `window` could not be read."""
    return state._replace(failing_ranges=failing_ranges.failed(state.failing_ranges, window, failure))


def finish(state: State, slices: Iterable[tuple[Slice, bool]], now: datetime, rules: Rules) -> tuple[State, list[int]]:
    """Return the state after slices were read, and the indices of the sweeps whose run ended.

    Each slice comes with whether its paging was stable.
    """
    coverage = state.coverage
    orders = state.orders
    ranges = state.failing_ranges
    for piece, steady in slices:
        ranges = failing_ranges.succeeded(ranges, piece.window, now)
        for window in _claimed(state, piece):
            coverage = coverage.add(window, piece.at, steady=steady)
            if piece.job:
                orders = jobs.progressed(orders, piece.job, window, second(now))
    orders = jobs.expired(orders, second(now), *job_floors(state, rules, now))
    floor = readable_from(state, rules, now)
    isolated = failing_ranges.isolated(ranges)
    # Isolated ranges count as read here, so that they hold up neither runs nor positions. `_passed` uses the real
    # coverage, which records them as missed.
    passable = coverage.with_passable(isolated)
    sweeps, ended = list(state.sweeps), []
    for index, former in enumerate(sweeps):
        sweep, run = former.sweep, former.run
        position = passable.complete_through(max(former.resumes_at, floor), sweep.overlap)
        moved = _passed(former, coverage, position)
        if run is not None and former.running and not unread(passable, run, floor):
            moved = moved._replace(due=run.started + sweep.every, last_ok=second(now), running=False)
            ended.append(index)
        sweeps[index] = moved
    return state._replace(sweeps=tuple(sweeps), coverage=coverage, orders=orders, failing_ranges=ranges), ended


def command(state: State, order: jobs.Command, now: datetime, oldest: datetime) -> State:
    """Return the state after an operator's command.

    A job's range is cut at `oldest`. Pausing ends the runs in progress.
    """
    orders = jobs.apply(state.orders, order, second(now), second(oldest), state.forgotten_before)
    state = state._replace(orders=orders)
    return drop_runs(state)[0] if orders.paused else state


def drop_runs(state: State) -> tuple[State, list[int]]:
    """Return the state without its runs in progress, which failed, and the indices of their sweeps.

    The sweeps are due again at once.
    """
    dropped = [index for index, sweep_state in enumerate(state.sweeps) if sweep_state.running]
    return state._replace(sweeps=tuple(s._replace(running=False) for s in state.sweeps)), dropped


def next_due(state: State) -> datetime | None:
    """Return when the next sweep is due; None when all have a run in progress."""
    return min((s.due for s in state.sweeps if not s.running), default=None)


def next_turn(state: State, rules: Rules, now: datetime) -> datetime | None:
    """Return when a sweep can start or a range be requested again; None while the tenant is paused."""
    if state.orders.paused:
        return None
    due = max(min(_begins_at(s, now) for s in state.sweeps), state.start + rules.settle + _SECOND)
    retry = failing_ranges.next_retry(state.failing_ranges, now)
    return due if retry is None else min(due, retry)


def overdue_seconds(sweep_state: SweepState, now: datetime) -> float:
    """Return for how long the sweep should have ended: a run must end before the sweep is due again."""
    return max(0.0, (now - sweep_state.due - sweep_state.sweep.every).total_seconds())


def gaps(state: State) -> list[Window]:
    """Return the gaps: the call time that was never read, up to the newest that was."""
    through = state.coverage.through
    return state.coverage.missing(Window(state.start, through)) if through and through > state.start else []


def readable_from(state: State, rules: Rules, now: datetime) -> datetime:
    """Return the instant from which on sweeps may read a tenant's call time."""
    return max(state.start, horizon.readable_from(state.forgotten_before, rules.horizon, now))


def job_floors(state: State, rules: Rules, now: datetime) -> tuple[datetime, datetime]:
    """Return the instants from which on a job may read: one that leaves out rows in the index, and one with `again`."""
    floor = horizon.readable_from(state.forgotten_before, rules.horizon, now)
    return floor, second(now - rules.horizon)


def _claimed(state: State, piece: Slice) -> list[Window]:
    """Return the part of a slice that counts as read.

    Rows of call time that may be forgotten are left out without `again`, so that this call time does not count.
    """
    window = piece.window
    if piece.again:
        return [window]
    return clip([window], Window(state.forgotten_before, max(window.end, state.forgotten_before)))


def _taken_over(state: State, sweep: Sweep, now: datetime) -> SweepState:
    """Return a new sweep that is as complete as the previous sweeps and coverage prove.

    Coverage alone proves little about old call time, since merged pieces keep the read time of their oldest reading.
    """
    found = SweepState(sweep, state.coverage.complete_through(state.start, sweep.overlap), second(now))
    for former in state.sweeps:
        if former.sweep.overlap >= sweep.overlap and former.resumes_at > found.resumes_at:
            found = found.moved(former.resumes_at, former.missed)
    return _passed(found, state.coverage, state.coverage.complete_through(found.resumes_at, sweep.overlap))


def _passed(sweep_state: SweepState, coverage: Coverage, position: datetime) -> SweepState:
    """Return a sweep that continues at `position`. Call time before it that was not read late enough is missed."""
    missed = list(sweep_state.missed)
    if sweep_state.resumes_at < position:
        missed.append(Window(sweep_state.resumes_at, position))
    overlap = sweep_state.sweep.overlap
    return sweep_state.moved(position, [part for window in missed for part in coverage.unripe(window, overlap)])


def unread(coverage: Coverage, run: Run, floor: datetime, since: datetime | None = None) -> list[Window]:
    """Return what a run has not read since it started, or since another instant; oldest first."""
    begin = max(run.window.start, floor)
    return coverage.missing(Window(begin, run.window.end), since or run.started) if begin < run.window.end else []


def _begins_at(sweep_state: SweepState, now: datetime) -> datetime:
    """Return when the sweep's next run begins: when it is due, or when the run in progress is too old."""
    every = sweep_state.sweep.every
    if sweep_state.running and sweep_state.run is not None:
        return sweep_state.run.started + max(every, _SHORTEST_RUN)
    # A due time more than one `every` ahead was recorded by a clock that has been set back since.
    return sweep_state.due if sweep_state.due <= now + every else now


def _is_alike(sweeps: Sequence[SweepState], read: Read, at: datetime) -> bool:
    """Return whether it makes no difference to any run if `read` counts as read at `at`, which is earlier."""
    for sweep_state in sweeps:
        overlap, run = sweep_state.sweep.overlap, sweep_state.run
        begins = [] if run is None else [run.started, run.overtaken]
        if any(since is not None and at < since <= read.at for since in begins):
            return False  # a run that counts the piece as read would read it again
        # Progress is the same if the sweep is past the piece, if all of it is old enough at either time, or none of it.
        is_passed = read.end <= sweep_state.resumes_at
        is_ripe, is_unripe = read.end <= at - overlap, read.start >= read.at - overlap
        if not (is_passed or is_ripe or is_unripe):
            return False
    return True


def halves(window: Window) -> list[Window]:
    """Return a window in two parts, or unchanged when it is one second long."""
    middle = second(window.start + (window.end - window.start) / 2)
    return [w for w in (Window(window.start, middle), Window(middle, window.end)) if w.start < w.end]


def replaced_by(started: Sequence[int], rules: Rules) -> int | None:
    """Return which of the sweeps that started together the others end with: the deepest one."""
    return max(started, key=lambda index: rules.sweeps[index].overlap, default=None)


def second(moment: datetime) -> datetime:
    """Return the whole second that `moment` lies in."""
    return moment.replace(microsecond=0)
