"""The service within the test process, so that its timeouts can be shortened."""

import asyncio
import re
import threading
import urllib.request
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from connector.config import load
from connector.pipeline.batch import Batches
from connector.pipeline.owned_tenants import OwnedTenants
from connector.worker.service import Service
from tests.brokers import free_ports, wait_until
from tests.conftest import SharedBroker
from tests.simulation import Simulation
from tests.workers import configuration, toml


async def test_run_once_exits_1_if_brokers_stay_unavailable(
    tmp_path: Path, topic: str, app: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The documented limit of two minutes is shortened."""
    monkeypatch.setattr("connector.worker.startup._UNAVAILABLE_S", 1.0)
    (port,) = free_ports(1)
    with Simulation(days=0, calls_per_day=0) as source:
        file = tmp_path / "connector.toml"
        file.write_text(toml(configuration(f"127.0.0.1:{port}", topic, app, source)), encoding="utf-8")
        assert await Service(load(file, {}), once=True).run() == 1


async def test_run_once_without_shards_exits_0(broker: SharedBroker, tmp_path: Path, topic: str, app: str) -> None:
    """With one shard and two workers, the second worker has nothing to do. It counts as successful."""
    with Simulation(days=0.1, calls_per_day=100, frozen=True) as source:
        file = tmp_path / "connector.toml"
        settings = configuration(broker.bootstrap, topic, app, source, kafka={"shards": 1})
        file.write_text(toml(settings), encoding="utf-8")
        owner = Service(load(file, {}))
        owning = asyncio.create_task(owner.run())
        try:
            await asyncio.to_thread(
                wait_until, lambda: bool(asyncio.run(owner.health.status())["tenants"]), "the owner to own it"
            )
            assert await Service(load(file, {}), once=True).run() == 0
        finally:
            owner.stopping.set()
        assert await owning == 0


async def test_lag_rises_while_a_shard_hangs(
    broker: SharedBroker, tmp_path: Path, topic: str, app: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    hang, hangs, go_on = threading.Event(), threading.Event(), threading.Event()
    prepare = Batches.prepare

    def hanging(batches: Batches, *arguments: Any) -> Any:
        if hang.is_set():
            hangs.set()
            go_on.wait(60)
        return prepare(batches, *arguments)

    monkeypatch.setattr(Batches, "prepare", hanging)
    with Simulation(days=0.1, calls_per_day=100, frozen=True) as source:
        file = tmp_path / "connector.toml"
        file.write_text(toml(configuration(broker.bootstrap, topic, app, source)), encoding="utf-8")
        service = Service(load(file, {}))
        running = asyncio.create_task(service.run())

        def lag_s() -> float:
            with urllib.request.urlopen(f"http://127.0.0.1:{service.web.port}/metrics", timeout=10) as answer:
                found = re.search(r"^direct_routing_lag_seconds{.*} (.*)$", answer.read().decode(), re.MULTILINE)
            return float(found[1]) if found else -1.0

        def watch() -> None:
            wait_until(lambda: bool(asyncio.run(service.health.status())["tenants"]), "the worker to own the tenant")
            wait_until(lambda: 0 <= lag_s() < 60, "the tenant to be read")
            hang.set()
            assert hangs.wait(60)
            before_s = lag_s()
            assert before_s >= 0
            wait_until(lambda: lag_s() > before_s + 2, "the lag to rise")

        try:
            await asyncio.to_thread(watch)
        finally:
            go_on.set()
            service.stopping.set()
        assert await running == 0


async def test_status_request_yields_to_the_event_loop_between_tenants(tmp_path: Path, topic: str, app: str) -> None:
    """A worker of thousands of tenants must continue its work while it answers a status request."""
    with Simulation(days=0, calls_per_day=0, tenants=200) as source:
        file = tmp_path / "connector.toml"
        (port,) = free_ports(1)
        settings = configuration(f"127.0.0.1:{port}", topic, app, source, kafka={"shards": 1})
        file.write_text(toml(settings), encoding="utf-8")
        service = Service(load(file, {}))
        tenants = OwnedTenants(cast("Any", SimpleNamespace(worker=None)))
        standing = SimpleNamespace(tenants=tenants, restored=False, problem=None)
        tenants_of = service._configuration.settings.tenants
        service._shards.worker = cast(
            "Any", SimpleNamespace(tenants_of=lambda _: tenants_of, membership=SimpleNamespace(is_member=True))
        )
        service._shards.running = {0: cast("Any", standing)}
        turns = 0

        async def turn() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        turning = asyncio.create_task(turn())
        status = await service.health.status()
        turning.cancel()
    assert len(status["tenants"]) == 200
    assert turns >= 5
