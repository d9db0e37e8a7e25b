"""Commits that brokers acknowledge without ever writing their markers, see integration/test_hanging.py."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from connector.kafka import topics
from tests import oracle
from tests.brokers import Cluster, wait_until
from tests.simulation import Simulation
from tests.workers import Worker, configuration

_DEADLINE_S = 60.0


def published(worker: Worker) -> float:
    return worker.metric("rows_total", outcome="published")


@pytest.fixture
def left_open(
    two_brokers: Cluster,
    topic: str,
    app: str,
    simulate: Callable[..., Simulation],
    new_worker: Callable[..., Worker],
    tmp_path: Path,
) -> Callable[[list[str]], Simulation]:
    """Let a commit hang in some topics: the broker with their only replica dies before it, and the worker after it."""

    def leave(hanging: list[str]) -> Simulation:
        admin = AdminClient({"bootstrap.servers": two_brokers.bootstrap, "log_level": 0})
        compacted = {"cleanup.policy": "compact"}
        new_topics = [
            NewTopic(
                name,
                1,
                replica_assignment=[[2 if name in hanging else 1]],
                config=compacted if name.startswith(app) else {},
            )
            for name in (*topics.of_rows(topic), f"{app}.state", f"{app}.seen")
        ]
        for future in admin.create_topics(new_topics).values():
            future.result(10)
        source = simulate(days=1, calls_per_day=2_000, page_size=50, frozen=True, faults={"slow": 1.0, "slow_s": 0.1})
        # Longer than the cluster needs to notice the dead broker, so that the worker keeps its shard.
        properties = {"session.timeout.ms": "9000", "transaction.timeout.ms": "60000"}
        kafka = {"shards": 1, "properties": properties}
        worker = new_worker(
            configuration(two_brokers.bootstrap, topic, app, source, kafka=kafka),
            *("-m", "tests.halting_worker", str(tmp_path)),
        )
        worker.start()
        worker.until(lambda: published(worker) > 200, "the first rows")
        (tmp_path / "hold-commit").touch()
        worker.until((tmp_path / "held-commit").exists, "a commit to be held")
        before = published(worker)
        victim = two_brokers.brokers[1]
        victim.kill()

        def is_known() -> bool:
            known = admin.list_topics(hanging[-1], timeout=_DEADLINE_S).topics[hanging[-1]]
            return known.partitions[0].leader < 0

        wait_until(is_known, "the partition to have no leader", _DEADLINE_S)
        (tmp_path / "hold-commit").unlink()
        worker.until(lambda: published(worker) > before, "the commit to be acknowledged")
        worker.kill()
        victim.start()
        return source

    return leave


@pytest.mark.parametrize(("hangs", "outcome"), [("everything", "aborted"), ("seen", "committed")])
def test_hanging_transaction_neither_loses_nor_duplicates_rows(
    two_brokers: Cluster,
    topic: str,
    app: str,
    left_open: Callable[[list[str]], Simulation],
    new_worker: Callable[..., Worker],
    hangs: str,
    outcome: str,
) -> None:
    """The transaction hangs in different topics.

    If it hangs only in `{app}.seen`, readers of the row topic already see the rows.
    """
    seen = f"{app}.seen"
    source = left_open([seen] if hangs == "seen" else [*topics.of_rows(topic), f"{app}.state", seen])
    worker = new_worker(configuration(two_brokers.bootstrap, topic, app, source, kafka={"shards": 1}))
    worker.start()
    worker.until_complete(datetime.now(UTC))
    assert [event["outcome"] for event in worker.named("hanging_transaction_resolved")] == [outcome]
    assert worker.stop() == 0
    oracle.check(two_brokers.bootstrap, topic, app, source.truth())


def test_switch_to_at_least_once_ends_hanging_transactions(
    two_brokers: Cluster,
    topic: str,
    app: str,
    left_open: Callable[[list[str]], Simulation],
    new_worker: Callable[..., Worker],
) -> None:
    """The shard cannot read its state as long as a transaction hangs."""
    source = left_open([*topics.of_rows(topic), f"{app}.state", f"{app}.seen"])
    kafka = {"shards": 1, "delivery": "at_least_once"}
    worker = new_worker(configuration(two_brokers.bootstrap, topic, app, source, kafka=kafka))
    worker.start()
    worker.until_complete(datetime.now(UTC))
    assert [event["outcome"] for event in worker.named("hanging_transaction_resolved")] == ["aborted"]
    assert worker.stop() == 0
    names = [*topics.of_rows(topic), f"{app}.state", f"{app}.seen"]
    assert not oracle.open_transactions(two_brokers.bootstrap, names)
