"""Starting, reloading and stopping a worker, without brokers."""

import asyncio
import dataclasses
import threading
from collections.abc import Awaitable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from confluent_kafka import TopicPartition
from structlog.testing import capture_logs

from connector.config import Settings, load
from connector.errors import BrokersUnavailableError, FatalError
from connector.kafka import topics
from connector.kafka.membership import Membership
from connector.kafka.state import StateIdentity
from connector.kafka.topic_admin import Found
from connector.pipeline.worker_context import Topology
from connector.worker import shutdown
from connector.worker.service import Service
from connector.worker.shutdown import Shutdown
from connector.worker.topology_builder import TopologyBuilder, check_found

CONFIG = """
kafka = { bootstrap_servers = "127.0.0.1:1", app = "app", topic = "calls" }
identity = { client_id = "11111111-1111-4111-8111-111111111111", client_secret = "x" }
tenants = [
    { id = "00000000-0000-4000-8000-000000000001" },
    { id = "00000000-0000-4000-8000-000000000002", topic = "own" },
]
"""


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Return settings with two tenants, of which the second has an own topic."""
    file = tmp_path / "connector.toml"
    file.write_text(CONFIG, encoding="utf-8")
    return load(file, {})


class Exits:
    """Recorder of the exit codes with which the process would have ended."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.codes: list[int] = []
        self.first = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        monkeypatch.setattr("connector.worker.shutdown.os._exit", self._exit)
        # The timer outlives the test, and must not end the test run.
        monkeypatch.setattr(shutdown, "_STOP_S", 86_400.0)

    def _exit(self, code: int) -> None:
        self.codes.append(code)
        self._loop.call_soon_threadsafe(self.first.set)


def process() -> Shutdown:
    """Return the shutdown of a worker that may end the process."""
    worker = Shutdown()
    worker.is_process = True
    return worker


async def test_sigterm_after_a_fatal_error_keeps_exit_code_and_reason(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    exits = Exits(monkeypatch)
    worker = process()
    worker.fail(FatalError("the state is of another cluster"))
    worker.signalled()
    assert not exits.codes
    worker.signalled()
    assert exits.codes == [1]
    assert "the state is of another cluster\n" in capsys.readouterr().err


async def test_second_sigterm_to_a_healthy_worker_exits_0(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    exits = Exits(monkeypatch)
    worker = process()
    worker.signalled()
    worker.signalled()
    assert exits.codes == [0]


@pytest.mark.parametrize("failed", [True, False])
async def test_shutdown_that_hangs_still_exits_with_the_right_code(
    monkeypatch: pytest.MonkeyPatch, *, failed: bool
) -> None:
    exits = Exits(monkeypatch)
    monkeypatch.setattr(shutdown, "_STOP_S", 0.01)
    worker = process()
    if failed:
        worker.fail(FatalError("the state is of another cluster"))
    else:
        worker.signalled()
    await asyncio.wait_for(exits.first.wait(), 10)
    assert exits.codes == [int(failed)]


async def test_waiting_for_shutdown_does_not_swallow_cancellation(settings: Settings) -> None:
    worker = Service(settings)
    started, ended = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    waiting = asyncio.create_task(worker._until_stopped(work()))
    await asyncio.wait_for(started.wait(), 10)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert ended.is_set()


async def test_only_the_first_of_two_fatal_errors_is_reported(settings: Settings) -> None:
    worker = Service(settings)

    async def work() -> None:
        worker._shutdown.fail(FatalError("first"))
        raise FatalError("second")

    await worker._until_stopped(work())
    assert str(worker._shutdown.error) == "first"


class Brokers:
    """Brokers that are unavailable until a reload has added a tenant."""

    def __init__(self) -> None:
        self.asked: list[set[str]] = []
        self.available = asyncio.Event()

    def ensure(self, required: list[topics.Topic], **_: object) -> Found:
        """Record the wanted topics; fail while the brokers are unavailable."""
        self.asked.append({topic.name for topic in required})
        if not self.available.is_set():
            raise BrokersUnavailableError("no broker")
        return Found("cluster", dict.fromkeys(self.asked[-1], 1))


def waiting(service: Service, admin: object) -> Awaitable[Topology | None]:
    """Run the start-up of a worker with `admin` in place of its brokers, and return the topology."""
    return service._startup.wait(TopologyBuilder(cast("Any", admin), None, service._now), once=False)


async def test_topics_exist_for_a_tenant_added_during_the_start(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    brokers = Brokers()
    worker = Service(dataclasses.replace(settings, tenants=settings.tenants[:1]), reload=lambda: settings)
    sleep = asyncio.sleep

    async def reload_meanwhile(_: float) -> None:
        await worker._configuration.reload()
        brokers.available.set()
        await sleep(0)

    monkeypatch.setattr("connector.worker.startup.asyncio.sleep", reload_meanwhile)
    topology = await waiting(worker, brokers)
    assert topology is not None
    assert "own" not in brokers.asked[0]
    assert {"own", "own.dlq", "own.progress"} <= topology.partitions.keys()
    assert topology.tenants == settings.tenants


async def test_topics_exist_for_a_tenant_added_just_before_the_start(settings: Settings) -> None:
    """The reload that adds the tenant ends after the brokers have responded, but before the shards start."""
    loop = asyncio.get_running_loop()
    worker = Service(dataclasses.replace(settings, tenants=settings.tenants[:1]), reload=lambda: settings)

    class Late(Brokers):
        def ensure(self, required: list[topics.Topic], **options: object) -> Found:
            found = super().ensure(required, **options)
            if len(self.asked) == 1:
                asyncio.run_coroutine_threadsafe(worker._configuration.reload(), loop).result(10)
            return found

    brokers = Late()
    brokers.available.set()
    topology = await waiting(worker, brokers)
    assert topology is not None
    assert "own" in topology.partitions
    assert topology.tenants == settings.tenants


async def test_exception_in_a_reload_is_logged(settings: Settings) -> None:
    def reload() -> Settings:
        raise ZeroDivisionError

    worker = Service(settings, reload=reload)
    with capture_logs() as logged:
        await worker._configuration.reload_soon()
    assert [(entry["event"], entry["problems"]) for entry in logged] == [
        ("configuration_reload_failed", "ZeroDivisionError()")
    ]


def test_reload_keeps_the_topics_of_removed_tenants_usable() -> None:
    """Rows of these tenants may still wait for a commit."""
    before = Topology((), "cluster", {"a": 3, "b": 3}, {"a": 1, "b": 2}, {})
    after = Topology((), "cluster", {"b": 6}, {"b": 7}, {}).succeeding(before)
    assert (after.partitions, after.schema_ids) == ({"a": 3, "b": 6}, {"a": 1, "b": 7})


def test_worker_without_an_assignment_is_not_ready(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker has lost its last shard, and no assignment, not even an empty one, has arrived since."""
    worker = Service(settings)
    membership = Membership(worker._clients, "app", "app.control", worker._shards)
    worker._shards.worker = cast("Any", SimpleNamespace(membership=membership))
    outside = "the worker is not in the consumer group yet"
    assert outside in worker.health.ready()[1]
    shard = [TopicPartition("app.control", 0)]
    membership._assign(cast("Any", None), shard)
    assert outside not in worker.health.ready()[1]
    revoked = threading.Event()
    revoked.set()
    monkeypatch.setattr(worker._shards, "revoked", lambda _: revoked)
    membership._revoke(cast("Any", None), shard)
    assert outside in worker.health.ready()[1]
    membership._assign(cast("Any", None), [])
    assert outside not in worker.health.ready()[1]


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (Found("elsewhere", {}), "was written for Kafka cluster here, but the brokers are cluster elsewhere"),
        (Found("here", {"app.control": 9}), "topic app.control has 9 partitions, but kafka.shards is 8"),
    ],
)
async def test_broker_probe_refuses_another_cluster_or_shard_count(
    settings: Settings, found: Found, expected: str
) -> None:
    """The cases: another cluster under the same address, and a control topic with more partitions."""
    identity = StateIdentity("app", "here", "calls")
    check_found(Found("here", {"app.control": 8}), settings, identity)
    with pytest.raises(FatalError, match=expected):
        check_found(found, settings, identity)


async def test_status_of_many_tenants_does_not_block_other_tasks(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise commits and probes would wait until the status of all tenants is complete."""
    health, described, seen = Service(settings).health, 0, set()

    def tenants() -> Iterator[tuple[dict[str, Any], list[Any]]]:
        nonlocal described
        for number in range(200):
            described += 1
            yield {"id": str(number)}, []

    async def look() -> None:
        while described < 200:
            seen.add(described)
            await asyncio.sleep(0)

    monkeypatch.setattr(health, "_described", tenants)
    looking = asyncio.create_task(look())
    assert len((await health.status())["tenants"]) == 200
    await looking
    assert len(seen) >= 7
