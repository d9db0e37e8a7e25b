"""Brokers secured as in production: TLS, login, and only the rights that docs/kafka.md lists."""

import json
import socket
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer
from confluent_kafka.admin import AclBinding, AclOperation, ResourceType

from tests import commands, oracle
from tests.brokers import IPV6, wait_until
from tests.secured import PASSWORD, SecuredBroker, documented_rights, documented_topics
from tests.simulation import Simulation
from tests.workers import Worker, configuration

Simulate = Callable[..., Simulation]
NewWorker = Callable[..., Worker]

FEW = {"days": 1, "calls_per_day": 300, "frozen": True}
CONNECTOR = "The connector"
CREATING = "The connector, where it creates its topics"
WRONG = PASSWORD[::-1]
RARELY = (".dlq", ".progress", ".control")
"Topics that a worker uses at most once per minute."


@pytest.fixture(scope="module")
def secured() -> Iterator[SecuredBroker]:
    with SecuredBroker() as broker:
        yield broker


def settings(secured: SecuredBroker, topic: str, app: str, source: Any, mechanism: str, user: str) -> dict[str, Any]:
    """Return a configuration that signs in with `mechanism`; `configuration` is for brokers without access control."""
    plain = configuration("", topic, app, source)
    kafka = secured.kafka(mechanism, user)
    properties = plain["kafka"]["properties"] | kafka.pop("properties")
    return plain | {"kafka": plain["kafka"] | kafka | {"properties": properties}}


def visible_text(worker: Worker) -> str:
    """Return all that a worker shows: its log and its HTTP pages."""
    return worker.log.read_text(encoding="utf-8") + "".join(
        worker.get(path)[1] for path in ("/status", "/metrics", "/readyz", "/")
    )


@pytest.mark.parametrize(
    ("mechanism", "principal"),
    [("TLS", "ANONYMOUS"), ("MUTUAL", "CN=client"), ("PLAIN", "plain"), ("SCRAM-SHA-256", "scram")],
)
def test_worker_publishes_rows_with_each_broker_login_mechanism(
    secured: SecuredBroker,
    topic: str,
    app: str,
    simulate: Simulate,
    new_worker: NewWorker,
    mechanism: str,
    principal: str,
) -> None:
    """The user has only the documented rights, and the connector creates the topics."""
    user = principal.removeprefix("CN=")
    secured.add_user(user)
    for heading in (CONNECTOR, CREATING):
        secured.grant(*documented_rights(heading, topic, app, principal))
    source = simulate(**FEW)
    worker = new_worker(settings(secured, topic, app, source, mechanism, user))
    assert worker.run_once() == 0
    assert not worker.named("topic_settings_unreadable")
    assert len(oracle.check(secured.plain, topic, app, source.truth()).rows) > 250


def test_worker_runs_with_ipv6_addresses_only(
    secured: SecuredBroker, topic: str, app: str, simulate: Simulate, new_worker: NewWorker
) -> None:
    """Kafka, Graph, the sign-in and the worker's own HTTP server have the address ::1 and no other."""
    for heading in (CONNECTOR, CREATING):
        secured.grant(*documented_rights(heading, topic, app, "ANONYMOUS"))
    source = simulate(**FEW, host="::1")
    worker = new_worker(settings(secured, topic, app, source, IPV6, "") | {"http": {"listen": "[::1]:0"}})
    assert commands.run(worker.config, "check").code == 0
    worker.start()
    worker.until_complete(datetime.now(UTC))
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", worker.port or 0), 5)
    assert worker.stop() == 0
    assert len(oracle.check(secured.plain, topic, app, source.truth()).rows) > 250


def test_documented_kafka_rights_suffice_for_each_role(
    secured: SecuredBroker, topic: str, app: str, simulate: Simulate, new_worker: NewWorker, tmp_path: Path
) -> None:
    """Worker, operator and reader have only their documented rights, on existing topics.

    The test publishes rows, runs a backfill, adds a worker, restarts it and reads the topic.
    """
    for user in ("connector", "operator", "reader"):
        secured.add_user(user)
    secured.create(documented_topics(topic, app, partitions=3, shards=2))
    secured.grant(
        *documented_rights(CONNECTOR, topic, app, "connector"),
        *documented_rights("Operators", topic, app, "operator"),
        *documented_rights("Readers", topic, app, "reader", group=f"{app}-reader"),
    )
    source = simulate(**{**FEW, "tenants": 4})
    configured = settings(secured, topic, app, source, "SCRAM-SHA-512", "connector")
    configured["kafka"]["create_topics"] = False
    secret = tmp_path / "password"
    secret.write_text(f"{PASSWORD}\n", encoding="utf-8")
    configured["kafka"]["properties"]["sasl.password"] = {"file": str(secret)}
    first, second = new_worker(configured), new_worker(configured)
    operator = settings(secured, topic, app, source, "SCRAM-SHA-512", "operator")
    first.start()
    first.until_complete(datetime.now(UTC))
    config = tmp_path / "operator.toml"
    config.write_text(new_worker(operator).config.read_text(encoding="utf-8"), encoding="utf-8")
    asked = ("--tenant", source.tenants[0], "--from", "-12h", "--to", "-1h")
    commands.succeed(config, "backfill", *asked, "--wait")
    assert [job["state"] for job in commands.jobs(config).values()] == ["done"]
    assert len(commands.status(config)["tenants"]) == 4
    second.start()
    second.until(lambda: len(second.status()["shards_owned"]) == 1, "the second worker to own a shard")
    assert first.stop() == 0
    second.until(lambda: len(second.status()["shards_owned"]) == 2, "the worker to own both shards")
    second.until_complete(datetime.now(UTC))
    assert PASSWORD not in visible_text(second)
    assert second.stop() == 0
    for worker in (first, second):
        assert not worker.named("topic_settings_unreadable")
        assert PASSWORD not in worker.log.read_text(encoding="utf-8")
    found = oracle.check(secured.plain, topic, app, source.truth())
    assert read_by(secured, topic, f"{app}-reader", len(found.rows)) == len(found.rows) > 1_000


def read_by(secured: SecuredBroker, topic: str, group: str, rows: int, user: str = "reader") -> int:
    """Return the number of rows that a user finds."""
    kafka = secured.kafka("SCRAM-SHA-512", user)
    consumer = Consumer(
        {
            "bootstrap.servers": kafka["bootstrap_servers"],
            **kafka["properties"],
            "group.id": group,
            "auto.offset.reset": "earliest",
            "isolation.level": "read_committed",
            "log_level": 0,
        }
    )
    found: list[int] = []

    def has_all() -> bool:
        found.append(sum(message.error() is None for message in consumer.consume(500, timeout=0.2)))
        return sum(found) >= rows

    try:
        consumer.subscribe([topic])
        wait_until(has_all, "all rows", 60)
    finally:
        consumer.close()
    return sum(found)


def test_worker_names_a_withdrawn_right_and_waits_for_it(
    secured: SecuredBroker, topic: str, app: str, simulate: Simulate, new_worker: NewWorker
) -> None:
    """Each right is withdrawn from the worker in turn.

    The worker continues without a restart once the right is granted again.
    """
    secured.add_user("watched")
    rights = documented_rights(CONNECTOR, topic, app, "watched")
    secured.create(documented_topics(topic, app, partitions=3, shards=2))
    secured.grant(*rights)
    source = simulate(days=0.2, calls_per_day=30_000)
    worker = new_worker(settings(secured, topic, app, source, "SCRAM-SHA-256", "watched"))
    worker.start()
    worker.until_complete(datetime.now(UTC))
    for right in rights:
        if right.operation is AclOperation.DESCRIBE_CONFIGS or right.name.endswith(RARELY):
            continue
        if right.operation is AclOperation.READ and right.restype is ResourceType.TOPIC:
            continue  # this right is needed only when a shard is restored
        take_right(secured, worker, right)
    frozen_at = source.freeze()
    worker.until_complete(frozen_at)
    assert worker.stop() == 0
    oracle.check(secured.plain, topic, app, source.truth(), claims=False)


def take_right(secured: SecuredBroker, worker: Worker, right: AclBinding) -> None:
    """Remove a right, wait until the worker names it as missing, and grant it again."""
    assert isinstance(right.restype, ResourceType)
    assert isinstance(right.operation, AclOperation)
    option = {
        ResourceType.TOPIC: "--topic",
        ResourceType.GROUP: "--group",
        ResourceType.TRANSACTIONAL_ID: "--transactional-id",
    }[right.restype]
    remedy = f"--operation {right.operation.name.title()} "
    seen = len(worker.events)
    secured.take(right)

    def is_named() -> bool:
        new = [json.dumps(event) for event in worker.events[seen:]]
        return any(f"{option} {right.name}" in text and remedy in text and "kafka-acls.sh" in text for text in new)

    worker.until(is_named, f"{remedy} {option} {right.name} to be named")
    assert worker.get("/livez")[0] == 200
    secured.grant(right)
    committed = worker.metric("transactions_total", outcome="committed")
    worker.until(lambda: worker.metric("transactions_total", outcome="committed") > committed, "further commits")


def test_backfill_wait_ends_if_its_right_is_withdrawn(
    secured: SecuredBroker, topic: str, app: str, simulate: Simulate, new_worker: NewWorker
) -> None:
    """Otherwise the command would wait forever for a job whose state it cannot read."""
    secured.add_user("waiting")
    secured.create(documented_topics(topic, app, partitions=3, shards=2))
    rights = documented_rights("Operators", topic, app, "waiting")
    secured.grant(*rights)
    source = simulate(**FEW)
    config = new_worker(settings(secured, topic, app, source, "SCRAM-SHA-256", "waiting")).config
    asked = ("--tenant", source.tenants[0], "--from", "-12h", "--to", "-1h")
    waiting = commands.start(config, "backfill", *asked, "--wait")
    assert "no worker has read the command yet" in commands.first_line(waiting.error)
    for right in rights:
        if right.name == f"{app}.state":
            secured.take(right)
    done = commands.ended(waiting)
    assert done.code == 1
    assert f"{app}.state" in done.error
    assert "kafka-acls.sh" in done.error


def test_run_command_names_the_rights_that_are_missing_at_start(
    secured: SecuredBroker, topic: str, app: str, simulate: Simulate, new_worker: NewWorker
) -> None:
    """The worker waits for topics that it may not see, but not for topics that it may not create."""
    secured.add_user("nobody")
    source = simulate(**FEW)
    configured = settings(secured, topic, app, source, "SCRAM-SHA-512", "nobody")
    creating = new_worker(configured)
    creating.start()
    assert creating.wait() == 1
    assert "kafka.create_topics = false" in creating.tail(3)
    secured.create(documented_topics(topic, app, partitions=3, shards=2))
    configured["kafka"]["create_topics"] = False
    waiting = new_worker(configured)
    waiting.start()
    missing = waiting.until_logged("permission_missing")
    assert f"--operation Describe --topic {topic}" in missing["remedy"]
    secured.grant(*documented_rights(CONNECTOR, topic, app, "nobody"))
    waiting.until_complete(datetime.now(UTC))
    assert waiting.stop() == 0
    oracle.check(secured.plain, topic, app, source.truth())


WRONGS: dict[str, tuple[str, dict[str, Any], str, str]] = {
    "a wrong password": (
        "SCRAM-SHA-512",
        {"sasl.password": {"env": "KAFKA_TEST_PASSWORD"}},
        "Authentication failed",
        "credentials",
    ),
    "a CA that is not the broker's": ("TLS", {"ssl.ca.location": None}, "verify failed", "ssl.ca.location"),
    "no TLS": ("TLS", {"security.protocol": "PLAINTEXT"}, "close every connection", "security.protocol"),
    "TLS and no sign-in": ("PLAIN", {"security.protocol": "SSL"}, "close every connection", "security.protocol"),
    "no client certificate": (
        "MUTUAL",
        {"ssl.certificate.location": None, "ssl.key.location": None},
        "bad certificate",
        "ssl.certificate.location",
    ),
}


@pytest.mark.parametrize("what", WRONGS)
def test_broker_login_failure_is_explained_without_the_password(
    secured: SecuredBroker, topic: str, app: str, simulate: Simulate, new_worker: NewWorker, what: str
) -> None:
    mechanism, changed, reason, todo = WRONGS[what]
    secured.add_user("known")
    configured = settings(secured, topic, app, simulate(days=0.1, calls_per_day=10), mechanism, "known")
    properties = configured["kafka"]["properties"] | changed
    configured["kafka"]["properties"] = {name: value for name, value in properties.items() if value is not None}
    worker = new_worker(configured)
    worker.options = {"env": {"PYTHONPATH": str(Path.cwd()), "KAFKA_TEST_PASSWORD": WRONG}}
    worker.start()
    started = time.monotonic()
    worker.until(lambda: any(reason in waiting["reason"] for waiting in worker.named("waiting_for_brokers")), reason)
    waiting = next(waiting for waiting in worker.named("waiting_for_brokers") if reason in waiting["reason"])
    assert todo in waiting["remedy"]
    assert time.monotonic() - started < 60
    assert worker.get("/livez")[0] == 200
    assert "brokers are unreachable" in worker.get("/readyz")[1]
    shown = visible_text(worker)
    assert WRONG not in shown
    assert PASSWORD not in shown
    assert worker.stop() == 0
