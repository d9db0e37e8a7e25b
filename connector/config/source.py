"""Configured values with their origins: the configuration file or CONNECTOR_* variables.

The module also collects the problems with the values.
"""

import json
import re
import tomllib
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import BaseModel

from connector.config.document import Document
from connector.config.quoting import shown
from connector.config.values import Reference
from connector.core import privacy
from connector.schema_files import schema_text

PREFIX = "CONNECTOR_"
FILE_VARIABLE = "CONNECTOR_CONFIG"

Key = tuple[str | int, ...]


class ConfigSource:
    """All configured values by key, with the file or variable that set each value.

    It also collects the problems of the values, at most one per key.
    """

    def __init__(self, path: Path | None, environ: Mapping[str, str]) -> None:
        # Without a UTF-8 locale, Python decodes other bytes than ASCII to surrogates. Here they are decoded as UTF-8.
        self.environ = {name: _utf8(text) for name, text in environ.items()}
        self.tree: dict[str, Any] = {}
        self._file_tree: dict[str, Any] = {}
        self.variables: dict[Key, str] = {}
        self.problems: list[str] = []
        self.unreadable = False
        self.ignores: Callable[[Key], bool] = lambda _: False
        "Function that returns true for a key whose problems are ignored, because the command does not need the key."
        self._reported: set[Key] = set()
        self._chosen_by: str | None = None
        self.path = path
        if path is None:
            for name, text in environ.items():
                if name.upper() == FILE_VARIABLE and text:
                    self.path, self._chosen_by = Path(text), name

    def read_file(self) -> None:
        """Read the configuration file, if there is one. If it cannot be read, record a problem."""
        if self.path is None:
            return
        origin = self._chosen_by or str(self.path)
        try:
            text = self.path.read_bytes().decode("utf-8-sig")
            self.tree, self._file_tree = tomllib.loads(text), tomllib.loads(text)
        except OSError as error:
            why = error.strerror or type(error).__name__
            what = f"{self.path} cannot be read ({why}); specify a file that exists and that this user can read"
        except UnicodeDecodeError:
            what = f"{self.path} is not UTF-8; save it as UTF-8"
        except (tomllib.TOMLDecodeError, RecursionError) as error:
            what = f"{self.path} is not TOML: {one_line(str(error))}; correct it"
        else:
            return
        self.unreadable = True
        self.problems.append(_printable(f"{origin}: {what}"))

    def read_variables(self) -> None:
        """Override the values of the file with the values of the CONNECTOR_* variables."""
        found: dict[tuple[str, ...], tuple[str, str]] = {}
        for name, text in sorted(self.environ.items()):
            upper = name.upper()
            if not upper.startswith(PREFIX) or upper == FILE_VARIABLE:
                continue
            rest = upper.removeprefix(PREFIX).lower()
            if "__" not in rest and rest not in Document.model_fields:
                continue
            segments = tuple(rest.split("__"))
            if segments in found and found[segments][1] != text:
                self.report(segments, f"is also set by {found[segments][0]}; remove one of them", name)
            found[segments] = (name, text)
        for segments in sorted(found, key=len):  # a variable for a key overrides a variable for the whole table
            self._place(segments, *found[segments])

    def _place(self, segments: tuple[str, ...], name: str, text: str) -> None:
        model: type[BaseModel] = Document
        for depth, segment in enumerate(segments):
            kind = kind_of(model, segment)
            key, rest = segments[: depth + 1], segments[depth + 1 :]
            if isinstance(kind, type) and issubclass(kind, BaseModel) and rest:
                model = kind
                continue
            if kind is dict and rest:
                key, rest = (*key, _name_below(key, rest[0])), rest[1:]
                kind = Reference
            if kind is None:
                self._put(segments, text, name)
            elif kind is Reference and rest in (("file",), ("env",)):
                self._put(key, {rest[0]: text}, name)
            elif kind is list and rest:
                self.report(
                    key, f"is a list, which only one variable can set; put the list as JSON into {variable(key)}", name
                )
            elif rest and len(key) > depth + 1:
                whole = variable((*key, *rest[:-1])) + "_" + rest[-1].upper()
                self.report(
                    segments, f"is not a property; write one underscore for each dot of its name, as in {whole}", name
                )
            elif rest:
                self.report(segments, f"is not a key: {key_text(key)} takes a single value; set {variable(key)}", name)
            else:
                self._place_value(key, kind, text, name)
            return

    def _place_value(self, key: Key, kind: Any, text: str, name: str) -> None:
        value: Any = text
        if kind is list or kind is dict or (isinstance(kind, type) and issubclass(kind, BaseModel)):
            try:
                value = json.loads(text)
            except (ValueError, RecursionError) as error:
                place = (
                    f" ({error.msg} at character {error.pos + 1})" if isinstance(error, json.JSONDecodeError) else ""
                )
                self.report(key, f"is not JSON{place}; write {'[…]' if kind is list else '{…}'}", name)
                return
        elif kind is Reference and text.startswith("{"):
            try:
                value = json.loads(text)
            except ValueError:
                value = text
        elif kind is bool and text.lower() in ("true", "false"):
            value = text.lower() == "true"
        elif kind is int and re.fullmatch(r"[+-]?[0-9]{1,18}", text):
            value = int(text)
        elif kind is float and re.fullmatch(r"[+-]?[0-9]{1,18}(?:\.[0-9]*)?", text):
            value = float(text)
        self._merge(key, kind, value, name)

    def _merge(self, key: Key, kind: Any, value: Any, name: str) -> None:
        # Tables are merged key by key. Any other value, also a list, { file } or { env }, replaces the previous value.
        model = kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None
        if isinstance(value, dict) and (model is not None or kind is dict):
            self._put(key, None, name)
            for inner, part in value.items():
                self._merge((*key, inner), kind_of(model, inner) if model else Reference, part, name)
        else:
            self._put(key, value, name)

    def _put(self, key: Key, value: Any, name: str) -> None:
        """Set a key to the value of the variable `name`.

        If the value is None, the key becomes an empty table, unless it already is a table.
        """
        table = self.tree
        for segment in key[:-1]:
            inner = table.get(str(segment))
            if not isinstance(inner, dict):
                inner = table[str(segment)] = {}
            table = inner
        last = str(key[-1])
        if value is None:
            if not isinstance(table.get(last), dict):
                table[last] = {}
            return
        table[last] = value
        self.variables[key] = name

    def set_list(self, key: str, value: list[dict[str, Any]], names: Mapping[Key, str]) -> None:
        """Set a key to a list of tables that AZURE_* variables define.

        `names` maps each key in these tables to its variable.
        """
        self.tree[key] = value
        self.variables.update(names)

    def report(self, key: Key, what: str, origin: str | None = None) -> None:
        """Record a problem with a key, unless the key or a table that contains it already has a problem.

        `what` is the message, which begins with a verb. `origin` is the file or variable that must be corrected, by
        default the one that set the key.
        """
        if self.is_reported(*key):
            return
        self._reported.add(key)
        if self.ignores(key):
            return
        self.problems.append(_printable(f"{origin or self.origin(key)}: {key_text(key)}: {what}"))

    def is_reported(self, *key: str | int) -> bool:
        """Return whether the key, or a table that contains it, already has a problem."""
        return any(key[:length] in self._reported for length in range(1, len(key) + 1))

    def origin(self, key: Key) -> str:
        """Return the file or variable that set a key. It is part of each message about the key.

        If the key is not set, return the file or variable in which it can be set.
        """
        for length in range(len(key), 0, -1):
            if key[:length] in self.variables:
                return self.variables[key[:length]]
        if self.path is not None:
            return str(self.path)
        return next((name for written, name in self.variables.items() if written[: len(key)] == key), variable(key))

    def below(self, key: Key) -> list[tuple[Key, str]]:
        """Return each key inside the table `key` that a variable sets, together with the name of the variable."""
        return [
            (written, name) for written, name in self.variables.items() if written[: len(key)] == key and written != key
        ]

    def is_variable(self, key: Key) -> bool:
        """Return whether a CONNECTOR_* variable sets exactly this key, not the whole table that contains it."""
        return key in self.variables and variable(key) == self.variables[key].upper()

    def is_in_file(self, key: Key) -> bool:
        """Return whether the configuration file contains the key."""
        return _at(self._file_tree, key[:-1], key[-1])[1]

    def remove(self, key: Key) -> None:
        """Remove an invalid value, so that the remaining values can be validated.

        An invalid entry of a list is replaced with an empty table, so that the other entries keep their positions.
        """
        node, there = _at(self.tree, key[:-1], key[-1])
        if there and isinstance(node, list):
            node[int(key[-1])] = {}
        elif there:
            del node[key[-1]]


def _utf8(text: str) -> str:
    try:
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # a lone surrogate, which cannot come from an environment
        return text


def _name_below(table: Key, segment: str) -> str:
    """Return the key in `table` that a CONNECTOR_* variable sets.

    `segment` is the last part of the variable's name, in lower case. In the name of a Kafka property, each underscore
    becomes a dot. The name of a row field gets its upper-case letters back.
    """
    if table[0] == "kafka":
        return segment.replace("_", ".")
    return next((name for name in treatable() if name.lower() == segment), segment)


@cache
def treatable() -> tuple[str, ...]:
    """Return the names of the row fields that can be masked, pseudonymized or dropped."""
    return privacy.treatable(json.loads(schema_text("directRoutingLogRow")))


def _at(node: Any, around: Key, last: str | int) -> tuple[Any, bool]:
    for segment in around:
        if not _has(node, segment):
            return node, False
        node = node[segment]
    return node, _has(node, last)


def _has(node: Any, segment: str | int) -> bool:
    return (isinstance(node, dict) and segment in node) or (
        isinstance(node, list) and isinstance(segment, int) and segment < len(node)
    )


def kind_of(model: type[BaseModel], name: str | int) -> Any:
    """Return the type of the key `name` in the table `model`, or None if the table has no such key.

    If the key is itself a table, the type is its model. Otherwise it is list, dict, Reference or a simple type such as
    int.
    """
    info = model.model_fields.get(str(name))
    if info is None:
        return None
    kind: Any = info.annotation
    while True:
        origin = get_origin(kind)
        if origin is Annotated:
            kind = get_args(kind)[0]
        elif origin in (list, dict):
            return origin
        elif origin is None:
            return kind
        elif origin is Literal:
            return str
        else:  # for a union, take the first type, so that bool | str accepts "true" as a boolean
            kind = get_args(kind)[0]


def variable(key: Key) -> str:
    """Return the name of the CONNECTOR_* variable that sets a key."""
    return PREFIX + "__".join(str(part) for part in key if isinstance(part, str)).upper().replace(".", "_")


def key_text(key: Key) -> str:
    """Return a key as it is written in a TOML file."""
    text = ""
    for part in key:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            bare = part if re.fullmatch(r"[A-Za-z0-9_-]+", part) else shown(part)
            text += f".{bare}" if text else bare
    return text


def one_line(text: str) -> str:
    """Return text with every line break and run of spaces replaced by one space."""
    return " ".join(text.split())


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
