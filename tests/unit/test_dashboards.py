"""The dashboards match their generator, are complete, and query only metrics that exist."""

import itertools
import json
import re
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from connector.metrics.gauges import TenantView
from connector.metrics.worker import Metrics
from deploy.grafana.generator import trunks
from deploy.grafana.generator.__main__ import FOLDER, TRUNKS, dashboards
from deploy.grafana.generator.panels import text

CHECKED_IN: dict[str, dict[str, Any]] = {
    path.name: json.loads(path.read_text(encoding="utf-8")) for path in sorted(FOLDER.iterdir())
}
ROOT = Path(__file__).parents[2]
PANELS = [
    (file, panel) for file, content in CHECKED_IN.items() for panel in content["panels"] if panel["type"] != "row"
]
TITLES = [f"{Path(file).stem}: {panel['title']}" for file, panel in PANELS]
OF_ALL = ("All instances count", "of all tenants and instances")
"Words of which each panel must have one in its description if no dashboard variable filters it."


def test_dashboards_match_their_generator() -> None:
    """If this fails, run `make dashboards`."""
    assert {path.name: path.read_text(encoding="utf-8") for path in sorted(FOLDER.iterdir())} == dashboards()


def test_trunks_dashboard_matches_its_generator() -> None:
    """If this fails, run `make dashboards`."""
    assert TRUNKS.read_text(encoding="utf-8") == text(trunks.dashboard())


def test_trunks_dashboard_panels_are_complete_and_filtered() -> None:
    content = json.loads(TRUNKS.read_text(encoding="utf-8"))
    source, *choices = content["templating"]["list"]
    assert (source["type"], source["query"]) == ("datasource", "grafana-postgresql-datasource")
    assert [choice["name"] for choice in choices] == ["tenant", "trunk"]
    for panel in content["panels"]:
        if panel["type"] == "row":
            continue
        assert panel["description"].endswith(".")
        assert panel["fieldConfig"]["defaults"]["unit"]
        assert panel["fieldConfig"]["defaults"]["thresholds"]["steps"][0]["value"] is None
        assert panel["datasource"]["uid"] == "${datasource}"
        (target,) = panel["targets"]
        assert set(re.findall(r"\$(\w+)", target["rawSql"])) >= {"__timeFilter", "tenant", "trunk"}
        assert (target["format"] == "time_series") is (panel["type"] == "timeseries")
    assert_no_overlap(content["panels"])


def test_dashboard_files_are_kafka_overview_and_tenant() -> None:
    assert [content["uid"] for content in CHECKED_IN.values()] == [
        "direct-routing-kafka",
        "direct-routing-overview",
        "direct-routing-tenant",
    ]


@pytest.mark.parametrize("file", CHECKED_IN)
def test_dashboards_have_selectors_and_mark_restarts(file: str) -> None:
    content = CHECKED_IN[file]
    names = [variable["name"] for variable in content["templating"]["list"]]
    assert names == ["datasource", "namespace", "job", "instance", *(["tenant"] if "kafka" not in file else [])]
    (mark,) = content["annotations"]["list"]
    assert (mark["name"], mark["useValueForTime"], mark["enable"]) == ("Restarts", True, True)
    assert mark["expr"].startswith("direct_routing_start_time_seconds{")


@pytest.mark.parametrize(("file", "panel"), PANELS, ids=TITLES)
def test_dashboard_panels_have_description_unit_and_thresholds(file: str, panel: dict[str, Any]) -> None:
    defaults = panel["fieldConfig"]["defaults"]
    assert len(panel["description"]) > 20
    assert panel["description"].endswith(".")
    assert defaults["unit"]
    assert defaults["thresholds"]["steps"][0]["value"] is None
    assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    assert panel["targets"]
    variables = {variable["name"] for variable in CHECKED_IN[file]["templating"]["list"]}
    for target in panel["targets"]:
        used = set(re.findall(r"\$(\w+)", target["expr"])) - {"__rate_interval"}
        assert used <= variables
        selects = {"namespace", "job"} <= used and ("instance" in used or "direct_routing:" in target["expr"])
        assert selects or any(text in panel["description"] for text in OF_ALL)


def test_dashboard_panels_query_existing_metrics_only() -> None:
    metrics = Metrics("0", shards=1)
    metrics.watch_process()
    metrics.tenant("contoso", ["1m"]).watch(
        lambda: TenantView(
            covered_through=0, gap_seconds=0, gaps=0, paused=False, remembered_rows=0, backfill_remaining_seconds=0
        )
    )
    metrics.shard(0)
    families = text_string_to_metric_families(metrics.render("")[0].decode())
    has = {sample.name for family in families for sample in family.samples}
    asks = set(re.findall(r"\bdirect_routing_\w+", json.dumps(CHECKED_IN)))
    assert asks - has == set()


def test_dashboard_panels_query_existing_recording_rules_only() -> None:
    rules = (ROOT / "deploy/prometheus/slo.yml").read_text(encoding="utf-8")
    asks = set(re.findall(r"direct_routing:[\w:]+", json.dumps(CHECKED_IN)))
    assert asks
    assert asks <= set(re.findall(r"record: (\S+)", rules))


def test_overview_panels_per_tenant_show_the_largest_values_only() -> None:
    for file, panel in PANELS:
        if panel["type"] in {"timeseries", "state-timeline"} and "overview" in file:
            for target in panel["targets"]:
                if "{{tenant}}" in target["legendFormat"]:
                    assert target["expr"].startswith("topk("), panel["title"]


def test_overview_dashboard_table_shows_reason_and_dead_letters() -> None:
    (table,) = [panel for file, panel in PANELS if "overview" in file and panel["type"] == "table"]
    columns = table["transformations"][1]["options"]["renameByName"].values()
    assert {"Tenant", "Lag", "Failing", "Reason", "Dead letters in a day"} <= set(columns)


@pytest.mark.parametrize("file", CHECKED_IN)
def test_dashboard_panels_do_not_overlap(file: str) -> None:
    assert_no_overlap(CHECKED_IN[file]["panels"])


def assert_no_overlap(panels: list[dict[str, Any]]) -> None:
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        columns = range(place["x"], place["x"] + place["w"])
        cells = set(itertools.product(columns, range(place["y"], place["y"] + place["h"])))
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells
    assert len({panel["id"] for panel in panels}) == len(panels)
