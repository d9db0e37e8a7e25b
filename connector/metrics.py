"""Metrics of a worker. Each event is reported by calling one method.

1. Counters and histograms count the reported events. The gauges of a tenant are computed at each scrape, by calling its
   view, so that none of them freezes at a good value.
2. A value that is not known is absent, never a number: before the state is first read, or when a view raises. While a
   shard starts again the values of the last commit remain, and their age keeps growing.
3. The series of a tenant or shard appear when it is owned and disappear when it is handed over. Later events are
   dropped, because they must not bring a series back.
4. Formatting 40,000 series takes almost a second. `Metrics.scrape` calls the views in the event loop, a few
   milliseconds at a time, and formats in its own thread.
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import NamedTuple, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.openmetrics.exposition import CONTENT_TYPE_LATEST as CONTENT_TYPE_OPENMETRICS
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.registry import Collector

from connector import log
from connector.core.budget import Lane
from connector.core.pace import Rate
from connector.errors import PermanentReason, TransientReason

LANES: tuple[str, ...] = get_args(Lane)
STATUSES = ("200", "429", "error")
"Statuses whose series exist from the start in each lane; others appear when they occur."
REASONS: tuple[str, ...] = (*get_args(PermanentReason), *get_args(TransientReason))
ROW_OUTCOMES = ("published", "revised", "duplicate", "dead_letter")
SWEEP_OUTCOMES = ("ok", "failed")
TRANSACTION_OUTCOMES = ("committed", "aborted")

LATENESS_S = (60, 300, 900, 3600, 10_800, 21_600, 86_400, 172_800, 604_800)
# Seven bucket limits, so that a tenant with six sweeps stays within 80 series.
COMMIT_DELAY_S = (0.05, 0.1, 0.25, 1, 2.5, 10, 60)
REQUEST_DURATION_S = (0.1, 0.25, 0.5, 1, 2.5, 10, 30)
TRANSACTION_DURATION_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5)

_PREFIX = "direct_routing_"
_STRETCH_S = 0.005

_log = log.get(__name__)
_openmetrics: Callable[[Collector], bytes] = generate_openmetrics


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantView:
    """State of a tenant at this moment.

    A value of None is not known (the state is not restored): its series is absent.
    """

    covered_through: float | None = None
    "Epoch seconds; the tenant's start if nothing was read yet, so that the lag includes what is still to be read."
    gap_seconds: float | None = None
    gaps: int | None = None
    budget_used_ratio: float = 0.0
    sweep_overdue: dict[str, float] = field(default_factory=dict)
    "Seconds by cadence (`every`); a cadence that is absent is not overdue."
    up: bool = False
    failing: PermanentReason | TransientReason | None = None
    paused: bool | None = None
    remembered_rows: int | None = None
    backfill_remaining_seconds: float | None = None


class Activity(NamedTuple):
    """Load of a tenant, for the page."""

    requests: Mapping[str, int]
    "Requests by status since this worker has owned the tenant."
    rows_per_minute: float
    "Published rows, revisions included; the mean of the last five minutes."
    budget_used_ratio: float


class _Glance(NamedTuple):
    """Tenant as one scrape sees it."""

    tenant: str
    everys: tuple[str, ...]
    view: TenantView
    at: float


class _TenantGauge(NamedTuple):
    """Family of gauges with one series per tenant."""

    name: str
    help: str
    value: Callable[[_Glance], float | None]


_TENANT_GAUGES = (
    _TenantGauge(
        "lag_seconds",
        "Now minus the end of the newest call time that was read and committed. When it grows: see tenant_failing,"
        " kafka_up and graph_budget_used_ratio; after an outage or a first start it falls by itself.",
        lambda glance: None if glance.view.covered_through is None else glance.at - glance.view.covered_through,
    ),
    _TenantGauge(
        "covered_through_timestamp_seconds",
        "End of the newest call time that was read and committed, as Unix time. When it stands still: see"
        " tenant_failing and kafka_up.",
        lambda glance: glance.view.covered_through,
    ),
    _TenantGauge(
        "gap_seconds",
        "Call time between the tenant's start and covered_through that was never read. It is closed by itself within"
        " the budget; when it does not fall: see graph_budget_used_ratio, else look at /status and file a backfill.",
        lambda glance: glance.view.gap_seconds,
    ),
    _TenantGauge(
        "gaps",
        "In how many pieces gap_seconds lies. /status tells where each is and what caused it.",
        lambda glance: glance.view.gaps,
    ),
    _TenantGauge(
        "graph_budget_used_ratio",
        "Requests in the last 60 s divided by requests_per_minute. Near 1 for hours means that the sweeps do not fit:"
        " run `connector plan`, then raise requests_per_minute or make sweeps rarer.",
        lambda glance: glance.view.budget_used_ratio,
    ),
    _TenantGauge(
        "tenant_up",
        "1 when the last request (token or Graph) succeeded; 0 before the first. When 0: see tenant_failing, whose"
        " reason says what to repair.",
        lambda glance: glance.view.up,
    ),
    _TenantGauge(
        "tenant_paused",
        "1 while the tenant is paused: nothing is read. `connector resume` goes on where it stopped.",
        lambda glance: glance.view.paused,
    ),
    _TenantGauge(
        "remembered_rows",
        "Rows that are remembered so that none is published twice, about 24 bytes each. When memory gets short: add"
        " workers or shorten dedup.horizon.",
        lambda glance: glance.view.remembered_rows,
    ),
    _TenantGauge(
        "backfill_remaining_seconds",
        "Call time that backfill jobs have still to read. When it does not fall: live reading takes the whole budget,"
        " or the tenant fails or is paused.",
        lambda glance: glance.view.backfill_remaining_seconds,
    ),
)
_OVERDUE_HELP = (
    "0, or for how long a sweep should have ended. When it grows: the tenant fails, the brokers are away, or the"
    " sweeps do not fit the budget (`connector plan`)."
)
_FAILING_HELP = (
    "1 for the reason for which a tenant fails. sign_in: repair client id, secret or tenant id. permission: grant"
    " CallRecords.Read.All and consent. rejected: read the log, Graph refuses the request itself. throttled: somebody"
    " else reads this log too, lower requests_per_minute. unreachable: look at network, proxy and Graph's health."
)


class Metrics:
    """Every metric of a worker, in a registry of its own."""

    def __init__(self, version: str, shards: int, clock: Callable[[], float] = time.time) -> None:
        """`clock` returns the time to which covered call time is compared, in epoch seconds."""
        self._clock = clock
        self._registry = CollectorRegistry()
        self._tenants: dict[str, TenantMetrics] = {}
        self._shards: dict[int, ShardMetrics] = {}
        self._thread: ThreadPoolExecutor | None = None

        self.rows = self._counter(
            "rows_total",
            "Rows by what became of them. dead_letter: look into the dead-letter topic, its headers say which field"
            " did not fit; when all rows go there, Graph has changed and the connector needs an upgrade.",
            "tenant", "outcome",
        )  # fmt: skip
        self.lateness = self._histogram(
            "row_lateness_seconds",
            "From a call's end to the first reading of its row, in regular sweeps. When rows come close to the deepest"
            " overlap: lengthen that overlap, or later rows will be missed.",
            LATENESS_S, "tenant",
        )  # fmt: skip
        self.commit_delay = self._histogram(
            "commit_delay_seconds",
            "From Graph's response to the committed transaction. When seconds: the brokers are slow, see"
            " transaction_duration_seconds.",
            COMMIT_DELAY_S, "tenant",
        )  # fmt: skip
        self.requests = self._counter(
            "graph_requests_total",
            "Requests to Graph by status (error: no answer) and lane. 401 or 403: repair sign-in or permission. 429:"
            " lower requests_per_minute. 5xx or error: wait; look at network, proxy and Graph's health.",
            "tenant", "lane", "status",
        )  # fmt: skip
        self.request_duration = self._histogram(
            "graph_request_duration_seconds",
            "How long Graph took to answer. When it nears graph.timeout: raise that, or lower graph.concurrency.",
            REQUEST_DURATION_S, "tenant",
        )  # fmt: skip
        self.throttled_seconds = self._counter(
            "graph_throttled_seconds_total",
            "Time spent waiting because Graph said so. When it grows steadily: somebody else reads this tenant's log"
            " too; lower requests_per_minute.",
            "tenant",
        )  # fmt: skip
        self.sweeps = self._counter(
            "sweeps_total",
            "Sweeps that ended, by cadence and outcome. failed: see tenant_failing and the log; it is tried again.",
            "tenant", "every", "outcome",
        )  # fmt: skip
        self.unknown_properties = self._counter(
            "unknown_properties_total",
            "Members of rows that the schema does not know; they are kept in additionalProperties unless"
            " rows.additional_properties says drop. When it grows: Graph has new fields, look for an upgrade.",
            "tenant",
        )  # fmt: skip
        self.deepest_sweep_rows = self._counter(
            "deepest_sweep_rows_total",
            "Rows that turned up so late that only the sweep with the longest overlap found them. When it grows: look"
            " at row_lateness_seconds and lengthen that overlap, else rows that are later still will be missed.",
            "tenant",
        )  # fmt: skip
        self.transactions = self._counter(
            "transactions_total",
            "Kafka transactions by outcome; one whose outcome is not known counts as aborted. Some aborted ones at each"
            " rebalance are normal; a steady stream means that brokers or another worker interfere: see the log.",
            "shard", "outcome",
        )  # fmt: skip
        self.transaction_duration = self._histogram(
            "transaction_duration_seconds",
            "From begin to commit of a Kafka transaction. When above a second: look at the brokers' load, their disks"
            " and in-sync replicas.",
            TRANSACTION_DURATION_S, "shard",
        )  # fmt: skip
        self.restore_duration = self._gauge(
            "restore_duration_seconds",
            "How long the shard's last restore took; 0 before the first has ended. When minutes: check that the seen"
            " topic is compacted and has the settings that it was created with.",
            "shard",
        )  # fmt: skip
        self._gauge("shards", "kafka.shards: partitions of the internal topics. Workers must agree on it.").set(shards)
        self._shards_owned = self._gauge(
            "shards_owned",
            "How many shards this worker owns. The sum over all workers should be direct_routing_shards; when it stays"
            " less, no worker reads the others: look at the workers' readiness and the consumer group.",
        )
        self._kafka_up = self._gauge(
            "kafka_up",
            "1 when the last transaction or metadata request succeeded; 0 before the first. When 0: look at the"
            " brokers, the network, credentials and ACLs; the log names the error.",
        )
        self._gauge(
            "start_time_seconds",
            "When this worker started, as Unix time. When it changes often: something ends the worker, see the log of"
            " the one before, its exit code and its memory limit.",
        ).set(clock())
        self._gauge(
            "build_info",
            "Always 1; the version is in the label. More than one for long: finish the upgrade.",
            "version",
        ).labels(version).set(1)

    def tenant(self, label: str, everys: Sequence[str]) -> "TenantMetrics":
        """Return new metrics of a tenant.

        All its series exist from now on, except for the gauges of its state, which follow once `watch` was called.
        `everys` are the configured cadences of its sweeps. Metrics of the same label that are still open are closed.
        """
        if (old := self._tenants.pop(label, None)) is not None:
            old.closed()
        tenant = self._tenants[label] = TenantMetrics(self, label, tuple(everys))
        return tenant

    def shard(self, number: int) -> "ShardMetrics":
        """Return new metrics of a shard, all at 0. Metrics of the same shard that are still open are closed."""
        if (old := self._shards.pop(number, None)) is not None:
            old.closed()
        shard = self._shards[number] = ShardMetrics(self, number)
        return shard

    def shards_owned(self, n: int) -> None:
        """Set the number of shards that this worker owns."""
        self._shards_owned.set(n)

    def kafka_answered(self, ok: bool) -> None:  # noqa: FBT001 — one event, two outcomes
        """Record whether Kafka answered the last transaction or metadata request."""
        self._kafka_up.set(ok)

    def activity(self, label: str) -> Activity | None:
        """Return the load of a tenant; None when this worker does not own it."""
        tenant = self._tenants.get(label)
        if tenant is None:
            return None
        view = tenant.look()
        rate = tenant.pace.per_minute(self._clock())
        return Activity(tenant.requests_by_status(), rate, view.budget_used_ratio if view else 0.0)

    def now(self) -> float:
        """Return the time in epoch seconds."""
        return self._clock()

    def render(self, accept: str = "") -> tuple[bytes, str]:
        """Return the exposition and its content type: OpenMetrics if `accept` prefers it, else the classic text format.

        Views are called in the caller's thread. This takes about a second with 500 tenants; see `scrape`.
        """
        return self._render([self._glance(tenant) for tenant in list(self._tenants.values())], accept)

    async def scrape(self, accept: str = "") -> tuple[bytes, str]:
        """Return what `render` returns, without blocking the event loop.

        Each view is called once, in the event loop, and never two at the same time. One separate thread formats, so one
        scrape is formatted at a time.
        """
        loop = asyncio.get_running_loop()
        glances = []
        since = loop.time()
        for tenant in list(self._tenants.values()):
            glances.append(self._glance(tenant))
            if loop.time() - since > _STRETCH_S:
                await asyncio.sleep(0)
                since = loop.time()
        if self._thread is None:
            self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="metrics")
        return await loop.run_in_executor(self._thread, self._render, glances, accept)

    def forget_tenant(self, tenant: "TenantMetrics") -> None:
        """Drop the gauges of a tenant."""
        if self._tenants.get(tenant.label) is tenant:
            del self._tenants[tenant.label]

    def forget_shard(self, shard: "ShardMetrics") -> None:
        """Drop a shard, so that it can be owned again."""
        if self._shards.get(shard.number) is shard:
            del self._shards[shard.number]

    def _glance(self, tenant: "TenantMetrics") -> _Glance | None:
        view = tenant.look()
        return None if view is None else _Glance(tenant.label, tenant.everys, view, self._clock())

    def _render(self, glances: list[_Glance | None], accept: str) -> tuple[bytes, str]:
        exposition = _Exposition(self._registry, [glance for glance in glances if glance is not None])
        if _wants_openmetrics(accept):
            return _openmetrics(exposition), CONTENT_TYPE_OPENMETRICS
        return generate_latest(exposition), CONTENT_TYPE_PLAIN_0_0_4

    def _counter(self, name: str, help_: str, *labels: str) -> Counter:
        return Counter(_PREFIX + name, help_, labels, registry=self._registry)

    def _gauge(self, name: str, help_: str, *labels: str) -> Gauge:
        return Gauge(_PREFIX + name, help_, labels, registry=self._registry)

    def _histogram(self, name: str, help_: str, limits: Sequence[float], *labels: str) -> Histogram:
        return Histogram(_PREFIX + name, help_, labels, registry=self._registry, buckets=limits)


class TenantMetrics:
    """Metrics of one tenant while this worker owns it. Made by `Metrics.tenant`."""

    def __init__(self, metrics: Metrics, label: str, everys: tuple[str, ...]) -> None:
        self.label = label
        self.everys = everys
        self._metrics = metrics
        self._open = True
        self._view: Callable[[], TenantView] = TenantView
        self._view_failed = False
        self.pace = Rate(metrics.now())
        self._rows = {outcome: metrics.rows.labels(label, outcome) for outcome in ROW_OUTCOMES}
        self._lateness = metrics.lateness.labels(label)
        self._commit_delay = metrics.commit_delay.labels(label)
        self._requests = {
            (lane, status): metrics.requests.labels(label, lane, status) for lane in LANES for status in STATUSES
        }
        self._request_duration = metrics.request_duration.labels(label)
        self._throttled_seconds = metrics.throttled_seconds.labels(label)
        self._sweeps = {
            (every, outcome): metrics.sweeps.labels(label, every, outcome)
            for every in everys
            for outcome in SWEEP_OUTCOMES
        }
        self._unknown_properties = metrics.unknown_properties.labels(label)
        self._deepest_sweep_rows = metrics.deepest_sweep_rows.labels(label)

    def request_finished(self, lane: str, status: str, seconds: float) -> None:
        """Count a request that Graph answered with an HTTP status, or did not answer (`error`)."""
        count = self._requests.get((lane, status))
        if count is None:
            if not self._open:
                return
            count = self._requests[lane, status] = self._metrics.requests.labels(self.label, lane, status)
        count.inc()
        self._request_duration.observe(seconds)

    def throttled(self, seconds: float) -> None:
        """Add seconds that were spent waiting because Graph asked for it."""
        self._throttled_seconds.inc(seconds)

    def rows_committed(self, published: int = 0, revised: int = 0, duplicate: int = 0, dead_letter: int = 0) -> None:
        """Count the rows of a committed transaction."""
        if published or revised:
            self.pace.add(published + revised, self._metrics.now())
        self._rows["published"].inc(published)
        self._rows["revised"].inc(revised)
        self._rows["duplicate"].inc(duplicate)
        self._rows["dead_letter"].inc(dead_letter)

    def rows_first_read(self, lateness_s: Iterable[float]) -> None:
        """Record how late rows were first read in regular sweeps: seconds since their call's end, else its start."""
        for seconds in lateness_s:
            self._lateness.observe(seconds)

    def found_by_deepest_sweep(self, n: int) -> None:
        """Count `n` rows that appeared too late for every sweep but the one with the longest overlap."""
        self._deepest_sweep_rows.inc(n)

    def batch_committed(self, delay_s: float) -> None:
        """Record the seconds from receiving a response to committing its rows."""
        self._commit_delay.observe(delay_s)

    def sweep_ended(self, every: str, outcome: str) -> None:
        """Count a sweep that ended, by its cadence and `outcome` (`ok` or `failed`)."""
        self._sweeps[every, outcome].inc()

    def unknown_properties_seen(self, n: int) -> None:
        """Count `n` members of rows that the schema does not know."""
        self._unknown_properties.inc(n)

    def watch(self, view: Callable[[], TenantView]) -> None:
        """Call `view` at each scrape from now on: once, in the thread in which `Metrics.scrape` is awaited.

        It should take microseconds. When it raises, the tenant's gauges are absent from that scrape.
        """
        self._view = view

    def closed(self) -> None:
        """Remove the tenant's series because the tenant was handed over. Later events are dropped."""
        if not self._open:
            return
        self._open = False
        metrics = self._metrics
        metrics.forget_tenant(self)
        for outcome in self._rows:
            metrics.rows.remove(self.label, outcome)
        for lane, status in self._requests:
            metrics.requests.remove(self.label, lane, status)
        for every, outcome in self._sweeps:
            metrics.sweeps.remove(self.label, every, outcome)
        for family in (
            metrics.lateness,
            metrics.commit_delay,
            metrics.request_duration,
            metrics.throttled_seconds,
            metrics.unknown_properties,
            metrics.deepest_sweep_rows,
        ):
            family.remove(self.label)

    def requests_by_status(self) -> dict[str, int]:
        """Return the number of requests by status, in all lanes."""
        counts: dict[str, int] = {}
        for (_, status), counter in self._requests.items():
            total = sum(
                sample.value for metric in counter.collect() for sample in metric.samples if _is_no_created(sample.name)
            )
            counts[status] = counts.get(status, 0) + int(total)
        return counts

    def look(self) -> TenantView | None:
        """Return the tenant's current view; None when it raises, which is logged once until it works again."""
        try:
            view = self._view()
        except Exception:  # noqa: BLE001 — an error of one tenant must not fail the scrape of all others
            if not self._view_failed:
                _log.exception("tenant_view_failed", tenant=self.label, effect="its gauges are absent from /metrics")
            self._view_failed = True
            return None
        if self._view_failed:
            _log.info("tenant_view_recovered", tenant=self.label)
            self._view_failed = False
        return view


class ShardMetrics:
    """Metrics of one shard while this worker owns it. Made by `Metrics.shard`."""

    def __init__(self, metrics: Metrics, number: int) -> None:
        self.number = number
        self._metrics = metrics
        self._open = True
        label = str(number)
        self._committed = metrics.transactions.labels(label, "committed")
        self._aborted = metrics.transactions.labels(label, "aborted")
        self._transaction_duration = metrics.transaction_duration.labels(label)
        self._restore_duration = metrics.restore_duration.labels(label)

    def transaction_committed(self, seconds: float) -> None:
        """Count a committed transaction and record how long it took."""
        self._committed.inc()
        self._transaction_duration.observe(seconds)

    def transaction_aborted(self) -> None:
        """Count a transaction that was aborted or whose outcome is unknown."""
        self._aborted.inc()

    def restored(self, seconds: float) -> None:
        """Record how long reading the shard's state took."""
        self._restore_duration.set(seconds)

    def closed(self) -> None:
        """Remove the shard's series because the shard was handed over."""
        if not self._open:
            return
        self._open = False
        metrics = self._metrics
        metrics.forget_shard(self)
        label = str(self.number)
        for outcome in TRANSACTION_OUTCOMES:
            metrics.transactions.remove(label, outcome)
        metrics.transaction_duration.remove(label)
        metrics.restore_duration.remove(label)


class _Exposition:
    """Metrics of one scrape: the registry's counters and the tenants' gauges."""

    def __init__(self, registry: CollectorRegistry, glances: list[_Glance]) -> None:
        self._registry = registry
        self._glances = glances

    def collect(self) -> Iterator[Metric]:
        for gauge in _TENANT_GAUGES:
            family = GaugeMetricFamily(_PREFIX + gauge.name, gauge.help, labels=["tenant"])
            for glance in self._glances:
                value = gauge.value(glance)
                if value is not None:
                    family.add_metric([glance.tenant], float(value))
            yield family
        overdue = GaugeMetricFamily(f"{_PREFIX}sweep_overdue_seconds", _OVERDUE_HELP, labels=["tenant", "every"])
        failing = GaugeMetricFamily(f"{_PREFIX}tenant_failing", _FAILING_HELP, labels=["tenant", "reason"])
        for glance in self._glances:
            for every in glance.everys:
                overdue.add_metric([glance.tenant, every], float(glance.view.sweep_overdue.get(every, 0.0)))
            for reason in REASONS:
                failing.add_metric([glance.tenant, reason], float(glance.view.failing == reason))
        yield overdue
        yield failing
        # prometheus_client can switch `_created` samples off only for the whole process.
        for metric in self._registry.collect():
            metric.samples = [sample for sample in metric.samples if _is_no_created(sample.name)]
            yield metric


def _is_no_created(name: str) -> bool:
    return not name.endswith("_created")


def _wants_openmetrics(accept: str) -> bool:
    # prometheus_client's own selection fails on a version that is not a number, and it ignores q.
    best = {"application/openmetrics-text": 0.0, "text/plain": 0.0}
    for part in accept.split(","):
        media, *parameters = (piece.strip() for piece in part.split(";"))
        quality = 1.0
        for parameter in parameters:
            name, _, value = parameter.partition("=")
            if name.strip().lower() == "q":
                try:
                    quality = float(value)
                except ValueError:
                    quality = 0.0
        if media.lower() in best:
            best[media.lower()] = max(best[media.lower()], quality)
    wanted = best["application/openmetrics-text"]
    return wanted > 0 and wanted >= best["text/plain"]
