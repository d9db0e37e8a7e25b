"""Publisher of one shard for brokers without transactions. It writes a batch in parts and waits after each part.

1. The order is: rows, a note of where the rows lie, dedup index and progress, checkpoint. Each part relies on the parts
   before it. After a crash the topics therefore record less than was published, never more: the next worker may publish
   rows again, but it loses none.
2. Brokers do not fence this producer. As soon as the shard is known to belong to another worker, no further part of
   the batch is written.
3. After any failure the outcome is unknown: the producer is dropped and the shard restarts from what the topics
   contain. `open` writes to the internal topics first. Otherwise each restart would publish rows again for as long as
   those topics cannot be written.
4. The control offset is stored in the shard's record only. The group's offset is not committed, and no code reads it.
"""

import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import NoReturn

from confluent_kafka import KafkaException, Producer

from connector.errors import HandedOverError, ShardRestartError
from connector.kafka import hanging
from connector.kafka.clients import Clients
from connector.kafka.log_reader import Place
from connector.kafka.publishing import NO_TRANSACTION, CommitContext, Offsets, Outgoing, Publisher, TransactionContents
from connector.kafka.restore import PartitionContents
from connector.kafka.topics import Names
from connector.kafka.transaction import Transactions

_PROBE = b"probe"
_FRESH_S = 1.0
"Seconds for which a confirmed ownership of the shard counts as current."


class Acknowledgements(Publisher):
    """Publisher with an idempotent producer and without transactions.

    The outcome of a failed batch is always unknown.
    """

    def __init__(self, clients: Clients, names: Names, shard: int) -> None:
        super().__init__(f"shard {shard} of {names.app}", names.app, clients.producer(None))
        self._clients = clients
        self._names = names
        self._transactional_id = names.transactional_id(shard)
        self._checkpoints = names.state
        self._probes = [Outgoing(topic, _PROBE, None, shard) for topic in (names.seen, names.state)]

    def open(self) -> None:
        """Create the producer and write a probe record to each topic with which a batch ends."""
        try:
            self._producer = Producer(self._settings)
            self._write(self._probes)
        except KafkaException as error:
            self._fail(error, "opening")

    def commit(self, contents: TransactionContents, position: CommitContext) -> Offsets:
        """Write the parts of a batch one after the other.

        Raises ShardRestartError after any failure, and HandedOverError when the shard was lost during the batch. Never
        raises AbortedError.
        """
        confirmed = time.monotonic()
        self._written = {}
        try:
            offsets = self._write_tagged(contents.rows)
            final = contents.final_records(offsets)
            remembered = [record for record in final if record.topic != self._checkpoints]
            checkpoints = [record for record in final if record.topic == self._checkpoints]
            checkpoints += contents.shard_record(NO_TRANSACTION)
            for part in (contents.interim_checkpoints(offsets), remembered, checkpoints):
                # After the process was frozen or waited for a broker, the shard may belong to another worker.
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
        """Abort what a worker with transactions has left open, with a transactional producer. Return the partitions."""
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
        """Write again what the transactions of a worker with exactly-once delivery have lost.

        Return the number of records.
        """
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
        """Open the transactional producer that a worker with exactly-once delivery would use for this shard.

        Raises ShardRestartError with the remedy when it cannot be opened or used.
        """
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
