"""Simulation of a tenant's sweeper and its Graph, in simulated time.

The scheduler of the service decides what to read next, and `budget.Budget` decides when a request may be sent. The
requests are sent in the order of their priority. Graph is simulated: `plan_volume.Calls` states how many rows it has at
any time, and every response takes the same time.
"""

import heapq
import math
from datetime import datetime, timedelta
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from connector.commands.plan_volume import ROWS_A_PAGE, Calls
from connector.core import slices
from connector.core.budget import Budget
from connector.core.coverage import Window
from connector.core.instants import EPOCH
from connector.core.scheduler import LearnTime, ReadSlice, Scheduler, StartRuns, Stop, Wait
from connector.core.windows import Rules, Slice, State

ANSWER_S = 0.5
_HOUR = timedelta(hours=1)
_UNBOUND = 1e6
_SOON_S = 1e-6
_COUNT_AGAIN_S = 300.0
_SHORTEST_SLEEP_S = 0.2  # like the sweeper
_SEED = 1
_LAST_DAY = Window(EPOCH, EPOCH + timedelta(days=1))


class _Chain:
    __slots__ = ("began_s", "left", "order", "pages", "piece", "rows")

    def __init__(self, piece: Slice) -> None:
        self.piece = piece
        self.left = 0
        self.pages = 0
        self.rows = 0
        self.began_s = 0.0
        self.order = 0


class SliceRun(NamedTuple):
    """Slice of a window that the simulation has read completely, with the begin and the end of the read in seconds."""

    window: Window
    began_s: float
    ended_s: float


class RunEnded(NamedTuple):
    """Run of a sweep with its start and its end in seconds. `sweep` is the index of the sweep."""

    sweep: int
    started_s: float
    ended_s: float


class Simulation:
    """Simulated sweeper and Graph of one tenant. Times in seconds count from `begin`."""

    def __init__(
        self,
        rules: Rules,
        calls: Calls,
        requests_per_minute: float | None,
        concurrency: int,
        begin: datetime,
        state: State,
    ) -> None:
        """Prepare a simulation that starts with `state`.

        If `requests_per_minute` is None, there is no request budget, and all pages of a page chain are read in one
        step.
        """
        self.late: set[int] = set()
        "Indexes of the sweeps that were due again before their run had ended."
        self.time_s = 0.0
        self.requests: list[tuple[float, int]] = []
        "Time of each request in seconds, with the index of its sweep."
        self.reads: list[SliceRun] = []
        self.runs: list[RunEnded] = []
        self._rules = rules
        self._calls = calls
        self._begin = begin
        self._is_bound = requests_per_minute is not None
        self._budget = Budget(requests_per_minute or _UNBOUND, 0.0)
        self._waiting: list[_Chain] = []
        self._in_flight: list[tuple[float, int, _Chain]] = []
        self._random = np.random.default_rng(_SEED)
        self._order = 0
        self._wakes_s = 0.0
        self._counted_s = -_COUNT_AGAIN_S
        self._counts: NDArray[np.int64] = np.zeros(0, np.int64)
        day = (begin - EPOCH) // _HOUR
        # For a tenant that was read for a day, the scheduler would guess this rate.
        guess = slices.next_guess(_LAST_DAY, int(calls.per_hour(day - 24, day, begin).sum()))
        self._scheduler = Scheduler(state, rules, concurrency, self._rows_per_hour, rows_per_second=guess)

    def run(
        self, until_s: float, *, sweep: int | None = None, since_s: float = 0.0, stop_when_late: bool = False
    ) -> None:
        """Continue the simulation until the time `until_s`.

        With `sweep` (an index), stop when that sweep has ended a run that began at `since_s` or later. With
        `stop_when_late`, stop when a sweep is due again before its run has ended.
        """
        while True:
            if self._wakes_s <= self.time_s:
                self._wake_up()
            at_s = self._next_event_s()
            if at_s >= until_s:
                self.time_s = until_s
                return
            self.time_s = max(self.time_s, at_s)
            self._process_event()
            if stop_when_late and self.late:
                return
            if sweep is not None and self.runs and self.runs[-1].sweep == sweep and self.runs[-1].started_s >= since_s:
                return

    @property
    def now(self) -> datetime:
        """The simulated time as a datetime."""
        return self._begin + timedelta(seconds=self.time_s)

    def open_runs(self) -> list[RunEnded]:
        """Return the sweep runs that are still in progress, as if each ended at the current simulated time."""
        return [
            RunEnded(index, self._since(s.run.started), self.time_s)
            for index, s in enumerate(self._scheduler.plan.sweeps)
            if s.running and s.run is not None
        ]

    def _wake_up(self) -> None:
        """Start due sweeps, and start to read new page chains, as the sweeper does each time it wakes up."""
        self.late |= {run.sweep for run in self.open_runs() if self._overran(run)}
        while True:
            match self._scheduler.next(self.now):
                case StartRuns(overtaken=overtaken):
                    self.late |= set(overtaken)
                case ReadSlice(slice=piece):
                    self._enqueue(_Chain(piece))
                case Wait(until=until):
                    due_s = math.inf if until is None else self._since(until)
                    self._wakes_s = max(self.time_s + _SHORTEST_SLEEP_S, due_s)
                    return
                case LearnTime() | Stop():
                    raise AssertionError("the time is known, and the sweeps never stop")

    def _rows_per_hour(self, first: int, end: int) -> NDArray[np.int64]:
        if self.time_s >= self._counted_s + _COUNT_AGAIN_S:
            self._counted_s = self.time_s
            self._counts = self._calls.per_hour(first, end, self.now)
        return self._counts

    def _enqueue(self, chain: _Chain) -> None:
        self._order += 1
        chain.order = self._order
        self._waiting.append(chain)

    def _next_event_s(self) -> float:
        times = [self._in_flight[0][0]] if self._in_flight else []
        if self._waiting:
            times.append(self.time_s + self._budget.delay_s(self.time_s))
        return min([*times, self._wakes_s])

    def _process_event(self) -> None:
        if self._in_flight and self._in_flight[0][0] <= self.time_s:
            _, _, chain = heapq.heappop(self._in_flight)
            chain.left -= 1
            if chain.left or self._scheduler.repeats(chain.piece, repeated=self._shifted(chain)):
                self._enqueue(chain)
            else:
                self._finish(chain)
        elif self._waiting and self._budget.delay_s(self.time_s) <= _SOON_S:
            chain = min(self._waiting, key=lambda waiting: (waiting.piece.priority, waiting.order))
            self._waiting.remove(chain)
            self._budget.sent(self._budget.take(self.time_s), self.time_s)
            if not chain.left:
                chain.began_s = self.time_s
                chain.rows = self._calls.count(chain.piece.window, self.now)
                chain.pages = chain.left = max(1, -(-chain.rows // ROWS_A_PAGE))
            pages = 1 if self._is_bound else chain.pages
            chain.left -= pages - 1
            self.requests += [(self.time_s, chain.piece.priority % len(self._rules.sweeps))] * pages
            heapq.heappush(self._in_flight, (self.time_s + pages * ANSWER_S, chain.order, chain))

    def _shifted(self, chain: _Chain) -> bool:
        """Decide at random whether rows that appeared during the read have shifted other rows to another page.

        The probability follows from the expected number of such rows.
        """
        began = self._begin + timedelta(seconds=chain.began_s + ANSWER_S)
        rows = self._calls.inserted(chain.piece.window, chain.pages, began, self.now)
        return rows > 0 and self._random.random() < -math.expm1(-rows)

    def _finish(self, chain: _Chain) -> None:
        before = self._scheduler.plan.sweeps
        outcome = self._scheduler.finished(chain.piece, chain.rows, self.now)
        self.reads.append(SliceRun(chain.piece.window, chain.began_s, self.time_s))
        for index in outcome.ended:
            run = before[index].run
            if run is not None:
                self.runs.append(RunEnded(index, self._since(run.started), self.time_s))
                self.late |= {index} if self._overran(self.runs[-1]) else set()
        self._wakes_s = self.time_s

    def _overran(self, run: RunEnded) -> bool:
        return run.ended_s - run.started_s > self._rules.sweeps[run.sweep].every.total_seconds()

    def _since(self, moment: datetime) -> float:
        return (moment - self._begin).total_seconds()
