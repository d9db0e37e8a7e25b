"""Avro encoder that encodes many records of one schema at once, column by column.

fastavro defines how a value is encoded. Strings and timestamps differ from row to row, so they are encoded by this
module, which is faster. Other columns have few different values or are mostly empty, so their encoded values are
cached.
"""

import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache, partial
from itertools import chain, repeat
from typing import Any

import fastavro

_Write = Callable[[Any], bytes]
_WriteColumn = Callable[[Sequence[Any]], Iterable[bytes]]
_KEPT = 1 << 15
_KEPT_BYTES = 64
_NULL, _NOT_NULL = b"\x00", b"\x02"  # the first and the second branch of a union
_SAMPLE = 64
_LOW_BITS = 14
_LOW = (1 << _LOW_BITS) - 1


class _Memo(dict[Any, bytes]):
    """Cache of encoded values.

    Threads may share it without a lock. At worst, an entry is lost and its value is encoded once more.
    """

    def __init__(self, write: _Write) -> None:
        super().__init__()
        self._write = write

    def __missing__(self, value: Any) -> bytes:
        written = self._write(value)
        if len(written) <= _KEPT_BYTES:
            if len(self) >= _KEPT:
                self.clear()
            self[value] = written
        return written


def encoder(schema: Mapping[str, Any], header: bytes) -> Callable[[Sequence[Sequence[Any]]], list[bytes]]:
    """Return a function that encodes records. It takes one column of values per field, in the order of the schema.

    Each encoded record begins with `header`.
    """
    writes = [_writer(json.dumps(field["type"])) for field in schema["fields"]]

    def encode(columns: Sequence[Sequence[Any]]) -> list[bytes]:
        written = [write(column) for write, column in zip(writes, columns, strict=True)]
        return list(map(b"".join, zip(repeat(header), *written)))

    return encode


@cache
def _writer(avro: str) -> _WriteColumn:
    """Return the function that encodes a column of the Avro type `avro`, given as JSON text.

    Fields of the same type share the function and its cache.
    """
    kind = json.loads(avro)
    nullable = isinstance(kind, list) and len(kind) == 2 and kind[0] == "null"
    inner = kind[1] if nullable else kind
    before = _NOT_NULL if nullable else b""
    if inner == "string":
        return _strings(before)
    if inner in ("int", "long", "boolean"):
        return partial(map, _Memo(_by_fastavro(kind)).__getitem__)
    if isinstance(inner, dict) and inner.get("logicalType") == "timestamp-millis":
        return _instants(before, _by_fastavro(kind))
    return partial(map, _mostly_empty(_by_fastavro(kind), nullable=nullable, is_map=inner["type"] == "map"))


def _by_fastavro(kind: Any) -> _Write:
    parsed = fastavro.parse_schema(kind)

    def write(value: Any) -> bytes:
        buffer = io.BytesIO()
        fastavro.schemaless_writer(buffer, parsed, value)
        return buffer.getvalue()

    return write


def _strings(before: bytes) -> _WriteColumn:
    prefixes = [before + _varint(2 * length) for length in range(1024)]

    def write(value: str | None) -> bytes:
        if value is None and before:
            return _NULL
        text = value.encode()  # type: ignore[union-attr]
        return (prefixes[len(text)] if len(text) < len(prefixes) else before + _varint(2 * len(text))) + text

    memo = _Memo(write)

    def write_column(column: Sequence[str | None]) -> Iterable[bytes]:
        # The cache pays only where values repeat. If it holds less than half of a sample, the other values bypass it.
        sample = column[:_SAMPLE]
        if 2 * sum(map(memo.__contains__, sample)) >= len(sample):
            return map(memo.__getitem__, column)
        return chain(map(memo.__getitem__, sample), write_all(column[_SAMPLE:]))

    def write_all(column: Sequence[str | None]) -> Iterable[bytes]:
        try:  # the fast path: no value is null, and none is longer than the prefixes
            return [prefixes[len(text)] + text for text in map(str.encode, column)]  # type: ignore[arg-type]
        except (TypeError, IndexError):
            return map(write, column)

    return write_column


def _instants(before: bytes, otherwise: _Write) -> _WriteColumn:
    """Return the function that encodes a column of timestamps, given as epoch milliseconds.

    An encoded timestamp consists of `before` (the branch of the union, or nothing) and two cached parts. The first part
    is the low 14 bits. The second part is the same for about eight seconds. `otherwise` encodes values of other types,
    for example datetimes.
    """
    # Avro writes a long as a zigzag varint: doubled if positive, then seven bits per byte, the lowest first. The low 14
    # bits are the first two bytes, both with the bit that says that more bytes follow.
    lows = [before + bytes((low & 0x7F | 0x80, low >> 7 | 0x80)) for low in range(_LOW + 1)]
    highs = _Memo(_varint)

    def write(value: Any) -> bytes:
        return _NULL if value is None and before else otherwise(value)

    def write_column(column: Sequence[Any]) -> Iterable[bytes]:
        try:
            return [
                lows[value << 1 & _LOW] + highs[value << 1 >> _LOW_BITS]
                if value is not None and value > _LOW
                else write(value)
                for value in column
            ]
        except TypeError:  # some values are datetimes
            return map(write, column)

    return write_column


def _mostly_empty(write: _Write, *, nullable: bool, is_map: bool) -> _Write:
    nothing = {None: _NULL} if nullable else {}
    empty = write({} if is_map else [])

    def written(value: Any) -> bytes:
        if value:
            return write(value)
        return nothing[None] if value is None else empty

    return written


def _varint(number: int) -> bytes:
    pieces = bytearray()
    while number > 0x7F:
        pieces.append(number & 0x7F | 0x80)
        number >>= 7
    pieces.append(number)
    return bytes(pieces)
