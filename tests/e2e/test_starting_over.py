"""docs/operating.md, "Starting over", step by step."""

from collections import Counter
from collections.abc import Callable
from typing import Any

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient

from tests import oracle
from tests.brokers import wait_until
from tests.conftest import SharedBroker
from tests.simulation import Simulation
from tests.workers import Worker

Simulate = Callable[..., Simulation]
NewWorker = Callable[..., Worker]
Settings = Callable[..., dict[str, Any]]

TINY = {"days": 0.1, "calls_per_day": 1_000, "frozen": True}


def test_another_app_publishes_every_row_again_as_revision_0(
    broker: SharedBroker, topic: str, app: str, simulate: Simulate, new_worker: NewWorker, settings: Settings
) -> None:
    source = simulate(**TINY)
    for name in (app, f"{app}-2"):
        assert new_worker(settings(source, kafka={"app": name})).run_once() == 0
    rows = oracle.committed(broker.bootstrap, topic, app).rows
    assert rows
    assert set(Counter((row.tenant, row.id) for row in rows if row.revision == 0).values()) == {2}


def test_app_whose_topics_were_deleted_publishes_all_rows_again(
    broker: SharedBroker, topic: str, app: str, simulate: Simulate, new_worker: NewWorker, settings: Settings
) -> None:
    source = simulate(**TINY)
    worker = new_worker(settings(source))
    assert worker.run_once() == 0
    before = oracle.check(broker.bootstrap, topic, app, source.truth()).rows
    assert before
    topics = [f"{app}.{name}" for name in ("control", "state", "seen")]
    topics += [topic, f"{topic}.dlq", f"{topic}.progress"]
    admin = AdminClient({"bootstrap.servers": broker.bootstrap, "log_level": 0})
    wait_until(lambda: deleted(admin, app), "the group to be empty and deleted", 60)
    for future in admin.delete_topics(topics).values():
        future.result(30)
    wait_until(lambda: not admin.list_topics(timeout=10).topics.keys() & set(topics), "the deletion of the topics", 60)
    assert worker.run_once() == 0
    after = oracle.check(broker.bootstrap, topic, app, source.truth()).rows
    assert len(after) == len(before)


def deleted(admin: AdminClient, group: str) -> bool:
    try:
        admin.delete_consumer_groups([group])[group].result(30)
    except KafkaException as error:
        if error.args[0].code() == KafkaError.GROUP_ID_NOT_FOUND:
            return True
        if error.args[0].code() == KafkaError.NON_EMPTY_GROUP:
            return False
        raise
    return True
