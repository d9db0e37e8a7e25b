"""Worker process. It joins the consumer group, runs the shards that it owns, serves HTTP, and stops within ten seconds.

It keeps running while brokers, sign-in or Graph are unavailable. It ends only for problems that retrying cannot fix
(FatalError).
"""

import asyncio
import gc
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from typing import Any

from connector import __version__, brokers, log
from connector.config import Settings, no_tenants
from connector.core.rows import RowSchema
from connector.errors import ConfigurationError
from connector.graph.client import GraphClient
from connector.kafka import avro, topics
from connector.kafka.membership import Membership
from connector.kafka.registry import Registry
from connector.kafka.state import StateIdentity
from connector.kafka.topic_admin import Found, TopicAdmin
from connector.metrics.worker import Metrics
from connector.pipeline.worker_context import Topology, WorkerContext
from connector.web.server import Web
from connector.worker import single_run
from connector.worker.broker_probe import BrokerProbe
from connector.worker.last_known import LastKnown
from connector.worker.owned_shards import OwnedShards
from connector.worker.reload import Configuration
from connector.worker.shutdown import Shutdown
from connector.worker.startup import Startup
from connector.worker.terminal import greet, page_address
from connector.worker.topology_builder import TopologyBuilder, check_found
from connector.worker.unread_tenants import UnreadTenants
from connector.worker.worker_status import WorkerStatus

_logger = log.get(__name__)
_GARBAGE_AFTER = 10_000


def run(
    settings: Settings,
    *,
    once: bool = False,
    reload: Callable[[], Settings] | None = None,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> int:
    """Run a worker until SIGTERM or SIGINT, and return the exit code.

    With `once`, the worker ends when every sweep that is due has ended. On SIGHUP, `reload` is called to read the
    configuration again. Raises ConfigurationError or FatalError if the worker cannot run.
    """
    gc.freeze()  # imported modules are never freed, so the garbage collector need not visit them
    gc.set_threshold(_GARBAGE_AFTER)  # a page creates thousands of objects, and almost none is part of a cycle
    return asyncio.run(Service(settings, once=once, reload=reload, now=now).run(signals=True))


class Service:
    """One worker with its group membership, shards, metrics and web server."""

    def __init__(
        self,
        settings: Settings,
        *,
        once: bool = False,
        reload: Callable[[], Settings] | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        _check(settings)
        self._once = once
        self._now = now
        self._clients = brokers.clients(settings)
        self._clients.check()
        registry = Registry(settings.schema_registry) if settings.schema_registry.url else None
        self._builder = TopologyBuilder(TopicAdmin(self._clients), registry, now)
        self._metrics = Metrics(__version__, settings.kafka.shards, lambda: now().timestamp())
        self._metrics.watch_process()
        self._instance = f"{os.uname().nodename}-{os.getpid()}"
        self._configuration = Configuration(settings, reload, self._follow)
        self._shutdown = Shutdown()
        self._probe = BrokerProbe(self._metrics)
        self._startup = Startup(self._configuration, self._probe)
        self._shards = OwnedShards(self._metrics, self._shutdown, LastKnown(self._metrics, now))
        self._unread = UnreadTenants(self._configuration, self._shards, self._metrics, self._clients)
        self.stopping = self._shutdown.stopping
        "Event that makes the service stop when it is set."
        self.health = WorkerStatus(
            self._configuration,
            self._instance,
            now,
            probe=self._probe,
            startup=self._startup,
            shards=self._shards,
            unread=self._unread,
        )
        self.web = Web(settings.http.host, settings.http.port, self.health, self._metrics)

    async def run(self, *, signals: bool = False) -> int:
        """Run until `stopping` is set, and return the exit code. If an error stopped the service, raise that error."""
        if signals:
            self._listen()
        await self.web.start()
        greeting = self._greet() if signals and sys.stderr.isatty() else None
        try:
            async with GraphClient(self._configuration.settings.graph, self._now) as graph:
                _logger.info("service_started", version=__version__, instance=self._instance, once=self._once)
                await self._until_stopped(self._work(graph))
                await self._leave()
        finally:
            if greeting is not None:
                greeting.cancel()
            await self.web.stop()
        if self._shutdown.error is not None:
            raise self._shutdown.error
        _logger.info("service_stopped")
        return self._shutdown.exit_code

    def _greet(self) -> asyncio.Task[None]:
        """Start a task that prints the address of the page, and a line when the first rows are published."""
        address = page_address(self.web.host, self.web.port)
        greeting = greet(address, self._metrics, lambda: self._configuration.settings.tenants, sys.stderr)
        return asyncio.create_task(greeting, name="terminal")

    def _listen(self) -> None:
        self._shutdown.is_process = True
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._shutdown.signalled)
        loop.add_signal_handler(signal.SIGHUP, self._configuration.reload_soon)

    async def _until_stopped(self, work: Coroutine[Any, Any, None]) -> None:
        """Run `work` until it ends or `stopping` is set. Record an error of `work` as the reason for the shutdown."""
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
            self._shutdown.fail(error)

    async def _work(self, graph: GraphClient) -> None:
        topology = await self._startup.wait(self._builder, once=self._once)
        if topology is None:
            self._shutdown.failed = True
            return
        worker = self._context(topology, graph)
        self._shards.begin(worker)
        worker.membership.start()
        probing = self._probe.run(TopicAdmin(self._clients), self._check_found, self._shutdown.fail)
        probe = asyncio.create_task(probing, name="broker probe")
        unread = asyncio.create_task(self._unread.run(graph.clock.now), name="unread tenants")
        try:
            if self._once:
                if not await single_run.wait_until_done(worker, self._shards, self._probe):
                    self._shutdown.failed = True
            else:
                await asyncio.Event().wait()
        finally:
            probe.cancel()
            unread.cancel()

    def _context(self, topology: Topology, graph: GraphClient) -> WorkerContext:
        settings = self._configuration.settings
        kafka = settings.kafka
        return WorkerContext(
            settings=settings,
            topology=topology,
            identity=StateIdentity(kafka.app, topology.cluster, kafka.topic),
            clients=self._clients,
            membership=Membership(self._clients, kafka.app, topics.Names(kafka.app).control, self._shards),
            graph=graph,
            metrics=self._metrics,
            shape=RowSchema(avro.load(avro.ROW), settings.graph.api_version),
            once=self._once,
        )

    async def _follow(self, settings: Settings) -> None:
        """Prepare topics and schemas for new settings, and make all shards use them.

        During the start-up, do nothing, because the start-up prepares topics and schemas itself. If they cannot be
        prepared, the current topology stays in use, and BrokersUnavailableError, RegistryUnavailableError or FatalError
        is raised.
        """
        worker = self._shards.worker
        if worker is not None:
            topology = await self._builder.build(settings)
            worker.topology = topology.succeeding(worker.topology)
            self._shards.reconfigured()

    def _check_found(self, found: Found) -> None:
        worker = self._shards.worker
        check_found(found, self._configuration.settings, worker.identity if worker is not None else None)

    async def _leave(self) -> None:
        """Hand over all shards and leave the consumer group."""
        await self._shards.leave()
        if self._shards.worker is not None:
            await asyncio.to_thread(self._shards.worker.membership.stop)
        await self._shards.abandon()


def _check(settings: Settings) -> None:
    """Raise ConfigurationError if there are no brokers or no tenants, because the worker would have nothing to do."""
    if not settings.kafka.bootstrap_servers:
        raise ConfigurationError(
            ["kafka.bootstrap_servers: is not set; name at least one broker, for example localhost:9092"]
        )
    if not settings.tenants:
        raise no_tenants()
