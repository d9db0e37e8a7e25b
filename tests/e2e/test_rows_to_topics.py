"""Rows as records: the four keys, the two timestamps, and tenants with an own topic."""

import signal
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic, ResourceType

from connector.kafka import avro
from tests import oracle
from tests.conftest import SharedBroker
from tests.simulation import Simulation
from tests.workers import Worker

Simulate = Callable[..., Simulation]
NewWorker = Callable[..., Worker]
Settings = Callable[..., dict[str, Any]]


def java_partition(key: bytes, partitions: int) -> int:
    """Return the partition that Kafka's Java producer computes for a key (murmur2)."""
    m, length = 0x5BD1E995, len(key)
    h = (0x9747B28C ^ length) & 0xFFFFFFFF
    for at in range(0, length - length % 4, 4):
        k = int.from_bytes(key[at : at + 4], "little") * m & 0xFFFFFFFF
        k = (k ^ k >> 24) * m & 0xFFFFFFFF
        h = (h * m & 0xFFFFFFFF) ^ k
    if length % 4:
        h = (h ^ int.from_bytes(key[length - length % 4 :], "little")) * m & 0xFFFFFFFF
    h = (h ^ h >> 13) * m & 0xFFFFFFFF
    return ((h ^ h >> 15) & 0x7FFFFFFF) % partitions


SMALL = {"days": 1, "calls_per_day": 600, "frozen": True, "startless": 0.05}


@pytest.mark.parametrize(
    "case",
    [
        ("id", "ingest", None),
        ("correlationId", "event", -1),
        ("userId", "ingest", None),
        ("trunkFullyQualifiedDomainName", "event", 86_400_000),
    ],
)
def test_records_have_the_configured_key_and_timestamp(
    broker: SharedBroker,
    topic: str,
    app: str,
    simulate: Simulate,
    new_worker: NewWorker,
    settings: Settings,
    case: tuple[str, str, int | None],
) -> None:
    """A row without a key value gets its id as key, and a row without a start gets the read time as timestamp.

    Java's producer computes the same partition. A warning is logged if the retention of the topic would delete records
    with event time at once.
    """
    key, timestamp, retention_ms = case
    source = simulate(**SMALL)
    kafka = {"topic_properties": {"retention.ms": str(retention_ms)}} if retention_ms is not None else {}
    worker = new_worker(settings(source, rows={"key": key, "timestamp": timestamp}, kafka=kafka))
    assert worker.run_once() == 0
    dangers = {entry["setting"] for entry in worker.named("topic_config_unsafe_for_event_time")}
    assert dangers == ({f"retention.ms={retention_ms}"} if retention_ms == 86_400_000 else set())
    found = oracle.committed(broker.bootstrap, topic, app)
    if retention_ms == 86_400_000:
        assert found.rows  # the rows of the last hours are not deleted yet
    else:
        problems = oracle.differences(found, source.truth(), key=key)
        assert not problems, "\n".join(problems)
    decode = avro.decoder(avro.ROW)
    for row in found.rows:
        assert row.entry.key is not None
        assert row.entry.partition == java_partition(row.entry.key, 3)
        observed_ms, start_ms = _ms(decode(row.entry.value)["observedDateTime"]), row.fields["startDateTime"]
        assert row.entry.timestamp_ms == (start_ms if timestamp == "event" and start_ms is not None else observed_ms)
    fallen_back = [row for row in found.rows if row.entry.key == row.id.encode()]
    assert bool(fallen_back) is (key in ("id", "userId"))


@pytest.mark.parametrize(
    ("policy", "exists"),
    [
        pytest.param("compact,delete", True, id="existing_topic"),
        pytest.param("compact", False, id="topic_to_be_created"),
    ],
)
def test_run_refuses_a_compacted_row_topic_if_rows_share_a_key(
    broker: SharedBroker,
    topic: str,
    simulate: Simulate,
    new_worker: NewWorker,
    settings: Settings,
    policy: str,
    exists: bool,  # noqa: FBT001
) -> None:
    """A compacted topic keeps only the newest record of each key, so legs of a call would replace each other."""
    source = simulate(days=0, calls_per_day=0)
    admin = AdminClient({"bootstrap.servers": broker.bootstrap})
    if exists:
        new = NewTopic(topic, num_partitions=3, config={"cleanup.policy": policy})
        admin.create_topics([new])[topic].result(30)
    kafka = {} if exists else {"topic_properties": {"cleanup.policy": policy}}
    worker = new_worker(settings(source, rows={"key": "correlationId"}, kafka=kafka))
    assert worker.run_once() == 1
    log_text = worker.log.read_text(encoding="utf-8")
    assert f'topic {topic} has cleanup.policy={policy}, and rows.key is "correlationId"' in log_text
    assert "many calls have the same correlationId" in log_text
    assert "Traceback" not in log_text
    assert (topic in admin.list_topics(timeout=30).topics) is exists


def test_run_command_accepts_a_compacted_topic_if_keys_are_ids(
    topic: str, simulate: Simulate, new_worker: NewWorker, settings: Settings, broker: SharedBroker, app: str
) -> None:
    source = simulate(days=0.1, calls_per_day=600, frozen=True)
    worker = new_worker(settings(source, kafka={"topic_properties": {"cleanup.policy": "compact"}}))
    assert worker.run_once() == 0
    assert oracle.check(broker.bootstrap, topic, app, source.truth()).rows


def test_sighup_adds_a_tenant_with_its_own_topic(
    broker: SharedBroker, topic: str, app: str, simulate: Simulate, new_worker: NewWorker, settings: Settings
) -> None:
    """Each own topic has a `.dlq` and a `.progress` topic. A tenant without an own topic writes to the common topic."""
    source = simulate(days=1, calls_per_day=600, tenants=3, frozen=True, unfit=0.05)
    first, second, third = source.tenants
    own, later = f"{topic}.own", f"{topic}.later"
    tenants = [{"id": first, "start": "-19d"}, {"id": second, "start": "-19d", "topic": own}]
    configured = settings(source, tenants=tenants)
    worker = new_worker(configured)
    worker.start()
    worker.until_complete(datetime.now(UTC), 2)
    worker.configure({**configured, "tenants": [*tenants, {"id": third, "start": "-19d", "topic": later}]})
    worker.signal(signal.SIGHUP)
    worker.until_logged("configuration_reloaded")
    worker.until_complete(datetime.now(UTC), 3)
    assert worker.stop() == 0
    for tenant, name in ((first, topic), (second, own), (third, later)):
        found = oracle.check(broker.bootstrap, name, app, source.truth(tenant))
        assert len(found.rows) > 400
        assert found.dead_letters
        assert {statement.tenant for statement in found.progress} == {tenant}
    resources = [ConfigResource(ResourceType.TOPIC, f"{later}.{suffix}") for suffix in ("dlq", "progress")]
    admin = AdminClient({"bootstrap.servers": broker.bootstrap})
    futures = admin.describe_configs(resources).values()
    days = [int(future.result(30)["retention.ms"].value) // 86_400_000 for future in futures]
    assert sorted(days) == [7, 30]


def test_changed_topic_of_a_tenant_is_refused_with_a_remedy(
    topic: str, simulate: Simulate, new_worker: NewWorker, settings: Settings
) -> None:
    """The dedup index describes rows that were published to the former topic."""
    source = simulate(days=0.1, calls_per_day=600, frozen=True)
    (tenant,) = source.tenants
    configured = settings(source)
    worker = new_worker(configured)
    assert worker.run_once() == 0
    worker.configure({**configured, "tenants": [{"id": tenant, "start": "-19d", "topic": f"{topic}-other"}]})
    assert worker.run_once() == 1
    log_text = worker.log.read_text(encoding="utf-8")
    assert f"was written for topic {topic}, but now its topic is {topic}-other" in log_text
    assert "Traceback" not in log_text


def _ms(moment: datetime) -> int:
    return round(moment.timestamp() * 1000)
