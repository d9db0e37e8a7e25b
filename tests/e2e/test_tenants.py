"""Tenants come, go and change while a worker runs; what is known of those that went is kept until the horizon."""

import signal
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from connector.kafka.clients import Clients
from connector.kafka.restore import read_compacted
from tests import oracle
from tests.conftest import SharedBroker
from tests.simulation import Simulation
from tests.workers import Worker

Simulate = Callable[..., Simulation]
NewWorker = Callable[..., Worker]
Settings = Callable[..., dict[str, Any]]

SHIFTED = ("-m", "tests.shifted_worker")
TINY = {"days": 0.1, "calls_per_day": 1_000, "frozen": True}


def read_again(worker: Worker, tenants: list[dict[str, Any]], answer: str) -> dict[str, Any]:
    """Tell the worker of other tenants; what it logs as `answer`."""
    before = len(worker.named(answer))
    worker.configure({**worker.settings, "tenants": tenants})
    worker.signal(signal.SIGHUP)
    worker.until(lambda: len(worker.named(answer)) > before, answer)
    return worker.named(answer)[-1]


def is_read(worker: Worker, tenant: str, since: datetime) -> bool:
    """Whether all its call time was read after an instant."""
    known = worker.tenant(tenant)
    pieces = known.get("coverage") or []
    return bool(pieces) and all(datetime.fromisoformat(piece["last_read"]) >= since for piece in pieces)


def test_tenants_come_go_and_change_while_it_runs_and_the_others_go_on_undisturbed(
    broker: SharedBroker, topic: str, app: str, simulate: Simulate, new_worker: NewWorker, settings: Settings
) -> None:
    source = simulate(**TINY, tenants=4)
    same, changed, gone, new = source.tenants
    one = {tenant: {"id": tenant, "name": f"name-{n}", "start": "-19d"} for n, tenant in enumerate(source.tenants)}
    worker = new_worker(settings(source, kafka={"shards": 1}, tenants=[one[same], one[changed], one[gone]]))
    worker.start()
    worker.until_complete(datetime.now(UTC))
    requests = worker.metric("graph_requests_total", tenant="name-0")
    read_again(worker, [one[same], one[changed] | {"name": "renamed"}, one[new]], "tenants_changed")
    since = datetime.now(UTC)
    worker.until(lambda: all(is_read(worker, tenant, since) for tenant in (same, changed, new)), "three to be read")
    labels = {label["tenant"] for label, _ in worker.series("tenant_up")}
    assert labels == {"name-0", "renamed", "name-3"}
    assert worker.metric("graph_requests_total", tenant="name-0") > requests
    left = worker.tenant(gone)
    assert (left["state"], left["reason"], left["name"]) == ("unknown", "not configured", None)
    assert left["coverage"]
    assert left["remembered_rows"] > 0
    tokens = [request.tenant for request in source.requests("token")]
    assert tokens.count(same) == 1

    read_again(worker, [one[tenant] for tenant in source.tenants], "tenants_changed")
    worker.until_complete(datetime.now(UTC), 4)
    assert len(worker.named("shard_restored")) == 1
    assert not worker.named("shard_restarting")
    assert worker.stop() == 0
    oracle.check(broker.bootstrap, topic, app, source.truth())


def test_a_file_that_is_wrong_leaves_everything_as_it_is_with_one_line(
    topic: str, simulate: Simulate, new_worker: NewWorker, settings: Settings
) -> None:
    """Also one that only a new worker could follow: another topic for a tenant that has been read."""
    source = simulate(**TINY)
    (tenant,) = source.tenants
    worker = new_worker(settings(source))
    worker.start()
    worker.until_complete(datetime.now(UTC))
    said = read_again(worker, [{"id": tenant}, {"id": tenant}], "configuration_not_reloaded")
    assert "tenants" in said["problems"]
    said = read_again(worker, [{"id": tenant, "topic": f"{topic}-other"}], "configuration_not_reloaded")
    assert f"its topic is {topic}-other" in said["problems"]
    worker.until_complete(datetime.now(UTC))
    assert worker.tenant(tenant)["state"] == "ok"
    assert not worker.named("configuration_reloaded")
    assert worker.stop() == 0


def test_a_tenant_that_was_removed_is_kept_until_the_horizon_and_then_forgotten(
    broker: SharedBroker, app: str, simulate: Simulate, new_worker: NewWorker, settings: Settings
) -> None:
    # In the past: brokers refuse what is dated far ahead.
    source = simulate(days=1, calls_per_day=40, tenants=2, clock_offset_s=-200 * 86_400)
    stays, gone = source.tenants
    configured = settings(source, kafka={"shards": 1}, windows={"slice": "30d"})
    assert new_worker(configured, *SHIFTED, "-200d").run_once() == 0
    names = (f"{app}.state", f"{app}.seen")

    def known() -> list[int]:
        """In how many records of each topic it is."""
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
