"""Records of one topic in a range of time, read with `read_committed` and without joining a group."""

import io
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from types import TracebackType
from typing import Any, NamedTuple, Self, cast

import fastavro
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition
from fastavro.read import SchemaResolutionError
from fastavro.schema import SchemaParseException

from connector.core import instants
from connector.errors import BrokersUnavailableError, FatalError
from connector.kafka import avro
from connector.kafka.clients import Clients

_BATCH = 5_000
_TIMEOUT_S = 15.0
_SILENCE_S = 30.0

Offsets = dict[int, int]
Bounds = Mapping[int, tuple[int, int]]


class Entry(NamedTuple):
    """Committed record. Its headers are keyed by name."""

    key: bytes | None
    value: bytes
    headers: Mapping[str, bytes]


class Records:
    """Reader of one topic: a context manager for one thread.

    Every call blocks and raises BrokersUnavailableError when no broker answers.
    """

    def __init__(self, clients: Clients, topic: str) -> None:
        self._topic = topic
        self._consumer = Consumer(clients.reader())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._consumer.close()

    def bounds(self) -> Bounds:
        """Return per partition the first offset and the end. Empty if the topic does not exist.

        The end is the offset of the next record to be written.
        """
        try:
            metadata = self._consumer.list_topics(self._topic, timeout=_TIMEOUT_S).topics[self._topic]
            return {number: self._watermarks(number) for number in metadata.partitions}
        except KafkaException as error:
            raise BrokersUnavailableError(error.args[0].str()) from error

    def _watermarks(self, number: int) -> tuple[int, int]:
        found = self._consumer.get_watermark_offsets(TopicPartition(self._topic, number), timeout=_TIMEOUT_S)
        if found is None:
            raise BrokersUnavailableError(f"no broker told where partition {number} of {self._topic} ends")
        return found

    def since(self, moment: datetime, bounds: Bounds) -> Offsets:
        """Return per partition the first offset stamped at or after `moment`, or its end if there is none."""
        asked = [TopicPartition(self._topic, number, instants.to_ms(moment)) for number in bounds]
        try:
            found = {p.partition: p for p in self._consumer.offsets_for_times(asked, timeout=_TIMEOUT_S)}
        except KafkaException as error:
            raise BrokersUnavailableError(error.args[0].str()) from error
        for place in found.values():
            if place.error is not None:
                raise BrokersUnavailableError(place.error.str())
        return {
            number: found[number].offset if found[number].offset >= 0 else end for number, (_, end) in bounds.items()
        }

    def read(self, offsets: Offsets, ends: Mapping[int, int]) -> Iterator[list[Entry]]:
        """Yield the records from `offsets` up to `ends` (not included), or up to an open transaction.

        Advances `offsets` to the next records, so that a later call can read the rest.
        """
        unread = {number for number, at in offsets.items() if at < ends.get(number, 0)}
        try:
            self._consumer.assign([TopicPartition(self._topic, number, offsets[number]) for number in unread])
            heard = time.monotonic()
            while unread:
                messages = self._consumer.consume(_BATCH, timeout=0.05)
                if messages:
                    heard = time.monotonic()
                elif time.monotonic() - heard > _SILENCE_S:
                    raise BrokersUnavailableError(f"no broker answered for {_SILENCE_S:g} s")
                entries = [e for m in messages if (e := _entry(m, unread, offsets, ends)) is not None]
                if entries:
                    yield entries
        except KafkaException as error:
            raise BrokersUnavailableError(error.args[0].str()) from error
        finally:
            self._consumer.unassign()


def _entry(message: Message, unread: set[int], offsets: Offsets, ends: Mapping[int, int]) -> Entry | None:
    """Return the record if it was asked for, and advance the offset of its partition."""
    number, offset, error = cast("int", message.partition()), cast("int", message.offset()), message.error()
    if error is not None:
        if error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001
            unread.discard(number)
        elif not error.retriable():
            raise BrokersUnavailableError(error.str())
        return None
    if number not in unread:
        return None
    if offset + 1 >= ends[number]:
        unread.discard(number)
        if offset >= ends[number]:
            return None
    offsets[number] = offset + 1
    headers = cast("list[tuple[str, bytes]]", message.headers() or [])
    return Entry(message.key(), message.value() or b"", dict(headers))


def row_decoder(
    schema_of: Callable[[int], Mapping[str, Any]] | None = None,
) -> Callable[[bytes], dict[str, Any]]:
    """Return a function that decodes a value of the row topic, with timestamps as epoch milliseconds.

    The function raises ValueError. `schema_of`: returns the schema with an id of the registry; without it the Confluent
    wire format cannot be read.
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
                    raise ValueError(f"the value is written with schema {schema_id}, which is unknown") from error
            body, writer = value[avro.CONFLUENT_HEADER_BYTES :], writers[schema_id]
        else:
            raise ValueError("the value is no row in Avro single-object encoding")
        try:
            record = fastavro.schemaless_reader(io.BytesIO(body), writer, None if writer is plain else plain)
        except (EOFError, IndexError, UnicodeDecodeError) as error:
            raise ValueError("the value is cut") from error
        except SchemaResolutionError as error:
            raise ValueError("the value is no row") from error
        return cast("dict[str, Any]", record)

    return decode


def _without_logical_types(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_without_logical_types(branch) for branch in schema]
    if isinstance(schema, dict):
        return {name: _without_logical_types(part) for name, part in schema.items() if name != "logicalType"}
    return schema
