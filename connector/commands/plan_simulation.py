"""Simulation of a tenant's sweeper and of its Graph, in simulated time.

The scheduler decides what to read next, and `budget.Budget` when a request may leave. The simulation adds Graph: how
many rows it shows, and a fixed response time. The most urgent request leaves first.
"""

import heapq
import math
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from connector.commands.plan_volume import ROWS_A_PAGE, Calls
from connector.core import slices, windows
from connector.core.budget import Budget
from connector.core.coverage import Window
from connector.core.instants import EPOCH
from connector.core.slices import Sizes
from connector.core.windows import Rules, Slice, State

if TYPE_CHECKING:
    from numpy.typing import NDArray

ANSWER_S = 0.5
_HOUR = timedelta(hours=1)
_UNBOUND = 1e6
_SOON_S = 1e-6
_COUNT_AGAIN_S = 300.0
_TIMES_READ = 3  # like the sweeper: a chain without stable paging is read again, at most twice
_SEED = 1
_LAST_DAY = Window(EPOCH, EPOCH + timedelta(days=1))


class _Chain:
    __slots__ = ("began_s", "left", "order", "pages", "piece", "times")

    def __init__(self, piece: Slice) -> None:
        self.piece = piece
        self.left = 0
        self.pages = 0
        self.times = 0
        self.began_s = 0.0
        self.order = 0


class SliceRun(NamedTuple):
    """Slice that was read."""

    window: Window
    began_s: float
    ended_s: float


class RunEnded(NamedTuple):
    """Run of a sweep that ended."""

    sweep: int
    started_s: float
    ended_s: float


class Simulation:
    """Sweeper of one tenant together with its Graph. Times are seconds since `begin`."""

    def __init__(
        self,
        rules: Rules,
        calls: Calls,
        requests_per_minute: float | None,
        concurrency: int,
        begin: datetime,
        state: State,
    ) -> None:
        """Prepare a simulation that continues from `state`.

        Without `requests_per_minute` requests are not held back, and all pages of a chain come in one step.
        """
        self.late: set[int] = set()
        "Sweeps with a run that had not ended when the sweep was due again."
        self.state = state
        self.time_s = 0.0
        self.requests: list[tuple[float, int]] = []
        "Time of each request, and the index of its sweep."
        self.reads: list[SliceRun] = []
        self.runs: list[RunEnded] = []
        self._rules = rules
        self._calls = calls
        self._concurrency = concurrency
        self._begin = begin
        self._is_bound = requests_per_minute is not None
        self._budget = Budget(requests_per_minute or _UNBOUND, 0.0)
        self._chains: dict[Slice, _Chain] = {}
        self._waiting: list[_Chain] = []
        self._asked: list[tuple[float, int, _Chain]] = []
        self._random = np.random.default_rng(_SEED)
        self._order = 0
        self._awake = True
        self._counted_s = -_COUNT_AGAIN_S
        self._first_hour = 0
        self._counts: NDArray[np.int64] = np.zeros(0, np.int64)
        day = (begin - EPOCH) // _HOUR
        # The guess that the sweeper makes after its first start. Settled sweeps do not make another one.
        self._guess = slices.next_guess(_LAST_DAY, int(calls.per_hour(day - 24, day, begin).sum()))

    def run(
        self, until_s: float, *, sweep: int | None = None, since_s: float = 0.0, stop_when_late: bool = False
    ) -> None:
        """Continue until a time, or until a run of `sweep` that started at `since_s` or later has ended."""
        while True:
            if self._awake:
                self._awake = False
                self._turn()
            at_s = self._next()
            if at_s >= until_s:
                self.time_s = until_s
                return
            self.time_s = max(self.time_s, at_s)
            self._happen()
            if stop_when_late and self.late:
                return
            if sweep is not None and self.runs and self.runs[-1].sweep == sweep and self.runs[-1].started_s >= since_s:
                return

    @property
    def now(self) -> datetime:
        """Return the time of the simulated wall clock."""
        return self._begin + timedelta(seconds=self.time_s)

    def open_runs(self) -> list[RunEnded]:
        """Return the runs in progress, as if they ended now."""
        return [
            RunEnded(index, self._since(s.run.started), self.time_s)
            for index, s in enumerate(self.state.sweeps)
            if s.running and s.run is not None
        ]

    def _turn(self) -> None:
        """Start the sweeps that are due and open chains, as the sweeper does when it wakes up."""
        self.late |= {run.sweep for run in self.open_runs() if self._overran(run)}
        self.state, started = windows.begin(self.state, self._rules, self.now)
        self.late |= set(windows.overtaken(self.state, started))
        now = self.now
        while True:
            sizes = self._sizes(now)
            live, others = slices.room(self._chains, self._concurrency)
            piece = slices.next_slice(self.state, self._rules, list(self._chains), sizes, now, live=live, others=others)
            if piece is None:
                return
            chain = self._chains[piece] = _Chain(piece)
            self._wait(chain)

    def _sizes(self, now: datetime) -> Sizes:
        if self.time_s >= self._counted_s + _COUNT_AGAIN_S:
            self._counted_s = self.time_s
            self._first_hour = (self.state.start - EPOCH) // _HOUR
            self._counts = self._calls.per_hour(self._first_hour, (now - EPOCH) // _HOUR + 1, now)
        return Sizes(self._counts, self._first_hour, self.state.coverage, self._guess)

    def _wait(self, chain: _Chain) -> None:
        self._order += 1
        chain.order = self._order
        self._waiting.append(chain)

    def _next(self) -> float:
        times = [self._asked[0][0]] if self._asked else []
        if self._waiting:
            times.append(self.time_s + self._budget.delay_s(self.time_s))
        due = windows.next_due(self.state)
        if due is not None:
            times.append(max(self.time_s, self._since(due)))
        return min(times)

    def _happen(self) -> None:
        if self._asked and self._asked[0][0] <= self.time_s:
            _, _, chain = heapq.heappop(self._asked)
            chain.left -= 1
            if chain.left or self._shifted(chain):
                self._wait(chain)
            else:
                self._ended(chain)
        elif self._waiting and self._budget.delay_s(self.time_s) <= _SOON_S:
            chain = min(self._waiting, key=lambda waiting: (waiting.piece.priority, waiting.order))
            self._waiting.remove(chain)
            self._budget.sent(self._budget.take(self.time_s), self.time_s)
            if not chain.left:
                chain.began_s = self.time_s
                chain.times += 1
                rows = self._calls.count(chain.piece.window, self.now)
                chain.pages = chain.left = max(1, -(-rows // ROWS_A_PAGE))
            pages = 1 if self._is_bound else chain.pages
            chain.left -= pages - 1
            self.requests += [(self.time_s, chain.piece.priority % len(self.state.sweeps))] * pages
            heapq.heappush(self._asked, (self.time_s + pages * ANSWER_S, chain.order, chain))
        else:
            self._awake = True

    def _shifted(self, chain: _Chain) -> bool:
        """Return whether a chain must be read again, because rows that appeared moved others to another page."""
        if chain.times == _TIMES_READ:
            return False
        began = self._begin + timedelta(seconds=chain.began_s + ANSWER_S)
        rows = self._calls.inserted(chain.piece.window, chain.pages, began, self.now)
        return rows > 0 and self._random.random() < -math.expm1(-rows)

    def _ended(self, chain: _Chain) -> None:
        del self._chains[chain.piece]
        before = self.state.sweeps
        self.state, ended = windows.finish(self.state, [(chain.piece, True)], self.now, self._rules)
        self.reads.append(SliceRun(chain.piece.window, chain.began_s, self.time_s))
        for index in ended:
            run = before[index].run
            if run is not None:
                self.runs.append(RunEnded(index, self._since(run.started), self.time_s))
                self.late |= {index} if self._overran(self.runs[-1]) else set()
        self._awake = True

    def _overran(self, run: RunEnded) -> bool:
        return run.ended_s - run.started_s > self._rules.sweeps[run.sweep].every.total_seconds()

    def _since(self, moment: datetime) -> float:
        return (moment - self._begin).total_seconds()
