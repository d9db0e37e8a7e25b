"""The documentation refers only to commands, options, keys, variables, files and headings that exist.

Pages and blocks that are generated from the code match it.
"""

import io
import re
import tomllib
from contextlib import redirect_stdout
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from connector.cli import main
from connector.config.json_schema import json_schema
from tests import licences, reference

ROOT = Path(__file__).parents[2]
PAGES = [
    *(ROOT / name for name in ("README.md", "SECURITY.md", "CHANGELOG.md", "CONTRIBUTING.md", "deploy/README.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "deploy").rglob("*/*.md")),
]
SCHEMA = json_schema()
TEXTS = {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in PAGES}
COMMAND = re.compile(r"(?:^|[\s/])connector (?!connector\b)(schema [a-z]+|[a-z][a-z-]*)\b(.*)")


def blocks(text: str, language: str) -> list[str]:
    """Return the fenced blocks of a language; "" stands for blocks without one."""
    fence = re.compile(rf"^```{language}\n(.*?)^```$", re.MULTILINE | re.DOTALL)
    return [found[1] for found in fence.finditer(text)] if language else _plain_blocks(text)


def _plain_blocks(text: str) -> list[str]:
    parts = re.split(r"^```(\w*)\n?", text, flags=re.MULTILINE)
    return [parts[at + 1] for at in range(1, len(parts) - 1, 4) if not parts[at]]


def commands(text: str) -> list[tuple[str, str]]:
    """Return name and arguments of every connector command in code blocks and between backquotes."""
    lines = [line.split("#")[0] for block in blocks(text, "") for line in block.replace("\\\n", " ").splitlines()]
    lines += re.findall(r"(?<!`)`(connector [a-z][^`]*)`(?!`)", text)
    found = [COMMAND.search(re.split(r"\s#|[|>;]", line)[0]) for line in lines]
    return [(match[1], match[2]) for match in found if match]


@cache
def options(name: str) -> frozenset[str]:
    written = io.StringIO()
    with redirect_stdout(written), pytest.raises(SystemExit) as ended:
        main([*name.split(), "--help"])
    assert ended.value.code == 0, name
    return frozenset(re.findall(r"--[a-z-]+", written.getvalue()))


@pytest.mark.parametrize("page", TEXTS)
def test_documented_commands_and_options_exist(page: str) -> None:
    for name, arguments in commands(TEXTS[page]):
        given = set(re.findall(r"(?:^|\s)(--[a-z-]+)", arguments))
        assert given <= options(name), f"connector {name}{arguments}"


def test_command_scan_finds_commands_in_readme_and_runbook() -> None:
    assert ("run", " --config connector.toml") in commands(TEXTS["README.md"])
    assert len(commands(TEXTS["docs/runbook.md"])) > 5


@pytest.mark.parametrize("page", TEXTS)
def test_documented_toml_is_valid_configuration(page: str) -> None:
    for block in blocks(TEXTS[page], "toml"):
        problems = [error.message for error in Draft202012Validator(SCHEMA).iter_errors(tomllib.loads(block))]
        assert problems == [], block


def known(key: str) -> bool:
    """Return whether a configuration key exists. Below a table with free names every key exists."""
    node: Any = SCHEMA
    for part in key.replace("[]", "").split("."):
        if "$ref" in node.get("items", node):
            node = SCHEMA["$defs"][node.get("items", node)["$ref"].rpartition("/")[2]]
        if node.get("additionalProperties"):
            return True
        if part not in node.get("properties", {}):
            return False
        node = node["properties"][part]
    return True


@pytest.mark.parametrize("page", TEXTS)
def test_documented_configuration_keys_exist(page: str) -> None:
    tables = "|".join(SCHEMA["properties"])
    found = re.findall(rf"`((?:{tables})(?:\[\])?\.[a-z_]+(?:\.[A-Za-z_.]+)?)[` ]", TEXTS[page])
    for row in re.findall(rf"^\| (`(?:{tables})[\[.].*?) \|", TEXTS[page], re.MULTILINE):
        first, *others = re.findall(r"`([^`]+)`", row)
        found += [first.rpartition(".")[0] + other for other in others if other.startswith(".")]
    assert [key for key in found if not known(key)] == []


@pytest.mark.parametrize("page", TEXTS)
def test_documented_environment_variables_exist(page: str) -> None:
    for name in re.findall(r"\bCONNECTOR_([A-Z]\w*__\w*[A-Z])\b", TEXTS[page]):
        assert known(name.lower().removesuffix("__file").removesuffix("__env").replace("__", ".")), name


def anchors(text: str) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", TEXTS)
def test_links_of_the_documentation_resolve(page: str) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", TEXTS[page]):
        if re.match(r"https?:", link) or link.endswith(".png"):  # make bench writes the pictures
            continue
        place, _, anchor = link.partition("#")
        target = (ROOT / page).parent / place if place else ROOT / page
        assert target.exists(), link
        if anchor and target.suffix == ".md":
            assert anchor in anchors(target.read_text(encoding="utf-8")), link


def test_documentation_index_lists_every_page() -> None:
    pages = {path.name for path in (ROOT / "docs").glob("*.md")} - {"README.md"}
    assert pages == set(re.findall(r"\]\(([a-z-]+\.md)\)", TEXTS["docs/README.md"]))


def test_configuration_reference_matches_the_code() -> None:
    assert reference.PAGE.read_text(encoding="utf-8") == reference.text(), "run make docs"


def test_licences_of_packages_are_listed_and_compatible() -> None:
    listed = licences.PAGE.read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([a-z0-9-]+) \| (\d\S*) \| (.+?) \|", listed, re.MULTILINE)
    pinned = licences.pinned()
    assert [(name, version) for name, version, _ in rows] == [(package.name, package.version) for package in pinned], (
        "make docs"
    )
    assert len(rows) > 20
    for package in pinned:
        if not package.where:
            assert licences.line(package) in listed, "run make docs"
    assert {part for *_, licence in rows for part in re.split(r" (?:AND|OR) ", licence)} <= licences.COMPATIBLE
