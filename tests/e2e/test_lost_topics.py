"""Internal topics that lose their records, on a real broker: nothing is published again without notice."""

from collections.abc import Callable
from typing import Any

import pytest
from confluent_kafka.admin import AdminClient

from tests import oracle
from tests.brokers import wait_until
from tests.conftest import SharedBroker
from tests.simulation import Simulation
from tests.workers import Worker

HISTORY = {"days": 1, "calls_per_day": 1_500, "durations": "short", "revised": 0.0}
NewWorker = Callable[..., Worker]
Settings = Callable[..., dict[str, Any]]
Simulate = Callable[..., Simulation]


def delete(bootstrap: str, topic: str) -> None:
    """Delete a topic; the next worker creates it again. Records of a compacted topic cannot be deleted otherwise."""
    admin = AdminClient({"bootstrap.servers": bootstrap})
    for future in admin.delete_topics([topic]).values():
        future.result(30)
    wait_until(lambda: topic not in admin.list_topics(timeout=10).topics, f"{topic} to be gone", 30)


@pytest.fixture
def filled(simulate: Simulate, new_worker: NewWorker, settings: Settings) -> tuple[Simulation, dict[str, Any]]:
    """Return a frozen source and the settings with which a worker has read all of it."""
    source = simulate(**HISTORY)
    configured = settings(source)
    frozen_at = source.freeze()
    worker = new_worker(configured)
    worker.start()
    worker.until_complete(frozen_at)
    assert worker.stop() == 0
    return source, configured


def test_lost_state_publishes_no_remembered_row_again(
    filled: tuple[Simulation, dict[str, Any]], broker: SharedBroker, topic: str, app: str, new_worker: NewWorker
) -> None:
    source, configured = filled
    delete(broker.bootstrap, f"{app}.state")
    worker = new_worker(configured)
    worker.start()
    worker.until(lambda: worker.metric("rows_total", outcome="duplicate") > 1_000, "all to be read again")
    assert worker.stop() == 0
    assert [entry["level"] for entry in worker.named("state_lost")] == ["warning"]
    found = oracle.check(broker.bootstrap, topic, app, source.truth(), claims=False)
    assert len(found.rows) > 1_000


def test_lost_deduplication_index_is_refused(
    filled: tuple[Simulation, dict[str, Any]], broker: SharedBroker, topic: str, app: str, new_worker: NewWorker
) -> None:
    source, configured = filled
    delete(broker.bootstrap, f"{app}.seen")
    worker = new_worker(configured)
    worker.start()
    assert worker.wait() == 1
    assert f"restore topic {app}.seen" in worker.log.read_text()
    oracle.check(broker.bootstrap, topic, app, source.truth(), claims=False)
