"""Avro values: rows and progress, in Avro single-object encoding."""

import io
import json
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


def load(name: str) -> dict[str, Any]:
    """A schema that the connector ships, as JSON."""
    schema: dict[str, Any] = json.loads(schema_text(name))
    return schema


def single_object_header(schema: Mapping[str, Any]) -> bytes:
    """The ten bytes before each body: marker and CRC-64-AVRO fingerprint, little-endian."""
    return _MARKER + bytes.fromhex(fingerprint(to_parsing_canonical_form(dict(schema)), "CRC-64-AVRO"))


@cache
def encoder(name: str) -> Callable[[Mapping[str, Any]], bytes]:
    """A function from a record to its value on the topic. Instants are epoch milliseconds. Any thread may call it."""
    schema = load(name)
    header = single_object_header(schema)
    encode = binary.record(schema)
    return lambda record: header + encode(record)


def decoder(name: str) -> Callable[[bytes], dict[str, Any]]:
    """The reverse of encoder, for readers within the project. Raises ValueError for another schema's value."""
    schema = load(name)
    parsed = fastavro.parse_schema(schema)
    header = single_object_header(schema)

    def decode(value: bytes) -> dict[str, Any]:
        if not value.startswith(header):
            raise ValueError(f"the value is not a {name} in Avro single-object encoding")
        record = fastavro.schemaless_reader(io.BytesIO(value[len(header) :]), parsed, None)
        if not isinstance(record, dict):
            raise TypeError(f"the value is not a record of {name}")
        return record

    return decode
