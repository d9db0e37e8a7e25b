"""Text of docs/configuration.md, written from the code: `python -m tests.reference` (`make docs`)."""

import json
from pathlib import Path
from typing import Any

from connector.config.json_schema import json_schema

PAGE = Path(__file__).parent.parent / "docs/configuration.md"
_INTRODUCTION = """\
# Configuration, key by key

<!-- Written from connector/config/document.py by `make docs`, not by hand. -->

The configuration is a TOML file. `--config` names it; without this option, the variable
`CONNECTOR_CONFIG` does. The file is optional. Environment variables, in upper or lower case,
override its keys. Relative paths are relative to the file.

All problems are reported at once. Each report names the file or variable and the key, and states
what to do. `connector check` also tests whether the values work. `connector schema config` prints
the JSON Schema, with which editors complete and check the file.

| Type | Format |
| --- | --- |
| duration | For example `"500ms"`, `"15s"`, `"10m"`, `"2h"` or `"7d"`. |
| instant | A timestamp such as `"2026-01-31T00:00:00Z"`, or a negative duration: `"-7d"` is seven days ago. |
| secret | Text, `{ file = "PATH" }` or `{ env = "NAME" }`. A file is read again when it changes. |

To read a secret from a file or a variable, add `__FILE` or `__ENV` to the name of its variable. The
value of a list or a table is JSON. In names below `CONNECTOR_KAFKA__PROPERTIES__` and
`CONNECTOR_KAFKA__TOPIC_PROPERTIES__`, an underscore stands for a dot.
"""
_BOUNDS = {"minimum": "at least", "maximum": "at most"}


def text() -> str:
    """Return the text of the page."""
    schema = json_schema()
    parts = [_INTRODUCTION]
    for name, member in schema["properties"].items():
        is_list = member.get("type") == "array"
        table = _resolved(schema, member["items"] if is_list else member)
        parts.append(f"## {'[[' if is_list else '['}{name}{']]' if is_list else ']'}\n\n{member['description']}\n")
        if is_list:
            parts.append(f"The variable `{_variable(name)}` contains the whole list as JSON.\n")
        parts.append(_rows(schema, table, None if is_list else name))
    return "\n".join(parts)


def _rows(schema: dict[str, Any], table: dict[str, Any], name: str | None) -> str:
    heads = ["Key", "Type", "Default", "Meaning", *(["Variable"] if name else [])]
    lines = [heads, ["---"] * len(heads)]
    below = []
    for key, member in table["properties"].items():
        needed = key in table.get("required", ())
        default = "required" if needed else _value(member["default"]) if member.get("default", "") != "" else ""
        cells = [f"`{key}`", _type(member), default, member["description"].replace("|", "\\|")]
        lines.append([*cells, *([f"`{_variable(name, key)}`"] if name else [])])
        if member.get("type") == "array":
            below.append(
                f"\nThe keys of `[[{name}.{key}]]`:\n\n" + _rows(schema, _resolved(schema, member["items"]), None)
            )
    return "".join(f"| {' | '.join(line)} |\n" for line in lines) + "".join(below)


def _resolved(schema: dict[str, Any], member: dict[str, Any]) -> dict[str, Any]:
    table: dict[str, Any] = schema["$defs"][member["$ref"].rpartition("/")[2]]
    return table


def _variable(*path: str) -> str:
    return "CONNECTOR_" + "__".join(path).upper()


def _type(member: dict[str, Any]) -> str:
    choices = member.get("anyOf", [])
    if any(choice.get("type") == "object" for choice in choices):
        return "secret"
    if any(choice.get("format") == "date-time" for choice in choices):
        return "instant"
    if "additionalProperties" in member:
        inner = _type(member["additionalProperties"])
        return f"table of {'values or secrets' if inner == 'secret' else inner}"
    if "enum" in member:
        return ", ".join(f"`{choice}`" for choice in member["enum"])
    if "pattern" in member:
        return "duration"
    if member["type"] == "array":
        return "list of tables"
    names = {"string": "text", "boolean": "true, false"}
    kinds = member["type"] if isinstance(member["type"], list) else [member["type"]]
    bounds = [f"{word} {member[bound]}" for bound, word in _BOUNDS.items() if bound in member]
    return ", ".join([*(names.get(str(kind), str(kind)) for kind in kinds), *bounds])


def _value(value: Any) -> str:
    return "" if value in ({}, []) else f"`{_toml(value)}`"


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return f"{{ {', '.join(f'{key} = {_toml(part)}' for key, part in value.items())} }}"
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    return json.dumps(int(value) if isinstance(value, float) and value.is_integer() else value)


if __name__ == "__main__":
    PAGE.write_text(text(), encoding="utf-8")
