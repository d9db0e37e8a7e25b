"""A real Prometheus scrapes a real run: all queries of dashboards and runbook, and all alerts."""

import json
import re
import signal
import subprocess
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from typing import Any, NamedTuple

import pytest

from tests import oracle
from tests.brokers import wait_until
from tests.conftest import SharedBroker
from tests.prometheus import Prometheus
from tests.simulation import Simulation
from tests.system_software import program
from tests.workers import ROOT, Worker, configuration

# All tests of this file use the same run.
pytestmark = pytest.mark.broker

DASHBOARDS = sorted((ROOT / "deploy/grafana/dashboards").glob("*.json"))
ALERTS = (ROOT / "deploy/prometheus/alerts.yml").read_text(encoding="utf-8")
OBJECTIVES = (ROOT / "deploy/prometheus/slo.yml").read_text(encoding="utf-8").partition("\ngroups:\n")[2]
RECORDED = "\n" + OBJECTIVES.partition("\n      # chart: freshnessObjective")[0] + "\n"
"""Recording rules of the objectives, without the alerts."""
RUNBOOK = (ROOT / "docs/runbook.md").read_text(encoding="utf-8")
VARIABLES = {"$tenant": ".*", "$namespace": ".*", "$job": ".*", "$instance": ".*", "$__rate_interval": "15s"}
SCRAPES = 12


class Scene(NamedTuple):
    """Worker after throttling, late rows and dead letters, and the Prometheus that scraped it."""

    worker: Worker
    prometheus: Prometheus
    source: Simulation
    bootstrap: str
    started: float
    "Start of the run in epoch seconds."


@pytest.fixture(scope="module")
def scene(broker: SharedBroker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    folder = tmp_path_factory.mktemp("observability")
    name = uuid.uuid4().hex[:8]
    with Simulation(
        tenants=2,
        days=3,
        calls_per_day=2_000,
        durations="short",
        lateness="0.5:0s-0s,0.5:6h-6h",
        unfit=0.05,
        unknown=0.05,
        clock_offset_s=-3_600,
    ) as source:
        settings = configuration(broker.bootstrap, f"calls-observed-{name}", f"app-observed-{name}", source)
        worker = Worker(folder / "worker", settings)
        try:
            started = time.time()
            worker.start()
            worker.until_logged("http_listening")
            rules = re.sub(r"^(\s+for:) .*$", r"\1 2s", ALERTS, flags=re.MULTILINE) + RECORDED
            with Prometheus(folder / "prometheus", [f"127.0.0.1:{worker.port}"], rules) as prometheus:
                worker.until_complete(source.freeze())
                source.set_faults(throttled=0.2, retry_after_s=1.0)
                # The rows of an hour appear at once, and they are late.
                source.set_clock_offset(timedelta())
                for metric, labels in (
                    ("deepest_sweep_rows_total", {}),
                    ("rows_total", {"outcome": "dead_letter"}),
                    ("unknown_properties_total", {}),
                    ("graph_throttled_seconds_total", {}),
                ):
                    worker.until(lambda m=metric, of=labels: worker.metric(m, **of) > 0, f"{metric} {labels}")  # type: ignore[misc]
                seen = _value(prometheus, "count_over_time(up[1h])")
                wait_until(lambda: _value(prometheus, "count_over_time(up[1h])") >= seen + SCRAPES, "scrapes", 120)
                yield Scene(worker, prometheus, source, broker.bootstrap, started)
        finally:
            worker.kill()


def _value(prometheus: Prometheus, expression: str) -> float:
    found = prometheus.query(expression)
    return float(found[0]["value"][1]) if found else 0.0


def panels() -> list[tuple[str, dict[str, Any]]]:
    """Return each panel of the dashboards with its title."""
    return [
        (f"{path.stem}: {panel['title']}", panel)
        for path in DASHBOARDS
        for panel in json.loads(path.read_text(encoding="utf-8"))["panels"]
        if panel["type"] != "row"
    ]


def filled(expression: str) -> str:
    """Return an expression with the dashboard's variables replaced as Grafana replaces them."""
    for variable, value in VARIABLES.items():
        expression = expression.replace(variable, value)
    assert "$" not in expression, expression
    return expression


def test_every_dashboard_query_returns_data(scene: Scene, capsys: pytest.CaptureFixture[str]) -> None:
    counts: Counter[str] = Counter()
    empty = []
    for title, panel in panels():
        for target in panel["targets"]:
            expression = filled(target["expr"])
            if target.get("instant"):
                values = [series["value"][1] for series in scene.prometheus.query(expression)]
            else:
                found = scene.prometheus.query_range(expression, scene.started, time.time())
                values = [value for series in found for _, value in series["values"]]
            counts[title.split(":")[0]] += 1
            if all(value == "NaN" for value in values):
                empty.append((title, expression))
    assert not empty
    with capsys.disabled():
        print(f"\n{counts.total()} queries of panels answered with data: {dict(counts)}")  # noqa: T201 - the measured number


def test_unusual_rows_fire_only_the_alerts_for_them(scene: Scene, capsys: pytest.CaptureFixture[str]) -> None:
    """Invalid rows, unknown members and very late rows raise their alerts, and no other alert fires."""
    rules = scene.prometheus.rules()
    assert [rule["lastError"] for rule in rules if rule["health"] != "ok"] == []
    selectors = {found for rule in rules for found in re.findall(r"direct_routing_\w+(?:{[^}]*})?", rule["query"])}
    assert [selector for selector in sorted(selectors) if not scene.prometheus.query(selector)] == []
    expected = {"DirectRoutingDeadLetters", "DirectRoutingUnknownMembers", "DirectRoutingVeryLateRows"}
    wait_until(lambda: expected <= scene.prometheus.firing(), "the expected alerts", 60)
    assert scene.prometheus.firing() - {"DirectRoutingThrottled"} == expected
    texts = [text for alert in scene.prometheus.alerts() for text in alert["annotations"].values()]
    assert [text for text in texts if "<error" in text or "<no value>" in text] == []
    with capsys.disabled():
        print(f"\n{len(rules)} rules evaluated on data, {len(selectors)} selectors")  # noqa: T201 - the measured number


def test_every_runbook_query_returns_data(scene: Scene) -> None:
    queries = re.findall(r"```promql\n(.*?)```", RUNBOOK, re.DOTALL)
    assert len(queries) > 10
    for query in queries:
        scene.prometheus.query(query)


def test_promtool_accepts_the_exported_metrics(scene: Scene) -> None:
    scraped = scene.worker.get("/metrics")[1]
    done = subprocess.run(
        [program("promtool"), "check", "metrics"],
        input=scraped,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    series = scene.prometheus.query('count by (tenant) ({__name__=~"direct_routing_.*", tenant!=""})')
    assert len(series) == 2
    assert all(float(sample["value"][1]) <= 80 for sample in series)


def test_counters_match_requests_to_graph_and_topic_contents(scene: Scene) -> None:
    worker, source = scene.worker, scene.source
    source.clear_faults()
    worker.until_complete(source.freeze())
    kafka = worker.settings["kafka"]
    found = oracle.committed(scene.bootstrap, kafka["topic"], kafka["app"])
    counted = {
        outcome: worker.metric("rows_total", outcome=outcome) for outcome in ("published", "revised", "dead_letter")
    }
    assert counted == {
        "published": sum(not row.revision for row in found.rows),
        "revised": sum(row.revision > 0 for row in found.rows),
        "dead_letter": len(found.dead_letters),
    }
    assert worker.metric("unknown_properties_total") == sum(
        len(row.fields["additionalProperties"]) for row in found.rows
    )
    at_once = len(source.tenants) * 4  # graph.concurrency: requests with a response that are not counted yet
    for status in (200, 429):
        before = worker.metric("graph_requests_total", status=str(status))
        asked = sum(request.status == status for request in source.requests())
        assert 0 < before <= asked <= worker.metric("graph_requests_total", status=str(status)) + at_once


def test_frozen_worker_fires_the_alert_direct_routing_absent(scene: Scene) -> None:
    """A frozen worker keeps its connections open but does not answer. This test must be the last one of the file."""
    assert "DirectRoutingAbsent" not in scene.prometheus.firing()
    scene.worker.signal(signal.SIGSTOP)
    try:
        wait_until(lambda: "DirectRoutingAbsent" in scene.prometheus.firing(), "the alert for the absent worker", 60)
    finally:
        scene.worker.signal(signal.SIGCONT)
    wait_until(lambda: "DirectRoutingAbsent" not in scene.prometheus.firing(), "the end of the alert", 60)
