"""Gauges of the tenants. They are computed at each scrape from the current state of the tenants."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, get_args

from prometheus_client.core import GaugeMetricFamily, Metric

from connector.errors import PermanentReason, TransientReason
from connector.metrics.families import PREFIX

REASONS: tuple[str, ...] = (*get_args(PermanentReason), *get_args(TransientReason))


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantView:
    """Current state of a tenant, from which its gauges are computed.

    Until the state is restored, a value is None and its gauge has no series.
    """

    covered_through: float | None = None
    """End of the newest call time that was read and committed, in epoch seconds.

    If nothing was read yet, it is the tenant's start, so that the lag includes the call time that is still to be read.
    """
    gap_seconds: float | None = None
    gaps: int | None = None
    budget_used_ratio: float = 0.0
    sweep_overdue: dict[str, float] = field(default_factory=dict)
    "Seconds by which each overdue sweep is late, by the sweep's cadence (`every`)."
    up: bool = False
    failing: PermanentReason | TransientReason | None = None
    paused: bool | None = None
    remembered_rows: int | None = None
    backfill_remaining_seconds: float | None = None


class Glance(NamedTuple):
    """State of a tenant (`view`) for one scrape. `at` is the time of the scrape in epoch seconds."""

    tenant: str
    everys: tuple[str, ...]
    view: TenantView
    at: float


class _TenantGauge(NamedTuple):
    """Gauge with one series per tenant. `value` returns its value for a tenant, or None if it is not known."""

    name: str
    help: str
    value: Callable[[Glance], float | None]


def _unread_seconds(glance: Glance) -> float | None:
    view = glance.view
    if view.covered_through is None or view.gap_seconds is None:
        return None
    return view.gap_seconds + max(0.0, glance.at - view.covered_through)


_TENANT_GAUGES = (
    _TenantGauge(
        "lag_seconds",
        "Now minus the end of the newest call time that was read and committed. If it grows: see tenant_failing,"
        " kafka_up and graph_budget_used_ratio; after an outage or a first start, it falls without action.",
        lambda glance: None if glance.view.covered_through is None else glance.at - glance.view.covered_through,
    ),
    _TenantGauge(
        "covered_through_timestamp_seconds",
        "End of the newest call time that was read and committed, as Unix time. If it does not advance: see"
        " tenant_failing and kafka_up.",
        lambda glance: glance.view.covered_through,
    ),
    _TenantGauge(
        "gap_seconds",
        "Call time between the tenant's start and covered_through that was never read. The connector reads it"
        " within the request budget. If it does not fall: see graph_budget_used_ratio, then the causes in /status.",
        lambda glance: glance.view.gap_seconds,
    ),
    _TenantGauge(
        "unread_seconds",
        "Call time from the tenant's start up to now that was never read: gap_seconds plus lag_seconds. If it does"
        " not fall: see tenant_failing, tenant_paused and graph_budget_used_ratio. /status states where it begins and"
        " when all of it will be read.",
        _unread_seconds,
    ),
    _TenantGauge(
        "gaps",
        "The number of separate ranges in gap_seconds. /status lists each range with its cause.",
        lambda glance: glance.view.gaps,
    ),
    _TenantGauge(
        "graph_budget_used_ratio",
        "Requests in the last 60 s divided by requests_per_minute. Near 1 for hours means that the sweeps do not fit:"
        " run `connector plan`, then raise requests_per_minute or run sweeps less often.",
        lambda glance: glance.view.budget_used_ratio,
    ),
    _TenantGauge(
        "tenant_up",
        "1 if the last request (for a token or to Graph) succeeded, 0 if it failed or if there was none yet. If it"
        " is 0: see tenant_failing, whose label reason states why.",
        lambda glance: glance.view.up,
    ),
    _TenantGauge(
        "tenant_paused",
        "1 while the tenant is paused: nothing is read. `connector resume` continues where it stopped.",
        lambda glance: glance.view.paused,
    ),
    _TenantGauge(
        "remembered_rows",
        "Rows in the deduplication index, which need about 24 bytes each. If memory is short: add workers or shorten"
        " dedup.horizon.",
        lambda glance: glance.view.remembered_rows,
    ),
    _TenantGauge(
        "backfill_remaining_seconds",
        "Call time that backfill jobs have yet to read. If it does not fall: the sweeps use the whole request budget,"
        " or the tenant is failing or paused.",
        lambda glance: glance.view.backfill_remaining_seconds,
    ),
)
_OVERDUE_HELP = (
    "How long ago the sweep should have finished, or 0. If it grows: the tenant is failing, the brokers are"
    " unavailable, or the sweeps do not fit the request budget (`connector plan`)."
)
_FAILING_HELP = (
    "1 for the reason for which the tenant fails. sign_in: correct client id, secret or tenant id. permission: grant"
    " CallRecords.Read.All with admin consent. rejected: read the reason in the log. throttled: another client reads"
    " this log too, lower requests_per_minute. unreachable: check network, proxy and the health of Graph."
)


def tenant_gauges(glances: Sequence[Glance]) -> Iterator[Metric]:
    """Yield the gauges of all tenants with their values for one scrape. A value that is not known has no series."""
    for gauge in _TENANT_GAUGES:
        family = GaugeMetricFamily(PREFIX + gauge.name, gauge.help, labels=["tenant"])
        for glance in glances:
            value = gauge.value(glance)
            if value is not None:
                family.add_metric([glance.tenant], float(value))
        yield family
    overdue = GaugeMetricFamily(f"{PREFIX}sweep_overdue_seconds", _OVERDUE_HELP, labels=["tenant", "every"])
    failing = GaugeMetricFamily(f"{PREFIX}tenant_failing", _FAILING_HELP, labels=["tenant", "reason"])
    for glance in glances:
        for every in glance.everys:
            overdue.add_metric([glance.tenant, every], float(glance.view.sweep_overdue.get(every, 0.0)))
        for reason in REASONS:
            failing.add_metric([glance.tenant, reason], float(glance.view.failing == reason))
    yield overdue
    yield failing
