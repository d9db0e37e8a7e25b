"""A topic that was deleted and created again, on a real broker."""

from datetime import UTC, datetime, timedelta

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from connector.core import windows
from connector.kafka import recreation
from connector.kafka.clients import Clients
from connector.kafka.recreation import Place, TopicIds
from connector.kafka.state import Checkpoint
from tests.brokers import wait_until
from tests.conftest import SharedBroker

_DEADLINE_S = 60.0
_RECORDS = 3


def fill(bootstrap: str, topic: str) -> None:
    """Create a topic with a few records."""
    admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})

    def is_created() -> bool:
        (future,) = admin.create_topics([NewTopic(topic, 1)]).values()
        return future.exception(10) is None  # brokers refuse this until the deletion of the previous topic is complete

    wait_until(is_created, "the topic to be created", _DEADLINE_S)
    producer = Producer({"bootstrap.servers": bootstrap, "enable.idempotence": True, "log_level": 0})
    for _ in range(_RECORDS):
        producer.produce(topic, b"x", partition=0)
    assert producer.flush(_DEADLINE_S) == 0


def delete(bootstrap: str, topic: str) -> None:
    admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})
    (future,) = admin.delete_topics([topic]).values()
    future.result(10)


def test_checkpoint_offset_is_reset_to_0_for_a_recreated_topic(broker: SharedBroker, topic: str) -> None:
    """This also holds if the new topic is as long as the old one, because their topic ids differ."""
    clients = Clients(broker.bootstrap, {})
    fill(broker.bootstrap, topic)
    first = recreation.locate(clients, topic, 0, Place(_RECORDS, ""))
    assert first.offset == _RECORDS
    assert first.topic_id
    assert recreation.locate(clients, topic, 0, first) == first
    delete(broker.bootstrap, topic)
    fill(broker.bootstrap, topic)
    relocated = recreation.locate(clients, topic, 0, first)
    assert relocated.offset == 0
    assert relocated.topic_id not in ("", first.topic_id)


def test_recreated_topic_has_a_different_topic_id(broker: SharedBroker, topic: str) -> None:
    ids = TopicIds(Clients(broker.bootstrap, {}))
    assert ids.of([topic]) == {}
    fill(broker.bootstrap, topic)
    first = ids.of([topic])
    assert ids.of([topic, f"{topic}.absent"]) == first
    delete(broker.bootstrap, topic)
    fill(broker.bootstrap, topic)
    assert ids.of([topic])[topic] not in ("", first[topic])


def checkpoint_of(topic: str, offset: int, topic_id: str = "") -> Checkpoint:
    start = datetime(2026, 3, 1, tzinfo=UTC)
    no_state = windows.first_state(windows.Rules((), timedelta(0), timedelta(1), timedelta(9)), start, start)
    return Checkpoint(topic, no_state, offsets=(offset,), topic_id=topic_id)


@pytest.mark.parametrize(
    ("offset", "topic_id", "is_new"), [(_RECORDS, "", False), (_RECORDS + 1, "", True), (_RECORDS + 1, "known", False)]
)
def test_row_topic_shorter_than_an_offset_counts_as_recreated(
    broker: SharedBroker, topic: str, offset: int, topic_id: str, *, is_new: bool
) -> None:
    """This applies to checkpoints without a topic id. With an id, only a different id proves that the topic is new."""
    fill(broker.bootstrap, topic)
    checkpoint = checkpoint_of(topic, offset, topic_id)
    found = recreation.topics_that_end_before(Clients(broker.bootstrap, {}), [checkpoint])
    assert found == ({topic} if is_new else set())


@pytest.mark.parametrize(("offset", "expected"), [(_RECORDS, _RECORDS), (_RECORDS + 1, 0)])
def test_offset_beyond_the_topic_end_is_reset_without_topic_ids(
    broker: SharedBroker, topic: str, monkeypatch: pytest.MonkeyPatch, offset: int, expected: int
) -> None:
    monkeypatch.setattr(recreation, "_id", lambda *_: "")
    fill(broker.bootstrap, topic)
    assert recreation.locate(Clients(broker.bootstrap, {}), topic, 0, Place(offset, "")) == Place(expected, "")


def test_end_of_a_row_topic_is_asked_again_without_an_answer(topic: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An overloaded broker does not answer in time."""
    answers: list[dict[tuple[str, int], int]] = [{}, {(topic, 0): 3}]
    monkeypatch.setattr(
        "connector.kafka.visibility.offsets", lambda _clients, asked, _isolation: answers.pop(0) if asked else {}
    )
    clients = Clients("127.0.0.1:1", {})
    assert recreation.topics_that_end_before(clients, [checkpoint_of(topic, 4)]) == {topic}
