"""Output of `connector plan`: the cost of the sweeps, and how soon they read a row."""

import math
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from connector import brokers
from connector.commands import arguments, plan_forecast, plan_volume, text
from connector.commands.plan_forecast import Forecast
from connector.commands.plan_volume import Volume
from connector.commands.text import Section
from connector.config import Settings, Tenant, duration_text
from connector.core import lateness
from connector.core.instants import EPOCH
from connector.core.windows import Rules
from connector.errors import BrokersUnavailableError, ConfigurationError, FatalError
from connector.kafka import control, seen, state, topics
from connector.kafka.clients import Clients
from connector.kafka.restore import read_compacted
from connector.kafka.state import Checkpoint
from connector.kafka.topic_admin import TopicAdmin

_CALLS_PER_DAY = 10_000.0
_MOST_CALLS = 10_000_000
_DOCUMENTED_LIMIT = 50
_BESIDES = 5
_MUCH = 0.8
_HOUR = timedelta(hours=1)


def report(
    config: Path | None, tenant: str | None, calls_per_day: float | None, *, from_state: bool, as_json: bool
) -> bool:
    """Print the plan as JSON or as text, and return whether the sweeps stay within the request budget.

    With `from_state`, derive the calls from the state of the workers. Otherwise assume `calls_per_day` calls.
    """
    settings = arguments.read_settings(config, required=("kafka.bootstrap_servers",) if from_state else ())
    if calls_per_day is not None and not 0 <= calls_per_day <= _MOST_CALLS:
        raise ConfigurationError([f"--calls-per-day: must be a number from 0 to {_MOST_CALLS:,}"])
    chosen = [arguments.find_tenant(settings, tenant)] if tenant is not None else list(settings.tenants)
    now = datetime.now(UTC).replace(microsecond=0)
    if from_state:
        case = _case_from_state(settings, chosen, now, calls_per_day)
    else:
        calls = _CALLS_PER_DAY if calls_per_day is None else calls_per_day
        tightest = min(chosen, key=lambda one: one.requests_per_minute)
        case = _Case(tightest, plan_volume.evenly(calls), 0.0, [])
    content = _describe(settings, case, now)
    if as_json:
        arguments.print_json(content)
    else:
        text.show(_sections(content))
    return bool(content["fits"])


class _Case(NamedTuple):
    """Tenant and calls for which the plan is made."""

    tenant: Tenant
    calls: Volume
    cycle_s: float
    warnings: list[str]


def _rules(settings: Settings) -> Rules:
    return Rules(settings.windows.sweeps, settings.windows.settle, settings.windows.slice, settings.dedup.horizon)


def _case_from_state(settings: Settings, tenants: list[Tenant], now: datetime, calls_per_day: float | None) -> _Case:
    """Choose the tenant of the plan, and derive its calls from the committed state.

    The choice is the tenant with the highest ratio of calls to request budget. With `calls_per_day`, its calls are
    scaled to that number.
    """
    cases = []
    clients = brokers.clients(settings)  # created once: for Event Hubs they hold a thread and a session for signing in
    clients.check()
    for shard in sorted({control.partition_of(tenant.key, settings.kafka.shards) for tenant in tenants}):
        checkpoints, rows = _read_shard(settings, clients, shard, now)
        for tenant in tenants:
            checkpoint = checkpoints.get(tenant.key)
            if checkpoint is not None:
                cases.append(_case_of_tenant(settings, tenant, checkpoint, rows.get(tenant.key), now))
    if not cases:
        who = f"tenant {tenants[0].label}" if len(tenants) == 1 else "any tenant"
        raise ConfigurationError(
            [f"--from-state: no worker has written the state of {who} yet; start a worker first, or omit the option"]
        )
    worst = max(cases, key=lambda case: case.calls.per_day / case.tenant.requests_per_minute)
    if calls_per_day is None or not worst.calls.per_day:
        return worst
    return worst._replace(calls=worst.calls.scaled(calls_per_day / worst.calls.per_day))


_Hours = dict[str, tuple[int, Any]]


def _read_shard(
    settings: Settings, clients: Clients, shard: int, now: datetime
) -> tuple[dict[str, Checkpoint], _Hours]:
    names = topics.Names(settings.kafka.app)
    try:
        if names.state not in TopicAdmin(clients).look().partitions:
            return {}, {}
        values = read_compacted(clients, (names.state, names.seen), shard)
    except BrokersUnavailableError as error:
        raise FatalError(f"the state of app {settings.kafka.app} cannot be read: {error}", error.remedy) from error
    restored = state.restore(values[names.state])
    starts = {tenant: -((EPOCH - known.state.start) // _HOUR) for tenant, known in restored.checkpoints.items()}
    return restored.checkpoints, seen.rows_per_hour(values[names.seen], starts, (now - EPOCH) // _HOUR + 1)


def _case_of_tenant(settings: Settings, tenant: Tenant, checkpoint: Checkpoint, rows: Any, now: datetime) -> _Case:
    """Derive one tenant's calls from its state: when they began, and how late their rows appeared.

    `rows` holds the number of rows per hour in the deduplication index.
    """
    warnings = []
    sweeps = settings.windows.sweeps
    cadences = [lateness.Sweeping(s.every.total_seconds(), s.overlap.total_seconds()) for s in sweeps]
    late = lateness.learn(checkpoint.ages, cadences)
    if late is None:
        warnings.append("Too few new rows were counted: the plan assumes that each row is visible at once.")
    first, counts = rows or ((now - EPOCH) // _HOUR, np.zeros(0))
    calls, cycle_s = plan_volume.from_index(counts, first, now, late)
    days = len(counts) // 24
    if days < 7:
        warnings.append(f"The state has only {days} whole days of calls. A whole week gives a better plan.")
    deepest = max(sweeps, key=lambda sweep: sweep.overlap).overlap
    found = dict(checkpoint.found)
    rows_found, of_all = found.get(int(deepest.total_seconds()), 0), sum(found.values())
    if len(sweeps) > 1 and rows_found:
        warnings.append(
            f"The sweep with the deepest overlap, {duration_text(deepest)}, still found {text.number(rows_found)} of "
            f"{text.number(of_all)} new rows. Rows that appear even later are missed: a longer overlap would find them."
        )
    return _Case(tenant, calls, cycle_s, warnings)


def _describe(settings: Settings, case: _Case, now: datetime) -> dict[str, Any]:
    rules = _rules(settings)
    per_minute = case.tenant.requests_per_minute
    concurrency = settings.graph.concurrency
    result = plan_forecast.predict(rules, case.calls, per_minute, concurrency, now, cycle_s=case.cycle_s)
    return {
        "tenant": case.tenant.label,
        "calls_per_day": round(case.calls.per_day, 1),
        "fits": result.fits,
        "budget_per_hour": round(per_minute * 60, 1),
        "requests_per_hour": round(result.total, 1),
        "sweeps": [
            {
                "every": duration_text(sweep.every),
                "overlap": duration_text(sweep.overlap),
                "requests_per_hour": round(requests, 1),
                "longest_run_seconds": round(longest_s, 1),
            }
            for sweep, requests, longest_s in zip(
                rules.sweeps, result.requests_per_hour, result.longest_run_s, strict=True
            )
        ],
        "delays": [
            {
                "late": _LATE[delay.late_s],
                "worst_seconds": None if delay.worst_s is None else round(delay.worst_s, 1),
                "expected_seconds": None if delay.expected_s is None else round(delay.expected_s, 1),
            }
            for delay in result.delays
        ],
        "warnings": case.warnings + _warn(rules, result, per_minute),
        "advice": [] if result.fits else _advise(settings, rules, case, result, now),
    }


_LATE = dict(zip(plan_forecast.LATE_S, ("1m", "10m", "1h", "3h", "24h", "48h", "7d"), strict=True))


def _warn(rules: Rules, result: Forecast, per_minute: float) -> list[str]:
    warnings = []
    for index in result.late:
        sweep = rules.sweeps[index]
        warnings.append(
            f"The sweep every {duration_text(sweep.every)} is due again before its run has ended: a run takes "
            f"{text.span(result.longest_run_s[index])} or more."
        )
    used = result.total / (per_minute * 60)
    if result.fits and used > _MUCH:
        warnings.append(
            f"Sweeps use {used:.0%} of the budget: little is left for backfills and for catching up after an outage."
        )
    if result.fits:
        never = [_LATE[delay.late_s] for delay in result.delays if delay.worst_s is None]
        if never:
            warnings.append(
                f"Rows that appear {' or '.join(never)} after their call began may never be read: "
                f"the deepest overlap is {duration_text(max(sweep.overlap for sweep in rules.sweeps))}."
            )
    if per_minute > _DOCUMENTED_LIMIT:
        warnings.append(f"Graph's documented limit is {_DOCUMENTED_LIMIT} requests per minute. Graph refuses more.")
    return warnings


def _advise(settings: Settings, rules: Rules, case: _Case, result: Forecast, now: datetime) -> list[str]:
    """Return advice for sweeps that exceed the budget: a larger budget, or other sweeps that stay within it."""
    per_minute, concurrency = case.tenant.requests_per_minute, settings.graph.concurrency
    advice = []
    most = _DOCUMENTED_LIMIT - _BESIDES
    needed = min(most, math.ceil(result.total / 60 / 0.9))
    if per_minute < needed and plan_forecast.fit(rules, case.calls, needed, concurrency, now):
        advice.append(
            f"With requests_per_minute = {needed}, the sweeps would fit, if no other client reads the tenant's calls."
        )
    changed = plan_forecast.suggest(rules, case.calls, per_minute, concurrency, now, result.requests_per_hour)
    if changed is not None:
        sweeps = ", ".join(f"every {duration_text(s.every)} over {duration_text(s.overlap)}" for s in changed.sweeps)
        advice.append(f"These sweeps would fit the budget: {sweeps}.")
    if not advice:
        advice.append(
            "No similar sweeps fit the budget: shorten the overlaps that cost most, or raise requests_per_minute."
        )
    return advice


def _sections(content: dict[str, Any]) -> list[Section]:
    """Return the plan as tables for people."""
    title = (
        f"{content['tenant']}: {text.number(content['calls_per_day'])} calls per day, "
        f"{text.number(content['requests_per_hour'])} of {text.number(content['budget_per_hour'])} requests per hour: "
        f"{'fits' if content['fits'] else 'does not fit'}"
    )
    sweeps = [
        (s["every"], s["overlap"], f"{s['requests_per_hour']:,.1f}", text.span(s["longest_run_seconds"] or None))
        for s in content["sweeps"]
    ]
    delays = [
        (delay["late"], *("never" if delay[name] is None else text.span(delay[name]) for name in _DELAYS))
        for delay in content["delays"]
    ]
    return [
        Section(title, ("every", "overlap", "requests per hour>", "longest run>"), sweeps),
        Section("A row that appears", ("after its call began", "is read within>", "on average within>"), delays),
        Section("Warnings", ("",), [(warning,) for warning in content["warnings"]]),
        Section("Advice", ("",), [(line,) for line in content["advice"]]),
    ]


_DELAYS = ("worst_seconds", "expected_seconds")
