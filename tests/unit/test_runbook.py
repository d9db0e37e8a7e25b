"""Alerts and runbook name each other, and the runbook names only what exists."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from connector.metrics.worker import Metrics

ROOT = Path(__file__).parents[2]
RULES: list[dict[str, Any]] = [
    rule
    for name in ("alerts.yml", "slo.yml")
    for group in yaml.safe_load((ROOT / "deploy/prometheus" / name).read_text(encoding="utf-8"))["groups"]
    for rule in group["rules"]
    if "alert" in rule
]
RUNBOOK = (ROOT / "docs/runbook.md").read_text(encoding="utf-8")
RECORDED = "by (namespace, job, tenant)"
RUNBOOK_URL = "https://direct-routing-connector.example/docs/runbook.md"
SOURCES = "".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "connector").rglob("*.py")))


def families() -> set[str]:
    metrics = Metrics("0", shards=1)
    metrics.watch_process()
    found = text_string_to_metric_families(metrics.render()[0].decode())
    return {f"{family.name}_total" if family.type == "counter" else family.name for family in found}


def test_alerts_and_runbook_headings_match() -> None:
    headings = re.findall(r"^## (.*)$", RUNBOOK, re.MULTILINE)
    assert headings == list(dict.fromkeys(rule["alert"] for rule in RULES))


@pytest.mark.parametrize("heading", sorted({rule["alert"] for rule in RULES}))
def test_each_alert_has_a_runbook_section_with_three_parts(heading: str) -> None:
    text = re.search(rf"^## {heading}$(.*?)(?=^## |\Z)", RUNBOOK, re.MULTILINE | re.DOTALL)
    assert text is not None
    assert re.findall(r"^\*\*(.*?)\*\*", text[1], re.MULTILINE) == ["Means", "First look", "Repair"]
    assert text[1].count("\n") < 45


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: f"{rule['alert']}-{rule['labels']['severity']}")
def test_alerts_have_severity_and_runbook_url(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in {"critical", "warning", "info"}
    assert rule["annotations"].keys() == {"summary", "description", "runbook_url"}
    assert rule["annotations"]["runbook_url"] == f"{RUNBOOK_URL}#{rule['alert'].lower()}"


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: f"{rule['alert']}-{rule['labels']['severity']}")
def test_alert_texts_use_labels_of_their_query(rule: dict[str, Any]) -> None:
    uses = set(re.findall(r"\$labels\.(\w+)", " ".join(rule["annotations"].values())))
    has = re.search(r"by \(([^)]*)\)", rule["expr"] if "direct_routing:" not in rule["expr"] else RECORDED)
    assert uses <= (set(has[1].split(", ")) if has else set())


def test_alerts_and_runbook_name_existing_metrics() -> None:
    named = set(re.findall(r"\bdirect_routing_\w+", RUNBOOK + " ".join(rule["expr"] for rule in RULES)))
    assert named
    assert {re.sub("_bucket$", "", name) for name in named} <= families()


def test_runbook_names_existing_log_events() -> None:
    events = set(re.findall(r"event `(\w+)`", RUNBOOK))
    assert events
    assert {event for event in events if f'"{event}"' not in SOURCES} == set()
