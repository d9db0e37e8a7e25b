"""Problems of topics that would break the exactly-once guarantee, or prevent their creation, with remedies."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from confluent_kafka import KafkaError

from connector.kafka.creation import REFUSED_SETTING, Creation
from connector.kafka.topics import Topic, alter_command, create_command


class Problem(NamedTuple):
    """Problem that an operator must solve, with its remedy."""

    wrong: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.wrong}: {self.remedy}"


def wrong_counts(topics: Sequence[Topic], partitions: Mapping[str, int]) -> list[tuple[Topic, Problem]]:
    """Return a problem for each topic whose number of partitions must be `kafka.shards`, but is not.

    `partitions` maps each existing topic to its number of partitions.
    """
    problems = []
    for topic in topics:
        has = partitions.get(topic.name, topic.partitions)
        if topic.fixed and has != topic.partitions:
            wrong = f"topic {topic.name} has {has} partitions, but kafka.shards is {topic.partitions}"
            remedy = (
                f"set kafka.shards = {has}, or copy the state into another kafka.app with connector copy-state, or, if "
                "the topic was never used, delete it and create it with: "
            )
            problems.append((topic, Problem(wrong, remedy + create_command(topic))))
    return problems


def wrong_keys(topics: Sequence[tuple[Topic, str | None]]) -> list[tuple[Topic, Problem]]:
    """Return a problem for each compacted topic in which rows would replace each other.

    This happens if `rows.key` is not unique. `topics` are pairs of a topic and its cleanup.policy.
    """
    return [
        (
            topic,
            Problem(
                f'topic {topic.name} has cleanup.policy={policy}, and rows.key is "{topic.key}": a compacted topic '
                f"keeps only the newest record per key, and many calls have the same {topic.key}",
                f'set rows.key = "id", or keep every record: {alter_command(topic.name, "cleanup.policy=delete")}',
            ),
        )
        for topic, policy in topics
        if topic.key != "id" and "compact" in (policy or "")
    ]


def wrong_policies(topics: Sequence[Topic], settings: Mapping[str, Mapping[str, str]]) -> list[tuple[Topic, Problem]]:
    """Return the problem of each internal topic that has a wrong cleanup.policy.

    `settings` holds the settings of each topic, by its name.
    """
    problems = []
    for topic in topics:
        policy = settings.get(topic.name, {}).get("cleanup.policy")
        if (policy is not None and ("compact" in policy) is not topic.compacted) or policy == "compact,delete":
            right = topic.settings["cleanup.policy"]
            wrong = f"topic {topic.name} has cleanup.policy={policy}, but it must be {right}"
            remedy = f"repair it with: {alter_command(topic.name, f'cleanup.policy={right}')}"
            problems.append((topic, Problem(wrong, remedy)))
    return problems


def absent(topic: Topic) -> Problem:
    """Return the problem of a topic that does not exist, although the connector may not create topics."""
    wrong = f"topic {topic.name} does not exist, and kafka.create_topics is false"
    return Problem(wrong, f"create it with: {create_command(topic)}")


_SLOWER = "old records of the internal topics are compacted later, so that restoring a shard takes longer"
_COSTS = {
    "segment.ms": _SLOWER,
    "segment.bytes": _SLOWER,
    "min.cleanable.dirty.ratio": _SLOWER,
    "max.compaction.lag.ms": _SLOWER,
    "delete.retention.ms": "tombstones of the internal topics stay longer than needed",
    "retention.ms": "the brokers' default decides how long records are kept",
    "cleanup.policy": "the brokers decide whether records are deleted or compacted",
    "replication factor": "the brokers decide how many replicas there are",
}


def costs(left_out: Iterable[Sequence[str]]) -> str:
    """Describe the consequences of refused settings. `left_out` holds the refused settings of each topic."""
    names = (re.split("[= ]\\S*$", setting)[0] for settings in left_out for setting in settings)
    return "; ".join(dict.fromkeys(_COSTS[name] for name in names))


def uncreated(created: Creation) -> Problem:
    """Return the problem of a topic that brokers refused to create."""
    topic, error, left_out = created
    if error is None:
        raise ValueError(topic.name)
    wrong = f"topic {topic.name} cannot be created: {error.str()}"
    if left_out:
        wrong = f"topic {topic.name} cannot be created with {' and '.join(left_out)}: {error.str()}"
        return Problem(wrong, "remove this setting from kafka.topic_properties, or set a value that the brokers accept")
    if error.code() in REFUSED_SETTING:
        required = f"cleanup.policy={topic.settings['cleanup.policy']}, {topic.partitions} partitions"
        return Problem(wrong, f"ask the owner of the brokers to allow what the topic requires: {required}")
    return Problem(wrong, _UNCREATED.get(error.code(), _MAY_NOT_CREATE + create_command(topic)))


_MAY_NOT_CREATE = (
    "grant the connector the right to create it, or create it yourself and set kafka.create_topics = false: "
)
_UNCREATED = {
    KafkaError.INVALID_REPLICATION_FACTOR: "set kafka.replication_factor = -1 (the brokers' default), or add brokers",
    KafkaError.INVALID_PARTITIONS: "set kafka.partitions (kafka.shards for internal topics) to what the brokers allow",
    KafkaError.TOPIC_EXCEPTION: "choose another kafka.topic or kafka.app",
}
