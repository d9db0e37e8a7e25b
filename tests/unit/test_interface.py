"""docs/interface.md and the code name the same commands, keys, metrics and JSON members."""

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from typer.core import TyperGroup

from connector import status_json
from connector.cli import command
from connector.commands.examination import Finding
from connector.config.json_schema import json_schema
from connector.core.coverage import Window
from connector.core.jobs import Job
from connector.metrics.worker import Metrics

PAGE = (Path(__file__).parents[2] / "docs/interface.md").read_text(encoding="utf-8")
NOW = datetime(2026, 3, 1, tzinfo=UTC)


def section(title: str) -> str:
    """Return the text below a heading, up to the next heading of its level or above."""
    level, name = title.split(" ", 1)
    found = re.search(rf"^{level} {re.escape(name)}\n(.*?)(?=^#{{1,{len(level)}}} |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    assert found, title
    return found[1]


def rows(text: str) -> list[list[str]]:
    """Return the cells of the table rows in a text, without backquotes."""
    lines = [line for line in text.splitlines() if line.startswith("| `")]
    return [[cell.strip().replace("`", "") for cell in line.strip("|").split(" | ")] for line in lines]


def members(text: str) -> set[str]:
    """Return the names of the JSON members in the first fenced block of a text, nested ones included."""
    block = re.search(r"^```\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert block
    return set(re.findall(r'"([a-z_]+)":', block[1]))


def test_interface_page_lists_every_command() -> None:
    def names(group: Any, prefix: str = "") -> set[str]:
        found: set[str] = set()
        for name, subcommand in group.commands.items():
            found |= names(subcommand, f"{name} ") if isinstance(subcommand, TyperGroup) else {prefix + name}
        return found

    documented = set(re.findall(r"`connector ((?:schema )?[a-z][a-z-]*)[ `]", section("## Commands")))

    assert documented - {"schema"} == names(command())


def test_interface_page_lists_every_key_with_its_default() -> None:
    schema = json_schema()
    derived = {"start": '"-7d"', "additional_properties": '"keep"'}  # resolved from other keys or at run time

    def keys(header: str, member: dict[str, Any]) -> dict[tuple[str, str], str]:
        is_list = member.get("type") == "array"
        table = schema["$defs"][(member["items"] if is_list else member)["$ref"].rpartition("/")[2]]
        section_name = f"[[{header}]]" if is_list else f"[{header}]"
        found: dict[tuple[str, str], str] = {}
        for key, value in table["properties"].items():
            if value.get("type") == "array":
                found |= keys(f"{header}.{key}", value)
            elif key in table.get("required", ()):
                found[section_name, key] = "required"
            else:
                found[section_name, key] = derived.get(key) or shown(value.get("default"))
        return found

    expected = {key: d for name, member in schema["properties"].items() for key, d in keys(name, member).items()}

    assert {(row[0], row[1]): row[2] for row in rows(section("### Keys"))} == expected


def shown(default: Any) -> str:
    """Return a default as the page shows it."""
    if default in ("", None, {}):
        return "none"
    if isinstance(default, bool):
        return str(default).lower()
    return f'"{default}"' if isinstance(default, str) else f"{default:g}"


def test_interface_page_lists_every_metric_with_its_type() -> None:
    metrics = Metrics("1.2.3", 8, NOW.timestamp)
    metrics.watch_process()
    metrics.tenant("contoso", ["1m"])
    families = {family.name: family.type for family in text_string_to_metric_families(metrics.render("")[0].decode())}
    documented = {f"direct_routing_{row[0].removesuffix('_total')}": row[1] for row in rows(section("## Metrics"))}

    assert documented == families


@pytest.mark.parametrize(
    ("title", "described"),
    [
        ("### TENANT", status_json.unknown(status_json.ReportedTenant("t", None, 0), "")),
        ("### JOB", status_json.job("t", Job("1", Window(NOW, NOW), NOW))),
        ("#### `connector check --json`", dict.fromkeys(Finding._fields)),
    ],
)
def test_interface_page_lists_the_members_of_each_json_shape(title: str, described: dict[str, Any]) -> None:
    nested = {"from", "to", "cause", "last_read", "every", "overlap", "last_ok", "overdue_seconds"}
    documented = members(section(title))

    assert documented <= described.keys() | nested
    assert described.keys() - {"again"} <= documented
