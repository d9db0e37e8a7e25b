"""Problems that retrying cannot fix end `run` with exit code 1 and one sentence, and nothing is overwritten."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from tests import commands, oracle
from tests.conftest import SharedBroker
from tests.simulation import Simulation
from tests.workers import Worker

Simulate = Callable[..., Simulation]
NewWorker = Callable[..., Worker]
Settings = Callable[..., dict[str, Any]]

TINY = {"days": 0.1, "calls_per_day": 1_000, "frozen": True}


def create(bootstrap: str, name: str, partitions: int, policy: str) -> None:
    admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})
    for future in admin.create_topics([NewTopic(name, partitions, config={"cleanup.policy": policy})]).values():
        future.result(10)


def refusal(worker: Worker) -> str:
    """Run the worker, which must exit with 1; return its message."""
    worker.start()
    assert worker.wait() == 1, worker.tail()
    lines = worker.log.read_text(encoding="utf-8").splitlines()
    assert not any("Traceback" in line for line in lines)
    return "\n".join(line for line in lines if not line.startswith("{"))


@pytest.mark.parametrize(
    ("existing", "remedies"),
    [
        (("state", 2, "delete"), ["kafka-configs.sh", "--alter", "cleanup.policy=compact"]),
        (("seen", 2, "compact,delete"), ["kafka-configs.sh", "--alter", "cleanup.policy=compact"]),
        (("control", 2, "compact"), ["kafka-configs.sh", "--alter", "cleanup.policy=delete"]),
        (("state", 5, "compact"), ["kafka.shards = 5", "kafka-topics.sh", "--create"]),
        (("control", 1, "delete"), ["kafka.shards = 1", "kafka-topics.sh", "--create"]),
    ],
)
def test_run_command_refuses_wrong_topic_settings_with_a_remedy(
    broker: SharedBroker,
    app: str,
    simulate: Simulate,
    new_worker: NewWorker,
    settings: Settings,
    existing: tuple[str, int, str],
    remedies: list[str],
) -> None:
    name, partitions, policy = existing
    create(broker.bootstrap, f"{app}.{name}", partitions, policy)
    message = refusal(new_worker(settings(simulate(**TINY))))
    for text in (f"{app}.{name}", *remedies):
        assert text in message


def test_run_command_prints_commands_for_missing_topics(
    app: str, topic: str, simulate: Simulate, new_worker: NewWorker, settings: Settings
) -> None:
    message = refusal(new_worker(settings(simulate(**TINY), kafka={"create_topics": False})))
    for name in (topic, f"{topic}.dlq", f"{topic}.progress", f"{app}.control", f"{app}.state", f"{app}.seen"):
        assert f"--topic {name} " in message


@pytest.mark.parametrize("key", ["shard", "checkpoint/{tenant}", "something-new"])
def test_run_command_refuses_and_keeps_state_of_a_newer_version(
    broker: SharedBroker, app: str, simulate: Simulate, new_worker: NewWorker, settings: Settings, key: str
) -> None:
    source = simulate(**TINY)
    worker = new_worker(settings(source))
    assert worker.run_once() == 0
    newest = _newest(broker.bootstrap, f"{app}.state")
    partition = next(entry.partition for name, entry in newest.items() if name.startswith(b"checkpoint/"))
    record = {"v": 99, "what": "nobody knows"}
    _write(broker.bootstrap, f"{app}.state", partition, key.format(tenant=source.tenants[0]), record)
    before = oracle.read(broker.bootstrap, f"{app}.state")
    assert "version 99" in refusal(worker)
    # The worker may have written to a partition without records of a newer version before it found the other one.
    after = oracle.read(broker.bootstrap, f"{app}.state")
    assert [e for e in after if e.partition == partition] == [e for e in before if e.partition == partition]


def test_upgrade_from_an_older_state_version_republishes_nothing(
    broker: SharedBroker, app: str, topic: str, simulate: Simulate, new_worker: NewWorker, settings: Settings
) -> None:
    """The older state has fewer members (known defect of the Jira input of redpanda-data/connect)."""
    source = simulate(**TINY)
    worker = new_worker(settings(source))
    assert worker.run_once() == 0
    first = ("v", "topic", "start", "sweeps", "coverage", "offsets", "stated")
    for key, entry in _newest(broker.bootstrap, f"{app}.state").items():
        if key.startswith(b"checkpoint/"):
            members = json.loads(entry.value)
            assert members.keys() > set(first)
            _write(
                broker.bootstrap, f"{app}.state", entry.partition, key.decode(), {name: members[name] for name in first}
            )
    before = oracle.check(broker.bootstrap, topic, app, source.truth())
    assert before.rows
    assert worker.run_once() == 0
    assert oracle.check(broker.bootstrap, topic, app, source.truth()).rows == before.rows


@pytest.mark.parametrize(("member", "other"), [("topic", "calls-elsewhere"), ("cluster", "another-cluster")])
def test_run_command_refuses_state_of_another_topic_or_cluster(
    broker: SharedBroker,
    app: str,
    simulate: Simulate,
    new_worker: NewWorker,
    settings: Settings,
    member: str,
    other: str,
) -> None:
    source = simulate(**TINY)
    worker = new_worker(settings(source))
    assert worker.run_once() == 0
    for entry in _newest(broker.bootstrap, f"{app}.state").values():
        if entry.key == b"shard":
            record = {**json.loads(entry.value), member: other}
            _write(broker.bootstrap, f"{app}.state", entry.partition, "shard", record)
    before = oracle.read(broker.bootstrap, f"{app}.state")
    message = refusal(worker)
    assert other in message
    assert "kafka.app" in message
    assert [e.value for e in oracle.read(broker.bootstrap, f"{app}.state")] == [e.value for e in before]


def test_run_command_refuses_a_second_row_topic_for_one_app(
    broker: SharedBroker, topic: str, simulate: Simulate, new_worker: NewWorker, settings: Settings
) -> None:
    source = simulate(**TINY)
    assert new_worker(settings(source)).run_once() == 0
    message = refusal(new_worker(settings(source, kafka={"topic": f"{topic}-2"})))
    assert topic in message
    assert "kafka.app" in message
    assert not oracle.read(broker.bootstrap, f"{topic}-2")


def _newest(bootstrap: str, topic: str) -> dict[bytes, oracle.Entry]:
    return {entry.key or b"": entry for entry in oracle.read(bootstrap, topic)}


def _write(bootstrap: str, topic: str, partition: int, key: str, record: dict[str, Any]) -> None:
    producer = Producer({"bootstrap.servers": bootstrap, "enable.idempotence": True, "log_level": 0, "acks": "all"})
    producer.produce(topic, json.dumps(record).encode(), key.encode(), partition)
    assert producer.flush(20) == 0


def test_worker_applies_commands_from_a_recreated_control_topic(
    broker: SharedBroker, app: str, simulate: Simulate, new_worker: NewWorker, settings: Settings
) -> None:
    """The command is submitted before the worker starts. The state still has the offset of the deleted topic."""
    source = simulate(**TINY)
    (tenant,) = source.tenants
    worker = new_worker(settings(source, kafka={"shards": 1}))
    worker.start()
    worker.until_ready()
    for command in ("pause", "resume"):
        taken = len(worker.named("command_applied"))
        commands.succeed(worker.config, command, "--tenant", tenant)
        worker.until(lambda n=taken: len(worker.named("command_applied")) > n, "the commit of the command")  # type: ignore[misc]
    worker.until(lambda: worker.tenant(tenant).get("state") == "ok", "the tenant to be read")
    assert worker.stop() == 0
    admin = AdminClient({"bootstrap.servers": broker.bootstrap, "log_level": 0})
    (deleted,) = admin.delete_topics([f"{app}.control"]).values()
    deleted.result(20)
    create(broker.bootstrap, f"{app}.control", 1, "delete")
    commands.succeed(worker.config, "pause", "--tenant", tenant)
    worker.start()
    worker.until(lambda: worker.tenant(tenant).get("state") == "paused", "the command to be applied")
    assert worker.stop() == 0
