"""`connector plan` compared with the requests that a real worker sends to the simulator.

The comparison takes a minute and a half. With REAL_TIME_MINUTES=10 it takes ten minutes, has sweeps every 5 s, 30 s and
2 min, and Graph responds with 429 to 5 % of the requests.
"""

import json
import os
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests import commands
from tests.simulation import Simulation
from tests.workers import Worker, toml

MINUTES = float(os.environ.get("REAL_TIME_MINUTES", "0"))
DEADLINE_S = 300
TENANT = "11111111-1111-1111-1111-111111111111"


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "connector.toml"
    path.write_text(toml({"identity": {"client_id": "a", "client_secret": "b"}, "tenants": [{"id": TENANT}]}))
    return path


def test_default_sweeps_fit_the_budget_at_10000_calls_per_day(config: Path) -> None:
    plan = json.loads(commands.succeed(config, "plan", "--json"))
    assert plan["fits"] is True
    assert plan["budget_per_hour"] == 2700
    assert plan["requests_per_hour"] == pytest.approx(sum(s["requests_per_hour"] for s in plan["sweeps"]), abs=0.3)
    assert [(s["every"], s["overlap"]) for s in plan["sweeps"]] == [
        ("1m", "15m"),
        ("15m", "3h"),
        ("2h", "48h"),
        ("24h", "7d"),
    ]
    assert [delay["late"] for delay in plan["delays"]] == ["1m", "10m", "1h", "3h", "24h", "48h", "7d"]
    assert plan["warnings"] == []


def test_plan_command_suggests_sweeps_that_fit_the_budget(config: Path) -> None:
    done = commands.run(config, "plan", "--calls-per-day", "2000000", "--json")
    plan = json.loads(done.output)
    assert (done.code, plan["fits"]) == (1, False)
    assert plan["requests_per_hour"] > plan["budget_per_hour"]
    assert plan["warnings"]
    assert "would fit" in plan["advice"][0]


@pytest.mark.parametrize(
    "options", [("--calls-per-day", "-1"), ("--calls-per-day", "many"), ("--tenant", "nobody"), ("--from-state",)]
)
def test_plan_command_exits_2_if_arguments_are_invalid(config: Path, options: tuple[str, ...]) -> None:
    done = commands.run(config, "plan", *options)
    assert (done.code, done.output) == (2, "")
    assert len(done.error.splitlines()) == 1


@pytest.mark.timeout(600 + 120 * MINUTES)
def test_plan_from_stored_state_predicts_the_requests_of_a_worker(
    simulate: Callable[..., Simulation],
    new_worker: Callable[..., Worker],
    settings: Callable[..., dict[str, Any]],
) -> None:
    source = simulate(days=2, calls_per_day=40_000, durations="short", lateness="mixed")
    cadence_s, per_minute, span_s = (5, 45, 60 * MINUTES) if MINUTES else (1, 600, 48)
    sweeps = [
        {"every": f"{cadence_s}s", "overlap": "10m"},
        {"every": f"{6 * cadence_s}s", "overlap": "1h"},
        {"every": f"{24 * cadence_s}s", "overlap": "3h"},
    ]
    configured = settings(
        source,
        graph={"requests_per_minute": per_minute},
        windows={"sweeps": sweeps},
        tenants=[{"id": source.tenants[0], "start": "-2d"}],
    )
    worker = new_worker(configured)
    worker.start()
    worker.until_complete(datetime.now(UTC), deadline_s=DEADLINE_S)
    if MINUTES:
        source.set_faults(throttled=0.05)
    wait(24 * cadence_s)
    begin = datetime.now(UTC)
    wait(span_s)
    end = begin + timedelta(seconds=span_s)
    answered = [r for r in source.requests() if begin <= r.at < end]
    counted = sum(r.status != 429 for r in answered) * 3600 / span_s
    throttled = sum(r.status == 429 for r in answered)
    assert worker.stop() == 0
    plan = json.loads(commands.succeed(worker.config, "plan", "--from-state", "--json"))
    figures = f"predicted {plan['requests_per_hour']:.0f} an hour, counted {counted:.0f}; {throttled} answers of 429"
    print(figures)  # noqa: T201 - the figures, shown with -s
    assert plan["fits"]
    assert plan["requests_per_hour"] == pytest.approx(counted, rel=0.05 if MINUTES else 0.15), (figures, plan)


def wait(seconds: float) -> None:
    """Sleep in real time, because the test counts the requests per real minute."""
    time.sleep(seconds)
