"""Rows of getDirectRoutingCalls: which rows are valid, and what their members hold.

A row is valid when it is an object, has an `id`, and every member that the schema knows has its JSON type. The members
of a row come from the Avro schema alone; no field is named here except `id` and `startDateTime`.
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

_CHUNK = 64  # rows decoded in one go; a row that does not decode costs its chunk a second, slower attempt
_LIMIT = re.compile(r"(int) [<>]= -?\d+")
_PATH = re.compile(r"^(?P<what>.*?)(?: - at `\$\.?(?P<path>.*)`)?$", re.DOTALL)


class InvalidRow(NamedTuple):
    """Row that does not match the schema. It becomes a dead letter, and its values are not trusted."""

    raw: bytes
    id: str | None
    problem: str
    "Field and expected type, never the value."
    start_ms: int | None
    is_too_long: bool = False
    "True if the row matches the schema and is only too long for a topic."
    is_conflict: bool = False
    "True if the row matches the schema and only contradicts another row with its id."


class Row(NamedTuple):
    """Valid row. `values` is one struct with a member per field of Graph, with the values as received."""

    values: Any
    unknown: Mapping[str, str]
    "Members that the schema does not know, each as JSON text."

    @property
    def id(self) -> str:
        """Return Graph's identifier of the call."""
        return str(self.values.id)


class _Rows(Sequence["Row | InvalidRow"]):
    """Rows that are examined only when they are accessed: most rows are known already and never are."""

    def __init__(
        self,
        rows: list[Any],
        raws: Sequence[bytes],
        look: Callable[[Sequence[Any], Sequence[bytes]], "list[Row | InvalidRow]"],
    ) -> None:
        self._rows = rows
        self._raws = raws
        self._look = look

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, at: int) -> Row | InvalidRow: ...
    @overload
    def __getitem__(self, at: slice) -> "Sequence[Row | InvalidRow]": ...
    def __getitem__(self, at: int | slice) -> "Row | InvalidRow | Sequence[Row | InvalidRow]":
        if isinstance(at, slice):
            return _Rows(self._rows[at], self._raws[at], self._look)
        return self.pick([at])[0]

    def pick(self, indices: Sequence[int]) -> "list[Row | InvalidRow]":
        """Return the rows with the given indices."""
        return self._look([self._rows[at] for at in indices], [self._raws[at] for at in indices])


class PageRows(NamedTuple):
    """Rows of one page with their entries; index i of `entries` belongs to `rows[i]`."""

    rows: Sequence[Row | InvalidRow]
    entries: NDArray[np.void]
    "Array of dtype ENTRY, with revision 0."
    fingerprints: Callable[[int, NDArray[np.intp]], NDArray[np.uint64]] | None = None
    "Returns the fingerprints of an older version (`layout`) for some rows, given by index; None where there is none."

    def pick(self, indices: Sequence[int]) -> list[Row | InvalidRow]:
        """Return the rows with the given indices."""
        rows = self.rows
        return rows.pick(indices) if isinstance(rows, _Rows) else [rows[at] for at in indices]


def join(readings: Sequence[PageRows]) -> PageRows:
    """Return the rows of several pages as one reading, including their older fingerprints."""
    ends = np.cumsum([len(reading.entries) for reading in readings])

    def older(layout: int, indices: NDArray[np.intp]) -> NDArray[np.uint64]:
        fingerprints = np.zeros(len(indices), np.uint64)
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
    """Schema of a row, from the Avro schema, and which of its members the Graph version in use knows."""

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
        # A row cannot be part of a reference cycle: the garbage collector does not have to track it.
        self._strict = msgspec.defstruct("GraphRow", [*members, *ignored], forbid_unknown_fields=True, gc=False)
        lenient = msgspec.defstruct("GraphRow", [*members, *ignored], gc=False)
        self._lenient = msgspec.json.Decoder(lenient)
        self._strict_rows = msgspec.json.Decoder(list[self._strict])  # type: ignore[name-defined]
        self._lenient_rows = msgspec.json.Decoder(list[lenient])  # type: ignore[valid-type]
        self._known = frozenset(self.names)
        self._all_values = attrgetter(*self.names)
        self._beta_known = api_version == "beta"
        self.layout = max(map(first_version, [*graph_fields, *nested_fields(graph_fields)]))
        "Version of the fingerprints that it computes."
        self._digests = {layout: Fingerprints(graph_fields, layout) for layout in range(1, self.layout + 1)}
        self._flags = self.layout | (BETA_KNOWN if self._beta_known else 0)

    def read(self, raws: Iterable[bytes]) -> PageRows:
        """Return all rows of a page; none is left out. `raws` holds the JSON of each row as received."""
        raws = list(raws)
        rows: list[Any] = []
        unfit_at: list[int] = []
        for first in range(0, len(raws), _CHUNK):
            chunk = raws[first : first + _CHUNK]
            decoded = self._decode(chunk)
            if decoded is None:
                decoded = [self._decode_alone(bytes(raw)) for raw in chunk]
                unfit_at += [at for at, row in enumerate(decoded, first) if isinstance(row, InvalidRow)]
            rows += decoded
        fitting = [row for row in rows if not isinstance(row, InvalidRow)] if unfit_at else rows
        entries = np.zeros(len(rows), ENTRY)
        entries["meta"] = self._flags
        fits = np.ones(len(rows), np.bool_)
        if unfit_at:
            fits[unfit_at] = False
            entries["meta"][unfit_at] |= UNFIT
            for at in unfit_at:
                entries[at] = invalid_entry(rows[at].raw)[0]
                entries["meta"][at] = self._flags | UNFIT
        key = id_keys(map(_id, fitting))
        entries["hi"][fits], entries["lo"][fits] = key["hi"], key["lo"]
        entries["fp"][fits] = self._digests[self.layout].of(fitting, beta=self._beta_known)

        def older(layout: int, indices: NDArray[np.intp]) -> NDArray[np.uint64]:
            fingerprints = np.zeros(len(indices), np.uint64)
            at = fits[indices]
            chosen = [rows[index] for index in indices[at].tolist()]
            fingerprints[at] = self._digests[layout].of(chosen, beta=self._beta_known)
            return fingerprints

        return PageRows(_Rows(rows, raws, self._look), entries, older)

    def _decode(self, raws: Sequence[bytes]) -> list[Any] | None:
        """Return the values of each row; None when one of them is invalid."""
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
        """Return the values of a row, or an InvalidRow with the problem."""
        try:
            values = self._lenient.decode(raw)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
            return self._unfit(raw, error)
        return values if _id(values) and not is_deep(raw) else self._unfit(raw, None)

    def _unfit(self, raw: bytes, error: Exception | None) -> InvalidRow:
        problem = None
        try:
            members = decode_members(raw if not is_deep(raw) else b"")
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
            problem = "row: expected an object"
            try:
                members = decode_members(mask(raw))
            except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
                return InvalidRow(raw, None, problem, None)
            problem = "row: expected whole characters and little nesting"
        id_text = _text(members.get("id"))
        if not id_text:
            return InvalidRow(raw, None, "id: expected a string that is not empty", self._start(members))
        if problem is None:
            problem = _describe(error) if error else "row: expected JSON that can be decoded"
            return InvalidRow(raw, id_text, problem, self._start(members))
        return InvalidRow(raw, None if "\ufffd" in id_text else id_text, problem, self._start(members))

    def _look(self, rows: Sequence[Any], raws: Sequence[bytes]) -> list[Row | InvalidRow]:
        """Return rows with the members that the schema does not know."""
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
        """Return the start of an invalid row if it can be read. It decides how long the row stays in the index."""
        try:
            return instants.parse_ms(_text(members.get("startDateTime")) or "")
        except ValueError:
            return None

    def resolve(self, row: Row, raw: bytes) -> tuple[dict[str, Any], InvalidRow | None]:
        """Return the values of a row under the names of the schema, with instants as epoch milliseconds.

        The second result is set when a member is not an instant; the values must not be used then.
        """
        columns, problems = self.resolve_columns([row], [raw])
        return {name: column[0] for name, column in columns.items()}, problems.get(0)

    def resolve_columns(
        self, rows: Sequence[Row], raws: Sequence[bytes | msgspec.Raw]
    ) -> tuple[dict[str, list[Any]], dict[int, InvalidRow]]:
        """Return the values of many rows under the names of the schema, with instants as epoch milliseconds.

        The second result holds, by index, the rows with a member that is not an instant; their values must not be used.
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
    """Return what is wrong with a row. Msgspec's message names types and the path, never a value."""
    match = _PATH.match(str(error)) if isinstance(error, msgspec.ValidationError) else None
    if match is None:
        return "row: expected JSON that can be decoded"
    what = match["what"].replace("`", "").replace("Number out of range", "Expected a number within its range")
    what = _LIMIT.sub(r"\1 of 32 bits", what)
    return f"{match['path'] or 'row'}: {what[:1].lower()}{what[1:]}"
