"""Dashboard *Overview*: how far behind each tenant is, what is missing, and which party has to act."""

from grafana_foundation_sdk.models.dashboard import Dashboard

from deploy.grafana.generator.panels import (
    BLUE,
    GREEN,
    RED,
    YELLOW,
    Column,
    Panel,
    Query,
    Row,
    a_minute,
    board,
    by_label,
    figure,
    largest,
    lines,
    of_rule,
    of_tenant,
    timeline,
)
from deploy.grafana.generator.shared import (
    LAG,
    NONE_IS_BETTER,
    NONE_IS_GOOD,
    brokers,
    missing_workers,
    overdue,
    requests_by_status,
    rows_by_outcome,
    shards_without_owner,
    throttled,
)


def dashboard() -> Dashboard:
    """Return the overview."""
    return board(
        "overview",
        "Overview",
        "All tenants: their lag, their gaps, and the causes. docs/runbook.md explains what to do.",
        [_glance(), _behind(), _objectives(), _rows(), _errors()],
        tenants=True,
    )


def _glance() -> Row:
    return Row(
        "At a glance",
        [
            figure(
                "Furthest behind",
                "The largest lag of all tenants: the age of the newest call time that was read and committed.",
                "s",
                Query(f"max({of_tenant('lag_seconds')})", "lag"),
                steps=LAG,
            ),
            figure(
                "Never read",
                "Call time of all tenants together that was never read. After an outage, it shrinks without action.",
                "s",
                Query(f"sum({of_tenant('gap_seconds')})", "gap"),
                steps=NONE_IS_BETTER,
            ),
            figure(
                "Failing tenants",
                "Tenants that cannot be read because of the sign-in, a permission, a refusal, throttling or an"
                " unreachable Graph.",
                "none",
                Query(f"sum(max by (tenant) ({of_tenant('tenant_failing')}))", "failing"),
                steps=NONE_IS_GOOD,
            ),
            figure(
                "Paused tenants",
                "Tenants that an operator has paused. They are not read, and their other alerts are silent.",
                "none",
                Query(f"sum(max by (tenant) ({of_tenant('tenant_paused')}))", "paused"),
                steps=((None, GREEN), (1, BLUE)),
            ),
            shards_without_owner(),
            missing_workers(),
            figure(
                "Dead letters in a day",
                "Rows of the selected tenants that do not match the schema. They are in the dead-letter topic.",
                "short",
                Query(f"sum(increase({of_tenant('rows_total', outcome='dead_letter')}[1d]))", "dead letters"),
                steps=NONE_IS_BETTER,
            ),
            figure(
                "Alerts that fire",
                "Firing alerts with severity warning or critical, of all tenants and instances. Prometheus lists them.",
                "none",
                Query(
                    'count(ALERTS{alertname=~"DirectRouting.*", alertstate="firing", severity!="info"}) or vector(0)',
                    "alerts",
                ),
                steps=NONE_IS_GOOD,
            ),
        ],
    )


def _behind() -> Row:
    def now(metric: str) -> str:
        return f"max by (tenant) ({of_tenant(metric)})"

    return Row(
        "Lag and gaps",
        [
            by_label(
                "Coverage",
                "The current state of every tenant. A click on a name opens the dashboard of the tenant.",
                "tenant",
                [
                    Column("Covered through", f"{now('covered_through_timestamp_seconds')} * 1000", "dateTimeAsIso"),
                    Column("Lag", now("lag_seconds"), "s", LAG),
                    Column("Never read", now("gap_seconds"), "s", NONE_IS_BETTER),
                    Column("Gaps", now("gaps"), "none"),
                    Column(
                        "Failing",
                        f"max by (tenant, reason) ({of_tenant('tenant_failing')} == 1)"
                        f' or on (tenant) label_replace({now("tenant_failing")}, "reason", "none", "", "")',
                        "none",
                        NONE_IS_GOOD,
                        ("reason",),
                    ),
                    Column(
                        "Dead letters in a day",
                        f"sum by (tenant) (increase({of_tenant('rows_total', outcome='dead_letter')}[1d]))",
                        "short",
                        NONE_IS_BETTER,
                    ),
                    Column("Paused", now("tenant_paused"), "none"),
                    Column(
                        "Rows per minute",
                        f"sum by (tenant) (rate({of_tenant('rows_total', outcome='published|revised')}[5m])) * 60",
                        "short",
                    ),
                    Column("Backfill left", now("backfill_remaining_seconds"), "s"),
                    Column("Remembered rows", now("remembered_rows"), "short"),
                ],
            ),
            lines(
                "Lag",
                "The age of the newest call time that was read and committed. It rises whenever reading stops.",
                "s",
                [Query(largest(f"max by (tenant) ({of_tenant('lag_seconds')})"), "{{tenant}}")],
                steps=LAG,
            ),
            lines(
                "Never read",
                "Call time between a tenant's start and its newest call time that was never read. A falling line"
                " shows that it is being read. A line that does not fall for half an hour fires an alert.",
                "s",
                [Query(largest(f"max by (tenant) ({of_tenant('gap_seconds')})"), "{{tenant}}")],
                steps=NONE_IS_BETTER,
            ),
        ],
    )


def _objectives() -> Row:
    def met(sli: str, title: str, text: str) -> Panel:
        return figure(
            title,
            f"{text} The share of the last 30 days, for the worst tenant. The objective is 99 % (rules: slo.yml).",
            "percentunit",
            Query(f"1 - max({of_rule(f'direct_routing:{sli}:ratio_30d')})", "met"),
            steps=((None, RED), (0.99, GREEN)),
        )

    def burn(sli: str, title: str) -> Panel:
        bad = f"max by (tenant) ({of_rule(f'direct_routing:{sli}:ratio_1h')})"
        return lines(
            title,
            "How many times faster than allowed the error budget of the 99 % objective was used in the last hour."
            " Above 14.4, an alert pages.",
            "short",
            [Query(largest(f"{bad} / (1 - 0.99)"), "{{tenant}}")],
            steps=((None, GREEN), (1, YELLOW), (14.4, RED)),
            width=10,
        )

    return Row(
        "Objectives",
        [
            met("stale", "Fresh", "A tenant is fresh while its lag is at most two minutes."),
            burn("stale", "Burn rate of freshness"),
            burn("incomplete", "Burn rate of completeness"),
            met("incomplete", "Complete", "A tenant is complete while none of its call time is unread."),
            figure(
                "Rows that were published in time",
                "The share of the rows of all selected tenants in the last hour that were published while their"
                " tenant was fresh.",
                "percentunit",
                Query(
                    f"sum(avg_over_time({of_rule('direct_routing:fresh_rows:rate5m')}[1h]))"
                    f" / sum(avg_over_time({of_rule('direct_routing:published_rows:rate5m')}[1h]))",
                    "fresh",
                ),
                steps=((None, RED), (0.99, GREEN)),
            ),
        ],
    )


def _rows() -> Row:
    return Row(
        "Rows and budget",
        [
            rows_by_outcome(),
            lines(
                "Published rows per minute, by tenant",
                "New rows and revisions. If there are none in office hours although there is no lag, the tenant has"
                " no calls, or Graph does not show them.",
                "short",
                [
                    Query(
                        largest(a_minute(of_tenant("rows_total", outcome="published|revised"), "tenant")), "{{tenant}}"
                    )
                ],
            ),
            lines(
                "Budget used",
                "Requests in the last minute divided by requests_per_minute. If it is near 100 % for hours, the"
                " sweeps do not fit: see connector plan.",
                "percentunit",
                [Query(largest(f"max by (tenant) ({of_tenant('graph_budget_used_ratio')})"), "{{tenant}}")],
                steps=((None, GREEN), (0.9, YELLOW)),
            ),
            throttled(),
        ],
    )


def _errors() -> Row:
    return Row(
        "Errors",
        [
            timeline(
                "Failing tenants",
                "Why tenants fail, at most 15 of them. The owner of the tenant fixes sign_in and permission. For"
                " throttled and unreachable, the connector retries.",
                [Query(largest(f"max by (tenant, reason) ({of_tenant('tenant_failing')})"), "{{tenant}}, {{reason}}")],
                "reads",
                "fails",
            ),
            requests_by_status(),
            overdue("tenant", "{{tenant}}"),
            brokers(),
        ],
    )
