"""Reader of the records of one topic in a range of time. It uses `read_committed` and joins no consumer group."""

import io
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from types import TracebackType
from typing import Any, Self, cast

import fastavro
from fastavro.read import SchemaResolutionError
from fastavro.schema import SchemaParseException

from connector.core import instants
from connector.errors import FatalError
from connector.kafka import avro
from connector.kafka.clients import Clients
from connector.kafka.log_reader import Entry, LogReader, entry

Offsets = dict[int, int]
Bounds = Mapping[int, tuple[int, int]]


class Records:
    """Reader of one topic, used as a context manager by one thread.

    Its methods block. They raise BrokersUnavailableError if no broker answers or a right is missing.
    """

    def __init__(self, clients: Clients, topic: str) -> None:
        self._topic = topic
        self._reader = LogReader(clients)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._reader.close()

    def bounds(self) -> Bounds:
        """Return the first offset and the end of each partition; empty if the topic does not exist.

        The end is the offset of the next record to be written.
        """
        return {place[1]: self._reader.bounds(place) for place in self._reader.partitions(self._topic)}

    def since(self, moment: datetime, bounds: Bounds) -> Offsets:
        """Return, for each partition, the first offset with a timestamp at or after `moment`.

        For a partition without such an offset, return its end.
        """
        places = [(self._topic, number) for number in bounds]
        found = self._reader.offsets_at(places, instants.to_ms(moment))
        return {number: at if (at := found[self._topic, number]) >= 0 else end for number, (_, end) in bounds.items()}

    def read(self, offsets: Offsets, ends: Mapping[int, int]) -> Iterator[list[Entry]]:
        """Yield the records from the offsets in `offsets` up to but not including those in `ends`.

        The reading ends earlier if an open transaction hides records. `offsets` is updated to the next offset of each
        partition, so that a later call can read the rest.
        """
        starts = {(self._topic, number): at for number, at in offsets.items()}
        limits = {(self._topic, number): ends.get(number, 0) for number in offsets}
        for records in self._reader.read_to_end(starts, limits):
            offsets.update((number, at) for (_, number), at in self._reader.next.items())
            yield [entry(record) for record in records]


def row_decoder(
    schema_of: Callable[[int], Mapping[str, Any]] | None = None,
) -> Callable[[bytes], dict[str, Any]]:
    """Return a function that decodes a value of the row topic. Timestamps become epoch milliseconds.

    The function raises ValueError for a value that is not a row. `schema_of` looks up a schema in the registry by its
    id. Without it, values in Confluent wire format cannot be decoded.
    """
    schema = avro.load(avro.ROW)
    header = avro.single_object_header(schema)
    plain = fastavro.parse_schema(_without_logical_types(schema))
    writers: dict[int, Any] = {}

    def decode(value: bytes) -> dict[str, Any]:
        schema_id = avro.schema_id(value)
        if value.startswith(header):
            body, writer = value[len(header) :], plain
        elif schema_id is not None and schema_of is not None:
            if schema_id not in writers:
                try:
                    writers[schema_id] = fastavro.parse_schema(_without_logical_types(schema_of(schema_id)))
                except (FatalError, SchemaParseException) as error:
                    raise ValueError(
                        f"the value is written with schema {schema_id}, which cannot be found or read"
                    ) from error
            body, writer = value[avro.CONFLUENT_HEADER_BYTES :], writers[schema_id]
        else:
            raise ValueError("the value is not a row in Avro single-object encoding")
        try:
            record = fastavro.schemaless_reader(io.BytesIO(body), writer, None if writer is plain else plain)
        except (EOFError, IndexError, UnicodeDecodeError) as error:
            raise ValueError("the value is truncated") from error
        except SchemaResolutionError as error:
            raise ValueError("the value is not a row") from error
        return cast("dict[str, Any]", record)

    return decode


def _without_logical_types(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_without_logical_types(branch) for branch in schema]
    if isinstance(schema, dict):
        return {name: _without_logical_types(part) for name, part in schema.items() if name != "logicalType"}
    return schema
