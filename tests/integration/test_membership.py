"""Ownership of shards in a real consumer group: what a member reports, and when commands arrive."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from confluent_kafka import Consumer, Message, Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from connector.kafka.clients import Clients
from connector.kafka.membership import ControlRecord, Membership
from tests.brokers import wait_until
from tests.conftest import SharedBroker

_HAND_OVER_S = 1.0
_DEADLINE_S = 60.0
_SHARDS = 4


class Watch:
    """Owner that records every call that it receives."""

    def __init__(self) -> None:
        self.owned: set[int] = set()
        self.commands: list[tuple[int, int]] = []
        self.membership: Membership | None = None
        self.takes_s = 0.0
        "Duration of a hand-over."
        self.handed_over_at = self.assigned_at = 0.0
        self.held_when_lost: list[frozenset[int]] = []
        self.joined_when_lost: list[bool] = []
        self.blocks = threading.Event()
        self.blocks.set()

    def assigned(self, shards: frozenset[int]) -> None:
        self.owned |= shards
        self.assigned_at = time.monotonic()

    def revoked(self, shards: frozenset[int]) -> threading.Event:
        self.owned -= shards
        gone = threading.Event()

        def hand_over() -> None:
            self.handed_over_at = time.monotonic()
            gone.set()

        threading.Timer(self.takes_s, hand_over).start()
        return gone

    def lost(self, shards: frozenset[int]) -> None:
        assert self.membership is not None
        self.owned -= shards
        self.held_when_lost.append(self.membership.snapshot.partitions & shards)
        self.joined_when_lost.append(self.membership.joined)

    def commanded(self, shard: int, command: ControlRecord) -> None:
        self.commands.append((shard, command.offset))
        self.blocks.wait(_DEADLINE_S)


Join = Callable[..., tuple[Membership, Watch]]


@pytest.fixture
def join(broker: SharedBroker, app: str) -> Iterator[Join]:
    """Yield a function that joins the group of a control topic."""
    admin = AdminClient({"bootstrap.servers": broker.bootstrap, "log_level": 0})
    for future in admin.create_topics([NewTopic(f"{app}.control", _SHARDS)]).values():
        future.result(10)
    with ExitStack() as stack:

        def make(takes_s: float = 0.0, **properties: str) -> tuple[Membership, Watch]:
            watch = Watch()
            watch.takes_s = takes_s
            fast = {"session.timeout.ms": "3000", "heartbeat.interval.ms": "200", "log_level": 0}
            clients = Clients(broker.bootstrap, fast | properties)
            watch.membership = Membership(clients, app, f"{app}.control", watch)
            watch.membership.start()
            stack.callback(watch.membership.stop)
            stack.callback(watch.blocks.set)
            return watch.membership, watch

        yield make


def until_owned(*watches: Watch) -> None:
    """Wait until every shard has one owner and all members own equally many."""

    def is_shared() -> bool:
        owned = sorted(shard for watch in watches for shard in set(watch.owned))
        return owned == list(range(_SHARDS)) and len({len(watch.owned) for watch in watches}) == 1

    wait_until(is_shared, "each member to own the same number of shards", _DEADLINE_S)


def file_commands(bootstrap: str, app: str, count: int) -> None:
    producer = Producer({"bootstrap.servers": bootstrap, "enable.idempotence": True, "log_level": 0})
    for _ in range(count):
        producer.produce(f"{app}.control", b"{}", b"tenant", partition=0)
    assert producer.flush(_DEADLINE_S) == 0


def lose_shards(membership: Membership, watch: Watch) -> None:
    """Block polling for longer than the 1.5 s that the group allows, so that the member is removed.

    This uses up a command of shard 0.
    """
    watch.blocks.clear()
    membership.open(0, 0)
    wait_until(lambda: bool(watch.commands), "a command that blocks", _DEADLINE_S)
    end = time.monotonic() + 2.5
    wait_until(lambda: time.monotonic() > end, "the interval to pass", _DEADLINE_S)
    watch.blocks.set()
    wait_until(lambda: bool(watch.held_when_lost), "the owner to learn of the loss", _DEADLINE_S)


def test_commands_are_delivered_from_the_committed_offset(broker: SharedBroker, app: str, join: Join) -> None:
    """The committed offset of the shard counts, even if other records were fetched before the shard was restored."""
    file_commands(broker.bootstrap, app, 3)
    membership, watch = join()
    until_owned(watch)
    polls = membership.snapshot.polls
    wait_until(lambda: membership.snapshot.polls > polls + 3, "polls", _DEADLINE_S)
    assert not watch.commands
    membership.open(0, 2)
    wait_until(lambda: bool(watch.commands), "a command", _DEADLINE_S)
    file_commands(broker.bootstrap, app, 1)
    wait_until(lambda: len(watch.commands) > 1, "one more command", _DEADLINE_S)
    assert watch.commands == [(0, 2), (0, 3)]
    membership.shut(0)
    polls = membership.snapshot.polls
    wait_until(lambda: membership.snapshot.polls > polls + 1, "the shard to be closed", _DEADLINE_S)
    file_commands(broker.bootstrap, app, 1)
    polls = membership.snapshot.polls
    wait_until(lambda: membership.snapshot.polls > polls + 10, "further polls", _DEADLINE_S)
    assert len(watch.commands) == 2
    membership.open(0, 0)
    wait_until(lambda: len(watch.commands) > 6, "all commands again", _DEADLINE_S)
    assert watch.commands[2:] == [(0, 0), (0, 1), (0, 2), (0, 3), (0, 4)]


def test_shard_moves_only_after_its_release(join: Join) -> None:
    """The member must release a shard before it loses it: brokers accept offsets of a live member for any partition."""
    first, of_first = join(takes_s=_HAND_OVER_S)
    until_owned(of_first)
    second, of_second = join()
    until_owned(of_first, of_second)
    assert of_second.assigned_at >= of_first.handed_over_at > 0
    wait_until(lambda: second.snapshot.partitions == of_second.owned, "the new owner's snapshot", _DEADLINE_S)
    wait_until(lambda: first.snapshot.metadata is not None, "a poll of the former owner", _DEADLINE_S)
    assert first.snapshot.partitions == of_first.owned
    assert not first.snapshot.partitions & second.snapshot.partitions


def test_snapshot_of_owned_shards_contains_no_lost_shard(broker: SharedBroker, app: str, join: Join) -> None:
    """A member that polls too late is expelled from the group and joins again."""
    file_commands(broker.bootstrap, app, 1)
    membership, watch = join(**{"session.timeout.ms": "1500", "max.poll.interval.ms": "1500"})
    until_owned(watch)
    lose_shards(membership, watch)
    assert watch.held_when_lost[0] == frozenset()
    assert watch.joined_when_lost == [False]
    until_owned(watch)
    assert membership.joined


def test_expelled_group_member_rejoins(broker: SharedBroker, app: str, join: Join) -> None:
    """Another process joins with the same instance id, which causes a fatal error. Users cannot configure this id."""
    instance = {"group.instance.id": "twin", "session.timeout.ms": "3000"}
    _, watch = join(**instance)
    until_owned(watch)
    twin = Consumer(Clients(broker.bootstrap, {**instance, "log_level": 0}).member(app))
    twin.subscribe([f"{app}.control"])

    def is_expelled() -> bool:
        twin.poll(0.1)
        return bool(watch.held_when_lost)

    try:
        wait_until(is_expelled, "the first member to be expelled", _DEADLINE_S)
    finally:
        twin.close()
    until_owned(watch)


class IgnoresAssignments(Consumer):
    """Consumer class whose first instance ignores all assignments after shards were revoked or lost."""

    created = 0

    def subscribe(self, topics: list[str], **callbacks: Callable[..., None]) -> None:  # type: ignore[override]
        """Subscribe; the first instance ignores assignments after shards were revoked or lost."""
        type(self).created += 1
        number, ended = self.created, threading.Event()

        def on_assign(*arguments: object) -> None:
            if number > 1 or not ended.is_set():
                callbacks["on_assign"](*arguments)

        def ending(callback: Callable[..., None]) -> Callable[..., None]:
            def end(*arguments: object) -> None:
                ended.set()
                callback(*arguments)

            return end

        ends = {name: ending(callbacks[name]) for name in ("on_revoke", "on_lost")}
        super().subscribe(topics, **callbacks | ends | {"on_assign": on_assign})


@pytest.fixture
def consumers(monkeypatch: pytest.MonkeyPatch) -> type[IgnoresAssignments]:
    """Replace the consumer class, and let a member without an assignment rejoin after 1 s. Return the class."""

    class Ours(IgnoresAssignments):
        pass

    monkeypatch.setattr("connector.kafka.membership._REJOIN_S", 1.0)
    monkeypatch.setattr("connector.kafka.membership.Consumer", Ours)
    return Ours


def test_group_member_without_an_assignment_rejoins(join: Join, consumers: type[IgnoresAssignments]) -> None:
    """Otherwise a shard whose assignment never reached the member would not be read."""
    _, first = join()
    until_owned(first)
    _, second = join()
    until_owned(first, second)
    wait_until(lambda: consumers.created == 3, "the first member to join again", _DEADLINE_S)
    until_owned(first, second)


def test_group_member_rejoins_after_it_lost_its_shards(
    broker: SharedBroker, app: str, join: Join, consumers: type[IgnoresAssignments]
) -> None:
    file_commands(broker.bootstrap, app, 1)
    membership, watch = join(**{"session.timeout.ms": "1500", "max.poll.interval.ms": "1500"})
    until_owned(watch)
    lose_shards(membership, watch)
    wait_until(lambda: consumers.created == 2, "the member to join again", _DEADLINE_S)
    until_owned(watch)


class FailingOnce(Consumer):
    """Consumer whose first poll after `fail_next_poll` is set raises `error`.

    confluent-kafka raises such an error if one is lost during callbacks.
    """

    fail_next_poll = threading.Event()
    error = Exception("a test chooses another")

    def poll(self, timeout: float = -1) -> Message | None:
        """Poll, but raise `error` once."""
        if self.fail_next_poll.is_set():
            self.fail_next_poll.clear()
            raise self.error
        return super().poll(timeout)


@pytest.mark.parametrize("error", [AttributeError("'NoneType' object has no attribute 'log'"), ValueError("a bug")])
def test_exception_in_the_consumer_thread_replaces_the_consumer(
    join: Join, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """If the thread ended instead, the worker would own nothing forever without a message."""
    monkeypatch.setattr("connector.kafka.membership.Consumer", FailingOnce)
    monkeypatch.setattr(FailingOnce, "error", error)
    _, watch = join()
    until_owned(watch)
    before = watch.assigned_at
    FailingOnce.fail_next_poll.set()
    wait_until(lambda: bool(watch.held_when_lost), "the member to lose its shards", _DEADLINE_S)
    assert watch.held_when_lost == [frozenset()]
    wait_until(lambda: watch.assigned_at > before, "another assignment", _DEADLINE_S)
    until_owned(watch)
