"""Reads a shard's partitions of the internal topics to their end."""

import ctypes
import sys
import time
from collections.abc import Callable

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, TopicPartition

from connector import log
from connector.errors import HandedOverError, ShardRestartError
from connector.kafka import rights
from connector.kafka.clients import Clients

_BATCH = 10_000
_SILENCE_S = 20.0
_TELL_EVERY_S = 5.0
_logger = log.get(__name__)


def read_compacted(
    clients: Clients, topics: tuple[str, ...], partition: int, *, is_stopped: Callable[[], bool] = lambda: False
) -> dict[str, dict[bytes, bytes]]:
    """By topic the newest value of each key in one partition, as a read_committed reader sees it now.

    Its end is the EOF event, which is exactly the last stable offset; a watermark may be cached. Blocking; tells every
    few seconds how far it has come. Raises ShardRestartError when nothing comes for a while: brokers are away; and
    HandedOverError soon after `is_stopped` says so.
    """
    values: dict[str, dict[bytes, bytes]] = {topic: {} for topic in topics}
    app = clients.app
    open_topics = set(topics)
    consumer = Consumer(clients.reader())
    try:
        consumer.assign([TopicPartition(topic, partition, OFFSET_BEGINNING) for topic in topics])
        heard = told = time.monotonic()
        records = 0
        while open_topics:
            if is_stopped():
                raise HandedOverError
            if time.monotonic() - told > _TELL_EVERY_S:
                told = time.monotonic()
                left = sum(_left(consumer, topic, partition) for topic in open_topics)
                _logger.info("shard_restoring", shard=partition, records=records, offsets_left=left)
            messages = consumer.consume(_BATCH, timeout=0.05)
            if messages:
                heard = time.monotonic()
            elif time.monotonic() - heard > _SILENCE_S:
                raise ShardRestartError(f"reading {', '.join(sorted(open_topics))}, partition {partition}: no answer")
            for message in messages:
                error = message.error()
                topic = message.topic() or ""
                if error is None:
                    records += 1
                    _apply(values[topic], message.key(), message.value())
                elif error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001
                    open_topics.discard(topic)
                elif not error.retriable():
                    reason = rights.explained(error, app, topic)
                    raise ShardRestartError(f"reading partition {partition}: {reason}")
    except KafkaException as error:
        raise ShardRestartError(f"reading partition {partition}: {error.args[0].str()}") from error
    finally:
        consumer.close()
    return values


def give_back() -> None:
    """Gives the system what a restore has needed for a moment. glibc would keep it: as much again as all that stays."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


def _left(consumer: Consumer, topic: str, partition: int) -> int:
    """Offsets to the end of a partition, as far as it is known; compaction has left holes among them."""
    place = TopicPartition(topic, partition)
    _, end = consumer.get_watermark_offsets(place, cached=True)
    (position,) = consumer.position([place])
    return max(0, end - max(0, position.offset))


def _apply(values: dict[bytes, bytes], key: object, value: object) -> None:
    if not isinstance(key, bytes):
        return
    if isinstance(value, bytes):
        values[key] = value
    else:
        values.pop(key, None)
