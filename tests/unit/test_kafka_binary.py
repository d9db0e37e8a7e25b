"""The connector's own Avro encoding is fastavro's, byte for byte."""

import io
from typing import Any

import fastavro
import pytest
from hypothesis import given
from hypothesis import strategies as st

from connector.kafka import avro, binary

_INT = st.integers(-(2**31), 2**31 - 1)
_LONG = st.integers(-(2**63), 2**63 - 1)
_TEXT = st.text(st.characters(codec="utf-8"), max_size=20) | st.sampled_from(["", "BYE", "é" * 300, "x" * 70_000])


def _values(schema: Any) -> st.SearchStrategy[Any]:
    if isinstance(schema, list):
        return st.none() | _values(schema[1])
    match schema if isinstance(schema, str) else schema["type"]:
        case "string":
            return _TEXT
        case "int":
            return _INT
        case "long":
            return _LONG | st.integers(2**34 - 2, 2**34) | st.integers(2**41 - 2, 2**41) | st.integers(0, 2**42)
        case "boolean":
            return st.booleans()
        case "array":
            return st.lists(_values(schema["items"]), max_size=3)
        case "map":
            return st.dictionaries(_TEXT, _values(schema["values"]), max_size=3)
        case _:
            return st.fixed_dictionaries({field["name"]: _values(field["type"]) for field in schema["fields"]})


def _as_fastavro(schema: dict[str, Any], record: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    fastavro.schemaless_writer(buffer, fastavro.parse_schema(schema), record)
    return buffer.getvalue()


@pytest.mark.parametrize("name", [avro.ROW, avro.PROGRESS])
def test_every_record_becomes_the_bytes_that_fastavro_makes_of_it(name: str) -> None:
    schema = avro.load(name)
    encode, header = avro.encoder(name), avro.single_object_header(schema)

    @given(_values(schema))
    def check(record: dict[str, Any]) -> None:
        assert encode(record) == header + _as_fastavro(schema, record)
        assert encode(dict(reversed(record.items()))) == encode(record)

    check()


@given(_LONG)
def test_every_long_becomes_the_bytes_that_fastavro_makes_of_it(number: int) -> None:
    buffer = io.BytesIO()
    fastavro.schemaless_writer(buffer, "long", number)
    assert binary.long(number) == buffer.getvalue()


def test_a_column_with_more_values_than_are_remembered_is_encoded_like_any_other() -> None:
    schema = {"type": "record", "name": "r", "fields": [{"name": n, "type": ["null", "string"]} for n in ("a", "b")]}
    encode = binary.record(schema)
    for number in [*range(5_000), *range(5_000)]:
        record = {"a": str(number), "b": None}
        assert encode(record) == _as_fastavro(schema, record)


@pytest.mark.parametrize("kind", ["double", ["string", "null"], ["null", "string", "int"], {"type": "enum"}])
def test_a_type_that_is_not_known_is_refused_when_the_encoder_is_built(kind: Any) -> None:
    with pytest.raises(TypeError):
        binary.record({"type": "record", "name": "r", "fields": [{"name": "a", "type": kind}]})
