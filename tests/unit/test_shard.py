"""Reaction of a shard to changes of ownership and to an aborted transaction, without a broker."""

import asyncio
import math
import threading
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any, cast

import pytest
from structlog.testing import capture_logs

from connector import batch
from connector.batch import Change, SweepsBegun
from connector.buffer import Buffer
from connector.core.rows import RowSchema
from connector.errors import FencedError, HandedOverError
from connector.graph.clock import TrustedClock
from connector.kafka import avro, publishing
from connector.kafka.limits import Limits
from connector.kafka.ownership import Command, Snapshot
from connector.kafka.publishing import AbortedError, CommitContext, Offsets, Outgoing, Publisher, TransactionContents
from connector.kafka.state import StateIdentity
from connector.kafka.visibility import Place
from connector.metrics import Metrics
from connector.shard import Shard

OURS = frozenset({0})
NOBODYS: frozenset[int] = frozenset()


class Group:
    """A membership whose snapshots a test writes; each look may be followed by another poll."""

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
    """Publisher whose commits end as a test says, one after the other."""

    def __init__(self, *ends: Exception | None) -> None:
        super().__init__("scripted", "app", {})
        self._ends = list(ends)
        self.positions: list[CommitContext] = []

    def open(self) -> None:
        pass

    def commit(
        self, records: Mapping[str, Sequence[Outgoing]], closing: TransactionContents, position: CommitContext
    ) -> Offsets:
        assert not records
        self.positions.append(position)
        closing.last({})
        end = self._ends.pop(0)
        if end is not None:
            raise end
        return {}

    def end_open(self, *_: Any) -> set[Place]:
        return set()

    def write_lost(self, *_: Any) -> int:
        return 0


def shard_of(group: Group) -> Shard:
    settings = SimpleNamespace(
        rows=SimpleNamespace(privacy={}, pseudonym_key=None),
        dedup=SimpleNamespace(horizon=timedelta(days=150)),
        windows=SimpleNamespace(sweeps=()),
        kafka=SimpleNamespace(app="app", delivery="exactly_once"),
    )
    clock = TrustedClock()
    clock.answered(None)
    around = SimpleNamespace(
        settings=settings,
        home=StateIdentity("app", "cluster", "calls"),
        partitions={},
        schema_ids=None,
        clients=SimpleNamespace(limits=Limits()),
        membership=group,
        graph=SimpleNamespace(clock=clock),
        metrics=Metrics("0", 1),
        shape=RowSchema(avro.load(avro.ROW), "v1.0"),
        once=False,
        now=lambda: datetime(2026, 3, 1, tzinfo=UTC),
    )
    return Shard(0, cast("Any", around), [])


async def test_no_transaction_begins_with_a_snapshot_that_does_not_hold_the_shard() -> None:
    """The broker would take it: its guard knows members, and this one is alive with fresh metadata."""
    publisher = Scripted(None)
    shard = shard_of(Group(Snapshot(7, NOBODYS, "fresh")))
    with pytest.raises(HandedOverError):
        await shard._commit({}, {}, publisher, 0)
    assert not publisher.positions
    await publisher.close()


async def test_an_aborted_batch_is_written_again_with_fresh_metadata_and_remembered_once_it_is_committed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    publisher = Scripted(AbortedError("rebalance"), AbortedError("rebalance"), None)
    committed_when_applied: list[int] = []
    monkeypatch.setattr(batch, "apply", lambda *_: committed_when_applied.append(len(publisher.positions)))
    monkeypatch.setattr("connector.shard._FIRST_PAUSE_S", 0.0)
    snapshots = [Snapshot(polls, OURS, f"poll {polls}") for polls in range(3)]
    await shard_of(Group(*snapshots))._commit({}, {}, publisher, 5)
    assert [position.metadata for position in publisher.positions] == ["poll 0", "poll 1", "poll 2"]
    assert {(position.topic, position.partition, position.offset) for position in publisher.positions} == {
        ("app.control", 0, 5)
    }
    assert committed_when_applied == [3]
    await publisher.close()


async def test_an_aborted_batch_is_not_written_again_when_the_shard_goes() -> None:
    publisher = Scripted(AbortedError("rebalance"))
    shard = shard_of(Group(Snapshot(0, OURS, "")))
    shard.hand_over()
    with pytest.raises(HandedOverError):
        await shard._commit({}, {}, publisher, 0)
    await publisher.close()


@pytest.mark.parametrize("polls", [0, 1])
async def test_who_was_fenced_opens_no_producer_before_a_further_poll_has_said_whose_the_shard_is(
    monkeypatch: pytest.MonkeyPatch, polls: int
) -> None:
    """A poll that was on its way when it happened says nothing: two workers would fence each other in turns."""
    lives: list[int] = []
    before = [Snapshot(0, OURS, None)] * 3 + [Snapshot(polls, OURS, None)] * 2
    shard = shard_of(Group(*before, Snapshot(2, NOBODYS, None)))
    monkeypatch.setattr(shard, "_wait", _no_wait)

    async def live() -> None:
        assert not lives
        lives.append(0)
        raise FencedError("somebody else has it")

    monkeypatch.setattr(shard, "_live", live)
    await shard.run()
    assert lives == [0]


async def test_who_was_fenced_and_still_owns_the_shard_starts_again(monkeypatch: pytest.MonkeyPatch) -> None:
    shard = shard_of(Group(Snapshot(0, OURS, None), *[Snapshot(2, OURS, None)]))
    monkeypatch.setattr(shard, "_wait", _no_wait)
    ends: list[Callable[[], None]] = [_fence, lambda: None]

    async def live() -> None:
        ends.pop(0)()

    monkeypatch.setattr(shard, "_live", live)
    await shard.run()
    assert not ends


def changed(**members: Any) -> SimpleNamespace:
    return SimpleNamespace(**{"is_urgent": False, "begun": [], **members})


async def test_tombstones_do_not_wait_for_the_next_coverage_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Items that are not urgent came in the same turn, and made the loop forget that something is."""
    shard = shard_of(Group(Snapshot(0, OURS, "")))
    monkeypatch.setattr("connector.shard._COMMIT_AT_LATEST_S", 3600.0)
    buffer, publisher = Buffer(), Scripted()
    buffer.put(SweepsBegun("t", datetime(2026, 3, 1, tzinfo=UTC)))
    monkeypatch.setattr(shard._batches, "retire", lambda changes, *_: changes.update(gone=changed()))
    monkeypatch.setattr(shard._batches, "prepare", lambda _items, _accounts, changes: {**changes, "t": changed()})
    committed: list[list[str]] = []

    async def commit(changes: dict[str, Any], *_: Any) -> None:
        committed.append(sorted(changes))
        shard.hand_over()

    monkeypatch.setattr(shard, "_commit", commit)
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        done = group.create_task(asyncio.sleep(3600))
        await shard._commit_loop(buffer, {}, publisher, cast("Any", done), group)
        done.cancel()
    assert committed == [["gone", "t"]]
    await publisher.close()


def test_more_unknown_names_than_are_kept_are_logged_once() -> None:
    shard = shard_of(Group(Snapshot(0, OURS, "")))
    tenant = cast("Any", SimpleNamespace(label="contoso"))
    with capture_logs() as logs:
        for batch_number in range(5):
            change = Change(cast("Any", None))
            change.unknown_names.add(f"{batch_number} {name}" for name in range(60))
            shard._log_unknown(tenant, change)
    assert [(len(entry["names"]), entry.get("further", False)) for entry in logs] == [(60, False), (40, True)]


def _fence() -> None:
    raise FencedError("somebody else had it")


async def _no_wait(_event: object, _seconds: float) -> None:
    pass


async def test_call_to_brokers_counts_as_turning_within_its_time_outs_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """A producer's thread that hangs shows at /livez, a restore that goes on does not."""
    publisher = Scripted()
    shard = shard_of(Group(Snapshot(0, OURS, None)))
    shard._publisher = publisher
    begun, end = threading.Event(), threading.Event()

    def hang() -> None:
        begun.set()
        end.wait(60)

    calling = asyncio.create_task(publisher.call(hang))
    assert await asyncio.to_thread(begun.wait, 60)
    before = shard._turned_at
    assert shard.turned_at > before
    monkeypatch.setattr(publishing, "LONGEST_CALL_S", 0.0)
    assert shard.turned_at == before
    end.set()
    await calling
    await publisher.close()


async def test_batch_that_is_aborted_again_and_again_counts_as_turning(monkeypatch: pytest.MonkeyPatch) -> None:
    publisher = Scripted(AbortedError("rebalance"), None)
    shard = shard_of(Group(Snapshot(0, OURS, None), Snapshot(0, OURS, "")))
    monkeypatch.setattr(shard, "_wait", _no_wait)
    monkeypatch.setattr(batch, "apply", lambda *_: None)
    shard._turned_at = -math.inf
    await shard._commit({}, {}, publisher, 0)
    assert shard._turned_at > 0
    await publisher.close()


async def test_command_that_comes_while_tenants_change_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reading of its tenant may be closed just then."""
    shard = shard_of(Group(Snapshot(0, OURS, None)))
    shard.restored = True
    command = Command(7, None, b"")

    async def exchange(*_: object) -> None:
        shard.commanded(command)
        assert not shard._buffer.take(1)

    monkeypatch.setattr(shard, "_exchange", exchange)
    await shard._follow({}, cast("Any", None))
    assert [cast("Any", item).offset for item in shard._buffer.take(1)] == [7]
