"""Creation of topics on brokers that refuse some settings, as brokers of managed clusters do.

The broker's error message may not name the refused setting. Therefore the settings are tried one after the other, in
requests that the broker only validates. If the topic is still refused, it is created with its required settings only.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient, NewTopic

if TYPE_CHECKING:
    from concurrent.futures import Future

    from connector.kafka.topics import Topic

_T = TypeVar("_T")
TIMEOUT_S = 10.0
_REQUEST_S = 15.0
"Time limit of a request in seconds. It is longer than `TIMEOUT_S`, for which the broker itself waits."
_BROKERS_DEFAULT = -1
REFUSED_SETTING = frozenset({KafkaError.POLICY_VIOLATION, KafkaError.INVALID_CONFIG, KafkaError.INVALID_REQUEST})
"Error codes with which brokers refuse a setting of a topic."


class Creation(NamedTuple):
    """Outcome of creating a topic. `left_out` are settings that brokers refused, as `name=value`."""

    topic: "Topic"
    error: KafkaError | None
    left_out: tuple[str, ...] = ()


class Creator:
    """Creator of topics. Its methods block. Each request ends within seconds."""

    def __init__(self, client: AdminClient) -> None:
        self._client = client

    def create(
        self, topics: "Sequence[Topic]", replication_factor: int, *, validate_only: bool = False
    ) -> Iterator[Creation]:
        """Create topics and yield the outcome of each.

        With `validate_only`, only check whether they could be created.
        """
        if not topics:
            return
        for topic, error in self._request(topics, replication_factor, validate_only=validate_only):
            if error is None or error.code() not in REFUSED_SETTING:
                yield Creation(topic, error)
            else:
                yield self._reduce(topic, replication_factor, error, validate_only=validate_only)

    def _reduce(self, topic: "Topic", replication_factor: int, refusal: KafkaError, *, validate_only: bool) -> Creation:
        """Create a topic that brokers have refused, without the settings that they do not accept.

        Settings that the operator has chosen are never left out. If brokers refuse one of them, the topic is not
        created, and the result contains the error `refusal`.
        """
        wanted, factor, left_out = self._accepted(topic, replication_factor)
        if topic.chosen and wanted.settings != topic.settings:
            return Creation(topic, refusal, left_out)
        attempts = [(wanted, factor), (_required(topic), _BROKERS_DEFAULT)]
        for attempt, attempted_factor in attempts:
            error = self._try(attempt, attempted_factor, validate_only=validate_only)
            if error is None or error.code() not in REFUSED_SETTING:
                return Creation(topic, error, _difference(topic, replication_factor, attempt, attempted_factor))
        return Creation(topic, refusal)

    def _accepted(self, topic: "Topic", replication_factor: int) -> "tuple[Topic, int, tuple[str, ...]]":
        """Find out which settings of a topic the brokers accept. The settings are tried one after the other.

        Return the topic with the accepted settings, the replication factor, and the settings that are left out.
        """
        kept, factor = _required(topic), replication_factor
        if self._refuses(kept, factor) and not self._refuses(kept, _BROKERS_DEFAULT):
            factor = _BROKERS_DEFAULT
        for name, value in topic.settings.items():
            if name in kept.settings:
                continue
            more = kept._replace(settings={**kept.settings, name: value})
            if not self._refuses(more, factor):
                kept = more
        return kept, factor, _difference(topic, replication_factor, kept, factor)

    def _refuses(self, topic: "Topic", replication_factor: int) -> bool:
        error = self._try(topic, replication_factor, validate_only=True)
        return error is not None and error.code() in REFUSED_SETTING

    def _try(self, topic: "Topic", replication_factor: int, *, validate_only: bool) -> KafkaError | None:
        ((_, error),) = self._request([topic], replication_factor, validate_only=validate_only)
        return error

    def _request(
        self, topics: "Sequence[Topic]", replication_factor: int, *, validate_only: bool
    ) -> "Iterator[tuple[Topic, KafkaError | None]]":
        new = [
            NewTopic(
                t.name, num_partitions=t.partitions, replication_factor=replication_factor, config=dict(t.settings)
            )
            for t in topics
        ]
        futures = self._client.create_topics(
            new, operation_timeout=TIMEOUT_S, request_timeout=_REQUEST_S, validate_only=validate_only
        )
        for topic in topics:
            try:
                answer(futures[topic.name])
                yield topic, None
            except KafkaException as error:
                yield topic, error.args[0]


def answer(future: "Future[_T]") -> _T:
    """Wait for the outcome of a request and return it. Raises KafkaException if it fails or takes too long."""
    try:
        return future.result(timeout=2 * TIMEOUT_S)
    except TimeoutError:
        raise KafkaException(KafkaError(KafkaError._TIMED_OUT, "the brokers did not answer in time")) from None  # noqa: SLF001


def _required(topic: "Topic") -> "Topic":
    """Return the topic without its optional settings."""
    required = {"cleanup.policy"} if topic.compacted else set()
    return topic._replace(settings={name: value for name, value in topic.settings.items() if name in required})


def _difference(topic: "Topic", factor: int, kept: "Topic", kept_factor: int) -> tuple[str, ...]:
    settings = tuple(f"{name}={value}" for name, value in topic.settings.items() if name not in kept.settings)
    return (*settings, *([f"replication factor {factor}"] if factor != kept_factor else []))
