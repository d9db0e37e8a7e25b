"""The metrics as a scrape sees them."""

import asyncio
import threading
from collections.abc import Callable, Iterable
from unittest.mock import Mock

import pytest
from prometheus_client.core import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from prometheus_client.parser import text_string_to_metric_families as parse_text
from structlog.testing import capture_logs

from connector.metrics.gauges import TenantView
from connector.metrics.tenant import TenantMetrics
from connector.metrics.worker import Metrics

EVERYS = ("1m", "15m", "2h", "24h")
OPENMETRICS = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,text/plain;version=0.0.4;q=0.3"

FAMILIES = {
    "lag_seconds": ("gauge", {"tenant"}),
    "covered_through_timestamp_seconds": ("gauge", {"tenant"}),
    "gap_seconds": ("gauge", {"tenant"}),
    "unread_seconds": ("gauge", {"tenant"}),
    "gaps": ("gauge", {"tenant"}),
    "rows_total": ("counter", {"tenant", "outcome"}),
    "row_lateness_seconds": ("histogram", {"tenant"}),
    "commit_delay_seconds": ("histogram", {"tenant"}),
    "graph_requests_total": ("counter", {"tenant", "lane", "status"}),
    "graph_request_duration_seconds": ("histogram", {"tenant"}),
    "graph_throttled_seconds_total": ("counter", {"tenant"}),
    "graph_budget_used_ratio": ("gauge", {"tenant"}),
    "sweeps_total": ("counter", {"tenant", "every", "outcome"}),
    "sweep_overdue_seconds": ("gauge", {"tenant", "every"}),
    "tenant_up": ("gauge", {"tenant"}),
    "tenant_failing": ("gauge", {"tenant", "reason"}),
    "tenant_paused": ("gauge", {"tenant"}),
    "remembered_rows": ("gauge", {"tenant"}),
    "unknown_properties_total": ("counter", {"tenant"}),
    "backfill_remaining_seconds": ("gauge", {"tenant"}),
    "deepest_sweep_rows_total": ("counter", {"tenant"}),
    "withdrawn_rows_total": ("counter", {"tenant"}),
    "transactions_total": ("counter", {"shard", "outcome"}),
    "transaction_duration_seconds": ("histogram", {"shard"}),
    "restore_duration_seconds": ("gauge", {"shard"}),
    "shards": ("gauge", set()),
    "shards_owned": ("gauge", set()),
    "kafka_up": ("gauge", set()),
    "tenants_unread": ("gauge", set()),
    "start_time_seconds": ("gauge", set()),
    "build_info": ("gauge", {"version"}),
}
parse_openmetrics: Callable[[str], Iterable[Metric]] = text_string_to_metric_families
NOW = 1_800_000_000.0


def view() -> TenantView:
    return TenantView(
        covered_through=NOW - 12.5,
        gap_seconds=30.0,
        gaps=2,
        budget_used_ratio=0.75,
        sweep_overdue={"2h": 7.0},
        up=True,
        failing="throttled",
        paused=False,
        remembered_rows=9,
        backfill_remaining_seconds=3600.0,
    )


@pytest.fixture
def metrics() -> Metrics:
    return Metrics("1.2.3", 8, clock=lambda: NOW)


@pytest.fixture
def tenant(metrics: Metrics) -> TenantMetrics:
    tenant = metrics.tenant("contoso", EVERYS)
    tenant.watch(view)
    return tenant


def lines(metrics: Metrics, accept: str = "") -> dict[str, float]:
    """Return the value of each series of a scrape, by the text of its name and labels."""
    text = metrics.render(accept)[0].decode()
    pairs = (line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    return {series: float(value) for series, value in pairs}


def of_tenant(metrics: Metrics, label: str = "contoso") -> set[str]:
    return {series for series in lines(metrics) if f'tenant="{label}"' in series}


def families(metrics: Metrics) -> Iterable[Metric]:
    return parse_text(metrics.render()[0].decode())


def test_every_metric_exists_at_the_first_scrape(metrics: Metrics) -> None:
    text = metrics.render()[0].decode()

    declared = dict(line.split()[2:4] for line in text.splitlines() if line.startswith("# TYPE"))

    assert declared == {f"direct_routing_{name}": kind for name, (kind, _) in FAMILIES.items()}
    assert lines(metrics) == {
        "direct_routing_shards": 8,
        "direct_routing_shards_owned": 0,
        "direct_routing_kafka_up": 0,
        "direct_routing_tenants_unread": 0,
        "direct_routing_start_time_seconds": NOW,
        'direct_routing_build_info{version="1.2.3"}': 1,
    }


@pytest.mark.usefixtures("tenant")
def test_every_series_has_the_labels_of_its_metric(metrics: Metrics) -> None:
    metrics.shard(3)
    seen = set()
    for family in families(metrics):
        name = family.name.removeprefix("direct_routing_")
        kind, labels = FAMILIES[name if name in FAMILIES else f"{name}_total"]
        assert family.type == kind
        assert {frozenset(sample.labels) - {"le"} for sample in family.samples} == {frozenset(labels)}
        seen.add(family.name)
    assert len(seen) == len(FAMILIES)


def test_metric_help_texts_are_complete_sentences(metrics: Metrics) -> None:
    for family in families(metrics):
        assert len(family.documentation) > 40, family.name
        assert family.documentation.endswith(".")


@pytest.mark.usefixtures("tenant")
def test_tenant_exports_at_most_80_series(metrics: Metrics) -> None:
    metrics.tenant("fabrikam", [*EVERYS, "3d", "5d"]).watch(view)

    assert len(of_tenant(metrics)) == 74
    assert len(of_tenant(metrics, "fabrikam")) <= 80


@pytest.mark.usefixtures("tenant")
def test_histograms_have_the_documented_buckets(metrics: Metrics) -> None:
    metrics.shard(0)
    limits = {
        family.name.removeprefix("direct_routing_"): [
            float(sample.labels["le"]) for sample in family.samples if sample.name.endswith("_bucket")
        ]
        for family in families(metrics)
        if family.type == "histogram"
    }

    assert set(limits) == {name for name, (kind, _) in FAMILIES.items() if kind == "histogram"}
    assert all(len(of_one) <= 10 for of_one in limits.values())
    lateness = [60, 300, 900, 3600, 10800, 21600, 86400, 172800, 604800, float("inf")]
    assert limits["row_lateness_seconds"] == lateness


@pytest.mark.usefixtures("tenant")
@pytest.mark.parametrize("lane", ["live", "sweep", "backfill"])
def test_request_series_exist_before_the_first_request(metrics: Metrics, lane: str) -> None:
    for status in ("200", "429", "error"):
        name = f'direct_routing_graph_requests_total{{lane="{lane}",status="{status}",tenant="contoso"}}'
        assert lines(metrics)[name] == 0


@pytest.mark.usefixtures("tenant")
def test_metric_counters_start_at_0(metrics: Metrics) -> None:
    metrics.shard(0)
    series = lines(metrics)

    counted = {name: value for name, value in series.items() if "_total{" in name or "_count{" in name}
    assert set(counted.values()) == {0}
    for name in (
        *(
            f'rows_total{{outcome="{o}",tenant="contoso"}}'
            for o in ("published", "revised", "duplicate", "dead_letter")
        ),
        *(f'sweeps_total{{every="{e}",outcome="{o}",tenant="contoso"}}' for e in EVERYS for o in ("ok", "failed")),
        *(f'transactions_total{{outcome="{o}",shard="0"}}' for o in ("committed", "aborted")),
    ):
        assert f"direct_routing_{name}" in counted


@pytest.mark.parametrize("accept", ["", OPENMETRICS])
def test_metrics_have_no_series_with_the_suffix_created(metrics: Metrics, tenant: TenantMetrics, accept: str) -> None:
    tenant.batch_committed(1.0)

    assert b"_created" not in metrics.render(accept)[0]


@pytest.mark.usefixtures("tenant")
def test_gauges_show_the_values_at_scrape_time(metrics: Metrics) -> None:
    series = lines(metrics)

    def of(name: str, **labels: str) -> float:
        within = ",".join(f'{key}="{value}"' for key, value in sorted({**labels, "tenant": "contoso"}.items()))
        return series[f"direct_routing_{name}{{{within}}}"]

    assert of("lag_seconds") == 12.5
    assert of("covered_through_timestamp_seconds") == NOW - 12.5
    assert (of("gap_seconds"), of("gaps")) == (30, 2)
    assert of("unread_seconds") == 30 + of("lag_seconds")
    assert of("graph_budget_used_ratio") == 0.75
    assert [of("sweep_overdue_seconds", every=every) for every in EVERYS] == [0, 0, 7, 0]
    assert of("tenant_up") == 1
    reasons = ("sign_in", "permission", "rejected", "throttled", "unreachable")
    assert [of("tenant_failing", reason=reason) for reason in reasons] == [0, 0, 0, 1, 0]
    assert of("tenant_paused") == 0
    assert of("remembered_rows") == 9
    assert of("backfill_remaining_seconds") == 3600


def test_lag_gauge_grows_between_scrapes() -> None:
    now = [NOW]
    metrics = Metrics("1", 1, clock=lambda: now[0])
    metrics.tenant("contoso", EVERYS).watch(view)

    now[0] += 60

    assert lines(metrics)['direct_routing_lag_seconds{tenant="contoso"}'] == 72.5


def test_gauges_with_unknown_values_are_not_exported(metrics: Metrics) -> None:
    metrics.tenant("contoso", EVERYS)
    series = lines(metrics)

    assert series['direct_routing_tenant_up{tenant="contoso"}'] == 0
    assert series['direct_routing_graph_budget_used_ratio{tenant="contoso"}'] == 0
    for unknown in (
        "lag_seconds",
        "covered_through_timestamp_seconds",
        "gap_seconds",
        "unread_seconds",
        "gaps",
        "remembered_rows",
    ):
        assert f'direct_routing_{unknown}{{tenant="contoso"}}' not in series


def test_gauges_of_a_tenant_are_computed_once_per_scrape(metrics: Metrics, tenant: TenantMetrics) -> None:
    calls = Mock(side_effect=view)
    tenant.watch(calls)

    metrics.render()
    metrics.render(OPENMETRICS)

    assert calls.call_count == 2


def test_error_in_the_gauges_of_a_tenant_affects_no_other_tenant(metrics: Metrics, tenant: TenantMetrics) -> None:
    broken = [True]

    def sometimes() -> TenantView:
        if broken[0]:
            raise ZeroDivisionError
        return view()

    metrics.tenant("fabrikam", EVERYS).watch(view)
    tenant.watch(sometimes)
    with capture_logs() as logs:
        text = metrics.render()[0].decode()
        metrics.render()
        broken[0] = False
        recovered = lines(metrics)

    assert 'direct_routing_lag_seconds{tenant="fabrikam"}' in text
    assert 'direct_routing_tenant_up{tenant="contoso"}' not in text
    assert 'direct_routing_rows_total{outcome="published",tenant="contoso"}' in text
    assert 'direct_routing_tenant_up{tenant="contoso"}' in recovered
    assert [entry["event"] for entry in logs] == ["tenant_gauges_failed", "tenant_gauges_recovered"]


def test_each_event_increments_the_counter_with_its_labels(metrics: Metrics, tenant: TenantMetrics) -> None:
    tenant.request_finished("live", "200", 0.2)
    tenant.request_finished("backfill", "503", 2.0)
    tenant.throttled(12.5)
    tenant.rows_committed(published=5, revised=4, duplicate=3, dead_letter=2)
    tenant.rows_first_read([30.0, 4000.0, 700_000.0])
    tenant.batch_committed(0.07)
    tenant.sweep_ended("2h", "failed")
    tenant.unknown_properties_seen(6)
    tenant.found_by_deepest_sweep(7)
    tenant.rows_withdrawn(8)
    shard = metrics.shard(3)
    shard.transaction_committed(0.03)
    shard.transaction_aborted()
    shard.restored(1.5)
    metrics.shards_owned(4)
    metrics.kafka_answered(ok=True)

    series = lines(metrics)
    expected = {
        'graph_requests_total{lane="live",status="200",tenant="contoso"}': 1,
        'graph_requests_total{lane="backfill",status="503",tenant="contoso"}': 1,
        'graph_request_duration_seconds_bucket{le="0.25",tenant="contoso"}': 1,
        'graph_request_duration_seconds_count{tenant="contoso"}': 2,
        'graph_throttled_seconds_total{tenant="contoso"}': 12.5,
        'rows_total{outcome="published",tenant="contoso"}': 5,
        'rows_total{outcome="revised",tenant="contoso"}': 4,
        'rows_total{outcome="duplicate",tenant="contoso"}': 3,
        'rows_total{outcome="dead_letter",tenant="contoso"}': 2,
        'row_lateness_seconds_bucket{le="60.0",tenant="contoso"}': 1,
        'row_lateness_seconds_bucket{le="10800.0",tenant="contoso"}': 2,
        'row_lateness_seconds_bucket{le="+Inf",tenant="contoso"}': 3,
        'commit_delay_seconds_sum{tenant="contoso"}': 0.07,
        'sweeps_total{every="2h",outcome="failed",tenant="contoso"}': 1,
        'unknown_properties_total{tenant="contoso"}': 6,
        'deepest_sweep_rows_total{tenant="contoso"}': 7,
        'withdrawn_rows_total{tenant="contoso"}': 8,
        'transactions_total{outcome="committed",shard="3"}': 1,
        'transactions_total{outcome="aborted",shard="3"}': 1,
        'transaction_duration_seconds_count{shard="3"}': 1,
        'restore_duration_seconds{shard="3"}': 1.5,
        "shards_owned": 4,
        "kafka_up": 1,
    }
    assert {name: series[f"direct_routing_{name}"] for name in expected} == expected
    activity = metrics.activity("contoso")
    assert activity is not None
    assert activity.rows_per_minute == 9, "the rate counts published and revised rows over at least a minute"
    assert activity.requests == {"200": 1, "429": 0, "error": 0, "503": 1}


def test_metrics_of_a_released_tenant_and_shard_disappear(metrics: Metrics, tenant: TenantMetrics) -> None:
    empty = lines(Metrics("1.2.3", 8, clock=lambda: NOW))
    tenant.request_finished("live", "503", 0.2)
    shard = metrics.shard(3)

    tenant.closed()
    shard.closed()

    assert lines(metrics) == empty
    assert metrics.activity("contoso") is None


def test_late_events_of_a_released_tenant_create_no_metrics(metrics: Metrics, tenant: TenantMetrics) -> None:
    tenant.closed()

    tenant.request_finished("live", "200", 0.2)
    tenant.request_finished("live", "418", 0.2)
    tenant.rows_committed(published=1)
    tenant.closed()

    assert of_tenant(metrics) == set()


def test_counters_of_a_returning_tenant_start_at_0(metrics: Metrics, tenant: TenantMetrics) -> None:
    tenant.rows_committed(published=5)

    metrics.tenant("contoso", EVERYS).watch(view)
    tenant.rows_committed(published=5)
    tenant.closed()

    assert lines(metrics)['direct_routing_rows_total{outcome="published",tenant="contoso"}'] == 0
    assert len(of_tenant(metrics)) == 74


def test_counters_of_a_returning_shard_start_at_0(metrics: Metrics) -> None:
    old = metrics.shard(3)
    old.transaction_aborted()

    metrics.shard(3)
    old.closed()

    assert lines(metrics)['direct_routing_transactions_total{outcome="aborted",shard="3"}'] == 0


@pytest.mark.parametrize(
    ("accept", "openmetrics"),
    [
        ("", False),
        ("*/*", False),
        ("text/plain;version=0.0.4", False),
        ("text/plain;version=not-a-number;q=high", False),
        ("application/openmetrics-text", True),
        ("application/openmetrics-text;version=not-a-number", True),
        ("Application/OpenMetrics-Text; version=1.0.0; q=0.5, text/plain; q=0.2", True),
        ("application/openmetrics-text;q=0.1,text/plain;q=0.9", False),
        ("application/openmetrics-text;q=0", False),
        (OPENMETRICS, True),
        (";;,=,q=", False),
    ],
)
def test_metrics_format_follows_the_accept_header(metrics: Metrics, accept: str, *, openmetrics: bool) -> None:
    body, content_type = metrics.render(accept)

    assert content_type.startswith("application/openmetrics-text; version=1.0.0" if openmetrics else "text/plain")
    assert body.endswith(b"# EOF\n") is openmetrics


def test_openmetrics_values_match_the_classic_format(metrics: Metrics, tenant: TenantMetrics) -> None:
    tenant.rows_first_read([1, 2, 3000])
    metrics.shard(1)

    strict = {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in parse_openmetrics(metrics.render(OPENMETRICS)[0].decode())
        for sample in family.samples
    }
    classic = {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in families(metrics)
        for sample in family.samples
    }

    assert strict == classic


def test_metric_label_values_are_escaped(metrics: Metrics) -> None:
    label = 'a "b"\\\nc · ü'
    metrics.tenant(label, EVERYS).watch(view)

    for parse, accept in ((parse_text, ""), (parse_openmetrics, OPENMETRICS)):
        text = metrics.render(accept)[0].decode()
        assert label in {sample.labels.get("tenant") for family in parse(text) for sample in family.samples}


async def test_scrape_computes_tenant_gauges_in_the_event_loop(metrics: Metrics, tenant: TenantMetrics) -> None:
    threads = []

    def noted() -> TenantView:
        threads.append(threading.current_thread())
        return view()

    tenant.watch(noted)

    assert await metrics.scrape(OPENMETRICS) == metrics.render(OPENMETRICS)
    assert set(threads) == {threading.current_thread()}


async def test_scrape_of_500_tenants_does_not_block_the_event_loop() -> None:
    metrics = Metrics("1", 8)
    for n in range(500):
        metrics.tenant(f"tenant-{n}", EVERYS).watch(view)
    turns = 0
    scrape = asyncio.create_task(metrics.scrape())
    while not scrape.done():
        await asyncio.sleep(0.001)
        turns += 1

    body, _ = await scrape

    assert body.count(b"\n") > 500 * 60
    assert turns > 10
