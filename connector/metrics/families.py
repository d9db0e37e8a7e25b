"""Families of counters, histograms and gauges: their names, help texts, labels and bucket limits."""

from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

PREFIX = "direct_routing_"
LATENESS_S = (60, 300, 900, 3600, 10_800, 21_600, 86_400, 172_800, 604_800)
# Few bucket limits, so that a tenant with six sweeps stays within 80 series.
COMMIT_DELAY_S = (0.1, 0.25, 1, 2.5, 10, 60)
REQUEST_DURATION_S = (0.1, 0.25, 0.5, 1, 2.5, 10, 30)
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


class TenantFamilies:
    """Metrics with at least one series per tenant."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.rows = counter(
            registry, "rows_total",
            "Rows by what became of them. dead_letter: look into the dead-letter topic, its headers say which field"
            " did not fit; when all rows go there, Graph has changed and the connector needs an upgrade.",
            "tenant", "outcome",
        )  # fmt: skip
        self.lateness = histogram(
            registry, "row_lateness_seconds",
            "From a call's end to the first reading of its row, in regular sweeps. When rows come close to the deepest"
            " overlap: lengthen that overlap, or later rows will be missed.",
            LATENESS_S, "tenant",
        )  # fmt: skip
        self.commit_delay = histogram(
            registry, "commit_delay_seconds",
            "From Graph's response to the committed transaction. When seconds: the brokers are slow, see"
            " transaction_duration_seconds.",
            COMMIT_DELAY_S, "tenant",
        )  # fmt: skip
        self.requests = counter(
            registry, "graph_requests_total",
            "Requests to Graph by status (error: no answer) and lane. 401 or 403: repair sign-in or permission. 429:"
            " lower requests_per_minute. 5xx or error: wait; look at network, proxy and Graph's health.",
            "tenant", "lane", "status",
        )  # fmt: skip
        self.request_duration = histogram(
            registry, "graph_request_duration_seconds",
            "How long Graph took to answer. When it nears graph.timeout: raise that, or lower graph.concurrency.",
            REQUEST_DURATION_S, "tenant",
        )  # fmt: skip
        self.throttled_seconds = counter(
            registry, "graph_throttled_seconds_total",
            "Time spent waiting because Graph said so. When it grows steadily: somebody else reads this tenant's log"
            " too; lower requests_per_minute.",
            "tenant",
        )  # fmt: skip
        self.sweeps = counter(
            registry, "sweeps_total",
            "Sweeps that ended, by cadence and outcome. failed: see tenant_failing and the log; it is tried again.",
            "tenant", "every", "outcome",
        )  # fmt: skip
        self.unknown_properties = counter(
            registry, "unknown_properties_total",
            "Members of rows that the schema does not know; they are kept in additionalProperties unless"
            " rows.additional_properties says drop. When it grows: Graph has new fields, look for an upgrade.",
            "tenant",
        )  # fmt: skip
        self.deepest_sweep_rows = counter(
            registry, "deepest_sweep_rows_total",
            "Rows that turned up so late that only the sweep with the longest overlap found them. When it grows: look"
            " at row_lateness_seconds and lengthen that overlap, else rows that are later still will be missed.",
            "tenant",
        )  # fmt: skip


class ShardFamilies:
    """Metrics with at least one series per shard."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.transactions = counter(
            registry, "transactions_total",
            "Kafka transactions by outcome; one whose outcome is not known counts as aborted. Some aborted ones at each"
            " rebalance are normal; a steady stream means that brokers or another worker interfere: see the log.",
            "shard", "outcome",
        )  # fmt: skip
        self.transaction_duration = histogram(
            registry, "transaction_duration_seconds",
            "From begin to commit of a Kafka transaction. When above a second: look at the brokers' load, their disks"
            " and in-sync replicas.",
            TRANSACTION_DURATION_S, "shard",
        )  # fmt: skip
        self.restore_duration = gauge(
            registry, "restore_duration_seconds",
            "How long the shard's last restore took; 0 before the first has ended. When minutes: check that the seen"
            " topic is compacted and has the settings that it was created with.",
            "shard",
        )  # fmt: skip
