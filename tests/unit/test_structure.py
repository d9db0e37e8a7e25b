"""Limits of the size of modules and functions, and unique class names."""

import ast
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
MODULES = {path.relative_to(ROOT).as_posix(): path.read_text() for path in sorted((ROOT / "connector").rglob("*.py"))}
MOST_LINES_PER_MODULE = 400
MOST_LINES_PER_FUNCTION = 60

# Each exception has its reason.
LONG_MODULES: dict[str, str] = {}
LONG_FUNCTIONS = {
    "connector/commands/simulate.py:simulate": "Each option of the command is an argument with its help.",
}
REPEATED_CLASSES: dict[str, str] = {}


@cache
def trees() -> list[tuple[str, ast.Module]]:
    return [(path, ast.parse(text)) for path, text in MODULES.items()]


def nodes(kind: type[ast.AST] | tuple[type[ast.AST], ...]) -> Iterator[tuple[str, ast.AST]]:
    for path, tree in trees():
        yield from ((path, node) for node in ast.walk(tree) if isinstance(node, kind))


def test_no_class_name_occurs_twice() -> None:
    names = Counter(node.name for _, node in nodes(ast.ClassDef) if isinstance(node, ast.ClassDef))
    assert {name for name, count in names.items() if count > 1} <= REPEATED_CLASSES.keys()


def test_modules_are_short_enough_to_read() -> None:
    long = {path for path, text in MODULES.items() if text.count("\n") > MOST_LINES_PER_MODULE}
    assert long <= LONG_MODULES.keys()


def test_functions_are_short_enough_to_read() -> None:
    long = {
        f"{path}:{node.name}"
        for path, node in nodes((ast.FunctionDef, ast.AsyncFunctionDef))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (node.end_lineno or 0) - node.lineno >= MOST_LINES_PER_FUNCTION
    }
    assert long <= LONG_FUNCTIONS.keys()
