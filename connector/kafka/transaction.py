"""Publisher of one shard for brokers with transactions. It writes a batch completely or not at all.

1. A batch may fail before its commit, for example at each rebalance of a classic group. If its transaction is aborted
   successfully, nothing was written, and the producer stays valid (AbortedError). The publisher checks that the abort
   has reached every partition. It also checks that earlier commits are still visible (see hanging.py).
2. After any other failure or time-out the outcome is unknown. The producer is dropped (ShardRestartError), and the
   shard restarts from the contents of its topics. librdkafka's `retriable()` is ignored: it is also set for a commit
   that timed out, and such commits have succeeded. A commit is never tried twice.
3. If the producer is fenced (FencedError), another producer has taken over the transactional id.
4. If brokers have no transactions, or only a part of their API (UnsupportedError), a repeated attempt does not help.
"""

import threading
import time
import uuid
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, NoReturn

from confluent_kafka import IsolationLevel, KafkaError, KafkaException, Producer, TopicPartition

from connector.errors import FencedError, ShardRestartError, UnsupportedError
from connector.kafka import hanging, rights, visibility
from connector.kafka.clients import Clients
from connector.kafka.fatal_errors import fatal_errors
from connector.kafka.log_reader import Place, named
from connector.kafka.publishing import (
    AbortedError,
    CommitContext,
    Offsets,
    Outgoing,
    Publisher,
    TransactionContents,
    TransactionRecord,
)
from connector.kafka.restore import PartitionContents
from connector.kafka.topics import Names
from connector.kafka.visibility import Places, last_offsets, merge

_CALL_S = 10.0
_INIT_S = 15.0
_TOMBSTONE = b"hanging"
_OFFSETS_S = 12.0  # longer than librdkafka's own time limit, which it does not always observe
_ABORTED_WITHIN_S = 5.0
_PROVEN_WITHIN_S = 10.0
_FENCED = frozenset({KafkaError._FENCED, KafkaError.INVALID_PRODUCER_EPOCH, 90})  # noqa: SLF001 - 90: PRODUCER_FENCED


class Transactions(Publisher):
    """Publisher with a transactional producer. The module's docstring explains which errors it raises.

    If it is closed during a transaction, the next producer with the same transactional id aborts the transaction.
    """

    def __init__(self, clients: Clients, transactional_id: str) -> None:
        super().__init__(transactional_id, transactional_id.rpartition("-")[0])
        self._settings = clients.producer(transactional_id)
        self._clients = clients
        self._names = Names(self._app)
        self._unproven: list[tuple[float, Places]] = []
        """Acknowledged commits whose markers may not be written yet: the monotonic time of each, and where its records
        lie.
        """

    def open(self) -> None:
        """Create the producer, and make brokers fence the previous producer with the same transactional id.

        Brokers also end an open transaction of the previous producer.
        """
        try:
            with fatal_errors():
                self._producer = Producer(self._settings)
                self._producer.init_transactions(_INIT_S)
        except KafkaException as error:
            self._drop()
            raise self._restart_error(error, f"transactions of {self._name} cannot be initialised") from error

    def commit(self, contents: TransactionContents, context: CommitContext) -> Offsets:
        """Commit all records of a batch and the offset of the control topic in one transaction.

        Return the offsets of the rows.
        """
        producer = self._opened()
        self._drop_proven()
        try:
            offsets = self._write_transaction(producer, contents, context)
        except KafkaException as error:
            self._abort(producer, self._cause(producer, error, context))
        self._commit(producer)
        return offsets

    def end_open(
        self,
        read: PartitionContents,
        row_topics: Collection[str],
        context: CommitContext,
        is_stopped: Callable[[], bool],
    ) -> set[Place]:
        """Abort the transactions that this shard has left open. Return the partitions in which one was open."""
        inspection = hanging.Inspection(self._clients, self._names, context.partition, read)
        places = hanging.open_places(inspection, row_topics, is_stopped)
        if places:
            self.end(places, context)
        return places

    def write_lost(
        self, read: PartitionContents, ended: Collection[Place], context: CommitContext, is_stopped: Callable[[], bool]
    ) -> int:
        """Write lost records of committed transactions again. Return how many records were written."""
        inspection = hanging.Inspection(self._clients, self._names, context.partition, read)
        return self.write_again(inspection, hanging.find_lost(inspection, ended, is_stopped), context)

    def write_again(self, inspection: hanging.Inspection, lost: hanging.LostCommits, context: CommitContext) -> int:
        """Write the given lost records again, in one transaction. Return how many records were written."""
        if lost.record is None or not (lost.records or lost.checkpoints):
            return 0
        producer, contents = self._opened(), _LostContents(self, inspection, lost)
        try:
            self._write_transaction(producer, contents, context._replace(offset=lost.record.control))
        except KafkaException as error:
            self._drop()
            raise self._restart_error(
                error, f"records of a transaction of {self._name} that brokers have lost cannot be written again"
            ) from error
        self._commit(producer)
        return sum(map(len, contents.rows.values())) + len(lost.checkpoints)

    def _write_transaction(self, producer: Producer, contents: TransactionContents, context: CommitContext) -> Offsets:
        """Begin a transaction, write all its records and send its offsets. The caller commits it.

        Raises KafkaException if any of these steps fails.
        """
        transaction, self._written = uuid.uuid4().hex, {}
        with fatal_errors():
            producer.begin_transaction()
        offsets = self._write_tagged(contents.rows)
        final = contents.final_records(offsets)
        self._write([record for record in final if record.topic != self._names.state])
        unproven = merge(*(places for _, places in self._unproven))
        shard = contents.shard_record(TransactionRecord(transaction, merge(self._written), unproven))
        states = [record for record in final if record.topic == self._names.state] + list(shard)
        headers = [(hanging.HEADER, transaction.encode())]
        self._write([record._replace(headers=headers) for record in states])
        self._send_offsets(producer, context)
        return offsets

    def _commit(self, producer: Producer) -> None:
        try:
            with fatal_errors():
                producer.commit_transaction(_CALL_S)
        except KafkaException as error:
            self._drop()
            raise self._restart_error(error, f"a commit of {self._name} failed") from error
        self._unproven.append((time.monotonic(), self._written))

    def _drop_proven(self) -> None:
        """Check which acknowledged commits are certainly complete, and remove them from `_unproven`.

        A commit is complete when its marker is written in all partitions. The marker is written in a partition if the
        last stable offset lies behind the records of the commit. Raises ShardRestartError if a marker is missing for
        too long.
        """
        if not self._unproven:
            return
        places = last_offsets(merge(*(places for _, places in self._unproven)))
        stable = visibility.offsets(self._clients, places, IsolationLevel.READ_COMMITTED)
        left = [(since, visibility.after(places, stable)) for since, places in self._unproven]
        self._unproven = [(since, places) for since, places in left if places]
        limit_s = self._clients.decided_within_s + _PROVEN_WITHIN_S
        if self._unproven and time.monotonic() - self._unproven[0][0] > limit_s:
            self._drop()
            where = named(last_offsets(self._unproven[0][1]))
            raise ShardRestartError(
                f"brokers have acknowledged a commit of {self._name}, but the transaction is still open in {where}: "
                "the shard restarts and ends the transaction"
            )

    def end(self, places: Iterable[Place], context: CommitContext) -> None:
        """Abort all open transactions of this transactional id in the given partitions.

        This needs a transaction of its own: it writes a tombstone to each partition and is then aborted. The abort
        writes a marker to each partition. The marker also ends all earlier open transactions of the producer in this
        partition.
        """
        producer = self._opened()
        try:
            with fatal_errors():
                producer.begin_transaction()
                self._write([Outgoing(topic, _TOMBSTONE, None, number) for topic, number in places])
                with suppress(KafkaException):  # the group's partition may hang too; the abort follows anyway
                    self._send_offsets(producer, context)
                producer.abort_transaction(_CALL_S)
        except KafkaException as error:
            self._drop()
            raise self._restart_error(
                error, f"an open transaction of {self._name} in {named(set(places))} cannot be aborted"
            ) from error

    def _cause(self, producer: Producer, error: KafkaException, context: CommitContext) -> KafkaException:
        """Return the error that really made a transaction fail.

        `error` may only state that librdkafka has discarded the records. Then another call of librdkafka reports the
        cause.
        """
        if error.args[0].code() in _PURGED:
            try:
                self._send_offsets(producer, context)
            except KafkaException as cause:
                return KafkaException(cause.args[0], *error.args[1:])
        return error

    def _send_offsets(self, producer: Producer, context: CommitContext) -> None:
        """Send the offset of the control topic to the transaction. Raises ShardRestartError if brokers do not answer.

        In this case the producer is dropped, although its thread may still send. The next producer with the same
        transactional id fences it.
        """
        control = TopicPartition(context.topic, context.partition, context.offset)
        if not send_offset(producer, control, context.metadata):
            self._drop()
            raise ShardRestartError(
                f"brokers did not acknowledge the offsets of a transaction of {self._name} within {_OFFSETS_S:g} s"
            )

    def _abort(self, producer: Producer, error: KafkaException) -> NoReturn:
        """Abort a transaction that failed before its commit, or drop the producer if that is impossible.

        Raises AbortedError if the abort was successful, otherwise ShardRestartError.
        """
        what = f"a transaction of {self._name} failed before its commit"
        cause = error.args[0]
        # A record that was not delivered leaves the transaction abortable, although the record's error does not say so.
        is_final = is_fenced(cause) or cause.code() in rights.UNSUPPORTED
        if (cause.txn_requires_abort() or cause.code() in _UNDELIVERED) and not is_final:
            try:
                with fatal_errors():
                    producer.abort_transaction(_CALL_S)
            except KafkaException as second:
                self._drop()
                failed = f"a transaction of {self._name} failed ({self._explained(error)}) and cannot be aborted"
                raise self._restart_error(second, failed) from second
            self._verify_abort()
            raise AbortedError(f"{what}: {self._explained(error)}") from error
        self._drop()
        raise self._restart_error(error, what) from error

    def _verify_abort(self) -> None:
        """Check that an abort is complete, and that it has not also removed records of an earlier commit.

        Raises ShardRestartError if this is not certain.
        """
        # If an earlier, committed transaction hangs in a partition, the marker of this abort has aborted it as well.
        places = merge(*(places for _, places in self._unproven))
        ends: dict[Place, int | None] = {
            place: last + 1 for place, last in last_offsets(merge(places, self._written)).items()
        }
        left_open = visibility.undecided(self._clients, ends, _ABORTED_WITHIN_S)
        if left_open:
            self._drop()
            raise ShardRestartError(
                f"a transaction of {self._name} was aborted, but {_ABORTED_WITHIN_S:g} s later it is still open in "
                f"{named(left_open)}: the shard restarts and aborts it again"
            )
        lost = visibility.lost(self._clients, places)
        if lost.records or lost.unreadable:
            self._drop()
            where = named({*lost.records, *lost.unreadable})
            raise ShardRestartError(
                f"the abort of a transaction of {self._name} may have removed records of an earlier, committed "
                f"transaction from {where}: the shard restarts and writes these records again"
            )
        self._unproven = []

    def _restart_error(self, error: KafkaException, what: str) -> ShardRestartError:
        cause, kind = error.args[0], ShardRestartError
        if is_fenced(cause):
            kind = FencedError
        elif cause.code() in rights.UNSUPPORTED:
            kind = UnsupportedError
        return kind(f"{what}: {self._explained(error)}")


class _LostContents(TransactionContents):
    """Records of the transaction that restores what earlier, committed transactions have lost."""

    def __init__(self, publisher: Transactions, inspection: hanging.Inspection, lost: hanging.LostCommits) -> None:
        self._publisher = publisher
        self._inspection = inspection
        self._lost = lost
        self._rows = hanging.records_to_rewrite(inspection, lost)

    @property
    def rows(self) -> Mapping[str, Sequence[Outgoing]]:
        return self._rows

    def final_records(self, offsets: Offsets) -> Sequence[Outgoing]:  # noqa: ARG002
        return hanging.state_to_rewrite(self._inspection, self._lost, self._publisher.written)

    def shard_record(self, transaction: TransactionRecord) -> Sequence[Outgoing]:
        return hanging.shard_record_to_rewrite(self._inspection, self._lost, transaction)


_PURGED = frozenset({KafkaError._PURGE_QUEUE, KafkaError._PURGE_INFLIGHT})  # noqa: SLF001
_UNDELIVERED = _PURGED | {KafkaError._MSG_TIMED_OUT}  # noqa: SLF001


def send_offset(producer: Producer, position: TopicPartition, metadata: Any) -> bool:
    """Send the offset `position` to a transaction. Return whether librdkafka's function has returned in time.

    `metadata` is the group metadata of the consumer. The function may never return, whatever its time-out: after the
    restart of a broker, or while the group has no coordinator (observed with librdkafka 2.16). Therefore it runs in a
    thread that can be abandoned. Raises KafkaException if librdkafka reports an error.
    """
    outcome: list[KafkaException | None] = []

    def send() -> None:
        try:
            with fatal_errors():
                producer.send_offsets_to_transaction([position], metadata, _CALL_S)
        except KafkaException as error:
            # Not `error` itself: its traceback leads to this function and would keep the producer alive.
            outcome.append(KafkaException(*error.args))
        else:
            outcome.append(None)

    sender = threading.Thread(target=send, name="offsets of a transaction", daemon=True)
    sender.start()
    sender.join(_OFFSETS_S)
    if outcome and outcome[0] is not None:
        raise outcome[0]
    return bool(outcome)


def is_fenced(error: KafkaError) -> bool:
    """Return whether `error` means that another producer has taken over the transactional id."""
    return error.code() in _FENCED
