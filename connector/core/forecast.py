"""Forecast of what sweeps cost and achieve: the scheduler's own steps, run in simulated time.

1. No formula is used that the service could deviate from: `windows` decides what to read next, `budget.Budget` decides
   when a request may leave. The model adds Graph (how many rows it shows, a fixed response time) and the few rules of
   the sweeper: the number of concurrent chains, one chain reserved for the live sweep, the most urgent request first.
2. The model starts in a settled state, as if each sweep had just run. It warms up for at most a day and is measured
   after that.
3. A configuration that does not fit is also run without a budget, which shows the requests that it would need.
"""

import heapq
import math
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from connector.core import windows
from connector.core.budget import Budget
from connector.core.coverage import Coverage, Window
from connector.core.instants import EPOCH
from connector.core.lateness import Lateness
from connector.core.windows import Rules, Run, Sizes, Slice, State, Sweep, SweepState

ROWS_A_PAGE = 1_000
ANSWER_S = 0.5
LATE_S = (60, 600, 3_600, 10_800, 86_400, 172_800, 604_800)

_HOUR = timedelta(hours=1)
_DAY_S = 86_400.0
_LONGEST_SPAN_S = 7 * _DAY_S
_SHORTEST_RUNS = 10
_UNBOUND = 1e6
_SOON_S = 1e-6
_STEPS = 86_400
_NOISE = 4_096
_COUNT_AGAIN_S = 300.0
_REST_S = 3 * 3_600.0
_SHORT_S = 3_600.0
_ALIKE = 1.2
_SHARES = (0.75, 0.5, 0.35)
_LADDER = tuple(
    timedelta(minutes=m) for m in (1, 2, 5, 10, 15, 30, 60, 120, 180, 240, 360, 720, 1440, 2880, 4320, 10080)
)
_FEW_PAGES = 3
_HALVINGS = 8
_TIMES_READ = 3  # like the sweeper: a chain without stable paging is read again, at most twice
_SEED = 1
_LAST_DAY = Window(EPOCH, EPOCH + timedelta(days=1))


class Calls(Protocol):
    """Rows that a simulated Graph shows."""

    def count(self, window: Window, at: datetime) -> int:
        """Return the rows of calls that began in `window`, as shown at `at`."""

    def inserted(self, window: Window, pages: int, since: datetime, until: datetime) -> float:
        """Return the rows expected to appear on pages already read, while `pages` pages are read in order of start."""

    def per_hour(self, first: int, end: int, at: datetime) -> NDArray[np.int64]:
        """Return the rows shown for each of the hours `first` to `end` (excluded) since the epoch."""

    def weights(self, moments: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the density of calls at the given epoch seconds, in any unit."""


class Volume:
    """Calls that repeat in each cycle of hours. The hours of a cycle are counted from the epoch."""

    def __init__(self, per_hour: Sequence[float], lateness: Lateness | None = None, seed: int | None = None) -> None:
        """Set the calls per hour of one cycle.

        With `seed` the counts scatter like those of independent calls; without it calls come at even intervals.
        """
        self._seed = seed
        self._cycle = np.asarray(per_hour, np.float64)
        self._sums = np.concatenate([[0.0], np.cumsum(self._cycle)])
        self._lateness = lateness
        self._noise = None if seed is None else np.random.default_rng(seed).standard_normal(_NOISE)
        self._drawn = 0

    def scaled(self, factor: float) -> "Volume":
        """Return the same pattern with `factor` times as many calls."""
        return Volume((self._cycle * factor).tolist(), self._lateness, self._seed)

    @property
    def per_day(self) -> float:
        """Return the calls of an average day."""
        return float(self._cycle.mean() * 24)

    def count(self, window: Window, at: datetime) -> int:
        """Return the rows shown for a window."""
        if self._lateness is None and self._noise is None:
            until, since = math.floor(self._before(_hours(window.end)) + _SOON_S), self._before(_hours(window.start))
            return until - math.floor(since + _SOON_S)
        expected = self._expected(_hours(window.start), _hours(window.end), _hours(at))
        if self._noise is None:
            return round(expected)
        self._drawn = (self._drawn + 1) % _NOISE
        return max(0, round(expected + float(self._noise[self._drawn]) * math.sqrt(expected)))

    def inserted(self, window: Window, pages: int, since: datetime, until: datetime) -> float:
        """Return the rows expected to appear before a page boundary already read, on average over the boundaries."""
        if self._lateness is None or pages < 2:
            return 0.0
        start, end, first, last = (_hours(moment) for moment in (*window, since, until))
        # With many pages, on average half of the rows appear before a boundary. With few pages each boundary is
        # searched for: `low` is where the rows shown at `first` fill `page` pages.
        if pages > _FEW_PAGES:
            return (self._expected(start, end, last) - self._expected(start, end, first)) / 2
        rows = 0.0
        for page in range(1, pages):
            low, high = start, end
            for _ in range(_HALVINGS):
                middle = (low + high) / 2
                full = self._expected(start, middle, first) > page * ROWS_A_PAGE
                low, high = (low, middle) if full else (middle, high)
            rows += self._expected(start, low, last) - self._expected(start, low, first)
        return rows / (pages - 1)

    def per_hour(self, first: int, end: int, at: datetime) -> NDArray[np.int64]:
        """Return the rows shown for each whole hour."""
        edges = np.minimum(np.arange(first, end + 1, dtype=np.float64), _hours(at))
        return np.rint(self._shown(edges, self._cycle[np.arange(first, end) % len(self._cycle)], _hours(at))).astype(
            np.int64
        )

    def weights(self, moments: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the calls per hour."""
        return np.asarray(self._cycle[(moments // 3_600).astype(np.int64) % len(self._cycle)])

    def _before(self, hours: float) -> float:
        """Return the calls from the epoch up to `hours` after it."""
        cycles, rest = divmod(hours, len(self._cycle))
        whole = int(rest)
        return float(cycles * self._sums[-1] + self._sums[whole] + self._cycle[whole] * (rest - whole))

    def _expected(self, start: float, end: float, at: float) -> float:
        end = min(end, at)
        if self._lateness is None:
            return max(0.0, self._before(end) - self._before(start))
        # All rows of calls before `settled` have appeared.
        settled = min(max(start, at - self._lateness.latest_s / 3_600), end)
        shown = self._before(settled) - self._before(start)
        if settled < end:
            first, last = int(settled), int(np.ceil(end))
            edges = np.clip(np.arange(first, last + 1, dtype=np.float64), settled, end)
            shown += float(self._shown(edges, self._cycle[np.arange(first, last) % len(self._cycle)], at).sum())
        return max(0.0, shown)

    def _shown(self, edges: NDArray[np.float64], calls_an_hour: NDArray[np.float64], at: float) -> NDArray[np.float64]:
        if self._lateness is None:
            return np.asarray(calls_an_hour * np.diff(edges))
        # The share of rows that have appeared, integrated over the starts of the calls between two edges.
        return np.asarray(calls_an_hour * -np.diff(self._lateness.passed((at - edges) * 3_600)) / 3_600)


def evenly(calls_per_day: float) -> Volume:
    """Return calls at even intervals whose rows appear at once."""
    return Volume([calls_per_day / 24] * 24)


def as_they_came(
    rows_per_hour: NDArray[np.float64] | NDArray[np.int64], first: int, now: datetime, lateness: Lateness | None
) -> tuple[Volume, float]:
    """Return calls that come as those in the deduplication index did, and the seconds after which they repeat.

    `rows_per_hour` are the rows of the hours from `first` (since the epoch) on. The newest day is used only where there
    is no other, because some of its rows have not appeared yet. When a whole week is known its days may differ;
    otherwise each day is the average day.
    """
    hours = min(len(rows_per_hour), (now - EPOCH) // _HOUR - first)
    days = min(7, hours // 24 - 1) or min(1, hours // 24)
    if days < 1:
        known = rows_per_hour[:hours]
        return Volume([float(known.mean()) if len(known) else 0.0] * 24, lateness, _SEED), _DAY_S
    end = hours - 24 if hours // 24 > 1 else hours
    by_day = rows_per_hour[end - 24 * days : end].reshape(days, 24)
    totals = by_day.sum(axis=1)
    is_week = days == 7 and float(totals.max()) > _ALIKE * float(totals.min())
    cycle = by_day.ravel() if is_week else by_day.mean(axis=0)
    return Volume(np.roll(cycle, (first + end - 24 * days) % len(cycle)).tolist(), lateness, _SEED), len(
        cycle
    ) * 3_600.0


class Delay(NamedTuple):
    """Time until a row is read that appears `late_s` after its call began. None: it may never be read."""

    late_s: int
    worst_s: float | None
    expected_s: float | None


class Forecast(NamedTuple):
    """Result of a simulation. `requests_per_hour` has one value per sweep, in the order of the rules."""

    fits: bool
    requests_per_hour: tuple[float, ...]
    longest_run_s: tuple[float, ...]
    "Duration of the longest run of each sweep; of a run that never ended, its duration so far."
    late: tuple[int, ...]
    "Sweeps with a run that had not ended when the sweep was due again."
    delays: tuple[Delay, ...]

    @property
    def total(self) -> float:
        """Return the requests per hour of all sweeps."""
        return sum(self.requests_per_hour)


class _Chain:
    __slots__ = ("began_s", "left", "order", "pages", "piece", "times")

    def __init__(self, piece: Slice) -> None:
        self.piece = piece
        self.left = 0
        self.pages = 0
        self.times = 0
        self.began_s = 0.0
        self.order = 0


class _Read(NamedTuple):
    window: Window
    began_s: float
    ended_s: float


class _RunEnded(NamedTuple):
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
        self.reads: list[_Read] = []
        self.runs: list[_RunEnded] = []
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
        self._guess = windows.next_guess(_LAST_DAY, int(calls.per_hour(day - 24, day, begin).sum()))

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

    def open_runs(self) -> list[_RunEnded]:
        """Return the runs in progress, as if they ended now."""
        return [
            _RunEnded(index, self._since(s.run.started), self.time_s)
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
            live, others = windows.room(self._chains, self._concurrency)
            piece = windows.next_slice(
                self.state, self._rules, list(self._chains), sizes, now, live=live, others=others
            )
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
        self.reads.append(_Read(chain.piece.window, chain.began_s, self.time_s))
        for index in ended:
            run = before[index].run
            if run is not None:
                self.runs.append(_RunEnded(index, self._since(run.started), self.time_s))
                self.late |= {index} if self._overran(self.runs[-1]) else set()
        self._awake = True

    def _overran(self, run: _RunEnded) -> bool:
        return run.ended_s - run.started_s > self._rules.sweeps[run.sweep].every.total_seconds()

    def _since(self, moment: datetime) -> float:
        return (moment - self._begin).total_seconds()


def predict(
    rules: Rules, calls: Calls, requests_per_minute: float, concurrency: int, begin: datetime, *, cycle_s: float = 0.0
) -> Forecast:
    """Return what the rules cost and achieve with these calls, which repeat after `cycle_s`, at most a week.

    When all sweeps are short, the cycle is not simulated as a whole but in samples: one per hour of a day, or one per
    three hours of a week.
    """
    slowest_s = max(sweep.every.total_seconds() for sweep in rules.sweeps)
    if cycle_s < _DAY_S or slowest_s > _SHORT_S:
        return _predict(rules, calls, requests_per_minute, concurrency, begin, cycle_s)
    count = 24 if cycle_s == _DAY_S else 56
    begins = [begin + timedelta(seconds=number * cycle_s / count) for number in range(count)]
    parts = [_predict(rules, calls, requests_per_minute, concurrency, at, 0.0) for at in begins]
    weights = calls.weights(np.array([at.timestamp() for at in begins]))
    delays = []
    for of_late in zip(*(part.delays for part in parts), strict=True):
        worst = [delay.worst_s for delay in of_late if delay.worst_s is not None]
        expected = [delay.expected_s for delay in of_late if delay.expected_s is not None]
        # One sample in which such a row is not read means that it may never be read.
        if len(worst) < count:
            delays.append(Delay(of_late[0].late_s, None, None))
        else:
            mean = np.average(expected, weights=weights if weights.any() else None)
            delays.append(Delay(of_late[0].late_s, max(worst), float(mean)))
    return Forecast(
        fits=all(part.fits for part in parts),
        requests_per_hour=tuple(np.mean([part.requests_per_hour for part in parts], axis=0).tolist()),
        longest_run_s=tuple(np.max([part.longest_run_s for part in parts], axis=0).tolist()),
        late=tuple(sorted({sweep for part in parts for sweep in part.late})),
        delays=tuple(delays),
    )


def _predict(
    rules: Rules, calls: Calls, requests_per_minute: float, concurrency: int, begin: datetime, cycle_s: float
) -> Forecast:
    everys = [sweep.every.total_seconds() for sweep in rules.sweeps]
    slowest = max(range(len(everys)), key=everys.__getitem__)
    warm_s = min(everys[slowest], _DAY_S)
    least_s = min(_DAY_S, _SHORTEST_RUNS * everys[slowest], max(everys[slowest], _SHORT_S))
    span_s = min(max(everys[slowest], least_s, cycle_s), _LONGEST_SPAN_S)
    span = warm_s, warm_s + span_s
    simulation = Simulation(
        rules, calls, requests_per_minute, concurrency, begin, _settled(rules, begin, timedelta(seconds=warm_s))
    )
    simulation.run(span[1], stop_when_late=True)
    if simulation.late:
        # Nothing settles when the rules do not fit: measure the hours before the first late run, and let the simulation
        # continue for as long, so that rows which appeared in them can still be read.
        span = max(0.0, simulation.time_s - _REST_S), simulation.time_s
        simulation.run(span[1] + _REST_S)
        requests = _demand(rules, calls, concurrency, begin)
    else:
        # Rows that appear at the end of the span are read by the runs after it.
        simulation.run(span[1] + everys[slowest], sweep=slowest, since_s=span[1])
        counts = [0] * len(everys)
        for at_s, sweep in simulation.requests:
            counts[sweep] += span[0] <= at_s < span[1]
        requests = [3_600 * count / max(span_s, every_s) for count, every_s in zip(counts, everys, strict=True)]
    longest = [0.0] * len(everys)
    for run in simulation.runs + simulation.open_runs():
        if run.ended_s >= span[0]:
            longest[run.sweep] = max(longest[run.sweep], run.ended_s - run.started_s)
    return Forecast(
        fits=not simulation.late,
        requests_per_hour=tuple(requests),
        longest_run_s=tuple(longest),
        late=tuple(sorted(simulation.late)),
        delays=tuple(_delay(late_s, simulation, calls, begin, span) for late_s in LATE_S),
    )


def _demand(rules: Rules, calls: Calls, concurrency: int, begin: datetime) -> list[float]:
    """Return the requests per hour that each sweep would make if nothing held it back.

    These are the requests of one run, as often as the sweep is due.
    """
    everys = [sweep.every.total_seconds() for sweep in rules.sweeps]
    simulation = _run_each(rules, calls, None, concurrency, begin)
    counts, runs = [0] * len(everys), [0] * len(everys)
    for _, sweep in simulation.requests:
        counts[sweep] += 1
    for run in simulation.runs:
        runs[run.sweep] += 1
    return [3_600 * n / max(1, of) / every_s for n, of, every_s in zip(counts, runs, everys, strict=True)]


def _run_each(
    rules: Rules, calls: Calls, requests_per_minute: float | None, concurrency: int, begin: datetime
) -> Simulation:
    """Return a simulation that ran until the slowest sweep had ended a run or, with a budget, until a run was late.

    The slowest sweep is due after some runs of the others.
    """
    everys = [sweep.every.total_seconds() for sweep in rules.sweeps]
    slowest = max(range(len(everys)), key=everys.__getitem__)
    warm_s = min(everys[slowest], 2 * max((e for at, e in enumerate(everys) if at != slowest), default=everys[slowest]))
    settled = _settled(rules, begin, timedelta(seconds=warm_s))
    simulation = Simulation(rules, calls, requests_per_minute, concurrency, begin, settled)
    simulation.run(
        warm_s + everys[slowest], sweep=slowest, since_s=warm_s, stop_when_late=requests_per_minute is not None
    )
    return simulation


def _settled(rules: Rules, begin: datetime, warm: timedelta) -> State:
    """Return a state in which every sweep has just ended a run; those slower than `warm` are due after `warm`."""
    lasts = [begin - max(timedelta(), sweep.every - warm) for sweep in rules.sweeps]
    start = max(
        begin - rules.horizon, min(last - s.every - s.overlap for last, s in zip(lasts, rules.sweeps, strict=True))
    )
    coverage = Coverage()
    sweeps = []
    for last, sweep in sorted(zip(lasts, rules.sweeps, strict=True), key=lambda pair: pair[0]):
        window = Window(max(start, last - sweep.every - sweep.overlap), last - rules.settle)
        if window.start < window.end:
            coverage = coverage.add(window, last)
    for last, sweep in zip(lasts, rules.sweeps, strict=True):
        through = max(start, last - sweep.overlap)
        run = Run(last, Window(through, last - rules.settle))
        sweeps.append(SweepState(sweep, through, last + sweep.every, last, run))
    return State(start, tuple(sweeps), coverage)


def _delay(late_s: int, simulation: Simulation, calls: Calls, begin: datetime, span: tuple[float, float]) -> Delay:
    """Return when rows are read that appear `late_s` after their calls began, for each instant of the span."""
    step = max(1.0, (span[1] - span[0]) / _STEPS)
    turned_up = np.arange(span[0], span[1], step)
    found = np.full(len(turned_up), np.inf)
    for read in reversed(simulation.reads):  # in reverse: the earliest reading of a row is the one that counts
        start = (read.window.start - begin).total_seconds() + late_s
        end = min((read.window.end - begin).total_seconds() + late_s, read.began_s + step / 2)
        if start < end and end > span[0]:
            low, high = np.searchsorted(turned_up, (start, end))
            found[low:high] = np.minimum(found[low:high], read.ended_s)
    delay = found - turned_up
    weights = calls.weights(begin.timestamp() + turned_up - late_s)
    if not weights.any():
        weights = np.ones(len(turned_up))
    delay, weights = delay[weights > 0], weights[weights > 0]
    worst = float(delay.max())
    if not np.isfinite(worst):
        return Delay(late_s, None, None)
    return Delay(late_s, worst, float(np.average(delay, weights=weights)))


def _hours(moment: datetime) -> float:
    return (moment - EPOCH).total_seconds() / 3_600


def fit(rules: Rules, calls: Calls, requests_per_minute: float, concurrency: int, begin: datetime) -> bool:
    """Return whether every sweep ends before it is due again, tried on one run of the slowest sweep."""
    return not _run_each(rules, calls, requests_per_minute, concurrency, begin).late


def suggest(
    rules: Rules, calls: Calls, requests_per_minute: float, concurrency: int, begin: datetime, asked: Sequence[float]
) -> Rules | None:
    """Return similar rules that fit, with longer cadences or fewer sweeps; None where a few attempts find none.

    `asked` are the requests per hour that each sweep would need.
    """
    hours = requests_per_minute * 60
    for share in _SHARES:
        sweeps, costs = list(rules.sweeps), list(asked)
        while sum(costs) > share * hours and len(sweeps) > 1:
            worst = max(range(len(costs)), key=costs.__getitem__)
            slower = _slower(sweeps, worst)
            if slower is None:
                worst = min(worst, len(sweeps) - 2)  # the guarantee rests on the deepest sweep
                del sweeps[worst], costs[worst]
            else:
                costs[worst] *= sweeps[worst].every / slower
                sweeps[worst] = sweeps[worst]._replace(every=slower)
        changed = rules._replace(sweeps=tuple(sweeps))
        if sum(costs) <= share * hours and fit(changed, calls, requests_per_minute, concurrency, begin):
            return changed
    return None


def _slower(sweeps: Sequence[Sweep], index: int) -> timedelta | None:
    """Return the next longer cadence of a sweep; None when there is none.

    The cadence must stay shorter than that of the next sweep, and must not exceed the overlap: that would leave gaps.
    """
    longer = next((every for every in _LADDER if every > sweeps[index].every), None)
    if longer is None or (index + 1 < len(sweeps) and longer >= sweeps[index + 1].every):
        return None
    return longer if longer <= sweeps[index].overlap else None
