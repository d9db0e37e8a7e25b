"""Several workers of one app: each shard has one owner, whatever happens to other workers."""

import signal
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from tests import oracle
from tests.brokers import wait_until
from tests.conftest import SharedBroker
from tests.simulation import Simulation
from tests.workers import Worker

Simulate = Callable[..., Simulation]
NewWorker = Callable[..., Worker]
Settings = Callable[..., dict[str, Any]]

MANY = {"tenants": 4, "days": 1, "calls_per_day": 1_500, "page_size": 100, "frozen": True}
SLOW = {"slow": 1.0, "slow_s": 0.2}


def owned(worker: Worker) -> set[int]:
    return set(worker.status()["shards_owned"])


def tenants(worker: Worker) -> set[str]:
    """Return the tenants whose metrics a worker exports."""
    return {labels["tenant"] for labels, _ in worker.series("tenant_up")}


def test_second_worker_of_the_same_app_duplicates_nothing(
    broker: SharedBroker, topic: str, app: str, simulate: Simulate, new_worker: NewWorker, settings: Settings
) -> None:
    """Only the owner of a shard exports the metrics of its tenants. Wazuh ms-graph and castorm had this defect."""
    source = simulate(**MANY, faults=SLOW)
    configured = settings(source, kafka={"shards": 4})
    first, second = new_worker(configured), new_worker(configured)
    first.start()
    first.until(lambda: first.metric("rows_total", outcome="published") > 0, "the first rows")
    second.start()
    second.until(lambda: len(owned(first)) == 2 and len(owned(second)) == 2, "each worker to own two shards")
    assert owned(first) | owned(second) == {0, 1, 2, 3}
    wait_until(lambda: tenants(first) | tenants(second) == set(source.tenants), "every tenant's series")
    assert not tenants(first) & tenants(second)
    source.clear_faults()
    since = datetime.now(UTC)
    first.until_complete(since, len(tenants(first)))
    second.until_complete(since, len(tenants(second)))
    assert second.stop() == 0
    first.until(lambda: len(owned(first)) == 4, "the shards of the stopped worker")
    assert first.stop() == 0
    oracle.check(broker.bootstrap, topic, app, source.truth())


def test_frozen_worker_publishes_nothing_after_session_expiry(
    broker: SharedBroker, topic: str, app: str, simulate: Simulate, new_worker: NewWorker, settings: Settings
) -> None:
    """The worker gets SIGSTOP during a commit, and SIGCONT after its group session has expired (KIP-447)."""
    source = simulate(**MANY, faults=SLOW)
    configured = settings(source)
    frozen, other = new_worker(configured), new_worker(configured)
    frozen.start()
    frozen.until(lambda: frozen.metric("rows_total", outcome="published") > 200, "the worker to publish rows")
    frozen.signal(signal.SIGSTOP)
    other.start()
    other.until(lambda: owned(other) == {0, 1}, "the other worker to own every shard")
    source.clear_faults()
    other.until_complete(datetime.now(UTC))
    before = len(oracle.committed(broker.bootstrap, topic, app).rows)
    frozen.signal(signal.SIGCONT)
    frozen.until(lambda: len(owned(frozen)) == 1 and len(owned(other)) == 1, "each worker to own a shard")
    frozen.until(lambda: frozen.get("/readyz")[0] == 200, "the resumed worker to be ready")
    since = datetime.now(UTC)
    for worker in (frozen, other):
        worker.until_complete(since, len(tenants(worker)))
    assert (frozen.stop(), other.stop()) == (0, 0)
    found = oracle.check(broker.bootstrap, topic, app, source.truth())
    assert len(found.rows) == before


def test_shards_that_move_between_workers_keep_exactly_once(
    broker: SharedBroker, topic: str, app: str, simulate: Simulate, new_worker: NewWorker, settings: Settings
) -> None:
    """Each worker that joins or leaves causes a rebalance, which aborts open transactions."""
    source = simulate(**MANY, faults={"slow": 1.0, "slow_s": 0.1})
    configured = settings(source, kafka={"shards": 4})
    workers = [new_worker(configured) for _ in range(3)]
    for worker in workers:
        worker.start()
        worker.until_logged("service_started")
    workers[1].until(lambda: bool(owned(workers[1])), "the second worker to own a shard")
    workers[0].kill()
    workers[2].until(
        lambda: owned(workers[1]) | owned(workers[2]) == {0, 1, 2, 3},
        "others to own its shards",
    )
    assert workers[1].stop() == 0
    source.clear_faults()
    workers[2].until(lambda: len(owned(workers[2])) == 4, "the last worker to own every shard")
    workers[2].until_complete(datetime.now(UTC))
    assert workers[2].stop() == 0
    oracle.check(broker.bootstrap, topic, app, source.truth())


def test_two_run_once_workers_share_the_shards_and_exit_0(
    broker: SharedBroker, topic: str, app: str, simulate: Simulate, new_worker: NewWorker, settings: Settings
) -> None:
    source = simulate(**MANY)
    configured = settings(source)
    workers = [new_worker(configured) for _ in range(2)]
    for worker in workers:
        worker.start("--once")
    assert [worker.wait() for worker in workers] == [0, 0]
    last = new_worker(configured)
    assert last.run_once() == 0
    oracle.check(broker.bootstrap, topic, app, source.truth())


def test_new_consumer_group_protocol_moves_shards_to_new_workers(
    broker: SharedBroker, topic: str, app: str, simulate: Simulate, new_worker: NewWorker, settings: Settings
) -> None:
    """With KIP-848, settings of the classic protocol are left out, because librdkafka would refuse them."""
    source = simulate(**MANY)
    properties = {**settings(source)["kafka"]["properties"], "group.protocol": "consumer"}
    configured = settings(source, kafka={"shards": 4, "properties": properties})
    first, second = new_worker(configured), new_worker(configured)
    first.start()
    first.until(lambda: len(owned(first)) == 4, "the first worker to own every shard")
    second.start()
    second.until(lambda: len(owned(first)) == 2 and len(owned(second)) == 2, "each worker to own two shards")
    for worker in (first, second):
        worker.until(lambda w=worker: w.get("/readyz")[0] == 200, "both workers to be ready")  # type: ignore[misc]
    assert second.stop() == 0
    first.until(lambda: len(owned(first)) == 4, "the shards of the stopped worker")
    first.until_complete(datetime.now(UTC))
    assert first.stop() == 0
    oracle.check(broker.bootstrap, topic, app, source.truth())


def test_worker_finds_new_rows_after_the_clock_was_set_back(
    broker: SharedBroker, topic: str, app: str, simulate: Simulate, new_worker: NewWorker, settings: Settings
) -> None:
    """The state says that sweeps are due at times which lie in the future by the corrected clock."""
    source = simulate(days=1, calls_per_day=2_000, clock_offset_s=-7_200)
    source.freeze()
    configured = settings(source)
    ahead = new_worker(configured, "-m", "tests.shifted_worker", "30m")
    assert ahead.run_once() == 0
    source.set_clock_offset(timedelta(minutes=-1))
    source.freeze()
    now = new_worker(configured)
    now.start()
    now.until(lambda: now.metric("rows_total", outcome="published") > 0, "rows that appeared since")
    assert now.metric("lag_seconds") < 60
    sweeps = now.metric("sweeps_total", outcome="ok")
    now.until(lambda: now.metric("sweeps_total", outcome="ok") >= sweeps + 4, "more sweeps")
    assert now.stop() == 0
    oracle.check(broker.bootstrap, topic, app, source.truth(), claims=False)
