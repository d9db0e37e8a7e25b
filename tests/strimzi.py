"""Resources for Strimzi, generated from the code that creates topics and from the rights that docs/kafka.md lists.

`python -m tests.strimzi` writes deploy/strimzi (`make strimzi`).
"""

from itertools import groupby
from typing import Any

import yaml
from confluent_kafka.admin import AclBinding, ResourcePatternType, ResourceType

from tests.default_topics import default_topics
from tests.secured import OPERATIONS, documented_rights
from tests.workers import ROOT

FOLDER = ROOT / "deploy/strimzi"
_VERSION = "kafka.strimzi.io/v1"
_CLUSTER = "my-cluster"
_USERS = {"connector": ("The connector", ""), "operator": ("Operators", ""), "reader": ("Readers", "my-reader")}
"The heading of docs/kafka.md below which the rights of a user are, and the group if it is not that of the connector."
_TOPICS_HEAD = """\
# The topics of the connector for Strimzi's Topic Operator, written by `make strimzi` from the code that creates them.
# Change my-cluster to the name of your Kafka resource, and set create_topics = false. The names are the defaults of
# kafka.topic and kafka.app. The three internal topics have kafka.shards partitions each, which cannot be changed later.
# Without `replicas` the default of the brokers applies. Choose the retention of the row topic in its `config`.
"""
_USERS_HEAD = """\
# The users of the connector, of its operators and of a reader for Strimzi's User Operator, with the rights of
# docs/kafka.md and no others. Written by `make strimzi`. Change my-cluster to the name of your Kafka resource, which
# needs `authorization: { type: simple }` and a listener with the authentication of the users.
"""
_TYPES: dict[object, str] = {
    ResourceType.TOPIC: "topic",
    ResourceType.GROUP: "group",
    ResourceType.TRANSACTIONAL_ID: "transactionalId",
}
_OPERATIONS: dict[object, str] = {operation: name for name, operation in OPERATIONS.items()}


def files() -> dict[str, str]:
    """Return the content of each file by name."""
    return {
        "topics.yaml": _TOPICS_HEAD + _documents(_topics()),
        "users.yaml": _USERS_HEAD + _documents(_users()),
    }


def _topics() -> list[dict[str, Any]]:
    return [
        _resource(
            "KafkaTopic",
            topic.name,
            {
                "partitions": topic.partitions,
                "config": {name: yaml.safe_load(value) for name, value in topic.settings.items()},
            },
        )
        for topic in default_topics()
    ]


def _users() -> list[dict[str, Any]]:
    return [
        _resource(
            "KafkaUser",
            f"direct-routing-{user}",
            {
                "authentication": {"type": "scram-sha-512"},
                "authorization": {"type": "simple", "acls": _rules(heading, group)},
            },
        )
        for user, (heading, group) in _USERS.items()
    ]


def _rules(heading: str, group: str) -> list[dict[str, Any]]:
    rights = documented_rights(heading, "direct-routing-calls", "direct-routing", "", group)
    by_resource = groupby(rights, lambda right: (right.restype, right.name, right.resource_pattern_type))
    return [_rule(list(granted)) for _, granted in by_resource]


def _rule(rights: list[AclBinding]) -> dict[str, Any]:
    resource = {"type": _TYPES[rights[0].restype], "name": rights[0].name}
    if rights[0].resource_pattern_type is ResourcePatternType.PREFIXED:
        resource["patternType"] = "prefix"
    return {"resource": resource, "operations": [_OPERATIONS[right.operation] for right in rights]}


def _resource(kind: str, name: str, spec: dict[str, Any]) -> dict[str, Any]:
    metadata = {"name": name, "labels": {"strimzi.io/cluster": _CLUSTER}}
    return {"apiVersion": _VERSION, "kind": kind, "metadata": metadata, "spec": spec}


def _documents(resources: list[dict[str, Any]]) -> str:
    return "".join("---\n" + yaml.safe_dump(resource, sort_keys=False) for resource in resources)


if __name__ == "__main__":
    for file, content in files().items():
        (FOLDER / file).write_text(content, encoding="utf-8")
