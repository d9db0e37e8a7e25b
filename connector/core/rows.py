"""Pages and rows of getDirectRoutingCalls: which rows are valid, and when two readings of a row differ.

Rules:

1. A row is valid when it is an object, has an `id`, and every member that the schema knows has its JSON type.
2. Null, an absent member and the empty date are equal; members that begin with `@` are not data.
3. Two readings of a row differ when a member that both of them know has another value as received: instants are
   compared as strings. The fingerprint version (`layout`) and BETA_KNOWN state which members a reading knows.

The members of a row come from the Avro schema alone; no field is named here except `id` and `startDateTime`.
"""

import codecs
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import add, attrgetter, itemgetter
from types import MappingProxyType
from typing import Annotated, Any, NamedTuple, overload

import msgspec
import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_64_intdigest, xxh3_128_digest

from connector.core import instants

_INT32 = Annotated[int, msgspec.Meta(ge=-(2**31), le=2**31 - 1)]
_EMPTY_DATE = b'"0001-01-01T00:00:00Z"'
_ANCIENT = b'"000'  # how every spelling of the empty date begins
_CHUNK = 64  # rows decoded in one go; a row that does not decode costs its chunk a second, slower attempt
_DEEPEST = 64
_MOST_PARTS = 400_000  # values and brackets of a page; a page of Graph, of a thousand rows, has about 25,000
_PIECE = 1 << 15
_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*"|[\[{\]}]', re.DOTALL)
_ESCAPE = re.compile(rb"\\(?:u[dD][89abAB]..\\u[dD][c-fC-F]..|u[dD][89a-fA-F]..|.)", re.DOTALL)
_QUOTE, _SURROGATE = ord('"'), rb"\ud"
_LIMIT = re.compile(r"(int) [<>]= -?\d+")
_PATH = re.compile(r"^(?P<what>.*?)(?: - at `\$\.?(?P<path>.*)`)?$", re.DOTALL)

# One entry of the deduplication index: 96 bits of the id's hash, revision and flags, 36 bits of fingerprint over the
# members of v1.0 and 28 bits over those that only beta has. Little-endian and packed, as in the `seen` topic.
ENTRY = np.dtype([("hi", "<u8"), ("lo", "<u4"), ("meta", "<u4"), ("fp", "<u8")])
_KEY = np.dtype([("hi", "<u8"), ("lo", "<u4")])
_DIGEST = np.dtype([("key", _KEY), ("rest", "<u4")])
LAYOUT = 1
"""Version of the fingerprints, in the lowest three bits of meta. A field that the schema learns has the next number as
its `layout`. An entry with an older version is compared by the members that this version knew.
"""
LAYOUT_MASK = 0b111
BETA_KNOWN = 1 << 3  # the reading knew beta's members
UNFIT = 1 << 4  # the key is the hash of an invalid row's bytes, not of an id
REVISION_SHIFT = 12
MAX_REVISION = 2**20 - 1
_BETA_BITS = np.uint64(28)
_BETA_MASK = np.uint64(2**28 - 1)


class NotAPageError(ValueError):
    """The body is not a page of rows: HTML, truncated, garbage, or JSON of another kind."""


class Page(msgspec.Struct, frozen=True):
    """One page: the JSON of each row as received, and the link to the next page."""

    rows: list[msgspec.Raw]
    next_link: str | None


class _Envelope(msgspec.Struct):
    value: list[msgspec.Raw]
    next_link: str | None = msgspec.field(name="@odata.nextLink", default=None)


_envelope_decoder = msgspec.json.Decoder(_Envelope)
_members_decoder = msgspec.json.Decoder(dict[str, msgspec.Raw])


def decode_page(body: bytes) -> Page:
    """Return the rows of a page and its next link, the name of which is case-insensitive.

    A row that is JSON but cannot be decoded is included. Raises NotAPageError when `body` is anything but a whole page.
    """
    if _count_parts(body) > _MOST_PARTS:
        raise NotAPageError("the body has more parts than a page of rows")  # each would cost time and memory
    try:
        _check_utf8(body)  # rows stay undecoded here: invalid UTF-8 inside one would be missed
        envelope, readable = _decode_envelope(body)
        link = envelope.next_link
        if link is None and b"nextlink" in body.lower():
            for name, raw in _members_decoder.decode(readable).items():
                if name.lower() == "@odata.nextlink":
                    link = msgspec.json.decode(raw, type=str | None)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise NotAPageError("the body is not a page of rows") from error
    return Page(envelope.value, link or None)


def _count_parts(body: bytes) -> int:
    characters = np.frombuffer(body, np.uint8)
    return sum(int(np.count_nonzero(characters == part)) for part in b",[{")


def _check_utf8(body: bytes) -> None:
    """Raise UnicodeDecodeError when `body` is not UTF-8.

    It is decoded in pieces, because the text of a whole page does not fit into the processor's cache.
    """
    if not body.isascii():
        decode = codecs.getincrementaldecoder("utf-8")().decode
        pieces = memoryview(body)
        for first in range(0, len(body), _PIECE):
            decode(pieces[first : first + _PIECE])
        decode(b"", final=True)


def _decode_envelope(body: bytes) -> tuple[_Envelope, bytes]:
    """Return the envelope with each row as received, and the body in a form that can be decoded."""
    try:
        return _envelope_decoder.decode(body), body
    except (msgspec.DecodeError, RecursionError) as error:
        if isinstance(error, msgspec.DecodeError) and _SURROGATE not in body.lower():
            raise
    # Decode a copy of equal length that can be decoded, then take each row from the same position of the body.
    masked = _mask(body)
    envelope = _envelope_decoder.decode(masked)
    at, rows = 0, []
    for raw in envelope.value:
        at = masked.index(raw, at)
        end = at + len(bytes(raw))
        rows.append(msgspec.Raw(body[at:end]))
        at = end
    return _Envelope(rows, envelope.next_link), masked


def _mask(text: bytes) -> bytes:
    """Return JSON of the same length without two things that are legal but cannot be decoded.

    These are halves of surrogate pairs and deep nesting. The length stays the same so that a position in the result is
    the position in `text`.
    """
    # `deep_at` is the depth of the outermost value that is nested too deeply; the whole value becomes the number 0.
    pieces, at, depth, deep_at = [], 0, 0, 0
    for token in _TOKEN.finditer(text):
        first = text[token.start()]
        if first == _QUOTE:
            if not deep_at and rb"\u" in token[0]:
                pieces += [text[at : token.start()], _ESCAPE.sub(_whole_character, token[0])]
                at = token.end()
        elif first in b"[{":
            depth += 1
            if depth > _DEEPEST and not deep_at:
                deep_at = depth
                pieces.append(text[at : token.start()])
                at = token.start()
        else:
            if depth == deep_at and deep_at:
                pieces.append(b"0".ljust(token.end() - at))
                at, deep_at = token.end(), 0
            depth -= 1
    return b"".join([*pieces, text[at:]])


def _whole_character(escape: re.Match[bytes]) -> bytes:
    lone = len(escape[0]) == 6 and escape[0][2:3] in b"dD"
    return rb"\ufffd" if lone else escape[0]


class InvalidRow(NamedTuple):
    """Row that does not match the schema. It becomes a dead letter, and its values are not trusted."""

    raw: bytes
    id: str | None
    problem: str
    "Field and expected type, never the value."
    start_ms: int | None
    is_too_long: bool = False
    "True if the row matches the schema and is only too long for a topic."


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

    def __init__(self, rows: list[Any], raws: Sequence[bytes], look: Callable[[Any, bytes], Row]) -> None:
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
        row = self._rows[at]
        return row if isinstance(row, InvalidRow) else self._look(row, self._raws[at])


class PageRows(NamedTuple):
    """Rows of one page with their entries; index i of `entries` belongs to `rows[i]`."""

    rows: Sequence[Row | InvalidRow]
    entries: NDArray[np.void]
    "Array of dtype ENTRY, with revision 0."
    fingerprints: Callable[[int, NDArray[np.intp]], NDArray[np.uint64]] | None = None
    "Returns the fingerprints of an older version (`layout`) for some rows, given by index; None where there is none."


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
        self.instants = [f["name"] for f in graph_fields if _logical_type(f["type"]) == "timestamp-millis"]
        self.strings = [f["name"] for f in graph_fields if f["type"] in ("string", ["null", "string"])]
        self.nested = [f["name"] for f in graph_fields if _is_array(f["type"])]
        members = [(f["name"], *_member(f["type"])) if f["name"] != "id" else ("id", str) for f in graph_fields]
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
        self._all_values = _getter(self.names)
        self._all_instants = _getter(self.instants)
        self._beta_known = api_version == "beta"
        self.layout = max(map(_layout, [*graph_fields, *_nested_fields(graph_fields)]))
        "Version of the fingerprints that it computes."
        self._said = {layout: _Said(graph_fields, layout) for layout in range(1, self.layout + 1)}
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
        entries["fp"][fits] = self._said[self.layout].fingerprints(fitting, beta=self._beta_known)

        def older(layout: int, indices: NDArray[np.intp]) -> NDArray[np.uint64]:
            fingerprints = np.zeros(len(indices), np.uint64)
            at = fits[indices]
            chosen = [rows[index] for index in indices[at].tolist()]
            fingerprints[at] = self._said[layout].fingerprints(chosen, beta=self._beta_known)
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
            if len(rows) == len(raws) and all(map(_id, rows)):
                return rows
        return None

    def _decode_alone(self, raw: bytes) -> Any:
        """Return the values of a row, or an InvalidRow with the problem."""
        try:
            values = self._lenient.decode(raw)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
            return self._unfit(raw, error)
        return values if _id(values) else self._unfit(raw, None)

    def _unfit(self, raw: bytes, error: Exception | None) -> InvalidRow:
        problem = None
        try:
            members = _members_decoder.decode(raw)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
            problem = "row: expected an object"
            try:
                members = _members_decoder.decode(_mask(raw))
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

    def _look(self, values: Any, raw: bytes) -> Row:
        """Return a valid row with the members that the schema does not know."""
        if isinstance(values, self._strict):
            return Row(values, _NOTHING)
        unknown = {
            name: bytes(text).decode()
            for name, text in _members_decoder.decode(raw).items()
            if not name.startswith("@") and name not in self._known
        }
        return Row(values, unknown)

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

    def instants_fit(self, row: Row) -> bool:
        """Return whether every instant of a row can be parsed."""
        try:
            for stamp in self._all_instants(row.values):
                if stamp is not None:
                    instants.parse_ms(stamp)
        except ValueError:
            return False
        return True


class _Said:
    """Fingerprints of one version (`layout`), over the members that this version knows."""

    def __init__(self, graph_fields: list[dict[str, Any]], layout: int) -> None:
        known = sorted((field for field in graph_fields if _layout(field) <= layout), key=itemgetter("name"))
        v1 = [field for field in known if field["since"] == "v1.0"]
        beta = [field for field in known if field["since"] != "v1.0"]
        self._v1 = [_Lines(v1, layout, instants=False), _Lines(v1, layout, instants=True)]
        self._beta = [_Lines(beta, layout, instants=False), _Lines(beta, layout, instants=True)]

    def fingerprints(self, rows: list[Any], *, beta: bool) -> NDArray[np.uint64]:
        """Return 36 bits of hash over the members of v1.0 and, when `beta` is known, 28 bits over those of beta."""
        result = _digests(self._v1, rows) & ~_BETA_MASK
        if beta:
            result |= _digests(self._beta, rows) & _BETA_MASK
        return result


class _Lines:
    """Some values of each row as one line of JSON, which never contains a line break."""

    def __init__(self, fields: list[dict[str, Any]], layout: int, *, instants: bool) -> None:
        fields = [field for field in fields if (_logical_type(field["type"]) == "timestamp-millis") is instants]
        self._names = [field["name"] for field in fields]
        self._cuts = {field["name"]: cut for field in fields if (cut := _cut(field["type"], layout)) is not None}
        self._values = _tuple_getter(self._names)
        self._instants = instants

    def __bool__(self) -> bool:
        return bool(self._names)

    def __call__(self, rows: list[Any]) -> list[bytes]:
        # One call encodes all rows, which is much faster than one call per row.
        said = list(map(self._values, rows))
        if self._cuts:
            cuts = [self._cuts.get(name, _as_it_is) for name in self._names]
            said = [tuple(cut(value) for cut, value in zip(cuts, values, strict=True)) for values in said]
        joined = _encode_lines(said)
        if not self._instants:
            return joined.split(b"\n")[:-1]
        joined = joined.replace(_EMPTY_DATE, b"null")
        lines = joined.split(b"\n")[:-1]
        if _ANCIENT in joined:  # every spelling of the empty date becomes null
            for at, line in enumerate(lines):
                if _ANCIENT in line:
                    lines[at] = msgspec.json.encode([_without_empty_date(stamp) for stamp in said[at]])
        return lines


def _digests(pieces: list[_Lines], rows: list[Any]) -> NDArray[np.uint64]:
    present = [piece(rows) for piece in pieces if piece]
    joined = map(add, *present) if len(present) > 1 else present[0]
    return np.fromiter(map(xxh3_64_intdigest, joined), np.uint64, len(rows))


def _layout(field: Mapping[str, Any]) -> int:
    """Return the first fingerprint version that knows a field of the schema."""
    return int(field.get("layout", 1))


def _nested_fields(fields: Iterable[Mapping[str, Any]]) -> Iterable[Mapping[str, Any]]:
    """Yield the fields of all records within the types of `fields`."""
    for field in fields:
        inner = _inner(field["type"])
        while isinstance(inner, dict) and "items" in inner:
            inner = _inner(inner["items"])
        if isinstance(inner, dict) and "fields" in inner:
            yield from inner["fields"]
            yield from _nested_fields(inner["fields"])


def _cut(avro: Any, layout: int) -> Callable[[Any], Any] | None:
    """Return a function that removes the members of nested records that a fingerprint version does not know.

    Return None when the version knows them all.
    """
    inner = _inner(avro)
    if not isinstance(inner, dict):
        return None
    if "items" in inner:
        one = _cut(inner["items"], layout)
        return None if one is None else lambda values: values if values is None else [one(value) for value in values]
    if "fields" not in inner:
        return None
    known = [(field["name"], _cut(field["type"], layout)) for field in inner["fields"] if _layout(field) <= layout]
    if len(known) == len(inner["fields"]) and all(cut is None for _, cut in known):
        return None
    cuts = [(name, cut or _as_it_is) for name, cut in known]
    return lambda value: value if value is None else {name: cut(getattr(value, name)) for name, cut in cuts}


def _as_it_is(value: Any) -> Any:
    return value


_encode_lines = msgspec.json.Encoder().encode_lines
_id = attrgetter("id")
_NOTHING: Mapping[str, str] = MappingProxyType({})


def _tuple_getter(names: Sequence[str]) -> Callable[[Any], tuple[Any, ...]]:
    return _getter(names) if len(names) > 1 else lambda row: tuple(getattr(row, name) for name in names)


def _getter(names: Iterable[str]) -> Callable[[Any], tuple[Any, ...]]:
    return attrgetter(*names)


def id_keys(ids: Iterable[str]) -> NDArray[np.void]:
    """Return the keys of ids in the index: 96 bits of hash, as fields hi and lo."""
    return _keys([b"i" + text.encode() for text in ids])


def invalid_entry(raw: bytes) -> NDArray[np.void]:
    """Return the index entry of an invalid row, with the hash of its bytes; shape (1,), dtype ENTRY."""
    entry = np.zeros(1, ENTRY)
    key = _keys([b"u" + raw])
    entry["hi"], entry["lo"] = key["hi"], key["lo"]
    entry["meta"] = LAYOUT | UNFIT
    return entry


def _keys(texts: list[bytes]) -> NDArray[np.void]:
    return np.frombuffer(b"".join(map(xxh3_128_digest, texts)), _DIGEST)["key"]


def differ(first: NDArray[np.void], second: NDArray[np.void]) -> NDArray[np.bool_]:
    """Return, element by element, whether two readings of the same ids differ in a member that both know.

    Their fingerprints must have the same version.
    """
    v1 = (first["fp"] >> _BETA_BITS) != (second["fp"] >> _BETA_BITS)
    both_know = (first["meta"] & second["meta"] & BETA_KNOWN) != 0
    beta = (first["fp"] & _BETA_MASK) != (second["fp"] & _BETA_MASK)
    return np.asarray(v1 | (both_know & beta))


def _without_empty_date(stamp: str | None) -> str | None:
    try:
        return None if stamp is None or instants.parse_ms(stamp) is None else stamp
    except ValueError:
        return stamp


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


def _inner(avro: Any) -> Any:
    if isinstance(avro, list):
        return next(branch for branch in avro if branch != "null")
    return avro


def _logical_type(avro: Any) -> str | None:
    inner = _inner(avro)
    return inner.get("logicalType") if isinstance(inner, dict) else None


def _is_array(avro: Any) -> bool:
    inner = _inner(avro)
    return isinstance(inner, dict) and inner.get("type") == "array"


def _json_type(avro: Any) -> Any:
    """Return the JSON type in which Graph sends what the schema holds as `avro`."""
    inner = _inner(avro)
    simple = {"string": str, "int": _INT32, "boolean": bool}
    if isinstance(inner, str):
        return simple[inner]
    if _logical_type(avro) == "timestamp-millis":
        return str
    if inner["type"] == "array":
        return list[_json_type(inner["items"])]  # type: ignore[misc]
    if inner["type"] == "record":
        fields = [(field["name"], *_member(field["type"])) for field in inner["fields"]]
        return msgspec.defstruct(inner["name"], fields)
    raise TypeError(f"no JSON type for {inner}")


def _member(avro: Any) -> tuple[Any, Any]:
    return _json_type(avro) | None, None
