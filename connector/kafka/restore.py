"""Reader of a shard's partitions of the internal topics, up to their end."""

import ctypes
import math
import sys
import time
from collections.abc import Callable
from typing import NamedTuple

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message, TopicPartition

from connector import log
from connector.errors import HandedOverError, ShardRestartError
from connector.kafka import rights
from connector.kafka.clients import Clients

_BATCH = 10_000
_SILENCE_S = 20.0
_TELL_EVERY_S = 5.0
_logger = log.get(__name__)


class PartitionContents(NamedTuple):
    """Contents of one partition of some topics for a `read_committed` reader."""

    values: dict[str, dict[bytes, bytes]]
    "Newest value of each key, by topic."
    offsets: dict[str, int]
    "Offset of the newest record by topic; -1 if there is none."
    undecided: frozenset[str] = frozenset()
    "Topics with an open transaction, which hides the records after it."


def read_compacted(
    clients: Clients,
    topics: tuple[str, ...],
    partition: int,
    *,
    is_stopped: Callable[[], bool] = lambda: False,
) -> dict[str, dict[bytes, bytes]]:
    """Return by topic the newest value of each key in one partition, up to the last stable offset."""
    return read_partition(clients, topics, partition, is_stopped=is_stopped).values


def read_partition(
    clients: Clients,
    topics: tuple[str, ...],
    partition: int,
    *,
    is_stopped: Callable[[], bool] = lambda: False,
    decided_within_s: float = math.inf,
) -> PartitionContents:
    """Read one partition of some topics to its end.

    The end is the EOF event, which comes exactly at the last stable offset; a watermark may be cached.
    `decided_within_s`: seconds to wait for transactions below the high watermark to end. A topic in which one stays
    open for longer is given up and named in `undecided`. By default no topic is given up, and the last stable offset is
    the end.

    Blocks and logs its progress. Raises ShardRestartError when no broker answers, and HandedOverError soon after
    `is_stopped`.
    """
    consumer = Consumer(clients.reader())
    reading = _Reading(consumer, topics, partition, clients.app, decided_within_s)
    try:
        consumer.assign([TopicPartition(topic, partition, OFFSET_BEGINNING) for topic in topics])
        heard = told = time.monotonic()
        while reading.unread:
            if is_stopped():
                raise HandedOverError
            if time.monotonic() - told > _TELL_EVERY_S:
                told = time.monotonic()
                _logger.info("shard_restoring", shard=partition, records=reading.records, offsets_left=reading.left())
            messages = consumer.consume(_BATCH, timeout=0.05)
            if messages:
                heard = time.monotonic()
            else:
                reading.give_up_undecided()
                if time.monotonic() - heard > _SILENCE_S:
                    what = ", ".join(sorted(reading.unread))
                    raise ShardRestartError(f"reading {what}, partition {partition}: no answer")
            for message in messages:
                reading.take(message)
    except KafkaException as error:
        raise ShardRestartError(f"reading partition {partition}: {error.args[0].str()}") from error
    finally:
        consumer.close()
    return PartitionContents(reading.values, reading.offsets, frozenset(reading.given_up))


class _Reading:
    """Records of one partition of some topics that were read so far."""

    def __init__(
        self, consumer: Consumer, topics: tuple[str, ...], partition: int, app: str, decided_within_s: float
    ) -> None:
        self.values: dict[str, dict[bytes, bytes]] = {topic: {} for topic in topics}
        self.unread = set(topics)
        self.offsets = dict.fromkeys(topics, -1)
        self.given_up: set[str] = set()
        self.records = 0
        self._consumer = consumer
        self._partition = partition
        self._app = app
        self._decided_within_s = decided_within_s
        self._undecided: dict[str, float] = {}
        "Time since which the end of a topic lies behind an open transaction (monotonic seconds)."

    def take(self, message: Message) -> None:
        """Process a record, the end of a topic, or an error.

        Raises ShardRestartError for an error that retrying does not fix.
        """
        error = message.error()
        topic = message.topic() or ""
        if error is None:
            self.records += 1
            self.offsets[topic] = message.offset() or 0
            self._undecided.pop(topic, None)
            _apply(self.values[topic], message.key(), message.value())
        elif error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001
            # An EOF event below the high watermark means that an open transaction hides the records behind it.
            if self._decided_within_s == math.inf or (message.offset() or 0) >= self._end(topic):
                self._undecided.pop(topic, None)
                self.unread.discard(topic)
            else:
                self._undecided.setdefault(topic, time.monotonic())
        elif not error.retriable():
            reason = rights.explained(error, self._app, topic)
            raise ShardRestartError(f"reading partition {self._partition}: {reason}")

    def give_up_undecided(self) -> None:
        """Stop reading topics in which a transaction has been open for too long."""
        for topic, since in list(self._undecided.items()):
            if time.monotonic() - since > self._decided_within_s:
                del self._undecided[topic]
                self.unread.discard(topic)
                self.given_up.add(topic)

    def left(self) -> int:
        """Return the number of offsets up to the known ends. It includes offsets whose records were compacted."""
        positions = self._consumer.position([TopicPartition(topic, self._partition) for topic in self.unread])
        return sum(max(0, self._end(place.topic) - max(0, place.offset)) for place in positions)

    def _end(self, topic: str) -> int:
        """Return the high watermark as of the last fetch. Records of open transactions lie below it too."""
        _, end = self._consumer.get_watermark_offsets(TopicPartition(topic, self._partition), cached=True)
        return end


def trim_heap() -> None:
    """Return the memory that a restore needed temporarily to the system.

    glibc would keep it, which doubles the memory that the process occupies.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


def _apply(values: dict[bytes, bytes], key: object, value: object) -> None:
    if not isinstance(key, bytes):
        return
    if isinstance(value, bytes):
        values[key] = value
    else:
        values.pop(key, None)
