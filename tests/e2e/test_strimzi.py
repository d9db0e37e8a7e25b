"""The resources for Strimzi on a real broker: they suffice for a worker, an operator and a reader."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from confluent_kafka.admin import AclBinding, AclPermissionType, ResourcePatternType, ResourceType
from confluent_kafka.cimpl import NewTopic

from tests import commands, oracle
from tests.e2e.test_secured_broker import FEW, NewWorker, Simulate, read_by, settings
from tests.secured import OPERATIONS, SecuredBroker
from tests.strimzi import FOLDER

TYPES = {
    "topic": ResourceType.TOPIC,
    "group": ResourceType.GROUP,
    "transactionalId": ResourceType.TRANSACTIONAL_ID,
}
PATTERNS = {"literal": ResourcePatternType.LITERAL, "prefix": ResourcePatternType.PREFIXED}
TOPIC, APP = "direct-routing-calls", "direct-routing"


@pytest.fixture(scope="module")
def secured() -> Iterator[SecuredBroker]:
    with SecuredBroker() as broker:
        yield broker


def apply(broker: SecuredBroker) -> None:
    """Create what Strimzi's operators create from the resources."""
    broker.create([topic(resource) for resource in resources("topics.yaml")])
    for user in resources("users.yaml"):
        assert user["spec"]["authentication"] == {"type": "scram-sha-512"}
        broker.add_user(user["metadata"]["name"])
        broker.grant(*rights(user))


def resources(file: str) -> list[dict[str, Any]]:
    """Return the resources of a file."""
    return list(yaml.safe_load_all((FOLDER / file).read_text(encoding="utf-8")))


def topic(resource: dict[str, Any]) -> NewTopic:
    """Return the topic of a KafkaTopic."""
    config = {name: str(value) for name, value in resource["spec"]["config"].items()}
    return NewTopic(resource["metadata"]["name"], resource["spec"]["partitions"], config=config)


def rights(resource: dict[str, Any]) -> list[AclBinding]:
    """Return the rights of a KafkaUser."""
    return [
        AclBinding(
            TYPES[rule["resource"]["type"]],
            rule["resource"]["name"],
            PATTERNS[rule["resource"].get("patternType", "literal")],
            f"User:{resource['metadata']['name']}",
            "*",
            OPERATIONS[operation],
            AclPermissionType.ALLOW,
        )
        for rule in resource["spec"]["authorization"]["acls"]
        for operation in rule["operations"]
    ]


def test_strimzi_topics_and_users_suffice_for_each_role(
    secured: SecuredBroker, simulate: Simulate, new_worker: NewWorker, tmp_path: Path
) -> None:
    """The files are applied as they are, with the default names, and the connector creates no topic."""
    apply(secured)
    source = simulate(**FEW)

    def signed_in(user: str) -> dict[str, Any]:
        configured = settings(secured, TOPIC, APP, source, "SCRAM-SHA-512", user)
        for key in ("topic", "app", "shards", "partitions"):
            del configured["kafka"][key]
        return configured | {"kafka": configured["kafka"] | {"create_topics": False}}

    worker = new_worker(signed_in("direct-routing-connector"))
    worker.start()
    worker.until_complete(datetime.now(UTC))
    operator = tmp_path / "operator.toml"
    operator.write_text(
        new_worker(signed_in("direct-routing-operator")).config.read_text(encoding="utf-8"), encoding="utf-8"
    )
    asked = ("--tenant", source.tenants[0], "--from", "-12h", "--to", "-1h")
    commands.succeed(operator, "backfill", *asked, "--wait")
    assert [job["state"] for job in commands.jobs(operator).values()] == ["done"]
    assert worker.stop() == 0
    for event in ("topic_settings_unreadable", "topic_settings_refused", "transaction_unverified"):
        assert not worker.named(event), event
    rows = len(oracle.check(secured.plain, TOPIC, APP, source.truth()).rows)
    assert read_by(secured, TOPIC, "my-reader", rows, "direct-routing-reader") == rows > 250
