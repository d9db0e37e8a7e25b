"""Maximum length of records and batches. It follows from the topics' `max.message.bytes` and the producer's own limits.

A broker applies the limit of a topic to a whole batch. The producer's batch size is therefore the smallest limit of all
topics that it writes to.
"""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from confluent_kafka import KafkaError, KafkaException

from connector.errors import ShardRestartError

if TYPE_CHECKING:
    from connector.kafka.publishing import Outgoing

LIMIT = "max.message.bytes"
BROKER_DEFAULT = 1_048_588
PRODUCER_DEFAULT = 1_000_000
"Default limit of librdkafka for a record and for a batch, in bytes."
MOST_OVERHEAD = 100
"Maximum overhead of a batch with one record, in bytes: 61 for the batch and up to 36 for the record."
LEAST = 500
"Lowest usable limit of an internal topic, in bytes: tombstones, shard records and one row of the dedup index fit."
_HEADER_OVERHEAD = 10


class TooLong(NamedTuple):
    """Record that is too long for its topic. `needed` is the smallest `max.message.bytes` that would accept it."""

    topic: str
    needed: int


class RecordTooLongError(ShardRestartError):
    """A batch contains a record that is too long for its topic. Nothing of the batch was written."""

    def __init__(self, record: TooLong, limit: int) -> None:
        self.record = record
        super().__init__(
            f"topic {record.topic} accepts at most {limit} bytes ({LIMIT}), but a record needs {record.needed} bytes: "
            "nothing is published until the limit is raised"
        )


class LengthRefusedError(ShardRestartError):
    """Brokers refused a record or batch as too long, although its length was within the limits that they report."""

    def __init__(self, message: str, topics: list[str]) -> None:
        super().__init__(message)
        self.topics = topics


class Limits:
    """Length limits of topics for records and batches, in bytes, as far as they are known.

    Threads may share a Limits object, because each update replaces a whole mapping.
    """

    def __init__(self, owner: Mapping[str, Any] | None = None) -> None:
        """Store the producer's own limits. They are taken from `owner`, which is kafka.properties."""
        owner = owner or {}
        self._max_record = int(owner.get("message.max.bytes") or 0)
        self._max_batch = int(owner.get("batch.size") or PRODUCER_DEFAULT)
        self._known: dict[str, int] = {}
        self._guessed: dict[str, int] = {}
        "Limits that are assumed because a topic refused a record. They are lower than the known limits."

    def learn(self, settings: Mapping[str, Mapping[str, str | None]]) -> None:
        """Store the length limits of topics. `settings` holds the settings of each topic, by its name."""
        reported = {name: int(limit) for name, of in settings.items() if (limit := of.get(LIMIT))}
        changed = {name for name, limit in reported.items() if self._known.get(name) != limit}
        self._guessed = {name: guess for name, guess in self._guessed.items() if name not in changed}
        self._known = self._known | reported

    def is_known(self, topic: str) -> bool:
        """Return whether a broker has reported the limit of a topic."""
        return topic in self._known

    def of(self, topic: str) -> int:
        """Return the maximum size of a batch for a topic, in bytes. If it is not known, return a producer's default."""
        most = self._max_record or max(PRODUCER_DEFAULT, *self._known.values(), 0)
        known = self._known.get(topic, PRODUCER_DEFAULT)
        return min(most, known, self._guessed.get(topic, known))

    def room(self, topic: str) -> int:
        """Return the maximum size, in bytes, of a record for a topic: key, value and headers together."""
        return max(0, self.of(topic) - MOST_OVERHEAD)

    def low(self, topics: Iterable[str]) -> dict[str, int]:
        """Return the known limits that are lower than the default limit of a producer, by topic."""
        return {
            name: self._known[name] for name in topics if self._known.get(name, PRODUCER_DEFAULT) < PRODUCER_DEFAULT
        }

    def too_long(self, records: "Iterable[Outgoing]") -> TooLong | None:
        """Return the longest record that is too long for its topic; None if there is none."""
        found: TooLong | None = None
        for record in records:
            needed = size(record) + MOST_OVERHEAD
            if needed > self.of(record.topic) and (found is None or needed > found.needed):
                found = TooLong(record.topic, needed)
        return found

    def lower(self, topic: str) -> None:
        """Assume half the limit of a topic from now on, because the topic refused a record that the limit allows."""
        self._guessed = self._guessed | {topic: self.of(topic) // 2}

    def forget_guess(self, topic: str) -> None:
        """Use the limit that brokers report for a topic again, instead of a lower limit that was assumed."""
        self._guessed = {name: guess for name, guess in self._guessed.items() if name != topic}

    def producer(self) -> dict[str, int]:
        """Return producer settings that limit batches so that every topic accepts them."""
        limits = [*self._known.values(), *self._guessed.values()]
        most = self._max_record or max([PRODUCER_DEFAULT, *limits])
        return {"message.max.bytes": most, "batch.size": min([self._max_batch, *limits])}


def size(record: "Outgoing") -> int:
    """Return the number of bytes of a record's key, value and headers."""
    headers = sum(len(name.encode()) + len(value) + _HEADER_OVERHEAD for name, value in record.headers or ())
    return len(record.key or b"") + len(record.value or b"") + headers


def raise_command(topic: str, needed: int = 0) -> str:
    """Return the command that raises a topic's limit to `needed` bytes, but at least to the brokers' default."""
    command = "kafka-configs.sh --bootstrap-server BROKER --alter --entity-type topics"
    return f"{command} --entity-name {topic} --add-config {LIMIT}={max(BROKER_DEFAULT, needed)}"


def refusing_topics(error: BaseException | None) -> list[str]:
    """Return the topics that refused a record because of its length, as stated by an error or one of its causes."""
    if isinstance(error, LengthRefusedError):
        return error.topics
    checked: list[BaseException] = []
    while error is not None and error not in checked:
        if isinstance(error, KafkaException) and error.args[0].code() == KafkaError.MSG_SIZE_TOO_LARGE:
            return [str(topic) for topic in error.args[1:]]
        checked.append(error)
        error = error.__cause__
    return []
