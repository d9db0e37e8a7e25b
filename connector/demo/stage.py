"""Run of the demo with simulator, broker, service and consumer, and a comparison of Graph and topic at the end."""

import asyncio
import json
import os
import time
import uuid
from collections.abc import Generator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from connector import brokers, log
from connector.config import Settings, duration_text, load
from connector.demo.screen import Screen, total
from connector.demo.tally import Arrival, Tally, Verdict
from connector.errors import FatalError
from connector.kafka import topics
from connector.kafka.log_reader import LogReader, NewRecords, entry, from_beginning
from connector.kafka.mock import PARTITIONS, MockCluster
from connector.simulator import Options, Simulator
from connector.worker.service import Service

_NAMES = ("contoso", "fabrikam", "northwind")
_SEED = 7
_HISTORY = timedelta(hours=2)
_SLACK = timedelta(minutes=30)
_TICK_S = 0.25
_READY_S = 20.0
_SETTLE_S = 60.0
_STOP_S = 10.0
_DECIDED_S = 10.0
_READ_VARIABLES = ("CONNECTOR_KAFKA__PROPERTIES", "CONNECTOR_HTTP__", "CONNECTOR_LOG__")
_FAULTS = {
    "throttled": 0.02,
    "retry_after_s": 1.0,
    "server_error": 0.02,
    "cut": 0.01,
    "upper_link": 0.3,
    "repeat_once": 0.03,
}


def perform(span: timedelta, bootstrap_servers: str) -> int:
    """Run the demo. Return 0 if no row is missing or duplicated, otherwise 1.

    `span` is the time during which new calls appear. `bootstrap_servers` is empty for the mock cluster in this process.
    Raises KeyboardInterrupt if the demo is interrupted with Ctrl-C.
    """
    return asyncio.run(_perform(span, bootstrap_servers))


async def _perform(span: timedelta, bootstrap_servers: str) -> int:
    _bypass_proxies()
    cluster = None if bootstrap_servers else MockCluster()
    where = bootstrap_servers or (cluster.bootstrap_servers if cluster else "")
    async with Simulator(_calls()) as simulator:
        settings = _settings(simulator, span, where, is_mock=cluster is not None)
        log.configure(settings.log.format, settings.log.level)
        return await Stage(simulator, settings, span, is_mock=cluster is not None).play()


class Stage:
    """One run of the demo, with the service and the consumer that checks what the service publishes."""

    def __init__(self, simulator: Simulator, settings: Settings, span: timedelta, *, is_mock: bool) -> None:
        self._simulator = simulator
        self._settings = settings
        self._span_s = span.total_seconds()
        self._is_mock = is_mock
        self._topic = settings.kafka.topic
        self._tally = Tally(self._topic)
        self._service = Service(settings)
        self._begun = time.monotonic()

    async def play(self) -> int:
        """Run the whole demo: start the service, print arriving records, and compare. Return the exit code."""
        names = {tenant.id: tenant.label for tenant in self._settings.tenants}
        with Screen(names, datetime.now(UTC)) as screen:
            screen.say("Microsoft Teams Direct Routing calls, from Microsoft Graph into Kafka, exactly once", "bold")
            screen.say()
            working = asyncio.create_task(self._service.run(), name="service")
            try:
                await self._until_ready(working, screen)
                reader = await asyncio.to_thread(LogReader, brokers.clients(self._settings))
                try:
                    arrivals = await asyncio.to_thread(self._follow, reader)
                    self._introduce(screen)
                    await self._until_read(working, arrivals, screen)
                    await self._stop(working)
                    screen.show(await asyncio.to_thread(self._read_rest, reader, arrivals))
                finally:
                    await asyncio.to_thread(reader.close)
            finally:
                await self._stop(working)
            screen.progress(1.0, "comparing", "")
            verdicts = await asyncio.to_thread(self._compare)
            screen.settle()
            self._conclude(screen, verdicts)
        outcome = total(verdicts.values())
        return 1 if outcome.missing or outcome.duplicated else 0

    async def _until_ready(self, working: asyncio.Task[int], screen: Screen) -> None:
        deadline = time.monotonic() + _READY_S
        while not self._service.health.ready()[0]:
            _raise_if_ended(working)
            if time.monotonic() > deadline:
                reasons = "; ".join(self._service.health.ready()[1])
                servers = self._settings.kafka.bootstrap_servers
                raise FatalError(
                    f"the demo with Kafka at {servers} was not ready within {_READY_S:g} s ({reasons}): "
                    "use brokers that answer, or omit --bootstrap-servers"
                )
            screen.progress(0.0, "starting", "simulator, broker, connector")
            await asyncio.sleep(_TICK_S / 5)

    def _follow(self, reader: LogReader) -> Generator[NewRecords]:
        """Start to read the row topic and the dead-letter topic, each partition from its first record.

        The returned generator yields records as they arrive.
        """
        topics_read = (self._topic, topics.dead_letters(self._topic))
        places = [place for topic in topics_read for place in reader.partitions(topic)]
        return reader.follow(from_beginning(places), _TICK_S)

    def _read_rest(self, reader: LogReader, arrivals: Generator[NewRecords]) -> list[Arrival]:
        """Return the records that were not read yet, up to the current end of each partition.

        Call it after the service has stopped. Brokers may still be writing the commit or abort markers of the last
        transaction, so the method waits for them.
        """
        arrivals.close()
        rest = reader.read_to_end(reader.next, decided_within_s=_DECIDED_S)
        return [arrival for records in rest for arrival in self._tally.add(map(entry, records))]

    def _introduce(self, screen: Screen) -> None:
        kafka, windows = self._settings.kafka, self._settings.windows
        broker = "librdkafka's mock cluster, in this process" if self._is_mock else kafka.bootstrap_servers
        sweeps = ", ".join(f"{duration_text(s.overlap)} every {duration_text(s.every)}" for s in windows.sweeps)
        screen.facts(
            [
                ("page", f"http://{_reachable(self._settings.http.host)}:{self._service.web.port}/"),
                ("Graph", f"{self._simulator.url}, simulated, with faults: 429, 5xx, cut and shifted pages"),
                ("Kafka", f"{broker}: {self._topic}"),
                ("reads again", f"the last {sweeps}"),
            ]
        )

    async def _until_read(self, working: asyncio.Task[int], arrivals: Generator[NewRecords], screen: Screen) -> None:
        """Print arriving records until the demo's time is over, and then until all call time was read once more.

        `working` is the task of the service.
        """
        frozen: datetime | None = None
        limit_s = self._span_s + _SETTLE_S
        while (passed_s := time.monotonic() - self._begun) < limit_s:
            _raise_if_ended(working)
            if frozen is None and passed_s >= self._span_s:
                self._simulator.freeze()
                self._simulator.clear_faults()
                frozen = datetime.now(UTC)
            if frozen is not None and await self._was_read_since(frozen):
                return
            left_s = max(0, round(self._span_s - passed_s))
            phase = "reading all calls once more" if frozen else f"{left_s} s left"
            screen.progress(passed_s / self._span_s, phase, self._counts())
            screen.show(await asyncio.to_thread(lambda: self._tally.add(map(entry, next(arrivals).records))))

    async def _was_read_since(self, moment: datetime) -> bool:
        """Return whether all simulated call time up to `moment` was read and committed after `moment`."""
        tenants = (await self._service.health.status())["tenants"]
        return len(tenants) == len(_NAMES) and all(
            _is_covered(tenant["coverage"], self._simulator.world.since, moment) for tenant in tenants
        )

    def _counts(self) -> str:
        tally, struck = self._tally, sum(self._simulator.world.faults.struck.values())
        return (
            f"{tally.published:,} records, {tally.revised:,} revisions, {tally.dead_letters:,} dead letters, "
            f"{struck:,} faults"
        )

    async def _stop(self, working: asyncio.Task[int]) -> None:
        self._service.stopping.set()
        await asyncio.wait({working}, timeout=_STOP_S)
        if working.done() and not working.cancelled() and working.exception() is not None:
            working.result()

    def _compare(self) -> dict[str, Verdict]:
        tenants = self._simulator.tenants
        return {tenant: self._tally.verdict(tenant, list(self._simulator.truth(tenant))) for tenant in tenants}

    def _conclude(self, screen: Screen, verdicts: Mapping[str, Verdict]) -> None:
        outcome = total(verdicts.values())
        screen.say()
        screen.table(verdicts)
        screen.say()
        if not self._is_mock:
            kafka = self._settings.kafka
            screen.say(f"  Topics {kafka.topic}* and {kafka.app}.* stay on {kafka.bootstrap_servers}.", "dim")
            screen.say()
        screen.say(
            f"served {outcome.served}, published {outcome.published}, "
            f"missing {outcome.missing}, duplicated {outcome.duplicated}"
        )


def _calls() -> Options:
    """Return the options of the simulator for the demo.

    Calls are short and most rows appear soon, so that new rows, revisions and dead letters occur within 30 seconds.
    """
    return Options(
        seed=_SEED,
        tenants=len(_NAMES),
        days=_HISTORY / timedelta(days=1),
        calls_per_day=40_000,
        durations="0.8:2s-30s,0.2:30s-3m",
        lateness="0.75:0s-4s,0.2:4s-20s,0.05:20s-10m",
        revised=0.12,
        revised_after="1:3s-2m",
        unknown=0.02,
        unfit=0.004,
        order="newest",
        requests_per_minute=0,
        faults=dict(_FAULTS),
    )


def _settings(simulator: Simulator, span: timedelta, bootstrap_servers: str, *, is_mock: bool) -> Settings:
    name = f"demo-{uuid.uuid4().hex[:6]}"
    deepest = _HISTORY + _SLACK + timedelta(minutes=-(-span // timedelta(minutes=1)))
    overlaps = {"1s": "1m", "2s": "10m", "4s": duration_text(timedelta(minutes=deepest // timedelta(minutes=1)))}
    tables: dict[str, Any] = {
        "GRAPH": {
            "base_url": simulator.url,
            "authority": simulator.url,
            "ca_bundle": str(simulator.ca_path),
            "requests_per_minute": 1_200,
        },
        "IDENTITY": {"client_id": simulator.client_id, "client_secret": simulator.client_secret},
        "TENANTS": [
            {"id": tenant, "name": label, "start": (simulator.world.since - timedelta(minutes=10)).isoformat()}
            for tenant, label in zip(simulator.tenants, _NAMES, strict=True)
        ],
        "WINDOWS": {"sweeps": [{"every": every, "overlap": overlap} for every, overlap in overlaps.items()]},
        "KAFKA": {
            "bootstrap_servers": bootstrap_servers,
            "topic": f"{name}-calls",
            "app": name,
            "shards": PARTITIONS,
            "partitions": PARTITIONS,
            "create_topics": not is_mock,
        },
        "HTTP": {"listen": "127.0.0.1:0"},
        "LOG": {"level": "error"},
    }
    own = {f"CONNECTOR_{section}": json.dumps(content) for section, content in tables.items()}
    theirs = {variable: text for variable, text in os.environ.items() if variable.upper().startswith(_READ_VARIABLES)}
    return load(None, own | theirs)


def _bypass_proxies() -> None:
    """Make this process connect to its own machine without a proxy, because the simulator runs there."""
    for variable in ("NO_PROXY", "no_proxy"):
        hosts = [os.environ[variable]] if os.environ.get(variable) else []
        os.environ[variable] = ",".join([*hosts, "127.0.0.1", "localhost"])


def _reachable(host: str) -> str:
    return "localhost" if host in {"", "0.0.0.0", "::"} else f"[{host}]" if ":" in host else host  # noqa: S104


def _is_covered(coverage: list[dict[str, str]], start: datetime, moment: datetime) -> bool:
    """Return whether all call time from `start` to `moment` was read at `moment` or later."""
    at = start
    for piece in coverage:
        begin, end, read = (datetime.fromisoformat(piece[name]) for name in ("from", "to", "last_read"))
        if end <= at:
            continue
        if begin > at or read < moment:
            return False
        at = end
    return at >= moment


def _raise_if_ended(working: asyncio.Task[int]) -> None:
    if working.done():
        working.result()
        raise FatalError("the service ended before the demo was over: its log on standard error states the reason")
