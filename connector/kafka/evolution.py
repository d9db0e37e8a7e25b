"""Compatibility of Avro schemas: whether records of one schema can be read with another, and which fields prevent it.

The rules are those of Avro's schema resolution. Logical types are ignored, as a schema registry ignores them.
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

_PROMOTIONS = {
    "int": ("long", "float", "double"),
    "long": ("float", "double"),
    "float": ("double",),
    "string": ("bytes",),
    "bytes": ("string",),
}
_PRIMITIVES = frozenset({"null", "boolean", "int", "long", "float", "double", "bytes", "string"})


class Obstacle(NamedTuple):
    """Reason why one schema cannot read records of another schema."""

    field: str
    "Path of the field; empty for the record itself."
    written: str
    "Type in the writer's schema. Empty if that schema lacks the field and the reader's schema has no default for it."
    read: str


def obstacles(reader: Any, writer: Any) -> list[Obstacle]:
    """Return why records of the schema `writer` cannot be read with the schema `reader`; empty if they can.

    Both are Avro schemas as parsed JSON.
    """
    return list(_Resolution(_Names(reader), _Names(writer)).compare(reader, writer, ""))


def clashes(ours: Any, theirs: Any) -> list[str]:
    """Return why two schemas cannot read each other's records, as one sentence per field; empty if they can.

    `ours` is the connector's schema, and `theirs` is a schema in the registry.
    """
    sentences: dict[str, str] = {}
    for field, written, read in obstacles(ours, theirs):
        missing = "is missing in the registry and has no default in the connector"
        what = f"is {written} in the registry and {read} in the connector" if written else missing
        sentences.setdefault(field, f"{_named(field)} {what}")
    for field, written, read in obstacles(theirs, ours):
        missing = "has no default in the registry and is missing in the connector"
        what = f"is {read} in the registry and {written} in the connector" if written else missing
        sentences.setdefault(field, f"{_named(field)} {what}")
    return list(sentences.values())


def _named(field: str) -> str:
    return f"field {field}" if field else "the schema itself"


class _Names:
    """Named types of a schema, by full name."""

    def __init__(self, schema: Any) -> None:
        self.types: dict[str, tuple[Mapping[str, Any], str]] = {}
        self._collect(schema, "")

    def _collect(self, schema: Any, namespace: str) -> None:
        if isinstance(schema, list):
            for branch in schema:
                self._collect(branch, namespace)
        elif isinstance(schema, dict):
            kind = schema.get("type")
            if kind in ("record", "error", "enum", "fixed"):
                name = full_name(schema, namespace)
                namespace = name.rpartition(".")[0]
                self.types[name] = (schema, namespace)
                for field in schema.get("fields", ()):
                    self._collect(field["type"], namespace)
            else:
                for member in ("type", "items", "values"):
                    if not isinstance(schema.get(member), str):
                        self._collect(schema.get(member), namespace)

    def find(self, schema: Any, namespace: str) -> Any:
        """Return the definition of a type: a mapping, a list, or the name of a primitive type.

        If `schema` is a name, it is looked up, in `namespace` if necessary. Wrappers around primitive types and unions
        are removed.
        """
        while True:
            if isinstance(schema, str):
                if schema in _PRIMITIVES:
                    return schema
                name = schema if "." in schema else f"{namespace}.{schema}".lstrip(".")
                return self.types.get(name, self.types.get(schema, (schema, "")))[0]
            if isinstance(schema, dict) and (schema["type"] in _PRIMITIVES or not isinstance(schema["type"], str)):
                schema = schema["type"]
                continue
            return schema

    def namespace(self, schema: Any, namespace: str) -> str:
        """Return the namespace to which names inside a type belong, unless they contain one."""
        if isinstance(schema, dict) and "name" in schema:
            return full_name(schema, namespace).rpartition(".")[0]
        return namespace


def full_name(schema: Mapping[str, Any], namespace: str = "") -> str:
    """Return the full name of a named type. `namespace` is the namespace of the enclosing type."""
    name = str(schema["name"])
    space = str(schema.get("namespace", namespace))
    return name if "." in name or not space else f"{space}.{name}"


class _Resolution:
    def __init__(self, reader: _Names, writer: _Names) -> None:
        self._reader = reader
        self._writer = writer
        self._open: set[tuple[int, int]] = set()

    def compare(self, reader: Any, writer: Any, path: str, spaces: tuple[str, str] = ("", "")) -> Iterator[Obstacle]:
        reader, writer = self._reader.find(reader, spaces[0]), self._writer.find(writer, spaces[1])
        obstacle = Obstacle(path, _text(writer), _text(reader))
        if isinstance(writer, list):
            if any(any(self.compare(reader, branch, path, spaces)) for branch in writer):
                yield obstacle
            return
        if isinstance(reader, list):
            if not any(not list(self.compare(branch, writer, path, spaces)) for branch in reader):
                yield from self._nearest(reader, writer, path, spaces, obstacle)
            return
        if isinstance(reader, str) or isinstance(writer, str):
            if reader != writer and not (isinstance(writer, str) and reader in _PROMOTIONS.get(writer, ())):
                yield obstacle
            return
        if reader["type"] != writer["type"]:
            yield obstacle
            return
        yield from self._compare_complex(reader, writer, path, spaces, obstacle)

    def _nearest(
        self, reader: list[Any], writer: Any, path: str, spaces: tuple[str, str], obstacle: Obstacle
    ) -> Iterator[Obstacle]:
        """Yield the reasons why no branch of the reader's union matches the writer.

        If a branch has the same kind as the writer (for example, both are records), the reasons inside this branch are
        yielded. They are more specific. Otherwise `obstacle` is yielded, the reason for the whole union.
        """
        for branch in reader:
            found = self._reader.find(branch, spaces[0])
            if isinstance(found, dict) and isinstance(writer, dict) and found["type"] == writer["type"]:
                yield from self.compare(found, writer, path, spaces)
                return
        yield obstacle

    def _compare_complex(
        self, reader: Any, writer: Any, path: str, spaces: tuple[str, str], obstacle: Obstacle
    ) -> Iterator[Obstacle]:
        if reader["type"] in ("array", "map"):
            member = "items" if reader["type"] == "array" else "values"
            yield from self.compare(reader[member], writer[member], path, spaces)
            return
        if full_name(reader, spaces[0]) != full_name(writer, spaces[1]):
            yield obstacle
            return
        if reader["type"] == "enum":
            if "default" not in reader and not set(writer["symbols"]) <= set(reader["symbols"]):
                yield obstacle
        elif reader["type"] == "fixed":
            if reader["size"] != writer["size"]:
                yield obstacle
        # A pair that is being compared already is skipped: the comparison of recursive types would never end.
        elif (id(reader), id(writer)) not in self._open:
            self._open.add((id(reader), id(writer)))
            yield from self._compare_fields(reader, writer, path, spaces)
            self._open.discard((id(reader), id(writer)))

    def _compare_fields(self, reader: Any, writer: Any, path: str, spaces: tuple[str, str]) -> Iterator[Obstacle]:
        spaces = (self._reader.namespace(reader, spaces[0]), self._writer.namespace(writer, spaces[1]))
        written = {field["name"]: field for field in writer["fields"]}
        for field in reader["fields"]:
            inner = f"{path}.{field['name']}".lstrip(".")
            there = next((written[n] for n in (field["name"], *field.get("aliases", ())) if n in written), None)
            if there is not None:
                yield from self.compare(field["type"], there["type"], inner, spaces)
            elif "default" not in field:
                yield Obstacle(inner, "", _text(self._reader.find(field["type"], spaces[0])))


def _text(schema: Any) -> str:
    """Describe a type in a few words, for messages."""
    if isinstance(schema, list):
        return " or ".join(_text(branch) for branch in schema)
    if isinstance(schema, str):
        return schema
    kind = schema["type"]
    if not isinstance(kind, str) or kind in _PRIMITIVES:
        return _text(kind)
    if kind == "array":
        return f"array of {_text(schema['items'])}"
    if kind == "map":
        return f"map of {_text(schema['values'])}"
    return f"{kind} {full_name(schema)}"
