"""Which of some records a read_committed reader finds."""

import time
from collections.abc import Iterable, Mapping

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from connector.errors import ShardRestartError
from connector.kafka import rights
from connector.kafka.clients import Clients

_DECIDED_S = 20.0
_ANSWER_S = 10.0
_PAUSE_S = 0.05

Place = tuple[str, int]
"Topic and partition."


def visible(clients: Clients, offsets: Mapping[Place, int]) -> set[Place]:
    """Where the record at that offset is committed. Blocking; raises ShardRestartError when brokers do not answer.

    Other transactions that are open may hide it: they are waited for, and end, or are ended, within 20 s.
    """
    consumer = Consumer(clients.reader())
    try:
        decided = _decided(consumer, offsets)
        return _found(consumer, decided, clients.app) if decided else set()
    except KafkaException as error:
        raise ShardRestartError(f"looking for records in {_names(offsets)}: {error.args[0].str()}") from error
    finally:
        consumer.close()


def _decided(consumer: Consumer, offsets: Mapping[Place, int]) -> dict[Place, int]:
    """Those that lie below the last stable offset: librdkafka says nothing of one that is read from behind it."""
    deadline = time.monotonic() + _DECIDED_S
    waiting, decided = dict(offsets), {}
    while waiting:
        for place, offset in list(waiting.items()):
            _, stable = consumer.get_watermark_offsets(TopicPartition(*place), timeout=_ANSWER_S)
            if stable > offset:
                decided[place] = waiting.pop(place)
        if time.monotonic() > deadline:
            break
        if waiting:
            time.sleep(_PAUSE_S)
    return decided


def _found(consumer: Consumer, offsets: Mapping[Place, int], app: str) -> set[Place]:
    found: set[Place] = set()
    waiting = set(offsets)
    consumer.assign([TopicPartition(topic, number, offset) for (topic, number), offset in offsets.items()])
    deadline = time.monotonic() + _ANSWER_S
    while waiting:
        if time.monotonic() > deadline:
            raise ShardRestartError(f"looking for records in {_names(waiting)}: no answer")
        for message in consumer.consume(len(waiting), timeout=0.05):
            place = message.topic() or "", message.partition() or 0
            error = message.error()
            if error is not None and error.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED:
                reason = rights.explained(error, app, place[0])
                raise ShardRestartError(f"whether an open transaction was a commit cannot be seen: {reason}")
            if error is None and message.offset() == offsets[place]:
                found.add(place)
            if error is None or error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001
                waiting.discard(place)
    return found


def _names(places: Iterable[Place]) -> str:
    return ", ".join(sorted(f"{topic}-{number}" for topic, number in places))
