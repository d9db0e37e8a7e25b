"""Avro values: rows and progress, in Avro single-object encoding or, with a registry, in Confluent wire format."""

import io
import json
import struct
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import fastavro
from fastavro.schema import fingerprint, to_parsing_canonical_form

from connector.kafka import binary
from connector.schemata import schema_text

ROW = "directRoutingLogRow"
PROGRESS = "progress"
_MARKER = b"\xc3\x01"
_CONFLUENT = struct.Struct(">bI")  # zero, and the id that the registry gave the schema


def load(name: str) -> dict[str, Any]:
    """A schema that the connector ships, as JSON."""
    schema: dict[str, Any] = json.loads(schema_text(name))
    return schema


def single_object_header(schema: Mapping[str, Any]) -> bytes:
    """The ten bytes before each body: marker and CRC-64-AVRO fingerprint, little-endian."""
    return _MARKER + bytes.fromhex(fingerprint(to_parsing_canonical_form(dict(schema)), "CRC-64-AVRO"))


@cache
def encoder(name: str, schema_id: int | None = None) -> Callable[[Mapping[str, Any]], bytes]:
    """A function from a record to its value on the topic. Instants are epoch milliseconds. Any thread may call it.

    `schema_id`: what the registry calls the schema; without it the value is in single-object encoding.
    """
    schema = load(name)
    header = single_object_header(schema) if schema_id is None else _CONFLUENT.pack(0, schema_id)
    encode = binary.record(schema)
    return lambda record: header + encode(record)


def decoder(
    name: str, schema_of: Callable[[int], Mapping[str, Any]] | None = None
) -> Callable[[bytes], dict[str, Any]]:
    """The reverse of encoder, for readers within the project. Raises ValueError for another schema's value.

    `schema_of`: the schema that the registry calls by an id; without it Confluent wire format cannot be read.
    """
    schema = load(name)
    parsed = fastavro.parse_schema(schema)
    header = single_object_header(schema)
    writers: dict[int, Any] = {}

    def decode(value: bytes) -> dict[str, Any]:
        if value.startswith(header):
            record = fastavro.schemaless_reader(io.BytesIO(value[len(header) :]), parsed, None)
        elif value[:1] == b"\0" and len(value) >= _CONFLUENT.size and schema_of is not None:
            schema_id = _CONFLUENT.unpack_from(value)[1]
            if schema_id not in writers:
                writers[schema_id] = fastavro.parse_schema(dict(schema_of(schema_id)))
            body = io.BytesIO(value[_CONFLUENT.size :])
            record = fastavro.schemaless_reader(body, writers[schema_id], parsed)
        else:
            raise ValueError(f"the value is not a {name} in Avro single-object encoding")
        if not isinstance(record, dict):
            raise TypeError(f"the value is not a record of {name}")
        return record

    return decode
