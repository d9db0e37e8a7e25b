"""Internal topics that lose their records, on a real broker: nothing is published again without notice."""

from collections.abc import Callable
from typing import Any

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from connector.kafka import avro
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
    wait_until(lambda: topic not in admin.list_topics(timeout=10).topics, f"the deletion of {topic}", 30)


def fill(bootstrap: str, topic: str, partitions: int, length: int) -> None:
    """Create a topic with as many records in each partition."""
    admin = AdminClient({"bootstrap.servers": bootstrap})

    def is_created() -> bool:
        (future,) = admin.create_topics([NewTopic(topic, partitions)]).values()
        return future.exception(10) is None  # brokers refuse this until the deletion of the previous topic is complete

    wait_until(is_created, "the topic to be created", 30)
    producer = Producer({"bootstrap.servers": bootstrap, "enable.idempotence": True})
    for number in range(partitions):
        for _ in range(length):
            producer.produce(topic, b"x", partition=number)
    assert producer.flush(30) == 0


@pytest.fixture
def filled(simulate: Simulate, new_worker: NewWorker, settings: Settings) -> tuple[Simulation, dict[str, Any]]:
    """Return a frozen source, and the settings of a worker that has already read all its rows."""
    source = simulate(**HISTORY)
    configured = settings(source)
    frozen_at = source.freeze()
    worker = new_worker(configured)
    worker.start()
    worker.until_complete(frozen_at)
    assert worker.stop() == 0
    return source, configured


def test_progress_offsets_restart_at_0_in_a_recreated_row_topic(
    filled: tuple[Simulation, dict[str, Any]], broker: SharedBroker, topic: str, app: str, new_worker: NewWorker
) -> None:
    """Offsets restart in every partition before any new row, although the new topic is longer than the old one."""
    _, configured = filled
    before = oracle.committed(broker.bootstrap, topic, app)
    assert all(before.progress[-1].offsets)
    delete(broker.bootstrap, topic)
    length = max(before.progress[-1].offsets) + 1
    fill(broker.bootstrap, topic, len(before.progress[-1].offsets), length)
    worker = new_worker(configured)
    worker.start()
    worker.until(lambda: bool(worker.named("topic_recreated")), "the new topic to be noticed")
    progress = f"{topic}.progress"

    def statements() -> list[dict[str, Any]]:
        decode = avro.decoder(avro.PROGRESS)
        return [decode(entry.value) for entry in oracle.read(broker.bootstrap, progress)][len(before.progress) :]

    wait_until(lambda: bool(statements()), "a progress record", 60)
    assert worker.stop() == 0
    assert {tuple(statement["offsets"]) for statement in statements()} == {(0,) * len(before.progress[-1].offsets)}


def test_no_row_is_republished_after_the_state_topic_was_lost(
    filled: tuple[Simulation, dict[str, Any]], broker: SharedBroker, topic: str, app: str, new_worker: NewWorker
) -> None:
    source, configured = filled
    delete(broker.bootstrap, f"{app}.state")
    worker = new_worker(configured)
    worker.start()
    worker.until(lambda: worker.metric("rows_total", outcome="duplicate") > 1_000, "all call time to be read again")
    assert worker.stop() == 0
    assert [entry["level"] for entry in worker.named("tenant_state_lost")] == ["warning"]
    found = oracle.check(broker.bootstrap, topic, app, source.truth(), claims=False)
    assert len(found.rows) > 1_000


def test_worker_refuses_to_run_after_losing_the_dedup_index(
    filled: tuple[Simulation, dict[str, Any]], broker: SharedBroker, topic: str, app: str, new_worker: NewWorker
) -> None:
    source, configured = filled
    delete(broker.bootstrap, f"{app}.seen")
    worker = new_worker(configured)
    worker.start()
    assert worker.wait() == 1
    assert f"restore topic {app}.seen" in worker.log.read_text()
    oracle.check(broker.bootstrap, topic, app, source.truth(), claims=False)
