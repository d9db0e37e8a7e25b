"""The promise on a real broker: what a `read_committed` reader finds is what the source shows, exactly."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

from tests import oracle
from tests.conftest import SharedBroker
from tests.simulation import Simulation
from tests.workers import Worker

Simulate = Callable[..., Simulation]
NewWorker = Callable[..., Worker]
Settings = Callable[..., dict[str, Any]]

WEATHER = {
    "throttled": 0.05,
    "retry_after": "mixed",
    "retry_after_s": 1.0,
    "server_error": 0.05,
    "cut": 0.03,
    "repeat_once": 0.2,
    "repeat": 0.02,
    "upper_link": 0.5,
    "empty_page": 0.02,
}
ROWS = {"unknown": 0.01, "unfit": 0.005, "startless": 0.002}


def test_fifty_thousand_rows_of_history_in_bad_weather_arrive_exactly_once(
    broker: SharedBroker, topic: str, app: str, simulate: Simulate, new_worker: NewWorker, settings: Settings
) -> None:
    """Pages shift twice over: the source repeats rows at seams, and rows turn up while they are read, newest first."""
    source = simulate(days=5, calls_per_day=10_000, order="newest", clock_offset_s=-36_000, faults=WEATHER, **ROWS)
    worker = new_worker(settings(source))
    worker.start()
    for hours in (6, 3, 0):
        behind = worker.metric("rows_total", outcome="published")
        worker.until(lambda b=behind: worker.metric("rows_total", outcome="published") > b, "more rows")  # type: ignore[misc]
        source.set_clock_offset(timedelta(hours=-hours))
    frozen_at = source.freeze()
    worker.until_complete(frozen_at)
    assert worker.metric("graph_requests_total", status="429") > 0
    assert worker.stop() == 0
    truth = source.truth()
    found = oracle.check(broker.bootstrap, topic, app, truth, claims=False)
    assert len(found.newest) > 49_000
    assert len(found.dead_letters) > 200
    assert any(row.revision for row in found.rows)
    assert any(row.fields["additionalProperties"] for row in found.rows)
