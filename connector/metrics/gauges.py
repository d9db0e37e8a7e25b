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

    A value is None while it is not known, because the state is not restored yet. The gauge then has no series.
    """

    covered_through: float | None = None
    """End of the newest call time that was read and committed, in epoch seconds.

    If nothing was read yet, it is the tenant's start, so that the lag includes the call time that is still to be read.
    """
    gap_seconds: float | None = None
    gaps: int | None = None
    budget_used_ratio: float = 0.0
    sweep_overdue: dict[str, float] = field(default_factory=dict)
    "Seconds for which a sweep is overdue, by its cadence (`every`). A cadence that is absent is not overdue."
    up: bool = False
    failing: PermanentReason | TransientReason | None = None
    paused: bool | None = None
    remembered_rows: int | None = None
    backfill_remaining_seconds: float | None = None


class Glance(NamedTuple):
    """State of a tenant at one scrape. `at` is the time of the scrape in epoch seconds."""

    tenant: str
    everys: tuple[str, ...]
    view: TenantView
    at: float


class _TenantGauge(NamedTuple):
    """Gauge with one series per tenant. `value` computes its value, or returns None if it is not known."""

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
        "unread_seconds",
        "Call time from the tenant's start up to now that was never read: gap_seconds plus lag_seconds. When it does"
        " not fall: see tenant_failing, tenant_paused and graph_budget_used_ratio; /status tells from when it is and"
        " when it will have been read.",
        _unread_seconds,
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
