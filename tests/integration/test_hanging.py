"""Transactions that brokers report as complete although some partitions never get their markers (KAFKA-20734).

The tests run two real brokers. Some partitions have their only replica on a broker that dies after the last record of
the transaction and before its end.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import partial

import pytest
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from connector.core import windows
from connector.core.windows import Rules, Sweep
from connector.errors import ShardRestartError
from connector.kafka import state, topics
from connector.kafka.clients import Clients
from connector.kafka.publishing import (
    CommitContext,
    Offsets,
    Outgoing,
    Publisher,
    TransactionRecord,
)
from connector.kafka.restore import PartitionContents, read_partition
from connector.kafka.state import Checkpoint, StateIdentity
from connector.kafka.topics import Names
from connector.kafka.transaction import Transactions
from tests import oracle
from tests.brokers import Broker, Cluster, wait_until
from tests.producing import Contents, interfere, member

DEADLINE_S = 60.0
DOOMED, SAFE = 2, 1
TENANT = "11111111-1111-1111-1111-111111111111"
STATED = ((900, 1, 2),)
NOW = datetime(2026, 3, 1, tzinfo=UTC)
RULES = Rules((Sweep(timedelta(minutes=1), timedelta(minutes=15)),), timedelta(0), timedelta(days=1), timedelta(days=9))


class Bench:
    """Topics and producers of one shard, on a cluster in which one broker dies."""

    def __init__(self, cluster: Cluster, topic: str, app: str) -> None:
        self.cluster, self.topic, self.names = cluster, topic, Names(app)
        self.clients = Clients(cluster.bootstrap, {"log_level": 0}, app)
        self.admin = AdminClient({"bootstrap.servers": cluster.bootstrap, "log_level": 0})
        self.doomed: list[str] = []
        self.ends = [0, 0]

    def create(self, hanging: str) -> None:
        """Create the topics; the partitions that `hanging` names lie on the broker that will die."""

        def on(name: str) -> list[int]:
            return [DOOMED if name in hanging.split() else SAFE]

        rows, dead_letters, progress = topics.of_rows(self.topic)
        assignments = {
            rows: [on("row0"), on("row1")],
            dead_letters: [on("dlq")],
            progress: [on("progress")],
            self.names.state: [on("state")],
            self.names.seen: [on("seen")],
            self.names.control: [[SAFE]],
        }
        self.doomed = [name for name, replicas in assignments.items() if [DOOMED] in replicas]
        new = [NewTopic(name, len(replicas), replica_assignment=replicas) for name, replicas in assignments.items()]
        for future in self.admin.create_topics(new).values():
            future.result(10)

    async def opened(self) -> Transactions:
        transactions = Transactions(self.clients, self.names.transactional_id(0))
        await transactions.call(transactions.open)
        return transactions

    @property
    def victim(self) -> Broker:
        return self.cluster.brokers[DOOMED - 1]

    def leaders(self) -> list[int]:
        found = [self.admin.list_topics(name, timeout=DEADLINE_S).topics[name] for name in self.doomed]
        return [partition.leader for topic in found for partition in topic.partitions.values()]

    def die(self) -> None:
        """Kill the broker, and wait until the cluster knows that it is dead."""
        count = sum(leader == DOOMED for leader in self.leaders())
        self.victim.kill()
        wait_until(lambda: sum(leader < 0 for leader in self.leaders()) == count, "no leader", DEADLINE_S)

    def revive(self) -> None:
        self.victim.start()
        wait_until(lambda: min(self.leaders()) > 0, "leaders", DEADLINE_S)

    async def commit(
        self, publisher: Publisher, position: CommitContext, rows: Sequence[Outgoing], dead: Sequence[Outgoing] = ()
    ) -> None:
        """Commit a batch as a shard does: rows, dedup index, progress, checkpoint and shard record."""
        ends: list[int] = []

        def last(offsets: Offsets) -> list[Outgoing]:
            ends[:] = [offsets.get(TENANT, {}).get(number, end) for number, end in enumerate(self.ends)]
            first_state = windows.first_state(RULES, NOW, NOW)
            record = state.checkpoint_record(
                TENANT, Checkpoint(self.topic, first_state, offsets=tuple(ends), stated=STATED)
            )
            return [
                *(Outgoing(self.names.seen, outgoing.value, b"seen", 0) for outgoing in (*rows, *dead)),
                Outgoing(topics.progress(self.topic), TENANT.encode(), b"stated", 0),
                Outgoing(self.names.state, record.key, record.value, 0),
            ]

        def shard(transaction: TransactionRecord) -> list[Outgoing]:
            record = state.shard_record(StateIdentity(self.names.app, "cluster", self.topic), 7, *transaction)
            return [Outgoing(self.names.state, record.key, record.value, 0)]

        records = {TENANT: rows, f"{TENANT}/dead letters": dead}
        await publisher.call(partial(publisher.commit, Contents(records, last, shard), position))
        self.ends = ends

    async def hang(self, transactions: Transactions, position: CommitContext, *batch: Sequence[Outgoing]) -> None:
        """Commit a batch; the broker dies before the markers are written, and comes back."""
        interfere(transactions, "commit_transaction", self.die)
        await self.commit(transactions, position, *batch)
        stop_interfering(transactions)
        self.revive()

    def read(self) -> PartitionContents:
        return read_partition(self.clients, (self.names.state, self.names.seen), 0, decided_within_s=3.0)

    async def recover(self, publisher: Publisher, row_topics: Sequence[str] | None = None) -> tuple[bool, int]:
        """Recover transactions as a starting shard does.

        Return whether one was open, and how many records were written again.
        """
        with member(self.cluster.bootstrap, self.names.app) as position:
            topics_to_check = [self.topic] if row_topics is None else row_topics
            ended = await publisher.call(publisher.end_open, self.read(), topics_to_check, position(), lambda: False)
            written = await publisher.call(publisher.write_lost, self.read(), ended, position(), lambda: False)
        return bool(ended), written

    async def restart(self) -> tuple[bool, int]:
        transactions = await self.opened()
        try:
            return await self.recover(transactions)
        finally:
            await transactions.close()

    def row(self, value: bytes, partition: int) -> Outgoing:
        return Outgoing(self.topic, value, value, partition)

    def dead_letter(self, value: bytes) -> Outgoing:
        headers = [("tenant", TENANT.encode())]
        return Outgoing(topics.dead_letters(self.topic), None, value, 0, headers=headers)

    def values(self, topic: str | None = None) -> list[bytes]:
        return sorted(entry.value for entry in oracle.read(self.cluster.bootstrap, topic or self.topic))

    @property
    def remembered(self) -> set[bytes]:
        """Return the records of the dedup index that a shard would restore now."""
        found = self.read()
        assert not found.undecided
        return set(found.values[self.names.seen])

    @property
    def checkpoint(self) -> Checkpoint:
        return state.restore(self.read().values[self.names.state]).checkpoints[TENANT]

    def check(self, *values: bytes) -> None:
        """Check that these rows are published once and in the dedup index, and that no transaction is open."""
        assert self.values() + self.values(topics.dead_letters(self.topic)) == list(values)
        assert self.remembered == set(values)
        names = [*topics.of_rows(self.topic), self.names.state, self.names.seen]
        assert not oracle.open_transactions(self.cluster.bootstrap, names)
        rows = oracle.read(self.cluster.bootstrap, self.topic)
        assert all(entry.headers == () for entry in rows)
        ends = [0, 0]
        for entry in rows:
            ends[entry.partition] = max(ends[entry.partition], entry.offset + 1)
        assert list(self.checkpoint.offsets) == ends


def stop_interfering(transactions: Transactions) -> None:
    interfering = transactions._producer
    transactions._producer = interfering._producer  # type: ignore[union-attr]


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("connector.kafka.clients._ABORTED_WITHIN_S", -7.0)
    monkeypatch.setattr("connector.kafka.transaction._PROVEN_WITHIN_S", DEADLINE_S)


@pytest.fixture
def bench(two_brokers: Cluster, topic: str, app: str) -> Bench:
    return Bench(two_brokers, topic, app)


@pytest.mark.parametrize(("hanging", "stated"), [("seen", STATED), ("row0 state seen progress", ())])
async def test_new_owner_completes_a_hanging_transaction(bench: Bench, hanging: str, stated: object) -> None:
    """If one record of a transaction is visible, it was committed, and its other records are written again.

    If rows are written again, progress is written again as well, because the earlier records name offsets before them.
    """
    bench.create(hanging)
    transactions = await bench.opened()
    with member(bench.cluster.bootstrap, bench.names.app) as position:
        await bench.commit(transactions, position(), [bench.row(b"a0", 0), bench.row(b"a1", 1)])
        await bench.hang(transactions, position(), [bench.row(b"b0", 0), bench.row(b"b1", 1), bench.row(b"b2", 0)])
    await transactions.close()
    ended, _ = await bench.restart()
    assert ended
    bench.check(b"a0", b"a1", b"b0", b"b1", b"b2")
    assert bench.checkpoint.stated == stated
    assert await bench.restart() == (False, 0)


async def test_transaction_that_hangs_in_every_partition_is_aborted(bench: Bench) -> None:
    """No reader can have seen the rows of the transaction, so the shard reads them from Graph again."""
    bench.create("row0 row1 dlq progress state seen")
    transactions = await bench.opened()
    with member(bench.cluster.bootstrap, bench.names.app) as position:
        await bench.commit(transactions, position(), [bench.row(b"a0", 0)])
        await bench.hang(transactions, position(), [bench.row(b"b0", 0), bench.row(b"b1", 1)])
    await transactions.close()
    before = bench.checkpoint.offsets
    assert await bench.restart() == (True, 0)
    bench.ends = list(before)
    bench.check(b"a0")
    next_owner = await bench.opened()
    with member(bench.cluster.bootstrap, bench.names.app) as position:
        await bench.commit(next_owner, position(), [bench.row(b"b0", 0), bench.row(b"b1", 1)])
    await next_owner.close()
    bench.check(b"a0", b"b0", b"b1")


async def test_hanging_transaction_with_a_dead_letter_is_completed(bench: Bench) -> None:
    bench.create("state seen")
    transactions = await bench.opened()
    with member(bench.cluster.bootstrap, bench.names.app) as position:
        await bench.commit(transactions, position(), [bench.row(b"a0", 0)])
        await bench.hang(transactions, position(), [], [bench.dead_letter(b"d0")])
    await transactions.close()
    await bench.restart()
    bench.check(b"a0", b"d0")


@pytest.mark.parametrize("hanging", ["seen", "state seen", "row0 row1"])
async def test_abort_of_next_batch_loses_no_row_of_a_hanging_transaction(bench: Bench, hanging: str) -> None:
    """A rebalance aborts the next batch. The abort marker also ends the hanging transaction of the same producer."""
    bench.create(hanging)
    transactions = await bench.opened()
    with member(bench.cluster.bootstrap, bench.names.app) as position:
        await bench.commit(transactions, position(), [bench.row(b"a0", 0)])
        await bench.hang(transactions, position(), [bench.row(b"b0", 0), bench.row(b"b1", 1)])
        stale = position()
    before = list(bench.ends)
    with member(bench.cluster.bootstrap, bench.names.app), pytest.raises(ShardRestartError):
        await bench.commit(transactions, stale, [bench.row(b"c0", 0), bench.row(b"c1", 1)])
    await transactions.close()
    bench.ends = before
    await bench.restart()
    bench.check(b"a0", b"b0", b"b1")


async def test_crash_in_next_batch_loses_no_row_of_a_hanging_transaction(bench: Bench) -> None:
    """The worker dies while its next transaction is open.

    Its abort reaches only some partitions of the hanging transaction.
    """
    bench.create("row0 state seen")
    transactions = await bench.opened()
    with member(bench.cluster.bootstrap, bench.names.app) as position:
        await bench.commit(transactions, position(), [bench.row(b"a0", 0)])
        await bench.hang(transactions, position(), [bench.row(b"b0", 0), bench.row(b"b1", 1)])
        interfere(transactions, "send_offsets_to_transaction", _die_silently)
        with pytest.raises(ShardRestartError):
            await bench.commit(transactions, position(), [bench.row(b"c0", 0)])
    await transactions.close()
    bench.ends = [0, 0]
    await bench.restart()
    bench.check(b"a0", b"b0", b"b1")


def _die_silently() -> None:
    raise SystemError("the process is gone")


async def test_rows_of_two_successive_hanging_transactions_are_written_again(bench: Bench) -> None:
    """The second transaction does not write to every partition in which the first one hangs."""
    bench.create("row0 row1 seen")
    transactions = await bench.opened()
    with member(bench.cluster.bootstrap, bench.names.app) as position:
        await bench.commit(transactions, position(), [bench.row(b"a0", 0)])
        await bench.hang(transactions, position(), [bench.row(b"b0", 0), bench.row(b"b1", 1)])
        await bench.hang(transactions, position(), [bench.row(b"c0", 0)])
        stale = position()
    with member(bench.cluster.bootstrap, bench.names.app), pytest.raises(ShardRestartError):
        await bench.commit(transactions, stale, [bench.row(b"d0", 0), bench.row(b"d1", 1)])
    await transactions.close()
    await bench.restart()
    bench.check(b"a0", b"b0", b"b1", b"c0")


async def test_shard_restarts_if_its_transaction_stays_open_in_a_partition(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise readers of the partition would wait until the shard writes there again."""
    bench.create("row0")
    transactions = await bench.opened()
    with member(bench.cluster.bootstrap, bench.names.app) as position:
        await bench.hang(transactions, position(), [bench.row(b"a0", 0)])
        await bench.commit(transactions, position(), [bench.row(b"a1", 1)])
        monkeypatch.setattr("connector.kafka.transaction._PROVEN_WITHIN_S", -3.0)
        with pytest.raises(ShardRestartError, match=f"still open in {bench.topic}-0"):
            await bench.commit(transactions, position(), [bench.row(b"b1", 1)])
    await transactions.close()
    await bench.restart()
    bench.check(b"a0", b"a1")


async def test_next_commit_publishes_no_row_of_an_aborted_hanging_transaction(bench: Bench) -> None:
    """Otherwise the next commit would publish the aborted rows."""
    bench.create("row0")
    transactions = await bench.opened()
    with member(bench.cluster.bootstrap, bench.names.app) as position:
        await bench.commit(transactions, position(), [bench.row(b"a0", 0)])
        stale = position()
    interfere(transactions, "abort_transaction", bench.die)
    with member(bench.cluster.bootstrap, bench.names.app), pytest.raises(ShardRestartError):
        await bench.commit(transactions, stale, [bench.row(b"b0", 0), bench.row(b"b1", 1)])
    await transactions.close()
    bench.revive()
    assert await bench.restart() == (True, 0)
    next_owner = await bench.opened()
    with member(bench.cluster.bootstrap, bench.names.app) as position:
        await bench.commit(next_owner, position(), [bench.row(b"b0", 0), bench.row(b"b1", 1)])
    await next_owner.close()
    bench.check(b"a0", b"b0", b"b1")


async def test_hanging_transactions_are_ended_in_unconfigured_topics_too(bench: Bench) -> None:
    """The topic was added by a reload, belongs to a removed tenant, or has an additional partition."""
    bench.create("row0 row1 dlq progress state seen")
    transactions = await bench.opened()
    with member(bench.cluster.bootstrap, bench.names.app) as position:
        await bench.hang(transactions, position(), [bench.row(b"a0", 0), bench.row(b"a1", 1)])
    await transactions.close()
    next_owner = await bench.opened()
    assert await bench.recover(next_owner, row_topics=[]) == (True, 0)
    bench.ends = [0, 0]
    with member(bench.cluster.bootstrap, bench.names.app) as position:
        await bench.commit(next_owner, position(), [bench.row(b"a0", 0), bench.row(b"a1", 1)])
    await next_owner.close()
    bench.check(b"a0", b"a1")
