"""One shard's producer: everything of a batch in one transaction, or nothing.

1. An error before commit was called that wants an abort, and an abort that succeeds, prove that nothing landed: the
   producer stays good (AbortedError), if what it committed before can still be seen (see hanging.py). Every classic
   rebalance causes one.
2. After any other failure or time-out the outcome is unknown: the producer is dropped (ShardRestartError) and the shard
   starts again from what the topics say. `retriable()` is no excuse: librdkafka sets it for a commit that timed out,
   and such commits have landed. Commit is never called twice.
3. A fenced producer (FencedError) means that somebody else has the transactional id.
"""

import threading
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, NoReturn

from confluent_kafka import KafkaError, KafkaException, Producer, TopicPartition

from connector.errors import FencedError, ShardRestartError
from connector.kafka.clients import Clients
from connector.kafka.publishing import AbortedError, Closing, Offsets, Outgoing, Position, Publisher
from connector.kafka.topics import Names
from connector.kafka.visibility import Place, visible

_CALL_S = 10.0
_INIT_S = 15.0
_TOMBSTONE = b"hanging"
_OFFSETS_S = 12.0  # longer than librdkafka's own limit, where it keeps it
_FENCED = frozenset({KafkaError._FENCED, KafkaError.INVALID_PRODUCER_EPOCH, 90})  # noqa: SLF001 - 90: PRODUCER_FENCED


class Transactions(Publisher):
    """A transactional producer. Raises as the module says. What a closed one had open is aborted by its successor."""

    def __init__(self, clients: Clients, transactional_id: str) -> None:
        super().__init__(transactional_id, transactional_id.rpartition("-")[0], clients.producer(transactional_id))
        self._clients = clients
        self.committed: dict[Place, int] = {}
        "Offsets of the last records of the last transaction that was committed, by where they lie."

    def open(self) -> None:
        """Fences whoever had the transactional id, and ends its open transaction."""
        try:
            self._producer = Producer(self._settings)
            self._producer.init_transactions(_INIT_S)
        except KafkaException as error:
            self._drop()
            raise self._after(error, f"initialising transactions of {self._name}") from error

    def commit(self, records: Mapping[str, Sequence[Outgoing]], closing: Closing, position: Position) -> Offsets:
        """Commits all of it, with the position of the group, or nothing."""
        producer = self._opened()
        control = TopicPartition(position.topic, position.partition, position.offset)
        try:
            producer.begin_transaction()
            offsets = self._write_tagged(records)
            last = _by_topic(closing.last(offsets))
            ends = self._write_tagged(last)
            self._send_offsets(producer, control, position.metadata)
        except KafkaException as error:
            self._abort(producer, self._cause(producer, error, control, position.metadata), position)
        try:
            producer.commit_transaction(_CALL_S)
        except KafkaException as error:
            self._drop()
            raise self._after(error, f"committing a transaction of {self._name}") from error
        self.committed = _places(records, offsets) | _places(last, ends)
        return offsets

    def end(self, places: Iterable[tuple[str, int]], position: Position, *, committed: bool) -> None:
        """Ends whatever of this id hangs in these partitions (topic and number), see `hanging`.

        A marker ends all that the id has open where it is written, so a transaction of a tombstone each gets it there.
        """
        producer = self._opened()
        control = TopicPartition(position.topic, position.partition, position.offset)
        try:
            producer.begin_transaction()
            self._write([Outgoing(topic, _TOMBSTONE, None, number) for topic, number in places])
            if committed:
                producer.commit_transaction(_CALL_S)
            else:
                with suppress(KafkaException):  # the group's partition may hang too; what fails is aborted all the same
                    self._send_offsets(producer, control, position.metadata)
                producer.abort_transaction(_CALL_S)
        except KafkaException as error:
            self._drop()
            raise self._after(error, f"ending a hanging transaction of {self._name}") from error

    def _cause(
        self, producer: Producer, error: KafkaException, control: TopicPartition, metadata: Any
    ) -> KafkaException:
        """Why librdkafka threw away the records of a transaction that it holds for failed: its next call tells."""
        if error.args[0].code() in _PURGED:
            try:
                self._send_offsets(producer, control, metadata)
            except KafkaException as cause:
                return KafkaException(cause.args[0], *error.args[1:])
        return error

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

        sender = threading.Thread(target=send, name=f"offsets {self._name}", daemon=True)
        sender.start()
        sender.join(_OFFSETS_S)
        if sender.is_alive():
            self._drop()
            raise ShardRestartError(f"the offsets of a transaction of {self._name} were not acknowledged in time")
        if failures:
            raise failures[0]

    def _abort(self, producer: Producer, error: KafkaException, position: Position) -> NoReturn:
        """Ends a transaction that failed before commit was called; always raises."""
        what = f"writing a transaction of {self._name}"
        cause = error.args[0]
        # A record that was not delivered leaves the transaction abortable, though its own error does not say so.
        if (cause.txn_requires_abort() or cause.code() in _UNDELIVERED) and not _is_fenced(cause):
            try:
                producer.abort_transaction(_CALL_S)
            except KafkaException as second:
                self._drop()
                raise self._after(second, f"aborting a transaction of {self._name}") from second
            if not self.confirm(self.committed, position):
                self._drop()
                raise ShardRestartError(f"a transaction of {self._name} is gone that brokers had acknowledged")
            raise AbortedError(f"{what}: {self._explained(error)}") from error
        self._drop()
        raise self._after(error, what) from error

    def confirm(self, committed: Mapping[Place, int], position: Position) -> bool:
        """Whether this can be seen, the `committed` of who had the id before; if not it is ended, see `hanging`.

        It may have been aborted with what followed it. Only what the shard remembers is looked at: it need not have
        the right to read the topics of the rows. Raises ShardRestartError.
        """
        names = Names(self._app)
        told = {place: end for place, end in committed.items() if place[0] in (names.state, names.seen)}
        found = visible(self._clients, told) if told else set()
        if found == told.keys():
            return True
        if not found:
            self.end(committed, position, committed=False)
        return False

    def _after(self, error: KafkaException, what: str) -> ShardRestartError:
        kind = FencedError if _is_fenced(error.args[0]) else ShardRestartError
        return kind(f"{what}: {self._explained(error)}")


def _by_topic(records: Sequence[Outgoing]) -> dict[str, list[Outgoing]]:
    found: dict[str, list[Outgoing]] = {}
    for record in records:
        found.setdefault(record.topic, []).append(record)
    return found


def _places(records: Mapping[str, Sequence[Outgoing]], offsets: Offsets) -> dict[Place, int]:
    """Offsets of the last records; those of a tag go to one topic."""
    return {
        (records[tag][0].topic, partition): offset - 1
        for tag, of in offsets.items()
        for partition, offset in of.items()
    }


_PURGED = frozenset({KafkaError._PURGE_QUEUE, KafkaError._PURGE_INFLIGHT})  # noqa: SLF001
_UNDELIVERED = _PURGED | {KafkaError._MSG_TIMED_OUT}  # noqa: SLF001


def _is_fenced(error: KafkaError) -> bool:
    return error.code() in _FENCED
