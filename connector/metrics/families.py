"""Families of counters, histograms and gauges: their names, help texts, labels and bucket limits."""

from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

PREFIX = "direct_routing_"
LATENESS_S = (60, 300, 900, 3600, 10_800, 21_600, 86_400, 172_800, 604_800)
# There are only a few bucket limits, so that a tenant with six sweeps has at most 80 series.
COMMIT_DELAY_S = (0.1, 0.25, 1, 2.5, 10, 60)
REQUEST_DURATION_S = (0.25, 0.5, 1, 2.5, 10, 30)
TRANSACTION_DURATION_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5)


def counter(registry: CollectorRegistry, name: str, help_: str, *labels: str) -> Counter:
    """Create a counter. The prefix of all metrics is added to its name."""
    return Counter(PREFIX + name, help_, labels, registry=registry)


def gauge(registry: CollectorRegistry, name: str, help_: str, *labels: str) -> Gauge:
    """Create a gauge. The prefix of all metrics is added to its name."""
    return Gauge(PREFIX + name, help_, labels, registry=registry)


def histogram(registry: CollectorRegistry, name: str, help_: str, limits: Sequence[float], *labels: str) -> Histogram:
    """Create a histogram.

    The prefix of all metrics is added to its name. `limits` are the upper limits of its buckets.
    """
    return Histogram(PREFIX + name, help_, labels, registry=registry, buckets=limits)


class RowFamilies:
    """Metrics of rows with at least one series per tenant."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.rows = counter(
            registry, "rows_total",
            "Rows by outcome. For dead_letter, read the headers of the records in the dead-letter topic: they name the"
            " invalid field. If all rows become dead letters, Graph has changed and the connector needs an upgrade.",
            "tenant", "outcome",
        )  # fmt: skip
        self.lateness = histogram(
            registry, "row_lateness_seconds",
            "Time from the end of a call until a sweep first read its row. If values are close to the longest overlap:"
            " extend this overlap, or later rows will be missed.",
            LATENESS_S, "tenant",
        )  # fmt: skip
        self.unknown_properties = counter(
            registry, "unknown_properties_total",
            "JSON members of rows that the schema does not have. They are kept in additionalProperties, unless"
            " rows.additional_properties is drop. If it grows: Graph has new fields, look for an upgrade.",
            "tenant",
        )  # fmt: skip
        self.deepest_sweep_rows = counter(
            registry, "deepest_sweep_rows_total",
            "Rows that became visible so late that only the sweep with the longest overlap found them. If it grows: see"
            " row_lateness_seconds and extend the longest overlap, or rows that are even later will be missed.",
            "tenant",
        )  # fmt: skip
        self.withdrawn_rows = counter(
            registry, "withdrawn_rows_total",
            "Rows that are on the topic and that Graph does not return any more. They stay on the topic. If it grows: "
            "connector verify lists them. Ask Microsoft why with connector support-case.",
            "tenant",
        )  # fmt: skip


class TenantFamilies(RowFamilies):
    """Metrics with at least one series per tenant."""

    def __init__(self, registry: CollectorRegistry) -> None:
        super().__init__(registry)
        self.commit_delay = histogram(
            registry, "commit_delay_seconds",
            "Time from the response of Graph to the commit of the transaction. If it takes seconds: the brokers are"
            " slow, see transaction_duration_seconds.",
            COMMIT_DELAY_S, "tenant",
        )  # fmt: skip
        self.requests = counter(
            registry, "graph_requests_total",
            "Requests to Graph by lane and HTTP status. The status is error if there was no response. "
            "401 or 403: correct the sign-in or the permission. 429: lower requests_per_minute. "
            "5xx or error: check network, proxy and Graph's health.",
            "tenant", "lane", "status",
        )  # fmt: skip
        self.request_duration = histogram(
            registry, "graph_request_duration_seconds",
            "Duration of requests to Graph. If it approaches graph.timeout: raise this timeout, or lower"
            " graph.concurrency.",
            REQUEST_DURATION_S, "tenant",
        )  # fmt: skip
        self.throttled_seconds = counter(
            registry, "graph_throttled_seconds_total",
            "Time spent waiting because Graph required it. If it grows steadily: another client reads the log of this"
            " tenant too, lower requests_per_minute.",
            "tenant",
        )  # fmt: skip
        self.sweeps = counter(
            registry, "sweeps_total",
            "Finished sweeps by cadence and outcome. A failed sweep is repeated: see tenant_failing and the log.",
            "tenant", "every", "outcome",
        )  # fmt: skip


class ShardFamilies:
    """Metrics with at least one series per shard."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.transactions = counter(
            registry, "transactions_total",
            "Kafka transactions by outcome. An unknown outcome counts as aborted. Some aborts at each rebalance are"
            " normal. If aborts continue: see the log for errors of the brokers or another worker that interferes.",
            "shard", "outcome",
        )  # fmt: skip
        self.transaction_duration = histogram(
            registry, "transaction_duration_seconds",
            "Time from the start of a Kafka transaction to its commit. If it is above a second: check the load of the"
            " brokers, their disks and in-sync replicas.",
            TRANSACTION_DURATION_S, "shard",
        )  # fmt: skip
        self.restore_duration = gauge(
            registry, "restore_duration_seconds",
            "Duration of the shard's last restore, 0 before the first has finished. If it takes minutes: check that the"
            " seen topic is compacted and has the settings with which the connector creates it.",
            "shard",
        )  # fmt: skip
