"""Examples of the command `connector` in the help texts and in the documentation.

Found are the examples below "Example:" in a help text, the lines of fenced blocks, code between backquotes that has
all options that its command requires, and table rows that start with a command and then mention options of it.
"""

import re
import shlex
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from connector import cli

ROOT = Path(__file__).parent.parent
PAGES = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "examples").rglob("README*")),
    *sorted((ROOT / "deploy").rglob("README*")),
]
_FENCED = re.compile(r"^ *```\w*\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"`((?:[^\s`]*/)?connector\s[^`]+)`")
_ROW = re.compile(r"^\| `(connector [a-z-]+)` \|.*?`(--[^`]+)`", re.MULTILINE)
_HELP = re.compile(r"Example:(.*?)(?:\n\s*\n|\Z)", re.DOTALL)
_OPTIONAL = re.compile(r"\[(--[^\]]+)\]")
_VARIABLE = re.compile(r"([A-Z]\w*)=(.*)")


@cache
def command() -> Any:
    """Return the group of all commands. Making it takes 10 ms, and each line of the documents asks for it."""
    return cli.command()


class Example(NamedTuple):
    """Command line. `words` come after `connector`, and `filter` is the program that reads its output."""

    words: tuple[str, ...]
    variables: tuple[tuple[str, str], ...] = ()
    filter: tuple[str, ...] = ()
    output: str = ""

    @property
    def name(self) -> str:
        """Return the command, for a subcommand with the name of its group."""
        return " ".join(_resolved(self.words)[0])

    def __str__(self) -> str:
        variables = [f"{name}={value}" for name, value in self.variables]
        target = f" > {self.output}" if self.output else f" | {' '.join(self.filter)}" if self.filter else ""
        return " ".join([*variables, "connector", *self.words]) + target


def collect() -> dict[Example, list[str]]:
    """Return each example with the places in which it occurs."""
    found: dict[Example, list[str]] = {}
    for name, text in helps():
        for example in _parsed("\n".join(_HELP.findall(text))):
            found.setdefault(example, []).append(f"connector {name} --help".replace("  ", " "))
    for page in PAGES:
        for example in in_page(page.read_text(encoding="utf-8")):
            found.setdefault(example, []).append(str(page.relative_to(ROOT)))
    return found


def helps() -> Iterator[tuple[str, str]]:
    """Yield name and help text of the program, of each command and of each subcommand."""

    def walk(name: str, of: Any) -> Iterator[tuple[str, str]]:
        yield name, of.help or ""
        for inner, below in getattr(of, "commands", {}).items():
            yield from walk(f"{name} {inner}".strip(), below)

    return walk("", command())


def in_page(text: str) -> Iterator[Example]:
    """Yield the examples of a page."""
    for block in _FENCED.findall(text):
        yield from _parsed(block)
    prose = _FENCED.sub("", text)
    inline = [*_INLINE.findall(prose), *(" ".join(row) for row in _ROW.findall(prose))]
    for example in _parsed("\n".join(" ".join(line.split()) for line in inline)):
        if _is_complete(example.words):
            yield example


def _parsed(text: str) -> Iterator[Example]:
    for line in text.replace("\\\n", " ").splitlines():
        if "connector" in line:
            example = _example(_OPTIONAL.sub(r"\1", line))
            if example is not None:
                yield example


def _example(line: str) -> Example | None:
    """Return the example in a line; None if the line does not run `connector`."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|>")
    lexer.whitespace_split = True
    words = list(lexer)
    commands = command().commands
    for at, (word, following) in enumerate(pairwise(words)):
        if word.rpartition("/")[2] == "connector" and (following in commands or following == "--version"):
            variables = tuple(match.groups() for match in map(_VARIABLE.fullmatch, words[:at]) if match)
            return _cut(words[at + 1 :], variables)  # type: ignore[arg-type]
    return None


def _cut(words: list[str], variables: tuple[tuple[str, str], ...]) -> Example:
    """Return the example in words after `connector`, without directories in front of configuration files."""
    own = [word.rpartition("/")[2] if word.endswith(".toml") else word for word in words]
    for sign in "|", ">":
        if sign in own:
            at = own.index(sign)
            rest = own[at + 1 :]
            given: dict[str, Any] = {"filter": tuple(rest)} if sign == "|" else {"output": rest[0]}
            return Example(tuple(own[:at]), variables, **given)
    return Example(tuple(own), variables)


def _resolved(words: tuple[str, ...]) -> tuple[list[str], Any]:
    """Return the names of the command that `words` run, and the command."""
    names: list[str] = []
    found: Any = command()
    for word in words:
        if word not in getattr(found, "commands", {}):
            break
        names.append(word)
        found = found.commands[word]
    return names, found


def _is_complete(words: tuple[str, ...]) -> bool:
    """Return whether `words` contain all that the command requires; otherwise they mention it only."""
    names, found = _resolved(words)
    if hasattr(found, "commands"):
        return words == ("--version",)
    required = [parameter for parameter in found.params if parameter.required]
    options = [parameter for parameter in required if parameter.param_type_name == "option"]
    arguments = len(required) - len(options)
    given = len([word for word in words[len(names) :][:arguments] if not word.startswith("-")])
    return given == arguments and all(set(option.opts) & set(words) for option in options)
