"""The end of a transaction is lost on the network for longer than a worker waits, so that its outcome is unknown."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime

import pytest

from tests import oracle
from tests.brokers import Cluster
from tests.simulation import Simulation
from tests.wire import END_TXN, Loss, Wires
from tests.workers import Worker, configuration

pytestmark = [pytest.mark.broker, pytest.mark.java]

Simulate = Callable[..., Simulation]
NewWorker = Callable[..., Worker]


@pytest.fixture(scope="module")
def wired_broker() -> Iterator[tuple[Cluster, Wires]]:
    """Yield a broker and the network proxies that lead to it."""
    with Wires(1) as wires, Cluster(proxies=wires.ports) as cluster:
        wires.lead_to([broker.proxied_port for broker in cluster.brokers])
        yield cluster, wires


@pytest.mark.parametrize("loss", ["request", "hold"], ids=["commit_request_lost", "commit_response_lost"])
def test_unknown_commit_outcome_keeps_exactly_once(
    wired_broker: tuple[Cluster, Wires], topic: str, app: str, simulate: Simulate, new_worker: NewWorker, loss: Loss
) -> None:
    cluster, wires = wired_broker
    source = simulate(days=1, calls_per_day=2_000, page_size=60, frozen=True, faults={"slow": 1.0, "slow_s": 0.1})
    worker = new_worker(configuration(wires.bootstrap, topic, app, source))
    worker.start()
    worker.until(lambda: worker.metric("rows_total", outcome="published") > 200, "the first rows")
    before = wires.struck
    wires.lose(END_TXN, loss)
    worker.until(lambda: bool(worker.named("shard_restarting")), "a commit with unknown outcome")
    assert wires.struck > before
    wires.heal()
    source.clear_faults()
    worker.until_complete(datetime.now(UTC))
    assert worker.stop() == 0
    oracle.check(cluster.bootstrap, topic, app, source.truth())
