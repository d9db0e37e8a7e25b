"""Membership of the worker in the consumer group of the control topic. The owner of control partition p owns shard p.

Only one thread uses the consumer, because a request from another thread would wait until the current poll ends. The
thread runs short polls, their callbacks and queued requests. After each poll it publishes a snapshot of the assignment.

A shard commits only while the last snapshot contains its partition. The broker's own check is not enough: it
checks only that the member belongs to the current generation of the group, not that it still owns the partition.
"""

import queue
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from connector import log
from connector.kafka import rights
from connector.kafka.clients import Clients

_POLL_S = 0.1
_HAND_OVER_S = 2.0
_CONFIRM_S = 0.5
_PAUSE_S = 0.02
_REJOIN_S = 30.0
_AGAIN_S = 1.0
_REJOINS = "a new consumer joins the group"
_logger = log.get(__name__)

_Request = Callable[[Consumer], None]


class ControlRecord(NamedTuple):
    """Record that was read from the control topic."""

    offset: int
    key: bytes | None
    value: bytes | None


class Snapshot(NamedTuple):
    """Assigned partitions and group metadata, as of the last poll of the consumer. `polls` counts the polls so far."""

    polls: int
    partitions: frozenset[int]
    metadata: Any


class Owner(Protocol):
    """Receiver of the shards that the group assigns to the worker or takes from it.

    The methods are called in the membership's thread, so they must not block.
    """

    def assigned(self, shards: frozenset[int]) -> None:
        """Start the shards that the group has assigned to this worker."""

    def revoked(self, shards: frozenset[int]) -> threading.Event:
        """Start the hand-over of the given shards. Return an event that is set when the hand-over is done."""

    def lost(self, shards: frozenset[int]) -> None:
        """Stop the given shards at once, because another worker may own them already."""

    def commanded(self, shard: int, command: ControlRecord) -> None:
        """Execute the command of an operator, which is in a record of the shard's control partition."""


class Membership:
    """Consumer of the control topic, with its own thread."""

    def __init__(self, clients: Clients, group: str, topic: str, owner: Owner) -> None:
        self._settings = clients.member(group)
        self._group = group
        # The newer group protocol does not call back for an assignment that stays empty.
        self._reports_empty = str(self._settings.get("group.protocol", "classic")).lower() == "classic"
        # A frozen member delays the assignment of all others until its session has ended.
        self._rejoin_s = max(_REJOIN_S, 2 * int(self._settings.get("session.timeout.ms", 0)) / 1000)
        self._topic = topic
        self._owner = owner
        self._requests: queue.SimpleQueue[_Request] = queue.SimpleQueue()
        self._partitions: frozenset[int] = frozenset()
        self._opened: set[int] = set()
        self._waits_since: float | None = None
        """Time at which shards were last lost or revoked, in monotonic seconds. None as soon as an assignment, even an
        empty one, has arrived.
        """
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="group member", daemon=True)
        self.snapshot = Snapshot(0, frozenset(), None)
        self.changed_at = time.monotonic()
        "Time at which the assignment last changed, in monotonic seconds."
        self.joined = False
        "True if an assignment, even an empty one, has arrived since the membership was last lost."

    @property
    def is_member(self) -> bool:
        """Return whether the worker is a member of the group, with or without shards.

        A worker that has lost its last shard may have been expelled from the group. It counts as a member again only
        after the next assignment, even an empty one.
        """
        is_waiting = self._reports_empty and self._waits_since is not None
        return self.joined and (bool(self._partitions) or not is_waiting)

    def start(self) -> None:
        """Join the group."""
        self._thread.start()

    def stop(self) -> None:
        """Leave the group, and wait for at most 5 s until this is done."""
        self._stopping.set()
        self._thread.join(5.0)

    def open(self, shard: int, offset: int) -> None:
        """Start to pass the records of a shard's control partition to `Owner.commanded`, from `offset` on."""

        def seek(consumer: Consumer) -> None:
            if shard not in self._partitions:
                return
            partition = TopicPartition(self._topic, shard, offset)
            try:
                consumer.seek(partition)
            except KafkaException:  # librdkafka does not fetch the partition yet: try again after the next poll
                self._requests.put(seek)
                return
            consumer.resume([partition])
            self._opened.add(shard)

        self._requests.put(seek)

    def shut(self, shard: int) -> None:
        """Stop passing the records of a shard's control partition to `Owner.commanded`."""
        self._requests.put(lambda _consumer: self._opened.discard(shard))

    def holds(self, shard: int) -> bool:
        """Return whether the worker still owns a shard, after a poll that starts after this call.

        Blocks for at most 0.5 s, so it must not be called in the event loop.
        """
        deadline = time.monotonic() + _CONFIRM_S
        # The poll that is running may have started before the shard was lost, so it proves nothing: wait for another.
        polls = self.snapshot.polls
        while self.snapshot.polls <= polls + 1 and time.monotonic() < deadline:
            time.sleep(_PAUSE_S)
        return shard in self.snapshot.partitions

    def _run(self) -> None:
        """Keep the worker in the group until `stop` is called. This function runs in the membership's thread.

        After any exception, the consumer is replaced and the thread continues. Otherwise the thread would end, and the
        process would keep its shards without serving them.
        """
        while not self._stopping.is_set():
            consumer: Consumer | None = None
            try:
                consumer = Consumer(self._settings)
                consumer.subscribe([self._topic], on_assign=self._assign, on_revoke=self._revoke, on_lost=self._lose)
                self._poll(consumer)
            except Exception as error:  # noqa: BLE001 - the top of the thread
                _report(error)
            self._leave(consumer)
            self._stopping.wait(_AGAIN_S)

    def _leave(self, consumer: Consumer | None) -> None:
        """Stop all shards with `Owner.lost`, and then close the consumer."""
        for step in (self._report_all_lost, consumer.close if consumer is not None else None, self._report_all_lost):
            try:
                if step is not None:
                    step()
            except Exception as error:  # noqa: BLE001 - the top of the thread
                _report(error)

    def _poll(self, consumer: Consumer) -> None:
        """Poll until `stop` is called. Raises KafkaException if a new consumer is needed."""
        last_error = ""
        while not self._stopping.is_set():
            message = consumer.poll(_POLL_S)
            error = message.error() if message is not None else None
            if error is not None:
                # When the group has expelled the member, librdkafka sets only the code, not `fatal`.
                if error.fatal() or error.code() == KafkaError._FATAL:  # noqa: SLF001
                    raise KafkaException(error)
                if error.str() != last_error:
                    last_error = error.str()
                    reason = rights.explained(error, self._group)
                    _logger.warning("group_error", error=reason, effect="the consumer goes on")
            elif message is not None and message.partition() in self._opened:
                command = ControlRecord(message.offset(), message.key(), message.value())  # type: ignore[arg-type]
                self._owner.commanded(message.partition(), command)  # type: ignore[arg-type]
            for _ in range(self._requests.qsize()):
                self._requests.get()(consumer)
            self._publish(consumer)
            # Observed once, cause unknown: no assignment came for two minutes after a broker was frozen for 14 s.
            since = self._waits_since
            waited = since is not None and time.monotonic() - since > self._rejoin_s
            # With the newer group protocol, a member without a callback may simply have an empty assignment.
            self.joined = self.joined or (waited and not self._reports_empty)
            if waited and self._reports_empty:
                problem = f"the consumer group has sent no new assignment for {self._rejoin_s:g} s"
                raise KafkaException(KafkaError(KafkaError._TIMED_OUT, problem))  # noqa: SLF001

    def _publish(self, consumer: Consumer | None) -> None:
        metadata = consumer.consumer_group_metadata() if consumer is not None else None
        self.snapshot = Snapshot(self.snapshot.polls + 1, self._partitions, metadata)

    def _assign(self, _consumer: Consumer, partitions: list[TopicPartition]) -> None:
        shards = frozenset(p.partition for p in partitions)
        self._partitions |= shards
        self._opened -= shards
        self.joined = True
        self._waits_since = None
        self.changed_at = time.monotonic()
        if shards:
            self._requests.put(lambda c: self._pause(c, shards))
            self._owner.assigned(shards)

    def _pause(self, consumer: Consumer, shards: frozenset[int]) -> None:
        """Stop fetching commands for newly assigned shards until the shards are restored.

        Commands that were fetched before are dropped. `open` makes the consumer fetch them again.
        """
        waiting = [TopicPartition(self._topic, shard) for shard in shards & self._partitions - self._opened]
        if waiting:
            consumer.pause(waiting)

    def _revoke(self, _consumer: Consumer, partitions: list[TopicPartition]) -> None:
        shards = frozenset(p.partition for p in partitions)
        self.changed_at = time.monotonic()
        self._opened -= shards
        if shards:
            # The shards stay ours while this callback runs, so a commit in flight may end. No new commit may start.
            self._owner.revoked(shards).wait(_HAND_OVER_S)
        self._partitions -= shards
        self._waits_since = time.monotonic()
        self._publish(None)

    def _lose(self, _consumer: Consumer, partitions: list[TopicPartition]) -> None:
        shards = frozenset(p.partition for p in partitions)
        self.joined = False
        self.changed_at = self._waits_since = time.monotonic()
        self._partitions -= shards
        self._opened -= shards
        self._publish(None)
        self._owner.lost(shards)

    def _report_all_lost(self) -> None:
        """Stop all shards that the worker still owns, with `Owner.lost`."""
        self.joined = False
        self._waits_since = time.monotonic()
        left, self._partitions = self._partitions, frozenset()
        self._opened.clear()
        self._publish(None)
        if left:
            self._owner.lost(left)


def _report(error: Exception) -> None:
    """Log the error after which the consumer is replaced, with a traceback if the error is a bug."""
    if isinstance(error, KafkaException):
        _logger.warning("group_error", error=error.args[0].str(), effect=_REJOINS)
    elif isinstance(error, SystemError | AttributeError):
        # confluent-kafka raises these during callbacks, see fatal_errors. The consumer is replaced anyway.
        _logger.warning("group_error", error=str(error.__cause__ or error), effect=_REJOINS)
    else:
        _logger.warning("group_error", error=repr(error), effect=_REJOINS, exc_info=error)
