"""Deduplication index of a tenant, and the classification of rows as new, revised or known.

A row takes 28 bytes in the index: an entry (`fingerprints.ENTRY`, 24 bytes) and the hour of the call's start. Entries
lie in a few sorted numpy arrays, each at least four times as long as the next. A look-up therefore searches few arrays,
and adding rows is cheap however large the index is.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_128

from connector.core.fingerprints import (
    ENTRY,
    LAYOUT_MASK,
    MAX_REVISION,
    RETURNED,
    REVISION_SHIFT,
    UNFIT,
    differ,
)
from connector.core.index_run import COLUMNS, Entries, Hours, IndexRun, columns_of, sorted_run

Fingerprints = Callable[[int, NDArray[np.intp]], NDArray[np.uint64]]
"Function that returns the fingerprints of the rows at the given indices, in an older fingerprint version (`layout`)."
HOUR_MS = 3_600_000
_GROWTH = 4


class DedupIndex:
    """Deduplication index of one tenant. Only one thread changes it, so it needs no locks.

    Other threads may read its length and `per_hour`. This is safe because the attributes behind both are replaced as a
    whole and never changed in place.
    """

    def __init__(self) -> None:
        self._runs: list[IndexRun] = []
        self._hours: tuple[int, NDArray[np.int64]] = (0, np.zeros(0, np.int64))

    def __len__(self) -> int:
        return sum(map(len, self._runs))

    @property
    def nbytes(self) -> int:
        """Return the memory that the index occupies, in bytes."""
        return sum(run.hours.nbytes + sum(column.nbytes for column in run.columns.values()) for run in self._runs)

    def find(self, entries: Entries) -> tuple[NDArray[np.bool_], Entries]:
        """Look up entries by id.

        Return for each entry whether its id is in the index, and the stored entry (all zeros if there is none). Both
        arrays are as long as `entries`.
        """
        found = np.zeros(len(entries), np.bool_)
        known = np.zeros(len(entries), ENTRY)
        for run in self._runs:
            at = run.find(entries)
            hit = at >= 0
            for name in COLUMNS:
                known[name][hit] = run.columns[name][at[hit]]
            found |= hit
        return found, known

    def digest(self) -> str:
        """Return a hash of all entries and their hours, without the marks of `mark_returned`.

        It does not depend on the order in which they were stored.
        """
        digest = xxh3_128()
        if self._runs:
            columns = [np.concatenate([run.columns[name] for run in self._runs]) for name in COLUMNS]
            columns[COLUMNS.index("meta")] &= ~np.uint32(RETURNED)
            order = np.lexsort((columns[1], columns[0]))
            for column in (*columns, np.concatenate([run.hours for run in self._runs])):
                digest.update(column[order].tobytes())
        return digest.hexdigest()

    def put(self, entries: Entries, hours: Hours) -> None:
        """Store entries. An entry replaces the stored one with the same id. No id may occur twice in `entries`."""
        fresh = np.ones(len(entries), np.bool_)
        # An id that is in the index already is overwritten where it lies, so that no id is ever in two runs.
        for run in self._runs:
            at = run.find(entries)
            hit = at >= 0
            self._count(run.hours[at[hit]], -1)
            run.columns["meta"][at[hit]] = entries["meta"][hit]
            run.columns["fp"][at[hit]] = entries["fp"][hit]
            run.hours[at[hit]] = hours[hit]
            fresh &= ~hit
        self._count(hours)
        if fresh.any():
            runs = [*self._runs, sorted_run(entries[fresh], hours[fresh])]
            while len(runs) > 1 and len(runs[-2]) < _GROWTH * len(runs[-1]):
                last = runs.pop()
                runs[-1] = runs[-1].merged(last)
            self._runs = runs

    def restore(self, entries: Entries, hours: Hours) -> None:
        """Replace the whole content of the index.

        If an id occurs several times in `entries`, its highest revision is kept.
        """
        order = np.argsort(np.ascontiguousarray(entries["hi"]))
        hi = entries["hi"][order]
        tied = np.zeros(len(entries), np.bool_)
        tied[1:] = hi[1:] == hi[:-1]
        tied[:-1] |= tied[1:]
        # The exact order matters only among equal `hi`: few entries, those that were revised. Sorting by `meta` puts
        # the highest revision last, because the revision is in its upper bits.
        at = np.flatnonzero(tied)
        among = entries[order[at]]
        order[at] = order[at][np.lexsort((among["meta"], among["lo"], among["hi"]))]
        entries, hours = entries[order], hours[order]
        last = np.ones(len(entries), np.bool_)
        last[:-1] = (entries["hi"][1:] != entries["hi"][:-1]) | (entries["lo"][1:] != entries["lo"][:-1])
        hours = hours[last]
        self._runs = [IndexRun(columns_of(entries, last), hours)] if len(hours) else []
        self._hours = (0, np.zeros(0, np.int64))
        self._count(hours)

    def forget(self, before_hour: int) -> int:
        """Remove the rows of calls that started before `before_hour` (hours since the epoch).

        Return the number of removed rows.
        """
        first, counts = self._hours
        if before_hour <= first or not len(self):
            return 0
        count = len(self)
        runs = []
        for run in self._runs:
            keep = run.hours >= before_hour
            if keep.any():
                runs.append(IndexRun({name: run.columns[name][keep] for name in COLUMNS}, run.hours[keep]))
        self._runs = runs
        self._hours = (before_hour, counts[before_hour - first :])
        return count - len(self)

    def mark_returned(self, entries: Entries, hours: NDArray[np.int64]) -> None:
        """Mark rows that Graph has returned, and store the hours of their calls. No id may occur twice in `entries`.

        The stored hour of a row that was restored is only the last hour of its bucket. If the hour in `hours` is -1, it
        is not known: the stored hour stays, and the row is not watched.
        """
        for run in self._runs:
            before, after = run.mark_returned(entries, hours)
            self._count(before, -1)
            self._count(after)

    def age_marks(self) -> None:
        """Lower each mark by one step. The lowest mark, ABSENT, stays."""
        for run in self._runs:
            run.age_marks()

    def take_absent(self, ranges: Sequence[tuple[int, int]]) -> Hours:
        """Return the hours of the rows that are marked as ABSENT and whose hour is in one of `ranges`.

        A range is a first hour and the hour after its last one. The marks of the returned rows are removed.
        """
        return np.concatenate([np.zeros(0, np.uint32), *(run.take_absent(ranges) for run in self._runs if ranges)])

    def count_from(self, hour: int) -> int:
        """Return the number of rows whose call started at or after `hour` (hours since the epoch)."""
        first, counts = self._hours
        return int(counts[max(0, hour - first) :].sum())

    def per_hour(self, first: int, end: int) -> NDArray[np.int64]:
        """Return the number of rows per hour of call start, from hour `first` up to, not including, hour `end`.

        Hours are counted since the epoch.
        """
        result = np.zeros(max(0, end - first), np.int64)
        known_first, counts = self._hours
        # Copy the counts for the hours that both ranges contain. All other hours have no rows.
        low, high = max(first, known_first), min(end, known_first + len(counts))
        if low < high:
            result[low - first : high - first] = counts[low - known_first : high - known_first]
        return result

    def _count(self, hours: Hours, sign: int = 1) -> None:
        if not len(hours):
            return
        first, counts = self._hours
        low, high = int(hours.min()), int(hours.max()) + 1
        if not len(counts):
            first = low
        # The counts begin at `first` and grow at either end. A new array replaces the old one, because other threads
        # may be reading it.
        new_first = min(low, first)
        grown = np.zeros(max(high, first + len(counts)) - new_first, np.int64)
        grown[first - new_first : first - new_first + len(counts)] = counts
        np.add.at(grown, hours.astype(np.int64) - new_first, sign)
        self._hours = (new_first, grown)


class DedupResult(NamedTuple):
    """Classification of the rows of one page. All fields except `revisions` hold indices of rows.

    A row that is neither new, revised nor rejected needs no record: it is already known, or it repeats another row of
    the page.
    """

    new: NDArray[np.intp]
    revised: NDArray[np.intp]
    chosen: NDArray[np.intp]
    "For each id, the row that is chosen. It is new, revised or known."
    rejected: NDArray[np.intp]
    "Rows that have the id of a chosen row but a different content; one row per different content."
    revisions: NDArray[np.int64]
    "Revision of every row: the revision with which it is published, or the revision that it already has in the index."
    unmarked: NDArray[np.intp]
    "Valid rows that are in the index, and are not marked there as returned by Graph lately; one row per id."


def find(entries: Entries, indexes: tuple[DedupIndex, ...]) -> tuple[NDArray[np.bool_], Entries]:
    """Look up entries by id in several indexes. If several indexes hold an id, the entry of the first is used.

    Return for each entry whether its id was found, and the stored entry (all zeros if there is none).
    """
    found = np.zeros(len(entries), np.bool_)
    known = np.zeros(len(entries), ENTRY)
    for index in indexes:
        hit, as_known = index.find(entries)
        hit &= ~found
        known[hit] = as_known[hit]
        found |= hit
    return found, known


def classify(
    entries: Entries, indexes: tuple[DedupIndex, ...], fingerprints: Fingerprints | None = None
) -> DedupResult:
    """Classify the rows of a page as new, revised or known. If several `indexes` hold an id, the first of them is used.

    If several rows have the same id, one of them is chosen (see `_choose`).

    A stored entry may have an older fingerprint version. Then the function `fingerprints` computes the row's
    fingerprint in the older version, so that the two can be compared. Without this, a release that knows more fields
    would publish every row again.
    """
    found, known = find(entries, indexes)
    # Where an id was not found, `known` is all zeros and the comparison means nothing: `found` masks it.
    changed = found & differ(_in_stored_version(entries, found, known, fingerprints), known)
    chosen, rejected = _choose(entries, found & ~changed)
    revised = np.flatnonzero(changed & chosen)
    revisions = (known["meta"] >> REVISION_SHIFT).astype(np.int64)
    revisions[revised] = np.minimum(revisions[revised] + 1, MAX_REVISION)
    is_marked = (known["meta"] & RETURNED == RETURNED) | (entries["meta"] & UNFIT != 0)
    unmarked = np.flatnonzero(found & chosen & ~is_marked)
    return DedupResult(np.flatnonzero(~found & chosen), revised, np.flatnonzero(chosen), rejected, revisions, unmarked)


def _choose(entries: Entries, is_known: NDArray[np.bool_]) -> tuple[NDArray[np.bool_], NDArray[np.intp]]:
    """Choose one row per id.

    Return a mask of the chosen rows, and the indices of the rejected rows. A rejected row has the id of a chosen row,
    but a different content.

    If the index already holds the content of one of the rows, this row is chosen. Otherwise the row with the greatest
    fingerprint is chosen. The choice therefore does not depend on the order of the rows.
    """
    chosen = np.ones(len(entries), np.bool_)
    if len(np.unique(entries["hi"])) == len(entries):
        return chosen, np.zeros(0, np.intp)
    by_id: dict[tuple[int, int], list[int]] = {}
    for index, key in enumerate(zip(entries["hi"].tolist(), entries["lo"].tolist(), strict=True)):
        by_id.setdefault(key, []).append(index)
    known, contents = is_known.tolist(), entries["fp"].tolist()
    chosen[:] = False
    rejected: list[int] = []
    for at in by_id.values():
        # Of rows with equal contents, the first is chosen.
        best = max(at, key=lambda index: (known[index], contents[index], -index))
        chosen[best] = True
        others = {contents[index]: index for index in reversed(at) if contents[index] != contents[best]}
        rejected += others.values()
    return chosen, np.array(sorted(rejected), np.intp)


def _in_stored_version(
    entries: Entries, found: NDArray[np.bool_], known: Entries, fingerprints: Fingerprints | None
) -> Entries:
    """Return `entries`, with fingerprints that can be compared with the stored entries in `known`.

    Where the stored entry has an older fingerprint version, the fingerprint is computed in this older version.
    """
    if fingerprints is None:
        return entries
    layouts = known["meta"] & LAYOUT_MASK
    older = found & (layouts != entries["meta"] & LAYOUT_MASK)
    if not older.any():
        return entries
    result = entries.copy()
    for layout in np.unique(layouts[older]).tolist():
        at = np.flatnonzero(older & (layouts == layout))
        result["fp"][at] = fingerprints(layout, at)
    return result


def split_repeats(entries: Entries) -> list[NDArray[np.intp]]:
    """Split `entries` into groups in which no id occurs twice. Return the indices of each group.

    The occurrences of an id keep their order: the first is in the first group, the second in the second group.
    """
    if len(np.unique(entries["hi"])) == len(entries):
        return [np.arange(len(entries))]
    groups: list[list[int]] = []
    times: dict[tuple[int, int], int] = {}
    for index, key in enumerate(zip(entries["hi"].tolist(), entries["lo"].tolist(), strict=True)):
        time = times.get(key, 0)
        times[key] = time + 1
        if time == len(groups):
            groups.append([])
        groups[time].append(index)
    return [np.array(group, np.intp) for group in groups]


def with_revision(entries: Entries, revision: NDArray[np.int64]) -> Entries:
    """Return a copy of `entries` with the given revisions in their `meta` field."""
    result = entries.copy()
    result["meta"] = (entries["meta"] & ((1 << REVISION_SHIFT) - 1)) | (revision.astype("<u4") << REVISION_SHIFT)
    return result


def hours_of(starts_ms: Sequence[int | None], observed_ms: int, horizon_hours: int) -> Hours:
    """Return for each row the hour since the epoch that decides how long the index keeps the row.

    It is normally the hour of the call's start. The hour of the reading (`observed_ms`) is used if the start is
    missing, older than the horizon, or more than one day in the future. Otherwise a row with a start before the horizon
    would be forgotten at once, and published again when it is next read.
    """
    observed = observed_ms // HOUR_MS
    starts = np.array([observed_ms if start is None else start for start in starts_ms], np.int64) // HOUR_MS
    believed = (starts >= observed - horizon_hours) & (starts <= observed + 24)
    return np.where(believed, starts, observed).astype(np.uint32)
