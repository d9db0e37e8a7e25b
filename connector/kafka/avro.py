"""Encoder and decoder of the Avro values of rows and progress records.

The values are in single-object encoding or, with a schema registry, in the Confluent wire format.
"""

import io
import json
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import fastavro
from fastavro.schema import fingerprint, to_parsing_canonical_form

from connector.kafka import columns
from connector.schema_files import schema_text

ROW = "directRoutingLogRow"
PROGRESS = "progress"
_MARKER = b"\xc3\x01"
_CONFLUENT = struct.Struct(">bI")  # a zero byte, then the registry's id of the schema
CONFLUENT_HEADER_BYTES = _CONFLUENT.size


def load(name: str) -> dict[str, Any]:
    """Return a schema that ships with the connector, as parsed JSON."""
    schema: dict[str, Any] = json.loads(schema_text(name))
    return schema


def single_object_header(schema: Mapping[str, Any]) -> bytes:
    """Return the header of the single-object encoding: marker and CRC-64-AVRO fingerprint, ten bytes in all."""
    return _MARKER + bytes.fromhex(fingerprint(to_parsing_canonical_form(dict(schema)), "CRC-64-AVRO"))


def encoder(name: str, written_as: int | None = None) -> Callable[[Mapping[str, Any]], bytes]:
    """Return a function that encodes a record of the schema `name`. Only one thread may use the function.

    The record may contain timestamps as epoch milliseconds. `written_as` is the id of the schema in the registry.
    Without it, values are in single-object encoding.
    """
    schema = load(name)
    header = _header(schema, written_as)
    parsed = fastavro.parse_schema(schema)
    buffer = io.BytesIO()
    write = fastavro.schemaless_writer

    def encode(record: Mapping[str, Any]) -> bytes:
        buffer.seek(0)
        buffer.truncate()
        buffer.write(header)
        write(buffer, parsed, record)
        return buffer.getvalue()

    return encode


def column_encoder(name: str, written_as: int | None = None) -> Callable[[Sequence[Sequence[Any]]], list[bytes]]:
    """Return a function that encodes many records of the schema `name` at once.

    The argument of the function is one column of values per field, in the order of the schema. `written_as` is the id
    of the schema in the registry. Without it, values are in single-object encoding.
    """
    schema = load(name)
    return columns.encoder(schema, _header(schema, written_as))


def _header(schema: Mapping[str, Any], written_as: int | None) -> bytes:
    return single_object_header(schema) if written_as is None else _CONFLUENT.pack(0, written_as)


def schema_id(value: bytes) -> int | None:
    """Return the registry's schema id in a value in Confluent wire format; None for a value in another format."""
    marker, number = _CONFLUENT.unpack_from(value) if len(value) >= _CONFLUENT.size else (1, 0)
    return number if marker == 0 else None


def decoder(
    name: str, schema_of: Callable[[int], Mapping[str, Any]] | None = None
) -> Callable[[bytes], dict[str, Any]]:
    """Return a function that decodes a value of the schema `name` to a record.

    The function raises ValueError for a value of another schema. `schema_of` looks up a schema in the registry by its
    id. Without it, values in Confluent wire format cannot be decoded.
    """
    schema = load(name)
    parsed = fastavro.parse_schema(schema)
    header = single_object_header(schema)
    writers: dict[int, Any] = {}

    def decode(value: bytes) -> dict[str, Any]:
        if value.startswith(header):
            record = fastavro.schemaless_reader(io.BytesIO(value[len(header) :]), parsed, None)
        elif (written := schema_id(value)) is not None and schema_of is not None:
            if written not in writers:
                writers[written] = fastavro.parse_schema(dict(schema_of(written)))
            body = io.BytesIO(value[CONFLUENT_HEADER_BYTES:])
            record = fastavro.schemaless_reader(body, writers[written], parsed)
        else:
            raise ValueError(f"the value is not a {name} in Avro single-object encoding")
        if not isinstance(record, dict):
            raise TypeError(f"the value is not a record of {name}")
        return record

    return decode
