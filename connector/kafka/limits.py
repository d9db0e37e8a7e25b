"""How long a record and a batch may be: by the topics' `max.message.bytes` and by what the producer takes.

A broker compares the limit with whole batches, so batches follow the smallest limit of the topics that are written to.
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
"librdkafka's own limit for a record and for a batch."
MOST_OVERHEAD = 100
"A batch begins with 61 bytes, and a record has up to 36 beside its key, value and headers."
LEAST = 500
"What every internal topic must take: tombstones, the record of a shard, one remembered row."
_HEADER_OVERHEAD = 10


class TooLong(NamedTuple):
    """A record that its topic does not take. `needed`: the least `max.message.bytes` that does."""

    topic: str
    needed: int


class RecordTooLongError(ShardRestartError):
    """Nothing was written, because a record that the batch cannot go without is longer than its topic takes."""

    def __init__(self, record: TooLong, limit: int) -> None:
        self.record = record
        super().__init__(
            f"topic {record.topic} takes {limit} bytes ({LIMIT}), a record needs {record.needed}, and nothing is "
            "published until the limit is raised"
        )


class LengthRefusedError(ShardRestartError):
    """Topics refused a record or batch for its length, though it should have fitted."""

    def __init__(self, message: str, topics: list[str]) -> None:
        super().__init__(message)
        self.topics = topics


class Limits:
    """What is known of the limits. Threads may share it: what is read is replaced as a whole."""

    def __init__(self, owner: Mapping[str, Any] | None = None) -> None:
        """`owner`: kafka.properties."""
        owner = owner or {}
        self._max_record = int(owner.get("message.max.bytes") or 0)
        self._max_batch = int(owner.get("batch.size") or PRODUCER_DEFAULT)
        self._known: dict[str, int] = {}
        self._guessed: dict[str, int] = {}
        "Lower limits than brokers tell, or do not tell, after what was refused."

    def learn(self, settings: Mapping[str, Mapping[str, str | None]]) -> None:
        """Keep the limits that topics' settings tell."""
        told = {name: int(limit) for name, of in settings.items() if (limit := of.get(LIMIT))}
        changed = {name for name, limit in told.items() if self._known.get(name) != limit}
        self._guessed = {name: guess for name, guess in self._guessed.items() if name not in changed}
        self._known = self._known | told

    def is_known(self, topic: str) -> bool:
        """Return whether a broker told the limit of a topic."""
        return topic in self._known

    def of(self, topic: str) -> int:
        """Return the longest batch of one record that a topic takes, as far as is known."""
        most = self._max_record or max(PRODUCER_DEFAULT, *self._known.values(), 0)
        known = self._known.get(topic, PRODUCER_DEFAULT)
        return min(most, known, self._guessed.get(topic, known))

    def room(self, topic: str) -> int:
        """Return the bytes that key, value and headers of a record of a topic may take together."""
        return max(0, self.of(topic) - MOST_OVERHEAD)

    def low(self, topics: Iterable[str]) -> dict[str, int]:
        """Return the known limits of topics that are below those of a producer that nothing limits."""
        return {
            name: self._known[name] for name in topics if self._known.get(name, PRODUCER_DEFAULT) < PRODUCER_DEFAULT
        }

    def too_long(self, records: "Iterable[Outgoing]") -> TooLong | None:
        """Return the longest of the records that their topics do not take; None where all fit."""
        found: TooLong | None = None
        for record in records:
            needed = size(record) + MOST_OVERHEAD
            if needed > self.of(record.topic) and (found is None or needed > found.needed):
                found = TooLong(record.topic, needed)
        return found

    def lower(self, topic: str) -> None:
        """Guess a lower limit of a topic: it refused what should have fitted."""
        self._guessed = self._guessed | {topic: self.of(topic) // 2}

    def forget_guess(self, topic: str) -> None:
        """Take for a topic's limit again what brokers tell."""
        self._guessed = {name: guess for name, guess in self._guessed.items() if name != topic}

    def producer(self) -> dict[str, int]:
        """Return the settings of a producer whose records and batches the topics take."""
        limits = [*self._known.values(), *self._guessed.values()]
        most = self._max_record or max([PRODUCER_DEFAULT, *limits])
        return {"message.max.bytes": most, "batch.size": min([self._max_batch, *limits])}


def size(record: "Outgoing") -> int:
    """Return the bytes of a record's key, value and headers."""
    headers = sum(len(name.encode()) + len(value) + _HEADER_OVERHEAD for name, value in record.headers or ())
    return len(record.key or b"") + len(record.value or b"") + headers


def raise_command(topic: str, needed: int = 0) -> str:
    """Return the command that lets a topic take records of `needed` bytes, and those of any usual row."""
    command = "kafka-configs.sh --bootstrap-server BROKER --alter --entity-type topics"
    return f"{command} --entity-name {topic} --add-config {LIMIT}={max(BROKER_DEFAULT, needed)}"


def refusing_topics(error: BaseException | None) -> list[str]:
    """Return the topics that, by an error or its causes, refused a record or batch for its length."""
    if isinstance(error, LengthRefusedError):
        return error.topics
    while error is not None:
        if isinstance(error, KafkaException) and error.args[0].code() == KafkaError.MSG_SIZE_TOO_LARGE:
            return [str(topic) for topic in error.args[1:]]
        error = error.__cause__
    return []
