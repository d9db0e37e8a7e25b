"""Dashboard *Tenant*: lateness of rows, sweeps, outcomes of rows, and responses of Graph for one tenant."""

from grafana_foundation_sdk.models.dashboard import Dashboard

from deploy.grafana.generator.panels import (
    BLUE,
    GREEN,
    ORANGE,
    RED,
    YELLOW,
    Query,
    Row,
    a_minute,
    board,
    figure,
    heat_map,
    lines,
    of_tenant,
    quantiles,
    timeline,
)
from deploy.grafana.generator.shared import (
    LAG,
    NONE_IS_BETTER,
    NONE_IS_GOOD,
    commit_delay,
    overdue,
    requests_by_status,
    rows_by_outcome,
    throttled,
)

CALM = ((None, BLUE),)


def dashboard() -> Dashboard:
    """Return the dashboard of one tenant."""
    return board(
        "tenant",
        "Tenant",
        "The selected tenants: lateness, sweeps, outcomes and responses of Graph. docs/runbook.md explains what to do.",
        [_glance(), _lateness(), _sweeps(), _rows(), _graph()],
        tenants=True,
    )


def _glance() -> Row:
    return Row(
        "Now",
        [
            figure(
                "Lag",
                "Now minus the newest call time that was read and committed.",
                "s",
                Query(f"max({of_tenant('lag_seconds')})", "lag"),
                steps=LAG,
            ),
            figure(
                "Never read",
                "Call time since the tenant's start that was never read.",
                "s",
                Query(f"sum({of_tenant('gap_seconds')})", "gap"),
                steps=NONE_IS_BETTER,
            ),
            figure(
                "Last request succeeded",
                "1 when the last request, for a token or to Graph, succeeded.",
                "none",
                Query(f"min({of_tenant('tenant_up')})", "up"),
                steps=((None, RED), (1, GREEN)),
            ),
            figure(
                "Budget used",
                "Requests in the last minute divided by requests_per_minute.",
                "percentunit",
                Query(f"max({of_tenant('graph_budget_used_ratio')})", "budget"),
                steps=((None, GREEN), (0.9, YELLOW)),
            ),
            figure(
                "Backfill left",
                "Call time that backfills have yet to read. It is 0 without backfills.",
                "s",
                Query(f"sum({of_tenant('backfill_remaining_seconds')})", "left"),
                steps=CALM,
            ),
            figure(
                "Remembered rows",
                "Rows in the deduplication index, which need about 24 bytes each.",
                "short",
                Query(f"sum({of_tenant('remembered_rows')})", "rows"),
                steps=CALM,
            ),
        ],
    )


def _lateness() -> Row:
    return Row(
        "How late rows become visible",
        [
            heat_map(
                "Time from the end of a call until its row was first read",
                "The number of rows by lateness. Rows of a first start, of catching up and of backfills do not"
                " count. If rows are near the longest overlap, extend it, or later rows are missed.",
                of_tenant("row_lateness_seconds_bucket"),
                width=16,
            ),
            lines(
                "Rows that only the deepest sweep found, per hour",
                "Rows that were too late for every sweep except the one with the longest overlap. Rows that are"
                " even later are missed.",
                "short",
                [Query(f"sum by (tenant) (increase({of_tenant('deepest_sweep_rows_total')}[1h]))", "{{tenant}}")],
                steps=NONE_IS_BETTER,
                width=8,
            ),
        ],
    )


def _sweeps() -> Row:
    sweeps = of_tenant("sweeps_total")
    return Row(
        "Sweeps",
        [
            lines(
                "Finished sweeps per hour",
                "By cadence and outcome. A failed sweep is repeated. The log and the panel Failing state why.",
                "short",
                [Query(f"sum by (every, outcome) (increase({sweeps}[1h]))", "every {{every}}, {{outcome}}")],
            ),
            overdue("every", "every {{every}}"),
        ],
    )


def _rows() -> Row:
    return Row(
        "Rows",
        [
            rows_by_outcome(),
            commit_delay(of_tenant("commit_delay_seconds_bucket")),
            lines(
                "Dead letters in an hour",
                "Rows that do not match the schema. Headers in the dead-letter topic name the field and the type.",
                "short",
                [
                    Query(
                        f"sum by (tenant) (increase({of_tenant('rows_total', outcome='dead_letter')}[1h]))",
                        "{{tenant}}",
                    )
                ],
                steps=NONE_IS_GOOD,
            ),
            lines(
                "Unknown members in an hour",
                "Members of rows that the schema does not know. Look for an upgrade that knows them.",
                "short",
                [Query(f"sum by (tenant) (increase({of_tenant('unknown_properties_total')}[1h]))", "{{tenant}}")],
                steps=((None, GREEN), (1, YELLOW)),
            ),
        ],
    )


def _graph() -> Row:
    return Row(
        "Graph",
        [
            lines(
                "Requests per minute, by lane",
                "live is the sweep with the shortest cadence. Its requests go first, those of backfills last.",
                "short",
                [Query(a_minute(of_tenant("graph_requests_total"), "lane"), "{{lane}}")],
                stacked=True,
            ),
            requests_by_status(),
            lines(
                "Duration of requests to Graph",
                "If it approaches graph.timeout, raise this timeout, or lower graph.concurrency.",
                "s",
                quantiles(of_tenant("graph_request_duration_seconds_bucket")),
                steps=((None, GREEN), (30, ORANGE)),
            ),
            throttled(),
            timeline(
                "Failing, by reason",
                "The owner of the tenant fixes sign_in and permission, the operator of the connector rejected. For"
                " throttled and unreachable, the connector retries.",
                [Query(f"max by (reason) ({of_tenant('tenant_failing')})", "{{reason}}")],
                "no",
                "yes",
                width=24,
            ),
        ],
    )
