"""Writer that keeps a table of PostgreSQL equal to the topic: one line per row of Graph, in its newest version.

    psql -f calls.sql "$DSN"
    python calls_to_postgresql.py --bootstrap-servers localhost:9092 --registry http://localhost:8081 --dsn "$DSN"

It needs `confluent-kafka[avro,schemaregistry]`, `psycopg[binary]`, and a connector with `schema_registry.url`.

The offsets are committed after the rows. After a crash, the program therefore reads some records again. That changes
nothing, because an upsert replaces a row only by a higher revision. For the same reason, several instances with the
same `--group` may run, and a table may be filled again from the beginning of the topic.
"""

import argparse
import sys
from collections.abc import Iterator
from typing import Any

import psycopg
from confluent_kafka import Consumer, KafkaError
from confluent_kafka.schema_registry import SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroDeserializer
from confluent_kafka.serialization import MessageField, SerializationContext
from psycopg import sql
from psycopg.types.json import Jsonb

_BATCH = 1_000
"Largest number of records per transaction."


class Table:
    """Table `calls` of calls.sql, with all of its columns or some, and with further columns."""

    def __init__(self, connection: psycopg.Connection) -> None:
        self._connection = connection
        found = connection.execute(
            "SELECT attname FROM pg_attribute WHERE attrelid = 'calls'::regclass AND attnum > 0 AND NOT attisdropped"
        )
        self._columns = [name for (name,) in found]

    def write(self, rows: list[dict[str, Any]]) -> None:
        """Insert rows, and replace stored rows by those with a higher revision, in one transaction.

        The rows may be in any order, and several of them may be versions of one row.
        """
        fields = set[str]().union(*rows)
        columns = [name for name in self._columns if name in fields]
        values = [[_value(row.get(name)) for name in columns] for row in rows]
        with self._connection.transaction(), self._connection.cursor() as cursor:
            cursor.executemany(_upsert(columns), values)


def _upsert(columns: list[str]) -> sql.Composed:
    names = [sql.Identifier(name) for name in columns]
    return sql.SQL(
        'INSERT INTO calls AS stored ({}) VALUES ({}) ON CONFLICT ("tenantId", id) DO UPDATE SET {} '
        "WHERE EXCLUDED.revision > stored.revision"
    ).format(
        sql.SQL(", ").join(names),
        sql.SQL(", ").join([sql.Placeholder()] * len(names)),
        sql.SQL(", ").join(sql.SQL("{0} = EXCLUDED.{0}").format(name) for name in names),
    )


def _value(value: Any) -> Any:
    return Jsonb(value) if isinstance(value, (dict, list)) else value


def batches(consumer: Consumer, registry: SchemaRegistryClient, *, to_the_end: bool) -> Iterator[list[dict[str, Any]]]:
    """Yield the rows of the subscribed topic in batches. With `to_the_end`, stop at the current end of the topic."""
    deserialize = AvroDeserializer(registry)
    at_end: set[int] = set()
    while not to_the_end or not at_end or len(at_end) < len(consumer.assignment()):
        rows = []
        for message in consumer.consume(_BATCH, 1.0):
            error = message.error()
            if error is None:
                rows.append(deserialize(message.value(), SerializationContext(message.topic(), MessageField.VALUE)))
            elif error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001 - its public name
                at_end.add(message.partition())
            else:
                print(f"reading {message.topic()}: {error.str()}", file=sys.stderr)
        if rows:
            yield rows


def main() -> None:
    """Write rows to the table until the program is stopped."""
    parser = argparse.ArgumentParser(description="Write the newest version of each row to a table of PostgreSQL.")
    parser.add_argument("--bootstrap-servers", default="localhost:9092")
    parser.add_argument("--registry", default="http://localhost:8081", help="URL of the schema registry")
    parser.add_argument("--topic", default="direct-routing-calls")
    parser.add_argument("--group", default="calls-to-postgresql", help="consumer group, which stores the offsets")
    parser.add_argument("--dsn", default="", help="connection string; by default, the variables PGHOST and so on")
    parser.add_argument("--to-the-end", action="store_true", help="stop where the topic ends instead of waiting")
    options = parser.parse_args()
    settings = {
        "bootstrap.servers": options.bootstrap_servers,
        "group.id": options.group,
        "auto.offset.reset": "earliest",
        "enable.auto.commit": False,
        "isolation.level": "read_committed",  # otherwise rows of aborted transactions would be written
        "enable.partition.eof": True,
    }
    with (
        Consumer(settings) as consumer,
        SchemaRegistryClient({"url": options.registry}) as registry,
        psycopg.connect(options.dsn, autocommit=True) as connection,
    ):
        consumer.subscribe([options.topic])
        table = Table(connection)
        for rows in batches(consumer, registry, to_the_end=options.to_the_end):
            table.write(rows)
            consumer.commit(asynchronous=False)


if __name__ == "__main__":
    main()
