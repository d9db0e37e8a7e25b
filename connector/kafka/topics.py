"""Names of the connector's topics, and the settings with which they are created."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

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
    """Topic, with the settings with which it is created.

    The number of partitions of an existing topic is checked only if `fixed` is True.
    """

    name: str
    partitions: int
    settings: Mapping[str, str]
    fixed: bool = False
    compacted: bool | None = None
    key: str = "id"
    "Field of a row that is the key of its record."
    chosen: bool = False
    "True if the operator has chosen the settings (`kafka.topic_properties`), so that none of them may be left out."
    row_topic: str = ""
    "Row topic to which the topic belongs. It may be the topic itself. Empty for an internal topic."


class Names(NamedTuple):
    """Names of the internal topics and of the transactional ids of an app."""

    app: str

    @property
    def control(self) -> str:
        """Return the topic of operators' commands.

        The assignment of its partitions decides which worker owns which shard.
        """
        return f"{self.app}.control"

    @property
    def state(self) -> str:
        """Return the topic of the checkpoints."""
        return f"{self.app}.state"

    @property
    def seen(self) -> str:
        """Return the topic of the deduplication index."""
        return f"{self.app}.seen"

    def transactional_id(self, shard: int) -> str:
        """Return the transactional id that every producer of a shard uses."""
        return f"{self.app}-{shard}"


def dead_letters(topic: str) -> str:
    """Return the topic for the dead letters of a row topic."""
    return f"{topic}.dlq"


def progress(topic: str) -> str:
    """Return the topic for the progress records of a row topic."""
    return f"{topic}.progress"


def of_rows(topic: str) -> tuple[str, str, str]:
    """Return the names of a row topic, of its topic of dead letters and of its topic of progress records."""
    return topic, dead_letters(topic), progress(topic)


def wanted(
    app: str,
    row_topics: Sequence[str],
    shards: int,
    partitions: int,
    topic_settings: Mapping[str, str],
    key: str = "id",
) -> list[Topic]:
    """Return all topics that the connector uses.

    `shards` is the number of partitions of each internal topic. `partitions` and `topic_settings` apply to the row
    topics. `key` is the field of a row that becomes the key of its record.
    """
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


def alter_command(name: str, setting: str) -> str:
    """Return the command that changes a setting of a topic."""
    command = "kafka-configs.sh --bootstrap-server BROKER --alter --entity-type topics"
    return f"{command} --entity-name {name} --add-config {setting}"


def create_command(topic: Topic) -> str:
    """Return the command that creates a topic with its settings."""
    settings = "".join(f" --config {name}={value}" for name, value in topic.settings.items())
    command = "kafka-topics.sh --bootstrap-server BROKER --create"
    return f"{command} --topic {topic.name} --partitions {topic.partitions}{settings}"
