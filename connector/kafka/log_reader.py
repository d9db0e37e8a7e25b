"""Reader of Kafka partitions that joins no group. It reads them to their end, or follows them without end.

All readers of this kind use the loop around `consume` in this module. Its rules:

1. A partition has ended when its EOF event arrives, which comes exactly at the last stable offset. A watermark is not
   used for this, because it may be cached.
2. If a right is missing, ForbiddenError names the command that grants it. Any other error that retrying does not fix
   raises FatalError.
3. A transient error is ignored. If no record and no EOF event arrives for `SILENCE_S` seconds, `read_to_end` raises
   BrokersUnavailableError. `follow` never gives up: it yields at least every `_PAUSE_S` seconds, and its caller decides
   how long to wait.
"""

import math
import time
from collections.abc import Callable, Generator, Iterable, Mapping
from types import TracebackType
from typing import NamedTuple, NoReturn, Self, cast

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message, TopicPartition

from connector.errors import BrokersUnavailableError, FatalError, ForbiddenError
from connector.kafka import rights
from connector.kafka.clients import Clients

SILENCE_S = 20.0
_LOOK_UP_S = 15.0
_ROUND_S = 0.05
_PAUSE_S = 0.1
_BATCH = 10_000

Place = tuple[str, int]
"Topic and partition."


class Entry(NamedTuple):
    """Record of a topic. `headers` maps each header's name to its value."""

    topic: str
    key: bytes | None
    value: bytes
    headers: Mapping[str, bytes]


class NewRecords(NamedTuple):
    """Records that `follow` yields together.

    `at_end` is True if `follow` has reached the end of every partition at least once.
    """

    records: list[Message]
    at_end: bool


class LogReader:
    """Reader of partitions, used as a context manager. Only one thread may use it at a time. Its methods block."""

    def __init__(self, clients: Clients, isolation: str = "read_committed") -> None:
        self._app = clients.app
        self._consumer = Consumer(clients.reader(isolation))
        self._unread: set[Place] = set()
        self._transient = ""
        self._is_open = True
        self.next: dict[Place, int] = {}
        "Offset of the next record per partition."
        self.undecided: dict[Place, float] = {}
        "For each partition whose last records are hidden by an open transaction: since when, in monotonic seconds."

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._is_open = False
        self._consumer.close()

    def read_to_end(
        self,
        starts: Mapping[Place, int],
        ends: Mapping[Place, int] | None = None,
        *,
        decided_within_s: float = math.inf,
        progress: Callable[[], object] = lambda: None,
        unreadable: dict[Place, str] | None = None,
    ) -> Generator[list[Message]]:
        """Read each partition from its offset in `starts` to its end, and yield the records.

        If `ends` contains an offset for a partition, the reading stops before this offset.

        An open transaction may hide the newest records of a partition. `decided_within_s` is the number of seconds to
        wait for the end of such a transaction. If it stays open for longer, the reading of its partition ends, and
        `undecided` contains the partition. By default the reading does not wait: it ends at the last stable offset.

        `progress` is called at least every 0.05 s. It can stop the reading by raising an exception.

        `unreadable` receives each partition for which a right is missing, with the remedy. Without `unreadable`,
        ForbiddenError is raised.

        If a partition does not exist, BrokersUnavailableError is raised after `SILENCE_S` seconds, because librdkafka
        does not report the reason. If a partition is deleted during the reading, an error is raised. With `unreadable`,
        such a partition counts as read.
        """
        limits = ends or {}
        self.next, self.undecided = dict(starts), {}
        self._unread = {place for place, start in starts.items() if start < limits.get(place, math.inf)}
        self._assign()
        answered_at = time.monotonic()
        try:
            while self._unread:
                progress()
                messages = self._consume(_ROUND_S)
                records = [m for m in messages if self._is_wanted(m, limits, decided_within_s, unreadable)]
                self._give_up_undecided(decided_within_s)
                # If only undecided partitions are left, no message is expected.
                if any(_is_answer(message) for message in messages) or self._unread <= self.undecided.keys():
                    answered_at = time.monotonic()
                elif time.monotonic() - answered_at > SILENCE_S:
                    raise self._silent()
                if records:
                    yield records
        finally:
            self._unassign()

    def follow(self, starts: Mapping[Place, int], pause_s: float = _PAUSE_S) -> Generator[NewRecords]:
        """Yield the records from `starts` on as they arrive, without end.

        If no record arrives for `pause_s` seconds, a NewRecords without records is yielded.
        """
        self.next, self.undecided = dict(starts), {}
        self._unread = set(starts)
        self._assign()
        try:
            while True:
                messages = self._consume(pause_s)
                records = [m for m in messages if self._is_record(m)]
                yield NewRecords(records, not self._unread)
        finally:
            self._unassign()

    def left(self) -> int:
        """Return how many offsets are left to read. Records at some of these offsets may have been compacted away."""
        positions = self._consumer.position([TopicPartition(*place) for place in self._unread])
        return sum(max(0, self._high((at.topic, at.partition)) - max(0, at.offset)) for at in positions)

    def partitions(self, topic: str) -> list[Place]:
        """Return the partitions of a topic; empty if the topic does not exist."""
        try:
            found = self._consumer.list_topics(topic, timeout=_LOOK_UP_S).topics[topic]
        except KafkaException as error:
            self._raise(error.args[0], (topic,))
        return [(topic, number) for number in found.partitions]

    def bounds(self, place: Place) -> tuple[int, int]:
        """Return the first offset of a partition and its end, which is the offset of the next record to be written."""
        try:
            found = self._consumer.get_watermark_offsets(TopicPartition(*place), timeout=_LOOK_UP_S)
        except KafkaException as error:
            self._raise(error.args[0], place[:1])
        if found is None:
            raise BrokersUnavailableError(f"no broker returned the end offset of partition {place[1]} of {place[0]}")
        return found

    def offsets_at(self, places: Iterable[Place], epoch_ms: int) -> dict[Place, int]:
        """Return, for each partition, the offset of the first record with a timestamp at or after `epoch_ms`.

        The offset is negative if there is no such record.
        """
        asked = [TopicPartition(*place, epoch_ms) for place in places]
        try:
            found = self._consumer.offsets_for_times(asked, timeout=_LOOK_UP_S)
        except KafkaException as error:
            self._raise(error.args[0], ())
        for place in found:
            if place.error is not None:
                self._raise(place.error, (place.topic,))
        return {(place.topic, place.partition): place.offset for place in found}

    def _assign(self) -> None:
        # A new assignment makes librdkafka report the end of each partition again.
        self._transient = ""
        try:
            self._consumer.assign([TopicPartition(*place, self.next[place]) for place in self._unread])
        except KafkaException as error:
            self._raise(error.args[0], ())

    def _unassign(self) -> None:
        if self._is_open:  # a generator that was left early ends when it is collected, maybe after `close`
            self._consumer.unassign()

    def _consume(self, timeout_s: float) -> list[Message]:
        try:
            return self._consumer.consume(_BATCH, timeout=timeout_s)
        except KafkaException as error:
            self._raise(error.args[0], ())

    def _is_wanted(
        self,
        message: Message,
        limits: Mapping[Place, int],
        decided_within_s: float,
        unreadable: dict[Place, str] | None,
    ) -> bool:
        """Return whether a message is a record that must be yielded. Records from the offset in `limits` on are not.

        The reading of a partition stops at the last record before this offset, and at the end of the partition. It also
        stops at an error that concerns only this partition.
        """
        at, offset = place_of(message), message.offset() or 0
        if at not in self._unread and message.topic() is not None:
            return False
        if _is_end(message):
            # An EOF event below the high watermark means that an open transaction hides the records behind it.
            if decided_within_s == math.inf or offset >= self._high(at):
                self._end(at)
            else:
                self.undecided.setdefault(at, time.monotonic())
            return False
        error = message.error()
        if error is not None and unreadable is not None and message.topic() is not None and error.code() in _OF_PLACE:
            if error.code() not in _UNKNOWN:
                unreadable[at] = rights.explained(error, self._app, at[0])
            self._end(at)
            return False
        if not self._is_record(message):
            return False
        limit = limits.get(at, math.inf)
        if offset + 1 >= limit:
            self._end(at)
        return offset < limit

    def _is_record(self, message: Message) -> bool:
        """Return whether a message is a record. For a record, the next offset of its partition advances.

        Other messages are the end of a partition, and errors. Raises ForbiddenError if a right is missing, and
        FatalError for an error that neither retrying nor a right can fix.
        """
        at, error = place_of(message), message.error()
        if error is None:
            self.undecided.pop(at, None)
            self.next[at] = (message.offset() or 0) + 1
        elif _is_end(message):
            self._end(at)
        else:
            self._raise_lasting(error, at[:1] if at[0] else ())
        return error is None

    def _end(self, at: Place) -> None:
        self._unread.discard(at)
        self.undecided.pop(at, None)

    def _give_up_undecided(self, decided_within_s: float) -> None:
        now = time.monotonic()
        self._unread -= {at for at, since in self.undecided.items() if now - since > decided_within_s}

    def _high(self, at: Place) -> int:
        """Return the high watermark of a partition, as of the last fetch. Records of open transactions lie below it."""
        _, end = self._consumer.get_watermark_offsets(TopicPartition(*at), cached=True)
        return end

    def _silent(self) -> BrokersUnavailableError:
        where = named(self._unread)
        because = f" ({self._transient})" if self._transient else ""
        return BrokersUnavailableError(f"brokers returned nothing from {where} for {SILENCE_S:g} s{because}")

    def _raise_lasting(self, error: KafkaError, topics: tuple[str, ...]) -> None:
        if error.retriable() or error.code() in _TRANSIENT:
            self._transient = error.str()
        else:
            self._raise(error, topics)

    def _raise(self, error: KafkaError, topics: tuple[str, ...]) -> NoReturn:
        reason = rights.explained(error, self._app, *topics)
        if error.code() in _FORBIDDEN:
            raise ForbiddenError(reason, rights.remedy(error, self._app, topics) or "")
        if error.retriable() or error.code() in _TRANSIENT:
            raise BrokersUnavailableError(reason)
        raise FatalError(f"records cannot be read: {reason}")


def place_of(message: Message) -> Place:
    """Return topic and partition of a message. The topic is empty if the message concerns no partition."""
    return message.topic() or "", message.partition() or 0


def entry(message: Message) -> Entry:
    """Convert a message to an Entry."""
    headers = cast("list[tuple[str, bytes]]", message.headers() or [])
    return Entry(message.topic() or "", message.key(), message.value() or b"", dict(headers))


def apply(values: dict[bytes, bytes], record: Message) -> None:
    """Update `values` with a record: store its value under its key. A tombstone removes the key."""
    key, value = record.key(), record.value()
    if not isinstance(key, bytes):
        return
    if isinstance(value, bytes):
        values[key] = value
    else:
        values.pop(key, None)


def from_beginning(places: Iterable[Place]) -> dict[Place, int]:
    """Return start offsets with which `read_to_end` reads the given partitions from their first record."""
    return dict.fromkeys(places, OFFSET_BEGINNING)


def named(places: Iterable[Place]) -> str:
    """Return the topics and partition numbers as text for a message."""
    return ", ".join(sorted(f"{topic}-{number}" for topic, number in places))


def _is_end(message: Message) -> bool:
    error = message.error()
    return error is not None and error.code() == KafkaError._PARTITION_EOF  # noqa: SLF001


def _is_answer(message: Message) -> bool:
    return message.error() is None or _is_end(message)


# Names of librdkafka's own codes begin with an underscore.
_FORBIDDEN = frozenset(
    {
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.GROUP_AUTHORIZATION_FAILED,
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
    }
)
_UNKNOWN = frozenset(
    {KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC, KafkaError._UNKNOWN_PARTITION}  # noqa: SLF001
)
_OF_PLACE = _UNKNOWN | {KafkaError.TOPIC_AUTHORIZATION_FAILED}
"Codes of errors that concern a single partition."
_TRANSIENT = frozenset(
    {
        KafkaError._TRANSPORT,  # noqa: SLF001
        KafkaError._ALL_BROKERS_DOWN,  # noqa: SLF001
        KafkaError._TIMED_OUT,  # noqa: SLF001
        KafkaError._RESOLVE,  # noqa: SLF001
        KafkaError._WAIT_COORD,  # noqa: SLF001
        KafkaError.BROKER_NOT_AVAILABLE,
        KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
        KafkaError.COORDINATOR_NOT_AVAILABLE,
        KafkaError.FENCED_LEADER_EPOCH,
        KafkaError.KAFKA_STORAGE_ERROR,
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.NETWORK_EXCEPTION,
        KafkaError.NOT_COORDINATOR,
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.OFFSET_NOT_AVAILABLE,
        KafkaError.REPLICA_NOT_AVAILABLE,
        KafkaError.REQUEST_TIMED_OUT,
        KafkaError.UNKNOWN_LEADER_EPOCH,
    }
)
"Codes of errors after which librdkafka retries by itself."
