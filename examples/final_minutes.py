"""Telephony figures per trunk and minute. Each minute is printed once, when no more rows are expected.

    python examples/final_minutes.py --bootstrap-servers localhost:9092 --registry http://localhost:8081 --overlap 3h

prints one JSON line per tenant, trunk and minute. kpis.py computes the figures: attempts, answer seizure ratio and so
on. With `--postgres`, the lines are also written to the table of postgresql/trunk_minutes.sql. The program needs
`confluent-kafka[avro,schemaregistry]`, for PostgreSQL also `psycopg[binary]`, and a connector with
`schema_registry.url`.

When is a minute final? The connector publishes progress records on `{topic}.progress`. Such a record is called a
statement here. It contains:

1. a time: all calls before it were read again at least `overlapSeconds` after they began
2. an offset for each partition of the topic: the records of these calls lie before it

Kafka does not order records across partitions. A statement therefore waits until the consumer has reached all its
offsets. Then all minutes before its time are final. You choose the overlap to wait for: 3 h is fast, 48 h or 7 d
include nearly every late row.

The state is in memory: after a restart, the program reads from the beginning, and gives the same results again.
"""

import argparse
import json
import re
import sys
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from typing import Any

import kpis
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, TopicPartition
from confluent_kafka.schema_registry import SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroDeserializer
from confluent_kafka.serialization import MessageField, SerializationContext
from kpis import Minute, TenantMinutes

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


class FinalMinutes:
    """Join of both topics, which gives minutes when they are final. The partitions can be read in any order."""

    def __init__(self, overlap_s: int) -> None:
        self.other_overlaps: set[int] = set()
        "Overlaps, in seconds, of the statements that do not have the chosen overlap."
        self.has_statement = False
        "True once a statement of the chosen overlap was read."
        self._overlap_s = overlap_s
        self._outcomes = kpis.read_outcomes()
        self._next: defaultdict[int, int] = defaultdict(int)
        self._tenants: dict[str, TenantMinutes] = {}
        self._statements: defaultdict[str, deque[dict[str, Any]]] = defaultdict(deque)
        "By tenant: the statements of the chosen overlap whose offsets the consumer has not reached yet."

    @property
    def late(self) -> int:
        """Return the number of rows that were published after their minute was final."""
        return sum(tenant.late for tenant in self._tenants.values())

    def row(self, partition: int, offset: int, row: dict[str, Any]) -> list[Minute]:
        """Process a record of the row topic, and return the minutes that have become final."""
        self._tenant(row["tenantId"]).add(partition, offset, row["id"], kpis.call_of(row))
        return self.reached(partition, offset + 1)

    def reached(self, partition: int, offset: int) -> list[Minute]:
        """Record that a partition was read up to an offset, and return the minutes that have become final."""
        self._next[partition] = max(self._next[partition], offset)
        return [minute for tenant in self._statements for minute in self._close(tenant)]

    def statement(self, statement: dict[str, Any]) -> list[Minute]:
        """Process a record of `{topic}.progress`, and return the minutes that have become final."""
        if statement["overlapSeconds"] != self._overlap_s:
            self.other_overlaps.add(statement["overlapSeconds"])
            return []
        self.has_statement = True
        self._statements[statement["tenantId"]].append(statement)
        return self._close(statement["tenantId"])

    def missing_sweep(self) -> str | None:
        """Return an error message if all statements so far have other overlaps than the chosen one, otherwise None."""
        if self.has_statement or not self.other_overlaps:
            return None
        known = ", ".join(_text(overlap_s) for overlap_s in sorted(self.other_overlaps))
        return (
            f"--overlap {_text(self._overlap_s)}: no sweep has stated progress for this overlap; choose one of {known}"
        )

    def check_overlap(self) -> None:
        """End the program with an error message if all statements so far have other overlaps than the chosen one."""
        problem = self.missing_sweep()
        if problem is not None:
            sys.exit(problem)

    def _close(self, tenant: str) -> list[Minute]:
        found: list[Minute] = []
        statements = self._statements[tenant]
        while statements and self._has_reached(statements[0]["offsets"]):
            statement = statements.popleft()
            through_ms = kpis.milliseconds(statement["completeThroughDateTime"])
            found += self._tenant(tenant).close(through_ms, statement["offsets"], self._outcomes)
        return found

    def _has_reached(self, offsets: list[int]) -> bool:
        return all(self._next[partition] >= offset for partition, offset in enumerate(offsets))

    def _tenant(self, tenant: str) -> TenantMinutes:
        return self._tenants.setdefault(tenant, TenantMinutes(tenant))


def read(
    bootstrap_servers: str, registry: str, topic: str, overlap_s: int, *, to_the_end: bool
) -> Iterator[list[Minute]]:
    """Read both topics, and yield the minutes that become final together.

    With `to_the_end`, stop at the current end of the topics.
    """
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap_servers,
            "group.id": "final-minutes",  # required by librdkafka; no offsets are committed
            "enable.auto.commit": False,
            "isolation.level": "read_committed",  # otherwise rows of aborted transactions would be counted
            "enable.partition.eof": True,
        }
    )
    deserialize = AvroDeserializer(SchemaRegistryClient({"url": registry}))
    minutes = FinalMinutes(overlap_s)
    partitions = {
        (name, number)
        for name in (topic, f"{topic}.progress")
        for number in consumer.list_topics(name, timeout=10).topics[name].partitions
    }
    consumer.assign([TopicPartition(name, number, OFFSET_BEGINNING) for name, number in partitions])
    unread, is_checked = set(partitions), False
    while unread or not to_the_end:
        message = consumer.poll(1.0)
        if message is None:
            continue
        name, partition, error = message.topic(), message.partition(), message.error()
        final: list[Minute] = []
        if error is not None and error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001 - its public name
            unread.discard((name, partition))
            if not unread and not is_checked:
                is_checked = True
                minutes.check_overlap()
            if name == topic:  # between the last row and this offset, there are only aborted records and markers
                final = minutes.reached(partition, message.offset())
        elif error is not None:
            print(f"reading {name}: {error.str()}", file=sys.stderr)
        else:
            value = deserialize(message.value(), SerializationContext(name, MessageField.VALUE))
            row = name == topic
            final = minutes.row(partition, message.offset(), value) if row else minutes.statement(value)
        if final:
            yield final
    consumer.close()
    if minutes.late:
        print(f"{minutes.late} rows came after their minute was final: choose a longer --overlap", file=sys.stderr)


def main() -> None:
    """Print each final minute as a line of JSON, and write it to PostgreSQL if that is chosen."""
    parser = argparse.ArgumentParser(description="Telephony figures per trunk and minute, when a minute is final.")
    parser.add_argument("--bootstrap-servers", default="localhost:9092")
    parser.add_argument("--registry", default="http://localhost:8081", help="URL of the schema registry")
    parser.add_argument("--topic", default="direct-routing-calls")
    parser.add_argument(
        "--overlap", default="3h", type=_seconds, help="overlap of the sweep to wait for, as configured"
    )
    parser.add_argument("--to-the-end", action="store_true", help="stop where the topics end instead of waiting")
    parser.add_argument(
        "--postgres", metavar="DSN", help="write to PostgreSQL too, for example postgresql://user@localhost/telephony"
    )
    options = parser.parse_args()
    found = read(
        options.bootstrap_servers, options.registry, options.topic, options.overlap, to_the_end=options.to_the_end
    )
    with table(options.postgres) as write:
        for minutes in found:
            write(minutes)
            for minute in minutes:
                print(json.dumps(minute._asdict()), flush=True)


def table(dsn: str | None) -> AbstractContextManager[Callable[[list[Minute]], None]]:
    """Return a context that gives a function, which writes minutes to PostgreSQL or does nothing without a DSN."""
    if dsn is None:
        return nullcontext(lambda _minutes: None)
    import trunk_table  # noqa: PLC0415 - psycopg is needed only here

    return trunk_table.open_table(dsn)


def _text(seconds: int) -> str:
    unit = next(unit for unit in ("d", "h", "m", "s") if seconds % _UNITS[unit] == 0)
    return f"{seconds // _UNITS[unit]}{unit}"


def _seconds(text: str) -> int:
    match = re.fullmatch(r"(\d+)([smhd])", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text} is not a duration such as 15m, 3h or 7d")
    return int(timedelta(seconds=int(match[1]) * _UNITS[match[2]]).total_seconds())


if __name__ == "__main__":
    main()
