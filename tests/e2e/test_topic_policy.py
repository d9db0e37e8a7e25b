"""Brokers that refuse topic settings, as managed clusters do: topics are created without them."""

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from confluent_kafka.admin import AdminClient, ConfigResource, ResourceType

from tests import commands, oracle, topic_policy
from tests.brokers import Cluster
from tests.simulation import Simulation
from tests.workers import Worker, configuration

pytestmark = [pytest.mark.broker, pytest.mark.several_java]

REFUSED = "segment.ms,max.compaction.lag.ms"
INTERNAL = ("state", "seen")


@pytest.fixture(scope="module")
def source() -> Iterator[Simulation]:
    with Simulation(days=1, calls_per_day=300, frozen=True, lateness="none") as source:
        yield source


@pytest.fixture(scope="module", params=["refused by the policy", "segment.ms must be at least 14400000"])
def strict(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """Yield brokers with a policy. Its messages name the refused setting or nothing, as real policies do."""
    with topic_policy.cluster(REFUSED, request.param) as cluster:
        yield cluster


def settings_of(cluster: Cluster, topic: str) -> dict[str, str]:
    admin = AdminClient({"bootstrap.servers": cluster.bootstrap, "log_level": 0})
    resource = ConfigResource(ResourceType.TOPIC, topic)
    return {name: str(entry.value) for name, entry in admin.describe_configs([resource])[resource].result(10).items()}


def findings(done: commands.Done) -> dict[str, Any]:
    """Return the findings by check."""
    return {finding["check"]: finding for finding in json.loads(done.output)}


def test_topics_are_created_without_a_setting_that_brokers_refuse(
    strict: Cluster, source: Simulation, topic: str, app: str, new_worker: Callable[..., Worker]
) -> None:
    """One warning names the setting and the consequence.

    `connector check` gives the same warning and creates nothing.
    """
    worker = new_worker(configuration(strict.bootstrap, topic, app, source))
    predicted = findings(commands.run(worker.config, "check", "--json"))["topics"]
    assert predicted["ok"], predicted
    assert "segment.ms=3600000" in predicted["message"]
    assert "max.compaction.lag.ms=3600000" in predicted["message"]
    assert worker.run_once() == 0
    (warned,) = worker.named("topic_settings_refused")
    left_out = ["segment.ms=3600000", "max.compaction.lag.ms=3600000"]
    assert warned["level"] == "warning"
    assert warned["left_out"] == {f"{app}.{name}": left_out for name in INTERNAL}
    assert "restor" in warned["costs"]
    assert "kafka-topics.sh" not in json.dumps(warned)
    assert "kafka-configs.sh" not in json.dumps(warned)
    for name in INTERNAL:
        created = settings_of(strict, f"{app}.{name}")
        assert created["cleanup.policy"] == "compact"
        assert created["min.cleanable.dirty.ratio"] == "0.1"
        assert created["segment.ms"] != "3600000"
    oracle.check(strict.bootstrap, topic, app, source.truth())
    second_worker = new_worker(worker.settings)
    assert second_worker.run_once() == 0
    assert not second_worker.named("topic_settings_refused")


def test_run_command_exits_if_brokers_refuse_a_configured_setting(
    strict: Cluster, source: Simulation, topic: str, app: str, new_worker: Callable[..., Worker]
) -> None:
    """A configured setting is never dropped silently, and the remedy does not repeat the refused command."""
    asked = {"topic_properties": {"segment.ms": "1000", "retention.ms": "86400000"}}
    worker = new_worker(configuration(strict.bootstrap, topic, app, source, kafka=asked))
    worker.start()
    assert worker.wait() == 1
    log_text = worker.tail(3)
    assert f"topic {topic} cannot be created" in log_text
    assert "segment.ms=1000" in log_text
    assert "kafka.topic_properties" in log_text
    assert "kafka-topics.sh" not in log_text
    failed = findings(commands.run(worker.config, "check", "--json"))["topics"]
    assert not failed["ok"]
    assert "kafka.topic_properties" in failed["remedy"]


def test_run_command_exits_if_brokers_refuse_compaction(
    source: Simulation, topic: str, app: str, new_worker: Callable[..., Worker]
) -> None:
    with topic_policy.cluster("cleanup.policy", "no compaction here") as cluster:
        worker = new_worker(configuration(cluster.bootstrap, topic, app, source))
        worker.start()
        assert worker.wait() == 1
        log_text = worker.tail(3)
        assert "no compaction here" in log_text
        assert "cleanup.policy=compact" in log_text
        assert "kafka-topics.sh" not in log_text


def test_broker_default_replaces_a_refused_replication_factor(
    source: Simulation, topic: str, app: str, new_worker: Callable[..., Worker]
) -> None:
    """Managed clusters have a fixed replication factor."""
    with topic_policy.cluster("", replicas=2) as cluster:
        settings = configuration(cluster.bootstrap, topic, app, source, kafka={"replication_factor": 1})
        worker = new_worker(settings)
        worker.start()
        warned = worker.until_logged("topic_settings_refused")
        assert warned["left_out"][topic] == ["replication factor 1"]
        worker.until_complete(datetime.now(UTC))
        assert worker.stop() == 0
