"""Producers of tests: one like that of a shard, without the shard, and one that aborts."""

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import fastavro
from confluent_kafka import Consumer, Producer

from connector.kafka import avro
from connector.kafka.clients import Clients
from connector.kafka.publishing import CommitContext, Offsets, Outgoing, TransactionContents, TransactionRecord
from connector.kafka.transaction import Transactions
from tests import oracle
from tests.brokers import wait_until


class Contents(TransactionContents):
    """Contents of a transaction: rows by tag, and functions that return the other records."""

    def __init__(
        self,
        rows: Mapping[str, Sequence[Outgoing]],
        final: Callable[[Offsets], Sequence[Outgoing]] = lambda _: (),
        shard: Callable[[TransactionRecord], Sequence[Outgoing]] = lambda _: (),
        interim: Callable[[Offsets], Sequence[Outgoing]] = lambda _: (),
    ) -> None:
        self._rows, self._final, self._shard, self._interim = rows, final, shard, interim

    @property
    def rows(self) -> Mapping[str, Sequence[Outgoing]]:
        return self._rows

    def interim_checkpoints(self, offsets: Offsets) -> Sequence[Outgoing]:
        return self._interim(offsets)

    def final_records(self, offsets: Offsets) -> Sequence[Outgoing]:
        return self._final(offsets)

    def shard_record(self, transaction: TransactionRecord) -> Sequence[Outgoing]:
        return self._shard(transaction)


@contextmanager
def member(bootstrap: str, app: str) -> Iterator[Callable[[], CommitContext]]:
    """Yield a function that returns commit contexts of a group member that owns partition 0 of the control topic."""
    topic = f"{app}.control"
    consumer = Consumer(Clients(bootstrap, {"log_level": 0}).member(app))
    try:
        consumer.subscribe([topic])

        def owns() -> bool:
            consumer.poll(0.05)
            return bool(consumer.assignment())

        wait_until(owns, "the partition", 90.0)  # longer than the session of a member that brokers lost
        yield lambda: CommitContext(topic, 0, 0, consumer.consumer_group_metadata(), lambda: True)
    finally:
        consumer.close()


class Interfering:
    """Producer that calls a function just before one of its methods."""

    def __init__(self, producer: Producer, name: str, happening: Callable[[], object]) -> None:
        self._producer, self._name, self._happening = producer, name, happening

    def __getattr__(self, name: str) -> Any:
        if name == self._name:
            self._happening()
        return getattr(self._producer, name)


def interfere(transactions: Transactions, name: str, happening: Callable[[], object]) -> None:
    producer = transactions._producer
    assert producer is not None
    transactions._producer = Interfering(producer, name, happening)  # type: ignore[assignment]


def write_aborted_rows(bootstrap: str, topic: str) -> None:
    """Write rows in a transaction and abort it, as happens to a killed worker."""
    schema = fastavro.parse_schema(avro.load(avro.ROW))
    value = next(entry for entry in oracle.read(bootstrap, topic)).value
    row: Any = fastavro.schemaless_reader(io.BytesIO(value[5:]), schema, None)
    producer = Producer({"bootstrap.servers": bootstrap, "transactional.id": f"killed-{topic}"})
    producer.init_transactions(60)
    producer.begin_transaction()
    for number in range(50):
        body = io.BytesIO()
        fastavro.schemaless_writer(body, schema, {**row, "id": f"aborted-{number}"})
        producer.produce(topic, value[:5] + body.getvalue(), f"aborted-{number}".encode())
    producer.flush(60)
    producer.abort_transaction(60)
