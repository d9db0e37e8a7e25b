"""Values on the topics: Avro single-object encoding, byte for byte."""

import io
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import fastavro
import pytest

from connector.core.pages import decode_page
from connector.core.rows import Row, RowSchema
from connector.kafka import avro, evolution

DATA = Path(__file__).parent.parent / "data"
TENANT = "11111111-1111-1111-1111-111111111111"
OBSERVED_MS = 1_772_323_200_123


def golden_values() -> list[dict[str, Any]]:
    """Return the rows of the documented page as they are published."""
    shape = RowSchema(avro.load(avro.ROW), "v1.0")
    page = decode_page((DATA / "page-first.json").read_bytes())
    values: list[dict[str, Any]] = []
    for row, raw in zip(shape.read(page.rows).rows, page.rows, strict=True):
        assert isinstance(row, Row)
        resolved, unfit = shape.resolve(row, bytes(raw))
        assert unfit is None
        extra = {"sbcRegion": '"emea"'} if values else {}
        added = {"tenantId": TENANT, "observedDateTime": OBSERVED_MS, "revision": len(values)}
        values.append({**resolved, **added, "additionalProperties": extra})
    return values


def test_encoded_rows_match_the_golden_bytes() -> None:
    encode = avro.encoder(avro.ROW)
    golden = [bytes.fromhex(line) for line in (DATA / "rows.avro.hex").read_text().split()]
    assert [encode(values) for values in golden_values()] == golden


def test_golden_bytes_of_rows_stay_readable() -> None:
    decode = avro.decoder(avro.ROW)
    first = decode(bytes.fromhex((DATA / "rows.avro.hex").read_text().split()[0]))
    row = json.loads((DATA / "page-first.json").read_text())["value"][0]
    assert {name: first[name] for name in row if not name.endswith("DateTime")} == {
        name: value for name, value in row.items() if not name.endswith("DateTime")
    }
    assert first["startDateTime"] == datetime(2019, 11, 1, 0, 0, 25, 105_000, UTC)
    assert first["failureDateTime"] is None
    assert (first["tenantId"], first["revision"], first["additionalProperties"]) == (TENANT, 0, {})
    assert first["observedDateTime"] == datetime(2026, 3, 1, 0, 0, 0, 123_000, UTC)


def crc64_avro(data: bytes) -> int:
    """Return the Rabin fingerprint as the Avro specification defines it."""
    empty = 0xC15D213AA4D7A795
    table = []
    for byte in range(256):
        value = byte
        for _ in range(8):
            value = (value >> 1) ^ (empty & -(value & 1))
        table.append(value)
    value = empty
    for byte in data:
        value = (value >> 8) ^ table[(value ^ byte) & 0xFF]
    return value


@pytest.mark.parametrize("name", [avro.ROW, avro.PROGRESS])
def test_avro_header_consists_of_marker_and_schema_fingerprint(name: str) -> None:
    schema = avro.load(name)
    canonical = fastavro.schema.to_parsing_canonical_form(schema)
    assert avro.single_object_header(schema) == b"\xc3\x01" + crc64_avro(canonical.encode()).to_bytes(8, "little")
    assert len(avro.single_object_header(schema)) == 10


def test_schema_fingerprint_depends_on_fields_only() -> None:
    schema = avro.load(avro.ROW)
    plain = json.loads(json.dumps(schema))
    for field in plain["fields"]:
        field["doc"] = "other"
        field.pop("pii", None)
        field.pop("confluent:tags", None)
    assert avro.single_object_header(plain) == avro.single_object_header(schema)
    plain["fields"].pop()
    assert avro.single_object_header(plain) != avro.single_object_header(schema)


def test_other_avro_library_reads_an_encoded_row() -> None:
    encode, schema = avro.encoder(avro.ROW), avro.load(avro.ROW)
    for values in golden_values():
        read = fastavro.schemaless_reader(io.BytesIO(encode(values)[10:]), schema, None)
        assert isinstance(read, dict)
        assert read["id"] == values["id"]


def test_avro_decoder_refuses_a_value_of_another_schema() -> None:
    value = avro.encoder(avro.ROW)(golden_values()[0])
    with pytest.raises(ValueError, match="progress"):
        avro.decoder(avro.PROGRESS)(value)
    with pytest.raises(ValueError, match="directRoutingLogRow"):
        avro.decoder(avro.ROW)(b"")


def test_value_that_fails_to_encode_does_not_affect_the_next() -> None:
    encode, values = avro.encoder(avro.ROW), golden_values()[0]
    whole = encode(values)
    with pytest.raises((TypeError, ValueError)):
        encode({**values, "revision": "x"})
    assert encode(values) == whole


def test_row_schema_has_the_documented_fields() -> None:
    """Names, types, defaults and docs match, and personal data is marked."""
    schema = avro.load(avro.ROW)
    assert (schema["namespace"], schema["name"]) == ("microsoft.graph.callRecords", "directRoutingLogRow")
    fields = {field["name"]: field for field in schema["fields"]}
    graph = [field for field in schema["fields"] if "since" in field]
    assert sum(field["since"] == "v1.0" for field in graph) == 21
    assert sum(field["since"] == "beta" for field in graph) == 4
    assert fields["id"]["type"] == "string"
    for field in graph:
        if field["name"] != "id":
            assert field["type"][0] == "null"
            assert field["default"] is None
    assert [field["name"] for field in schema["fields"] if "since" not in field] == [
        "tenantId",
        "observedDateTime",
        "revision",
        "additionalProperties",
    ]
    assert fields["additionalProperties"]["default"] == {}
    assert all(field["doc"] for field in schema["fields"])
    marked = {name for name, field in fields.items() if field.get("pii")}
    assert marked == {"callerNumber", "calleeNumber", "userId", "userPrincipalName", "userDisplayName"}
    assert marked == {name for name, field in fields.items() if field.get("confluent:tags") == ["PII"]}


def test_schema_tags_change_neither_fingerprint_nor_compatibility() -> None:
    schema = avro.load(avro.ROW)
    untagged = json.loads(json.dumps(schema))
    for field in untagged["fields"]:
        field.pop("confluent:tags", None)
    assert untagged != schema
    assert avro.single_object_header(untagged) == avro.single_object_header(schema)
    for reader, writer in ((schema, untagged), (untagged, schema)):
        assert evolution.obstacles(reader, writer) == []
    value = avro.encoder(avro.ROW)(golden_values()[0])[10:]
    read = [fastavro.schemaless_reader(io.BytesIO(value), schema, other) for other in (schema, untagged)]
    assert read[0] == read[1]
