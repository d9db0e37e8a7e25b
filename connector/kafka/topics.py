"""Topics of the connector: creates them with the settings that the guarantee needs, or checks those that exist.

A topic is refused only if it would break the guarantee. If a broker does not report a topic's settings, the connector
logs a warning.
"""

import re
import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from types import MappingProxyType
from typing import NamedTuple

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient, ConfigResource, ResourceType

from connector import log
from connector.core import timestamps
from connector.errors import BrokersUnavailableError, FatalError, ForbiddenError
from connector.kafka import addresses, creation, rights
from connector.kafka.addresses import Address
from connector.kafka.clients import Clients
from connector.kafka.creation import REFUSED_SETTING, Creation, Creator, answer
from connector.kafka.limits import raise_command

_logger = log.get(__name__)
_TIMEOUT_S = creation.TIMEOUT_S
_VISIBLE_S = 5.0
_PAUSE_S = 0.1
_DAY_MS = 86_400_000

_COMPACTED = {
    "cleanup.policy": "compact",
    "segment.ms": "3600000",
    "segment.bytes": str(64 * 1024 * 1024),
    "min.cleanable.dirty.ratio": "0.1",
    "max.compaction.lag.ms": "3600000",
    "delete.retention.ms": "3600000",
}


class Topic(NamedTuple):
    """A topic as it would be created. If it exists, its number of partitions is checked only where `fixed`."""

    name: str
    partitions: int
    settings: Mapping[str, str]
    fixed: bool = False
    compacted: bool | None = None
    key: str = "id"
    "Field of the rows that is their key."
    chosen: bool = False
    "True if the operator chose the settings (`kafka.topic_properties`): none of them may be left out."
    row_topic: str = ""
    "The row topic that it belongs to, or is; empty for an internal topic."


class Names(NamedTuple):
    """Names of the internal topics and of the transactional ids."""

    app: str

    @property
    def control(self) -> str:
        """Return the topic of commands. Its consumer group decides who owns which shard."""
        return f"{self.app}.control"

    @property
    def state(self) -> str:
        """Return the topic of checkpoints, with coverage and jobs."""
        return f"{self.app}.state"

    @property
    def seen(self) -> str:
        """Return the topic of the dedup index."""
        return f"{self.app}.seen"

    def transactional_id(self, shard: int) -> str:
        """Return the transactional id of the only producer of a shard."""
        return f"{self.app}-{shard}"


def dead_letters(topic: str) -> str:
    """Return the topic of the invalid rows of a row topic."""
    return f"{topic}.dlq"


def progress(topic: str) -> str:
    """Return the topic of the progress records of a row topic."""
    return f"{topic}.progress"


def of_rows(topic: str) -> tuple[str, str, str]:
    """Return a row topic with its topics of dead letters and progress."""
    return topic, dead_letters(topic), progress(topic)


def wanted(
    app: str,
    row_topics: Sequence[str],
    shards: int,
    partitions: int,
    topic_settings: Mapping[str, str],
    key: str = "id",
) -> list[Topic]:
    """Return every topic that the connector uses. `key`: field of the rows that is their key."""
    names = Names(app)
    topics = []
    for topic in dict.fromkeys(row_topics):
        topics += [
            Topic(topic, partitions, topic_settings, key=key, chosen=True, row_topic=topic),
            Topic(dead_letters(topic), partitions, _kept_for_days(30), row_topic=topic),
            Topic(progress(topic), 1, _kept_for_days(7), row_topic=topic),
        ]
    return [
        *topics,
        Topic(names.control, shards, _kept_for_days(30), fixed=True, compacted=False),
        Topic(names.state, shards, _COMPACTED, fixed=True, compacted=True),
        Topic(names.seen, shards, _COMPACTED, fixed=True, compacted=True),
    ]


def _kept_for_days(days: int) -> dict[str, str]:
    return {"cleanup.policy": "delete", "retention.ms": str(days * _DAY_MS)}


class Problem(NamedTuple):
    """A problem and its remedy."""

    wrong: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.wrong}: {self.remedy}"


class Found(NamedTuple):
    """The cluster, and the partitions of each topic that exists."""

    cluster: str
    partitions: Mapping[str, int]
    brokers: Mapping[int, Address] = {}
    unusable: Mapping[str, str] = MappingProxyType({})
    "Row topics that cannot be used although others can, each with problem and remedy."


class Foreseen(NamedTuple):
    """Expected outcome of the creation of topics: problems, and a text about the settings that would be left out."""

    problems: list[Problem]
    left_out: str


class Admin:
    """Administration of topics. Calls block; each ends within seconds.

    `look` and `ensure` raise BrokersUnavailableError.
    """

    def __init__(self, clients: Clients) -> None:
        self._complaints: list[KafkaError] = []
        self._brokers: Mapping[int, Address] = {}
        self._limits = clients.limits
        self._client = AdminClient(clients.admin() | {"error_cb": self._complaints.append})

    def look(self, timeout_s: float = _TIMEOUT_S) -> Found:
        """Return the cluster's id, its topics and its brokers."""
        try:
            self._complaints.clear()
            metadata = self._client.list_topics(timeout=timeout_s)
        except KafkaException as error:
            raise self._away(error.args[0]) from error
        partitions = {name: len(topic.partitions) for name, topic in metadata.topics.items() if topic.error is None}
        self._brokers = {number: Address(str(b.host), int(b.port or 0)) for number, b in metadata.brokers.items()}
        return Found(str(metadata.cluster_id), partitions, self._brokers)

    def _away(self, error: KafkaError) -> BrokersUnavailableError:
        """Return why no broker answered. The errors of the connections say more about it than the time-out."""
        self._client.poll(0)
        for complaint in reversed(self._complaints):
            if _TOKENLESS in complaint.str():
                return BrokersUnavailableError(
                    complaint.str().replace(_TOKENLESS, "there is no token for the brokers"), _CHECK_OIDC
                )
            remedy = _REMEDIES.get(complaint.code())
            if remedy is None and "SSL" in complaint.str():
                remedy = _CHECK_TLS
            if remedy is not None:
                return BrokersUnavailableError(complaint.str(), remedy)
        transport = [c for c in self._complaints if c.code() == KafkaError._TRANSPORT]  # noqa: SLF001
        if self._complaints and not transport:
            # A broker that requires TLS or authentication closes connections without it, and sends no error.
            return BrokersUnavailableError("the brokers close every connection at once", _CHECK_PROTOCOL)
        return BrokersUnavailableError(transport[-1].str() if transport else error.str())

    def unanswered(self, error: KafkaError) -> BrokersUnavailableError:
        """Return why a request failed although a broker described the cluster before.

        The usual reason is an advertised address that cannot be reached.
        """
        if error.code() in _UNANSWERED:
            failures = addresses.unreachable(self._brokers)
            if failures:
                return BrokersUnavailableError("; ".join(failures), addresses.REMEDY)
            return self._away(error)
        return BrokersUnavailableError(error.str())

    def create(self, topics: Sequence[Topic], replication_factor: int) -> list[tuple[Topic, Problem]]:
        """Create topics. Return those that cannot be created. A topic that exists by then is not a problem."""
        problems: list[tuple[Topic, Problem]] = []
        left_out = {}
        for created in Creator(self._client).create(topics, replication_factor):
            topic, error = created.topic, created.error
            if error is None:
                _logger.info("topic_created", topic=topic.name)
                left_out[topic.name] = list(created.left_out)
            elif error.code() in _PERMANENT:
                problems.append((topic, _uncreated(created)))
            elif error.code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise KafkaException(error)
        left_out = {name: settings for name, settings in left_out.items() if settings}
        if left_out:
            costs = _costs(left_out.values())
            _logger.warning("topic_settings_left_out", left_out=left_out, costs=costs, remedy=_LEFT_OUT)
        return problems

    def foresee(self, topics: Sequence[Topic], replication_factor: int) -> "Foreseen":
        """Return the expected outcome of the creation of topics that do not exist.

        Creates nothing. Raises KafkaException.
        """
        problems, left_out = [], {}
        for created in Creator(self._client).create(topics, replication_factor, validate_only=True):
            topic, error = created.topic, created.error
            if error is None:
                left_out[topic.name] = list(created.left_out)
            elif error.code() in _PERMANENT:
                problems.append(_uncreated(created))
            elif error.code() == KafkaError.TOPIC_ALREADY_EXISTS:
                wrong = f"topic {topic.name} exists, and may not be looked at"
                problems.append(Problem(wrong, f"allow the connector's user Describe and Write on topic {topic.name}"))
            else:
                raise KafkaException(error)
        refused = {name: settings for name, settings in left_out.items() if settings}
        words = "; ".join(f"{name} without {', '.join(settings)}" for name, settings in refused.items())
        return Foreseen(problems, f"{words} ({_costs(refused.values())})" if refused else "")

    def settings(self, names: Sequence[str], optional: Sequence[str] = ()) -> dict[str, dict[str, str]]:
        """Return the settings of topics, except those that the broker does not report.

        Logs no warning about `optional` ones.
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
                    _logger.warning("topic_settings_unknown", topic=resource.name, error=error.args[0].str())
                continue
            result[resource.name] = {name: entry.value for name, entry in entries.items()}
        self._limits.learn(result)
        return result

    def read_limits(self, names: Sequence[str]) -> None:
        """Read the maximum record length of topics again. Raises BrokersUnavailableError."""
        try:
            self.settings((), names)
        except KafkaException as error:
            raise BrokersUnavailableError(error.args[0].str()) from error

    def warn_of_limits(self, names: Sequence[str]) -> None:
        """Log the topics whose limit is below the default limit of a producer."""
        for topic, limit in self._limits.low(names).items():
            _logger.warning("topic_limit_low", topic=topic, limit=limit, remedy=raise_command(topic))

    def warn_of_event_time(self, reaches: Mapping[str, timedelta], horizon: timedelta) -> None:
        """Log the settings of row topics that harm records which are stamped with the start of the call.

        `reaches`: per topic, the maximum age of a call when it is read. Raises BrokersUnavailableError.
        """
        try:
            settings = self.settings(list(reaches))
        except KafkaException as error:
            raise self.unanswered(error.args[0]) from error
        for topic, reach in reaches.items():
            for danger in timestamps.dangers(settings.get(topic, {}), reach, horizon):
                setting = f"{danger.setting}={danger.value}"
                command = _alter_command(topic, f"{danger.setting}={danger.needed}")
                remedy = f'{command}, or rows.timestamp = "ingest"'
                _logger.warning("event_time_danger", topic=topic, setting=setting, reason=danger.reason, remedy=remedy)

    def ensure(
        self, topics: Sequence[Topic], *, create: bool, replication_factor: int, shared_topic: str = ""
    ) -> Found:
        """Create missing topics and check those that exist.

        Raises FatalError for a problem that retrying cannot fix and that concerns every tenant: one of an internal
        topic, of `shared_topic`, or of all row topics. Any other row topic with a problem becomes unusable. Raises
        BrokersUnavailableError for a problem that retrying can fix.
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
        problems = _wrong_keys([(topic, topic.settings.get("cleanup.policy")) for topic in missing])
        missing = _without(missing, problems)
        if missing and create:
            problems += self.create(missing, replication_factor)
            found, missing = self._look_for(_without(missing, problems))
            if missing:
                self._ask_for(missing)
                raise KafkaException(KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART, "topics are not visible yet"))
        if missing:
            # Some brokers, like librdkafka's mock cluster, create a topic as soon as its metadata is requested.
            self._ask_for(missing)
            found = self.look()
            problems += [(topic, absent(topic)) for topic in missing if topic.name not in found.partitions]
        problems += self._unfit([topic for topic in topics if topic.name in found.partitions], found)
        self.warn_of_limits([topic.name for topic in topics])
        return found, problems

    def _look_for(self, topics: Sequence[Topic]) -> tuple[Found, list[Topic]]:
        """Look until the topics are visible, for a few seconds. Return those that are not."""
        deadline = time.monotonic() + _VISIBLE_S
        while True:
            found = self.look()
            missing = [topic for topic in topics if topic.name not in found.partitions]
            if not missing or time.monotonic() > deadline:
                return found, missing
            time.sleep(_PAUSE_S)

    def _ask_for(self, topics: Sequence[Topic]) -> None:
        """Request the metadata of topics by name.

        Raises ForbiddenError when the broker does not report whether a topic exists.
        """
        for topic in topics:
            error = self._client.list_topics(topic.name, timeout=_TIMEOUT_S).topics[topic.name].error
            if error is not None and error.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED:
                command = rights.grant(("Describe",), f"--topic {topic.name}")
                raise ForbiddenError(
                    f"the brokers do not tell whether topic {topic.name} exists", f"allow it: {command}"
                )

    def problems(self, topics: Sequence[Topic], found: Found) -> list[Problem]:
        """Return the problems of existing topics that would break the guarantee. Raises KafkaException."""
        return [problem for _, problem in self._unfit(topics, found)]

    def _unfit(self, topics: Sequence[Topic], found: Found) -> list[tuple[Topic, Problem]]:
        problems = wrong_counts(topics, found)
        fixed = [topic for topic in topics if topic.fixed]
        keyed = [topic for topic in topics if topic.key != "id"]
        settings = self.settings([topic.name for topic in (*fixed, *keyed)], [topic.name for topic in topics])
        problems += _wrong_keys([(topic, settings.get(topic.name, {}).get("cleanup.policy")) for topic in keyed])
        for topic in fixed:
            policy = settings.get(topic.name, {}).get("cleanup.policy")
            if (policy is not None and ("compact" in policy) is not topic.compacted) or policy == "compact,delete":
                right = topic.settings["cleanup.policy"]
                wrong = f"topic {topic.name} has cleanup.policy={policy}, it must be {right}"
                remedy = f"repair it with: {_alter_command(topic.name, f'cleanup.policy={right}')}"
                problems.append((topic, Problem(wrong, remedy)))
        return problems


def wrong_counts(topics: Sequence[Topic], found: Found) -> list[tuple[Topic, Problem]]:
    """Return the topics whose number of partitions differs from the number of shards."""
    problems = []
    for topic in topics:
        has = found.partitions.get(topic.name, topic.partitions)
        if topic.fixed and has != topic.partitions:
            wrong = f"topic {topic.name} has {has} partitions, kafka.shards is {topic.partitions}"
            remedy = f"set kafka.shards = {has}, or, if it was never used, delete it and create it with: "
            problems.append((topic, Problem(wrong, remedy + create_command(topic))))
    return problems


def _without(topics: Sequence[Topic], problems: Sequence[tuple[Topic, Problem]]) -> list[Topic]:
    unfit = {topic.name for topic, _ in problems}
    return [topic for topic in topics if topic.name not in unfit]


def _wrong_keys(topics: Sequence[tuple[Topic, str | None]]) -> list[tuple[Topic, Problem]]:
    """Return the topics on which rows would replace other rows. `topics`: with their cleanup.policy."""
    return [
        (
            topic,
            Problem(
                f'topic {topic.name} has cleanup.policy={policy}, and rows.key is "{topic.key}": of all records with '
                f"one key a compacted topic keeps the newest alone, and many calls have the same {topic.key}",
                f'set rows.key = "id", or keep every record: {_alter_command(topic.name, "cleanup.policy=delete")}',
            ),
        )
        for topic, policy in topics
        if topic.key != "id" and "compact" in (policy or "")
    ]


def absent(topic: Topic) -> Problem:
    """Return the problem of a topic that does not exist and may not be created."""
    wrong = f"topic {topic.name} does not exist and kafka.create_topics is false"
    return Problem(wrong, f"create it with: {create_command(topic)}")


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
_CHECK_PROTOCOL = "check security.protocol in kafka.properties: they may want SSL, SASL_SSL or SASL_PLAINTEXT"
_TOKENLESS = "Failed to acquire SASL OAUTHBEARER token"
_CHECK_OIDC = (
    "check sasl.oauthbearer.token.endpoint.url, client.id, client.secret and scope in kafka.properties, "
    "and https.ca.location where the provider's certificate is from a CA of your own"
)
_CHECK_TLS = "check security.protocol, ssl.ca.location and ssl.certificate.location in kafka.properties"
_REMEDIES = {
    KafkaError._AUTHENTICATION: (  # noqa: SLF001 - librdkafka's own codes have such names
        "check security.protocol, sasl.mechanism and the credentials in kafka.properties"
    ),
    KafkaError._SSL: _CHECK_TLS,  # noqa: SLF001
    KafkaError._RESOLVE: "check the host names in kafka.bootstrap_servers",  # noqa: SLF001
}


_SLOWER = "old records of the internal topics are compacted later, so that restoring a shard takes longer"
_COSTS = {
    "segment.ms": _SLOWER,
    "segment.bytes": _SLOWER,
    "min.cleanable.dirty.ratio": _SLOWER,
    "max.compaction.lag.ms": _SLOWER,
    "delete.retention.ms": "tombstones of the internal topics stay longer than needed",
    "retention.ms": "records are kept for as long as the brokers decide",
    "cleanup.policy": "the brokers decide whether records are deleted or compacted",
    "replication factor": "the brokers decide how many replicas there are",
}
_LEFT_OUT = "none is needed; whoever owns the brokers may set them on these topics later"


def _costs(left_out: Iterable[Sequence[str]]) -> str:
    names = (re.split("[= ]\\S*$", setting)[0] for settings in left_out for setting in settings)
    return "; ".join(dict.fromkeys(_COSTS[name] for name in names))


def _uncreated(created: Creation) -> Problem:
    topic, error, left_out = created
    if error is None:
        raise ValueError(topic.name)
    wrong = f"creating topic {topic.name}: {error.str()}"
    if left_out:
        wrong = f"creating topic {topic.name} with {' and '.join(left_out)}: {error.str()}"
        return Problem(wrong, "take that out of kafka.topic_properties, or write a value that the brokers take")
    if error.code() in REFUSED_SETTING:
        required = f"cleanup.policy={topic.settings['cleanup.policy']}, {topic.partitions} partitions"
        return Problem(wrong, f"ask the owner of the brokers to allow what the topic cannot do without: {required}")
    return Problem(wrong, _UNCREATED.get(error.code(), _MAY_NOT_CREATE + create_command(topic)))


_MAY_NOT_CREATE = (
    "grant the connector the right to create it, or create it yourself and set kafka.create_topics = false: "
)
_UNCREATED = {
    KafkaError.INVALID_REPLICATION_FACTOR: "set kafka.replication_factor = -1, the brokers' default, or start brokers",
    KafkaError.INVALID_PARTITIONS: "set kafka.partitions, and kafka.shards for internal topics, to what brokers allow",
    KafkaError.TOPIC_EXCEPTION: "choose another kafka.topic or kafka.app",
}


def _alter_command(name: str, setting: str) -> str:
    command = "kafka-configs.sh --bootstrap-server BROKER --alter --entity-type topics"
    return f"{command} --entity-name {name} --add-config {setting}"


def create_command(topic: Topic) -> str:
    """Return the command that creates a topic with its settings."""
    settings = "".join(f" --config {name}={value}" for name, value in topic.settings.items())
    command = "kafka-topics.sh --bootstrap-server BROKER --create"
    return f"{command} --topic {topic.name} --partitions {topic.partitions}{settings}"
