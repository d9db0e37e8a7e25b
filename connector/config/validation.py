"""Validation of the configured values. Each mistake gets a message that states what is wrong and what to write."""

from collections.abc import Mapping
from difflib import SequenceMatcher
from typing import Any

from pydantic import BaseModel, ValidationError

from connector.config.document import Document, SweepTable, TenantTable
from connector.config.quoting import shown
from connector.config.source import PREFIX, ConfigSource, Key, key_text, kind_of, one_line, variable


def check(source: ConfigSource) -> Document:
    """Validate the configured values. Report invalid values to `source`. Return the configuration without them."""
    while True:
        try:
            return Document.model_validate(source.tree)
        except ValidationError as error:
            keys = []
            for problem in error.errors(include_url=False):
                key = problem["loc"]
                keys.append(key)
                if problem["type"] == "extra_forbidden":
                    _report_unknown(source, key)
                else:
                    source.report(key, _sentence(problem, by_variable=source.is_variable(key)))
            # Inner keys are removed first, because removing a table also removes its keys. The loop ends when all
            # remaining keys are valid.
            for key in sorted(set(keys), key=len, reverse=True):
                source.remove(key)


def _sentence(problem: Mapping[str, Any], *, by_variable: bool) -> str:
    context = problem.get("ctx", {})
    if isinstance(context.get("error"), ValueError):
        return str(context["error"])
    kind = str(problem["type"])
    match kind:
        case "literal_error":
            return f"is {shown(problem['input'])}; write one of {context['expected']}"
        case "greater_than_equal":
            return f"is {shown(problem['input'])}; write at least {context['ge']:g}"
        case "less_than_equal":
            return f"is {shown(problem['input'])}; write at most {context['le']:g}"
        case "finite_number":
            return "is not a finite number; write a finite number"
    as_list = "[…]" if by_variable else f"[[{key_text(problem['loc'])}]]"
    unquoted = "" if by_variable else ", without quotes"
    expected = {
        "string": "is not text; write text in quotes",
        "int": f"is not a whole number; write one{unquoted}",
        "float": f"is not a number; write one{unquoted}",
        "bool": f"is neither true nor false; write true or false{unquoted}",
        "list": f"is not a list; write {as_list}",
        "dict": "is not a table; write a table",
        "model": "is not a table; write a table",
    }
    return expected.get(kind.partition("_")[0], one_line(str(problem["msg"])))


def _report_unknown(source: ConfigSource, key: Key) -> None:
    found = source.below(key)
    if not found or source.is_in_file(key):
        found.append((key, source.origin(key)))
    for written, origin in found:
        nearest = _nearest(written)
        by_variable = origin.upper().startswith(PREFIX) and origin.upper() == variable(written)
        hint = variable(nearest) if by_variable else key_text(nearest)
        source.report(written, f"is not a known key; the most similar is {hint}", origin)


def _nearest(key: Key) -> Key:
    """Return the existing key whose name is most similar to an unknown key. A key of the same table is preferred."""
    pattern = tuple(part for part in key if isinstance(part, str))

    def likeness(known: Key) -> float:
        names = tuple(part for part in known if isinstance(part, str))
        alike = SequenceMatcher(None, ".".join(pattern).lower(), ".".join(names)).ratio()
        last = SequenceMatcher(None, pattern[-1].lower(), names[-1]).ratio()
        return alike + last + (0.3 if names[:-1] == pattern[:-1] else 0)

    best = max(_known_keys(Document), key=likeness)
    shared = {tuple(part for part in key[:length] if isinstance(part, str)): key[:length] for length in range(len(key))}
    names = tuple(part for part in best if isinstance(part, str))
    return (*shared[names[:-1]], names[-1]) if names[:-1] in shared else best


def _known_keys(model: type[BaseModel], prefix: Key = ()) -> list[Key]:
    keys: list[Key] = []
    for name in model.model_fields:
        keys.append((*prefix, name))
        kind = kind_of(model, name)
        if kind is list:
            kind = {"tenants": TenantTable, "sweeps": SweepTable}[name]
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            keys += _known_keys(kind, (*prefix, name))
    return keys
