"""Publisher of a shard's batches: the part that every kind of producer shares, and the types that it takes.

Each producer has a thread of its own, because its calls block.
"""

import asyncio
import time
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from connector.errors import ConnectorError, ShardRestartError
from connector.kafka import rights
from connector.kafka.log_reader import Place
from connector.kafka.restore import PartitionContents
from connector.kafka.visibility import Places

_FLUSH_S = 15.0
LONGEST_CALL_S = 120.0
"Longer than all time-outs of one call: 3 x 15 s for records, 12 s offsets, 10 s commit or abort, 40 s checks."
_T = TypeVar("_T")


class AbortedError(ConnectorError):
    """The batch was given up and certainly nothing was written. Producer and state in memory stay valid."""


class Outgoing(NamedTuple):
    """A record to produce. Partition -1: the key decides. Timestamp in epoch milliseconds; 0: the present time."""

    topic: str
    key: bytes | None
    value: bytes | None
    partition: int = -1
    timestamp_ms: int = 0
    headers: list[tuple[str, bytes]] | None = None


class CommitContext(NamedTuple):
    """Offset of the control topic that a batch commits, and the group member on whose behalf it does so."""

    topic: str
    partition: int
    offset: int
    metadata: Any
    "The consumer's group metadata after its last poll."
    holds: Callable[[], bool]
    "Returns whether the member still owns the partition after a further poll. Blocks."


Offsets = dict[str, dict[int, int]]
"Next offset after the last record of each tag, by partition."


class TransactionRecord(NamedTuple):
    """The part of the shard's record that describes its transaction."""

    transaction: str
    "Identity of the transaction."
    places: Places
    "Its records, except those of the state topic."
    unproven: Places
    "Records of earlier transactions of which no marker has been seen."


NO_TRANSACTION = TransactionRecord("", {}, {})


class TransactionContents(ABC):
    """All records of one batch. The rows are written first; the other records name their offsets."""

    @property
    @abstractmethod
    def rows(self) -> Mapping[str, Sequence[Outgoing]]:
        """Return the rows and dead letters, keyed by a tag of the caller's choice. A tag has one topic."""

    def interim_checkpoints(self, offsets: Offsets) -> Sequence[Outgoing]:  # noqa: ARG002
        """Return the checkpoints from before the batch with the offsets of its rows; used without transactions only."""
        return ()

    @abstractmethod
    def final_records(self, offsets: Offsets) -> Sequence[Outgoing]:
        """Return the records of the dedup index, progress and checkpoints."""

    @abstractmethod
    def shard_record(self, transaction: TransactionRecord) -> Sequence[Outgoing]:
        """Return the record of the shard, which is the last of all."""


class Undelivered(NamedTuple):
    """A record that was not acknowledged."""

    error: KafkaError
    topic: str


class Publisher(ABC):
    """A producer that only its own thread uses."""

    def __init__(self, name: str, app: str, settings: Mapping[str, Any]) -> None:
        self._name = name
        self._app = app
        self._settings = dict(settings)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"producer {name}")
        self._producer: Producer | None = None
        self._written: Places = {}
        "Acknowledged records of the batch."
        self._busy_since: float | None = None
        "Time since which the thread works or at which it last showed progress (monotonic seconds)."

    @abstractmethod
    def open(self) -> None:
        """Create the producer. Raises ShardRestartError when that fails."""

    @abstractmethod
    def commit(self, contents: TransactionContents, position: CommitContext) -> Offsets:
        """Write everything in `contents` as one batch for the member in `position`; return the offsets of its rows.

        Raises AbortedError when certainly nothing was written, and ShardRestartError when the outcome is unknown.
        """

    @abstractmethod
    def end_open(
        self,
        read: PartitionContents,
        row_topics: Collection[str],
        position: CommitContext,
        is_stopped: Callable[[], bool],
    ) -> set[Place]:
        """Abort what a transaction of this shard has left open in any partition. Return those partitions.

        `read`: contents of the internal topics. `row_topics`: topics of the tenants. Raises ShardRestartError or
        HandedOverError.
        """

    @abstractmethod
    def write_lost(
        self, read: PartitionContents, ended: Collection[Place], position: CommitContext, is_stopped: Callable[[], bool]
    ) -> int:
        """Write again what committed transactions have lost. Return the number of records.

        `read`: contents of the internal topics after `end_open`. `ended`: the partitions that `end_open` returned.
        Raises ShardRestartError or HandedOverError.
        """

    async def call(self, function: Callable[..., _T], *arguments: Any) -> _T:
        """Run a function in the producer's thread. Waits for its end even when cancelled."""
        future = asyncio.get_running_loop().run_in_executor(self._thread, _without_frames, function, *arguments)
        self._busy_since = time.monotonic()
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            await asyncio.wait([future])
            future.exception()  # retrieved so that asyncio logs nothing; the cancelled caller does not need it
            raise
        finally:
            self._busy_since = None

    @property
    def is_within_bounds(self) -> bool:
        """Return whether the thread works, and within the time that one call may take."""
        since = self._busy_since
        return since is not None and time.monotonic() - since < LONGEST_CALL_S

    @property
    def written(self) -> Places:
        """Return the acknowledged records of the batch."""
        return self._written

    def touch(self) -> None:
        """Show that a long call still makes progress."""
        if self._busy_since is not None:
            self._busy_since = time.monotonic()

    def _opened(self) -> Producer:
        if self._producer is None:
            raise ShardRestartError(f"{self._name} has no producer")
        return self._producer

    def _write(self, records: Sequence[Outgoing]) -> None:
        """Produce records and wait until each is acknowledged. Raises KafkaException(error, *topics) if one is not."""
        by_topic: dict[str, list[Outgoing]] = {}
        for record in records:
            by_topic.setdefault(record.topic, []).append(record)
        self._write_tagged(by_topic)

    def _write_tagged(self, records: Mapping[str, Sequence[Outgoing]]) -> Offsets:
        """Produce records as `_write` does and return the offsets by tag. All records of a tag go to one topic."""
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
        """Drop the producer without waiting for what it has in flight."""
        producer, self._producer = self._producer, None
        if producer is not None:
            producer.purge(blocking=False)

    def release(self) -> None:
        """Release producer and thread; called in the thread that used them. What is in flight may still be written."""
        self._drop()
        self._thread.shutdown(wait=False)

    async def close(self) -> None:
        """Release producer and thread. What is in flight may still be written."""
        try:
            await self.call(self._drop)
        finally:
            self._thread.shutdown(wait=False)


def _without_frames(function: Callable[..., _T], *arguments: Any) -> _T:
    """Call a function whose errors keep nothing of it alive.

    The error of a TaskGroup is part of a reference cycle. Until the next full garbage collection, its frames would keep
    the producer that was dropped, with all its threads and connections.
    """
    try:
        return function(*arguments)
    except Exception as error:
        related: BaseException | None = error
        while related is not None:
            traceback.clear_frames(related.__traceback__)
            related = related.__cause__ or related.__context__
        raise


@contextmanager
def fatal_errors() -> Iterator[None]:
    """Raise KafkaException for every exception of confluent-kafka, so that only success counts as success.

    When a fatal error occurs during callbacks, confluent-kafka raises one of two other exceptions. A delivery call
    fails with SystemError, and its cause is the fatal error. Or the lookup of the logger's method fails with
    AttributeError, although the method exists, and the fatal error is lost.
    """
    try:
        yield
    except (KafkaException, BufferError, ConnectorError):
        raise
    except Exception as error:
        if isinstance(error.__cause__, KafkaException):
            raise error.__cause__ from None  # its cause must not lead back to itself
        reason = f"the producer has failed, its log says why ({type(error).__name__}: {error})"
        raise KafkaException(KafkaError(KafkaError._FATAL, reason)) from error  # noqa: SLF001


def _note(
    offsets: dict[int, int], runs: dict[int, list[tuple[int, int]]], failures: list[Undelivered]
) -> Callable[[KafkaError | None, Message], None]:
    """Return a delivery callback that keeps the next offset of each partition, and the offsets as ranges.

    Within a partition, delivery reports come in the order of the offsets.
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
    """Pass records to librdkafka, and wait while its queue is full."""
    produce = producer.produce
    full_since: float | None = None
    for topic, key, value, partition, timestamp_ms, headers in records:
        while True:
            try:
                # Positional where possible: keyword arguments would double the time per record.
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
