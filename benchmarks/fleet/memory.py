"""State of tenants that were read for months. It is written to Kafka in the same form in which workers write it."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta

import numpy as np
from confluent_kafka import Producer

from connector.core import fingerprints, windows
from connector.core.coverage import Coverage, Read
from connector.errors import BrokersUnavailableError
from connector.kafka import control, topics
from connector.kafka.clients import Clients
from connector.kafka.seen import SEALED, Record, SeenLog
from connector.kafka.state import Checkpoint, checkpoint_record
from connector.kafka.topic_admin import TopicAdmin
from tests.brokers import wait_until

_HORIZON = timedelta(days=150)
_BUSY = timedelta(days=149)


def create_topics(bootstrap: str, app: str, topic: str, shards: int) -> None:
    """Create the topics of an app in the same way as its first worker."""
    required = topics.wanted(app, [topic], shards, 3, {})
    admin = TopicAdmin(Clients(bootstrap, {}))

    def are_there() -> bool:
        try:
            admin.ensure(required, create=True, replication_factor=1)
        except BrokersUnavailableError:  # a broker may not know yet that the topics exist
            return False
        return True

    wait_until(are_there, "the topics", every_s=0.5)


def write(
    bootstrap: str, app: str, topic: str, tenants: Sequence[str], *, shards: int, rows_each: int, rules: windows.Rules
) -> None:
    """Write state as if all call time of the last 150 days had just been read.

    `rows_each` is the number of rows per tenant in the dedup index.
    """
    names = topics.Names(app)
    producer = Producer({"bootstrap.servers": bootstrap, "linger.ms": 20, "queue.buffering.max.messages": 1_000_000})
    now = datetime.now(UTC).replace(microsecond=0)
    for number, tenant in enumerate(tenants):
        shard = control.partition_of(tenant.lower(), shards)
        coverage = Coverage((Read(now - _HORIZON, now, now),))
        state = windows.resume(windows.State(now - _HORIZON, (), coverage), rules, now)
        record = checkpoint_record(tenant.lower(), Checkpoint(topic, state, records=rows_each, remembered=rows_each))
        producer.produce(names.state, record.value, record.key, shard)
        for seen in _remembered(tenant.lower(), number, rows_each, now):
            producer.produce(names.seen, seen.value, seen.key, shard)
        producer.poll(0)
    if producer.flush(120):
        raise TimeoutError("the state could not be written")


def _remembered(tenant: str, seed: int, count: int, now: datetime) -> Iterator[Record]:
    """Yield the records of a dedup index with `count` rows, whose calls are spread evenly over the horizon."""
    generator = np.random.default_rng(seed)
    entries = np.zeros(count, fingerprints.ENTRY)
    entries["hi"] = generator.integers(0, 2**63, count, dtype=np.uint64)
    entries["lo"] = generator.integers(0, 2**32, count, dtype=np.uint32)
    entries["fp"] = generator.integers(0, 2**63, count, dtype=np.uint64)
    entries["meta"] = fingerprints.LAYOUT
    first = int((now - _BUSY).timestamp()) // 3600
    hours = np.sort(generator.integers(first, int(now.timestamp()) // 3600 - 48, count)).astype(np.uint32)
    log = SeenLog(tenant)
    log.fit_width(count, _HORIZON // timedelta(hours=1))
    newest: dict[bytes, Record] = {}
    for begin in range(0, count, SEALED):
        written = log.write(entries[begin : begin + SEALED], hours[begin : begin + SEALED])
        log.apply(written)
        newest |= {record.key: record for record in written.records}
    yield from newest.values()
