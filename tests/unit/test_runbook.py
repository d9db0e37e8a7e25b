"""Alerts and runbook name each other, and the runbook names only what exists."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from connector.metrics import Metrics

ROOT = Path(__file__).parents[2]
RULES: list[dict[str, Any]] = [
    rule
    for group in yaml.safe_load((ROOT / "deploy/prometheus/alerts.yml").read_text(encoding="utf-8"))["groups"]
    for rule in group["rules"]
]
RUNBOOK = (ROOT / "docs/runbook.md").read_text(encoding="utf-8")
SOURCES = "".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "connector").rglob("*.py")))


def families() -> set[str]:
    metrics = Metrics("0", shards=1)
    found = text_string_to_metric_families(metrics.render()[0].decode())
    return {f"{family.name}_total" if family.type == "counter" else family.name for family in found}


def test_each_alert_has_a_heading_in_the_runbook_and_each_heading_an_alert() -> None:
    headings = re.findall(r"^## (.*)$", RUNBOOK, re.MULTILINE)
    assert headings == list(dict.fromkeys(rule["alert"] for rule in RULES))


@pytest.mark.parametrize("heading", sorted({rule["alert"] for rule in RULES}))
def test_each_heading_says_what_it_means_where_to_look_and_how_to_mend_it(heading: str) -> None:
    text = re.search(rf"^## {heading}$(.*?)(?=^## |\Z)", RUNBOOK, re.MULTILINE | re.DOTALL)
    assert text is not None
    assert re.findall(r"^\*\*(.*?)\*\*", text[1], re.MULTILINE) == ["Means", "First look", "Repair"]
    assert text[1].count("\n") < 45


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: f"{rule['alert']}-{rule['labels']['severity']}")
def test_each_alert_says_how_bad_it_is_and_where_the_runbook_tells_more(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in {"critical", "warning", "info"}
    assert rule["annotations"].keys() == {"summary", "description", "runbook_url"}
    assert rule["annotations"]["runbook_url"] == f"docs/runbook.md#{rule['alert'].lower()}"


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: f"{rule['alert']}-{rule['labels']['severity']}")
def test_an_alerts_text_uses_only_labels_that_it_has(rule: dict[str, Any]) -> None:
    uses = set(re.findall(r"\$labels\.(\w+)", " ".join(rule["annotations"].values())))
    has = re.search(r"by \(([^)]*)\)", rule["expr"])
    assert uses <= (set(has[1].split(", ")) if has else set())


def test_alerts_and_runbook_name_only_metrics_that_exist() -> None:
    named = set(re.findall(r"\bdirect_routing_\w+", RUNBOOK + " ".join(rule["expr"] for rule in RULES)))
    assert named
    assert {re.sub("_bucket$", "", name) for name in named} <= families()


def test_the_runbook_names_only_events_that_are_logged() -> None:
    events = set(re.findall(r"event `(\w+)`", RUNBOOK))
    assert events
    assert {event for event in events if f'"{event}"' not in SOURCES} == set()
