"""Types of a row's members, taken from the Avro schema."""

from collections.abc import Iterable, Mapping
from typing import Annotated, Any

import msgspec

_INT32 = Annotated[int, msgspec.Meta(ge=-(2**31), le=2**31 - 1)]


def first_version(field: Mapping[str, Any]) -> int:
    """Return the first fingerprint version that includes a field of the schema."""
    return int(field.get("layout", 1))


def nested_fields(fields: Iterable[Mapping[str, Any]]) -> Iterable[Mapping[str, Any]]:
    """Yield the fields of all records that are nested in the types of `fields`, at any depth."""
    for field in fields:
        inner = inner_type(field["type"])
        while isinstance(inner, dict) and "items" in inner:
            inner = inner_type(inner["items"])
        if isinstance(inner, dict) and "fields" in inner:
            yield from inner["fields"]
            yield from nested_fields(inner["fields"])


def inner_type(avro: Any) -> Any:
    """Return the type of a nullable Avro field without `null`. Any other type is returned unchanged."""
    if isinstance(avro, list):
        return next(branch for branch in avro if branch != "null")
    return avro


def logical_type(avro: Any) -> str | None:
    """Return the logical type of an Avro type, for example timestamp-millis; None if it has none."""
    inner = inner_type(avro)
    return inner.get("logicalType") if isinstance(inner, dict) else None


def is_array(avro: Any) -> bool:
    """Return whether an Avro type is an array, nullable or not."""
    inner = inner_type(avro)
    return isinstance(inner, dict) and inner.get("type") == "array"


def _json_type(avro: Any) -> Any:
    """Return the Python type into which the JSON of a field is decoded. `avro` is the Avro type of the field."""
    inner = inner_type(avro)
    simple = {"string": str, "int": _INT32, "boolean": bool}
    if isinstance(inner, str):
        return simple[inner]
    if logical_type(avro) == "timestamp-millis":
        return str
    if inner["type"] == "array":
        return list[_json_type(inner["items"])]  # type: ignore[misc]
    if inner["type"] == "record":
        fields = [(field["name"], *member(field["type"])) for field in inner["fields"]]
        return msgspec.defstruct(inner["name"], fields)
    raise TypeError(
        f"the Avro type {inner} is not supported for a field of a row: use string, int, boolean, array or record"
    )


def member(avro: Any) -> tuple[Any, Any]:
    """Return the Python type into which a field is decoded, and the default value. `avro` is the field's Avro type.

    The default is None, and the type allows None, because Graph may send null or leave the field out.
    """
    return _json_type(avro) | None, None
