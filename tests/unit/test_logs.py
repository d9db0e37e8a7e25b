"""The table of log events in the documentation matches the source."""

import ast
import re
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
LEVELS = {"debug": "debug", "info": "info", "warning": "warning", "error": "error", "exception": "error"}
LEVELS |= {"critical": "critical"}
FOREIGN = {("library_message", "warning"), ("warning_raised", "warning")}
"Events of libraries, as connector/log.py names them."
LOGGERS = ("_logger", "logger", "_log")


@cache
def logged_events() -> set[tuple[str, str]]:
    """Return every event of the source with its level."""
    found: set[tuple[str, str]] = set()
    for path in sorted((ROOT / "connector").rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        assigned = {
            target.id: node.value
            for node in ast.walk(tree)
            if isinstance(node, ast.Assign)
            for target in node.targets
            if isinstance(target, ast.Name)
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and _is_logger(node.func.value):
                if node.func.attr not in LEVELS:
                    continue
                event = node.args[0]
                source = assigned[event.id] if isinstance(event, ast.Name) else event
                if isinstance(source, ast.IfExp):
                    source = ast.Tuple([source.body, source.orelse], ast.Load())
                names = [part.value for part in ast.walk(source) if isinstance(part, ast.Constant)]
                assert names, f"{path.name}:{node.lineno}: the name of the event is not a literal"
                found |= {(str(name), LEVELS[node.func.attr]) for name in names}
    return found | FOREIGN


def _is_logger(node: ast.expr) -> bool:
    if isinstance(node, ast.Name):
        return node.id in LOGGERS
    is_got = isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "get"
    return is_got and ast.unparse(node).startswith("log.get(")


def documented() -> list[list[str]]:
    lines = (ROOT / "docs/logs.md").read_text(encoding="utf-8").splitlines()
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines if line.startswith("| `")]


def test_log_documentation_lists_every_event() -> None:
    assert {(row[0].strip("`"), row[1]) for row in documented()} == logged_events()


def test_log_documentation_explains_each_event() -> None:
    rows = documented()
    assert [row[0] for row in rows] == sorted({row[0] for row in rows})
    assert all(len(row) == 4 and all(row) for row in rows)


def test_log_event_names_are_snake_case_with_a_fixed_level() -> None:
    names = [name for name, _ in logged_events()]
    assert all(re.fullmatch(r"[a-z]+(_[a-z]+)*", name) for name in names)
    assert len(names) == len(set(names))


def test_log_documentation_refers_to_existing_alerts() -> None:
    text = (ROOT / "docs/logs.md").read_text(encoding="utf-8")
    runbook = (ROOT / "docs/runbook.md").read_text(encoding="utf-8")
    alerts = re.findall(r"\*([A-Z]\w+)\*", text)
    assert alerts
    assert {f"## {alert}" for alert in alerts} <= set(runbook.splitlines())
