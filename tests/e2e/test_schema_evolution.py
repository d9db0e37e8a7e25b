"""Readers of the topic when Graph, or the API version that is read, has additional fields."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from tests import oracle
from tests.conftest import SharedBroker
from tests.simulation import Simulation
from tests.workers import Worker

Simulate = Callable[..., Simulation]
NewWorker = Callable[..., Worker]
Settings = Callable[..., dict[str, Any]]


def test_switching_the_graph_api_version_republishes_nothing(
    broker: SharedBroker, topic: str, app: str, simulate: Simulate, new_worker: NewWorker, settings: Settings
) -> None:
    source = simulate(days=2, calls_per_day=300, clock_offset_s=-43_200, revised=0.0)
    configured = settings(source)
    worker = new_worker(configured)

    def rows_with(api_version: str) -> list[oracle.Published]:
        worker.configure(configured | {"graph": {**configured["graph"], "api_version": api_version}})
        assert worker.run_once() == 0, worker.tail()
        return oracle.committed(broker.bootstrap, topic, app).rows

    first = rows_with("v1.0")
    source.set_clock_offset(timedelta())
    source.freeze()
    both = rows_with("beta")
    known = {row.id for row in first}
    assert len(both) == len({row.id for row in both}) > len(first) > 300
    assert not any(row.revision for row in both)
    assert not any(row.fields["userCountryCode"] for row in both if row.id in known)
    assert any(row.fields["userCountryCode"] for row in both if row.id not in known)
    assert rows_with("v1.0") == both


def test_unknown_json_member_becomes_an_additional_property(
    broker: SharedBroker, topic: str, app: str, simulate: Simulate, new_worker: NewWorker, settings: Settings
) -> None:
    source = simulate(days=1, calls_per_day=500, unknown=0.2, frozen=True)
    worker = new_worker(settings(source))
    worker.start()
    worker.until_complete(datetime.now(UTC))
    counted = worker.metric("unknown_properties_total")
    assert worker.stop() == 0
    rows = oracle.check(broker.bootstrap, topic, app, source.truth()).rows
    members = [name for row in rows for name in row.fields["additionalProperties"]]
    assert counted == len(members) > 50
    named = [name for event in worker.named("unknown_properties") for name in event["names"]]
    assert sorted(named) == sorted(set(members))
