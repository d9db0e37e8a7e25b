"""Delivery without transactions: no row is ever lost, but rows may be published again after a crash."""

import random
import signal
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests import oracle
from tests.brokers import Cluster, set_topic
from tests.conftest import SharedBroker
from tests.dying_worker import PARTS
from tests.oracle import Committed
from tests.simulation import Simulation
from tests.workers import Worker, configuration

Simulate = Callable[..., Simulation]
NewWorker = Callable[..., Worker]
Settings = Callable[..., dict[str, Any]]

AT_LEAST_ONCE = {"delivery": "at_least_once"}
ROWS = {"unknown": 0.01, "unfit": 0.005, "startless": 0.002}
HISTORY = {"days": 2, "calls_per_day": 2_000, "page_size": 100, "order": "newest", **ROWS}
SLOW = {"slow": 1.0, "slow_s": 0.2}
KILLS = 5


def published(worker: Worker) -> float:
    return worker.metric("rows_total", outcome="published")


def repeated(found: Committed) -> int:
    """Return the number of records of the row topic that repeat another."""
    return len(found.rows) - len({(row.tenant, row.id, row.revision) for row in found.rows})


def test_at_least_once_delivery_loses_no_row_across_kills(
    broker: SharedBroker, topic: str, app: str, simulate: Simulate, new_worker: NewWorker, settings: Settings
) -> None:
    """The worker gets SIGKILL at seeded moments while new rows appear. Its progress records stay true."""
    moments = random.Random(5)
    source = simulate(**HISTORY, clock_offset_s=-7_200)
    worker = new_worker(settings(source, kafka=AT_LEAST_ONCE))
    for kill in range(KILLS):
        source.set_clock_offset(timedelta(minutes=10 * (kill - KILLS)))
        worker.start()
        worker.until_ready()
        threading.Event().wait(moments.uniform(0, 1))  # real time: SIGKILL is sent at a random moment
        worker.kill()
    source.set_clock_offset(timedelta())
    frozen_at = source.freeze()
    worker.start()
    worker.until_complete(frozen_at)
    assert worker.stop() == 0
    found = oracle.check(broker.bootstrap, topic, app, source.truth(), claims=False, repeats=True)
    assert len(found.newest) > 3_600
    assert found.progress
    assert worker.run_once() == 0
    after_next_run = oracle.check(broker.bootstrap, topic, app, source.truth(), claims=False, repeats=True)
    assert (len(after_next_run.rows), len(after_next_run.dead_letters)) == (len(found.rows), len(found.dead_letters))


@pytest.mark.parametrize("part", PARTS[1:])
def test_progress_records_stay_true_after_a_crash_within_a_batch(
    broker: SharedBroker,
    topic: str,
    app: str,
    simulate: Simulate,
    new_worker: NewWorker,
    settings: Settings,
    part: str,
) -> None:
    """Rows of the interrupted batch that are in the dedup index are not published again.

    Progress records that cover these rows name offsets after the rows.
    """
    source = simulate(days=1, calls_per_day=3_000, page_size=100, frozen=True)
    configured = settings(source, kafka=AT_LEAST_ONCE)
    dying = new_worker(configured, "-m", "tests.dying_worker", part)
    dying.start()
    assert dying.wait() == -signal.SIGKILL
    left = oracle.committed(broker.bootstrap, topic, app)
    assert left.rows
    assert not left.progress or part == "checkpoint"
    worker = new_worker(configured)
    worker.start()
    worker.until_complete(datetime.now(UTC))
    assert worker.stop() == 0
    found = oracle.check(broker.bootstrap, topic, app, source.truth(), repeats=True)
    assert found.progress
    assert bool(repeated(found)) is (part != "checkpoint")


def test_at_least_once_worker_writes_no_row_if_state_is_too_long(
    broker: SharedBroker, topic: str, app: str, simulate: Simulate, new_worker: NewWorker, settings: Settings
) -> None:
    source = simulate(days=1, calls_per_day=2_000, page_size=100, clock_offset_s=-3_600, frozen=True)
    worker = new_worker(settings(source, kafka=AT_LEAST_ONCE))
    worker.start()
    worker.until_complete(datetime.now(UTC))
    set_topic(broker.bootstrap, f"{app}.state", "max.message.bytes", "10")
    source.set_clock_offset(timedelta())
    source.freeze()
    worker.until_logged("record_too_long")
    rows = len(oracle.read(broker.bootstrap, topic))
    aborted = worker.metric("transactions_total", outcome="aborted")
    worker.until(
        lambda: worker.metric("transactions_total", outcome="aborted") >= aborted + 2, "the limit to be read again"
    )
    assert len(worker.named("shard_restarting")) <= 2
    assert worker.get("/livez")[0] == 200
    assert len(oracle.read(broker.bootstrap, topic)) == rows
    assert worker.metric("transactions_total", outcome="aborted") >= 1
    set_topic(broker.bootstrap, f"{app}.state", "max.message.bytes", "1000000")
    worker.until_complete(datetime.now(UTC))
    assert worker.stop() == 0
    oracle.check(broker.bootstrap, topic, app, source.truth(), claims=False, repeats=True)


def test_delivery_mode_can_be_switched_without_republishing(
    broker: SharedBroker, topic: str, app: str, simulate: Simulate, new_worker: NewWorker, settings: Settings
) -> None:
    """Both delivery modes use the same dedup index, so nothing is published again after a clean stop."""
    source = simulate(days=1, calls_per_day=2_000, clock_offset_s=-3 * 3_600, frozen=True, **ROWS)
    worker = new_worker(settings(source))
    so_far = 0
    for hours, delivery in ((3, "exactly_once"), (2, "at_least_once"), (1, "exactly_once"), (0, "at_least_once")):
        source.set_clock_offset(timedelta(hours=-hours))
        source.freeze()
        worker.configure(settings(source, kafka={"delivery": delivery}))
        assert worker.run_once() == 0
        found = oracle.check(broker.bootstrap, topic, app, source.truth(), claims=False)
        assert len(found.rows) > so_far
        so_far = len(found.rows)


def test_frozen_at_least_once_worker_loses_no_row(
    broker: SharedBroker, topic: str, app: str, simulate: Simulate, new_worker: NewWorker, settings: Settings
) -> None:
    """Without transactions, the frozen worker is not fenced: its unsent records are written when it wakes.

    Its rows may be published a second time. Its records of the dedup index may overwrite records that the other worker
    has written since, so that rows of the other worker are published a second time as well.
    """
    source = simulate(tenants=4, days=1, calls_per_day=1_500, page_size=50, frozen=True, faults=SLOW)
    configured = settings(source, kafka=AT_LEAST_ONCE)
    frozen, other = new_worker(configured), new_worker(configured)
    frozen.start()
    frozen.until(lambda: published(frozen) > 200, "the worker to publish rows")
    frozen.signal(signal.SIGSTOP)
    other.start()
    other.until(lambda: set(other.status()["shards_owned"]) == {0, 1}, "the other worker to own every shard")
    source.clear_faults()
    other.until_complete(datetime.now(UTC))
    frozen.signal(signal.SIGCONT)
    frozen.until(
        lambda: frozen.get("/readyz")[0] == 200 and len(frozen.status()["shards_owned"]) == 1,
        "each worker to own a shard",
    )
    assert (frozen.stop(), other.stop()) == (0, 0)
    last = new_worker(configured)
    # The deep sweep may have run less than its cadence ago and is then due only in the second run.
    assert (last.run_once(), last.run_once()) == (0, 0)
    found = oracle.check(broker.bootstrap, topic, app, source.truth(), repeats=True)
    assert last.run_once() == 0
    assert len(oracle.check(broker.bootstrap, topic, app, source.truth(), repeats=True).rows) == len(found.rows)


def test_at_least_once_delivery_loses_no_row_if_a_broker_dies(
    broker_of_its_own: Cluster, topic: str, app: str, simulate: Simulate, new_worker: NewWorker
) -> None:
    source = simulate(days=1, calls_per_day=2_000, page_size=40, frozen=True, faults={"slow": 1.0, "slow_s": 0.1})
    worker = new_worker(configuration(broker_of_its_own.bootstrap, topic, app, source, kafka=AT_LEAST_ONCE))
    worker.start()
    worker.until(lambda: published(worker) > 200, "the first rows")
    broker_of_its_own.kill()
    broker_of_its_own.start()
    worker.until_complete(datetime.now(UTC))
    assert worker.stop() == 0
    oracle.check(broker_of_its_own.bootstrap, topic, app, source.truth(), repeats=True)
