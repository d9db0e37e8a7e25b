"""Where a shard's batches go: what every kind of producer of a shard has, and what it is given.

A thread of its own for each producer: its calls block.
"""

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from connector.errors import ConnectorError, ShardRestartError
from connector.kafka import rights
from connector.kafka.restore import PartitionContents
from connector.kafka.visibility import Place, Places

_FLUSH_S = 15.0
LONGEST_CALL_S = 120.0
"""Longer than the time-outs of one call add up to: three times 15 s for records, 12 s for offsets, 10 s for a commit or
an abort, and up to 40 s for looking at what was committed before."""
_T = TypeVar("_T")


class AbortedError(ConnectorError):
    """The batch was given up for certain: nothing landed, producer and memory are good."""


class Outgoing(NamedTuple):
    """A record to produce; partition -1 lets the key decide. Timestamp in epoch milliseconds, 0 for now."""

    topic: str
    key: bytes | None
    value: bytes | None
    partition: int = -1
    timestamp_ms: int = 0
    headers: list[tuple[str, bytes]] | None = None


class CommitContext(NamedTuple):
    """What a batch says of the control topic, and as which member of the group."""

    topic: str
    partition: int
    offset: int
    metadata: Any
    "The consumer's group metadata, as fresh as the last poll."
    holds: Callable[[], bool]
    "Whether it still owns the partition; waits for a further poll."


Offsets = dict[str, dict[int, int]]
"Next offset after the last record of each tag, by partition."


class TransactionRecord(NamedTuple):
    """What the record of the shard says of its transaction."""

    transaction: str
    "Its identity."
    places: Places
    "Its records, but for those of the state topic."
    unproven: Places
    "Records of transactions before it of which no marker has been seen."


NO_TRANSACTION = TransactionRecord("", {}, {})


class TransactionContents(NamedTuple):
    """What a batch ends with, made of the offsets of its records."""

    noted: Callable[[Offsets], Sequence[Outgoing]]
    "Where its rows lie, for a checkpoint that does not cover them yet; only for who writes one after the other."
    last: Callable[[Offsets], Sequence[Outgoing]]
    "Remembered rows, progress and checkpoints."
    shard: Callable[[TransactionRecord], Sequence[Outgoing]] = lambda _: []
    "The record of the shard, which is the last of all."


class Undelivered(NamedTuple):
    """A record that was not acknowledged."""

    error: KafkaError
    topic: str


class Publisher(ABC):
    """A producer, used by its own thread alone."""

    def __init__(self, name: str, app: str, settings: Mapping[str, Any]) -> None:
        self._name = name
        self._app = app
        self._settings = dict(settings)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"producer {name}")
        self._producer: Producer | None = None
        self._written: Places = {}
        "What was acknowledged of the batch."
        self._busy_since: float | None = None
        "Since when the thread is at work, or has last shown that it turns (monotonic seconds)."

    @abstractmethod
    def open(self) -> None:
        """Makes the producer; raises ShardRestartError when that fails."""

    @abstractmethod
    def commit(
        self, records: Mapping[str, Sequence[Outgoing]], closing: TransactionContents, position: CommitContext
    ) -> Offsets:
        """Writes `records`, then what `closing` makes of their offsets, as one batch of who is at `position`.

        `records`: by a tag of the caller's, under which their offsets are returned. Raises AbortedError when nothing
        landed for certain, ShardRestartError when the outcome is unknown.
        """

    def end_open(
        self,
        read: PartitionContents,
        row_topics: Collection[str],
        position: CommitContext,
        is_stopped: Callable[[], bool],
    ) -> set[Place]:
        """Abort what a transaction of this shard has left open anywhere; return the partitions.

        `read`: the internal topics. `row_topics`: those of the tenants. Raises ShardRestartError or HandedOverError.
        """
        raise NotImplementedError

    def write_lost(
        self, read: PartitionContents, ended: Collection[Place], position: CommitContext, is_stopped: Callable[[], bool]
    ) -> int:
        """Write again what committed transactions have lost; return how many records.

        `read`: the internal topics after `end_open`, which has `ended` something there. Raises likewise.
        """
        raise NotImplementedError

    async def call(self, function: Callable[..., _T], *arguments: Any) -> _T:
        """Runs a function in the producer's thread; waits for its end even when cancelled."""
        future = asyncio.get_running_loop().run_in_executor(self._thread, function, *arguments)
        self._busy_since = time.monotonic()
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            await asyncio.wait([future])
            future.exception()  # whoever was cancelled does not want to know, and asyncio is not to complain of it
            raise
        finally:
            self._busy_since = None

    @property
    def is_within_bounds(self) -> bool:
        """Whether the thread is at work, and not for longer than the time-outs of one call add up to."""
        since = self._busy_since
        return since is not None and time.monotonic() - since < LONGEST_CALL_S

    def touch(self) -> None:
        """Show that a long call turns."""
        if self._busy_since is not None:
            self._busy_since = time.monotonic()

    def _opened(self) -> Producer:
        if self._producer is None:
            raise ShardRestartError(f"{self._name} has no producer")
        return self._producer

    def _write(self, records: Sequence[Outgoing]) -> None:
        """Produce records and wait until each is acknowledged; else raise KafkaException(error, *topics)."""
        by_topic: dict[str, list[Outgoing]] = {}
        for record in records:
            by_topic.setdefault(record.topic, []).append(record)
        self._write_tagged(by_topic)

    def _write_tagged(self, records: Mapping[str, Sequence[Outgoing]]) -> Offsets:
        """Do the same; return the offsets by tag. The records of a tag go to one topic."""
        producer = self._opened()
        offsets: Offsets = {}
        failures: list[Undelivered] = []
        with fatal_errors():
            for tag, tagged in records.items():
                if tagged:
                    runs = self._written.setdefault(tagged[0].topic, {})
                    _produce(producer, tagged, _note(offsets.setdefault(tag, {}), runs, failures))
            left = producer.flush(_FLUSH_S)
        if failures:
            first = next(
                (f.error for f in failures if f.error.code() == KafkaError.MSG_SIZE_TOO_LARGE), failures[0].error
            )
            raise KafkaException(first, *dict.fromkeys(f.topic for f in failures if f.error.code() == first.code()))
        if left:
            self._drop()
            raise ShardRestartError(f"{left} records of {self._name} were not acknowledged in time")
        return offsets

    def _explained(self, error: KafkaException) -> str:
        cause, *topics = error.args
        return rights.explained(cause, self._app, *topics)

    def _drop(self) -> None:
        """Lets go of the producer without waiting for what it has in flight."""
        producer, self._producer = self._producer, None
        if producer is not None:
            producer.purge(blocking=False)

    def release(self) -> None:
        """Let go of producer and thread, called from the thread that used it. What is in flight may still land."""
        self._drop()
        self._thread.shutdown(wait=False)

    async def close(self) -> None:
        """Lets go of producer and thread. What is in flight may still land."""
        try:
            await self.call(self._drop)
        finally:
            self._thread.shutdown(wait=False)


@contextmanager
def fatal_errors() -> Iterator[None]:
    """Raise KafkaException for whatever confluent-kafka raises inside, so that nothing but success counts as such.

    When a fatal error occurs during callbacks, a call of a delivery's own fails with SystemError, and names the fatal
    error as its cause. The look-up of the logger's method fails with AttributeError, though there is one, and the fatal
    error is lost.
    """
    try:
        yield
    except (KafkaException, BufferError, ConnectorError):
        raise
    except Exception as error:
        if isinstance(error.__cause__, KafkaException):
            raise error.__cause__ from error
        reason = f"the producer has failed, its log says why ({type(error).__name__}: {error})"
        raise KafkaException(KafkaError(KafkaError._FATAL, reason)) from error  # noqa: SLF001


def _note(
    offsets: dict[int, int], runs: dict[int, list[tuple[int, int]]], failures: list[Undelivered]
) -> Callable[[KafkaError | None, Message], None]:
    """Return a delivery callback that keeps the next offset of each partition, and the offsets as ranges.

    Within a partition they come in order.
    """

    def delivered(error: KafkaError | None, message: Message) -> None:
        if error is not None:
            failures.append(Undelivered(error, message.topic() or ""))
            return
        partition: int = message.partition()  # type: ignore[assignment]
        offset: int = message.offset()  # type: ignore[assignment]
        offsets[partition] = offset + 1
        known = runs.setdefault(partition, [])
        if known and known[-1][1] == offset - 1:
            known[-1] = known[-1][0], offset
        else:
            known.append((offset, offset))

    return delivered


def _produce(
    producer: Producer, records: Sequence[Outgoing], on_delivery: Callable[[KafkaError | None, Message], None]
) -> None:
    """Hands records to librdkafka, waiting while its queue is full."""
    produce = producer.produce
    full_since: float | None = None
    for topic, key, value, partition, timestamp_ms, headers in records:
        while True:
            try:
                # By position where that is possible: names cost a record as much again.
                produce(topic, value, key, partition, on_delivery, timestamp=timestamp_ms, headers=headers)  # type: ignore[arg-type]
            except BufferError:
                full_since = full_since or time.monotonic()
                if time.monotonic() - full_since > _FLUSH_S:
                    raise KafkaException(KafkaError(KafkaError._QUEUE_FULL)) from None  # noqa: SLF001
                producer.poll(0.1)
            except KafkaException as error:
                raise KafkaException(error.args[0], topic) from error
            else:
                full_since = None
                break
