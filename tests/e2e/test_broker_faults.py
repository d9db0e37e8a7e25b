"""Faults of brokers: the topics equal the source exactly, the newest rows included, and no transaction stays open."""

import html
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
)

from tests import oracle
from tests.brokers import Cluster, set_topic
from tests.conftest import Pool, SharedBroker
from tests.simulation import Simulation
from tests.workers import Worker, configuration

Simulate = Callable[..., Simulation]
NewWorker = Callable[..., Worker]
Settings = Callable[..., dict[str, Any]]

HISTORY = {"days": 1, "calls_per_day": 2_000, "page_size": 40, "frozen": True, "faults": {"slow": 1.0, "slow_s": 0.1}}


@pytest.fixture(scope="module")
def single_brokers() -> Iterator[Pool]:
    """Yield a pool of brokers with ACLs: they allow every operation that no rule denies."""
    rules = {
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "allow.everyone.if.no.acl.found": "true",
        "super.users": "User:nobody",
    }
    with closing(Pool(1, rules)) as pool:
        yield pool


def published(worker: Worker) -> float:
    return worker.metric("rows_total", outcome="published")


def finish(worker: Worker) -> None:
    """Wait for a sweep over all call time that began after this call, and stop the worker cleanly."""
    worker.until_complete(datetime.now(UTC))
    assert worker.stop() == 0


def last_commit(worker: Worker) -> datetime:
    """Return the time at which the newest committed sweep ended.

    Transaction counters do not help, because they start at 0 with each new owner.
    """
    ends = [sweep["last_ok"] for tenant in worker.status()["tenants"] for sweep in tenant["sweeps"]]
    return max((datetime.fromisoformat(end) for end in ends if end), default=datetime.min.replace(tzinfo=UTC))


@pytest.mark.parametrize(("how", "pause_s"), [("bounced_cleanly", 4), ("killed", 0)])
def test_broker_restart_or_kill_keeps_exactly_once(
    broker_of_its_own: Cluster, topic: str, app: str, simulate: Simulate, new_worker: NewWorker, how: str, pause_s: int
) -> None:
    """Same scenario as Kafka's test_exactly_once_source, but this test also fails if the newest rows are missing."""
    source = simulate(**HISTORY)
    worker = new_worker(configuration(broker_of_its_own.bootstrap, topic, app, source))
    worker.start()
    worker.until(lambda: published(worker) > 200, "the first rows")
    (broker_of_its_own.stop if how == "bounced_cleanly" else broker_of_its_own.kill)()
    threading.Event().wait(pause_s)
    assert worker.get("/livez")[0] == 200
    broker_of_its_own.start()
    finish(worker)
    oracle.check(broker_of_its_own.bootstrap, topic, app, source.truth())


def test_rolling_broker_restarts_keep_exactly_once(
    three_brokers: Cluster, topic: str, app: str, simulate: Simulate, new_worker: NewWorker
) -> None:
    source = simulate(**HISTORY)
    worker = new_worker(configuration(three_brokers.bootstrap, topic, app, source))
    worker.start()
    worker.until(lambda: published(worker) > 200, "the first rows")
    for number, broker in enumerate(three_brokers.brokers):
        (broker.kill if number else broker.stop)()
        lost = datetime.now(UTC)
        worker.until(lambda lost=lost: last_commit(worker) > lost, "a commit of two")  # type: ignore[misc]
        broker.launch()
        broker.wait(3)
    finish(worker)
    oracle.check(three_brokers.bootstrap, topic, app, source.truth())


def test_sweeps_faster_than_commits_keep_exactly_once(
    broker_of_its_own: Cluster, topic: str, app: str, simulate: Simulate, new_worker: NewWorker
) -> None:
    """Many runs become due while a frozen broker commits nothing.

    Known defect of castorm/kafka-connect-http, issue 263.
    """
    source = simulate(days=1, calls_per_day=2_000, page_size=100, frozen=True)
    sweeps = [{"every": "1s", "overlap": "20d"}, {"every": "2s", "overlap": "21d"}]
    worker = new_worker(configuration(broker_of_its_own.bootstrap, topic, app, source, windows={"sweeps": sweeps}))
    worker.start()
    worker.until(lambda: published(worker) > 0, "the first rows")
    broker_of_its_own.suspend()
    asked = len(source.requests())
    # Longer than the timeouts of send-offsets and commit, and than the session, so that outcomes are unknown.
    end = time.monotonic() + 14
    worker.until(lambda: time.monotonic() > end, "the timeouts to pass")
    assert worker.get("/livez")[0] == 200
    assert worker.metric("kafka_up") == 0
    broker_of_its_own.resume()
    finish(worker)
    assert len(source.requests()) > asked
    oracle.check(broker_of_its_own.bootstrap, topic, app, source.truth())


def test_failed_transaction_publishes_neither_rows_nor_state(
    broker: SharedBroker, topic: str, app: str, simulate: Simulate, new_worker: NewWorker, settings: Settings
) -> None:
    """While the state cannot be written, its rows are not visible either. Afterwards, each row is visible once.

    Other connectors had this defect: confluentinc/kafka-connect-jdbc PR 1239, redpanda-data/connect
    TestCacheSet_SoftFails.
    """
    source = simulate(days=1, calls_per_day=2_000, page_size=100, frozen=True)
    worker = new_worker(settings(source))
    worker.start()
    worker.until(lambda: bool(worker.tenant(source.tenants[0]).get("covered_through")), "the first commit")
    worker.kill()
    rows = len(oracle.read(broker.bootstrap, topic))
    set_topic(broker.bootstrap, f"{app}.state", "max.message.bytes", "100")
    source.set_clock_offset(timedelta())
    source.freeze()
    worker.start()
    worker.until_logged("record_too_long")
    assert worker.get("/livez")[0] == 200
    assert len(oracle.read(broker.bootstrap, topic)) == rows
    assert worker.metric("transactions_total", outcome="aborted") > 0
    lags = [worker.metric("lag_seconds")]
    aborted = worker.metric("transactions_total", outcome="aborted")

    def has_looked_twice() -> bool:
        lags.append(worker.metric("lag_seconds"))
        return worker.metric("transactions_total", outcome="aborted") >= aborted + 2

    worker.until(has_looked_twice, "two more reads of the record limit")
    assert not worker.named("shard_restarting")
    assert lags[0] > 0
    assert lags == sorted(lags)
    assert lags[-1] > lags[0] + 1
    set_topic(broker.bootstrap, f"{app}.state", "max.message.bytes", "1000000")
    finish(worker)
    oracle.check(broker.bootstrap, topic, app, source.truth(), claims=False)


@pytest.mark.parametrize("denied", ["", ".state"], ids=["the_row_topic", "the_state_topic"])
def test_worker_waits_until_a_withdrawn_right_is_granted_again(
    broker_of_its_own: Cluster, topic: str, app: str, simulate: Simulate, new_worker: NewWorker, denied: str
) -> None:
    """Same scenario as Kafka's ExactlyOnceSourceIntegrationTest."""
    source = simulate(**HISTORY)
    worker = new_worker(configuration(broker_of_its_own.bootstrap, topic, app, source))
    worker.start()
    worker.until(lambda: published(worker) > 200, "the first rows")
    admin = AdminClient({"bootstrap.servers": broker_of_its_own.bootstrap, "log_level": 0})
    name = f"{app}{denied}" if denied else topic
    place = (ResourceType.TOPIC, name, ResourcePatternType.LITERAL, "User:ANONYMOUS", "*")
    deny = AclBinding(*place, AclOperation.WRITE, AclPermissionType.DENY)
    allow = AclBinding(*place, AclOperation.ALL, AclPermissionType.ALLOW)
    for future in admin.create_acls([deny, allow]).values():
        future.result(10)
    worker.until(
        lambda: bool(worker.named("shard_restarting") or worker.named("transaction_aborted")), "writing to fail"
    )
    rule = AclBindingFilter(*place, AclOperation.WRITE, AclPermissionType.DENY)
    for removed in admin.delete_acls([rule]).values():
        removed.result(10)
    finish(worker)
    oracle.check(broker_of_its_own.bootstrap, topic, app, source.truth())


def test_worker_stops_within_10_s_while_a_broker_is_frozen(
    broker_of_its_own: Cluster, topic: str, app: str, simulate: Simulate, new_worker: NewWorker
) -> None:
    source = simulate(**HISTORY)
    worker = new_worker(configuration(broker_of_its_own.bootstrap, topic, app, source))
    worker.start()
    worker.until(lambda: published(worker) > 0, "the first rows")
    broker_of_its_own.suspend()
    assert worker.stop(10.5) == 0
    broker_of_its_own.resume()
    source.clear_faults()
    assert worker.run_once() == 0
    oracle.check(broker_of_its_own.bootstrap, topic, app, source.truth())


def test_worker_waits_for_unavailable_brokers_and_logs_it(
    broker_of_its_own: Cluster, topic: str, app: str, simulate: Simulate, new_worker: NewWorker
) -> None:
    """/livez returns 200 during the outage, /readyz names its cause, and SIGTERM ends the waiting."""
    broker_of_its_own.stop()
    source = simulate(days=0.1, calls_per_day=1_000, frozen=True)
    worker = new_worker(configuration(broker_of_its_own.bootstrap, topic, app, source))
    worker.start()
    worker.until_logged("waiting_for_brokers")
    assert worker.get("/livez")[0] == 200
    code, body = worker.get("/readyz")
    assert code == 503
    assert "brokers are unreachable" in body
    assert worker.metric("kafka_up") == 0
    assert worker.stop(10.5) == 0
    worker.start()
    worker.until_logged("waiting_for_brokers")
    broker_of_its_own.start()
    worker.until_ready()
    assert worker.metric("kafka_up") == 1
    broker_of_its_own.kill()
    worker.until(lambda: worker.get("/readyz")[0] == 503, "the loss to be noticed")
    assert worker.get("/livez")[0] == 200
    broker_of_its_own.start()
    worker.until_ready()
    finish(worker)
    oracle.check(broker_of_its_own.bootstrap, topic, app, source.truth())


def test_lag_rises_and_status_names_the_cause_in_a_broker_outage(
    broker_of_its_own: Cluster, topic: str, app: str, simulate: Simulate, new_worker: NewWorker
) -> None:
    """The last committed values stay visible until the group assigns shards again."""
    source = simulate(days=0.1, calls_per_day=1_000, frozen=True)
    worker = new_worker(configuration(broker_of_its_own.bootstrap, topic, app, source))
    worker.start()
    tenant = source.tenants[0]
    worker.until(lambda: worker.tenant(tenant).get("state") == "ok", "the tenant to be read")
    records, covered = (worker.tenant(tenant)[name] for name in ("records", "covered_through"))

    broker_of_its_own.kill()
    worker.until(lambda: not worker.status()["shards_owned"], "the shards to be lost", 90)
    worker.until(lambda: worker.metric("kafka_up") == 0, "the outage to be noticed")

    lag_s = worker.metric("lag_seconds", tenant=tenant)
    worker.until(lambda: worker.metric("lag_seconds", tenant=tenant) > lag_s, "the lag to rise")
    assert worker.metric("gap_seconds", tenant=tenant) == 0
    known = worker.tenant(tenant)
    assert (known["records"], known["covered_through"]) == (records, covered)
    assert known["state"] == "unknown"
    assert known["reason"].startswith("brokers are unreachable: ")
    assert any(reason.startswith("brokers are unreachable: ") for reason in worker.status()["reasons"])
    assert known["reason"] in html.unescape(worker.get("/")[1])

    broker_of_its_own.start()
    worker.until_ready()
    worker.until(lambda: worker.tenant(tenant).get("state") == "ok", "the tenant to be read again")
    assert len(worker.status()["tenants"]) == 1
    assert len(worker.series("lag_seconds", tenant=tenant)) == 1
