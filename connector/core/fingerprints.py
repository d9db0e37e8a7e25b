"""Fingerprints of rows and the entries of the deduplication index, which decide whether a row has changed.

1. Null, an absent member and the empty date (0001-01-01) count as equal. Members whose name begins with `@` are not
   compared.
2. Two releases of the connector may know different members of a row. A row is compared only by the members that both
   releases know. The fingerprint version (`layout`) and the flag BETA_KNOWN of an entry record these members.
3. Values are compared as Graph sent them. Even instants are compared as strings.
"""

from collections.abc import Callable, Iterable, Sequence
from operator import add, attrgetter, itemgetter
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_64_intdigest, xxh3_128_digest

from connector.core import instants
from connector.core.member_types import first_version, inner_type, logical_type

_EMPTY_DATE = b'"0001-01-01T00:00:00Z"'
_ANCIENT = b'"000'  # how every spelling of the empty date begins

# One entry of the deduplication index: 96 bits of the id's hash, revision and flags, 36 bits of fingerprint over the
# members of v1.0 and 28 bits over those that only beta has. Little-endian and packed, as in the `seen` topic.
ENTRY = np.dtype([("hi", "<u8"), ("lo", "<u4"), ("meta", "<u4"), ("fp", "<u8")])
_KEY = np.dtype([("hi", "<u8"), ("lo", "<u4")])
_CONTENT = np.dtype([("hi", "<u8"), ("lo", "<u4"), ("fp", "<u8")])
_DIGEST = np.dtype([("key", _KEY), ("rest", "<u4")])
LAYOUT = 1
"""Current version of the fingerprints, stored in the lowest three bits of `meta`.

A field that is added to the schema gets the next number as its `layout`. If an entry has an older version, it is
compared only by the members that this version includes.
"""

LAYOUT_MASK = 0b111
BETA_KNOWN = 1 << 3  # the row was read from beta, so the members that only beta has were known
UNFIT = 1 << 4  # entry of a dead letter: its key is the hash of the content, not of an id
RETURNED = 0b11 << 5
"""Mark of a row that Graph has returned again, in two bits of `meta`. It exists in memory only (see `withdrawals`).

The highest value means that Graph has returned the row lately. 0 means that the row is not watched.
"""
ABSENT = 0b01 << 5
"Lowest value of the mark: Graph has not returned the row since the run before the last one began."
REVISION_SHIFT = 12
MAX_REVISION = 2**20 - 1
_BETA_BITS = np.uint64(28)
_BETA_MASK = np.uint64(2**28 - 1)

_encode_lines = msgspec.json.Encoder().encode_lines


class Fingerprints:
    """Calculator of fingerprints in one fingerprint version (`layout`). It uses only the members of this version."""

    def __init__(self, graph_fields: list[dict[str, Any]], layout: int) -> None:
        known = sorted((field for field in graph_fields if first_version(field) <= layout), key=itemgetter("name"))
        v1 = [field for field in known if field["since"] == "v1.0"]
        beta = [field for field in known if field["since"] != "v1.0"]
        self._v1 = [_Lines(v1, layout, instants=False), _Lines(v1, layout, instants=True)]
        self._beta = [_Lines(beta, layout, instants=False), _Lines(beta, layout, instants=True)]

    def of(self, rows: list[Any], *, beta: bool) -> NDArray[np.uint64]:
        """Return the fingerprints of rows.

        A fingerprint has 36 bits for the members of Graph's version v1.0, and 28 bits for the members that only beta
        has. If `beta` is False, the connector reads v1.0, and the 28 bits are 0.
        """
        result = _digests(self._v1, rows) & ~_BETA_MASK
        if beta:
            result |= _digests(self._beta, rows) & _BETA_MASK
        return result


class _Lines:
    """Encoder of rows for hashing: it writes the values of some fields as one line of JSON per row.

    One encoder handles the instants of a row, another encoder handles all other fields.
    """

    def __init__(self, fields: list[dict[str, Any]], layout: int, *, instants: bool) -> None:
        fields = [field for field in fields if (logical_type(field["type"]) == "timestamp-millis") is instants]
        self._names = [field["name"] for field in fields]
        self._cuts = {field["name"]: cut for field in fields if (cut := _cut(field["type"], layout)) is not None}
        self._values = _getter(self._names)
        self._instants = instants

    def __bool__(self) -> bool:
        return bool(self._names)

    def __call__(self, rows: list[Any]) -> list[bytes]:
        # All rows are encoded at once, which is much faster than one by one.
        rows_values = list(map(self._values, rows))
        if self._cuts:
            cuts = [self._cuts.get(name, _as_it_is) for name in self._names]
            rows_values = [tuple(cut(value) for cut, value in zip(cuts, values, strict=True)) for values in rows_values]
        joined = _encode_lines(rows_values)
        if not self._instants:
            return joined.split(b"\n")[:-1]
        joined = joined.replace(_EMPTY_DATE, b"null")
        lines = joined.split(b"\n")[:-1]
        if _ANCIENT in joined:  # every spelling of the empty date becomes null
            for at, line in enumerate(lines):
                if _ANCIENT in line:
                    lines[at] = msgspec.json.encode([_without_empty_date(stamp) for stamp in rows_values[at]])
        return lines


def _digests(pieces: list[_Lines], rows: list[Any]) -> NDArray[np.uint64]:
    present = [piece(rows) for piece in pieces if piece]
    joined = map(add, *present) if len(present) > 1 else present[0]
    return np.fromiter(map(xxh3_64_intdigest, joined), np.uint64, len(rows))


def _cut(avro: Any, layout: int) -> Callable[[Any], Any] | None:
    """Return a function that removes nested members from a value, for fingerprint version `layout`.

    The function removes the members that this version does not include. Return None if the version includes all of
    them.
    """
    inner = inner_type(avro)
    if not isinstance(inner, dict):
        return None
    if "items" in inner:
        one = _cut(inner["items"], layout)
        return None if one is None else lambda values: values if values is None else [one(value) for value in values]
    if "fields" not in inner:
        return None
    known = [
        (field["name"], _cut(field["type"], layout)) for field in inner["fields"] if first_version(field) <= layout
    ]
    if len(known) == len(inner["fields"]) and all(cut is None for _, cut in known):
        return None
    cuts = [(name, cut or _as_it_is) for name, cut in known]
    return lambda value: value if value is None else {name: cut(getattr(value, name)) for name, cut in cuts}


def _as_it_is(value: Any) -> Any:
    return value


def _getter(names: Sequence[str]) -> Callable[[Any], tuple[Any, ...]]:
    return attrgetter(*names) if len(names) > 1 else lambda row: tuple(getattr(row, name) for name in names)


def id_keys(ids: Iterable[str]) -> NDArray[np.void]:
    """Return the keys of ids in the deduplication index: 96 bits of hash per id, in the fields `hi` and `lo`."""
    return _keys([b"i" + text.encode() for text in ids])


def invalid_entry(raw: bytes) -> NDArray[np.void]:
    """Return the index entry of an invalid row, as an array of one element. Its key is the hash of the row's bytes."""
    entry = np.zeros(1, ENTRY)
    key = _keys([b"u" + raw])
    entry["hi"], entry["lo"] = key["hi"], key["lo"]
    entry["meta"] = LAYOUT | UNFIT
    return entry


def rejected_entries(entries: NDArray[np.void]) -> NDArray[np.void]:
    """Return the index entries that record the rejected contents of conflicting rows.

    Each key is a hash of the row's id and fingerprint.
    """
    contents = np.zeros(len(entries), _CONTENT)
    for name in ("hi", "lo", "fp"):
        contents[name] = entries[name]
    rejected = np.zeros(len(entries), ENTRY)
    key = _keys([b"c" + content.tobytes() for content in contents])
    rejected["hi"], rejected["lo"] = key["hi"], key["lo"]
    rejected["meta"] = LAYOUT | UNFIT
    return rejected


def _keys(texts: list[bytes]) -> NDArray[np.void]:
    return np.frombuffer(b"".join(map(xxh3_128_digest, texts)), _DIGEST)["key"]


def differ(first: NDArray[np.void], second: NDArray[np.void]) -> NDArray[np.bool_]:
    """Compare two arrays of entries for the same ids. Return for each id whether the entries differ.

    Fields of beta are compared only if both entries include them. The fingerprints of both arrays must have
    the same version.
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
