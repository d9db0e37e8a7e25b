"""Tenants are added, removed and changed while a worker runs. State of removed ones is kept until the horizon."""

import json
import signal
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from connector.kafka.clients import Clients
from connector.kafka.restore import read_compacted
from tests import commands, oracle
from tests.conftest import SharedBroker
from tests.simulation import Simulation
from tests.workers import Worker

Simulate = Callable[..., Simulation]
NewWorker = Callable[..., Worker]
Settings = Callable[..., dict[str, Any]]

SHIFTED = ("-m", "tests.shifted_worker")
SEARCHING = (
    "-c",
    "from connector import cli; from connector.worker import unread_tenants as it;"  # noqa: ISC004 - one argument
    " it.FIRST_LOOK_S = it.LOOK_EVERY_S = 0.5; cli.main()",
    "run",
)
"Program of a worker that searches twice per second for tenants that no worker reads."
TINY = {"days": 0.1, "calls_per_day": 1_000, "frozen": True}


def read_again(worker: Worker, tenants: list[dict[str, Any]], answer: str) -> dict[str, Any]:
    """Make the worker reload its configuration with these tenants. Return the log event `answer` that follows."""
    before = len(worker.named(answer))
    worker.configure({**worker.settings, "tenants": tenants})
    worker.signal(signal.SIGHUP)
    worker.until(lambda: len(worker.named(answer)) > before, answer)
    return worker.named(answer)[-1]


def is_read(worker: Worker, tenant: str, since: datetime) -> bool:
    """Return whether all call time of a tenant was read since a given time."""
    known = worker.tenant(tenant)
    pieces = known.get("coverage") or []
    return bool(pieces) and all(datetime.fromisoformat(piece["last_read"]) >= since for piece in pieces)


def test_reload_of_changed_tenants_does_not_affect_others(
    broker: SharedBroker, topic: str, app: str, simulate: Simulate, new_worker: NewWorker, settings: Settings
) -> None:
    source = simulate(**TINY, tenants=4)
    same, changed, gone, new = source.tenants
    table = {tenant: {"id": tenant, "name": f"name-{n}", "start": "-19d"} for n, tenant in enumerate(source.tenants)}
    worker = new_worker(settings(source, kafka={"shards": 1}, tenants=[table[same], table[changed], table[gone]]))
    worker.start()
    worker.until_complete(datetime.now(UTC))
    requests = worker.metric("graph_requests_total", tenant="name-0")
    read_again(worker, [table[same], table[changed] | {"name": "renamed"}, table[new]], "tenants_changed")
    since = datetime.now(UTC)
    worker.until(
        lambda: all(is_read(worker, tenant, since) for tenant in (same, changed, new)), "all tenants to be read"
    )
    labels = {label["tenant"] for label, _ in worker.series("tenant_up")}
    assert labels == {"name-0", "renamed", "name-3"}
    assert worker.metric("graph_requests_total", tenant="name-0") > requests
    left = worker.tenant(gone)
    assert (left["state"], left["reason"], left["name"]) == ("unknown", "not configured", None)
    assert left["coverage"]
    assert left["remembered_rows"] > 0
    tokens = [request.tenant for request in source.requests("token")]
    assert tokens.count(same) == 1

    read_again(worker, [table[tenant] for tenant in source.tenants], "tenants_changed")
    worker.until_complete(datetime.now(UTC), 4)
    assert len(worker.named("shard_restored")) == 1
    assert not worker.named("shard_restarting")
    assert worker.stop() == 0
    oracle.check(broker.bootstrap, topic, app, source.truth())


def test_command_for_an_unknown_tenant_waits_until_it_is_added(
    simulate: Simulate, new_worker: NewWorker, settings: Settings
) -> None:
    """A rolling deployment adds a tenant to other workers first.

    The shard's owner keeps the command, even over a restart.
    """
    source = simulate(**TINY, tenants=2)
    one, new = ({"id": tenant} for tenant in source.tenants)
    worker = new_worker(settings(source, kafka={"shards": 1}, tenants=[one]))
    worker.start()
    worker.until_complete(datetime.now(UTC), 1)
    worker.configure({**worker.settings, "tenants": [one, new]})
    commands.succeed(worker.config, "backfill", "--tenant", new["id"], "--from", "-3d", "--to", "-2d")
    commands.succeed(worker.config, "pause", "--tenant", new["id"])
    worker.until(lambda: len(worker.named("command_kept")) == 2, "the commands to be stored")
    assert worker.stop() == 0
    (waiting,) = commands.jobs(worker.config).values()
    assert (waiting["tenant"], waiting["state"]) == (new["id"], "waiting")
    worker.start()
    worker.until(lambda: worker.tenant(new["id"]).get("state") == "paused", "the new tenant to be paused")
    assert commands.jobs(worker.config).keys() == {waiting["id"]}
    assert worker.stop() == 0


def test_sighup_with_an_invalid_file_changes_nothing(
    topic: str, simulate: Simulate, new_worker: NewWorker, settings: Settings
) -> None:
    """A file with another common topic changes nothing either, because only a restarted worker can use it."""
    source = simulate(**TINY)
    (tenant,) = source.tenants
    configured = settings(source)
    worker = new_worker(configured)
    worker.start()
    worker.until_complete(datetime.now(UTC))
    event = read_again(worker, [{"id": tenant}, {"id": tenant}], "configuration_reload_failed")
    assert "tenants" in event["problems"]
    worker.settings = {**configured, "kafka": {**configured["kafka"], "topic": f"{topic}-other"}}
    event = read_again(worker, configured["tenants"], "configuration_reload_failed")
    assert f"kafka.topic: is {topic}-other, but was {topic} when the worker started" in event["problems"]
    worker.until_complete(datetime.now(UTC))
    assert worker.tenant(tenant)["state"] == "ok"
    assert not worker.named("configuration_reloaded")
    assert worker.stop() == 0


def is_rejected(worker: Worker, tenant: str) -> bool:
    """Return whether a tenant fails because of its configuration, in status and metrics alike."""
    known = worker.tenant(tenant)
    return (
        known.get("state") == "failing"
        and worker.metric("tenant_failing", tenant=tenant, reason="rejected") == 1
        and [value for _, value in worker.series("tenant_up", tenant=tenant)] == [0]
    )


def test_changed_topic_rejects_only_the_tenant_that_uses_it(
    broker: SharedBroker, topic: str, app: str, simulate: Simulate, new_worker: NewWorker, settings: Settings
) -> None:
    """This is so after SIGHUP and after a restart. The tenant continues once a corrected file was loaded."""
    source = simulate(**TINY, tenants=2)
    good, wrong = source.tenants
    configured = settings(source, kafka={"shards": 1})
    mistaken = [{"id": good, "start": "-19d"}, {"id": wrong, "start": "-19d", "topic": f"{topic}-other"}]
    worker = new_worker(configured)
    worker.start()
    worker.until_complete(datetime.now(UTC))
    event = read_again(worker, mistaken, "tenant_rejected")
    assert f"its topic is {topic}-other" in event["reason"]
    assert "SIGHUP" in event["reason"]
    for start in (False, True):
        if start:
            assert worker.stop() == 0
            worker.start()
        worker.until(lambda: is_rejected(worker, wrong), "the tenant to be rejected")
        assert f"its topic is {topic}-other" in worker.tenant(wrong)["reason"]
        since = datetime.now(UTC)
        worker.until(lambda: is_read(worker, good, since), "the other tenant to be read")  # noqa: B023
        assert worker.get("/readyz")[0] == 200
        states = {t["id"]: t for t in commands.status(worker.config)["tenants"]}
        assert (states[wrong]["state"], states[good]["state"]) == ("failing", "ok")
        assert f"its topic is {topic}-other" in states[wrong]["reason"]
    read_again(worker, configured["tenants"], "tenants_changed")
    worker.until_complete(datetime.now(UTC))
    assert not worker.metric("tenant_failing", tenant=wrong)
    assert worker.stop() == 0
    assert not oracle.read(broker.bootstrap, f"{topic}-other")
    oracle.check(broker.bootstrap, topic, app, source.truth())


def test_next_owner_of_a_shard_rejects_a_changed_tenant_topic(
    topic: str, simulate: Simulate, new_worker: NewWorker, settings: Settings
) -> None:
    """A rolling restart with a wrong file must not stop all workers."""
    source = simulate(**TINY, tenants=2)
    good, wrong = source.tenants
    configured = settings(source, kafka={"shards": 1})
    owner, standby = new_worker(configured), new_worker(configured)
    owner.start()
    owner.until_complete(datetime.now(UTC))
    standby.start()
    standby.until(lambda: standby.get("/readyz")[0] == 200, "the standby to be ready")
    mistaken = [{"id": good, "start": "-19d"}, {"id": wrong, "start": "-19d", "topic": f"{topic}-other"}]
    for worker in (owner, standby):
        read_again(worker, mistaken, "configuration_reloaded")
    owner.until(lambda: is_rejected(owner, wrong), "the owner to reject the tenant")
    assert owner.stop() == 0
    standby.until(lambda: is_rejected(standby, wrong), "the next owner to reject the tenant")
    since = datetime.now(UTC)
    standby.until(lambda: is_read(standby, good, since), "the other tenant to be read")
    read_again(standby, configured["tenants"], "tenants_changed")
    standby.until_complete(datetime.now(UTC))
    assert standby.stop() == 0


def test_tenant_that_no_worker_reads_is_in_metrics_status_and_log(
    simulate: Simulate, new_worker: NewWorker, settings: Settings
) -> None:
    """Two tenants are missing in the configuration of the shard's owner: one was read earlier, the other never."""
    source = simulate(**TINY, tenants=3)
    kept, left, new = ({"id": tenant, "start": "-19d"} for tenant in source.tenants)
    configured = settings(source, kafka={"shards": 1}, tenants=[kept, left])
    owner, standby = new_worker(configured, *SEARCHING), new_worker(configured, *SEARCHING)
    owner.start()
    owner.until_complete(datetime.now(UTC))
    standby.start()
    standby.until(lambda: standby.get("/readyz")[0] == 200, "the standby to be ready")
    read_again(standby, [kept, left, new], "configuration_reloaded")
    read_again(owner, [kept], "tenants_changed")
    standby.until(lambda: standby.metric("tenants_unread") == 2, "two unread tenants")
    unread = {entry["id"]: entry["reason"] for entry in standby.status()["tenants_unread"]}
    assert unread[left["id"]].startswith(
        "the worker that owns the tenant's shard does not have the tenant in its configuration: "
    )
    assert unread[new["id"]].startswith("no worker has read the tenant yet")
    assert {event["tenant"] for event in standby.named("tenant_unread")} == unread.keys()
    assert [event["tenant"] for event in owner.named("tenant_not_configured")] == [left["id"]]
    assert owner.tenant(left["id"])["reason"] == "not configured"
    stated = {
        entry["id"]: entry for entry in json.loads(commands.succeed(standby.config, "status", "--json"))["tenants"]
    }
    assert (stated[left["id"]]["state"], stated[left["id"]]["reason_code"]) == ("failing", "not_configured")
    assert (stated[new["id"]]["state"], stated[new["id"]]["reason"]) == ("unknown", "no worker has read the tenant yet")

    read_again(owner, [kept, left, new], "tenants_changed")
    owner.until_complete(datetime.now(UTC))
    standby.until(lambda: standby.metric("tenants_unread") == 0, "no unread tenant")
    assert standby.status()["tenants_unread"] == []
    assert owner.tenant(left["id"])["state"] == "ok"
    assert (owner.stop(), standby.stop()) == (0, 0)


@pytest.mark.parametrize("start", [True, False], ids=["start", "SIGHUP"])
def test_unusable_topic_rejects_only_the_tenant_that_uses_it(
    broker: SharedBroker, topic: str, simulate: Simulate, new_worker: NewWorker, settings: Settings, *, start: bool
) -> None:
    """The own topic of one tenant is compacted, and its rows share a key."""
    source = simulate(**TINY, tenants=2)
    good, wrong = source.tenants
    admin = AdminClient({"bootstrap.servers": broker.bootstrap, "log_level": 0})
    (created,) = admin.create_topics([NewTopic(f"{topic}-own", 1, config={"cleanup.policy": "compact"})]).values()
    created.result(10)
    configured = settings(source, kafka={"shards": 1}, rows={"key": "correlationId"})
    mistaken = [{"id": good, "start": "-19d"}, {"id": wrong, "start": "-19d", "topic": f"{topic}-own"}]
    worker = new_worker(configured | {"tenants": mistaken if start else mistaken[:1]})
    worker.start()
    since = datetime.now(UTC)
    worker.until(lambda: is_read(worker, good, since), "the valid tenant to be read")
    if not start:
        read_again(worker, mistaken, "configuration_reloaded")
    worker.until(lambda: is_rejected(worker, wrong), "the other tenant to be rejected")
    assert "cleanup.policy=compact" in worker.tenant(wrong)["reason"]
    read_again(worker, configured["tenants"], "tenants_changed")
    worker.until_complete(datetime.now(UTC), 2)
    assert worker.stop() == 0


def test_state_of_a_removed_tenant_expires_at_the_horizon(
    broker: SharedBroker, app: str, simulate: Simulate, new_worker: NewWorker, settings: Settings
) -> None:
    # A time in the past, because brokers refuse timestamps that are far in the future.
    source = simulate(days=1, calls_per_day=40, tenants=2, clock_offset_s=-200 * 86_400)
    stays, gone = source.tenants
    configured = settings(source, kafka={"shards": 1}, windows={"slice": "30d"})
    assert new_worker(configured, *SHIFTED, "-200d").run_once() == 0
    names = (f"{app}.state", f"{app}.seen")

    def known() -> list[int]:
        """Return the number of records per topic that belong to a tenant."""
        values = read_compacted(Clients(broker.bootstrap, {}), names, 0)
        return [sum(gone.lower().encode() in key for key in values[name]) for name in names]

    assert all(known())
    configured |= {"tenants": [{"id": stays, "start": "-19d"}]}
    source.set_clock_offset(timedelta(days=-100))
    assert new_worker(configured, *SHIFTED, "-100d").run_once() == 0
    assert all(known())
    source.set_clock_offset(timedelta())
    assert new_worker(configured).run_once() == 0
    assert known() == [0, 0]
