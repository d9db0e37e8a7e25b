"""Every alert in promtool's simulated time: it fires in the right cases only.

A case is a healthy deployment except for some series. The whole set of alerts that fire is compared, so that each case
also states which other alerts are silent.
"""

import itertools
import json
import re
import subprocess
from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from tests.system_software import program

ROOT = Path(__file__).parents[2]
RULES = ROOT / "deploy/prometheus/alerts.yml"
OBJECTIVES = ROOT / "deploy/prometheus/slo.yml"

STEPS = 1_800
_SHORT = 120
CONTOSO = 'tenant="contoso"'


def still(value: float) -> str:
    return f"{value}+0x{STEPS}"


def rising(by: float, value: float = 0) -> str:
    """Return a series that rises by a fixed amount per minute."""
    return f"{value}+{by}x{STEPS}"


def then(value: float, minutes: int, values: str) -> str:
    """Return a series that has `value` for some minutes, then other values."""
    return f"{value}+0x{minutes} {values}"


HEALTHY = {
    f"lag_seconds{{{CONTOSO}}}": still(40),
    f"gap_seconds{{{CONTOSO}}}": still(0),
    f"tenant_paused{{{CONTOSO}}}": still(0),
    **{
        f'tenant_failing{{{CONTOSO},reason="{reason}"}}': still(0)
        for reason in ("sign_in", "permission", "rejected", "throttled", "unreachable")
    },
    f"graph_throttled_seconds_total{{{CONTOSO}}}": still(0),
    f'sweep_overdue_seconds{{{CONTOSO},every="1m"}}': still(0),
    f'sweep_overdue_seconds{{{CONTOSO},every="24h"}}': still(0),
    f'sweeps_total{{{CONTOSO},every="1m",outcome="ok"}}': rising(1),
    f'rows_total{{{CONTOSO},outcome="published"}}': rising(100),
    f'rows_total{{{CONTOSO},outcome="revised"}}': rising(1),
    f'rows_total{{{CONTOSO},outcome="dead_letter"}}': still(0),
    f"unknown_properties_total{{{CONTOSO}}}": still(0),
    f"deepest_sweep_rows_total{{{CONTOSO}}}": still(0),
    'transactions_total{shard="0",outcome="committed"}': rising(10),
    'transactions_total{shard="0",outcome="aborted"}': still(0),
    'kafka_up{instance="a"}': still(1),
    'tenants_unread{instance="a"}': still(0),
    'shards{instance="a"}': still(2),
    'shards{instance="b"}': still(2),
    'shards_owned{instance="a"}': still(1),
    'shards_owned{instance="b"}': still(1),
    'build_info{instance="a",version="1"}': still(1),
}


class Case(NamedTuple):
    """Test case.

    `series` override those of a healthy deployment, None removes one; `fires` are all alerts at `at` minutes.
    """

    rule: str
    series: dict[str, str | None]
    at: int
    fires: AbstractSet[str] = frozenset()


def alert(name: str, severity: str, **labels: str) -> str:
    """Return a firing alert in the form of the ALERTS series."""
    has = {"alertname": f"DirectRouting{name}", "alertstate": "firing", "severity": severity, **labels}
    return "ALERTS{" + ", ".join(f'{label}="{value}"' for label, value in sorted(has.items())) + "}"


def of_contoso(name: str, severity: str, **labels: str) -> str:
    return alert(name, severity, tenant="contoso", **labels)


LAG = f"lag_seconds{{{CONTOSO}}}"
GAP = f"gap_seconds{{{CONTOSO}}}"
PAUSED = f"tenant_paused{{{CONTOSO}}}"
THROTTLED = f"graph_throttled_seconds_total{{{CONTOSO}}}"
OVERDUE = f'sweep_overdue_seconds{{{CONTOSO},every="24h"}}'
PUBLISHED = f'rows_total{{{CONTOSO},outcome="published"}}'
DEAD = f'rows_total{{{CONTOSO},outcome="dead_letter"}}'
UNKNOWN = f"unknown_properties_total{{{CONTOSO}}}"
DEEPEST = f"deepest_sweep_rows_total{{{CONTOSO}}}"
ABORTED = 'transactions_total{shard="0",outcome="aborted"}'
KAFKA = 'kafka_up{instance="a"}'
UNREAD = 'tenants_unread{instance="a"}'
OWNED_BY_A = 'shards_owned{instance="a"}'
OWNED_BY_B = 'shards_owned{instance="b"}'


UP_A, UP_B = 'up{instance="a",job="connector"}', 'up{instance="b",job="connector"}'
BUILD_A, BUILD_B = (f'build_info{{instance="{instance}",job="connector",version="1"}}' for instance in "ab")


def failing(reason: str) -> str:
    return f'tenant_failing{{{CONTOSO},reason="{reason}"}}'


CASES = (
    Case("a healthy deployment fires nothing", {}, 120),
    # Lag
    Case("a lag of twenty minutes is a warning", {LAG: still(1200)}, 5, {of_contoso("Lag", "warning")}),
    Case(
        "a lag of more than an hour is critical",
        {LAG: rising(60, 3000)},
        20,
        {of_contoso("Lag", "warning"), of_contoso("Lag", "critical")},
    ),
    Case("a lag that falls within five minutes is none", {LAG: f"1200+0x3 {still(40)}"}, 6),
    Case(
        "a tenant that was handed over without being restored has a lag that nobody knows",
        {LAG: None, GAP: None, PAUSED: None},
        15,
        {of_contoso("LagUnknown", "critical")},
    ),
    Case("a restore of ten minutes is waited for", {LAG: f"_x10 {still(40)}"}, 16),
    # Gap
    Case("a gap that does not shrink is a warning", {GAP: still(7200)}, 60, {of_contoso("Gap", "warning")}),
    Case("a gap that shrinks is being read", {GAP: f"172800-60x{STEPS}"}, 120),
    # TenantFailing
    *(
        Case(
            f"{reason} is critical",
            {failing(reason): still(1)},
            5,
            {of_contoso("TenantFailing", "critical", reason=reason)},
        )
        for reason in ("sign_in", "permission", "rejected")
    ),
    *(
        Case(
            f"{reason} is a warning",
            {failing(reason): still(1)},
            15,
            {of_contoso("TenantFailing", "warning", reason=reason)},
        )
        for reason in ("throttled", "unreachable")
    ),
    Case(
        "weather of ten minutes is none of an operator's business", {failing("unreachable"): f"1+0x10 {still(0)}"}, 16
    ),
    Case("a secret that is renewed at once wakes nobody", {failing("sign_in"): f"1+0x3 {still(0)}"}, 6),
    # Throttled
    Case(
        "waiting for a sixth of the time is a warning",
        {THROTTLED: rising(10)},
        30,
        {of_contoso("Throttled", "warning")},
    ),
    Case("one Retry-After of a minute is nothing", {THROTTLED: then(0, 20, still(60))}, 40),
    # SweepOverdue
    Case(
        "a sweep an hour overdue is a warning, and named",
        {OVERDUE: still(3600)},
        15,
        {of_contoso("SweepOverdue", "warning", every="24h")},
    ),
    Case("a sweep that is late by minutes is not overdue", {OVERDUE: still(1200)}, 60),
    # DeadLetters
    Case("one dead letter is a warning", {DEAD: then(0, 10, still(1))}, 30, {of_contoso("DeadLetters", "warning")}),
    Case("a dead letter of yesterday is over", {DEAD: then(0, 10, still(1))}, 100),
    Case(
        "more dead letters than rows are critical",
        {DEAD: rising(50), PUBLISHED: still(500)},
        30,
        {of_contoso("DeadLetters", "warning"), of_contoso("DeadLetters", "critical")},
    ),
    # UnknownMembers
    Case(
        "a member that the schema does not know is reported",
        {UNKNOWN: then(0, 10, still(3))},
        30,
        {of_contoso("UnknownMembers", "info")},
    ),
    Case("one that does not come any more is over after a day", {UNKNOWN: then(0, 10, still(3))}, 1500),
    # VeryLateRows
    Case(
        "a row that only the deepest sweep found is reported",
        {DEEPEST: then(0, 60, still(2))},
        120,
        {of_contoso("VeryLateRows", "info")},
    ),
    Case(
        "more than one in a thousand is a warning",
        {DEEPEST: rising(1)},
        120,
        {of_contoso("VeryLateRows", "info"), of_contoso("VeryLateRows", "warning")},
    ),
    Case("very late rows of the day before yesterday are over", {DEEPEST: then(0, 60, still(2))}, 1600),
    # TenantPaused
    Case(
        "a paused tenant fires an information alone, whatever else is true of it",
        {
            PAUSED: still(1),
            LAG: rising(60, 5000),
            GAP: still(7200),
            OVERDUE: rising(60, 5000),
            failing("sign_in"): still(1),
            failing("throttled"): still(1),
            THROTTLED: rising(30),
            DEAD: rising(50),
            PUBLISHED: still(500),
            UNKNOWN: rising(1),
            DEEPEST: rising(1),
        },
        120,
        {of_contoso("TenantPaused", "info")},
    ),
    Case(
        "a paused tenant silences no other",
        {
            PAUSED: still(1),
            LAG: still(1200),
            'lag_seconds{tenant="fabrikam"}': still(1200),
            'tenant_paused{tenant="fabrikam"}': still(0),
        },
        30,
        {of_contoso("TenantPaused", "info"), alert("Lag", "warning", tenant="fabrikam")},
    ),
    Case(
        "a tenant that goes on has five minutes to catch up",
        {PAUSED: then(1, 60, still(0)), LAG: f"100+60x62 {still(40)}"},
        66,
    ),
    # Workers
    Case(
        "a steady stream of aborted transactions is a warning",
        {ABORTED: rising(1)},
        40,
        {alert("TransactionsAborted", "warning", shard="0")},
    ),
    Case("the few aborted transactions of a rebalance are normal", {ABORTED: then(0, 10, still(4))}, 30),
    Case(
        "brokers that do not answer are critical",
        {KAFKA: still(0)},
        5,
        {alert("BrokersUnreachable", "critical", instance="a")},
    ),
    Case(
        "shards have no owner because brokers do not answer",
        {KAFKA: still(0), OWNED_BY_A: still(0), OWNED_BY_B: still(0)},
        6,
        {alert("BrokersUnreachable", "critical", instance="a")},
    ),
    Case("a broker's restart is waited for", {KAFKA: f"0+0x3 {still(1)}"}, 6),
    Case("a shard that nobody owns is critical", {OWNED_BY_B: still(0)}, 5, {alert("ShardsWithoutOwner", "critical")}),
    Case(
        "a worker that is gone leaves its shards without owner",
        {OWNED_BY_B: None},
        5,
        {alert("ShardsWithoutOwner", "critical")},
    ),
    Case("a tenant that no worker reads is critical", {UNREAD: still(1)}, 10, {alert("TenantUnread", "critical")}),
    Case("a rolling update with another tenant is waited for", {UNREAD: f"1+0x8 {still(0)}"}, 9),
    Case("a rebalance is waited for", {OWNED_BY_B: f"0+0x3 {still(1)}"}, 6),
    Case(
        "another deployment of the same name of a job elsewhere is counted apart",
        {
            'shards{instance="c",namespace="test"}': still(4),
            'shards_owned{instance="c",namespace="test"}': still(2),
        },
        10,
        {alert("ShardsWithoutOwner", "critical", namespace="test")},
    ),
    Case(
        "one of two workers that does not respond is missing, while shards have owners",
        {UP_A: still(1), UP_B: still(0), BUILD_A: still(1), BUILD_B: then(1, 20, "")},
        35,
        {alert("WorkerMissing", "warning", job="connector")},
    ),
    Case(
        "one of two workers that Prometheus does not find any more is missing",
        {BUILD_A: still(1), BUILD_B: then(1, 60, "")},
        80,
        {alert("WorkerMissing", "warning", job="connector")},
    ),
    Case("a rolling update has a worker more for a while", {BUILD_A: still(1), BUILD_B: then(1, 10, "")}, 60),
    Case("no worker at all is critical", dict.fromkeys(HEALTHY, None), 5, {alert("Absent", "critical")}),
    Case("a worker that is restarted is not absent", {'build_info{instance="a",version="1"}': f"_x3 {still(1)}"}, 6),
)


def promtool(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([program("promtool"), *arguments], capture_output=True, text=True, check=False, timeout=280)


def test_promtool_accepts_the_alert_rules() -> None:
    done = promtool("check", "rules", "--lint=all", "--lint-fatal", RULES, OBJECTIVES)
    assert done.returncode == 0, done.stdout + done.stderr


def test_each_alert_fires_only_in_the_cases_that_expect_it(tmp_path: Path) -> None:
    done = run(CASES, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


def test_alert_test_fails_if_an_unexpected_alert_fires(tmp_path: Path) -> None:
    unexpected = [case._replace(fires=frozenset()) for case in CASES if case.fires and case.at <= 30]
    done = run(unexpected, tmp_path)
    assert done.returncode == 1
    assert (done.stdout + done.stderr).count("got:") == len(unexpected)


def run(cases: Iterable[Case], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run the cases with promtool. Cases of days use larger steps than cases of hours."""
    files: list[Path] = []
    for interval, group in itertools.groupby(cases, lambda case: "1m" if case.at <= _SHORT else "15m"):
        file = folder / f"cases-{len(files)}.yml"
        content = {"rule_files": [str(RULES)], "evaluation_interval": interval, "tests": [*map(_test, group)]}
        file.write_text(json.dumps(content), encoding="utf-8")
        files.append(file)
    return promtool("test", "rules", *files)


def _full(name: str) -> str:
    return name if name.startswith("up{") else f"direct_routing_{name}"


def _test(case: Case) -> dict[str, Any]:
    series = {
        # Later samples do not affect the result and would only cost time.
        name: re.sub(rf"x{STEPS}\b", f"x{case.at + 1}", values)
        for name, values in {**HEALTHY, **case.series}.items()
        if values is not None
    }
    return {
        "name": case.rule,
        "interval": "1m",
        "input_series": [{"series": _full(name), "values": values} for name, values in series.items()],
        "promql_expr_test": [
            {
                "expr": 'ALERTS{alertstate="firing"}',
                "eval_time": f"{case.at}m",
                "exp_samples": [{"labels": labels, "value": 1} for labels in sorted(case.fires)],
            }
        ],
    }


def test_each_alert_fires_in_at_least_one_case() -> None:
    fired = {(name, severity) for case in CASES for name, severity in map(_named, case.fires)}
    assert {(rule["alert"], rule["labels"]["severity"]) for rule in rules()} == fired


def rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"] for rule in group["rules"]]


def _named(labels: str) -> tuple[str, str]:
    has = dict(pair.split("=", 1) for pair in labels.removeprefix("ALERTS{").removesuffix("}").split(", "))
    return has["alertname"].strip('"'), has["severity"].strip('"')
