"""Reaction of a shard to changes of ownership and to an aborted transaction, without a broker."""

import asyncio
import math
import threading
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast
from uuid import UUID

import pytest
from structlog.testing import capture_logs

from connector.core import jobs
from connector.core.rows import RowSchema
from connector.errors import FencedError, HandedOverError, ShardRestartError, UnsupportedError
from connector.graph.clock import TrustedClock
from connector.kafka import avro, control, kept_commands, publishing, recreation
from connector.kafka.control import TenantCommand
from connector.kafka.limits import Limits
from connector.kafka.log_reader import Place
from connector.kafka.membership import ControlRecord, Snapshot
from connector.kafka.publishing import AbortedError, CommitContext, Offsets, Publisher, TransactionContents
from connector.kafka.state import StateIdentity
from connector.metrics.worker import Metrics
from connector.pipeline import commit_loop
from connector.pipeline.buffer import Buffer
from connector.pipeline.change import Change
from connector.pipeline.commit_loop import CommitLoop
from connector.pipeline.messages import Commanded, RunsStarted
from connector.pipeline.owned_tenants import OwnedTenant
from connector.pipeline.restoration import RestoredShard
from connector.pipeline.row_warnings import RowWarnings
from connector.pipeline.shard import Shard
from connector.pipeline.worker_context import Topology

if TYPE_CHECKING:
    from collections.abc import Callable

OURS = frozenset({0})
NO_SHARDS: frozenset[int] = frozenset()


class Group:
    """Group membership that returns the given snapshots one after the other."""

    def __init__(self, *snapshots: Snapshot) -> None:
        self._snapshots = list(snapshots)
        self.looks = 0

    @property
    def snapshot(self) -> Snapshot:
        self.looks += 1
        return self._snapshots.pop(0) if len(self._snapshots) > 1 else self._snapshots[0]

    def holds(self, _shard: int) -> bool:
        return True

    def shut(self, _shard: int) -> None:
        pass


class Scripted(Publisher):
    """Publisher whose commits raise the given errors one after the other."""

    def __init__(self, *ends: Exception | None) -> None:
        super().__init__("scripted", "app")
        self._ends = list(ends)
        self.positions: list[CommitContext] = []

    def open(self) -> None:
        pass

    def commit(self, contents: TransactionContents, position: CommitContext) -> Offsets:
        assert not contents.rows
        self.positions.append(position)
        contents.final_records({})
        end = self._ends.pop(0)
        if end is not None:
            raise end
        return {}

    def end_open(self, *_: Any) -> set[Place]:
        return set()

    def write_lost(self, *_: Any) -> int:
        return 0


def shard_of(group: Group, *, shards: int = 1) -> Shard:
    settings = SimpleNamespace(
        rows=SimpleNamespace(privacy={}, pseudonym_key=None, revisions="publish"),
        dedup=SimpleNamespace(horizon=timedelta(days=150)),
        windows=SimpleNamespace(sweeps=()),
        kafka=SimpleNamespace(app="app", delivery="exactly_once", shards=shards),
    )
    clock = TrustedClock()
    clock.answered(None)
    around = SimpleNamespace(
        settings=settings,
        topology=Topology((), "cluster", {}, None, {}),
        identity=StateIdentity("app", "cluster", "calls"),
        clients=SimpleNamespace(limits=Limits()),
        membership=group,
        graph=SimpleNamespace(clock=clock),
        metrics=Metrics("0", 1),
        shape=RowSchema(avro.load(avro.ROW), "v1.0"),
        once=False,
        tenants_of=lambda _number: [],
    )
    return Shard(0, cast("Any", around))


def loop_of(shard: Shard, publisher: Publisher, buffer: Buffer | None = None) -> CommitLoop:
    return CommitLoop(shard._context, publisher, shard.tenants, buffer or Buffer(), recreation.Place(0, ""))


async def test_shard_commits_only_while_the_worker_owns_it() -> None:
    """Brokers do not check this: they accept transactions for a lost shard while the worker is in the group."""
    publisher = Scripted(None)
    shard = shard_of(Group(Snapshot(7, NO_SHARDS, "fresh")))
    with pytest.raises(HandedOverError):
        await loop_of(shard, publisher)._commit({}, 0)
    assert not publisher.positions
    await publisher.close()


async def test_aborted_batch_is_repeated_with_new_group_metadata(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    publisher = Scripted(AbortedError("rebalance"), AbortedError("rebalance"), None)
    committed_when_applied: list[int] = []
    monkeypatch.setattr(commit_loop, "apply", lambda *_: committed_when_applied.append(len(publisher.positions)))
    monkeypatch.setattr("connector.pipeline.commit_loop._FIRST_PAUSE_S", 0.0)
    snapshots = [Snapshot(polls, OURS, f"poll {polls}") for polls in range(3)]
    await loop_of(shard_of(Group(*snapshots)), publisher)._commit({}, 5)
    assert [position.metadata for position in publisher.positions] == ["poll 0", "poll 1", "poll 2"]
    assert {(position.topic, position.partition, position.offset) for position in publisher.positions} == {
        ("app.control", 0, 5)
    }
    assert committed_when_applied == [3]
    await publisher.close()


async def test_shard_without_transactions_is_not_ready_until_a_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    """A restoration does not prove that the brokers have transactions, because it needs fewer requests than a commit.

    Otherwise /readyz would return 200 after each restart.
    """
    publisher = Scripted(UnsupportedError("no transactions"), None)
    shard = shard_of(Group(Snapshot(0, OURS, ""), Snapshot(1, OURS, "")))
    with pytest.raises(UnsupportedError):
        await loop_of(shard, publisher)._commit({}, 0)
    restored = asyncio.Event()
    monkeypatch.setattr(shard._ownership, "open_commands", lambda _offset: restored.set())
    working = asyncio.create_task(shard._work(RestoredShard({}, {}, recreation.Place(0, ""), ()), publisher))
    await asyncio.wait_for(restored.wait(), 10)
    assert shard.restored
    problems = [shard.problem]
    await loop_of(shard, publisher)._commit({}, 0)
    problems.append(shard.problem)
    shard.hand_over()
    await working
    await publisher.close()
    assert problems == ["no transactions", None]


async def test_shard_whose_start_was_refused_is_ready_once_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    """A shard without tenants commits nothing, so it cannot wait for a commit after an upgrade of the brokers."""
    publisher = Scripted()
    shard = shard_of(Group(Snapshot(0, OURS, "")))
    monkeypatch.setattr(shard._ownership, "open_commands", lambda _offset: shard.hand_over())
    await shard._wait_for_limits(UnsupportedError("no transactions"))
    problems = [shard.problem]
    await shard._work(RestoredShard({}, {}, recreation.Place(0, ""), ()), publisher)
    await publisher.close()
    assert [*problems, shard.problem] == ["no transactions", None]


async def test_aborted_batch_is_dropped_after_the_hand_over() -> None:
    publisher = Scripted(AbortedError("rebalance"))
    shard = shard_of(Group(Snapshot(0, OURS, "")))
    shard.hand_over()
    with pytest.raises(HandedOverError):
        await loop_of(shard, publisher)._commit({}, 0)
    await publisher.close()


@pytest.mark.parametrize("polls", [0, 1])
async def test_fenced_shard_waits_for_a_new_poll_before_it_writes(monkeypatch: pytest.MonkeyPatch, polls: int) -> None:
    """A poll that began before it was fenced proves no ownership.

    Otherwise two workers would fence each other in turns.
    """
    lives: list[int] = []
    before = [Snapshot(0, OURS, None)] * 3 + [Snapshot(polls, OURS, None)] * 2
    shard = shard_of(Group(*before, Snapshot(2, NO_SHARDS, None)))
    monkeypatch.setattr(shard._ownership, "wait", _no_wait)

    async def live() -> None:
        assert not lives
        lives.append(0)
        raise FencedError("another producer is open")

    monkeypatch.setattr(shard, "_live", live)
    await shard.run()
    assert lives == [0]


async def test_fenced_shard_that_is_still_owned_restarts(monkeypatch: pytest.MonkeyPatch) -> None:
    shard = shard_of(Group(Snapshot(0, OURS, None), *[Snapshot(2, OURS, None)]))
    monkeypatch.setattr(shard._ownership, "wait", _no_wait)
    ends: list[Callable[[], None]] = [_fence, lambda: None]

    async def live() -> None:
        ends.pop(0)()

    monkeypatch.setattr(shard, "_live", live)
    await shard.run()
    assert not ends


def changed(**members: Any) -> SimpleNamespace:
    return SimpleNamespace(**{"is_urgent": False, "begun": [], **members})


async def test_deletion_of_expired_state_is_committed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Regression test: the deletion was delayed if the batch also had changes that are not urgent."""
    shard = shard_of(Group(Snapshot(0, OURS, "")))
    monkeypatch.setattr("connector.pipeline.commit_loop._COMMIT_AT_LATEST_S", 3600.0)
    buffer, publisher = Buffer(), Scripted()
    buffer.put(RunsStarted("t", datetime(2026, 3, 1, tzinfo=UTC)))
    monkeypatch.setattr(shard._context.batches, "retire", lambda changes, *_: changes.update(gone=changed()))
    monkeypatch.setattr(
        shard._context.batches, "prepare", lambda _items, _tenant_states, changes: {**changes, "t": changed()}
    )
    committed: list[list[str]] = []

    async def commit(changes: dict[str, Any], *_: Any) -> None:
        committed.append(sorted(changes))
        shard.hand_over()

    loop = loop_of(shard, publisher, buffer)
    monkeypatch.setattr(loop, "_commit", commit)
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        done = group.create_task(asyncio.sleep(3600))
        await loop.run(group, cast("Any", done))
        done.cancel()
    assert committed == [["gone", "t"]]
    await publisher.close()


def test_unknown_json_members_are_logged_up_to_a_limit_only() -> None:
    warnings = RowWarnings()
    tenant = cast("Any", SimpleNamespace(label="contoso"))
    with capture_logs() as logs:
        for batch_number in range(5):
            change = Change(cast("Any", None))
            change.unknown_names.add(f"{batch_number} {name}" for name in range(60))
            warnings.committed(tenant, change)
    assert [(len(entry["names"]), entry.get("more_names_exist", False)) for entry in logs] == [(60, False), (40, True)]


def _fence() -> None:
    raise FencedError("another producer is open")


async def _no_wait(_seconds: float) -> None:
    pass


async def hanging_call(publisher: Publisher) -> tuple[asyncio.Task[None], threading.Event]:
    """Start a call that returns only when the event is set. Return its task and the event once the call is running."""
    started, end = threading.Event(), threading.Event()

    def hang() -> None:
        started.set()
        end.wait(60)

    calling = asyncio.create_task(publisher.call(hang))
    assert await asyncio.to_thread(started.wait, 60)
    return calling, end


async def test_livez_is_healthy_during_a_broker_call_until_it_times_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """/livez reports a producer thread that hangs, but not a restore that makes progress."""
    publisher = Scripted()
    shard = shard_of(Group(Snapshot(0, OURS, None)))
    shard._context.liveness.is_calling = lambda: publisher.is_within_bounds
    calling, end = await hanging_call(publisher)
    before = shard._context.liveness._turned_at
    assert shard.turned_at > before
    monkeypatch.setattr(publishing, "LONGEST_CALL_S", 0.0)
    assert shard.turned_at == before
    end.set()
    await calling
    monkeypatch.undo()
    await publisher.close()


@pytest.mark.parametrize("is_cancelled", [False, True])
async def test_producer_call_that_never_returns_is_abandoned(
    monkeypatch: pytest.MonkeyPatch, *, is_cancelled: bool
) -> None:
    """Otherwise the worker would never run this shard again."""
    monkeypatch.setattr(publishing, "LONGEST_CALL_S", 0.2)
    monkeypatch.setattr(publishing, "_LOOK_S", 0.05)
    publisher = Scripted()
    calling, end = await hanging_call(publisher)
    if is_cancelled:
        calling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await calling
    else:
        with pytest.raises(ShardRestartError, match=r"did not return within 0.2 s; it is blocked in .*wait, line"):
            await calling
    with pytest.raises(ShardRestartError, match="still blocked in an earlier request"):
        await publisher.call(end.is_set)
    await publisher.close()
    end.set()


async def test_producer_call_cancelled_twice_is_abandoned_at_once() -> None:
    """Otherwise the next request would wait for the producer's thread until its time limit."""
    publisher = Scripted()
    calling, end = await hanging_call(publisher)
    for _ in range(2):
        calling.cancel()
        await asyncio.sleep(0)  # lets the call handle each cancellation
    with pytest.raises(asyncio.CancelledError):
        await calling
    async with asyncio.timeout(30):
        with pytest.raises(ShardRestartError, match="still blocked in an earlier request"):
            await publisher.call(end.is_set)
        await publisher.close()
    end.set()


async def test_producer_call_raises_an_error_with_a_circular_cause() -> None:
    """The errors of confluent-kafka have such a chain of causes after they were raised a second time."""
    publisher = Scripted()

    def fail() -> None:
        cause = FencedError("fenced")
        error = ShardRestartError("failed")
        cause.__context__, error.__cause__ = error, cause
        raise error

    with pytest.raises(ShardRestartError, match="failed"):
        await publisher.call(fail)
    await publisher.close()


async def test_repeated_aborts_keep_livez_healthy(monkeypatch: pytest.MonkeyPatch) -> None:
    publisher = Scripted(AbortedError("rebalance"), None)
    shard = shard_of(Group(Snapshot(0, OURS, None), Snapshot(0, OURS, "")))
    monkeypatch.setattr(shard._ownership, "wait", _no_wait)
    monkeypatch.setattr(commit_loop, "apply", lambda *_: None)
    liveness = shard._context.liveness
    liveness._turned_at = -math.inf
    await loop_of(shard, publisher)._commit({}, 0)
    assert liveness.turned_at > 0
    await publisher.close()


TENANT = "00000000-0000-4000-8000-000000000001"
PAUSE = TenantCommand(
    TENANT, jobs.Command("11111111-1111-4111-8111-111111111111", "pause", datetime(2026, 3, 1, tzinfo=UTC))
)


class Runtime:
    """Runtime of a tenant that records its commands."""

    def __init__(self, buffer: Buffer) -> None:
        self.tenant_state = SimpleNamespace(tenant=SimpleNamespace(label="contoso"))
        self.sweeper = self
        self._buffer = buffer

    def command(self, offset: int, command: jobs.Command) -> None:
        self._buffer.put(Commanded(offset, datetime(2026, 3, 1, tzinfo=UTC), TENANT, command))


def read_from_now_on(shard: Shard, monkeypatch: pytest.MonkeyPatch) -> None:
    async def exchange(*_: object) -> None:
        shard.tenants._of[TENANT] = OwnedTenant(runtime=cast("Any", Runtime(shard.tenants._buffer)))

    monkeypatch.setattr(shard.tenants, "_exchange", exchange)


async def test_command_for_an_unknown_tenant_is_stored_for_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next reload may add the tenant, or the worker may just be restarting the tenant after a change."""
    shard, publisher = shard_of(Group(Snapshot(0, OURS, ""))), Scripted(None, None, None)
    shard.restored = True
    buffer = shard.tenants._buffer
    loop = loop_of(shard, publisher, buffer)
    shard.commanded(ControlRecord(7, None, control.encode(PAUSE.tenant, PAUSE.order)))
    loop._waiting = buffer.take(1)
    await loop._flush()
    assert publisher.positions[-1].offset == 8
    await loop._flush()
    (kept,) = loop._kept
    assert control.parse(ControlRecord(0, None, kept.encode())) == PAUSE

    read_from_now_on(shard, monkeypatch)
    await shard.tenants.follow(cast("Any", None))
    loop._waiting = buffer.take(1)
    assert [cast("Any", item).command for item in loop._waiting] == [PAUSE.order, None]
    await loop._flush()
    assert publisher.positions[-1].offset == 8
    assert not loop._kept
    await publisher.close()


async def test_no_command_is_lost_while_a_sweeper_is_replaced() -> None:
    """A changed tenant gets a new sweeper, which continues the plan of the stopped one."""
    shard = shard_of(Group(Snapshot(0, OURS, "")))
    shard.restored, buffer = True, shard.tenants._buffer
    stopping = Stopping(buffer)
    shard.tenants._of[TENANT] = tenant = OwnedTenant(runtime=cast("Any", stopping))
    following = asyncio.create_task(shard.tenants.follow(cast("Any", None)))
    await stopping.started.wait()
    shard.commanded(ControlRecord(7, None, control.encode(PAUSE.tenant, PAUSE.order)))
    stopping.ended.set()
    await following
    assert cast("Any", tenant.plan) == [PAUSE.order]
    assert [(item.offset, item.command) for item in buffer.take(2) if isinstance(item, Commanded)] == [(7, PAUSE.order)]


class Stopping(Runtime):
    """Runtime of a tenant whose sweeper takes time to stop. Its plan is the list of its commands."""

    def __init__(self, buffer: Buffer) -> None:
        super().__init__(buffer)
        self.started, self.ended = asyncio.Event(), asyncio.Event()
        self.plan: list[jobs.Command] = []

    def command(self, offset: int, command: jobs.Command) -> None:
        super().command(offset, command)
        self.plan = [*self.plan, command]

    async def end(self) -> None:
        self.started.set()
        await self.ended.wait()


async def test_stored_commands_are_applied_after_a_shard_restart(monkeypatch: pytest.MonkeyPatch) -> None:
    shard = shard_of(Group(Snapshot(0, OURS, "")))
    buffer = Buffer()
    kept = kept_commands.pack([PAUSE])
    shard.tenants.load(RestoredShard({}, {}, recreation.Place(8, ""), kept), buffer)
    read_from_now_on(shard, monkeypatch)
    await shard.tenants.follow(cast("Any", None))
    assert [cast("Any", item).command for item in buffer.take(1)] == [PAUSE.order, None]


def test_shard_does_not_store_commands_of_another_shard() -> None:
    shard = shard_of(Group(Snapshot(0, OURS, "")), shards=64)
    assert control.partition_of(TENANT, 64)
    shard.restored = True
    shard.commanded(ControlRecord(7, None, control.encode(PAUSE.tenant, PAUSE.order)))
    assert [cast("Any", item).kept for item in shard.tenants._buffer.take(1)] == [None]


def test_shard_stores_only_the_newest_waiting_commands() -> None:
    many = [PAUSE._replace(order=PAUSE.order._replace(id=str(UUID(int=n)))) for n in range(1_000)]
    kept = kept_commands.pack(many)
    assert 0 < sum(map(len, kept)) <= kept_commands.MAX_BYTES
    assert kept_commands.parse(kept) == many[-len(kept) :]
