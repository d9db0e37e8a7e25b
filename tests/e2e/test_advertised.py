"""Brokers that answer at the bootstrap address and advertise one that clients cannot reach."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import commands
from tests.brokers import HOST, Cluster, free_ports
from tests.simulation import Simulation
from tests.workers import Worker, configuration

pytestmark = [pytest.mark.broker, pytest.mark.java]

DEADLINE_S = 60.0


def advertising(address: str) -> Cluster:
    """Return a cluster whose `address("OPEN")` answers but advertises an unreachable address."""
    cluster = Cluster(listeners={"OPEN": "PLAINTEXT"})
    settings = cluster.brokers[0].settings
    plain, right = cluster.brokers[0].bootstrap, cluster.address("OPEN")
    advertised = f"advertised.listeners=PLAINTEXT://{plain},OPEN://{address}"
    assert right != address
    # If a setting occurs twice, the second one counts.
    settings.write_text(f"{settings.read_text(encoding='utf-8')}{advertised}\n", encoding="utf-8")
    return cluster


@pytest.fixture(scope="module")
def place(request: pytest.FixtureRequest) -> Iterator[tuple[Cluster, str]]:
    """Yield the cluster and the address that it advertises."""
    address = f"{HOST}:{free_ports(1)[0]}" if request.param == "refused" else "broker.invalid:9092"
    with advertising(address) as cluster:
        yield cluster, address


@pytest.fixture(scope="module")
def source() -> Iterator[Simulation]:
    with Simulation(days=0.1, calls_per_day=100) as source:
        yield source


@pytest.mark.parametrize(("place", "topics"), [("refused", "missing"), ("unresolved", "existing")], indirect=["place"])
def test_run_command_names_an_unreachable_advertised_address(
    place: tuple[Cluster, str],
    source: Simulation,
    topics: str,
    topic: str,
    app: str,
    new_worker: Callable[..., Worker],
) -> None:
    cluster, address = place
    if topics == "existing":
        good = new_worker(configuration(cluster.bootstrap, topic, app, source))
        assert good.run_once() == 0
    worker = new_worker(configuration(cluster.address("OPEN"), topic, app, source))
    worker.start()
    event = worker.until_logged("waiting_for_brokers", DEADLINE_S)
    assert f"broker 1 advertises {address}, which cannot be reached" in event["reason"]
    assert "advertised.listeners" in event["remedy"]
    assert worker.get("/livez")[0] == 200
    assert "brokers are unreachable" in worker.get("/readyz")[1]
    assert worker.stop() == 0
    if topics == "existing":
        done = commands.run(worker.config, "status")
        assert (done.code, f"broker 1 advertises {address}" in done.error) == (1, True)


@pytest.mark.parametrize("place", ["refused", "unresolved"], indirect=True)
def test_check_command_names_an_unreachable_advertised_address(
    place: tuple[Cluster, str], source: Simulation, topic: str, app: str, tmp_path: Path
) -> None:
    cluster, address = place
    settings: dict[str, Any] = configuration(cluster.address("OPEN"), topic, app, source)
    done = commands.run(Worker(tmp_path / "worker", settings).config, "check", "--json")
    failed = [finding for finding in json.loads(done.output) if not finding["ok"]]
    assert (done.code, [finding["check"] for finding in failed]) == (1, ["brokers"])
    assert f"broker 1 advertises {address}, which cannot be reached" in failed[0]["message"]
    assert "advertised.listeners" in failed[0]["remedy"]
