"""Part of the deduplication index: sorted entries in numpy arrays, with the hours of their calls."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from connector.core.fingerprints import ABSENT, RETURNED

Entries = NDArray[np.void]
Hours = NDArray[np.uint32]
COLUMNS = ("hi", "lo", "meta", "fp")
_CHUNK = 1 << 20  # number of rows that one numpy operation handles where all rows are visited, to save memory


class IndexRun:
    """Part of the index. Its entries are sorted by `hi`, the first part of the id's hash.

    Each field of the entries has its own array.
    """

    __slots__ = ("columns", "hours")

    def __init__(self, columns: dict[str, NDArray[Any]], hours: Hours) -> None:
        self.columns = columns
        self.hours = hours

    def __len__(self) -> int:
        return len(self.hours)

    def find(self, entries: Entries) -> NDArray[np.intp]:
        """Find each of `entries` by id. Return its position in this part of the index, or -1 if the id is not in it."""
        hi, lo = self.columns["hi"], self.columns["lo"]
        position = np.searchsorted(hi, entries["hi"]).astype(np.intp)
        found = np.full(len(entries), -1, np.intp)
        open_ = np.arange(len(entries))
        # `position` is the first entry with the same `hi`. A further round is only needed for ids that share their
        # first 64 bits with an entry that has another `lo`.
        while len(open_):
            at = position[open_]
            inside = at < len(hi)
            open_, at = open_[inside], at[inside]
            same_hi = hi[at] == entries["hi"][open_]
            open_, at = open_[same_hi], at[same_hi]
            hit = lo[at] == entries["lo"][open_]
            found[open_[hit]] = at[hit]
            open_ = open_[~hit]
            position[open_] += 1
        return found

    def merged(self, other: "IndexRun") -> "IndexRun":
        """Return this part of the index joined with another part. The two parts must have no id in common."""
        at = np.searchsorted(self.columns["hi"], other.columns["hi"])
        columns = {name: np.insert(self.columns[name], at, other.columns[name]) for name in COLUMNS}
        return IndexRun(columns, np.insert(self.hours, at, other.hours))

    def mark_returned(self, entries: Entries, hours: NDArray[np.int64]) -> tuple[Hours, Hours]:
        """Mark the rows of `entries` that are in this part, and store their hours, as `DedupIndex.mark_returned` does.

        Return the hours that were replaced, and the hours that replace them.
        """
        at = self.find(entries)
        hit = at >= 0
        at, exact = at[hit], hours[hit]
        meta, is_known = self.columns["meta"], exact >= 0
        meta[at] = meta[at] & ~np.uint32(RETURNED) | np.where(is_known, np.uint32(RETURNED), np.uint32(0))
        is_wrong = is_known & (self.hours[at] != exact)
        at, after = at[is_wrong], exact[is_wrong].astype(np.uint32)
        before = self.hours[at]
        self.hours[at] = after
        return before, after

    def age_marks(self) -> None:
        """Lower each mark by one step. The lowest mark, ABSENT, stays."""
        meta = self.columns["meta"]
        for first in range(0, len(meta), _CHUNK):
            chunk = meta[first : first + _CHUNK]
            chunk -= chunk >> 1 & np.uint32(ABSENT)  # the upper bit of a mark, moved to the place of the lower bit

    def take_absent(self, ranges: Sequence[tuple[int, int]]) -> Hours:
        """Return the hours of the rows in this part as `DedupIndex.take_absent` does. `ranges` must not be empty."""
        found = []
        for first in range(0, len(self), _CHUNK):
            meta, hours = (column[first : first + _CHUNK] for column in (self.columns["meta"], self.hours))
            at = np.flatnonzero(meta & np.uint32(RETURNED) == ABSENT)
            at = at[np.logical_or.reduce([(low <= hours[at]) & (hours[at] < end) for low, end in ranges])]
            meta[at] &= ~np.uint32(RETURNED)
            found.append(hours[at])
        return np.concatenate(found)


def sorted_run(entries: Entries, hours: Hours) -> IndexRun:
    """Make a part of the index from entries in any order. No id may occur twice."""
    order = np.argsort(entries["hi"], kind="stable")
    return IndexRun(columns_of(entries, order), hours[order])


def columns_of(entries: Entries, chosen: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """Return the chosen entries as one array per column. `chosen` holds their indices, or a mask."""
    return {name: np.ascontiguousarray(entries[name][chosen]) for name in COLUMNS}
