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
        "The chosen tenants: lateness, sweeps, outcomes, how Graph answers. docs/runbook.md says what to do.",
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
                "Call time that backfills have still to read; 0 when there are none.",
                "s",
                Query(f"sum({of_tenant('backfill_remaining_seconds')})", "left"),
                steps=CALM,
            ),
            figure(
                "Remembered rows",
                "Rows that are remembered so that none is published twice, about 24 bytes each.",
                "short",
                Query(f"sum({of_tenant('remembered_rows')})", "rows"),
                steps=CALM,
            ),
        ],
    )


def _lateness() -> Row:
    return Row(
        "How late rows turn up",
        [
            heat_map(
                "From a call's end to the first reading of its row",
                "How many rows were how late. What a first start, a catching up or a backfill reads does not"
                " count. Rows near the"
                " deepest overlap: lengthen it, or later ones are missed. Empty while no new row turns up.",
                of_tenant("row_lateness_seconds_bucket"),
                width=16,
            ),
            lines(
                "Rows that only the deepest sweep found, in an hour",
                "Too late for every sweep but the one with the longest overlap: what is later still is missed.",
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
                "Sweeps that ended, in an hour",
                "By cadence and outcome. A failed one begins anew; see why in the log and under Failing.",
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
                "Rows that do not fit the schema. Headers in the dead-letter topic say which field and which type.",
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
                "Members of rows that the schema does not know. When they come, look for an upgrade.",
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
                "Requests a minute, by lane",
                "live: the sweep with the shortest cadence; it goes first, a backfill last.",
                "short",
                [Query(a_minute(of_tenant("graph_requests_total"), "lane"), "{{lane}}")],
                stacked=True,
            ),
            requests_by_status(),
            lines(
                "How long Graph takes to answer",
                "When it nears graph.timeout: raise that, or lower graph.concurrency.",
                "s",
                quantiles(of_tenant("graph_request_duration_seconds_bucket")),
                steps=((None, GREEN), (30, ORANGE)),
            ),
            throttled(),
            timeline(
                "Failing, by reason",
                "sign_in and permission are the owner's to repair, rejected is ours, throttled and unreachable"
                " pass by themselves.",
                [Query(f"max by (reason) ({of_tenant('tenant_failing')})", "{{reason}}")],
                "no",
                "yes",
                width=24,
            ),
        ],
    )
