"""Pages and rows of getDirectRoutingCalls: what fits, what a row says, and when two readings of it differ.

Rules (the outside surface calls them by these names):

1. A row *fits* when it is an object, has an `id`, and every member that the schema knows has its JSON type.
2. Null, an absent member and the empty date are the same; members that begin with `@` are not data.
3. Two readings *differ* when a member that both of them know has another value as received: instants are compared
   as the strings they came as.

The shape of a row comes from the Avro schema alone; no field is spelled here.
"""

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import attrgetter
from typing import Annotated, Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from connector.core import instants

_INT32 = Annotated[int, msgspec.Meta(ge=-(2**31), le=2**31 - 1)]
_EMPTY_DATE = b'"0001-01-01T00:00:00Z"'
_PATH = re.compile(r"^(?P<what>.*?)(?: - at `\$\.?(?P<path>.*)`)?$", re.DOTALL)

# One remembered reading: 96 bits of the id's hash, revision and flags, 36 bits of fingerprint over the v1.0 members and
# 28 over those that only beta has. Little-endian and packed, as in the `seen` topic.
ENTRY = np.dtype([("hi", "<u8"), ("lo", "<u4"), ("meta", "<u4"), ("fp", "<u8")])
_KEY = np.dtype([("hi", "<u8"), ("lo", "<u4")])
LAYOUT = 1  # in the lowest three bits of meta; a later layout of the fingerprint takes the next number
BETA_KNOWN = 1 << 3  # the reading knew beta's members
UNFIT = 1 << 4  # not an id but the bytes of a row that did not fit
REVISION_SHIFT = 12
MAX_REVISION = 2**20 - 1
_BETA_BITS = np.uint64(28)
_BETA_MASK = np.uint64(2**28 - 1)


class NotAPageError(ValueError):
    """The body is not a page of rows: HTML, cut off, garbage, or JSON of another kind."""


class Page(msgspec.Struct, frozen=True):
    """One page: each row's JSON as received, and the link to the next page."""

    rows: list[msgspec.Raw]
    next_link: str | None


class _Envelope(msgspec.Struct):
    value: list[msgspec.Raw]
    next_link: str | None = msgspec.field(name="@odata.nextLink", default=None)


_envelope_decoder = msgspec.json.Decoder(_Envelope)
_members_decoder = msgspec.json.Decoder(dict[str, msgspec.Raw])


def decode_page(body: bytes) -> Page:
    """The rows of a page and its next link, whose name is read without regard to case.

    Raises NotAPageError when `body` is anything but a whole page.
    """
    try:
        body.decode()  # rows stay undecoded here, so that bad UTF-8 inside one would pass unseen
        envelope = _envelope_decoder.decode(body)
        link = envelope.next_link
        if link is None and b"nextlink" in body.lower():
            for name, raw in _members_decoder.decode(body).items():
                if name.lower() == "@odata.nextlink":
                    link = msgspec.json.decode(raw, type=str | None)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise NotAPageError("the body is not a page of rows") from error
    return Page(envelope.value, link or None)


class Unfit(NamedTuple):
    """A row that does not fit: where it would have gone is known, what is in it is not trusted."""

    raw: bytes
    id: str | None
    problem: str
    "Field and expected type, never the value."
    start_ms: int | None


class Row(NamedTuple):
    """A row that fits. `values`: one struct with a member for each of Graph's fields, values as received."""

    values: Any
    unknown: Mapping[str, str]
    "Members that the schema does not know, each as JSON text."

    @property
    def id(self) -> str:
        """Graph's identifier of the call."""
        return str(self.values.id)


class Reading(NamedTuple):
    """The rows of one page with their identities; index i of `entries` belongs to `rows[i]`."""

    rows: Sequence[Row | Unfit]
    entries: NDArray[np.void]
    "dtype ENTRY, revision 0"


class Shape:
    """What a row looks like, from the Avro schema, and what the Graph version that is read knows of it."""

    def __init__(self, schema: Mapping[str, Any], api_version: str) -> None:
        graph_fields = [field for field in schema["fields"] if "since" in field]
        self.names = [field["name"] for field in graph_fields]
        self.instants = [f["name"] for f in graph_fields if _logical_type(f["type"]) == "timestamp-millis"]
        self.strings = [f["name"] for f in graph_fields if f["type"] in ("string", ["null", "string"])]
        self.nested = [f["name"] for f in graph_fields if _is_array(f["type"])]
        members = [(f["name"], *_member(f["type"])) if f["name"] != "id" else ("id", str) for f in graph_fields]
        ignored = [
            (name, Any, msgspec.field(name=f"@odata.{tag}", default=None))
            for name, tag in (("odata_type", "type"), ("odata_id", "id"), ("odata_etag", "etag"))
        ]
        strict = msgspec.defstruct("GraphRow", [*members, *ignored], forbid_unknown_fields=True, frozen=False)
        lenient = msgspec.defstruct("GraphRow", [*members, *ignored])
        self._strict = msgspec.json.Decoder(strict)
        self._lenient = msgspec.json.Decoder(lenient)
        by_name = sorted(self.names)
        v1 = {field["name"] for field in graph_fields if field["since"] == "v1.0"}
        self._v1_values = attrgetter(*(n for n in by_name if n in v1 and n not in self.instants))
        self._v1_instants = attrgetter(*(n for n in by_name if n in v1 and n in self.instants))
        self._beta_values = attrgetter(*(n for n in by_name if n not in v1))
        self._beta_known = api_version == "beta"
        self._all_instants: Callable[[Any], tuple[str | None, ...]] = attrgetter(*self.instants)
        self._flags = LAYOUT | (BETA_KNOWN if self._beta_known else 0)

    def read(self, raws: Iterable[bytes]) -> Reading:
        """Every row of a page, read; none is left out. `raws`: each row's JSON as received."""
        rows: list[Row | Unfit] = []
        keys: list[bytes] = []
        fingerprints: list[bytes] = []
        betas: list[bytes] = []
        unfit_at: list[int] = []
        decode = self._strict.decode
        v1_values, v1_instants, encode, blake2b = (
            self._v1_values,
            self._v1_instants,
            msgspec.json.encode,
            hashlib.blake2b,
        )
        nothing: Mapping[str, str] = {}
        for raw in raws:
            try:
                values: Any = decode(raw)
                row: Row | Unfit = Row(values, nothing) if values.id else self._read_slowly(bytes(raw))
            except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
                row = self._read_slowly(bytes(raw))
            if isinstance(row, Row):
                values = row.values
                stamps = encode(v1_instants(values)).replace(_EMPTY_DATE, b"null")
                if b'"000' in stamps:
                    stamps = encode([_without_empty_date(stamp) for stamp in v1_instants(values)])
                keys.append(blake2b(b"i" + values.id.encode(), digest_size=12).digest())
                fingerprints.append(blake2b(encode(v1_values(values)) + stamps, digest_size=8).digest())
                if self._beta_known:
                    betas.append(blake2b(encode(self._beta_values(values)), digest_size=8).digest())
            else:
                unfit_at.append(len(rows))
                keys.append(blake2b(b"u" + row.raw, digest_size=12).digest())
                fingerprints.append(b"\0" * 8)
                if self._beta_known:
                    betas.append(b"\0" * 8)
            rows.append(row)
        return Reading(rows, self._entries(keys, fingerprints, betas, unfit_at))

    def _entries(self, keys: list[bytes], v1: list[bytes], beta: list[bytes], unfit_at: list[int]) -> NDArray[np.void]:
        entries = np.zeros(len(keys), ENTRY)
        key = np.frombuffer(b"".join(keys), _KEY)
        entries["hi"], entries["lo"] = key["hi"], key["lo"]
        entries["meta"] = self._flags
        entries["fp"] = np.frombuffer(b"".join(v1), "<u8") & ~_BETA_MASK
        if beta:
            entries["fp"] |= np.frombuffer(b"".join(beta), "<u8") & _BETA_MASK
        if unfit_at:
            entries["meta"][unfit_at] |= UNFIT
            entries["fp"][unfit_at] = 0
        return entries

    def _read_slowly(self, raw: bytes) -> Row | Unfit:
        """A row with unknown members, or one that does not fit."""
        try:
            members = _members_decoder.decode(raw)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
            return Unfit(raw, None, "row: expected an object", None)
        id_text = _text(members.get("id"))
        if not id_text:
            return Unfit(raw, None, "id: expected a string that is not empty", self._start(members))
        try:
            values = self._lenient.decode(raw)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
            return Unfit(raw, id_text, _describe(error), self._start(members))
        unknown = {
            name: bytes(text).decode()
            for name, text in members.items()
            if not name.startswith("@") and name not in self._known
        }
        return Row(values, unknown)

    @property
    def _known(self) -> frozenset[str]:
        return frozenset(self.names)

    def _start(self, members: Mapping[str, msgspec.Raw]) -> int | None:
        """Start of a row that does not fit, if it can be read: it decides how long the row is remembered."""
        try:
            return instants.parse_ms(_text(members.get("startDateTime")) or "")
        except ValueError:
            return None

    def resolve(self, row: Row, raw: bytes) -> tuple[dict[str, Any], Unfit | None]:
        """The values of a row under the names of the schema, instants as epoch milliseconds.

        The second is set, and the first is of no use, when an instant is none.
        """
        values = msgspec.structs.asdict(row.values)
        for name in ("odata_type", "odata_id", "odata_etag"):
            del values[name]
        parse = instants.parse_ms
        for name in self.instants:
            stamp = values[name]
            if stamp is not None:
                try:
                    values[name] = parse(stamp)
                except ValueError:
                    return values, Unfit(raw, row.id, f"{name}: expected an instant (RFC 3339)", None)
        for name in self.nested:
            if values[name] is not None:
                values[name] = msgspec.to_builtins(values[name])
        return values, None

    def instants_fit(self, row: Row) -> bool:
        """Whether every instant of a row is one."""
        try:
            for stamp in self._all_instants(row.values):
                if stamp is not None:
                    instants.parse_ms(stamp)
        except ValueError:
            return False
        return True


def unfit_entry(raw: bytes) -> NDArray[np.void]:
    """What is remembered of a row that does not fit: the hash of its bytes; shape (1,), dtype ENTRY."""
    entry = np.zeros(1, ENTRY)
    key = np.frombuffer(hashlib.blake2b(b"u" + raw, digest_size=12).digest(), _KEY)
    entry["hi"], entry["lo"] = key["hi"], key["lo"]
    entry["meta"] = LAYOUT | UNFIT
    return entry


def differ(first: NDArray[np.void], second: NDArray[np.void]) -> NDArray[np.bool_]:
    """Whether two readings of the same ids differ in a member that both know; element by element."""
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
    """Msgspec's sentence names types and the path, never a value."""
    match = _PATH.match(str(error)) if isinstance(error, msgspec.ValidationError) else None
    if match is None:
        return "row: expected JSON that can be decoded"
    what = match["what"].replace("`", "")
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
    """The JSON type in which Graph sends what the schema holds as `avro`."""
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
