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
        "Tenants of these shards are not read, and have no series. All instances count, whichever are chosen.",
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
        "Workers less than at most in the last hour. All instances count, whichever are chosen. A rolling update has"
        " one more for a while.",
        "none",
        Query(f"sum({before} - ({now} or {before} * 0))", "workers"),
        steps=NONE_IS_BETTER,
    )


def brokers() -> Panel:
    """Return the panel that shows whether the brokers answer each worker."""
    return timeline(
        "Brokers, as each worker sees them",
        "Whether a worker's last transaction or metadata request failed.",
        [Query(f"1 - min by (instance) ({of_worker('kafka_up')})", "{{instance}}")],
        "answer",
        "away",
    )


def rows_by_outcome() -> Panel:
    """Return the panel of rows per minute."""
    return lines(
        "Rows a minute, by what became of them",
        "published and revised go to the row topic, dead_letter to its own. Duplicates are normal: call time is"
        " read again"
        " and again.",
        "short",
        [Query(a_minute(of_tenant("rows_total"), "outcome"), "{{outcome}}")],
        stacked=True,
    )


def requests_by_status() -> Panel:
    """Return the panel of requests per minute."""
    return lines(
        "Requests a minute, by status",
        "error: no answer at all. 401 and 403: sign-in or permission. 429: throttled. 5xx: Graph's own trouble.",
        "short",
        [Query(a_minute(of_tenant("graph_requests_total"), "status"), "{{status}}")],
        stacked=True,
    )


def throttled() -> Panel:
    """Return the panel of the share of time that Graph throttled."""
    waited_s = of_tenant("graph_throttled_seconds_total")
    return lines(
        "Time that Graph made us wait",
        "Share of the time that was waited because of 429 and Retry-After. Above a tenth: somebody else reads"
        " this log too.",
        "percentunit",
        [Query(largest(f"sum by (tenant) (rate({waited_s}[$__rate_interval]))"), "{{tenant}}")],
        steps=((None, GREEN), (0.1, ORANGE)),
    )


def overdue(label: str, legend: str) -> Panel:
    """Return the panel of the most overdue sweep per value of a label."""
    return lines(
        "Overdue sweeps",
        "For how long a sweep should have ended. It grows while a tenant fails, brokers are away, or sweeps do"
        " not fit.",
        "s",
        [Query(largest(f"max by ({label}) ({of_tenant('sweep_overdue_seconds')})"), legend)],
        steps=OVERDUE,
    )


def commit_delay(selector: str) -> Panel:
    """Return the panel of the delay from response to commit."""
    return lines(
        "From response to commit",
        "From Graph's response to the committed transaction that carries its rows. Seconds: the brokers are slow.",
        "s",
        quantiles(selector),
        steps=((None, GREEN), (10, ORANGE)),
    )
