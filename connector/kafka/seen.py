"""The `seen` topic, which stores the rows of the deduplication index.

A key is `{tenant}/{width}/{bucket}/{number}`. A bucket contains the rows of all calls that started in `width` hours.
Buckets are numbered from the epoch. A value is a version byte and packed entries (`fingerprints.ENTRY`).

A bucket has several records with ascending numbers. Only the last record, the tail, is rewritten, until it holds SEALED
entries. An id may occur in several records. The entry with its highest revision counts, so the order of the records
does not matter.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from connector.core.dedup import DedupIndex
from connector.core.fingerprints import ENTRY, LAYOUT, LAYOUT_MASK
from connector.core.index_run import Entries, Hours
from connector.errors import FatalError

VERSION = b"\x01"
SEALED = 256
_RECORD_MAX_BYTES = 64 * 1024
_WIDTHS = (1, 4, 24, 96, 384)
_WORTH_AN_OBJECT = 1_000


class Record(NamedTuple):
    """Record of an internal topic, for the shard's partition. It is a tombstone if `value` is None."""

    key: bytes
    value: bytes | None


class _Bucket(NamedTuple):
    width: int
    number: int

    @property
    def end_hour(self) -> int:
        return (self.number + 1) * self.width


class _Tail(NamedTuple):
    number: int
    entries: bytes


class Written(NamedTuple):
    """Records to write in a commit, and what the SeenLog must store after this commit has succeeded.

    `tails` maps each changed bucket to its new last record. None means that the bucket has no records any more.
    """

    records: list[Record]
    tails: Mapping[_Bucket, _Tail | None]


class SeenLog:
    """One tenant's records in the `seen` topic. It decides into which record each new entry is written."""

    def __init__(self, tenant: str) -> None:
        self._tenant = tenant
        self._tails: dict[_Bucket, _Tail] = {}
        self.width = _WIDTHS[-1]

    def write(self, entries: Entries, hours: Hours, room: int = _RECORD_MAX_BYTES) -> Written:
        """Return the records that store `entries`. `hours` holds the hour of each entry, counted since the epoch.

        Call `apply` when these records are committed. `room` is the maximum size of a record in bytes, with key and
        value. A single entry is written even if it needs more.

        The buckets of a new tenant have the longest width. If many entries per hour are written at once, the width
        becomes shorter.
        """
        if len(entries) >= _WORTH_AN_OBJECT:
            self.width = min(self.width, _fitting_width(len(entries) / (int(hours.max()) - int(hours.min()) + 1)))
        records: list[Record] = []
        tails: dict[_Bucket, _Tail | None] = {}
        numbers = hours // self.width
        for number in np.unique(numbers):
            bucket = _Bucket(self.width, int(number))
            tail = self._tails.get(bucket, _Tail(0, b""))
            packed = tail.entries + entries[numbers == number].tobytes()
            most = self._most_bytes(bucket, room)
            # The first record replaces the tail. A full record is sealed, and the next number becomes the tail.
            while True:
                piece = packed[:most]
                records.append(Record(self._key(bucket, tail.number), VERSION + piece))
                if len(piece) < min(most, SEALED * ENTRY.itemsize):
                    tail = _Tail(tail.number, piece)
                    break
                tail = _Tail(tail.number + 1, b"")
                packed = packed[len(piece) :]
                if not packed:
                    break
            tails[bucket] = tail
        return Written(records, tails)

    def forget(self, before_hour: int, most: int) -> Written:
        """Return tombstones that delete the buckets that end at or before `before_hour` (hours since the epoch).

        The number of tombstones is limited to about `most`. Further calls return the remaining tombstones.
        """
        records: list[Record] = []
        tails: dict[_Bucket, _Tail | None] = {}
        for bucket, tail in self._tails.items():
            if bucket.end_hour <= before_hour and len(records) < most:
                # Records are numbered from 0. The tail is the last of them, unless it is still empty and not written.
                written = tail.number + bool(tail.entries)
                records += [Record(self._key(bucket, number), None) for number in range(written)]
                tails[bucket] = None
        return Written(records, tails)

    def is_due(self, before_hour: int) -> bool:
        """Return whether `forget` would return at least one tombstone for the same `before_hour`."""
        return any(bucket.end_hour <= before_hour for bucket in self._tails)

    def is_emptied_by(self, written: Written) -> bool:
        """Return whether the commit of `written` would delete the last records of the tenant from the topic.

        `written` must be a result of `forget`.
        """
        return self._tails.keys() <= {bucket for bucket, tail in written.tails.items() if tail is None}

    def apply(self, written: Written) -> None:
        """Store the new last record of each bucket, after the commit of `written` has succeeded."""
        for bucket, tail in written.tails.items():
            if tail is None:
                self._tails.pop(bucket, None)
            else:
                self._tails[bucket] = tail

    def fit_width(self, remembered: int, hours: int) -> None:
        """Choose the width of new buckets: the shortest one with which a bucket still holds enough rows.

        `remembered` is the number of rows in the deduplication index. Their calls started within `hours` hours.
        """
        self.width = _fitting_width(remembered / max(1, hours))

    def store_tail(self, bucket: _Bucket, tail: _Tail) -> None:
        """Store `tail` as the last record of a bucket, as read from the topic.

        Records may be read in any order. If a record with a higher number is already stored, nothing changes.
        """
        known = self._tails.get(bucket)
        if known is None or tail.number >= known.number:
            self._tails[bucket] = tail

    def _most_bytes(self, bucket: _Bucket, room: int) -> int:
        """Return how many bytes of entries fit into one record of a bucket. It is a multiple of the size of an entry.

        `room` is the maximum size of the record in bytes, with key and value.
        """
        other_bytes = len(VERSION) + len(self._key(bucket, 10**9))
        return max(1, (min(room, _RECORD_MAX_BYTES) - other_bytes) // ENTRY.itemsize) * ENTRY.itemsize

    def _key(self, bucket: _Bucket, number: int) -> bytes:
        return f"{self._tenant}/{bucket.width}/{bucket.number}/{number}".encode()


def _fitting_width(rows_an_hour: float) -> int:
    return next((width for width in _WIDTHS if rows_an_hour * width >= _WORTH_AN_OBJECT), _WIDTHS[-1])


def restore(records: Mapping[bytes, bytes]) -> dict[str, tuple[DedupIndex, SeenLog]]:
    """Restore the deduplication index of each tenant of a shard.

    `records` holds the newest value of each key in the shard's partition. Raises FatalError if a newer version of the
    connector has written a record.
    """
    values: dict[str, list[bytes]] = defaultdict(list)
    last_hours: dict[str, list[int]] = defaultdict(list)
    logs: dict[str, SeenLog] = {}
    for key, value in records.items():
        if value[:1] != VERSION:
            raise FatalError(
                f"another version of the connector has written the seen topic: it contains a record of version "
                f"{value[0]}, but this connector reads version {VERSION[0]}",
                "run the version of the connector that wrote the record, or a newer one",
            )
        tenant, width, number, record_number = key.decode().rsplit("/", 3)
        bucket = _Bucket(int(width), int(number))
        entries = value[1:]
        sealed = len(entries) >= SEALED * ENTRY.itemsize
        # A full record is never rewritten: the next entries go into a new record.
        tail = _Tail(int(record_number) + 1, b"") if sealed else _Tail(int(record_number), entries)
        logs.setdefault(tenant, SeenLog(tenant)).store_tail(bucket, tail)
        values[tenant].append(entries)
        last_hours[tenant].append(bucket.end_hour - 1)
    result = {}
    for tenant, log in logs.items():
        remembered = DedupIndex()
        lengths = [len(entries) // ENTRY.itemsize for entries in values[tenant]]
        # A record does not store the hours of its entries. Each entry gets the last hour of its bucket.
        hours = np.repeat(np.array(last_hours[tenant], np.uint32), lengths)
        stored = np.frombuffer(b"".join(values.pop(tenant)), ENTRY)
        newest = int((stored["meta"] & LAYOUT_MASK).max(initial=0))
        if newest > LAYOUT:
            raise FatalError(
                f"a newer version of the connector has written the seen topic: it contains fingerprints of version "
                f"{newest}, but this connector reads versions up to {LAYOUT} and would publish their rows again",
                "run the version of the connector that wrote the fingerprints, or a newer one",
            )
        remembered.restore(stored, hours)
        result[tenant] = (remembered, log)
    return result


def tenant_of(key: bytes) -> str:
    """Return the lower-case id of the tenant to which a record belongs."""
    return key.decode().rsplit("/", 3)[0]


def check_complete(topic: str, expected: Mapping[str, int], found: Collection[str]) -> None:
    """Raise FatalError if the dedup index of a tenant was lost, because all of its rows would be published again.

    `expected` holds the number of rows per tenant, as stored in its checkpoint. `found` holds the tenants whose index
    was read.
    """
    for tenant, rows in expected.items():
        if rows and tenant not in found:
            raise FatalError(
                f"topic {topic} has lost the deduplication index of tenant {tenant}: it contains none of the "
                f"{rows} rows that the tenant's checkpoint counts, so they would be published again",
                f"restore topic {topic}, or set kafka.app and kafka.topic to new names to read everything again",
            )


def rows_per_hour(
    records: Mapping[bytes, bytes], starts: Mapping[str, int], end: int
) -> dict[str, tuple[int, NDArray[np.float64]]]:
    """Return how many rows of the deduplication index belong to calls of each hour, for each tenant in `starts`.

    `starts` holds the first hour of each tenant. The result holds this hour and an array with the number of rows per
    hour. The array begins with the first hour and ends before the hour `end`. Hours are counted since the epoch.

    The numbers are estimates. The rows of a bucket are spread evenly over its hours. A row that was revised may count
    twice.
    """
    sizes: dict[str, dict[_Bucket, int]] = defaultdict(lambda: defaultdict(int))
    for key, value in records.items():
        tenant, width, number, _ = key.decode().rsplit("/", 3)
        sizes[tenant][_Bucket(int(width), int(number))] += (len(value) - 1) // ENTRY.itemsize
    result = {}
    for tenant, start in starts.items():
        counts = np.zeros(max(0, end - start), np.float64)
        for bucket, rows in sizes[tenant].items():
            # A view of the counts: the hours of the bucket that are in the range.
            inside = counts[max(0, bucket.number * bucket.width - start) : max(0, bucket.end_hour - start)]
            inside += rows / max(1, len(inside))
        result[tenant] = (start, counts)
    return result


def merge(parts: Iterable[Written]) -> list[Record]:
    """Return the records of all parts as one list, in the order of the parts."""
    return [record for part in parts for record in part.records]
