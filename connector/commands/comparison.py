"""Comparison of a topic with the rows of Graph. It stores only hashes, so that the rows of a month fit into memory.

1. Only the newest version of each row is compared. On the topic, it is the version with the highest revision. In Graph,
   it is the version that was read last.
2. A row of Graph is a suspect if it is missing on the topic, or has other values there. The connector may publish it
   later, so suspects are compared again after more of the topic was read.
3. Duplicated versions are counted only for rows of the compared range of call time.

Each record of the topic takes 29 bytes of memory. A row of Graph takes none unless it is a suspect. The result has the
full counts of missing, differing, duplicated and unexpected rows, but names only the first rows of each list.
"""

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from connector.core import fingerprints

SHOWN = 1_000
_KEPT = 5 * SHOWN
_RECORD = np.dtype(
    [("hi", "<u8"), ("lo", "<u4"), ("revision", "<u4"), ("digest", "<u8"), ("beta", "<u4"), ("inside", "u1")]
)
_SUSPECT = np.dtype([("hi", "<u8"), ("lo", "<u4"), ("digest", "<u8"), ("beta", "<u4"), ("start_s", "<i8")])
_UNSEEN, _IDENTICAL, _DIFFERING = 0, 1, 2

Key = tuple[int, int]
Values = Mapping[str, Any]


class Digest(NamedTuple):
    """Two hashes of a row version.

    `digest` is the hash of the fields of Graph v1.0. `beta` is the hash of the fields that only Graph beta has; it is 0
    if all of them are empty.
    """

    digest: int
    beta: int


class Fields:
    """Names of the fields that are compared."""

    def __init__(self, names: Iterable[str], beta: Iterable[str], left_out: Collection[str]) -> None:
        """Select the fields to compare.

        `names` are the fields of Graph v1.0. `beta` are the fields that only Graph beta has, or none if v1.0 is read.
        `left_out` are fields whose values the privacy settings change, so that they cannot be compared.
        """
        self.v1 = tuple(name for name in names if name not in left_out)
        self.beta = tuple(name for name in beta if name not in left_out)

    def digest(self, values: Values) -> Digest:
        """Return two hashes: of the fields of Graph's v1.0 endpoint, and of those that only the beta endpoint has.

        `values` has Graph's field names, with times as epoch milliseconds.
        """
        more = [values[name] for name in self.beta]
        return Digest(_hash(self._v1_of(values)), 0 if all(v is None for v in more) else _hash(more) & 0xFFFFFFFF or 1)

    def differences(self, first: Values, second: Values) -> list[str]:
        """Return the names of the fields in which two versions differ."""
        names = list(self.v1)
        if not any(all(values[name] is None for name in self.beta) for values in (first, second)):
            names += self.beta
        return [name for name in names if first[name] != second[name]]

    def _v1_of(self, values: Values) -> list[Any]:
        return [values[name] for name in self.v1]


class Suspect(NamedTuple):
    """Row of Graph that is missing on the topic (`is_missing`), or has other values there."""

    key: Key
    start_s: int
    "Start of the call in epoch seconds. If it is unknown, the start of the window in which the row was read."
    is_missing: bool


class Result(NamedTuple):
    """Result of a comparison. A count includes all rows, but a list has only the first of them."""

    graph_rows: int
    topic_records: int
    identical: int
    missing: int
    differing: int
    duplicated: int
    unexpected: int
    missing_keys: list[Key]
    differing_keys: list[Key]
    duplicated_keys: list[tuple[Key, int, int]]
    "For each duplicated version: key of the row, revision, and number of records on the topic."
    unexpected_keys: list[Key]


class Comparison:
    """Comparison of the records of a topic with the rows of Graph.

    Add the records first and then the rows. More records may be added later, and `result` may be called at any time.
    """

    def __init__(self) -> None:
        self._records: list[NDArray[np.void]] = []
        self._table: NDArray[np.void] | None = None
        self._state: NDArray[np.uint8] = np.zeros(0, np.uint8)
        self._suspects: list[NDArray[np.void]] = []
        self._invalid: list[NDArray[np.void]] = []

    def add_records(
        self, keys: Sequence[Key], revisions: Sequence[int], digests: Sequence[Digest], inside: Sequence[bool]
    ) -> None:
        """Add records of the topic, in the order of their offsets.

        `inside` states for each record whether its call began in the compared range.
        """
        records = np.zeros(len(keys), _RECORD)
        records["hi"], records["lo"] = _columns(keys)
        records["revision"] = revisions
        records["digest"] = np.array([one.digest for one in digests], np.uint64)
        records["beta"] = [one.beta for one in digests]
        records["inside"] = inside
        self._records.append(records)
        if self._table is not None:
            self._rebuild()

    def add_rows(self, keys: Sequence[Key], digests: Sequence[Digest], starts_s: Sequence[int]) -> NDArray[np.bool_]:
        """Add the valid rows of one page of Graph. Return for each of them whether it is a suspect.

        `starts_s` are the starts of the calls in epoch seconds.
        """
        rows = np.zeros(len(keys), _SUSPECT)
        rows["hi"], rows["lo"] = _columns(keys)
        rows["digest"] = np.array([one.digest for one in digests], np.uint64)
        rows["beta"] = [one.beta for one in digests]
        rows["start_s"] = starts_s
        table = self._sorted_table()
        at, same = self._match(table, rows)
        # If an id is on the page twice, the last occurrence counts, because numpy assigns in order.
        found = at >= 0
        self._state[at[found]] = np.where(same[found], _IDENTICAL, _DIFFERING)
        if not same.all():
            self._suspects.append(rows[~same])
        return ~same

    def add_invalid(self, keys: Sequence[Key]) -> None:
        """Add the ids of invalid rows of Graph, so that records of these rows do not count as unexpected."""
        rows = np.zeros(len(keys), _SUSPECT)
        rows["hi"], rows["lo"] = _columns(keys)
        self._invalid.append(rows)

    def suspects(self) -> list[Suspect]:
        """Return the rows of Graph that are missing on the topic or differ from their newest record on the topic.

        Only the records and rows that were added so far are compared.
        """
        suspects, at, same = self._current_suspects()
        return (
            [
                Suspect((int(row["hi"]), int(row["lo"])), int(row["start_s"]), is_missing)
                for row, is_missing in zip(suspects[~same], (at[~same] < 0).tolist(), strict=True)
            ]
            if len(at)
            else []
        )

    def result(self) -> Result:
        """Return the result for all records and rows that were added so far."""
        table = self._sorted_table()
        suspects, at, same = self._current_suspects()
        self._state[at[(at >= 0) & same]] = _IDENTICAL
        self._state[at[(at >= 0) & ~same]] = _DIFFERING
        missing, differing = suspects[at < 0], suspects[(at >= 0) & ~same]
        last = _last(table)
        newest = table[last]
        state = self._state[last]
        for rows in self._invalid:
            found, _ = self._match(table, rows)
            hit = np.isin(np.flatnonzero(last), found[found >= 0])
            # An invalid row cannot be compared, so the record of its id is neither identical nor differing. It is not
            # unexpected either, because Graph does have the row.
            state = np.where(hit & (state == _UNSEEN), _IDENTICAL + _DIFFERING, state)
        unexpected = newest[(state == _UNSEEN) & (newest["inside"] == 1)]
        identical = int((state == _IDENTICAL).sum())
        # A record counts if its call began in the range, or if Graph returned its row for the range.
        in_range = (state != _UNSEEN) | (newest["inside"] == 1)
        of_range = np.repeat(in_range, np.diff(np.flatnonzero(last), prepend=-1))
        versions = table[of_range]
        repeated, times = _repeats(versions)
        return Result(
            graph_rows=identical + len(missing) + len(differing),
            topic_records=len(versions),
            identical=identical,
            missing=len(missing),
            differing=len(differing),
            duplicated=len(repeated),
            unexpected=len(unexpected),
            missing_keys=_keys(missing),
            differing_keys=_keys(differing),
            duplicated_keys=[
                (key, int(revision), int(count))
                for key, revision, count in zip(_keys(repeated), repeated["revision"], times, strict=False)
            ],
            unexpected_keys=_keys(unexpected),
        )

    def _current_suspects(self) -> tuple[NDArray[np.void], NDArray[np.intp], NDArray[np.bool_]]:
        """Return three arrays with one entry per suspect: its row, its position in the table, whether it is resolved.

        The row has the values that Graph returned last. The position is -1 if the topic has no record of the row. A
        suspect is resolved if a record that was added later has the same values, or if Graph later returned the row
        with the values of the topic.
        """
        if not self._suspects:
            empty = np.zeros(0, _SUSPECT)
            return empty, np.zeros(0, np.intp), np.zeros(0, np.bool_)
        suspects = np.concatenate(self._suspects)
        order = np.lexsort((np.arange(len(suspects)), suspects["lo"], suspects["hi"]))
        suspects = suspects[order]
        suspects = suspects[_last(suspects)]
        at, same = self._match(self._sorted_table(), suspects)
        healed = np.zeros(len(suspects), np.bool_)
        healed[at >= 0] = self._state[at[at >= 0]] == _IDENTICAL
        return suspects, at, same | healed

    def _sorted_table(self) -> NDArray[np.void]:
        return self._rebuild() if self._table is None else self._table

    def _rebuild(self) -> NDArray[np.void]:
        """Sort all records into a new table and return it. In the table, the last record of each row is the newest."""
        before, state = self._table, self._state
        records = np.concatenate([np.zeros(0, _RECORD), *self._records])
        self._records = [records]
        table = records[np.lexsort((np.arange(len(records)), records["revision"], records["lo"], records["hi"]))]
        self._table, self._state = table, np.zeros(len(table), np.uint8)
        if before is not None:
            known = before[state != _UNSEEN]
            rows = np.zeros(len(known), _SUSPECT)
            for name in ("hi", "lo", "digest", "beta"):
                rows[name] = known[name]
            at, same = self._match(table, rows)
            # A row that was identical when it was read remains identical: records that were added later contain a newer
            # version, which Graph showed after the row was read.
            state = state[state != _UNSEEN]
            self._state[at] = np.where(same | (state == _DIFFERING), state, _IDENTICAL)
        return table

    @staticmethod
    def _match(table: NDArray[np.void], rows: NDArray[np.void]) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
        """Return two arrays with one entry per row: its position in the table, and whether the table has equal values.

        The position is that of the row's newest version, or -1 if the table does not have the row.
        """
        at = np.full(len(rows), -1, np.intp)
        end = np.searchsorted(table["hi"], rows["hi"], side="right") - 1
        open_ = np.flatnonzero(end >= 0)
        # `end` is the last record with the same `hi`, and a row's last record is its newest version. More than one pass
        # of the loop is needed only if the keys of different ids have the same first 64 bits.
        while len(open_):
            here = end[open_]
            is_hi = table["hi"][here] == rows["hi"][open_]
            open_, here = open_[is_hi], here[is_hi]
            is_row = table["lo"][here] == rows["lo"][open_]
            at[open_[is_row]] = here[is_row]
            open_ = open_[~is_row]
            end[open_] -= 1
            open_ = open_[end[open_] >= 0]
        same = at >= 0
        known = table[at[same]]
        ours = rows[same]
        same[same] = (known["digest"] == ours["digest"]) & (
            (known["beta"] == ours["beta"]) | (known["beta"] == 0) | (ours["beta"] == 0)
        )
        return at, same


def id_keys(ids: Iterable[str]) -> list[Key]:
    """Return the key of each row id. The deduplication index has the same keys (fingerprints.ENTRY)."""
    keys = fingerprints.id_keys(ids)
    return list(zip(keys["hi"].tolist(), keys["lo"].tolist(), strict=True))


def id_key(text: str) -> Key:
    """Return the key of one row id."""
    return id_keys([text])[0]


def _hash(values: Any) -> int:
    return int.from_bytes(hashlib.blake2b(msgspec.msgpack.encode(values), digest_size=8).digest(), "little")


def _columns(keys: Sequence[Key]) -> tuple[NDArray[np.uint64], NDArray[np.uint32]]:
    return np.array([hi for hi, _ in keys], np.uint64), np.array([lo for _, lo in keys], np.uint32)


def _keys(rows: NDArray[np.void]) -> list[Key]:
    first = rows[:_KEPT]
    return list(zip(first["hi"].tolist(), first["lo"].tolist(), strict=True))


def _last(rows: NDArray[np.void]) -> NDArray[np.bool_]:
    """Return one boolean per row: whether it is the last row with its key. `rows` must be sorted by key."""
    last = np.ones(len(rows), np.bool_)
    last[:-1] = (rows["hi"][1:] != rows["hi"][:-1]) | (rows["lo"][1:] != rows["lo"][:-1])
    return last


def _repeats(versions: NDArray[np.void]) -> tuple[NDArray[np.void], NDArray[np.intp]]:
    """Return the versions that occur more than once, and how often each of them occurs.

    `versions` must be sorted by key and revision.
    """
    last = _last(versions)
    last[:-1] |= versions["revision"][1:] != versions["revision"][:-1]
    times = np.diff(np.flatnonzero(last), prepend=-1)
    return versions[last][times > 1], times[times > 1]
