"""Worker process: it joins the group, runs the shards that it owns, serves HTTP, and stops within ten seconds.

It keeps running while brokers, sign-in or Graph are unavailable. It ends for problems that retrying cannot fix
(FatalError).
"""

import asyncio
import dataclasses
import gc
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, NamedTuple

from connector import __version__, brokers, log, report
from connector.batch import TenantState
from connector.config import Settings, Tenant
from connector.core import instants
from connector.core.rows import RowSchema
from connector.errors import (
    BrokersUnavailableError,
    ConfigurationError,
    ConnectorError,
    FatalError,
    ForbiddenError,
    RegistryUnavailableError,
)
from connector.graph.client import GraphClient
from connector.kafka import avro, control, topics
from connector.kafka.ownership import Command, Membership
from connector.kafka.publishing import LONGEST_CALL_S
from connector.kafka.registry import Registry, Subject, subjects
from connector.kafka.state import ShardRecord, StateIdentity, check_identity
from connector.metrics import Metrics
from connector.reading import TenantRuntime
from connector.shard import Shard, WorkerContext
from connector.web.server import Web

_logger = log.get(__name__)
_STOP_S = 9.0
_HAND_OVER_S = 4.0
_PROBE_EVERY_S = 10.0
_PROBE_S = 5.0
_AWAY_S = 120.0
_STUCK_S = 60.0
_STRETCH_S = 5.0
_GARBAGE_AFTER = 10_000
_STRETCH = 25
"Number of tenants that /status describes before it lets other tasks of the event loop run."


def run(
    settings: Settings,
    *,
    once: bool = False,
    reload: Callable[[], Settings] | None = None,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> int:
    """Run until SIGTERM or SIGINT, with `once` until every due sweep has ended; return the exit code.

    `reload` reads the configuration again on SIGHUP. Raise ConfigurationError and FatalError.
    """
    gc.freeze()  # imported modules stay, so the collector need not visit them
    gc.set_threshold(_GARBAGE_AFTER)  # a page creates thousands of objects, and almost none is part of a cycle
    return asyncio.run(Service(settings, once=once, reload=reload, now=now).run(signals=True))


class Service:
    """One worker, with its membership, shards, metrics and web server."""

    def __init__(
        self,
        settings: Settings,
        *,
        once: bool = False,
        reload: Callable[[], Settings] | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        if not settings.kafka.bootstrap_servers:
            raise ConfigurationError(
                ["kafka.bootstrap_servers: is not set; name at least one broker, for example localhost:9092"]
            )
        if not settings.tenants:
            raise ConfigurationError(
                ["tenants: there are none; add [[tenants]] or set AZURE_TENANT_ID and AZURE_CLIENT_ID"]
            )
        self._settings = settings
        self._once = once
        self._reload = reload
        self._now = now
        self._names = topics.Names(settings.kafka.app)
        self._clients = brokers.clients(settings)
        self._clients.check()
        self._registry = Registry(settings.schema_registry) if settings.schema_registry.url else None
        self._registry_unavailable: str | None = None
        "Reason while the schema registry is unavailable at the start, else None."
        self._metrics = Metrics(__version__, settings.kafka.shards, lambda: now().timestamp())
        self._instance = f"{os.uname().nodename}-{os.getpid()}"
        self._started = now()
        self._membership: Membership | None = None
        self._around: WorkerContext | None = None
        self._shards: dict[int, Shard] = {}
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._reading_again = asyncio.Lock()
        self._reloads: set[asyncio.Task[None]] = set()
        self._failed = False
        self._error: BaseException | None = None
        self._signalled = False
        self._is_process = False
        "True if the service may end the process because it handles the process's signals."
        self._kafka_up = False
        self._up_at = time.monotonic()
        self.stopping = asyncio.Event()
        "Event that stops the service when it is set."
        self.web = Web(settings.http.host, settings.http.port, self, self._metrics)

    async def run(self, *, signals: bool = False) -> int:
        """Run until `stopping` is set and return the exit code. Raise the error that stopped it, if there was one."""
        self._loop = asyncio.get_running_loop()
        if signals:
            self._listen()
        await self.web.start()
        try:
            async with GraphClient(self._settings.graph, self._now) as graph:
                _logger.info("service_started", version=__version__, instance=self._instance, once=self._once)
                await self._until_stopped(self._work(graph))
                await self._leave()
        finally:
            await self.web.stop()
        if self._error is not None:
            raise self._error
        _logger.info("service_stopped")
        return self._exit_code

    def _listen(self) -> None:
        self._is_process = True
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self._stop_by_signal)
        self._loop.add_signal_handler(signal.SIGHUP, self._reload_by_signal)

    def _reload_by_signal(self) -> None:
        task = self._loop.create_task(self._read_again(), name="reload")
        self._reloads.add(task)
        task.add_done_callback(self._reloads.discard)

    def _stop_by_signal(self) -> None:
        if self._signalled:
            self._exit()  # the second signal does not wait
        self._signalled = True
        self._stop()

    def _fail(self, error: BaseException) -> None:
        """Stop because of an error. The process ends with the first such error."""
        if self._error is None:
            self._error = error
            _logger.error("service_failed", reason=str(error) or type(error).__name__)
        self._stop()

    def _stop(self) -> None:
        """Stop the service. The process ends with the right exit code even if a call does not return."""
        if self._is_process and not self.stopping.is_set():
            # A blocking call to unavailable brokers cannot be interrupted. The next owner of the shard aborts its
            # transaction.
            timer = threading.Timer(_STOP_S, self._exit)
            timer.daemon = True
            timer.start()
        self.stopping.set()

    @property
    def _exit_code(self) -> int:
        return 1 if self._failed or self._error is not None else 0

    def _exit(self) -> None:
        """End the process at once."""
        if self._error is not None:
            sys.stderr.write(f"{self._error}\n")
        sys.stderr.flush()
        os._exit(self._exit_code)

    async def _until_stopped(self, work: Coroutine[Any, Any, None]) -> None:
        """Run `work` until it ends or the service stops."""
        working = asyncio.create_task(work, name="service")
        stopping = asyncio.create_task(self.stopping.wait())
        try:
            await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopping.cancel()
            working.cancel()
            await asyncio.wait({working})
        error = None if working.cancelled() else working.exception()
        if error is not None:
            self._fail(error)

    async def _work(self, graph: GraphClient) -> None:
        admin = topics.Admin(self._clients)
        topology = await self._prepare(admin)
        if topology is None:
            self._failed = True
            return
        settings = self._settings
        home = StateIdentity(settings.kafka.app, topology.cluster, settings.kafka.topic)
        self._membership = Membership(self._clients, settings.kafka.app, self._names.control, self)
        self._around = WorkerContext(
            settings=settings,
            home=home,
            partitions=dict(topology.partitions),
            schema_ids=topology.schema_ids,
            unusable=topology.unusable,
            clients=self._clients,
            membership=self._membership,
            graph=graph,
            metrics=self._metrics,
            shape=RowSchema(avro.load(avro.ROW), settings.graph.api_version),
            once=self._once,
        )
        self._membership.start()
        probe = asyncio.create_task(self._probe(admin), name="broker probe")
        try:
            if self._once:
                await self._until_done()
            else:
                await asyncio.Event().wait()
        finally:
            probe.cancel()

    async def _prepare(self, admin: topics.Admin) -> "_Topology | None":
        """Return the topology of the current settings, which SIGHUP may change while brokers are unavailable.

        Return None if brokers or registry were unavailable for two minutes. This happens with `once` only.
        """
        while True:
            settings = self._settings
            prepared = await self._prepare_once(admin, settings)
            if prepared is None or self._settings is settings:
                return prepared

    async def _prepare_once(self, admin: topics.Admin, settings: Settings) -> "_Topology | None":
        """Retry until the topics and schemas of `settings` are ready, or until the settings are not current any more.

        Return None under the same condition as `_prepare`.
        """
        begun, pause_s = time.monotonic(), 0.5
        while True:
            try:
                topology = await self._topology(admin, settings)
            except BrokersUnavailableError as error:
                refused = isinstance(error, ForbiddenError)
                self._heard(up=refused)
                event = "right_missing" if refused else "brokers_unreachable"
                _logger.warning(event, reason=str(error), remedy=error.remedy, again_in_s=pause_s)
            except RegistryUnavailableError as error:
                self._heard(up=True)
                self._registry_unavailable = str(error)
                _logger.warning("schema_registry_away", reason=str(error), again_in_s=pause_s)
            else:
                self._heard(up=True)
                self._registry_unavailable = None
                if topology.schema_ids is not None:
                    _logger.info("schemas_found", ids=topology.schema_ids)
                return topology
            if self._once and time.monotonic() - begun > _AWAY_S:
                return None
            await asyncio.sleep(pause_s)
            pause_s = min(10.0, 2 * pause_s)
            settings = self._settings

    async def _topology(self, admin: topics.Admin, settings: Settings) -> "_Topology":
        """Create or check the topics and schemas of `settings`.

        Raise BrokersUnavailableError and RegistryUnavailableError, and FatalError for a problem that affects every
        tenant.
        """
        kafka = self._settings.kafka
        ensure = partial(admin.ensure, create=kafka.create_topics, replication_factor=kafka.replication_factor)
        found = await asyncio.to_thread(ensure, self._wanted_topics(settings), shared_topic=kafka.topic)
        await self._warn_of_event_time(admin, settings)
        unusable = dict(found.unusable)
        if self._registry is None:
            return _Topology(found.cluster, found.partitions, None, unusable)
        usable = [topic for topic in settings.topics if topic not in unusable]
        ids, refused = await asyncio.to_thread(self._registry.ensure_each, self._subjects(usable))
        unusable |= {
            topic: problem
            for s, problem in refused.items()
            for topic in usable
            if {topic, topics.progress(topic)} & {*s.topics}
        }
        if refused and (kafka.topic in unusable or unusable.keys() >= set(settings.topics)):
            raise FatalError("\n".join(refused.values()))
        return _Topology(found.cluster, found.partitions, ids, unusable)

    def _subjects(self, row_topics: Sequence[str]) -> list[Subject]:
        return subjects(row_topics, self._settings.schema_registry.subject_name_strategy)

    def _wanted_topics(self, settings: Settings) -> list[topics.Topic]:
        kafka = self._settings.kafka
        key = self._settings.rows.key
        return topics.wanted(kafka.app, settings.topics, kafka.shards, kafka.partitions, kafka.topic_properties, key)

    async def _warn_of_event_time(self, admin: topics.Admin, settings: Settings) -> None:
        if self._settings.rows.timestamp != "event":
            return
        now, horizon = self._now(), self._settings.dedup.horizon
        deepest = max(sweep.overlap for sweep in self._settings.windows.sweeps)
        reaches: dict[str, timedelta] = {}
        for tenant in settings.tenants:
            ago = now - tenant.start if isinstance(tenant.start, datetime) else -tenant.start
            reaches[tenant.topic] = max(reaches.get(tenant.topic, deepest), min(ago, horizon))
        await asyncio.to_thread(admin.warn_of_event_time, reaches, horizon)

    async def _probe(self, admin: topics.Admin) -> None:
        """Query the brokers every ten seconds, so that their absence shows even when nothing is committed."""
        while True:
            await asyncio.sleep(_PROBE_EVERY_S)
            try:
                found = await asyncio.to_thread(admin.look, _PROBE_S)
                self._heard(up=True)
                self._check_found(found)
            except BrokersUnavailableError as error:
                self._heard(up=False, reason=str(error), remedy=error.remedy)
            except FatalError as error:
                self._fail(error)

    def _check_found(self, found: topics.Found) -> None:
        """Raise FatalError for what prevents a start: another cluster, or a topic with another partition count."""
        if self._around is not None and found.cluster != str(None):
            home = self._around.home
            record = ShardRecord(home.app, home.cluster, home.topic, 0)
            check_identity(record, home._replace(cluster=found.cluster))
        problems = topics.wrong_counts(self._wanted_topics(self._settings), found)
        if problems:
            raise FatalError("\n".join(str(problem) for _, problem in problems))

    def _heard(self, *, up: bool, **why: str) -> None:
        if up:
            self._up_at = time.monotonic()
        if up and not self._kafka_up:
            _logger.info("brokers_answer")
        elif self._kafka_up and not up:
            _logger.warning("brokers_silent", **why)
        self._kafka_up = up
        self._metrics.kafka_answered(up)

    async def _until_done(self) -> None:
        """Wait for an assignment that is unchanged for two heartbeats, then for all sweeps to end. For `once`."""
        membership = self._membership
        if membership is None:
            return
        begun = time.monotonic()
        calm_s = 2 * float(self._clients.member(self._settings.kafka.app).get("heartbeat.interval.ms", 3000)) / 1000
        while not membership.joined or time.monotonic() - membership.changed_at < calm_s:
            if not membership.joined and time.monotonic() - begun > _AWAY_S:
                _logger.warning("group_not_joined", waited_s=_AWAY_S)
                self._failed = True
                return
            await asyncio.sleep(0.05)
        while running := [task for task in self._tasks.values() if not task.done()]:
            await asyncio.wait(running, timeout=1.0)
            if time.monotonic() - self._up_at > _AWAY_S:
                _logger.warning("brokers_away", waited_s=_AWAY_S)
                self._failed = True
                return

    async def _leave(self) -> None:
        """Hand over all shards and leave the group."""
        self._hand_over(set(self._shards))
        if self._tasks:
            await asyncio.wait(self._tasks.values(), timeout=_HAND_OVER_S)
        if self._membership is not None:
            await asyncio.to_thread(self._membership.stop)
        left = [task for task in self._tasks.values() if not task.done()]
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left, timeout=_HAND_OVER_S)

    async def _read_again(self) -> None:
        """Reload tenants and secrets (SIGHUP). An invalid file changes nothing."""
        if self._reload is None:
            return
        async with self._reading_again:
            try:
                settings = await asyncio.to_thread(self._reload)
                self._check_reloaded(settings)
                await self._take_over(settings)
            except ConfigurationError as error:
                _logger.error("configuration_not_reloaded", problems="; ".join(error.problems))  # noqa: TRY400 - not a bug
            except ConnectorError as error:
                _logger.error("configuration_not_reloaded", problems=str(error))  # noqa: TRY400 - not a bug
            except Exception as error:
                _logger.exception("configuration_not_reloaded", problems=repr(error))

    def _check_reloaded(self, settings: Settings) -> None:
        """Raise ConfigurationError for changes that a running worker cannot make.

        Every worker decides in the same way.
        """
        mine, wanted = self._settings.kafka.topic, settings.kafka.topic
        if not settings.tenants:
            raise ConfigurationError(["tenants: there are none any more; name one at least, or stop the worker"])
        if wanted != mine:
            raise ConfigurationError(
                [f"kafka.topic: is {wanted} now, and was {mine} when the worker started; set it back"]
            )

    async def _take_over(self, settings: Settings) -> None:
        """Use the tenants and secrets of a valid file.

        Raise BrokersUnavailableError, RegistryUnavailableError or FatalError; the settings in use then stay as they
        were.
        """
        if self._around is not None:
            topology = await self._topology(topics.Admin(self._clients), settings)
            self._around.partitions.update(topology.partitions)
            if self._around.schema_ids is not None:
                self._around.schema_ids.update(topology.schema_ids or {})
            self._around.unusable.clear()
            self._around.unusable.update(topology.unusable)
        self._settings = dataclasses.replace(self._settings, tenants=settings.tenants)
        mine, newest = self._settings.rows.pseudonym_key, settings.rows.pseudonym_key
        if mine is not None and newest is not None:
            mine.become(newest)
        for number, shard in self._shards.items():
            shard.configure(self._tenants_of(number))
        _logger.info("configuration_reloaded", tenants=len(settings.tenants))

    def _tenants_of(self, number: int) -> list[Tenant]:
        """Return the configured tenants of a shard."""
        shards = self._settings.kafka.shards
        return [tenant for tenant in self._settings.tenants if control.partition_of(tenant.key, shards) == number]

    # Ownership callbacks: these run in the membership's thread and only pass the event to the event loop.

    def assigned(self, shards: frozenset[int]) -> None:
        """Start shards that were assigned to this worker."""
        self._loop.call_soon_threadsafe(self._take, shards)

    def revoked(self, shards: frozenset[int]) -> threading.Event:
        """Hand over shards that are revoked. The returned event is set once all of them are handed over."""
        gone = threading.Event()
        self._loop.call_soon_threadsafe(self._give_up, shards, gone)
        return gone

    def lost(self, shards: frozenset[int]) -> None:
        """Stop shards that another worker may own already."""
        self._loop.call_soon_threadsafe(self._give_up, shards, threading.Event())

    def commanded(self, shard: int, command: Command) -> None:
        """Pass a command to its shard."""
        self._loop.call_soon_threadsafe(self._command, shard, command)

    # Ownership: these run in the event loop.

    def _take(self, numbers: frozenset[int]) -> None:
        if self.stopping.is_set() or self._around is None:
            return
        _logger.info("shards_assigned", shards=sorted(numbers))
        for number in sorted(numbers):
            former = self._tasks.get(number)
            shard = Shard(number, self._around, self._tenants_of(number))
            self._shards[number] = shard
            task = self._loop.create_task(self._run_shard(shard, former), name=f"shard {number}")
            self._tasks[number] = task
        self._metrics.shards_owned(len(self._shards))

    async def _run_shard(self, shard: Shard, former: asyncio.Task[None] | None) -> None:
        """Run a shard to its end, after the previous shard with this number in this worker has ended."""
        if former is not None:
            await self._outlast(shard, former)
        try:
            await shard.run()
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # noqa: BLE001 - the top level: FatalError ends the service, and so does a bug
            self._fail(error)
        finally:
            self._failed = self._failed or (self._once and shard.failed)
            if self._shards.get(shard.number) is shard and not self._once:
                del self._shards[shard.number]
            self._metrics.shards_owned(len(self._shards))

    @staticmethod
    async def _outlast(shard: Shard, former: asyncio.Task[None]) -> None:
        """Wait for the previous owner of a shard in this worker, which may be in a blocking call to brokers."""
        deadline = time.monotonic() + LONGEST_CALL_S
        while not former.done():
            await asyncio.wait([former], timeout=_STRETCH_S)
            if time.monotonic() < deadline:
                shard.touch()

    def _give_up(self, numbers: frozenset[int], gone: threading.Event) -> None:
        tasks = self._hand_over(set(numbers))
        if not tasks:
            gone.set()
            return
        _logger.info("shards_revoked", shards=sorted(numbers))
        waiting = self._loop.create_task(_wait_all(tasks))
        waiting.add_done_callback(lambda _: gone.set())

    def _hand_over(self, numbers: set[int]) -> list[asyncio.Task[None]]:
        tasks = []
        for number in numbers:
            shard = self._shards.pop(number, None)
            if shard is not None:
                shard.hand_over()
            task = self._tasks.get(number)
            if task is not None and not task.done():
                tasks.append(task)
        self._metrics.shards_owned(len(self._shards))
        return tasks

    def _command(self, number: int, command: Command) -> None:
        shard = self._shards.get(number)
        if shard is not None:
            shard.commanded(command)

    # Health and status, for the web server.

    def alive(self) -> tuple[bool, list[str]]:
        """Return whether the loop of every shard makes progress, with the reasons if not."""
        stuck = [n for n, shard in self._shards.items() if time.monotonic() - shard.turned_at > _STUCK_S]
        return not stuck, [f"the loop of shard {number} does not turn" for number in sorted(stuck)]

    def ready(self) -> tuple[bool, list[str]]:
        """Return whether the worker is ready, with the reasons if not.

        It is ready if brokers and registry answer, it is in the group, every shard is restored and can publish, and not
        every tenant fails.
        """
        reasons = []
        if not self._kafka_up:
            reasons.append("brokers are unreachable")
        if self._registry_unavailable is not None:
            reasons.append(self._registry_unavailable)
        if self._membership is None or not self._membership.joined:
            reasons.append("not in the consumer group yet")
        restoring = sorted(number for number, shard in self._shards.items() if not shard.restored)
        if restoring:
            reasons.append(f"restoring shards {restoring}")
        reasons += [shard.problem for _, shard in sorted(self._shards.items()) if shard.problem]
        readings = [reading for shard in self._shards.values() for reading in shard.readings.values()]
        rejected = any(shard.rejected for shard in self._shards.values())
        if (readings or rejected) and all(reading.source.failing() for reading in readings):
            reasons.append("every tenant fails")
        return not reasons, reasons

    async def status(self) -> dict[str, Any]:
        """Return the JSON of /status. Other tasks can run after every 25 tenants."""
        ready, reasons = self.ready()
        tenants: list[dict[str, Any]] = []
        jobs: list[dict[str, Any]] = []
        for described, of_tenant in self._described():
            tenants.append(described)
            jobs += of_tenant
            if len(tenants) % _STRETCH == 0:
                await asyncio.sleep(0)
        return {
            "app": self._settings.kafka.app,
            "topic": self._settings.kafka.topic,
            "version": __version__,
            "shards": self._settings.kafka.shards,
            "tenants": tenants,
            "jobs": report.by_age(jobs),
            "instance": self._instance,
            "ready": ready,
            "reasons": reasons,
            "shards_owned": sorted(self._shards),
            "started": instants.text(self._started),
        }

    def _described(self) -> Iterator[tuple[dict[str, Any], list[dict[str, Any]]]]:
        """Yield TENANT and JOBs of each tenant that the worker owns. Shards may come and go between two of them."""
        for number, shard in sorted(self._shards.items()):
            for tenant in self._tenants_of(number):
                subject = report.Subject(tenant.key, tenant, number)
                problem = shard.rejected.get(tenant.key)
                reading = shard.readings.get(tenant.key)
                if problem is not None:
                    yield _describe_rejected(subject, shard.accounts.get(tenant.key), self._now(), problem)
                else:
                    yield _describe(subject, reading, self._now(), shard.problem), _jobs(subject, reading)
            for key, account in sorted(shard.accounts.items()):
                if account.retired and key not in shard.rejected:
                    stranger = report.Subject(key, None, number)
                    orders = account.checkpoint.state.orders
                    described = _describe_account(stranger, account, self._now(), None)
                    yield described, report.jobs(key, orders, None, report.NOT_CONFIGURED)


class _Topology(NamedTuple):
    """Topics and schemas that brokers and registry hold for some settings."""

    cluster: str
    partitions: Mapping[str, int]
    schema_ids: dict[str, int] | None
    "Schema id per topic; None without a registry."
    unusable: dict[str, str]
    "Row topics of single tenants that cannot be used, with what is wrong and what to do."


async def _wait_all(tasks: list[asyncio.Task[None]]) -> None:
    await asyncio.wait(tasks)


def _describe(
    subject: report.Subject, reading: TenantRuntime | None, now: datetime, problem: str | None
) -> dict[str, Any]:
    """Return a tenant's TENANT. `problem` states why its shard does not publish."""
    if reading is None:
        return report.unknown(subject, problem or "its shard is being restored")
    return _describe_account(subject, reading.account, now, _failing(reading))


def _describe_account(
    subject: report.Subject, account: TenantState, now: datetime, failing: tuple[str, str] | None
) -> dict[str, Any]:
    return report.tenant(subject, account.checkpoint, now, failing=failing, remembered=len(account.remembered))


def _describe_rejected(
    subject: report.Subject, account: TenantState | None, now: datetime, problem: str
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return TENANT and JOBs of a tenant that is not read because of how it is configured."""
    failing = ("rejected", problem)
    if account is None:
        return report.unknown(subject, problem) | {"state": "failing"}, []
    jobs = report.jobs(subject.id, account.checkpoint.state.orders, failing)
    return _describe_account(subject, account, now, failing), jobs


def _jobs(subject: report.Subject, reading: TenantRuntime | None) -> list[dict[str, Any]]:
    """Return the tenant's jobs in the JSON shape of docs/interface.md."""
    return report.jobs(subject.id, reading.account.checkpoint.state.orders, _failing(reading)) if reading else []


def _failing(reading: TenantRuntime) -> tuple[str, str] | None:
    failure = reading.source.failing()
    return (failure.reason, failure.message) if failure else None
