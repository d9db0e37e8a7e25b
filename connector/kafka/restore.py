"""Reads a shard's partitions of the internal topics to their end."""

import ctypes
import math
import sys
import time
from collections.abc import Callable

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message, TopicPartition

from connector import log
from connector.errors import HandedOverError, HangingTransactionError, ShardRestartError
from connector.kafka import rights
from connector.kafka.clients import Clients

_BATCH = 10_000
_SILENCE_S = 20.0
_TELL_EVERY_S = 5.0
_logger = log.get(__name__)


def read_compacted(
    clients: Clients,
    topics: tuple[str, ...],
    partition: int,
    *,
    is_stopped: Callable[[], bool] = lambda: False,
    decided_within_s: float = math.inf,
    isolation: str = "read_committed",
) -> dict[str, dict[bytes, bytes]]:
    """By topic the newest value of each key in one partition, as a reader of that isolation level sees it now.

    Its end is the EOF event, which is exactly the last stable offset; a watermark may be cached. Who may count on no
    transaction being open says how soon all before that watermark has to be decided: else HangingTransactionError.
    Blocking; tells every few seconds how far it has come. Raises ShardRestartError when nothing comes for a while:
    brokers are away; and HandedOverError soon after `is_stopped` says so.
    """
    consumer = Consumer(clients.reader(isolation))
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
                reading.check_undecided()
                if time.monotonic() - heard > _SILENCE_S:
                    what = ", ".join(sorted(reading.unread))
                    raise ShardRestartError(f"reading {what}, partition {partition}: no answer")
            for message in messages:
                reading.take(message)
    except KafkaException as error:
        raise ShardRestartError(f"reading partition {partition}: {error.args[0].str()}") from error
    finally:
        consumer.close()
    return reading.values


class _Reading:
    """What one partition of some topics has told so far."""

    def __init__(
        self, consumer: Consumer, topics: tuple[str, ...], partition: int, app: str, decided_within_s: float
    ) -> None:
        self.values: dict[str, dict[bytes, bytes]] = {topic: {} for topic in topics}
        self.unread = set(topics)
        self.records = 0
        self._consumer = consumer
        self._partition = partition
        self._app = app
        self._decided_within_s = decided_within_s
        self._undecided: dict[str, float] = {}
        "Since when (monotonic seconds) the end of a topic lies behind an open transaction."

    def take(self, message: Message) -> None:
        """A record, the end of a topic, or an error: ShardRestartError where it does not pass by itself."""
        error = message.error()
        topic = message.topic() or ""
        if error is None:
            self.records += 1
            self._undecided.pop(topic, None)
            _apply(self.values[topic], message.key(), message.value())
        elif error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001
            if self._decided_within_s == math.inf or (message.offset() or 0) >= self._end(topic):
                self._undecided.pop(topic, None)
                self.unread.discard(topic)
            else:
                self._undecided.setdefault(topic, time.monotonic())
        elif not error.retriable():
            reason = rights.explained(error, self._app, topic)
            raise ShardRestartError(f"reading partition {self._partition}: {reason}")

    def check_undecided(self) -> None:
        """Raises HangingTransactionError when a transaction has been open for too long."""
        if self._undecided and time.monotonic() - min(self._undecided.values()) > self._decided_within_s:
            where = " and ".join(f"{topic}-{self._partition}" for topic in sorted(self._undecided))
            raise HangingTransactionError(f"a transaction in {where} is over and has no end", self.values)

    def left(self) -> int:
        """Offsets to the ends, as far as they are known; compaction has left holes among them."""
        positions = self._consumer.position([TopicPartition(topic, self._partition) for topic in self.unread])
        return sum(max(0, self._end(place.topic) - max(0, place.offset)) for place in positions)

    def _end(self, topic: str) -> int:
        """The high watermark, at least as new as whatever was fetched last: what is open lies below it too."""
        _, end = self._consumer.get_watermark_offsets(TopicPartition(topic, self._partition), cached=True)
        return end


def give_back() -> None:
    """Gives the system what a restore has needed for a moment. glibc would keep it: as much again as all that stays."""
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
