"""Numbers of calls and failures per trunk and minute. Each minute is printed once, when no more rows are expected.

    python examples/final_minutes.py --bootstrap-servers localhost:9092 --registry http://localhost:8081 --overlap 3h

prints one JSON line per tenant, minute and trunk. It needs `confluent-kafka[avro,schemaregistry]` and a connector with
`schema_registry.url`.

When is a minute final? The connector publishes progress records on `{topic}.progress`. Such a record is called a
statement here. It contains:

1. a time: all calls before it were read again at least `overlapSeconds` after they began
2. an offset for each partition of the topic: the records of these calls lie before it

Kafka does not order records across partitions. A statement therefore waits until the consumer has reached all its
offsets. Then all minutes before its time are final. You choose the overlap to wait for: 3 h is fast, 48 h or 7 d
include nearly every late row.

The state is in memory: after a restart, the program reads from the beginning.
"""

import argparse
import json
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, TopicPartition
from confluent_kafka.schema_registry import SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroDeserializer
from confluent_kafka.serialization import MessageField, SerializationContext

_NEVER = datetime.min.replace(tzinfo=UTC)
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


class Minute(NamedTuple):
    """Numbers of calls and failures of one trunk in a final minute. `minute` is the start of the minute."""

    tenant: str
    minute: datetime
    trunk: str | None
    calls: int
    failures: int


@dataclass
class _Tenant:
    calls: dict[str, dict[str, Any]] = field(default_factory=dict)
    "The newest version of each call that is not final yet, by id."
    final_before: datetime = _NEVER
    statements: list[dict[str, Any]] = field(default_factory=list)
    "Statements of the chosen overlap whose offsets the consumer has not reached yet."


class FinalMinutes:
    """Counter of calls per minute. It accepts the records of the partitions in any order."""

    def __init__(self, overlap_s: int) -> None:
        self.late = 0
        "Number of rows whose minute was final before they arrived. With a longer overlap, they would be counted."
        self.other_overlaps: set[int] = set()
        "Overlaps, in seconds, of the statements that do not have the chosen overlap."
        self.has_statement = False
        "True once a statement of the chosen overlap was read."
        self._overlap_s = overlap_s
        self._next: defaultdict[int, int] = defaultdict(int)
        self._tenants: defaultdict[str, _Tenant] = defaultdict(_Tenant)

    def row(self, partition: int, offset: int, row: dict[str, Any]) -> list[Minute]:
        """Process a record of the row topic, and return the minutes that have become final."""
        tenant = self._tenants[row["tenantId"]]
        known = tenant.calls.get(row["id"])
        if row["startDateTime"] is not None and row["startDateTime"] < tenant.final_before:
            self.late += 1
            tenant.calls.pop(row["id"], None)
        elif known is None or row["revision"] >= known["revision"]:
            tenant.calls[row["id"]] = row
        return self.reached(partition, offset + 1)

    def reached(self, partition: int, offset: int) -> list[Minute]:
        """Record that a partition was read up to an offset, and return the minutes that have become final."""
        self._next[partition] = max(self._next[partition], offset)
        return [minute for tenant in self._tenants for minute in self._close(tenant)]

    def statement(self, statement: dict[str, Any]) -> list[Minute]:
        """Process a record of `{topic}.progress`, and return the minutes that have become final."""
        if statement["overlapSeconds"] != self._overlap_s:
            self.other_overlaps.add(statement["overlapSeconds"])
            return []
        self.has_statement = True
        self._tenants[statement["tenantId"]].statements.append(statement)
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

    def _close(self, name: str) -> list[Minute]:
        tenant = self._tenants[name]
        seen = [s for s in tenant.statements if self._has_seen(s["offsets"])]
        if not seen:
            return []
        tenant.statements = [s for s in tenant.statements if s not in seen]
        through = max(s["completeThroughDateTime"] for s in seen).replace(second=0, microsecond=0)
        tenant.final_before = max(tenant.final_before, through)
        calls: Counter[tuple[datetime, str | None]] = Counter()
        failures: Counter[tuple[datetime, str | None]] = Counter()
        for call in list(tenant.calls.values()):
            start = call["startDateTime"]
            if start is None or start >= tenant.final_before:
                continue
            key = start.replace(second=0, microsecond=0), call["trunkFullyQualifiedDomainName"]
            calls[key] += 1
            failures[key] += call["successfulCall"] is False
            del tenant.calls[call["id"]]
        order = sorted(calls, key=lambda key: (key[0], key[1] or ""))
        return [Minute(name, *key, calls[key], failures[key]) for key in order]

    def _has_seen(self, offsets: list[int]) -> bool:
        return all(self._next[partition] >= offset for partition, offset in enumerate(offsets))


def read(bootstrap_servers: str, registry: str, topic: str, overlap_s: int, *, to_the_end: bool) -> Iterator[Minute]:
    """Read both topics, and yield each minute when it becomes final.

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
        if error is not None and error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001 - its public name
            unread.discard((name, partition))
            if not unread and not is_checked:
                is_checked = True
                minutes.check_overlap()
            if name == topic:  # between the last row and this offset, there are only aborted records and markers
                yield from minutes.reached(partition, message.offset())
        elif error is not None:
            print(f"reading {name}: {error.str()}", file=sys.stderr)
        else:
            value = deserialize(message.value(), SerializationContext(name, MessageField.VALUE))
            if name == topic:
                yield from minutes.row(partition, message.offset(), value)
            else:
                yield from minutes.statement(value)
    consumer.close()
    if minutes.late:
        print(f"{minutes.late} rows came after their minute was final: choose a longer --overlap", file=sys.stderr)


def main() -> None:
    """Print each final minute as a line of JSON."""
    parser = argparse.ArgumentParser(description="Calls and failures per trunk and minute, when a minute is final.")
    parser.add_argument("--bootstrap-servers", default="localhost:9092")
    parser.add_argument("--registry", default="http://localhost:8081", help="URL of the schema registry")
    parser.add_argument("--topic", default="direct-routing-calls")
    parser.add_argument(
        "--overlap", default="3h", type=_seconds, help="overlap of the sweep to wait for, as configured"
    )
    parser.add_argument("--to-the-end", action="store_true", help="stop where the topics end instead of waiting")
    options = parser.parse_args()
    found = read(
        options.bootstrap_servers, options.registry, options.topic, options.overlap, to_the_end=options.to_the_end
    )
    for minute in found:
        line = minute._asdict() | {"minute": minute.minute.isoformat(timespec="seconds").replace("+00:00", "Z")}
        print(json.dumps(line), flush=True)


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
