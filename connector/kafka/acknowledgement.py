"""One shard's producer for brokers without transactions: each part of a batch is acknowledged before the next begins.

1. Rows, where they lie, what is remembered and progress, checkpoint: what a later part says rests on the earlier ones.
   Whoever reads the topics after a death finds less than was published, never more: rows come again, none is lost.
2. Nobody is fenced. The batch ends, and no part of it is begun, once the shard is known to be somebody else's.
3. After any failure the outcome is unknown: the producer is dropped and the shard starts again from what the topics
   say. Opening writes to the internal topics first: else rows would come again for as long as those cannot be written.
4. The control offset is in the checkpoint alone; the group's is not committed, and nobody reads it.
"""

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NoReturn

from confluent_kafka import KafkaException, Producer

from connector.errors import HandedOverError, ShardRestartError
from connector.kafka import hanging
from connector.kafka.clients import Clients
from connector.kafka.publishing import NO_TRANSACTION, CommitContext, Offsets, Outgoing, Publisher, TransactionContents
from connector.kafka.restore import PartitionContents
from connector.kafka.topics import Names
from connector.kafka.transaction import Transactions
from connector.kafka.visibility import Place

_PROBE = b"probe"
_FRESH_S = 1.0
"How long the shard's ownership, once confirmed, is taken for granted."


class Acknowledgements(Publisher):
    """An idempotent producer without transactions. It knows nothing for certain of a batch that failed."""

    def __init__(self, clients: Clients, names: Names, shard: int) -> None:
        super().__init__(f"shard {shard} of {names.app}", names.app, clients.producer(None))
        self._clients = clients
        self._names = names
        self._transactional_id = names.transactional_id(shard)
        self._checkpoints = names.state
        self._probes = [Outgoing(topic, _PROBE, None, shard) for topic in (names.seen, names.state)]

    def open(self) -> None:
        """Makes the producer, and tries it where batches end."""
        try:
            self._producer = Producer(self._settings)
            self._write(self._probes)
        except KafkaException as error:
            self._fail(error, "opening")

    def commit(
        self, records: Mapping[str, Sequence[Outgoing]], closing: TransactionContents, position: CommitContext
    ) -> Offsets:
        """Writes one part after the other. Never AbortedError; HandedOverError when the shard was lost amid a batch."""
        confirmed = time.monotonic()
        self._written = {}
        try:
            offsets = self._write_tagged(records)
            last = closing.last(offsets)
            remembered = [record for record in last if record.topic != self._checkpoints]
            checkpoints = [record for record in last if record.topic == self._checkpoints]
            checkpoints += closing.shard(NO_TRANSACTION)
            for part in (closing.noted(offsets), remembered, checkpoints):
                # Whoever was frozen, or waited for a broker, may wake when the shard is somebody else's.
                if time.monotonic() - confirmed > _FRESH_S:
                    confirmed = time.monotonic()
                    if not position.holds():
                        raise HandedOverError
                if part:
                    self._write(part)
        except KafkaException as error:
            self._fail(error, "writing a batch of")
        return offsets

    def end_open(
        self,
        read: PartitionContents,
        row_topics: Collection[str],
        position: CommitContext,
        is_stopped: Callable[[], bool],
    ) -> set[Place]:
        """End what a worker with transactions has left open, with a producer that can; return the partitions."""
        look = hanging.Look(self._clients, self._names, position.partition, read)
        if not read.undecided and not look.was_transaction:
            return set()
        places = hanging.open_places(look, row_topics, is_stopped)
        if places:
            with self._former() as former:
                former.end(places, position)
        return places

    def write_lost(
        self, read: PartitionContents, ended: Collection[Place], position: CommitContext, is_stopped: Callable[[], bool]
    ) -> int:
        """Write again what the transactions of such a worker have lost; return how many records."""
        look = hanging.Look(self._clients, self._names, position.partition, read)
        if not ended and not look.was_transaction:
            return 0
        lost = hanging.find_lost(look, ended, is_stopped)
        if not (lost.records or lost.checkpoints):
            return 0
        with self._former() as former:
            return former.write_again(look, lost, position)

    @contextmanager
    def _former(self) -> Iterator[Transactions]:
        """Open a producer as that of a worker with transactions."""
        former = Transactions(self._clients, self._transactional_id)
        try:
            former.open()
            yield former
        except ShardRestartError as error:
            raise ShardRestartError(
                f"a transaction of a worker with exactly-once delivery is open, and cannot be ended ({error}): "
                'run one with kafka.delivery = "exactly_once" until its shards are restored, '
                "or end it with kafka-transactions.sh (find-hanging, then abort)"
            ) from error
        finally:
            former.release()

    def _fail(self, error: KafkaException, doing: str) -> NoReturn:
        self._drop()
        raise ShardRestartError(f"{doing} {self._name}: {self._explained(error)}") from error
