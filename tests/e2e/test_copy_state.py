"""`connector copy-state` to another number of shards, cluster or row topic: no row is duplicated or missing."""

import signal
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from tests import commands, oracle
from tests.brokers import Cluster, wait_until
from tests.conftest import SharedBroker
from tests.forked import Forked, without_settings
from tests.simulation import Simulation
from tests.workers import ROOT, Worker

Simulate = Callable[..., Simulation]
NewWorker = Callable[..., Worker]
Settings = Callable[..., dict[str, Any]]

TINY = {"tenants": 3, "days": 0.2, "calls_per_day": 2_000, "frozen": True}
MOVING = {"tenants": 6, "days": 1, "calls_per_day": 1_500, "revised": 0.2, "unfit": 0.005, "clock_offset_s": -36_000}


def dying_copy(number: int, old: Worker, new: Worker) -> int:
    """Copy the state with a process that dies before a record; return its exit code."""
    arguments = ["tests.dying_copy", str(number), "--from", str(old.config), "--config", str(new.config)]
    output = new.config.parent / "dying_copy.txt"
    code = Forked(arguments, without_settings(), ROOT, output, output).wait(commands.DEADLINE_S)
    assert code in (0, -signal.SIGKILL), output.read_text(encoding="utf-8")
    return code


def copy(old: Worker, new: Worker, *options: str) -> commands.Done:
    return commands.run(new.config, "copy-state", "--from", str(old.config), *options)


def moved(old: Worker, new: Worker) -> str:
    """Copy the state, which must succeed; return the report."""
    done = copy(old, new)
    assert done.code == 0, done
    return done.output


def advance(source: Simulation) -> None:
    """Let ten hours pass at once, in which rows appear and others are revised."""
    source.set_clock_offset(timedelta())
    source.freeze()


def joined(*parts: oracle.Committed) -> oracle.Committed:
    """Return the records of several topics as if they were one topic with all partitions, numbered in order."""
    whole = oracle.Committed(parts[0].topic)
    for number, part in enumerate(parts):
        whole.rows += [
            row._replace(entry=row.entry._replace(partition=row.entry.partition + 100 * number)) for row in part.rows
        ]
        whole.dead_letters += part.dead_letters
        whole.open += part.open
    return whole


def test_resharding_duplicates_and_misses_no_row(
    broker: SharedBroker, topic: str, app: str, simulate: Simulate, new_worker: NewWorker, settings: Settings
) -> None:
    source = simulate(**MOVING)
    old = new_worker(settings(source, kafka={"shards": 8}))
    new = new_worker(settings(source, kafka={"shards": 24, "app": f"{app}-2"}))
    assert old.run_once() == 0
    before = oracle.committed(broker.bootstrap, topic, app)
    report = moved(old, new)
    assert len([line for line in report.splitlines() if "→" in line]) == 7
    assert commands.status(new.config)["shards"] == 24
    kept = [
        (t["id"], t["remembered_rows"], t["coverage"], t["records"]) for t in commands.status(new.config)["tenants"]
    ]
    assert kept == [
        (t["id"], t["remembered_rows"], t["coverage"], t["records"]) for t in commands.status(old.config)["tenants"]
    ]
    advance(source)
    assert new.run_once() == 0
    after = oracle.check(broker.bootstrap, topic, f"{app}-2", source.truth(), claims=False)
    known = {row.entry for row in before.rows}
    added = [row for row in after.rows if row.entry not in known]
    assert len(added) == len(after.rows) - len(before.rows)
    first_seen = {(row.tenant, row.id) for row in before.rows}
    assert any(row.revision for row in added if (row.tenant, row.id) in first_seen)
    assert any(row.revision == 0 for row in added)


@pytest.mark.timeout(240)
def test_state_copy_can_be_repeated_after_a_kill_at_any_record(
    broker: SharedBroker, topic: str, app: str, simulate: Simulate, new_worker: NewWorker, settings: Settings
) -> None:
    source = simulate(**TINY | {"tenants": 2, "days": 0.05})
    old, new = new_worker(settings(source)), new_worker(settings(source, kafka={"shards": 3, "app": f"{app}-2"}))
    assert old.run_once() == 0
    killed = 0
    while dying_copy(killed + 1, old, new) != 0:
        killed += 1
        if killed == 6:
            assert new.run_once() == 1
            assert "incomplete copy" in new.tail()
    assert killed > 6
    assert new.run_once() == 0
    oracle.check(broker.bootstrap, topic, f"{app}-2", source.truth())


def test_repeated_state_copy_includes_changes_since_the_first(
    broker: SharedBroker, topic: str, app: str, simulate: Simulate, new_worker: NewWorker, settings: Settings
) -> None:
    source = simulate(**MOVING)
    old, new = new_worker(settings(source)), new_worker(settings(source, kafka={"shards": 3, "app": f"{app}-2"}))
    assert old.run_once() == 0
    assert dying_copy(16, old, new) != 0
    advance(source)
    assert old.run_once() == 0
    moved(old, new)
    assert new.run_once() == 0
    oracle.check(broker.bootstrap, topic, f"{app}-2", source.truth(), claims=False)


def test_state_copy_is_refused_while_a_worker_of_either_app_runs(
    app: str, simulate: Simulate, new_worker: NewWorker, settings: Settings
) -> None:
    source = simulate(**TINY)
    old, new = new_worker(settings(source)), new_worker(settings(source, kafka={"app": f"{app}-2"}))
    old.start()
    old.until_ready()
    refused = copy(old, new)
    assert refused.code == 1
    assert refused.error.startswith(
        f"consumer group {app} has 1 members, so workers of app {app} may be running: stop every"
    )
    assert old.stop() == 0
    new.start()
    new.until_ready()
    refused = copy(old, new)
    assert refused.code == 1
    assert refused.error.startswith(f"consumer group {app}-2 has 1 members")


def test_state_copy_into_an_app_that_has_state_is_refused(
    app: str, simulate: Simulate, new_worker: NewWorker, settings: Settings
) -> None:
    source = simulate(**TINY)
    old, new = new_worker(settings(source)), new_worker(settings(source, kafka={"app": f"{app}-2"}))
    assert old.run_once() == new.run_once() == 0
    for options in ((), ("--dry-run",)):
        refused = copy(old, new, *options)
        assert refused.code == 1
        assert refused.error.startswith(f"app {app}-2 already has state: set kafka.app to another name, or delete")
    assert copy(old, old).code == 2


def test_dry_run_of_a_state_copy_writes_nothing(
    broker: SharedBroker, app: str, simulate: Simulate, new_worker: NewWorker, settings: Settings
) -> None:
    source = simulate(**TINY)
    old, new = new_worker(settings(source)), new_worker(settings(source, kafka={"app": f"{app}-2"}))
    assert copy(old, new).error.startswith(f"no worker has ever run with kafka.app = {app}")
    assert old.run_once() == 0
    done = copy(old, new, "--dry-run")
    assert done.code == 0, done
    assert "would be copied" in done.error
    assert len(done.output.splitlines()) == 5
    topics = AdminClient({"bootstrap.servers": broker.bootstrap, "log_level": 0}).list_topics(timeout=10).topics
    assert not [name for name in topics if name.startswith(f"{app}-2.")]


def test_state_copy_includes_a_pending_command_and_a_pause(
    app: str, simulate: Simulate, new_worker: NewWorker, settings: Settings
) -> None:
    source = simulate(**TINY)
    old, new = new_worker(settings(source)), new_worker(settings(source, kafka={"shards": 3, "app": f"{app}-2"}))
    assert old.run_once() == 0
    job = commands.succeed(old.config, "backfill", "--tenant", source.tenants[0], "--from", "-4h", "--to", "-1h")
    commands.succeed(old.config, "pause", "--tenant", source.tenants[1])
    moved(old, new)
    assert commands.jobs(new.config)[job]["state"] == "waiting"
    new.start()
    new.until(lambda: commands.jobs(new.config)[job]["state"] == "done", "the job")
    assert new.tenant(source.tenants[1])["state"] == "paused"


@pytest.mark.parametrize("delivery", ["exactly_once", "at_least_once"])
def test_only_new_versions_are_published_to_another_row_topic(
    broker: SharedBroker,
    topic: str,
    app: str,
    simulate: Simulate,
    new_worker: NewWorker,
    settings: Settings,
    delivery: str,
) -> None:
    source = simulate(**MOVING)
    old = new_worker(settings(source, kafka={"delivery": delivery}))
    more = {"shards": 5, "app": f"{app}-2", "topic": f"{topic}-2", "delivery": delivery}
    new = new_worker(settings(source, kafka=more))
    assert old.run_once() == 0
    moved(old, new)
    advance(source)
    assert new.run_once() == 0
    history = oracle.committed(broker.bootstrap, topic, app)
    later = oracle.committed(broker.bootstrap, f"{topic}-2", f"{app}-2")
    assert history.rows
    assert any(row.revision for row in later.rows)
    whole = joined(history, later)
    wrong = [line for line in oracle.differences(whole, source.truth(), claims=False) if "order" not in line]
    letters = Counter(letter.value for letter in whole.dead_letters)
    assert [line for line in wrong if not line.startswith("dead letter")] == []
    assert set(letters.values()) == {1}


def mirror(bootstrap: str, other: str, topic: str) -> None:
    """Copy a topic with its `.dlq` to another cluster, partition by partition, as MirrorMaker 2 does."""
    admin = AdminClient({"bootstrap.servers": other, "log_level": 0})
    producer = Producer({"bootstrap.servers": other, "enable.idempotence": True, "log_level": 0})
    for name in (topic, f"{topic}.dlq"):
        admin.create_topics([NewTopic(name, 3)])[name].result(10)
        wait_until(lambda name=name: name in admin.list_topics(timeout=10).topics, name)  # type: ignore[misc]
        for entry in oracle.read(bootstrap, name):
            headers: list[tuple[str, str | bytes | None]] = list(entry.headers)
            producer.produce(
                name, entry.value, entry.key, entry.partition, timestamp=entry.timestamp_ms, headers=headers
            )
    assert producer.flush(30) == 0


def test_move_to_a_cluster_with_mirrored_rows_keeps_exactly_once(
    broker: SharedBroker,
    broker_of_its_own: Cluster,
    topic: str,
    app: str,
    simulate: Simulate,
    new_worker: NewWorker,
    settings: Settings,
) -> None:
    """Progress records on the new cluster must name the offsets that the mirrored rows have there."""
    source = simulate(**TINY)
    other = broker_of_its_own.bootstrap
    old = new_worker(settings(source))
    new = new_worker(settings(source, kafka={"bootstrap_servers": other, "shards": 4}))
    assert old.run_once() == 0
    mirror(broker.bootstrap, other, topic)
    moved(old, new)
    new.start()
    new.until_complete(datetime.now(UTC))
    assert new.stop() == 0
    found = oracle.check(other, topic, app, source.truth())
    assert len(found.rows) == len(oracle.committed(broker.bootstrap, topic, app).rows)
    assert found.progress


def test_state_copy_is_refused_while_a_transaction_is_open(
    broker: SharedBroker, app: str, simulate: Simulate, new_worker: NewWorker, settings: Settings
) -> None:
    source = simulate(**TINY)
    old, new = new_worker(settings(source)), new_worker(settings(source, kafka={"app": f"{app}-2"}))
    assert old.run_once() == 0
    producer = Producer({"bootstrap.servers": broker.bootstrap, "transactional.id": f"{app}-hanging", "log_level": 0})
    producer.init_transactions(30)
    producer.begin_transaction()
    producer.produce(f"{app}.state", b"{}", b"open", 0)
    assert producer.flush(30) == 0
    refused = copy(old, new)
    assert refused.code == 1
    assert refused.error.startswith(f"a transaction is still open in {app}.state-0: start a worker of that app")
    producer.abort_transaction(30)
    moved(old, new)


def test_state_copy_refuses_different_privacy_settings(
    app: str, simulate: Simulate, new_worker: NewWorker, settings: Settings
) -> None:
    source = simulate(**TINY)
    old = new_worker(settings(source, rows={"privacy": {"callerNumber": "mask"}}))
    new = new_worker(settings(source, kafka={"app": f"{app}-2"}))
    refused = copy(old, new)
    assert refused.code == 2
    assert refused.error.startswith(f"{old.config}: rows.privacy: differs from the configuration of the new app")
