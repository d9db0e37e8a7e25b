"""Machines whose clock is fast, on a real broker: the time is taken from the Date header of Graph."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests import oracle
from tests.conftest import SharedBroker
from tests.simulation import Simulation
from tests.workers import Worker

HISTORY = {"days": 1, "calls_per_day": 3_000, "lateness": "1.0:1s-2s", "durations": "short", "revised": 0.0}
SWEEPS = {"sweeps": [{"every": "1s", "overlap": "10m"}, {"every": "60s", "overlap": "2h"}]}
NewWorker = Callable[..., Worker]
Settings = Callable[..., dict[str, Any]]
Simulate = Callable[..., Simulation]


@pytest.mark.parametrize("ahead", ["12h", "48h"])
def test_first_start_reads_all_rows_although_the_clock_is_fast(
    ahead: str,
    broker: SharedBroker,
    topic: str,
    app: str,
    simulate: Simulate,
    new_worker: NewWorker,
    settings: Settings,
) -> None:
    source = simulate(**HISTORY)
    tenants = [{"id": tenant, "start": "-26h"} for tenant in source.tenants]
    started_at = datetime.now(UTC)
    worker = new_worker(settings(source, windows=SWEEPS, tenants=tenants), "-m", "tests.shifted_worker", ahead)
    worker.start()
    worker.until(lambda: worker.metric("rows_total", outcome="published") > 2_500, "the history")
    frozen_at = source.freeze()
    worker.until(lambda: complete_through(worker, source) >= frozen_at, "all call time to be read")
    tenant = worker.tenant(source.tenants[0])
    assert worker.stop() == 0
    start = datetime.fromisoformat(tenant["coverage"][0]["from"])
    assert abs(start - (started_at - timedelta(hours=26))) < timedelta(minutes=2)
    assert (tenant["gap_seconds"], tenant["gaps"]) == (0, [])
    assert complete_through(worker, source, tenant) <= datetime.now(UTC) + timedelta(seconds=2)
    oracle.check(broker.bootstrap, topic, app, source.truth())


def test_fast_clock_neither_expires_nor_duplicates_rows(
    broker: SharedBroker, topic: str, app: str, simulate: Simulate, new_worker: NewWorker, settings: Settings
) -> None:
    source = simulate(**{**HISTORY, "calls_per_day": 20_000})
    tenants = [{"id": tenant, "start": "-3h"} for tenant in source.tenants]
    configured = settings(source, windows=SWEEPS, dedup={"horizon": "4h"}, tenants=tenants)
    for clock in ("0s", "30h", "0s"):
        worker = new_worker(configured, "-m", "tests.shifted_worker", clock)
        worker.start()
        # The second sweep starts only if no row has expired with the commit of the first one.
        for sweep in ("first", "second"):
            at = datetime.now(UTC)
            worker.until(
                lambda each_worker=worker, at=at: complete_through(each_worker, source) > at,  # type: ignore[misc]
                f"a {sweep} sweep with a clock ahead by {clock}",
            )
        assert worker.stop() == 0
    rows = oracle.committed(broker.bootstrap, topic, app).rows
    keys = [(row.fields["id"], row.revision) for row in rows]
    assert len(keys) == len(set(keys)) > 2_000


def complete_through(worker: Worker, source: Simulation, tenant: dict[str, Any] | None = None) -> datetime:
    """Return the call time up to which a worker reports its tenant as covered, or year 1 while that has gaps."""
    status = tenant or worker.tenant(source.tenants[0])
    is_complete = status.get("covered_through") and status["gap_seconds"] == 0
    return datetime.fromisoformat(status["covered_through"]) if is_complete else datetime.min.replace(tzinfo=UTC)
