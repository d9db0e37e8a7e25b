"""Starting, reloading and stopping a worker, without brokers."""

import asyncio
import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from structlog.testing import capture_logs

from connector import service
from connector.config import Settings, load
from connector.errors import BrokersUnavailableError, FatalError
from connector.kafka import topics
from connector.kafka.state import StateIdentity
from connector.kafka.topics import Found
from connector.service import Service

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
    """Two tenants, the second with a topic of its own."""
    file = tmp_path / "connector.toml"
    file.write_text(CONFIG, encoding="utf-8")
    return load(file, {})


class Exits:
    """Exit codes that the process would have ended with."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.codes: list[int] = []
        self.first = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        monkeypatch.setattr("connector.service.os._exit", self._exit)
        # The timer outlives the test, and must not end the test run.
        monkeypatch.setattr(service, "_STOP_S", 86_400.0)

    def _exit(self, code: int) -> None:
        self.codes.append(code)
        self._loop.call_soon_threadsafe(self.first.set)


def process(settings: Settings) -> Service:
    """Return a service that may end the process."""
    worker = Service(settings)
    worker._is_process = True
    return worker


async def test_sigterm_after_a_failure_keeps_code_and_reason(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    exits = Exits(monkeypatch)
    worker = process(settings)
    worker._fail(FatalError("the state is of another cluster"))
    worker._stop_by_signal()
    assert not exits.codes
    worker._stop_by_signal()
    assert exits.codes == [1]
    assert "the state is of another cluster\n" in capsys.readouterr().err


async def test_second_sigterm_of_a_sound_worker_exits_with_0(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    exits = Exits(monkeypatch)
    worker = process(settings)
    worker._stop_by_signal()
    worker._stop_by_signal()
    assert exits.codes == [0]


@pytest.mark.parametrize("failed", [True, False])
async def test_stop_that_hangs_exits_with_the_right_code(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, *, failed: bool
) -> None:
    exits = Exits(monkeypatch)
    monkeypatch.setattr(service, "_STOP_S", 0.01)
    worker = process(settings)
    if failed:
        worker._fail(FatalError("the state is of another cluster"))
    else:
        worker._stop_by_signal()
    await asyncio.wait_for(exits.first.wait(), 10)
    assert exits.codes == [int(failed)]


async def test_waiting_for_the_stop_does_not_swallow_its_cancellation(settings: Settings) -> None:
    worker = Service(settings)
    ended = asyncio.Event()

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    waiting = asyncio.create_task(worker._until_stopped(work()))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert ended.is_set()


async def test_error_of_a_shard_outlives_one_that_follows(settings: Settings) -> None:
    worker = Service(settings)

    async def work() -> None:
        worker._error = FatalError("first")
        raise FatalError("second")

    await worker._until_stopped(work())
    assert str(worker._error) == "first"


class Brokers:
    """Brokers that are unavailable until SIGHUP has brought a tenant."""

    def __init__(self) -> None:
        self.asked: list[set[str]] = []
        self.available = asyncio.Event()

    def ensure(self, wanted: list[topics.Topic], **_: object) -> Found:
        """Take the topics down."""
        self.asked.append({topic.name for topic in wanted})
        if not self.available.is_set():
            raise BrokersUnavailableError("no broker")
        return Found("cluster", dict.fromkeys(self.asked[-1], 1))


async def test_topics_of_a_tenant_that_comes_during_the_wait_are_ensured(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    brokers = Brokers()
    worker = Service(dataclasses.replace(settings, tenants=settings.tenants[:1]), reload=lambda: settings)
    sleep = asyncio.sleep

    async def reload_meanwhile(_: float) -> None:
        await worker._read_again()
        brokers.available.set()
        await sleep(0)

    monkeypatch.setattr("connector.service.asyncio.sleep", reload_meanwhile)
    topology = await worker._prepare(cast("Any", brokers))
    assert topology is not None
    assert "own" not in brokers.asked[0]
    assert {"own", "own.dlq", "own.progress"} <= topology.partitions.keys()


async def test_topics_of_a_tenant_that_comes_at_the_last_moment_are_ensured(settings: Settings) -> None:
    """The reload ends between the answer of the brokers and the start of the shards."""
    loop = asyncio.get_running_loop()
    worker = Service(dataclasses.replace(settings, tenants=settings.tenants[:1]), reload=lambda: settings)

    class Late(Brokers):
        def ensure(self, wanted: list[topics.Topic], **options: object) -> Found:
            found = super().ensure(wanted, **options)
            if len(self.asked) == 1:
                asyncio.run_coroutine_threadsafe(worker._read_again(), loop).result(10)
            return found

    brokers = Late()
    brokers.available.set()
    topology = await worker._prepare(cast("Any", brokers))
    assert topology is not None
    assert "own" in topology.partitions


async def test_reload_that_fails_of_a_bug_is_logged(settings: Settings) -> None:
    def reload() -> Settings:
        raise ZeroDivisionError

    worker = Service(settings, reload=reload)
    worker._loop = asyncio.get_running_loop()
    with capture_logs() as logged:
        worker._reload_by_signal()
        (task,) = worker._reloads
        await task
    assert [(entry["event"], entry["problems"]) for entry in logged] == [
        ("configuration_not_reloaded", "ZeroDivisionError()")
    ]


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (Found("elsewhere", {}), "was written for Kafka cluster here, this is elsewhere"),
        (Found("here", {"app.control": 9}), "topic app.control has 9 partitions, kafka.shards is 8"),
    ],
)
async def test_probe_refuses_what_the_start_would_refuse(settings: Settings, found: Found, expected: str) -> None:
    """Another cluster that takes over under the same address, and a control topic that was enlarged."""
    worker = Service(settings)
    worker._around = cast("Any", SimpleNamespace(home=StateIdentity("app", "here", "calls")))
    worker._check_found(Found("here", {"app.control": 8}))
    with pytest.raises(FatalError, match=expected):
        worker._check_found(found)
