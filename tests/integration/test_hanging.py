"""A transaction that brokers say is over, and whose markers some partitions never get (KAFKA-20734).

Made on three real brokers: a partition has one replica, which dies between the last record and the commit.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import partial

import pytest
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from connector.core import windows
from connector.core.windows import Rules, Sweep
from connector.errors import HangingTransactionError, ShardRestartError
from connector.kafka import hanging, state
from connector.kafka.clients import Clients
from connector.kafka.publishing import Closing, Offsets, Outgoing, Position
from connector.kafka.restore import read_compacted
from connector.kafka.state import Checkpoint
from connector.kafka.topics import Names
from connector.kafka.transaction import Transactions
from tests import oracle
from tests.brokers import Broker, Cluster, wait_until
from tests.producing import interfere, member

_DEADLINE_S = 60.0
_TENANT = "11111111-1111-1111-1111-111111111111"
_NOW = datetime(2026, 3, 1, tzinfo=UTC)
_RULES = Rules(
    (Sweep(timedelta(minutes=1), timedelta(minutes=15)),), timedelta(0), timedelta(days=1), timedelta(days=9)
)


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("connector.kafka.visibility._DECIDED_S", 2.0)


def create(cluster: Cluster, names: Names, topic: str, replicas: Sequence[int]) -> None:
    """The row topic has a partition on each of `replicas`; what the shard remembers is on the first of them."""
    admin = AdminClient({"bootstrap.servers": cluster.bootstrap, "log_level": 0})
    wanted = [
        NewTopic(topic, len(replicas), replica_assignment=[[replica] for replica in replicas]),
        *(NewTopic(name, 1, replica_assignment=[[replicas[0]]]) for name in (names.state, names.seen)),
        NewTopic(names.control, 1),
    ]
    for future in admin.create_topics(wanted).values():
        future.result(10)


def has_leader(cluster: Cluster, topic: str) -> bool:
    admin = AdminClient({"bootstrap.servers": cluster.bootstrap, "log_level": 0})
    return admin.list_topics(topic, timeout=_DEADLINE_S).topics[topic].partitions[0].leader > 0


def die(cluster: Cluster, broker: Broker, topic: str) -> None:
    """Returns once the cluster knows."""
    broker.kill()
    wait_until(lambda: not has_leader(cluster, topic), "the partition to be without a leader", _DEADLINE_S)


async def commit(
    transactions: Transactions, names: Names, rows: Sequence[Outgoing], before: Sequence[int], position: Position
) -> tuple[int, ...]:
    """A batch as a shard's: rows, then one that it remembers, then its checkpoint, which says where its rows end."""
    told: list[tuple[int, ...]] = []

    def last(offsets: Offsets) -> list[Outgoing]:
        ends = offsets.get(_TENANT, {})
        told.append(tuple(ends.get(partition, end) for partition, end in enumerate(before)))
        record = state.checkpoint_record(
            _TENANT, Checkpoint(rows[0].topic, windows.first_state(_RULES, _NOW, _NOW), offsets=told[-1])
        )
        seen = Outgoing(names.seen, rows[0].value, b"seen", 0)
        return [seen, Outgoing(names.state, record.key, record.value, 0)]

    closing = Closing(lambda _: [], last)
    await transactions.call(partial(transactions.commit, {_TENANT: rows}, closing, position))
    return told[-1]


def row(topic: str, value: bytes, partition: int) -> Outgoing:
    return Outgoing(topic, value, value, partition)


def values(cluster: Cluster, topic: str) -> list[bytes]:
    return sorted(entry.value for entry in oracle.read(cluster.bootstrap, topic))


def remembered(clients: Clients, names: Names) -> set[bytes]:
    """What a shard would know that starts now."""
    return set(read_compacted(clients, (names.state, names.seen), 0, decided_within_s=5.0)[names.seen])


@pytest.mark.parametrize(("replicas", "outcome"), [((3, 3), "aborted"), ((3, 2), "committed")])
async def test_a_transaction_that_hangs_is_committed_where_anything_of_it_can_be_seen_else_aborted(
    three_brokers: Cluster, topic: str, app: str, replicas: tuple[int, int], outcome: str
) -> None:
    """Either way no row of it is lost, and none is there twice, once the shard has gone on."""
    names, clients = Names(app), Clients(three_brokers.bootstrap, {"log_level": 0}, app)
    create(three_brokers, names, topic, replicas)
    transactions, again = (Transactions(clients, names.transactional_id(0)) for _ in range(2))
    await transactions.call(transactions.open)
    victim = three_brokers.brokers[2]
    with member(three_brokers.bootstrap, app) as position:
        first = await commit(transactions, names, [row(topic, b"a0", 0), row(topic, b"a1", 1)], (0, 0), position())
        interfere(transactions, "commit_transaction", lambda: die(three_brokers, victim, names.state))
        second = [row(topic, value, number % 2) for number, value in enumerate((b"b0", b"b1", b"b2", b"b3"))]
        await commit(transactions, names, second, first, position())
    await transactions.close()
    victim.start()
    await again.call(again.open)
    internal = (names.state, names.seen)
    with pytest.raises(HangingTransactionError) as raised:
        read_compacted(clients, internal, 0, decided_within_s=3.0)
    assert raised.value.values[names.seen] == {b"a0": b"seen"}
    committed = raised.value.values[names.state]
    with member(three_brokers.bootstrap, app) as position:
        end = partial(hanging.end, again, clients, names, committed, {topic: 2}, position())
        assert await again.call(end) == outcome
    known = remembered(clients, names)
    assert known == ({b"a0"} if outcome == "aborted" else {b"a0", b"b0"})
    third = [row(topic, b"c0", 0), row(topic, b"c1", 1)]
    with member(three_brokers.bootstrap, app) as position:
        await commit(again, names, third if outcome == "committed" else [*second, *third], first, position())
    await again.close()
    assert values(three_brokers, topic) == [b"a0", b"a1", b"b0", b"b1", b"b2", b"b3", b"c0", b"c1"]
    assert not oracle.open_transactions(three_brokers.bootstrap, [topic, *internal])


async def test_an_abort_that_takes_a_hanging_commit_with_it_makes_the_shard_start_again(
    three_brokers: Cluster, topic: str, app: str
) -> None:
    """A marker ends all that is open: what was acknowledged before is gone, and must not be remembered."""
    names, clients = Names(app), Clients(three_brokers.bootstrap, {"log_level": 0}, app)
    create(three_brokers, names, topic, (3, 3))
    transactions = Transactions(clients, names.transactional_id(0))
    await transactions.call(transactions.open)
    victim = three_brokers.brokers[2]
    with member(three_brokers.bootstrap, app) as position:
        first = await commit(transactions, names, [row(topic, b"a0", 0)], (0, 0), position())
        interfere(transactions, "commit_transaction", lambda: die(three_brokers, victim, names.state))
        await commit(transactions, names, [row(topic, b"b0", 0), row(topic, b"b1", 1)], first, position())
        stale = position()
    victim.start()
    wait_until(lambda: has_leader(three_brokers, names.state), "the partition to have a leader", _DEADLINE_S)
    # Sending offsets may be what fails: then the successor's producer aborts what is open, and not all that hangs.
    with member(three_brokers.bootstrap, app), pytest.raises(ShardRestartError):
        await commit(transactions, names, [row(topic, b"c0", 0)], first, stale)
    await transactions.close()
    again = Transactions(clients, names.transactional_id(0))
    with member(three_brokers.bootstrap, app) as position:
        await again.call(again.open)
        assert not await again.call(again.confirm, transactions.committed, position())
    assert remembered(clients, names) == {b"a0"}
    assert values(three_brokers, topic) == [b"a0"]
    assert not oracle.open_transactions(three_brokers.bootstrap, [topic, names.state, names.seen])
    with member(three_brokers.bootstrap, app) as position:
        await commit(again, names, [row(topic, b"b0", 0), row(topic, b"b1", 1)], first, position())
        assert await again.call(again.confirm, again.committed, position())
    await again.close()
    assert values(three_brokers, topic) == [b"a0", b"b0", b"b1"]
