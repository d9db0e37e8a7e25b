"""Publisher of one shard for brokers without transactions. It writes a batch in parts and waits after each part.

1. The order of the parts is: rows, interim checkpoints with the offsets of the rows, deduplication index and progress,
   checkpoints. Each part relies on the parts before it. After a crash, the topics therefore never state that more was
   published than really was. The next worker may publish some rows again, but no row is lost.
2. Brokers do not fence this producer. As soon as the worker knows that another worker owns the shard, it writes no
   further part of the batch.
3. After any failure the outcome is unknown. The producer is dropped, and the shard restarts from the contents of its
   topics. At each restart, `open` first writes a probe record to the internal topics. If they cannot be written, it
   fails before any row is published. Otherwise, each restart would publish the same rows once more.
4. The offset of the control topic is stored only in the shard's record. The consumer group's own offset is neither
   committed nor read.
"""

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import NoReturn

from confluent_kafka import KafkaException, Producer

from connector.errors import HandedOverError, ShardRestartError
from connector.kafka import hanging
from connector.kafka.clients import Clients
from connector.kafka.fatal_errors import fatal_errors
from connector.kafka.log_reader import Place
from connector.kafka.publishing import NO_TRANSACTION, CommitContext, Offsets, Outgoing, Publisher, TransactionContents
from connector.kafka.restore import PartitionContents
from connector.kafka.topics import Names
from connector.kafka.transaction import Transactions

_PROBE = b"probe"
_FRESH_S = 1.0
"Number of seconds after which the worker must check again that it still owns the shard."


class Acknowledgements(Publisher):
    """Publisher without transactions. Its producer is idempotent, unless the brokers have no idempotent producers.

    If a batch fails, its outcome is always unknown.
    """

    def __init__(self, clients: Clients, names: Names, shard: int) -> None:
        super().__init__(f"shard {shard} of {names.app}", names.app)
        self._clients = clients
        self._names = names
        self._transactional_id = names.transactional_id(shard)
        self._checkpoints = names.state
        self._probes = [Outgoing(topic, _PROBE, None, shard) for topic in (names.seen, names.state)]

    def open(self) -> None:
        """Create the producer, and write a probe record to both internal topics.

        Raises ShardRestartError if one of them cannot be written. The check comes before any row is published: a row
        whose publication cannot be stored would be published again at each restart.
        """
        try:
            try:
                self._open_producer()
            except KafkaException as error:
                if not self._clients.idempotence.give_up(self._opened(), error):
                    raise
                self._drop()
                self._open_producer()
        except KafkaException as error:
            self._fail(error, f"the producer of {self._name} cannot be opened")

    def _open_producer(self) -> None:
        with fatal_errors():
            self._producer = Producer(self._clients.producer(None))
        self._write(self._probes)

    def write(self, records: Sequence[Outgoing]) -> None:
        """Write records and wait until each is acknowledged. Raises ShardRestartError if the outcome is unknown."""
        try:
            self._write(records)
        except KafkaException as error:
            self._fail(error, f"records of {self._name} cannot be written")

    def commit(self, contents: TransactionContents, context: CommitContext) -> Offsets:
        """Write a batch in parts, one after the other. Return the offsets of its rows.

        Raises ShardRestartError after any failure, and HandedOverError if the worker loses the shard during the batch.
        It never raises AbortedError.
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
                    if not context.holds():
                        raise HandedOverError
                if part:
                    self._write(part)
        except KafkaException as error:
            self._fail(error, f"a batch of {self._name} cannot be written")
        return offsets

    def end_open(
        self,
        read: PartitionContents,
        row_topics: Collection[str],
        context: CommitContext,
        is_stopped: Callable[[], bool],
    ) -> set[Place]:
        """Abort transactions that an earlier worker with exactly-once delivery has left open.

        Return the partitions in which one was open.
        """
        inspection = hanging.Inspection(self._clients, self._names, context.partition, read)
        # Without a sign of a transaction, no transactional producer is needed. Brokers may not support one at all.
        if not read.undecided and not inspection.was_transaction:
            return set()
        places = hanging.open_places(inspection, row_topics, is_stopped)
        if places:
            with self._transactional_producer() as transactions:
                transactions.end(places, context)
        return places

    def write_lost(
        self, read: PartitionContents, ended: Collection[Place], context: CommitContext, is_stopped: Callable[[], bool]
    ) -> int:
        """Write lost records of committed transactions again. Return how many records were written.

        An earlier worker with exactly-once delivery has committed these transactions.
        """
        inspection = hanging.Inspection(self._clients, self._names, context.partition, read)
        if not ended and not inspection.was_transaction:
            return 0
        lost = hanging.find_lost(inspection, ended, is_stopped)
        if not (lost.records or lost.checkpoints):
            return 0
        with self._transactional_producer() as transactions:
            return transactions.write_again(inspection, lost, context)

    @contextmanager
    def _transactional_producer(self) -> Iterator[Transactions]:
        """Open a producer with the transactional id that exactly-once delivery uses for this shard.

        The publisher needs no transactions itself. But an earlier worker with exactly-once delivery may have left a
        transaction open. Only a producer with this id can end it. Raises ShardRestartError with the remedy if the
        producer cannot be opened or used.
        """
        transactions = Transactions(self._clients, self._transactional_id)
        try:
            transactions.open()
            yield transactions
        except ShardRestartError as error:
            raise ShardRestartError(
                "a worker with exactly-once delivery has left a transaction open, "
                f"which this worker cannot abort ({error}): "
                'run a worker with kafka.delivery = "exactly_once" until its shards are restored, '
                "or end the transaction with kafka-transactions.sh (find-hanging, then abort)"
            ) from error
        finally:
            transactions.release()

    def _fail(self, error: KafkaException, wrong: str) -> NoReturn:
        self._drop()
        raise ShardRestartError(f"{wrong}: {self._explained(error)}") from error
