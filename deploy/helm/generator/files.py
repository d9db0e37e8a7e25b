"""Content of the generated files of the chart: schema of the values, rules, dashboards, and the table of the README."""

import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from connector.config.json_schema import json_schema

ROOT = Path(__file__).parents[3]
CHART = ROOT / "deploy/helm/direct-routing-connector"
RUNBOOK = "https://direct-routing-connector.example/docs/runbook.md"
"Address in the rules that the value prometheusRule.runbookUrl replaces."
_RULES = {"alerts.yml": "thresholds", "slo.yml": "slo"}
"File of rules, and the value below prometheusRule that holds its limits."
_LIMITED_RULE = re.compile(
    r"^ +# chart: (\w+) = (\S+)\n( +- (?:.|\n)*?)(?=^ +(?:- (?:alert|record|name): |# chart: )|\Z)", re.MULTILINE
)
_BEGIN, _END = "<!-- values: written by make chart -->", "<!-- end of values -->"


def generated() -> dict[str, str]:
    """Return the content of each generated file by its path inside the chart."""
    rules = {f"files/{name}": rule_template(_read(f"prometheus/{name}"), group) for name, group in _RULES.items()}
    dashboards = {
        f"files/dashboards/{path.name}": path.read_text(encoding="utf-8")
        for path in sorted((ROOT / "deploy/grafana/dashboards").glob("*.json"))
    }
    schema = json.dumps(values_schema(), indent=2) + "\n"
    return {"values.schema.json": schema, "README.md": _readme(), "Chart.yaml": _chart()} | rules | dashboards


def values_schema() -> dict[str, Any]:
    """Return the schema of the chart's values with the configuration's schema as it is in the code."""
    schema: dict[str, Any] = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
    own = json_schema()
    schema["$defs"] = own["$defs"]
    members = {name: own[name] for name in ("type", "additionalProperties", "properties")}
    schema["properties"]["config"] = {"description": "As connector.toml, table by table.", **members}
    return schema


def rule_template(text: str, group: str) -> str:
    """Return the groups of a file of rules as a template of Helm.

    A comment `chart: NAME = LIMIT` above a rule replaces LIMIT in the rule's expression by the value NAME below
    `prometheusRule.{group}`. Raises ValueError if the expression does not contain the limit.
    """
    body = re.sub(r"^#.*\n", "", text.partition("\ngroups:\n")[2], flags=re.MULTILINE)
    body = body.replace("{{", "\0").replace("}}", '{{ "}}" }}').replace("\0", '{{ "{{" }}')
    body = body.replace(RUNBOOK, "{{ .Values.prometheusRule.runbookUrl }}")
    return re.sub(_LIMITED_RULE, lambda found: _with_limit(*found.groups(), group), body)


def _with_limit(name: str, limit: str, rule: str, group: str) -> str:
    place = f"{{{{ .Values.prometheusRule.{group}.{name} }}}}"
    expression, labels, rest = rule.partition("labels:")
    expression, count = re.subn(rf"(?<=[>l-] ){re.escape(limit)}(?![\w.])", place, expression)
    if not count:
        raise ValueError(f"the rule below `chart: {name} = {limit}` does not contain the limit")
    return expression + labels + rest


def value_rows(text: str) -> Iterator[tuple[str, str, str]]:
    """Yield path, default and description of each value of values.yaml; a group with a description has no default."""
    values = yaml.safe_load(text)
    path: list[str] = []
    comment: list[str] = []
    for line in text.splitlines():
        if found := re.match(r"( *)# (.*)", line):
            comment.append(found[2])
            continue
        if key := re.match(r"( *)(\w+):", line):
            path = [*path[: len(key[1]) // 2], key[2]]
            value = values
            for name in path:
                value = value[name]
            description = " ".join(comment)
            if not line.endswith(":"):
                yield ".".join(path), json.dumps(value), description
            elif description:
                yield ".".join(path), "", description
        comment = []


def _readme() -> str:
    table = ["| Value | Default | Description |", "| --- | --- | --- |"]
    for path, default, description in value_rows((CHART / "values.yaml").read_text(encoding="utf-8")):
        shown = f"`{default}`" if default else ""
        table.append(f"| `{path}` | {shown} | {description} |")
    before, rest = (CHART / "README.md").read_text(encoding="utf-8").split(_BEGIN)
    return "\n".join((before + _BEGIN, "", *table, "", _END + rest.split(_END)[1]))


def _chart() -> str:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    text = (CHART / "Chart.yaml").read_text(encoding="utf-8")
    return re.sub(r"^(version|appVersion): .*$", rf"\1: {version}", text, flags=re.MULTILINE)


def _read(name: str) -> str:
    return (ROOT / "deploy" / name).read_text(encoding="utf-8")
