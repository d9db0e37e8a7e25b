"""Detection of topics that were deleted and created again.

Checkpoints contain offsets of the deleted topic. These offsets are not valid for the new one.
"""

from collections.abc import Collection, Iterable
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from confluent_kafka import IsolationLevel, KafkaException, TopicCollection, TopicPartition, Uuid
from confluent_kafka.admin import AdminClient, OffsetSpec

from connector import log
from connector.kafka import log_reader, visibility
from connector.kafka.clients import Clients
from connector.kafka.state import Checkpoint

if TYPE_CHECKING:
    from concurrent.futures import Future

_ASK_S = 5.0
_ASK_DURING_BATCH_S = 2.0
_ATTEMPTS = 3
_NO_ID = str(Uuid(0, 0))
_logger = log.get(__name__)


class Place(NamedTuple):
    """Next offset to read in a partition of a topic.

    `topic_id` is the id that brokers have given to the topic; empty if unknown.
    """

    offset: int
    topic_id: str


class TopicIds:
    """Look-up of the ids that brokers have given to topics. Its methods block, each for seconds at most."""

    def __init__(self, clients: Clients) -> None:
        self._clients = clients

    def of(self, names: Collection[str]) -> dict[str, str]:
        """Return the ids of topics, by name. A topic is left out if brokers do not report its id."""
        if not names:
            return {}
        try:
            if not self._are_ids_reported:
                return {}
            asked = TopicCollection(list(names))
            futures = self._clients.asking.describe_topics(asked, request_timeout=_ASK_DURING_BATCH_S)
        except KafkaException:
            return {}
        ids = {name: _result(future) for name, future in futures.items()}
        return {name: found for name, found in ids.items() if found}

    @cached_property
    def _are_ids_reported(self) -> bool:
        """Return whether the brokers answer requests for topic ids.

        The mock cluster of librdkafka does not: each request would time out.
        """
        known = self._clients.asking.list_topics(timeout=_ASK_S)
        return known.controller_id in known.brokers


def _result(future: "Future[Any]") -> str:
    try:
        found = str(future.result(timeout=2 * _ASK_DURING_BATCH_S).topic_id)
    except (KafkaException, TimeoutError):
        return ""
    return "" if found in ("None", _NO_ID) else found


def topics_that_end_before(clients: Clients, checkpoints: Iterable[Checkpoint]) -> set[str]:
    """Return the row topics that were deleted and created again: those that end before an offset in a checkpoint.

    Checkpoints that contain the id of their topic are ignored, because the id shows the same more reliably. A partition
    whose end no broker reports in three attempts is ignored too. Blocks.
    """
    furthest: dict[log_reader.Place, int] = {}
    for checkpoint in checkpoints:
        for number, offset in enumerate(() if checkpoint.topic_id else checkpoint.offsets):
            place = checkpoint.topic, number
            furthest[place] = max(offset, furthest.get(place, 0))
    asked = [place for place, offset in furthest.items() if offset]
    ends: dict[log_reader.Place, int | None] = {}
    for _ in range(_ATTEMPTS):
        unknown = [place for place in asked if place not in ends]
        ends |= visibility.offsets(clients, unknown, IsolationLevel.READ_UNCOMMITTED)
    return {place[0] for place, end in ends.items() if end is not None and end < furthest[place]}


def locate(clients: Clients, topic: str, partition: int, known: Place) -> Place:
    """Return the next offset to read in a partition: that of `known`, or 0 if the topic was deleted and created again.

    The ids of the topic show this. If brokers report no id, the topic counts as created again if the partition ends
    before the known offset. Blocks for seconds.
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
        _logger.warning("topic_recreated", topic=topic, partition=partition, offset=known.offset)
    return Place(0 if is_new else known.offset, current or known.topic_id)


def topic_id(clients: Clients, topic: str) -> str:
    """Return the id that brokers have given to a topic; empty if they do not report it. Blocks, for seconds at most."""
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
