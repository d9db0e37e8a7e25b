"""Panels that appear on more than one dashboard."""

from deploy.grafana.generator.panels import (
    GREEN,
    ORANGE,
    RED,
    Panel,
    Query,
    Steps,
    a_minute,
    figure,
    largest,
    lines,
    of_deployment,
    of_tenant,
    of_worker,
    quantiles,
    timeline,
)

LAG: Steps = ((None, GREEN), (900, ORANGE), (3600, RED))
NONE_IS_GOOD: Steps = ((None, GREEN), (1, RED))
NONE_IS_BETTER: Steps = ((None, GREEN), (1, ORANGE))
OVERDUE: Steps = ((None, GREEN), (1800, ORANGE))


def shards_without_owner() -> Panel:
    """Return the panel with the number of shards without an owner."""
    return figure(
        "Shards without owner",
        "Tenants of these shards are not read and have no metrics. All instances count, whatever is selected.",
        "none",
        Query(
            f"sum(max by (namespace, job) ({of_deployment('shards')})"
            f" - sum by (namespace, job) ({of_deployment('shards_owned')}))",
            "shards",
        ),
        steps=NONE_IS_GOOD,
    )


def missing_workers() -> Panel:
    """Return the panel with the number of workers that ended or do not respond."""
    now = f"count by (namespace, job) ({of_deployment('build_info')})"
    before = f"max_over_time(count by (namespace, job) ({of_deployment('build_info')})[1h:15s])"
    return figure(
        "Missing workers",
        "How many fewer workers there are than the maximum of the last hour. All instances count, whatever is"
        " selected. A rolling update has one more for a while.",
        "none",
        Query(f"sum({before} - ({now} or {before} * 0))", "workers"),
        steps=NONE_IS_BETTER,
    )


def brokers() -> Panel:
    """Return the panel that shows whether the brokers answer each worker."""
    return timeline(
        "Connection of each worker to the brokers",
        "1 if the last transaction or metadata request of the worker failed.",
        [Query(f"1 - min by (instance) ({of_worker('kafka_up')})", "{{instance}}")],
        "answer",
        "away",
    )


def rows_by_outcome() -> Panel:
    """Return the panel of rows per minute."""
    return lines(
        "Rows per minute, by outcome",
        "Rows with published and revised go to the row topic, dead_letter to the dead-letter topic. Duplicates are"
        " normal, because call time is read repeatedly.",
        "short",
        [Query(a_minute(of_tenant("rows_total"), "outcome"), "{{outcome}}")],
        stacked=True,
    )


def requests_by_status() -> Panel:
    """Return the panel of requests per minute."""
    return lines(
        "Requests per minute, by status",
        "error: no response. 401 and 403: sign-in or permission. 429: throttled. 5xx: a fault of Graph.",
        "short",
        [Query(a_minute(of_tenant("graph_requests_total"), "status"), "{{status}}")],
        stacked=True,
    )


def throttled() -> Panel:
    """Return the panel of the share of time that Graph throttled."""
    waited_s = of_tenant("graph_throttled_seconds_total")
    return lines(
        "Time spent waiting for Graph",
        "The share of the time that the connector waits because of 429 and Retry-After. If it is above a tenth,"
        " another client reads this log too.",
        "percentunit",
        [Query(largest(f"sum by (tenant) (rate({waited_s}[$__rate_interval]))"), "{{tenant}}")],
        steps=((None, GREEN), (0.1, ORANGE)),
    )


def overdue(label: str, legend: str) -> Panel:
    """Return the panel of the most overdue sweep per value of a label."""
    return lines(
        "Overdue sweeps",
        "How long ago a sweep should have finished. It grows while a tenant fails, the brokers are unavailable, or"
        " the sweeps do not fit.",
        "s",
        [Query(largest(f"max by ({label}) ({of_tenant('sweep_overdue_seconds')})"), legend)],
        steps=OVERDUE,
    )


def commit_delay(selector: str) -> Panel:
    """Return the panel of the delay from response to commit."""
    return lines(
        "From response to commit",
        "The time from a response of Graph to the commit of its rows. If it takes seconds, the brokers are slow.",
        "s",
        quantiles(selector),
        steps=((None, GREEN), (10, ORANGE)),
    )
