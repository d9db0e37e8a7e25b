"""Administration of the connector's topics: it creates missing topics and checks existing ones.

A topic is refused only if it would break the exactly-once guarantee. If a broker does not report the settings of a
topic, a warning is logged.
"""

import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from functools import cached_property
from types import MappingProxyType
from typing import NamedTuple

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient, ConfigResource, ResourceType

from connector import log
from connector.errors import BrokersUnavailableError, FatalError, ForbiddenError
from connector.kafka import addresses, creation, event_time, rights, topic_problems
from connector.kafka.addresses import Address
from connector.kafka.clients import Clients
from connector.kafka.creation import Creator, answer
from connector.kafka.limits import raise_command
from connector.kafka.topic_problems import Problem
from connector.kafka.topics import Topic, alter_command

_logger = log.get(__name__)
_TIMEOUT_S = creation.TIMEOUT_S
_VISIBLE_S = 5.0
_PAUSE_S = 0.1


class Found(NamedTuple):
    """Topics and brokers of a cluster: its id, the number of partitions of each existing topic, and the brokers."""

    cluster: str
    partitions: Mapping[str, int]
    brokers: Mapping[int, Address] = {}
    unusable: Mapping[str, str] = MappingProxyType({})
    "Row topics that cannot be used, each with its problem and remedy. Other row topics can be used."


class Foreseen(NamedTuple):
    """Expected result of creating topics: problems, and the settings that brokers would refuse, as text."""

    problems: list[Problem]
    left_out: str


class TopicAdmin:
    """Administration of topics. Its methods block, each for seconds at most.

    `look` and `ensure` raise BrokersUnavailableError if no broker answers. The first request waits for a token if the
    brokers require one.
    """

    def __init__(self, clients: Clients) -> None:
        self._connection_errors: list[KafkaError] = []
        self._brokers: Mapping[int, Address] = {}
        self._limits = clients.limits
        self._settings = clients.admin() | {"error_cb": self._connection_errors.append}

    @cached_property
    def _client(self) -> AdminClient:
        return AdminClient(self._settings)

    def look(self, timeout_s: float = _TIMEOUT_S) -> Found:
        """Return the cluster's id, its topics and its brokers."""
        try:
            self._connection_errors.clear()
            metadata = self._client.list_topics(timeout=timeout_s)
        except KafkaException as error:
            raise self._unavailable(error.args[0]) from error
        partitions = {name: len(topic.partitions) for name, topic in metadata.topics.items() if topic.error is None}
        self._brokers = {number: Address(str(b.host), int(b.port or 0)) for number, b in metadata.brokers.items()}
        return Found(str(metadata.cluster_id), partitions, self._brokers)

    def _unavailable(self, error: KafkaError) -> BrokersUnavailableError:
        """Return an error that explains why no broker answered.

        It is made from the errors of single connections, because the error of the request only states a time-out.
        """
        self._client.poll(0)
        for problem in reversed(self._connection_errors):
            if _TOKENLESS in problem.str():
                return BrokersUnavailableError(
                    problem.str().replace(_TOKENLESS, "there is no token for the brokers"), _CHECK_OIDC
                )
            remedy = _REMEDIES.get(problem.code())
            if remedy is None and "SSL" in problem.str():
                remedy = _CHECK_TLS
            if remedy is not None:
                return BrokersUnavailableError(problem.str(), remedy)
        transport = [c for c in self._connection_errors if c.code() == KafkaError._TRANSPORT]  # noqa: SLF001
        if self._connection_errors and not transport:
            # A broker that requires TLS or authentication closes connections without it, and sends no error.
            return BrokersUnavailableError("the brokers close every connection at once", _CHECK_PROTOCOL)
        return BrokersUnavailableError(transport[-1].str() if transport else error.str())

    def unanswered(self, error: KafkaError) -> BrokersUnavailableError:
        """Return an error that explains why a request was not answered, although an earlier one was.

        The usual reason is an advertised address that cannot be reached.
        """
        if error.code() in _UNANSWERED:
            failures = addresses.unreachable(self._brokers)
            if failures:
                return BrokersUnavailableError("; ".join(failures), addresses.REMEDY)
            return self._unavailable(error)
        return BrokersUnavailableError(error.str())

    def create(self, topics: Sequence[Topic], replication_factor: int) -> list[tuple[Topic, Problem]]:
        """Create topics. A topic that already exists is not a problem.

        Return the topics that cannot be created, each with the problem.
        """
        problems: list[tuple[Topic, Problem]] = []
        left_out = {}
        for created in Creator(self._client).create(topics, replication_factor):
            topic, error = created.topic, created.error
            if error is None:
                _logger.info("topic_created", topic=topic.name)
                left_out[topic.name] = list(created.left_out)
            elif error.code() in _PERMANENT:
                problems.append((topic, topic_problems.uncreated(created)))
            elif error.code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise KafkaException(error)
        left_out = {name: settings for name, settings in left_out.items() if settings}
        if left_out:
            costs = topic_problems.costs(left_out.values())
            _logger.warning("topic_settings_refused", left_out=left_out, costs=costs, remedy=_LEFT_OUT)
        return problems

    def foresee(self, topics: Sequence[Topic], replication_factor: int) -> Foreseen:
        """Return what would happen if the given topics were created. Nothing is created.

        Raises KafkaException if a request fails.
        """
        problems, left_out = [], {}
        for created in Creator(self._client).create(topics, replication_factor, validate_only=True):
            topic, error = created.topic, created.error
            if error is None:
                left_out[topic.name] = list(created.left_out)
            elif error.code() in _PERMANENT:
                problems.append(topic_problems.uncreated(created))
            elif error.code() == KafkaError.TOPIC_ALREADY_EXISTS:
                wrong = f"topic {topic.name} exists, but the connector is not allowed to describe it"
                problems.append(Problem(wrong, f"allow the connector's user Describe and Write on topic {topic.name}"))
            else:
                raise KafkaException(error)
        refused = {name: settings for name, settings in left_out.items() if settings}
        words = "; ".join(f"{name} without {', '.join(settings)}" for name, settings in refused.items())
        return Foreseen(problems, f"{words} ({topic_problems.costs(refused.values())})" if refused else "")

    def settings(self, names: Sequence[str], optional: Sequence[str] = ()) -> dict[str, dict[str, str]]:
        """Return the settings of the topics in `names` and `optional`, by topic.

        A topic is left out if the broker does not report its settings. For a topic in `names`, a warning is logged in
        this case. For a topic in `optional`, nothing is logged.
        """
        if not (names or optional):
            return {}
        result: dict[str, dict[str, str]] = {}
        known = self._client.list_topics(timeout=_TIMEOUT_S)
        # librdkafka waits for the controller. Its mock cluster names one that does not exist and never answers.
        wait_s = _TIMEOUT_S if known.controller_id in known.brokers else 1.0
        resources = [ConfigResource(ResourceType.TOPIC, name) for name in dict.fromkeys((*names, *optional))]
        for resource, future in self._client.describe_configs(resources, request_timeout=wait_s).items():
            try:
                entries = answer(future)
            except KafkaException as error:
                if error.args[0].code() in _UNANSWERED and addresses.unreachable(self._brokers):
                    raise
                if resource.name in names:
                    _logger.warning("topic_settings_unreadable", topic=resource.name, error=error.args[0].str())
                continue
            result[resource.name] = {name: entry.value for name, entry in entries.items()}
        self._limits.learn(result)
        return result

    def read_limits(self, names: Sequence[str]) -> None:
        """Read the length limits of topics for records again. Raises BrokersUnavailableError if no broker answers."""
        try:
            self.settings((), names)
        except KafkaException as error:
            raise BrokersUnavailableError(error.args[0].str()) from error

    def warn_of_limits(self, names: Sequence[str]) -> None:
        """Log a warning for each topic whose length limit for records is lower than the default of a producer."""
        for topic, limit in self._limits.low(names).items():
            _logger.warning("topic_record_limit_low", topic=topic, limit=limit, remedy=raise_command(topic))

    def warn_of_event_time(self, reaches: Mapping[str, timedelta], horizon: timedelta) -> None:
        """Log a warning for each setting of a row topic that is unsafe if timestamps are the start of the call.

        `reaches` maps each topic to the greatest age of a call that sweeps read. `horizon` is the greatest age that a
        backfill reads. Raises BrokersUnavailableError if no broker answers.
        """
        try:
            settings = self.settings(list(reaches))
        except KafkaException as error:
            raise self.unanswered(error.args[0]) from error
        for topic, reach in reaches.items():
            for danger in event_time.dangers(settings.get(topic, {}), reach, horizon):
                setting = f"{danger.setting}={danger.value}"
                command = alter_command(topic, f"{danger.setting}={danger.needed}")
                remedy = f'{command}, or rows.timestamp = "ingest"'
                _logger.warning(
                    "topic_config_unsafe_for_event_time",
                    topic=topic,
                    setting=setting,
                    reason=danger.reason,
                    remedy=remedy,
                )

    def ensure(
        self, topics: Sequence[Topic], *, create: bool, replication_factor: int, shared_topic: str = ""
    ) -> Found:
        """Create missing topics if `create` is true, and check existing ones.

        Raises FatalError for a problem that retrying cannot fix, if it concerns all tenants: a problem of an internal
        topic, of `shared_topic`, or of all row topics. A problem of a single row topic makes only this topic unusable.
        Raises BrokersUnavailableError for a problem that retrying can fix.
        """
        try:
            found, problems = self._ensure(topics, create=create, replication_factor=replication_factor)
        except KafkaException as error:
            raise self.unanswered(error.args[0]) from error
        unusable = {topic.row_topic for topic, _ in problems}
        if unusable >= {topic.row_topic for topic in topics if topic.row_topic}:
            unusable = set()
        unusable -= {"", shared_topic}
        _refuse([problem for topic, problem in problems if topic.row_topic not in unusable])
        return found._replace(
            unusable={
                name: "; ".join(str(problem) for topic, problem in problems if topic.row_topic == name)
                for name in sorted(unusable)
            }
        )

    def _ensure(
        self, topics: Sequence[Topic], *, create: bool, replication_factor: int
    ) -> tuple[Found, list[tuple[Topic, Problem]]]:
        found = self.look()
        missing = [topic for topic in topics if topic.name not in found.partitions]
        problems = topic_problems.wrong_keys([(topic, topic.settings.get("cleanup.policy")) for topic in missing])
        missing = _without(missing, problems)
        if missing and create:
            problems += self.create(missing, replication_factor)
            found, missing = self._look_for(_without(missing, problems))
            if missing:
                self._ask_for(missing)
                names = ", ".join(topic.name for topic in missing)
                problem = f"topics were created, but brokers do not report them yet: {names}"
                raise KafkaException(KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART, problem))
        if missing:
            # Some brokers, like librdkafka's mock cluster, create a topic as soon as its metadata is requested.
            self._ask_for(missing)
            found = self.look()
            problems += [
                (topic, topic_problems.absent(topic)) for topic in missing if topic.name not in found.partitions
            ]
        problems += self._check([topic for topic in topics if topic.name in found.partitions], found)
        self.warn_of_limits([topic.name for topic in topics])
        return found, problems

    def _look_for(self, topics: Sequence[Topic]) -> tuple[Found, list[Topic]]:
        """Wait for at most a few seconds until the topics are visible in the brokers' metadata.

        Return the metadata, and the topics that are still not visible.
        """
        deadline = time.monotonic() + _VISIBLE_S
        while True:
            found = self.look()
            missing = [topic for topic in topics if topic.name not in found.partitions]
            if not missing or time.monotonic() > deadline:
                return found, missing
            time.sleep(_PAUSE_S)

    def _ask_for(self, topics: Sequence[Topic]) -> None:
        """Check that brokers report, for each topic, whether it exists.

        Raises ForbiddenError if they do not, because the connector's user may not describe the topic.
        """
        for topic in topics:
            error = self._client.list_topics(topic.name, timeout=_TIMEOUT_S).topics[topic.name].error
            if error is not None and error.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED:
                command = rights.grant(("Describe",), f"--topic {topic.name}")
                raise ForbiddenError(
                    f"the brokers do not allow this user to see whether topic {topic.name} exists",
                    f"allow it: {command}",
                )

    def problems(self, topics: Sequence[Topic], found: Found) -> list[Problem]:
        """Return the problems of existing topics that would break the exactly-once guarantee.

        Raises KafkaException if a request fails.
        """
        return [problem for _, problem in self._check(topics, found)]

    def _check(self, topics: Sequence[Topic], found: Found) -> list[tuple[Topic, Problem]]:
        problems = topic_problems.wrong_counts(topics, found.partitions)
        fixed = [topic for topic in topics if topic.fixed]
        keyed = [topic for topic in topics if topic.key != "id"]
        settings = self.settings([topic.name for topic in (*fixed, *keyed)], [topic.name for topic in topics])
        problems += topic_problems.wrong_keys(
            [(topic, settings.get(topic.name, {}).get("cleanup.policy")) for topic in keyed]
        )
        problems += topic_problems.wrong_policies(fixed, settings)
        return problems


def _without(topics: Sequence[Topic], problems: Sequence[tuple[Topic, Problem]]) -> list[Topic]:
    unfit = {topic.name for topic, _ in problems}
    return [topic for topic in topics if topic.name not in unfit]


def _refuse(problems: Sequence[Problem]) -> None:
    if problems:
        raise FatalError("\n".join(map(str, problems)))


_PERMANENT = frozenset(
    {
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
        KafkaError.INVALID_REPLICATION_FACTOR,
        KafkaError.INVALID_CONFIG,
        KafkaError.INVALID_PARTITIONS,
        KafkaError.INVALID_REQUEST,
        KafkaError.POLICY_VIOLATION,
        KafkaError.TOPIC_EXCEPTION,
    }
)


_UNANSWERED = frozenset(
    {
        KafkaError._TIMED_OUT,  # noqa: SLF001 - librdkafka's own codes have such names
        KafkaError._TRANSPORT,  # noqa: SLF001
        KafkaError._ALL_BROKERS_DOWN,  # noqa: SLF001
        KafkaError._RESOLVE,  # noqa: SLF001
    }
)
_CHECK_PROTOCOL = "check security.protocol in kafka.properties: they may require SSL, SASL_SSL or SASL_PLAINTEXT"
_TOKENLESS = "Failed to acquire SASL OAUTHBEARER token"
_CHECK_OIDC = (
    "check sasl.oauthbearer.token.endpoint.url, client.id, client.secret and scope in kafka.properties, "
    "and https.ca.location if the provider's certificate was issued by a CA of your own"
)
_CHECK_TLS = "check security.protocol, ssl.ca.location and ssl.certificate.location in kafka.properties"
_REMEDIES = {
    KafkaError._AUTHENTICATION: (  # noqa: SLF001 - librdkafka's own codes have such names
        "check security.protocol, sasl.mechanism and the credentials in kafka.properties"
    ),
    KafkaError._SSL: _CHECK_TLS,  # noqa: SLF001
    KafkaError._RESOLVE: "check the host names in kafka.bootstrap_servers",  # noqa: SLF001
}

_LEFT_OUT = "the connector works without these settings; the owner of the brokers can set them on the topics later"
