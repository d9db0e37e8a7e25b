"""Publisher of a shard's batches: the base class of all publishers, and the types of its arguments.

Each publisher has a producer and a thread of its own, because the functions of a producer block.
"""

import asyncio
import sys
import threading
import time
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, TypeVar

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from connector.errors import ConnectorError, ShardRestartError
from connector.kafka import rights
from connector.kafka.fatal_errors import fatal_errors
from connector.kafka.log_reader import Place
from connector.kafka.restore import PartitionContents
from connector.kafka.visibility import Places

_FLUSH_S = 15.0
LONGEST_CALL_S = 120.0
"""Maximum duration of one request to the producer, in seconds.

It exceeds the sum of all time-outs in one request: 3 x 15 s for records, 12 s for offsets, 10 s for commit or abort,
and 40 s for checks.
"""
_LOOK_S = 1.0
_T = TypeVar("_T")


class AbortedError(ConnectorError):
    """Failure of a batch that was aborted. It is certain that nothing of the batch was committed.

    The producer and the state in memory stay valid.
    """


class Outgoing(NamedTuple):
    """Record to produce. If `partition` is -1, the key selects it. If `timestamp_ms` is 0, the current time is used."""

    topic: str
    key: bytes | None
    value: bytes | None
    partition: int = -1
    timestamp_ms: int = 0
    headers: list[tuple[str, bytes]] | None = None


class CommitContext(NamedTuple):
    """Offset of the control topic to commit together with a batch, and the group member that commits it."""

    topic: str
    partition: int
    offset: int
    metadata: Any
    "Group metadata of the consumer after its last poll."
    holds: Callable[[], bool]
    "Function that waits for another poll and returns whether the member still owns the partition. Blocks."


Offsets = dict[str, dict[int, int]]
"For each tag (see `TransactionContents.rows`) and partition: the offset after the tag's last record."


class TransactionRecord(NamedTuple):
    """Description of a transaction. It is stored in the record of the shard, which is the transaction's last record."""

    transaction: str
    "Random id of the transaction; empty without transactions."
    places: Places
    "Offsets of the records of the transaction, except those of the state topic."
    unproven: Places
    "Offsets of records of earlier transactions whose commit marker may not be written yet."


NO_TRANSACTION = TransactionRecord("", {}, {})


class TransactionContents(ABC):
    """All records of one batch. The rows are written first, because the other records contain their offsets."""

    @property
    @abstractmethod
    def rows(self) -> Mapping[str, Sequence[Outgoing]]:
        """Return the rows and dead letters, grouped by tags that the caller chooses.

        All records of a tag go to one topic. The caller finds the offsets of its records by the tag.
        """

    def interim_checkpoints(self, offsets: Offsets) -> Sequence[Outgoing]:  # noqa: ARG002
        """Return the previous checkpoints with the offsets of the rows of this batch.

        Only a publisher without transactions writes them, between the rows and the final records.
        """
        return ()

    @abstractmethod
    def final_records(self, offsets: Offsets) -> Sequence[Outgoing]:
        """Return the records that follow the rows: deduplication index, progress records and checkpoints.

        `offsets` are the offsets of the rows.
        """

    @abstractmethod
    def shard_record(self, transaction: TransactionRecord) -> Sequence[Outgoing]:
        """Return the record of the shard, which is written last. It describes `transaction`."""


class Undelivered(NamedTuple):
    """Error and topic of a record that no broker has acknowledged."""

    error: KafkaError
    topic: str


class Publisher(ABC):
    """Writer of a shard's batches. Its producer is used only in the publisher's own thread."""

    def __init__(self, name: str, app: str) -> None:
        self._name = name
        self._app = app
        self._thread_name = f"producer {name}"
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=self._thread_name)
        self._is_abandoned = False
        "True if a request to the producer has not returned, so that its thread accepts no other request."
        self._producer: Producer | None = None
        self._written: Places = {}
        "Offsets of the records of the current batch that brokers have acknowledged."
        self._busy_since: float | None = None
        """Time at which the current request to the producer started or last showed progress, in monotonic seconds.

        None if there is no request.
        """

    @abstractmethod
    def open(self) -> None:
        """Create the producer. Raises ShardRestartError if that fails."""

    @abstractmethod
    def commit(self, contents: TransactionContents, context: CommitContext) -> Offsets:
        """Write all records of `contents` as one batch. Return the offsets of its rows.

        `context` contains the control offset and the group member. Raises AbortedError if it is certain that nothing
        was written, and ShardRestartError if the outcome is unknown.
        """

    @abstractmethod
    def end_open(
        self,
        read: PartitionContents,
        row_topics: Collection[str],
        context: CommitContext,
        is_stopped: Callable[[], bool],
    ) -> set[Place]:
        """Abort the transactions that this shard has left open. Return the partitions in which one was open.

        `read` holds the contents of the internal topics. `row_topics` holds the topics of the tenants. Raises
        ShardRestartError if an abort fails, and HandedOverError if the shard must be released.
        """

    @abstractmethod
    def write_lost(
        self, read: PartitionContents, ended: Collection[Place], context: CommitContext, is_stopped: Callable[[], bool]
    ) -> int:
        """Write lost records of committed transactions again. Return how many records were written.

        `read` holds the contents of the internal topics after `end_open`. `ended` is the result of `end_open`. Raises
        ShardRestartError if the write fails, and HandedOverError if the shard must be released.
        """

    async def call(self, function: Callable[..., _T], *arguments: Any) -> _T:
        """Run a function in the producer's thread and wait until it returns, even if the caller is cancelled.

        A function of librdkafka may never return. After `LONGEST_CALL_S` seconds without progress, the thread is
        abandoned and ShardRestartError is raised. If the caller is cancelled a second time, the thread is abandoned at
        once. An abandoned thread may still send a request. The next producer with the same transactional id fences it.
        """
        if self._is_abandoned:
            raise ShardRestartError(f"the producer of {self._name} is still blocked in an earlier request")
        future = asyncio.get_running_loop().run_in_executor(self._thread, _without_frames, function, *arguments)
        future.add_done_callback(_retrieve)
        self._busy_since = time.monotonic()
        try:
            await self._until_returned(future)
        except asyncio.CancelledError:
            await self._until_returned(future)
            raise
        finally:
            self._busy_since = None
            self._is_abandoned = not future.done()
        if self._is_abandoned:
            where = _position_of(self._thread_name)
            raise ShardRestartError(
                f"a request to the producer of {self._name} did not return within {LONGEST_CALL_S:g} s; it is "
                f"blocked in {where}"
            )
        return future.result()

    async def _until_returned(self, future: "asyncio.Future[_T]") -> None:
        """Wait until a request to the producer has returned or its time limit is exceeded."""
        while not future.done() and self.is_within_bounds:
            await asyncio.wait([future], timeout=_LOOK_S)

    @property
    def is_within_bounds(self) -> bool:
        """Return whether a request to the producer is running and has not exceeded its time limit."""
        since = self._busy_since
        return since is not None and time.monotonic() - since < LONGEST_CALL_S

    @property
    def written(self) -> Places:
        """Return the offsets of the records of the current batch that brokers have acknowledged."""
        return self._written

    def touch(self) -> None:
        """Record that the current request to the producer makes progress. Its time limit then starts again."""
        if self._busy_since is not None:
            self._busy_since = time.monotonic()

    def _opened(self) -> Producer:
        if self._producer is None:
            raise ShardRestartError(f"the producer of {self._name} is not open")
        return self._producer

    def _write(self, records: Sequence[Outgoing]) -> None:
        """Write records and wait until all are acknowledged. Raises KafkaException if a record is not.

        The arguments of the exception are the error and the topics of the failed records.
        """
        by_topic: dict[str, list[Outgoing]] = {}
        for record in records:
            by_topic.setdefault(record.topic, []).append(record)
        self._write_tagged(by_topic)

    def _write_tagged(self, records: Mapping[str, Sequence[Outgoing]]) -> Offsets:
        """Write records and wait, as `_write` does. Return the offsets of the records, by tag.

        All records of a tag must go to one topic.
        """
        producer = self._opened()
        offsets: Offsets = {}
        failures: list[Undelivered] = []
        with fatal_errors():
            for tag, tagged in records.items():
                if tagged:
                    ranges = self._written.setdefault(tagged[0].topic, {})
                    _produce(producer, tagged, _delivery_recorder(offsets.setdefault(tag, {}), ranges, failures))
            left = producer.flush(_FLUSH_S)
        if failures:
            # Prefer this error: it tells the caller which topics need a higher limit.
            first = next(
                (f.error for f in failures if f.error.code() == KafkaError.MSG_SIZE_TOO_LARGE), failures[0].error
            )
            raise KafkaException(first, *dict.fromkeys(f.topic for f in failures if f.error.code() == first.code()))
        if left:
            self._drop()
            raise ShardRestartError(f"brokers did not acknowledge {left} records of {self._name} within {_FLUSH_S:g} s")
        return offsets

    def _explained(self, error: KafkaException) -> str:
        cause, *topics = error.args
        return rights.explained(cause, self._app, *topics)

    def _drop(self) -> None:
        """Drop the producer without waiting for records that are in flight."""
        producer, self._producer = self._producer, None
        if producer is not None:
            producer.purge(blocking=False)

    def release(self) -> None:
        """Drop the producer and end its thread. Call this in the thread that has used the producer.

        Records that are in flight may still be written.
        """
        self._drop()
        self._thread.shutdown(wait=False)

    async def close(self) -> None:
        """Drop the producer and end its thread. Records that are in flight may still be written."""
        try:
            if not self._is_abandoned:
                await self.call(self._drop)
        finally:
            self._thread.shutdown(wait=False)


def _retrieve(future: "asyncio.Future[Any]") -> None:
    """Prevent asyncio from logging the error of a request whose caller was cancelled or no longer waits."""
    if not future.cancelled():
        future.exception()


def _position_of(thread_name: str) -> str:
    """Return which function and line a thread is executing, as text for messages; empty if there is no such thread.

    The thread is the newest one whose name begins with `thread_name`.
    """
    frames = sys._current_frames()  # noqa: SLF001
    running = [thread.ident for thread in threading.enumerate() if thread.name.startswith(f"{thread_name}_")]
    frame = frames.get(running[-1] or 0) if running else None
    return f"{frame.f_code.co_qualname}, line {frame.f_lineno}" if frame is not None else ""


def _without_frames(function: Callable[..., _T], *arguments: Any) -> _T:
    """Call a function. If it raises an error, remove the local variables from the error's traceback.

    Otherwise these variables would keep a dropped producer alive, with its threads and connections: a TaskGroup holds
    the error in a reference cycle until the next full garbage collection.
    """
    try:
        return function(*arguments)
    except Exception as error:
        for one in _chain(error):
            traceback.clear_frames(one.__traceback__)
        raise


def _chain(error: BaseException) -> list[BaseException]:
    """Return an error followed by the errors that caused it, without duplicates."""
    found: list[BaseException] = []
    related: BaseException | None = error
    while related is not None and related not in found:
        found.append(related)
        related = related.__cause__ or related.__context__
    return found


def _delivery_recorder(
    offsets: dict[int, int], ranges: dict[int, list[tuple[int, int]]], failures: list[Undelivered]
) -> Callable[[KafkaError | None, Message], None]:
    """Return a delivery callback that records the offsets of acknowledged records, and the failures of all others.

    For each partition, `offsets` receives the offset after the last acknowledged record. `ranges` receives all
    acknowledged offsets as ranges (first, last). The delivery reports of a partition arrive in the order of its
    offsets, so a new offset extends the last range or begins another one.
    """

    def delivered(error: KafkaError | None, message: Message) -> None:
        if error is not None:
            failures.append(Undelivered(error, message.topic() or ""))
            return
        partition: int = message.partition()  # type: ignore[assignment]
        offset: int = message.offset()  # type: ignore[assignment]
        offsets[partition] = offset + 1
        known = ranges.setdefault(partition, [])
        if known and known[-1][1] == offset - 1:
            known[-1] = known[-1][0], offset
        else:
            known.append((offset, offset))

    return delivered


def _produce(
    producer: Producer, records: Sequence[Outgoing], on_delivery: Callable[[KafkaError | None, Message], None]
) -> None:
    """Pass records to librdkafka. If its queue is full, wait."""
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
