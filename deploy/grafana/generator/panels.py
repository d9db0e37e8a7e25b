"""Parts of every dashboard: queries, panels with units and thresholds, variables, and annotations of restarts.

1. Every query filters by the variables of the dashboard. A panel that does not says why in its description.
2. A rate is computed over $__rate_interval, so that it fits any scrape interval.
"""

import json
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from grafana_foundation_sdk.builders import common as common_builders
from grafana_foundation_sdk.builders import dashboard as builders
from grafana_foundation_sdk.builders import heatmap, prometheus, stat, statetimeline, table, timeseries
from grafana_foundation_sdk.cog import builder, variants
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common, dashboard
from grafana_foundation_sdk.models import heatmap as heatmap_models
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

from deploy.grafana.generator.sql import DATABASE, Sql

Panel = builder.Builder[dashboard.Panel]
Steps = Sequence[tuple[float | None, str]]
"Thresholds with colors, the first from minus infinity."

GREEN, YELLOW, ORANGE, RED, BLUE, GREY = "green", "yellow", "orange", "red", "blue", "text"
SOURCE = dashboard.DataSourceRef(type_val="prometheus", uid="${datasource}")
TAG = "direct-routing"
WIDTH = 24
FULL = {"percent": 100, "percentunit": 1}
"The value of the whole, by unit."
MOST_LINES = 15
"Lines of a panel that shows a line for each tenant."
_NAMESPACE = {"namespace": "$namespace"}
_DEPLOYMENT = {"namespace": "$namespace", "job": "$job"}


class Query(NamedTuple):
    """A query of a panel and the name of its series."""

    expr: str
    legend: str


class Row(NamedTuple):
    """Panels under a title."""

    title: str
    panels: Sequence[Panel]


def of_tenant(metric: str, **labels: str) -> str:
    """Return a selector for the series of a metric of the selected tenants and instances."""
    return _selector(metric, {**_DEPLOYMENT, "tenant": "$tenant", "instance": "$instance", **labels})


def of_worker(metric: str, **labels: str) -> str:
    """Return a selector for the series of a metric of the selected instances."""
    return _selector(metric, {**_DEPLOYMENT, "instance": "$instance", **labels})


def of_deployment(metric: str, **labels: str) -> str:
    """Return a selector for the series of a metric of the selected namespaces and jobs, of all their instances."""
    return _selector(metric, {**_DEPLOYMENT, **labels})


def of_rule(record: str) -> str:
    """Return a selector for a series of the selected tenants that slo.yml records."""
    return f'{record}{{namespace=~"$namespace", job=~"$job", tenant=~"$tenant"}}'


def largest(expr: str) -> str:
    """Return the largest series of an expression: hundreds of lines could not be read."""
    return f"topk({MOST_LINES}, {expr})"


def _selector(metric: str, labels: dict[str, str]) -> str:
    within = ", ".join(f'{name}=~"{value}"' for name, value in labels.items())
    return f"direct_routing_{metric}{{{within}}}"


def a_minute(selector: str, by: str) -> str:
    """Return the increase of a counter per minute, by labels."""
    return f"sum by ({by}) (rate({selector}[$__rate_interval])) * 60"


def quantiles(selector: str) -> list[Query]:
    """Return the 0.5, 0.9 and 0.99 quantiles of a histogram."""
    rate = f"sum by (le) (rate({selector}[$__rate_interval]))"
    return [Query(f"histogram_quantile({q}, {rate})", name) for q, name in ((0.5, "p50"), (0.9, "p90"), (0.99, "p99"))]


def lines(
    title: str,
    description: str,
    unit: str,
    queries: Sequence[Query | Sql],
    *,
    steps: Steps = (),
    width: int = 12,
    stacked: bool = False,
) -> Panel:
    """Return a panel of values over time, with thresholds as lines."""
    panel = (
        timeseries.Panel()
        .title(title)
        .description(description)
        .datasource(_source(queries))
        .unit(unit)
        .min(0)
        .height(8)
        .span(width)
        .line_width(1)
        .fill_opacity(30 if stacked else 8)
        .show_points(common.VisibilityMode.NEVER)
        .legend(
            common_builders.VizLegendOptions()
            .display_mode(common.LegendDisplayMode.TABLE)
            .placement(common.LegendPlacement.BOTTOM)
            .show_legend(show_legend=True)
            .calcs(["lastNotNull", "max"])
        )
        .tooltip(
            common_builders.VizTooltipOptions().mode(common.TooltipDisplayMode.MULTI).sort(common.SortOrder.DESCENDING)
        )
        .thresholds(_thresholds(steps or [(None, GREEN)]))
    )
    if steps:
        panel.thresholds_style(common_builders.GraphThresholdsStyleConfig().mode(common.GraphTresholdsStyleMode.DASHED))
    if stacked:
        panel.stacking(common_builders.StackingConfig().mode(common.StackingMode.NORMAL))
    if unit in FULL:
        panel.axis_soft_max(FULL[unit])
    if isinstance(queries[0], Sql):
        panel.interval("1m")  # the resolution of the table
    for target in _targets(queries):
        panel.with_target(target)
    return panel


def figure(
    title: str,
    description: str,
    unit: str,
    query: Query | Sql,
    *,
    steps: Steps = ((None, GREEN),),
    width: int = 4,
) -> Panel:
    """Return a panel with one current number."""
    panel = (
        stat.Panel()
        .title(title)
        .description(description)
        .datasource(_source([query]))
        .unit(unit)
        .decimals(0 if unit == "none" else 1)
        .height(4)
        .span(width)
        .no_value("no data")
        .reduce_options(common_builders.ReduceDataOptions().calcs(["lastNotNull"]))
        .color_mode(common.BigValueColorMode.VALUE)
        .graph_mode(common.BigValueGraphMode.AREA)
        .thresholds(_thresholds(steps))
    )
    for target in _targets([query]):
        panel.with_target(target)
    return panel


def timeline(title: str, description: str, queries: Sequence[Query], good: str, bad: str, *, width: int = 12) -> Panel:
    """Return a panel of states over time, in which 0 is named `good` and 1 is named `bad`."""
    names = dashboard.ValueMap(
        options={
            "0": dashboard.ValueMappingResult(text=good, color=GREEN, index=0),
            "1": dashboard.ValueMappingResult(text=bad, color=RED, index=1),
        }
    )
    panel = (
        statetimeline.Panel()
        .title(title)
        .description(description)
        .datasource(SOURCE)
        .unit("none")
        .height(8)
        .span(width)
        .show_value(common.VisibilityMode.NEVER)
        .merge_values(merge_values=True)
        .mappings([names])
        .thresholds(_thresholds([(None, GREEN), (1, RED)]))
    )
    for target in _targets(queries):
        panel.with_target(target)
    return panel


def heat_map(title: str, description: str, selector: str, *, width: int = WIDTH) -> Panel:
    """Return a panel of a histogram over time. Darker cells hold more values."""
    return (
        heatmap.Panel()
        .title(title)
        .description(description)
        .datasource(SOURCE)
        .unit("short")
        .height(9)
        .span(width)
        .calculate(calculate=False)
        .color(
            heatmap.HeatmapColorOptions()
            .mode(heatmap_models.HeatmapColorMode.SCHEME)
            .scheme("Oranges")
            .scale(heatmap_models.HeatmapColorScale.EXPONENTIAL)
            .exponent(0.5)
            .steps(64)
        )
        .y_axis(heatmap.YAxisConfig().unit("s"))
        .filter_values(heatmap.FilterValueRange().le(1e-9))
        .thresholds(_thresholds([(None, GREEN)]))
        .with_target(
            prometheus.Dataquery()
            .expr(f"sum by (le) (increase({selector}[$__rate_interval]))")
            .legend_format("{{le}}")
            .format(PromQueryFormat.HEATMAP)
            .ref_id("A")
            .datasource(SOURCE)
        )
    )


class Column(NamedTuple):
    """A column of a table, with one value per row."""

    title: str
    expr: str
    unit: str
    steps: Steps = ()
    labels: tuple[str, ...] = ()
    "Labels of the series that are columns too, such as the reason of a failure."


def by_label(title: str, description: str, label: str, columns: Sequence[Column]) -> Panel:
    """Return a table of current values with one row per value of a label."""
    panel = (
        table.Panel().title(title).description(description).datasource(SOURCE).unit("none").height(9).span(WIDTH)
    ).thresholds(_thresholds([(None, GREEN)]))
    names = {"Time": "", label: label.capitalize()}
    for column, ref_id in zip(columns, "ABCDEFGHIJKLMNOP", strict=False):
        panel.with_target(
            prometheus.Dataquery()
            .expr(column.expr)
            .format(PromQueryFormat.TABLE)
            .instant()
            .ref_id(ref_id)
            .datasource(SOURCE)
        )
        names[f"Value #{ref_id}"] = column.title
        names |= {name: name.capitalize() for name in column.labels}
        properties = [dashboard.DynamicConfigValue("unit", column.unit)]
        if column.steps:
            properties += [
                dashboard.DynamicConfigValue("thresholds", _thresholds(column.steps).build()),
                dashboard.DynamicConfigValue("custom.cellOptions", {"type": "color-text"}),
            ]
        panel.override_by_name(column.title, properties)
    link = {
        "title": "Its dashboard",
        "url": f"/d/direct-routing-{label}?var-{label}=${{__value.raw}}&${{__url_time_range}}",
    }
    panel.override_by_name(label.capitalize(), [dashboard.DynamicConfigValue("links", [link])])
    panel.with_transformation(dashboard.DataTransformerConfig(id_val="merge", options={}))
    panel.with_transformation(
        dashboard.DataTransformerConfig(
            id_val="organize",
            options={"excludeByName": {"Time": True}, "renameByName": {a: b for a, b in names.items() if b}},
        )
    )
    return panel


def rows(title: str, description: str, query: Sql, units: Mapping[str, str]) -> Panel:
    """Return a table of the rows that a query gives, with units by column."""
    panel = (
        table.Panel().title(title).description(description).datasource(DATABASE).unit("none").height(9).span(WIDTH)
    ).thresholds(_thresholds([(None, GREEN)]))
    panel.with_target(query.target("A"))
    for column, unit in units.items():
        properties = [dashboard.DynamicConfigValue("unit", unit), dashboard.DynamicConfigValue("decimals", 1)]
        panel.override_by_name(column, properties)
    return panel


def board(uid: str, title: str, description: str, rows: Sequence[Row], *, tenants: bool) -> dashboard.Dashboard:
    """Return a dashboard with its variables, annotations of restarts, and links to the other dashboards."""
    result = (
        _empty_board(uid, title, description)
        .with_variable(builders.DatasourceVariable("datasource").label("Data source").type("prometheus"))
        .with_variable(_choice("namespace", "Namespace", "label_values(direct_routing_build_info, namespace)"))
        .with_variable(_choice("job", "Job", f"label_values({_selector('build_info', _NAMESPACE)}, job)"))
        .with_variable(_choice("instance", "Instance", f"label_values({of_deployment('build_info')}, instance)"))
        .annotation(_Restarts())
        .link(
            builders.DashboardLink("Direct Routing")
            .type(dashboard.DashboardLinkType.DASHBOARDS)
            .tags([TAG])
            .as_dropdown(as_dropdown=False)
            .include_vars(include_vars=True)
            .keep_time(keep_time=True)
        )
    )
    if tenants:
        query = f"label_values({of_worker('tenant_up')}, tenant)"
        result.with_variable(_choice("tenant", "Tenant", query))
    return _filled_board(result, rows)


def database_board(
    uid: str, title: str, description: str, rows: Sequence[Row], choices: Mapping[str, tuple[str, str]]
) -> dashboard.Dashboard:
    """Return a dashboard of a PostgreSQL data source. `choices` maps variables to their label and SQL query."""
    source = builders.DatasourceVariable("datasource").label("Data source").type(str(DATABASE.type_val))
    result = _empty_board(uid, title, description).with_variable(source)
    for name, (label, query) in choices.items():
        result.with_variable(
            builders.QueryVariable(name)
            .label(label)
            .datasource(DATABASE)
            .query(query)
            .multi(multi=True)
            .include_all(include_all=True)
            .current(dashboard.VariableOption(text="All", value="$__all"))
            .refresh(dashboard.VariableRefresh.ON_TIME_RANGE_CHANGED)
        )
    return _filled_board(result, rows)


def _empty_board(uid: str, title: str, description: str) -> builders.Dashboard:
    return (
        builders.Dashboard(f"Direct Routing · {title}")
        .uid(f"direct-routing-{uid}")
        .description(description)
        .tags([TAG])
        .editable()
        .timezone("browser")
        .refresh("30s")
        .time("now-6h", "now")
        .tooltip(dashboard.DashboardCursorSync.CROSSHAIR)
    )


def _filled_board(result: builders.Dashboard, rows: Sequence[Row]) -> dashboard.Dashboard:
    for row in rows:
        result.with_row(builders.Row(row.title))
        for panel in row.panels:
            result.with_panel(panel)
    content = result.build()
    for number, one in enumerate(content.panels or [], start=1):
        one.id_val = number
    return content


def text(content: dashboard.Dashboard) -> str:
    """Return the file of a dashboard."""
    return json.dumps(content, cls=JSONEncoder, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def _source(queries: Sequence[Query | Sql]) -> dashboard.DataSourceRef:
    return DATABASE if isinstance(queries[0], Sql) else SOURCE


def _targets(queries: Sequence[Query | Sql]) -> list[builder.Builder[variants.Dataquery]]:
    return [
        query.target(ref_id)
        if isinstance(query, Sql)
        else prometheus.Dataquery()
        .expr(query.expr)
        .legend_format(query.legend)
        .range()
        .ref_id(ref_id)
        .datasource(SOURCE)
        for query, ref_id in zip(queries, "ABCDEFGHIJ", strict=False)
    ]


def _thresholds(steps: Steps) -> builders.ThresholdsConfig:
    return (
        builders.ThresholdsConfig()
        .mode(dashboard.ThresholdsMode.ABSOLUTE)
        .steps([dashboard.Threshold(value=value, color=color) for value, color in steps])
    )


def _choice(name: str, label: str, query: str) -> builders.QueryVariable:
    return (
        builders.QueryVariable(name)
        .label(label)
        .datasource(SOURCE)
        .query({"query": query, "refId": name})
        .multi(multi=True)
        .include_all(include_all=True)
        .all_value(".*")
        .current(dashboard.VariableOption(text="All", value="$__all"))
        .refresh(dashboard.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(dashboard.VariableSort.ALPHABETICAL_ASC)
    )


class _Mark(dashboard.AnnotationQuery):
    """An annotation at the time that the value of the series names, which the SDK cannot express."""

    def to_json(self) -> dict[str, object]:
        return {
            **super().to_json(),
            "useValueForTime": True,
            "titleFormat": "Worker started",
            "textFormat": "{{instance}}",
            "tagKeys": "instance",
        }


class _Restarts(builder.Builder[dashboard.AnnotationQuery]):
    def build(self) -> dashboard.AnnotationQuery:
        expr = f"{of_worker('start_time_seconds')} * 1000"
        return _Mark(name="Restarts", datasource=SOURCE, enable=True, hide=False, icon_color=BLUE, expr=expr)
