"""Brokers without the transaction API: a real broker behind a proxy that hides it from every client."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from tests import commands, oracle
from tests.brokers import Cluster
from tests.simulation import Simulation
from tests.wire import ADD_OFFSETS, END_TXN, TRANSACTION_API, Wires
from tests.workers import Worker, configuration

pytestmark = [pytest.mark.broker, pytest.mark.java]

Simulate = Callable[..., Simulation]
NewWorker = Callable[..., Worker]


def problems(worker: Worker) -> list[dict[str, Any]]:
    """Return the log events of level warning and above, except that a broker which has just started is not ready."""
    found = [entry for entry in worker.events if entry["level"] not in ("debug", "info")]
    return [entry for entry in found if "Coordinator load in progress" not in entry.get("message", "")]


@pytest.fixture(scope="module")
def limited() -> Iterator[tuple[Cluster, Wires]]:
    """Yield a broker and the proxy that hides a part of its API."""
    with Wires(1) as wires, Cluster(proxies=wires.ports) as cluster:
        wires.lead_to([broker.proxied_port for broker in cluster.brokers])
        yield cluster, wires


def test_at_least_once_needs_no_idempotent_producer(
    limited: tuple[Cluster, Wires], topic: str, app: str, simulate: Simulate, new_worker: NewWorker
) -> None:
    cluster, wires = limited
    wires.hide(TRANSACTION_API)
    source = simulate(days=1, calls_per_day=2_000, page_size=100, frozen=True)
    worker = new_worker(configuration(wires.bootstrap, topic, app, source, kafka={"delivery": "at_least_once"}))
    worker.start()
    worker.until_complete(datetime.now(UTC))
    checked = commands.run(worker.config, "check")
    assert "ok transactions: not used" in checked.output
    assert "the brokers have no idempotent producers" in checked.output
    assert not checked.code, checked.output
    commands.succeed(worker.config, "pause", "--tenant", source.tenants[0])
    assert worker.stop() == 0
    found = oracle.check(cluster.bootstrap, topic, app, source.truth())
    assert len(found.rows) > 1_000
    (warning,) = problems(worker)
    assert warning["event"] == "idempotence_unsupported"


@pytest.mark.parametrize("hidden", [TRANSACTION_API, {ADD_OFFSETS}, {END_TXN}], ids=["all", "add_offsets", "end"])
def test_exactly_once_warns_once_that_transactions_are_missing(
    limited: tuple[Cluster, Wires],
    topic: str,
    app: str,
    simulate: Simulate,
    new_worker: NewWorker,
    hidden: frozenset[int],
) -> None:
    _, wires = limited
    wires.hide(hidden)
    worker = new_worker(configuration(wires.bootstrap, topic, app, simulate(days=1, calls_per_day=100)))
    worker.start()
    worker.until_logged("transactions_unsupported")
    opened = wires.opened
    codes: list[int] = []

    def are_opened() -> bool:
        codes.append(worker.get("/readyz")[0])
        return wires.opened > opened + 10

    worker.until(are_opened, "further producers to be opened")
    assert set(codes) == {503}
    (warning,) = problems(worker)
    assert "not supported by" in warning["reason"]
    assert "choose a service tier with transactions" in warning["reason"]
    assert 'or set kafka.delivery = "at_least_once"' in warning["reason"]
    code, ready = worker.get("/readyz")
    assert (code, 'kafka.delivery = \\"at_least_once\\"' in ready) == (503, True)
