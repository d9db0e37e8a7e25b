"""Detection of topics that were deleted and created again, so that known offsets no longer apply."""

from typing import NamedTuple

from confluent_kafka import KafkaException, TopicCollection, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

from connector import log
from connector.kafka.clients import Clients

_ASK_S = 5.0
_logger = log.get(__name__)


class Place(NamedTuple):
    """The next offset of a partition of one topic. `topic_id`: the brokers' id of the topic; empty if unknown."""

    offset: int
    topic_id: str


def locate(clients: Clients, topic: str, partition: int, known: Place) -> Place:
    """Return `known`, or offset 0 if the topic was created again since.

    Brokers that report no id prove this only if the partition ends before the offset. Blocks, for seconds at most.
    """
    admin = AdminClient(clients.admin())
    try:
        current = _id(admin, topic)
        if known.topic_id and current:
            is_new = known.topic_id != current
        else:
            is_new = known.offset > 0 and _end(admin, topic, partition) < known.offset
    except (KafkaException, TimeoutError):
        return known
    if is_new:
        _logger.warning("topic_created_again", topic=topic, partition=partition, offset=known.offset)
    return Place(0 if is_new else known.offset, current or known.topic_id)


def topic_id(clients: Clients, topic: str) -> str:
    """Return the brokers' id of a topic; empty if they do not report it. Blocks, for seconds at most."""
    try:
        return _id(AdminClient(clients.admin()), topic)
    except (KafkaException, TimeoutError):
        return ""


def _id(admin: AdminClient, topic: str) -> str:
    known = admin.list_topics(topic, timeout=_ASK_S)
    if known.controller_id not in known.brokers:  # librdkafka's mock cluster, where the request would time out
        return ""
    futures = admin.describe_topics(TopicCollection([topic]), request_timeout=_ASK_S)
    found = futures[topic].result(timeout=2 * _ASK_S).topic_id
    return str(found) if found is not None else ""


def _end(admin: AdminClient, topic: str, partition: int) -> int:
    latest = OffsetSpec.latest()  # type: ignore[no-untyped-call]
    (future,) = admin.list_offsets({TopicPartition(topic, partition): latest}, request_timeout=_ASK_S).values()
    return int(future.result(timeout=2 * _ASK_S).offset)
