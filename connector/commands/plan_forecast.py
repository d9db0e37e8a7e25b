"""Forecast of the cost and the delay of sweeps. It runs the scheduler of the service in simulated time.

1. The scheduler that the service uses also decides what the simulation reads. The forecast has no formula of its own
   that could differ from the service.
2. The simulation starts as if each sweep had just ended a run. It runs for at most a day before measuring begins.
3. If the sweeps exceed the request budget, they are simulated a second time without a budget. This shows how many
   requests they need.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

import numpy as np

from connector.commands.plan_simulation import Simulation
from connector.commands.plan_volume import Calls
from connector.core.coverage import Coverage, Window
from connector.core.windows import Rules, Run, State, Sweep, SweepState

LATE_S = (60, 600, 3_600, 10_800, 86_400, 172_800, 604_800)

_DAY_S = 86_400.0
_LONGEST_SPAN_S = 7 * _DAY_S
_SHORTEST_RUNS = 10
_STEPS = 86_400
_REST_S = 3 * 3_600.0
_SHORT_S = 3_600.0
_SHARES = (0.75, 0.5, 0.35)
_LADDER = tuple(
    timedelta(minutes=m) for m in (1, 2, 5, 10, 15, 30, 60, 120, 180, 240, 360, 720, 1440, 2880, 4320, 10080)
)


class Delay(NamedTuple):
    """Time in seconds from the appearance of a row in Graph until the row is read.

    It applies to rows that appear `late_s` seconds after their calls began. `worst_s` is the longest delay and
    `expected_s` the mean. Both are None if some of these rows are never read.
    """

    late_s: int
    worst_s: float | None
    expected_s: float | None


class Forecast(NamedTuple):
    """Result of a simulation. `fits` is true if no sweep was due again before its run had ended.

    `requests_per_hour` and `longest_run_s` have one value per sweep, in the order of the sweeps in the rules.
    """

    fits: bool
    requests_per_hour: tuple[float, ...]
    longest_run_s: tuple[float, ...]
    "Duration of the longest run of each sweep. For a run that had not ended, it is the duration so far."
    late: tuple[int, ...]
    "Indexes of the sweeps that were due again before their run had ended."
    delays: tuple[Delay, ...]

    @property
    def total(self) -> float:
        """Return the requests per hour of all sweeps together."""
        return sum(self.requests_per_hour)


def predict(
    rules: Rules, calls: Calls, requests_per_minute: float, concurrency: int, begin: datetime, *, cycle_s: float = 0.0
) -> Forecast:
    """Simulate sweeps with the given rules and calls, and return their cost and delays.

    `concurrency` is the number of page chains that are read at the same time. `cycle_s` is the time in seconds, at most
    a week, after which the calls repeat. It is 0 if the calls are spread evenly.

    If no cadence is longer than an hour, several short simulations replace the simulation of a whole day or week. They
    begin at each hour of the day, or at every third hour of the week.
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
        # If the delay is unknown in one of the short simulations, such a row may never be read.
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
        # If the rules do not fit, runs become later and later. Therefore only the hours before the first late run are
        # measured. The simulation then continues, so that rows that appeared in these hours can still be read.
        span = max(0.0, simulation.time_s - _REST_S), simulation.time_s
        simulation.run(span[1] + _REST_S)
        requests = _demand(rules, calls, concurrency, begin)
    else:
        # Rows that appear at the end of the measured span are read by runs after it.
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
    """Return the requests per hour that each sweep would send without a request budget.

    This is the mean number of requests per run, multiplied by the number of runs that are due per hour.
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
    """Simulate until the sweep with the longest cadence has ended a run, and return the simulation.

    By then, the other sweeps have run at least once. With a request budget, the simulation ends earlier if a sweep is
    due again before its run has ended.
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
    """Return a state in which every sweep has just ended a run.

    Each sweep is due again after its cadence, but after `warm` at the latest.
    """
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
    """Return how long rows wait in Graph until a sweep reads them, if they appear `late_s` seconds after call start.

    Only rows that appear within `span` are measured. `span` is a part of the simulation, in seconds since `begin`.
    """
    step = max(1.0, (span[1] - span[0]) / _STEPS)
    appeared = np.arange(span[0], span[1], step)
    found = np.full(len(appeared), np.inf)
    for read in reversed(simulation.reads):  # in reverse, so that the first read of a row replaces later reads
        start = (read.window.start - begin).total_seconds() + late_s
        end = min((read.window.end - begin).total_seconds() + late_s, read.began_s + step / 2)
        if start < end and end > span[0]:
            low, high = np.searchsorted(appeared, (start, end))
            found[low:high] = np.minimum(found[low:high], read.ended_s)
    delay = found - appeared
    weights = calls.weights(begin.timestamp() + appeared - late_s)
    if not weights.any():
        weights = np.ones(len(appeared))
    delay, weights = delay[weights > 0], weights[weights > 0]
    worst = float(delay.max())
    if not np.isfinite(worst):
        return Delay(late_s, None, None)
    return Delay(late_s, worst, float(np.average(delay, weights=weights)))


def fit(rules: Rules, calls: Calls, requests_per_minute: float, concurrency: int, begin: datetime) -> bool:
    """Simulate until the sweep with the longest cadence has run once. Return whether every run ended in time.

    A run ends in time if it ends before its sweep is due again.
    """
    return not _run_each(rules, calls, requests_per_minute, concurrency, begin).late


def suggest(
    rules: Rules, calls: Calls, requests_per_minute: float, concurrency: int, begin: datetime, asked: Sequence[float]
) -> Rules | None:
    """Find similar rules that stay within the budget, with longer cadences or fewer sweeps.

    `asked` is the number of requests per hour that each sweep needs with the present rules. Return None if a few
    attempts find no such rules.
    """
    hours = requests_per_minute * 60
    for share in _SHARES:
        sweeps, costs = list(rules.sweeps), list(asked)
        while sum(costs) > share * hours and len(sweeps) > 1:
            worst = max(range(len(costs)), key=costs.__getitem__)
            slower = _slower(sweeps, worst)
            if slower is None:
                worst = min(worst, len(sweeps) - 2)  # keep the deepest sweep, because the guarantee depends on it
                del sweeps[worst], costs[worst]
            else:
                costs[worst] *= sweeps[worst].every / slower
                sweeps[worst] = sweeps[worst]._replace(every=slower)
        changed = rules._replace(sweeps=tuple(sweeps))
        if sum(costs) <= share * hours and fit(changed, calls, requests_per_minute, concurrency, begin):
            return changed
    return None


def _slower(sweeps: Sequence[Sweep], index: int) -> timedelta | None:
    """Return the next longer cadence for a sweep, or None if there is none.

    The new cadence is shorter than the cadence of the next sweep. It is not longer than the overlap of the sweep,
    because the runs would then leave gaps.
    """
    longer = next((every for every in _LADDER if every > sweeps[index].every), None)
    if longer is None or (index + 1 < len(sweeps) and longer >= sweeps[index + 1].every):
        return None
    return longer if longer <= sweeps[index].overlap else None
