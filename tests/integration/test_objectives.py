"""Objectives of freshness and completeness in promtool's simulated time: recorded series and alerts."""

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from tests.system_software import program

RULES = Path(__file__).parents[2] / "deploy/prometheus/slo.yml"
TENANT = 'tenant="contoso"'
LAG, GAP, PAUSED = (f"direct_routing_{name}{{{TENANT}}}" for name in ("lag_seconds", "gap_seconds", "tenant_paused"))
PUBLISHED = f'direct_routing_rows_total{{{TENANT},outcome="published"}}'
FRESHNESS, COMPLETENESS = "DirectRoutingFreshnessBudgetBurn", "DirectRoutingCompletenessBudgetBurn"
DAY = 1_440


class Case(NamedTuple):
    """Alerts that fire after `at` minutes, as (alert, severity), and values of recorded series at that time."""

    rule: str
    series: Mapping[str, str]
    at: int
    fires: frozenset[tuple[str, str]] = frozenset()
    recorded: Mapping[str, float] = {}
    every: int = 1
    "Minutes between two values of a series, and between two evaluations. Days take a second if it is longer."


def steps(*parts: tuple[float, int]) -> str:
    """Return constant values, each of which is repeated a number of times."""
    return " ".join(f"{value}+0x{minutes - 1}" for value, minutes in parts)


CASES = (
    Case(
        "a healthy tenant burns nothing",
        {LAG: steps((40, 400)), GAP: steps((0, 400))},
        390,
        recorded={"direct_routing:stale:ratio_6h": 0, "direct_routing:incomplete:ratio_6h": 0},
    ),
    Case("ten minutes behind page", {LAG: steps((40, 300), (600, 20))}, 315, frozenset({(FRESHNESS, "critical")})),
    Case("a minute behind does not", {LAG: steps((40, 300), (600, 2), (40, 30))}, 310),
    Case(
        "a page is over minutes after the tenant has caught up, and the warning remains",
        {LAG: steps((40, 600), (600, 12), (40, 60))},
        630,
        frozenset({(FRESHNESS, "warning")}),
    ),
    Case(
        "behind for six percent of six hours pages, however slowly",
        {LAG: steps(*[(40, 16), (600, 2)] * 40)},
        700,
        frozenset({(FRESHNESS, "critical"), (FRESHNESS, "warning")}),
    ),
    Case(
        "behind for four percent of a day is for working hours",
        {LAG: steps(*[(40, 24), (600, 1)] * 18)},
        1_700,
        frozenset({(FRESHNESS, "warning")}),
        every=4,
    ),
    Case(
        "behind for half a percent is within the budget",
        {LAG: steps(*[(40, 199), (600, 1)] * 7)},
        4_900,
        every=4,
    ),
    Case(
        "a gap for ten minutes pages",
        {LAG: steps((40, 320)), GAP: steps((0, 300), (60, 20))},
        315,
        frozenset({(COMPLETENESS, "critical")}),
    ),
    Case(
        "a gap of two percent of three days warns",
        {GAP: steps(*[(0, 49), (60, 1)] * 24)},
        4_700,
        frozenset({(COMPLETENESS, "warning")}),
        every=4,
    ),
    Case(
        "a paused tenant burns nothing",
        {LAG: steps((5_000, 400)), GAP: steps((60, 400)), PAUSED: steps((1, 400))},
        390,
    ),
    Case(
        "the share of rows counts those that a fresh tenant receives",
        {LAG: steps((600, 60)), PUBLISHED: "0+100x59"},
        50,
        frozenset({(FRESHNESS, "critical"), (FRESHNESS, "warning")}),
        {"direct_routing:fresh_rows:ratio_rate5m": 0, "direct_routing:stale:ratio_30m": 1},
    ),
    Case(
        "rows of a fresh tenant are fresh",
        {LAG: steps((60, 60)), PUBLISHED: "0+100x59"},
        50,
        recorded={"direct_routing:fresh_rows:ratio_rate5m": 1},
    ),
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.rule)
def test_error_budget_alerts_fire_only_in_cases_that_expect_them(case: Case, tmp_path: Path) -> None:
    file = tmp_path / "case.yml"
    content = {"rule_files": [str(RULES)], "evaluation_interval": f"{case.every}m", "tests": [expected(case)]}
    file.write_text(json.dumps(content), encoding="utf-8")
    done = subprocess.run(
        [program("promtool"), "test", "rules", file], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr


def expected(case: Case) -> dict[str, Any]:
    firing = [
        {
            "labels": f'ALERTS{{alertname="{name}", alertstate="firing", severity="{severity}", {TENANT}}}',
            "value": 1,
        }
        for name, severity in sorted(case.fires)
    ]
    values = [
        {
            "expr": name,
            "eval_time": f"{case.at}m",
            "exp_samples": [{"labels": f"{name}{{{TENANT}}}", "value": value}],
        }
        for name, value in case.recorded.items()
    ]
    alerts = {"expr": 'ALERTS{alertstate="firing"}', "eval_time": f"{case.at}m", "exp_samples": firing}
    return {
        "interval": f"{case.every}m",
        "input_series": [{"series": name, "values": text} for name, text in case.series.items()],
        "promql_expr_test": [alerts, *values],
    }


def test_each_error_budget_alert_fires_in_at_least_one_case() -> None:
    rules = [rule for group in yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"] for rule in group["rules"]]
    alerts = {(rule["alert"], rule["labels"]["severity"]) for rule in rules if "alert" in rule}
    assert alerts == {name for case in CASES for name in case.fires}
