"""Encoding many records by column gives the same bytes as encoding each record with fastavro."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connector.kafka import avro
from tests.unit.test_avro import DATA, golden_values

_ENCODE = {name: avro.encoder(name) for name in (avro.ROW, avro.PROGRESS)}
_COLUMN_ENCODE = {name: avro.column_encoder(name) for name in _ENCODE}


def _values(kind: Any) -> st.SearchStrategy[Any]:
    """Return a strategy for all values of a type of the schema."""
    if isinstance(kind, list):
        return st.none() | _values(kind[1])
    if isinstance(kind, str):
        few = st.sampled_from(["", "a", "Dvořák", "x" * 2000])
        simple = {"string": few | st.text(), "int": st.integers(-(2**31), 2**31 - 1), "boolean": st.booleans()}
        return simple.get(kind, st.integers(-(2**63), 2**63 - 1))
    if "logicalType" in kind:
        edges = [0, -1, 8191, 8192, 16383, 16384, -(2**40)]
        return st.sampled_from(edges) | st.integers(-62_135_596_800_000, 253_402_300_799_999)
    if kind["type"] == "array":
        return st.lists(_values(kind["items"]), max_size=3)
    if kind["type"] == "map":
        return st.dictionaries(st.text(), _values(kind["values"]), max_size=3)
    return st.fixed_dictionaries({field["name"]: _values(field["type"]) for field in kind["fields"]})


@pytest.mark.parametrize("name", sorted(_ENCODE))
@given(data=st.data())
def test_encoding_by_columns_equals_encoding_each_record(name: str, data: st.DataObject) -> None:
    fields = avro.load(name)["fields"]
    record = st.fixed_dictionaries({field["name"]: _values(field["type"]) for field in fields})
    records = data.draw(st.lists(record, min_size=1, max_size=4))
    columns = [[record[field["name"]] for record in records] for field in fields]
    assert _COLUMN_ENCODE[name](columns) == [_ENCODE[name](record) for record in records]


@pytest.mark.parametrize("others", [[], [None, "x" * 2000, "Dvořák"]])
@pytest.mark.parametrize("different", [1, 40, 500])
def test_encoding_long_columns_equals_encoding_each_record(different: int, others: list[str | None]) -> None:
    """Columns have few or many different values, and the same values occur again later."""
    values = [f"text {number % different}" for number in range(500)] + others
    row = golden_values()[0]
    records = [row | {"calleeNumber": value, "userDisplayName": value} for value in values]
    columns = [[record[field["name"]] for record in records] for field in avro.load(avro.ROW)["fields"]]
    alone = [_ENCODE[avro.ROW](record) for record in records]
    assert all(_COLUMN_ENCODE[avro.ROW](columns) == alone for _ in range(3))


def test_column_encoder_reproduces_the_golden_rows() -> None:
    rows = golden_values()
    columns = [[row[field["name"]] for row in rows] for field in avro.load(avro.ROW)["fields"]]
    golden = [bytes.fromhex(line) for line in (DATA / "rows.avro.hex").read_text().split()]
    assert _COLUMN_ENCODE[avro.ROW](columns) == golden


def test_column_encoder_refuses_a_value_of_another_type() -> None:
    values = json.loads(json.dumps(golden_values()[0]))
    columns = [[values[field["name"]]] for field in avro.load(avro.ROW)["fields"]]
    columns[0] = [5]
    with pytest.raises(AttributeError):
        _COLUMN_ENCODE[avro.ROW](columns)


def test_column_encoder_returns_nothing_for_no_records() -> None:
    assert _COLUMN_ENCODE[avro.ROW]([[] for _ in avro.load(avro.ROW)["fields"]]) == []
