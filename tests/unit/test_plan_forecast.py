"""Forecasts for sweeps, computed with the real scheduler."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from types import SimpleNamespace
from typing import Any, cast
from unittest import mock

import numpy as np
import pytest

from connector.commands import plan_forecast, plan_report, plan_volume
from connector.core import lateness
from connector.core.coverage import Window
from connector.core.instants import EPOCH
from connector.core.windows import Rules, Sweep
from connector.errors import ConfigurationError

BEGIN = datetime(2026, 3, 2, 10, 0, tzinfo=UTC)


def rules(*sweeps: tuple[float, float]) -> Rules:
    """Return sweeps with `every` and overlap in minutes."""
    return Rules(
        tuple(Sweep(timedelta(minutes=every), timedelta(minutes=overlap)) for every, overlap in sweeps),
        settle=timedelta(),
        slice=timedelta(days=1),
        horizon=timedelta(days=150),
    )


def test_forecast_counts_one_request_for_a_sweep_of_one_page() -> None:
    result = plan_forecast.predict(rules((1, 15)), plan_volume.evenly(1_000), 45, 4, BEGIN)
    assert result.fits
    assert result.requests_per_hour == (60,)


def test_forecast_counts_every_page_of_a_deep_sweep() -> None:
    """A run of the deep sweep reads 22 hours with 11,000 calls, which takes about eleven pages every two hours."""
    result = plan_forecast.predict(rules((10, 60), (120, 1200)), plan_volume.evenly(12_000), 45, 4, BEGIN)
    assert result.fits
    assert result.requests_per_hour[0] == pytest.approx(6)
    assert 10 / 2 <= result.requests_per_hour[1] <= 14 / 2


def test_forecast_delay_is_at_most_the_cadence_of_a_sweep() -> None:
    result = plan_forecast.predict(rules((1, 15), (15, 180)), plan_volume.evenly(1_000), 45, 4, BEGIN)
    delays = {delay.late_s: delay for delay in result.delays}
    assert delays[60].worst_s == pytest.approx(60, abs=5)
    assert delays[60].expected_s == pytest.approx(30, abs=3)
    assert delays[3_600].worst_s == pytest.approx(900, abs=10)
    assert delays[86_400].worst_s is None
    assert delays[86_400].expected_s is None


def test_forecast_shows_late_sweeps_if_the_budget_is_exceeded() -> None:
    sweeps = rules((1, 15), (15, 180), (120, 2_880))
    slow = plan_forecast.predict(sweeps, plan_volume.evenly(60_000), 2, 4, BEGIN)
    fast = plan_forecast.predict(sweeps, plan_volume.evenly(60_000), 600, 4, BEGIN)
    assert not slow.fits
    assert slow.late
    assert fast.fits
    assert slow.total == pytest.approx(fast.total, rel=0.1)
    assert slow.total > 2 * 60


def test_suggested_sweeps_fit_the_request_budget() -> None:
    sweeps, calls = rules((1, 15), (15, 180), (120, 2_880)), plan_volume.evenly(60_000)
    asked = plan_forecast.predict(sweeps, calls, 2, 4, BEGIN).requests_per_hour
    changed = plan_forecast.suggest(sweeps, calls, 2, 4, BEGIN, asked)
    assert changed is not None
    assert plan_forecast.predict(changed, calls, 2, 4, BEGIN).fits
    assert changed.sweeps[-1].overlap == sweeps.sweeps[-1].overlap


def test_forecast_counts_each_call_in_exactly_one_window() -> None:
    calls = plan_volume.evenly(10_007)
    edges = [BEGIN + timedelta(minutes=7 * n) for n in range(500)]
    counts = [calls.count(Window(a, b), BEGIN + timedelta(days=9)) for a, b in pairwise(edges)]
    assert sum(counts) == calls.count(Window(edges[0], edges[-1]), BEGIN + timedelta(days=9))
    assert max(counts) - min(counts) <= 1


def test_forecast_excludes_rows_that_have_not_appeared_yet() -> None:
    late = lateness.Lateness([60, 600], [0.5, 1])
    calls = plan_volume.Volume([3_600] * 24, late)
    window = Window(BEGIN - timedelta(minutes=10), BEGIN)
    assert calls.count(window, BEGIN + timedelta(hours=1)) == 600
    # One row per second. Half of the rows are shown after a minute, and more later.
    assert 300 < calls.count(window, BEGIN) < 600
    assert calls.inserted(window, 2, BEGIN, BEGIN + timedelta(seconds=1)) > 0
    assert calls.inserted(window, 2, BEGIN + timedelta(hours=1), BEGIN + timedelta(hours=2)) == 0


def test_lateness_is_learned_from_the_ages_of_new_rows() -> None:
    generator = np.random.default_rng(5)
    appeared = generator.uniform(0, 600, 20_000)
    seen = np.ceil(appeared / 60) * 60  # the sweep runs once per minute
    counts = lateness.counted(lateness.counted((), seen[:100]), seen[100:])
    learned = lateness.learn(counts, [lateness.Sweeping(60, 900)])
    assert sum(counts) == 20_000
    assert learned is not None
    share = np.diff(learned.passed(np.array([299.0, 301.0])))[0] / 2
    assert share == pytest.approx(0.5, abs=0.06)
    assert lateness.learn(counts[:0], []) is None


@pytest.mark.parametrize("days", [0, 1, 3, 9])
def test_calls_per_hour_are_learned_from_the_dedup_index(days: int) -> None:
    now = BEGIN
    hour = (now - EPOCH) // timedelta(hours=1)
    first = hour - 24 * days - 5
    of_day = np.arange(first, hour + 1) % 24
    counts = np.where((of_day >= 8) & (of_day < 18), 900, 100)
    calls, cycle_s = plan_volume.from_index(counts, first, now, None)
    assert cycle_s == 86_400
    if days:
        assert calls.per_day == pytest.approx(10 * 900 + 14 * 100)
        noon = datetime(2026, 3, 5, 12, tzinfo=UTC)
        assert calls.weights(np.array([noon.timestamp()]))[0] == pytest.approx(900)
        assert calls.scaled(2).per_day == pytest.approx(2 * calls.per_day)


def test_plan_repeats_a_whole_week_if_weekdays_differ() -> None:
    now = BEGIN
    hour = (now - EPOCH) // timedelta(hours=1)
    first = hour - 24 * 9
    counts = np.where((np.arange(first, hour) // 24) % 7 < 2, 10, 100)
    calls, cycle_s = plan_volume.from_index(counts, first, now, None)
    assert cycle_s == 7 * 86_400
    at = now + timedelta(days=10)
    expected = 10 if ((at - EPOCH) // timedelta(hours=1) // 24) % 7 < 2 else 100
    assert calls.weights(np.array([at.timestamp()]))[0] == pytest.approx(expected)


def test_plan_from_state_signs_in_to_brokers_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """With Event Hubs, every additional set of clients would need a thread and a session for signing in."""
    clients, read = mock.Mock(), mock.Mock(return_value=({}, {}))
    monkeypatch.setattr("connector.brokers.clients", clients)
    monkeypatch.setattr(plan_report, "_read_shard", read)
    settings: Any = SimpleNamespace(kafka=SimpleNamespace(shards=8))
    tenants = [cast("Any", SimpleNamespace(key=f"{n}", label=f"{n}")) for n in range(20)]
    with pytest.raises(ConfigurationError, match="no worker has written the state of any tenant"):
        plan_report._case_from_state(settings, tenants, BEGIN, None)
    assert read.call_count > 1
    assert clients.call_count == 1
