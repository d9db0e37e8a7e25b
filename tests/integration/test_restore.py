"""State that a shard reads when it starts, on a real broker."""

import pytest
import structlog
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from connector.errors import HandedOverError
from connector.kafka import restore
from connector.kafka.clients import Clients
from connector.kafka.restore import read_compacted
from tests.conftest import SharedBroker


def test_shard_restore_reads_committed_records_only(broker: SharedBroker, app: str) -> None:
    """A shard restores only its own partition, without keys that were deleted."""
    state, seen = f"{app}.state", f"{app}.seen"
    admin = AdminClient({"bootstrap.servers": broker.bootstrap, "log_level": 0})
    for future in admin.create_topics([NewTopic(state, 2), NewTopic(seen, 2)]).values():
        future.result(10)
    clients = Clients(broker.bootstrap, {"log_level": 0})
    producer = Producer(clients.producer(app))
    producer.init_transactions(10)

    def write(*records: tuple[str, bytes, bytes | None, int]) -> None:
        producer.begin_transaction()
        for topic, key, value, partition in records:
            producer.produce(topic, value, key, partition)
        assert producer.flush(10) == 0

    write((state, b"a", b"1", 1), (state, b"gone", b"1", 1), (state, b"other", b"1", 0), (seen, b"s", b"1", 1))
    producer.commit_transaction(10)
    write((state, b"a", b"2", 1), (state, b"gone", None, 1))
    producer.commit_transaction(10)
    write((state, b"a", b"aborted", 1), (seen, b"aborted", b"", 1))
    producer.abort_transaction(10)
    write((state, b"a", b"open", 1), (seen, b"open", b"", 1))
    assert read_compacted(clients, (state, seen), 1) == {state: {b"a": b"2"}, seen: {b"s": b"1"}}
    producer.abort_transaction(10)


def test_shard_restore_reports_progress_and_can_be_stopped(
    broker: SharedBroker, app: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(restore, "_LOG_EVERY_S", 0.0)
    topic = f"{app}.seen"
    admin = AdminClient({"bootstrap.servers": broker.bootstrap, "log_level": 0})
    for future in admin.create_topics([NewTopic(topic, 1)]).values():
        future.result(10)
    producer = Producer({"bootstrap.servers": broker.bootstrap, "enable.idempotence": True})
    for number in range(100):
        producer.produce(topic, b"value", str(number).encode(), 0)
    assert producer.flush(10) == 0
    clients = Clients(broker.bootstrap, {"log_level": 0})
    with structlog.testing.capture_logs() as events:
        assert len(read_compacted(clients, (topic,), 0)[topic]) == 100
    restoring = [event for event in events if event["event"] == "shard_restoring"]
    assert restoring
    assert all(event["records"] + event["offsets_left"] <= 100 for event in restoring)
    with pytest.raises(HandedOverError):
        read_compacted(clients, (topic,), 0, is_stopped=lambda: True)
