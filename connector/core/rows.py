"""Decoder of rows of getDirectRoutingCalls: it decides which rows are valid, and reads their members.

A row is valid if it is an object, has an `id`, and each member that the schema knows has the JSON type of the schema.
The members come from the Avro schema alone. Only `id` and `startDateTime` are named in this module.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import attrgetter
from types import MappingProxyType
from typing import Any, NamedTuple, overload

import msgspec
import numpy as np
from numpy.typing import NDArray

from connector.core import instants
from connector.core.fingerprints import BETA_KNOWN, ENTRY, UNFIT, Fingerprints, id_keys, invalid_entry
from connector.core.member_types import first_version, is_array, logical_type, member, nested_fields
from connector.core.pages import decode_members, is_deep, mask

_CHUNK = 64  # number of rows that are decoded together; if one is invalid, all of them are decoded again one by one
_LIMIT = re.compile(r"(int) [<>]= -?\d+")
_PATH = re.compile(r"^(?P<what>.*?)(?: - at `\$\.?(?P<path>.*)`)?$", re.DOTALL)


class InvalidRow(NamedTuple):
    """Row that cannot be published and becomes a dead letter. Its values must not be used."""

    raw: bytes
    id: str | None
    problem: str
    "Name of the field and its expected type. Never contains the value."
    start_ms: int | None
    is_too_long: bool = False
    "True if the row matches the schema and is only too long for the topic."
    is_conflict: bool = False
    "True if the row matches the schema, but another row with the same id has a different content."


class Row(NamedTuple):
    """Valid row. `values` has one member per field of Graph, with the value as received."""

    values: Any
    unknown: Mapping[str, str]
    "Members that the schema does not know. The keys are their names, the values are their JSON texts."

    @property
    def id(self) -> str:
        """Return Graph's identifier of the call."""
        return str(self.values.id)


class _Rows(Sequence["Row | InvalidRow"]):
    """Decoded rows, which are converted to Row only when they are accessed.

    Most rows are never accessed, because they are already in the deduplication index.
    """

    def __init__(
        self,
        rows: list[Any],
        raws: Sequence[bytes],
        examine: Callable[[Sequence[Any], Sequence[bytes]], "list[Row | InvalidRow]"],
    ) -> None:
        self._rows = rows
        self._raws = raws
        self._examine = examine

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, at: int) -> Row | InvalidRow: ...
    @overload
    def __getitem__(self, at: slice) -> "Sequence[Row | InvalidRow]": ...
    def __getitem__(self, at: int | slice) -> "Row | InvalidRow | Sequence[Row | InvalidRow]":
        if isinstance(at, slice):
            return _Rows(self._rows[at], self._raws[at], self._examine)
        return self.pick([at])[0]

    def pick(self, indices: Sequence[int]) -> "list[Row | InvalidRow]":
        """Return the rows at the given indices."""
        return self._examine([self._rows[at] for at in indices], [self._raws[at] for at in indices])


class PageRows(NamedTuple):
    """Rows of one or more pages. `entries[i]` is the entry of `rows[i]` for the deduplication index."""

    rows: Sequence[Row | InvalidRow]
    entries: NDArray[np.void]
    "Array of dtype ENTRY. The revision in it is 0."
    fingerprints: Callable[[int, NDArray[np.intp]], NDArray[np.uint64]] | None = None
    """Function that returns the fingerprints of the rows at the given indices, in an older fingerprint version
    (`layout`). None if there is no older version.
    """

    def pick(self, indices: Sequence[int]) -> list[Row | InvalidRow]:
        """Return the rows at the given indices."""
        rows = self.rows
        return rows.pick(indices) if isinstance(rows, _Rows) else [rows[at] for at in indices]


def join(readings: Sequence[PageRows]) -> PageRows:
    """Join the rows of several pages into one PageRows. Its function `fingerprints` works for the rows of all pages."""
    ends = np.cumsum([len(reading.entries) for reading in readings])

    def older(layout: int, indices: NDArray[np.intp]) -> NDArray[np.uint64]:
        fingerprints = np.zeros(len(indices), np.uint64)
        # `ends` holds the index at which each page ends, so the search returns the number of the page of each row.
        pages = np.searchsorted(ends, indices, side="right")
        for number in np.unique(pages).tolist():
            reading, at = readings[number], pages == number
            first = int(ends[number]) - len(reading.entries)
            if reading.fingerprints is not None:
                fingerprints[at] = reading.fingerprints(layout, indices[at] - first)
        return fingerprints

    rows = [row for reading in readings for row in reading.rows]
    return PageRows(rows, np.concatenate([reading.entries for reading in readings]), older)


class RowSchema:
    """Schema of a row, made from the Avro schema and the configured version of Graph (v1.0 or beta)."""

    def __init__(self, schema: Mapping[str, Any], api_version: str) -> None:
        graph_fields = [field for field in schema["fields"] if "since" in field]
        self.names = [field["name"] for field in graph_fields]
        self.instants = [f["name"] for f in graph_fields if logical_type(f["type"]) == "timestamp-millis"]
        self.nested = [f["name"] for f in graph_fields if is_array(f["type"])]
        members = [(f["name"], *member(f["type"])) if f["name"] != "id" else ("id", str) for f in graph_fields]
        ignored = [
            (name, msgspec.Raw, msgspec.field(name=f"@odata.{tag}", default=None))
            for name, tag in (("odata_type", "type"), ("odata_id", "id"), ("odata_etag", "etag"))
        ]
        # A row cannot be part of a reference cycle, so the garbage collector need not track it.
        self._strict = msgspec.defstruct("GraphRow", [*members, *ignored], forbid_unknown_fields=True, gc=False)
        lenient = msgspec.defstruct("GraphRow", [*members, *ignored], gc=False)
        self._lenient = msgspec.json.Decoder(lenient)
        self._strict_rows = msgspec.json.Decoder(list[self._strict])  # type: ignore[name-defined]
        self._lenient_rows = msgspec.json.Decoder(list[lenient])  # type: ignore[valid-type]
        self._known = frozenset(self.names)
        self._all_values = attrgetter(*self.names)
        self._beta_known = api_version == "beta"
        self.layout = max(map(first_version, [*graph_fields, *nested_fields(graph_fields)]))
        "Fingerprint version that `read` computes."
        self._digests = {layout: Fingerprints(graph_fields, layout) for layout in range(1, self.layout + 1)}
        self._flags = self.layout | (BETA_KNOWN if self._beta_known else 0)

    def read(self, raws: Iterable[bytes]) -> PageRows:
        """Decode all rows of a page. `raws` holds the JSON of each row as received.

        The result contains every row. Invalid rows are InvalidRow objects.
        """
        raws = list(raws)
        rows: list[Any] = []
        invalid_at: list[int] = []
        for first in range(0, len(raws), _CHUNK):
            chunk = raws[first : first + _CHUNK]
            # One invalid row makes the whole chunk fail. Its rows are then decoded one by one to find it.
            decoded = self._decode(chunk)
            if decoded is None:
                decoded = [self._decode_alone(bytes(raw)) for raw in chunk]
                invalid_at += [at for at, row in enumerate(decoded, first) if isinstance(row, InvalidRow)]
            rows += decoded
        valid_rows = [row for row in rows if not isinstance(row, InvalidRow)] if invalid_at else rows
        entries = np.zeros(len(rows), ENTRY)
        entries["meta"] = self._flags
        is_valid = np.ones(len(rows), np.bool_)
        if invalid_at:
            is_valid[invalid_at] = False
            entries["meta"][invalid_at] |= UNFIT
            for at in invalid_at:
                entries[at] = invalid_entry(rows[at].raw)[0]
                entries["meta"][at] = self._flags | UNFIT
        key = id_keys(map(_id, valid_rows))
        entries["hi"][is_valid], entries["lo"][is_valid] = key["hi"], key["lo"]
        entries["fp"][is_valid] = self._digests[self.layout].of(valid_rows, beta=self._beta_known)

        def older(layout: int, indices: NDArray[np.intp]) -> NDArray[np.uint64]:
            fingerprints = np.zeros(len(indices), np.uint64)
            at = is_valid[indices]
            chosen = [rows[index] for index in indices[at].tolist()]
            fingerprints[at] = self._digests[layout].of(chosen, beta=self._beta_known)
            return fingerprints

        return PageRows(_Rows(rows, raws, self._examine), entries, older)

    def _decode(self, raws: Sequence[bytes]) -> list[Any] | None:
        """Decode several rows at once, which is fast. Return None if any of them is invalid."""
        # The strict decoder is tried first: a row of its type has no unknown members and needs no second look.
        text = b"[%b]" % b",".join(raws)
        for decoder in (self._strict_rows, self._lenient_rows):
            try:
                rows: list[Any] = decoder.decode(text)
            except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
                continue
            if decoder is self._lenient_rows and any(map(is_deep, map(bytes, raws))):
                return None
            if len(rows) == len(raws) and all(map(_id, rows)):
                return rows
        return None

    def _decode_alone(self, raw: bytes) -> Any:
        """Decode one row. Return its values, or an InvalidRow with the problem."""
        try:
            values = self._lenient.decode(raw)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
            return self._describe_invalid(raw, error)
        return values if _id(values) and not is_deep(raw) else self._describe_invalid(raw, None)

    def _describe_invalid(self, raw: bytes, error: Exception | None) -> InvalidRow:
        problem = None
        try:
            members = decode_members(raw if not is_deep(raw) else b"")
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
            # Decode a masked copy, so that the id and the start are known even if the row as it is cannot be decoded.
            problem = "row: expected an object"
            try:
                members = decode_members(mask(raw))
            except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
                return InvalidRow(raw, None, problem, None)
            problem = "row: expected complete Unicode characters and no deep nesting"
        id_text = _text(members.get("id"))
        if not id_text:
            return InvalidRow(raw, None, "id: expected a string that is not empty", self._start(members))
        if problem is None:
            problem = _describe(error) if error else "row: expected JSON that can be decoded"
            return InvalidRow(raw, id_text, problem, self._start(members))
        return InvalidRow(raw, None if "\ufffd" in id_text else id_text, problem, self._start(members))

    def _examine(self, rows: Sequence[Any], raws: Sequence[bytes]) -> list[Row | InvalidRow]:
        """Convert decoded rows to Row objects, which also contain the members that the schema does not know.

        An InvalidRow is returned unchanged.
        """
        strict = self._strict
        return [
            Row(row, _NOTHING)
            if isinstance(row, strict)
            else row
            if isinstance(row, InvalidRow)
            else Row(row, self._unknown(raw))
            for row, raw in zip(rows, raws, strict=True)
        ]

    def _unknown(self, raw: bytes) -> dict[str, str]:
        return {
            name: bytes(text).decode()
            for name, text in decode_members(raw).items()
            if not name.startswith("@") and name not in self._known
        }

    def _start(self, members: Mapping[str, msgspec.Raw]) -> int | None:
        """Return when the call of an invalid row started, in epoch milliseconds; None if this cannot be read.

        The start decides how long the deduplication index keeps the row.
        """
        try:
            return instants.parse_ms(_text(members.get("startDateTime")) or "")
        except ValueError:
            return None

    def resolve(self, row: Row, raw: bytes) -> tuple[dict[str, Any], InvalidRow | None]:
        """Return the values of a row by field name, with instants as epoch milliseconds. `raw` is the JSON of the row.

        If an instant cannot be parsed, the second result is an InvalidRow, and the values must not be used. Otherwise
        the second result is None.
        """
        columns, problems = self.resolve_columns([row], [raw])
        return {name: column[0] for name, column in columns.items()}, problems.get(0)

    def resolve_columns(
        self, rows: Sequence[Row], raws: Sequence[bytes | msgspec.Raw]
    ) -> tuple[dict[str, list[Any]], dict[int, InvalidRow]]:
        """Return the values of many rows by field name, with instants as epoch milliseconds.

        Each field has a list with one value per row. If an instant of a row cannot be parsed, the second result maps
        the index of the row to an InvalidRow. The values of this row must not be used.
        """
        columns: dict[str, list[Any]] = {name: [] for name in self.names}
        columns |= zip(
            self.names, map(list, zip(*[self._all_values(row.values) for row in rows], strict=True)), strict=False
        )
        problems: dict[int, InvalidRow] = {}
        for name in self.instants:
            column = columns[name]
            try:
                columns[name] = instants.parse_column(column)
            except ValueError:
                columns[name] = [self._instant(name, at, rows, raws, problems) for at in range(len(rows))]
        for name in self.nested:
            columns[name] = [value if value is None else msgspec.to_builtins(value) for value in columns[name]]
        return columns, problems

    @staticmethod
    def _instant(
        name: str, at: int, rows: Sequence[Row], raws: Sequence[bytes | msgspec.Raw], problems: dict[int, InvalidRow]
    ) -> int | None:
        stamp = getattr(rows[at].values, name)
        try:
            return stamp if stamp is None else instants.parse_ms(stamp)
        except ValueError:
            problem = InvalidRow(bytes(raws[at]), rows[at].id, f"{name}: expected an instant (RFC 3339)", None)
            problems.setdefault(at, problem)
            return None


_id = attrgetter("id")
_NOTHING: Mapping[str, str] = MappingProxyType({})


def _text(raw: msgspec.Raw | None) -> str | None:
    try:
        return msgspec.json.decode(raw, type=str) if raw is not None else None
    except msgspec.DecodeError:
        return None


def _describe(error: Exception) -> str:
    """Describe why a row is invalid. The text names types and the path of the member, but never a value."""
    match = _PATH.match(str(error)) if isinstance(error, msgspec.ValidationError) else None
    if match is None:
        return "row: expected JSON that can be decoded"
    what = match["what"].replace("`", "").replace("Number out of range", "Expected a number within its range")
    what = _LIMIT.sub(r"\1 of 32 bits", what)
    return f"{match['path'] or 'row'}: {what[:1].lower()}{what[1:]}"
