"""Metrics of a worker. The other packages call one method for each event.

1. Counters and histograms count these events. The gauges of a tenant are computed at each scrape from the tenant's
   current state, so that they are never out of date.
2. If the state is not known, the gauges have no series. This is so before the shard is first restored, and if
   computing the state fails. While a shard restarts, its last committed state is used, so that the lag keeps growing.
3. The series of a tenant or shard are created when this worker acquires the shard, and removed at the hand-over. Later
   events are ignored, because they must not create the series again.
4. Formatting 40,000 series takes almost a second. `Metrics.scrape` therefore formats them in a separate thread.
"""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from prometheus_client import CollectorRegistry, ProcessCollector

from connector.metrics import exposition
from connector.metrics.families import PREFIX, ShardFamilies, TenantFamilies, gauge
from connector.metrics.gauges import Glance
from connector.metrics.shard import ShardMetrics
from connector.metrics.tenant import TenantMetrics

_YIELD_AFTER_S = 0.005


class Activity(NamedTuple):
    """Load of a tenant, for the web page."""

    requests: Mapping[str, int]
    "Number of requests to Graph by status, since this worker owns the tenant."
    rows_per_minute: float
    "Published rows per minute, including revisions, as the mean of the last five minutes."
    budget_used_ratio: float


class Metrics:
    """All metrics of a worker, in a registry of their own."""

    def __init__(self, version: str, shards: int, clock: Callable[[], float] = time.time) -> None:
        """Create the metrics. `clock` returns the current time in epoch seconds, from which the lag is computed."""
        self._clock = clock
        self._registry = CollectorRegistry()
        self._tenants: dict[str, TenantMetrics] = {}
        self._shards: dict[int, ShardMetrics] = {}
        self._thread: ThreadPoolExecutor | None = None

        self._tenant_families = TenantFamilies(self._registry)
        self._shard_families = ShardFamilies(self._registry)
        gauge(
            self._registry,
            "shards",
            "kafka.shards: partitions of each internal topic. All workers must have the same value.",
        ).set(shards)
        self._shards_owned = gauge(
            self._registry,
            "shards_owned",
            "Number of shards that this worker owns. The sum over all workers should be direct_routing_shards. If it is"
            " less, some shards are not read: check the readiness of the workers and the consumer group.",
        )
        self._tenants_unread = gauge(
            self._registry,
            "tenants_unread",
            "Number of tenants in the configuration of this worker that no worker reads. If it is not 0: give all"
            " workers of the app the same tenants. The log (tenant_unread) and /status name the tenants.",
        )
        self._kafka_up = gauge(
            self._registry,
            "kafka_up",
            "1 if the last transaction or metadata request succeeded, 0 if it failed or if there was none yet. If it"
            " is 0: check the brokers, the network, the credentials and the ACLs. The log contains the error.",
        )
        gauge(
            self._registry,
            "start_time_seconds",
            "When this worker started, as Unix time. If it changes often: find out why the worker ends, from its log,"
            " its exit code and its memory limit.",
        ).set(clock())
        gauge(
            self._registry,
            "build_info",
            "Always 1. The label contains the version. If several versions run for a long time: finish the upgrade.",
            "version",
        ).labels(version).set(1)

    def watch_process(self) -> None:
        """Add metrics of the process: CPU time, memory and file descriptors. They are read at each scrape."""
        ProcessCollector(namespace=PREFIX.rstrip("_"), registry=self._registry)

    def tenant(self, label: str, everys: Sequence[str]) -> TenantMetrics:
        """Create the metrics of a tenant. `everys` are the cadences of its sweeps.

        The series of counters and histograms are created immediately, those of gauges only after a call of `watch`.
        Older metrics with the same label are removed first.
        """
        if (old := self._tenants.pop(label, None)) is not None:
            old.closed()
        tenant = self._tenants[label] = TenantMetrics(
            self._tenant_families, label, tuple(everys), self._clock, self._forget_tenant
        )
        return tenant

    def shard(self, number: int) -> ShardMetrics:
        """Create the metrics of a shard, all with the value 0. Older metrics of the same shard are removed first."""
        if (old := self._shards.pop(number, None)) is not None:
            old.closed()
        shard = self._shards[number] = ShardMetrics(self._shard_families, number, self._forget_shard)
        return shard

    def shards_owned(self, n: int) -> None:
        """Set the number of shards that this worker owns."""
        self._shards_owned.set(n)

    def tenants_unread(self, n: int) -> None:
        """Set the number of configured tenants that no worker reads."""
        self._tenants_unread.set(n)

    def kafka_answered(self, ok: bool) -> None:  # noqa: FBT001 — one event, two outcomes
        """Record whether the brokers answered the last transaction or metadata request."""
        self._kafka_up.set(ok)

    def activity(self, label: str) -> Activity | None:
        """Return the load of a tenant, or None if this worker does not own the tenant."""
        tenant = self._tenants.get(label)
        if tenant is None:
            return None
        view = tenant.look()
        rate = tenant.pace.per_minute(self._clock())
        return Activity(tenant.requests_by_status(), rate, view.budget_used_ratio if view else 0.0)

    def render(self, accept: str = "") -> tuple[bytes, str]:
        """Format all metrics, and return the text with its content type.

        The format is OpenMetrics if the request header `accept` prefers it, otherwise the classic text format. With 500
        tenants this takes about a second, so a running worker uses `scrape`.
        """
        return self._render([self._glance(tenant) for tenant in list(self._tenants.values())], accept)

    async def scrape(self, accept: str = "") -> tuple[bytes, str]:
        """Return the metrics as text, like `render`, without blocking the event loop.

        The state of each tenant is read in the event loop, which runs other tasks in between. A separate thread formats
        the values, one scrape at a time.
        """
        loop = asyncio.get_running_loop()
        glances = []
        since = loop.time()
        for tenant in list(self._tenants.values()):
            glances.append(self._glance(tenant))
            if loop.time() - since > _YIELD_AFTER_S:
                await asyncio.sleep(0)
                since = loop.time()
        if self._thread is None:
            self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="metrics")
        return await loop.run_in_executor(self._thread, self._render, glances, accept)

    def _forget_tenant(self, tenant: TenantMetrics) -> None:
        """Remove a tenant, so that later scrapes have no gauges of it."""
        if self._tenants.get(tenant.label) is tenant:
            del self._tenants[tenant.label]

    def _forget_shard(self, shard: ShardMetrics) -> None:
        """Remove a shard, so that this worker can own it again later."""
        if self._shards.get(shard.number) is shard:
            del self._shards[shard.number]

    def _glance(self, tenant: TenantMetrics) -> Glance | None:
        view = tenant.look()
        return None if view is None else Glance(tenant.label, tenant.everys, view, self._clock())

    def _render(self, glances: list[Glance | None], accept: str) -> tuple[bytes, str]:
        present = [glance for glance in glances if glance is not None]
        return exposition.render(self._registry, present, accept)
