"""The reader of partitions on real brokers: each kind of partition, and the time limits."""

import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import pytest
from confluent_kafka import Message, Producer
from confluent_kafka.admin import (
    AclBinding,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
)
from confluent_kafka.cimpl import NewTopic

from connector.errors import BrokersUnavailableError, ForbiddenError
from connector.kafka import log_reader
from connector.kafka.clients import Clients
from connector.kafka.log_reader import LogReader, Place, from_beginning
from connector.kafka.restore import read_partition
from tests import oracle
from tests.brokers import Cluster, wait_until
from tests.conftest import SharedBroker
from tests.secured import SecuredBroker

QUIET: dict[str, Any] = {"log_level": 0}


class Log:
    """Topic with one partition, and a transactional producer for it."""

    def __init__(self, bootstrap: str, app: str, settings: dict[str, str] | None = None) -> None:
        self.bootstrap = bootstrap
        self.clients = Clients(bootstrap, QUIET)
        self.place: Place = (f"{app}.log", 0)
        admin = AdminClient({"bootstrap.servers": bootstrap} | QUIET)
        admin.create_topics([NewTopic(self.place[0], 1, config=settings or {})])[self.place[0]].result(20)
        self.producer = Producer(self.clients.producer(app))
        self.producer.init_transactions(20)

    def begin(self, *values: bytes) -> None:
        """Begin a transaction and write records, each with its value as key."""
        self.producer.begin_transaction()
        for value in values:
            self.producer.produce(self.place[0], value, value, 0)
        assert self.producer.flush(20) == 0

    def commit(self, *values: bytes) -> None:
        """Commit a transaction and wait for its marker, which the broker may write after its response."""
        self.begin(*values)
        self.producer.commit_transaction(20)
        wait_until(lambda: not oracle.open_transactions(self.bootstrap, self.place[:1]), "the marker")

    def read(self, isolation: str = "read_committed", start: int = 0, end: int | None = None) -> list[bytes | None]:
        with LogReader(self.clients, isolation) as reader:
            ends = None if end is None else {self.place: end}
            return values(reader.read_to_end({self.place: start}, ends))


def values(rounds: Iterator[list[Message]]) -> list[bytes | None]:
    return [record.value() for records in rounds for record in records]


@pytest.fixture
def log(broker: SharedBroker, app: str) -> Log:
    return Log(broker.bootstrap, app)


@pytest.fixture(scope="module")
def secured() -> Iterator[SecuredBroker]:
    with SecuredBroker() as broker:
        broker.add_user("reader")
        yield broker


def test_log_reader_ends_at_an_open_transaction(log: Log) -> None:
    log.commit(b"1")
    log.begin(b"open")
    try:
        assert log.read() == [b"1"]
        assert log.read("read_uncommitted") == [b"1", b"open"]
    finally:
        log.producer.abort_transaction(20)


def test_log_reader_waits_for_a_late_transaction_marker(log: Log) -> None:
    """Brokers report a transaction as complete before its markers are in every partition."""
    log.begin(b"1")
    commits = [log.producer.commit_transaction]
    with LogReader(log.clients) as reader:

        def commit_once() -> None:
            if commits and reader.undecided:
                commits.pop()(20)

        starts = {log.place: 0}
        found = values(reader.read_to_end(starts, decided_within_s=30.0, progress=commit_once))
        assert found == [b"1"]
        assert not reader.undecided
    assert not commits


def test_log_reader_stops_waiting_for_an_open_transaction(log: Log) -> None:
    log.commit(b"1")
    log.begin(b"open")
    started = time.monotonic()
    try:
        found = read_partition(log.clients, log.place[:1], 0, decided_within_s=0.5)
    finally:
        log.producer.abort_transaction(20)
    assert found.values == {log.place[0]: {b"1": b"1"}}
    assert found.undecided == {log.place[0]}
    assert 0.5 <= time.monotonic() - started < 10


def test_log_reader_skips_an_aborted_transaction(log: Log) -> None:
    log.commit(b"1")
    log.begin(b"aborted")
    log.producer.abort_transaction(20)
    assert log.read() == [b"1"]
    log.commit(b"2")
    assert log.read() == [b"1", b"2"]
    assert log.read("read_uncommitted") == [b"1", b"aborted", b"2"]


def test_log_reader_stops_before_the_given_end_offset(log: Log) -> None:
    log.commit(b"1", b"2", b"3")
    assert log.read(start=1, end=2) == [b"2"]
    assert log.read(start=1, end=1) == []


def test_log_reader_ends_after_offsets_that_compaction_removed(broker: SharedBroker, app: str) -> None:
    """This also holds for a range that ends within removed offsets."""
    settings = {
        "cleanup.policy": "compact",
        "min.cleanable.dirty.ratio": "0.01",
        "segment.ms": "100",
        "max.compaction.lag.ms": "100",
        "min.compaction.lag.ms": "0",
    }
    log = Log(broker.bootstrap, app, settings)
    offsets: list[int] = []

    def is_compacted() -> bool:
        log.commit(b"same", b"other")
        with LogReader(log.clients) as reader:
            found = [r.offset() or 0 for records in reader.read_to_end(from_beginning([log.place])) for r in records]
            offsets[:] = found
            return found[0] > 0 and found[-1] - found[0] > 2

    wait_until(is_compacted, "compaction", 90.0, every_s=1.0)
    assert log.read(end=offsets[0]) == []
    assert log.read(end=offsets[0] + 1) == [b"same"]


def test_log_reader_ends_at_once_in_an_empty_partition(log: Log) -> None:
    started = time.monotonic()
    assert log.read() == []
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("missing", ["partition", "topic"])
def test_log_reader_fails_in_time_if_a_partition_is_missing(
    log: Log, missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = (log.place[0], 7) if missing == "partition" else (f"{log.place[0]}.missing", 0)
    started = time.monotonic()
    with LogReader(log.clients) as reader:
        with monkeypatch.context() as patience:
            patience.setattr(log_reader, "SILENCE_S", 1.0)
            with pytest.raises(BrokersUnavailableError, match=rf"returned nothing from {place[0]}-{place[1]} for 1 s"):
                values(reader.read_to_end({place: 0}))
        assert time.monotonic() - started < 6
        log.commit(b"1")
        assert values(reader.read_to_end({log.place: 0})) == [b"1"]


def forbidden(secured: SecuredBroker, app: str) -> tuple[Clients, Place, Place]:
    """Return clients of a user, a partition that the user may read, and one that it may only describe."""
    names = f"{app}.open", f"{app}.closed"
    secured.create([NewTopic(name, 1) for name in names])
    producer = Producer({"bootstrap.servers": secured.plain, "enable.idempotence": True} | QUIET)
    for name in names:
        producer.produce(name, b"1", partition=0)
    assert producer.flush(20) == 0

    def allow(kind: ResourceType, name: str, operation: AclOperation) -> AclBinding:
        literal = ResourcePatternType.LITERAL
        return AclBinding(kind, name, literal, "User:reader", "*", operation, AclPermissionType.ALLOW)

    secured.grant(
        allow(ResourceType.TOPIC, names[0], AclOperation.READ),
        allow(ResourceType.TOPIC, names[1], AclOperation.DESCRIBE),
        allow(ResourceType.GROUP, app, AclOperation.READ),
    )
    kafka = secured.kafka("SCRAM-SHA-256", "reader")
    clients = Clients(kafka["bootstrap_servers"], kafka["properties"] | QUIET, app)
    return clients, (names[0], 0), (names[1], 0)


def test_forbidden_partition_error_has_the_acl_command(secured: SecuredBroker, app: str) -> None:
    clients, _, closed = forbidden(secured, app)
    started = time.monotonic()
    with LogReader(clients) as reader, pytest.raises(ForbiddenError, match=r"kafka-acls\.sh .*--topic") as raised:
        values(reader.read_to_end({closed: 0}))
    assert closed[0] in str(raised.value)
    assert raised.value.remedy.startswith("allow it: kafka-acls.sh")
    with LogReader(clients) as reader:
        following = reader.follow({closed: 0})
        with pytest.raises(ForbiddenError):
            wait_until(lambda: bool(next(following).records), "an error")
    assert time.monotonic() - started < 15


def test_log_reader_reads_the_other_partitions_if_one_is_forbidden(secured: SecuredBroker, app: str) -> None:
    clients, readable, closed = forbidden(secured, app)
    unreadable: dict[Place, str] = {}
    with LogReader(clients) as reader:
        assert values(reader.read_to_end({readable: 0, closed: 0}, unreadable=unreadable)) == [b"1"]
    assert unreadable.keys() == {closed}
    assert f"--topic {closed[0]}" in unreadable[closed]


@pytest.mark.several_java  # the broker of `secured` runs until the end of this file
def test_log_reader_fails_in_time_if_a_broker_is_frozen(
    broker_of_its_own: Cluster, app: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_reader, "SILENCE_S", 3.0)
    log = Log(broker_of_its_own.bootstrap, app)
    log.commit(b"1")
    shown: list[float] = []
    with LogReader(log.clients) as reader:
        assert values(reader.read_to_end({log.place: 0})) == [b"1"]
        (broker,) = broker_of_its_own.brokers
        broker.suspend()
        try:
            started = time.monotonic()
            with pytest.raises(BrokersUnavailableError, match=rf"returned nothing from {log.place[0]}-0 for 3 s"):
                values(reader.read_to_end({log.place: 0}, progress=lambda: shown.append(time.monotonic())))
            assert 3.0 <= time.monotonic() - started < 8.0
        finally:
            broker.resume()
        gaps = [after - before for before, after in pairwise(shown)]
        assert max(gaps) < 2.0
        assert values(reader.read_to_end({log.place: 0})) == [b"1"]


@pytest.mark.several_java  # the broker of `secured` runs until the end of this file
def test_log_follower_continues_after_a_broker_was_frozen(broker_of_its_own: Cluster, app: str) -> None:
    log = Log(broker_of_its_own.bootstrap, app)
    log.commit(b"1")
    found: list[bytes | None] = []
    with LogReader(log.clients) as reader:
        following = reader.follow({log.place: 0})

        def has(value: bytes) -> Callable[[], bool]:
            def looks() -> bool:
                found.extend(record.value() for record in next(following).records)
                return value in found

            return looks

        wait_until(has(b"1"), "the first record")
        (broker,) = broker_of_its_own.brokers
        broker.suspend()
        try:
            started = time.monotonic()
            assert not next(following).records
            assert time.monotonic() - started < 5.0
        finally:
            broker.resume()
        log.commit(b"2")
        wait_until(has(b"2"), "the second record")
        following.close()
    assert found == [b"1", b"2"]


@pytest.mark.parametrize("error", [ValueError("released")])
def test_exception_in_the_progress_callback_stops_the_log_reader(log: Log, error: Exception) -> None:
    log.commit(b"1")

    def stop() -> None:
        raise error

    with LogReader(log.clients) as reader:
        with pytest.raises(ValueError, match="released"):
            values(reader.read_to_end({log.place: 0}, progress=stop))
        assert values(reader.read_to_end({log.place: 0})) == [b"1"]
