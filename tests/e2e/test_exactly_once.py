"""The guarantee on a real broker: a `read_committed` reader finds exactly the rows of the source."""

import random
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests import oracle
from tests.conftest import SharedBroker
from tests.simulation import Simulation
from tests.workers import Worker

Simulate = Callable[..., Simulation]
NewWorker = Callable[..., Worker]
Settings = Callable[..., dict[str, Any]]

# Shares of faulty responses. If rows repeat at a page boundary, the whole page chain is read again.
GRAPH_FAULTS = {
    "throttled": 0.05,
    "retry_after": "seconds",
    "retry_after_s": 1.0,
    "server_error": 0.05,
    "cut": 0.03,
    "repeat_once": 0.05,
    "repeat": 0.01,
    "upper_link": 0.5,
    "empty_page": 0.02,
}
ROWS = {"unknown": 0.01, "unfit": 0.005, "startless": 0.002}
HISTORY = {"days": 5, "calls_per_day": 10_000, "order": "newest", "faults": GRAPH_FAULTS, **ROWS}
KILLS = 8


def published(worker: Worker) -> float:
    return worker.metric("rows_total", outcome="published")


def test_fifty_thousand_rows_arrive_exactly_once_despite_faults(
    broker: SharedBroker, topic: str, app: str, simulate: Simulate, new_worker: NewWorker, settings: Settings
) -> None:
    """Pages shift for two reasons: the source repeats rows at page boundaries, and rows appear during a page chain."""
    source = simulate(**HISTORY, clock_offset_s=-36_000)
    worker = new_worker(settings(source))
    worker.start()
    for hours, rows in ((6, 5_000), (3, 20_000), (0, 35_000)):
        worker.until(lambda least=rows: published(worker) > least, f"{rows} rows")  # type: ignore[misc]
        source.set_clock_offset(timedelta(hours=-hours))
    frozen_at = source.freeze()
    worker.until_complete(frozen_at)
    assert worker.metric("graph_requests_total", status="429") > 0
    assert worker.stop() == 0
    found = oracle.check(broker.bootstrap, topic, app, source.truth(), claims=False)
    assert len(found.newest) > 49_000
    assert len(found.dead_letters) > 200
    assert any(row.revision for row in found.rows)
    assert any(row.fields["additionalProperties"] for row in found.rows)


@pytest.mark.timeout(600)
def test_worker_killed_eight_times_keeps_exactly_once(
    broker: SharedBroker, topic: str, app: str, simulate: Simulate, new_worker: NewWorker, settings: Settings
) -> None:
    """SIGKILL is sent at random times: some before the worker has joined its group, some within a commit."""
    moments = random.Random(3)
    source = simulate(**{**HISTORY, "calls_per_day": 2_000}, clock_offset_s=-36_000)
    worker = new_worker(settings(source))
    alive = 0
    for kill in range(KILLS):
        source.set_clock_offset(timedelta(hours=kill - 10))
        worker.start()
        if kill % 5:
            worker.until_ready()
        threading.Event().wait(moments.uniform(0, 2))  # real time: SIGKILL is sent at a random moment
        alive += len(worker.named("shard_restored"))
        worker.kill()
    assert alive >= KILLS
    source.set_clock_offset(timedelta())
    frozen_at = source.freeze()
    worker.start()
    worker.until_complete(frozen_at, deadline_s=240)
    assert worker.stop() == 0
    found = oracle.check(broker.bootstrap, topic, app, source.truth(), claims=False)
    assert len(found.newest) > 9_800
    assert len(found.dead_letters) > 40


def test_clean_restart_republishes_nothing(
    broker: SharedBroker, topic: str, app: str, simulate: Simulate, new_worker: NewWorker, settings: Settings
) -> None:
    source = simulate(days=3, calls_per_day=2_000, frozen=True, **ROWS)
    worker = new_worker(settings(source))
    assert worker.run_once() == 0
    before = oracle.check(broker.bootstrap, topic, app, source.truth())
    assert len(before.rows) > 5_700
    worker.start()
    worker.until_complete(datetime.now(UTC))
    assert worker.metric("rows_total", outcome="duplicate") >= len(before.rows)
    assert published(worker) == 0
    assert worker.stop() == 0
    after = oracle.check(broker.bootstrap, topic, app, source.truth())
    assert (after.rows, after.dead_letters) == (before.rows, before.dead_letters)


def test_no_row_is_missed_after_an_outage_of_three_days(
    broker: SharedBroker, topic: str, app: str, simulate: Simulate, new_worker: NewWorker, settings: Settings
) -> None:
    """No overlap is that long, so the worker must read the time of the outage in addition."""
    lateness = {"lateness": "0.9:20s-10m,0.1:10m-110m", "durations": "short", "revised": 0.0}
    source = simulate(days=2, calls_per_day=2_000, clock_offset_s=-3 * 86_400, **lateness)
    sweeps = [{"every": "1s", "overlap": "10m"}, {"every": "60s", "overlap": "2h"}]
    configured = settings(source, windows={"sweeps": sweeps})
    before = new_worker(configured, "-m", "tests.shifted_worker", "-3d")
    before.start()
    before.until_complete(datetime.now(UTC) - timedelta(days=3, seconds=5))
    before.until(lambda: published(before) > 3_000, "the history")
    assert before.stop() == 0
    source.set_clock_offset(timedelta())
    after = new_worker(configured)
    after.start()
    after.until(lambda: _is_whole(after.tenant(source.tenants[0])), "the call time of the outage to be read")
    frozen_at = source.freeze()
    truth = source.truth()
    after.until(lambda: _last_read(after, source.tenants[0]) >= frozen_at, "the newest rows to be read")
    assert after.stop() == 0
    found = oracle.check(broker.bootstrap, topic, app, truth, claims=False)
    assert len(found.rows) > 9_000


def _is_whole(tenant: dict[str, Any]) -> bool:
    """Return whether there is no gap up to today. Before its first commit, a worker reports the old state."""
    return (
        bool(tenant)
        and tenant["gap_seconds"] == 0
        and tenant["lag_seconds"] is not None
        and tenant["lag_seconds"] < 86_400
    )


def _last_read(worker: Worker, tenant: str) -> datetime:
    coverage = worker.tenant(tenant).get("coverage") or [{"last_read": "1970-01-01T00:00:00+00:00"}]
    return datetime.fromisoformat(coverage[-1]["last_read"])
