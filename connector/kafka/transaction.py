"""One shard's producer: everything of a batch in one transaction, or nothing.

1. An error before commit was called that wants an abort, and an abort that succeeds, prove that nothing landed: the
   producer stays good (AbortedError). Every classic rebalance causes one.
2. After any other failure or time-out the outcome is unknown: the producer is dropped (ShardRestartError) and the shard
   starts again from what the topics say. `retriable()` is no excuse: librdkafka sets it for a commit that timed out,
   and such commits have landed. Commit is never called twice.
3. A fenced producer (FencedError) means that somebody else has the transactional id.

A thread of its own for each producer: commit and send-offsets block.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, NoReturn, TypeVar

from confluent_kafka import KafkaError, KafkaException, Message, Producer, TopicPartition

from connector.errors import ConnectorError, FencedError, ShardRestartError
from connector.kafka.clients import Clients

_FLUSH_S = 15.0
_CALL_S = 10.0
_INIT_S = 15.0
_OFFSETS_S = 12.0  # longer than librdkafka's own limit, where it keeps it
_FENCED = frozenset({KafkaError._FENCED, KafkaError.INVALID_PRODUCER_EPOCH, 90})  # noqa: SLF001 - 90: PRODUCER_FENCED
_T = TypeVar("_T")


class AbortedError(ConnectorError):
    """The transaction was aborted for certain: nothing landed, producer and memory are good."""


class Outgoing(NamedTuple):
    """A record to produce; partition -1 lets the key decide. Timestamp in epoch milliseconds, 0 for now."""

    topic: str
    key: bytes | None
    value: bytes | None
    partition: int = -1
    timestamp_ms: int = 0
    headers: list[tuple[str, bytes]] | None = None


class Position(NamedTuple):
    """What a transaction says of the control topic, and as which member of the group."""

    topic: str
    partition: int
    offset: int
    metadata: Any
    "The consumer's group metadata, as fresh as the last poll."


Offsets = dict[str, dict[int, int]]
"Next offset after the last record of each tag, by partition."


class Transactions:
    """A transactional producer, used by its own thread alone. Raises as the module says."""

    def __init__(self, clients: Clients, transactional_id: str) -> None:
        self._settings = clients.producer(transactional_id)
        self._id = transactional_id
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"producer {transactional_id}")
        self._producer: Producer | None = None
        self.busy = False
        "Whether the thread is at work."

    async def call(self, function: Callable[..., _T], *arguments: Any) -> _T:
        """Runs a function in the producer's thread; waits for its end even when cancelled."""
        future = asyncio.get_running_loop().run_in_executor(self._thread, function, *arguments)
        self.busy = True
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            await asyncio.wait([future])
            future.exception()  # whoever was cancelled does not want to know, and asyncio is not to complain of it
            raise
        finally:
            self.busy = False

    def open(self) -> None:
        """Fences whoever had the transactional id, and ends its open transaction."""
        try:
            self._producer = Producer(self._settings)
            self._producer.init_transactions(_INIT_S)
        except KafkaException as error:
            self._drop()
            raise _after(error, f"initialising transactions of {self._id}") from error

    def commit(
        self,
        records: Mapping[str, Sequence[Outgoing]],
        last: Callable[[Offsets], Sequence[Outgoing]],
        position: Position,
    ) -> Offsets:
        """Produces `records`, then what `last` makes of their offsets, and commits both with the position of the group.

        `records`: by a tag of the caller's, under which their offsets are returned.
        """
        producer = self._producer
        if producer is None:
            raise ShardRestartError(f"{self._id} has no producer")
        try:
            offsets = self._fill(producer, records, last, position)
        except KafkaException as error:
            self._abort(producer, error)
        try:
            producer.commit_transaction(_CALL_S)
        except KafkaException as error:
            self._drop()
            raise _after(error, f"committing a transaction of {self._id}") from error
        return offsets

    def _fill(
        self,
        producer: Producer,
        records: Mapping[str, Sequence[Outgoing]],
        last: Callable[[Offsets], Sequence[Outgoing]],
        position: Position,
    ) -> Offsets:
        offsets: Offsets = {}
        failures: list[KafkaError] = []

        def failed(error: KafkaError | None, _message: Message) -> None:
            if error is not None:
                failures.append(error)

        producer.begin_transaction()
        for tag, tagged in records.items():
            delivered = _note(offsets.setdefault(tag, {}), failures)
            _produce(producer, tagged, delivered)
        self._flush(producer, failures)
        _produce(producer, last(offsets), failed)
        self._flush(producer, failures)
        control = TopicPartition(position.topic, position.partition, position.offset)
        self._send_offsets(producer, control, position.metadata)
        return offsets

    def _send_offsets(self, producer: Producer, control: TopicPartition, metadata: Any) -> None:
        """Sends them in a thread that can be left behind.

        After a broker was bounced the call may never return, whatever its time-out says (tried: librdkafka 2.16).
        Whoever opens the id next fences what it might still do.
        """
        failures: list[KafkaException] = []

        def send() -> None:
            try:
                producer.send_offsets_to_transaction([control], metadata, _CALL_S)
            except KafkaException as error:
                failures.append(error)

        sender = threading.Thread(target=send, name=f"offsets {self._id}", daemon=True)
        sender.start()
        sender.join(_OFFSETS_S)
        if sender.is_alive():
            self._drop()
            raise ShardRestartError(f"the offsets of a transaction of {self._id} were not acknowledged in time")
        if failures:
            raise failures[0]

    def _flush(self, producer: Producer, failures: list[KafkaError]) -> None:
        left = producer.flush(_FLUSH_S)
        if failures:
            raise KafkaException(failures[0])
        if left:
            self._drop()
            raise ShardRestartError(f"{left} records of a transaction of {self._id} were not acknowledged in time")

    def _abort(self, producer: Producer, error: KafkaException) -> NoReturn:
        """Ends a transaction that failed before commit was called; always raises."""
        what = f"writing a transaction of {self._id}"
        cause = error.args[0]
        # A record that was not delivered leaves the transaction abortable, though its own error does not say so.
        if (cause.txn_requires_abort() or cause.code() in _UNDELIVERED) and not _is_fenced(cause):
            try:
                producer.abort_transaction(_CALL_S)
            except KafkaException as second:
                self._drop()
                raise _after(second, f"aborting a transaction of {self._id}") from second
            raise AbortedError(f"{what}: {cause.str()}") from error
        self._drop()
        raise _after(error, what) from error

    def _drop(self) -> None:
        """Lets go of the producer without waiting for what it has in flight."""
        producer, self._producer = self._producer, None
        if producer is not None:
            producer.purge(blocking=False)

    async def close(self) -> None:
        """Lets go of producer and thread. An open transaction is aborted by whoever opens the id next."""
        try:
            await self.call(self._drop)
        finally:
            self._thread.shutdown(wait=False)


_UNDELIVERED = frozenset({KafkaError._MSG_TIMED_OUT, KafkaError._PURGE_QUEUE, KafkaError._PURGE_INFLIGHT})  # noqa: SLF001


def _note(offsets: dict[int, int], failures: list[KafkaError]) -> Callable[[KafkaError | None, Message], None]:
    """A delivery callback that keeps the next offset of each partition. Within a partition they come in order."""

    def delivered(error: KafkaError | None, message: Message) -> None:
        if error is not None:
            failures.append(error)
        else:
            offsets[message.partition()] = message.offset() + 1  # type: ignore[index,operator]

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
            else:
                full_since = None
                break


def _is_fenced(error: KafkaError) -> bool:
    return error.code() in _FENCED


def _after(error: KafkaException, what: str) -> ShardRestartError:
    cause = error.args[0]
    kind = FencedError if _is_fenced(cause) else ShardRestartError
    return kind(f"{what}: {cause.str()}")
