"""The `seen` topic: remembered rows, by tenant and bucket of call start.

Key: `{tenant}/{width}/{bucket}/{number}`: a bucket is `width` hours long, counted from the epoch. Value: a version byte
and packed entries (rows.ENTRY). The record with the highest number of a bucket is its tail: rewritten until it holds
SEALED entries. An id may be in several records: its highest revision counts, so their order does not matter.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from connector.core.dedup import DedupIndex, Entries, Hours
from connector.core.rows import ENTRY, LAYOUT, LAYOUT_MASK
from connector.errors import FatalError

VERSION = b"\x01"
SEALED = 256
_RECORD_MAX_BYTES = 64 * 1024
_WIDTHS = (1, 4, 24, 96, 384)
_WORTH_AN_OBJECT = 1_000


class Record(NamedTuple):
    """A record for partition p of an internal topic; value None is a tombstone."""

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
    """What a commit writes, and the tails as they are once it has succeeded."""

    records: list[Record]
    tails: Mapping[_Bucket, _Tail | None]


class SeenLog:
    """One tenant's part of the topic: where the next remembered row is written to."""

    def __init__(self, tenant: str) -> None:
        self._tenant = tenant
        self._tails: dict[_Bucket, _Tail] = {}
        self.width = _WIDTHS[-1]

    def write(self, entries: Entries, hours: Hours, room: int = _RECORD_MAX_BYTES) -> Written:
        """The records that add `entries`; nothing remembered changes until `apply`.

        `room`: the bytes that key and value of a record may take. One entry is written even where it takes more.

        A busy tenant's first rows show how busy it is: its buckets are not to stay as long as an unknown tenant's.
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
        """Tombstones for buckets that ended before an hour; about `most` of them, the rest another time."""
        records: list[Record] = []
        tails: dict[_Bucket, _Tail | None] = {}
        for bucket, tail in self._tails.items():
            if bucket.end_hour <= before_hour and len(records) < most:
                written = tail.number + bool(tail.entries)
                records += [Record(self._key(bucket, number), None) for number in range(written)]
                tails[bucket] = None
        return Written(records, tails)

    def is_due(self, before_hour: int) -> bool:
        """Whether `forget` would write something."""
        return any(bucket.end_hour <= before_hour for bucket in self._tails)

    def is_emptied_by(self, written: Written) -> bool:
        """Whether nothing is left once `written` is committed."""
        return self._tails.keys() <= {bucket for bucket, tail in written.tails.items() if tail is None}

    def apply(self, written: Written) -> None:
        """The commit that `written` was for has succeeded."""
        for bucket, tail in written.tails.items():
            if tail is None:
                self._tails.pop(bucket, None)
            else:
                self._tails[bucket] = tail

    def fit_width(self, remembered: int, hours: int) -> None:
        """Buckets as short as it takes for one to be worth an object: `remembered` rows over so many hours."""
        self.width = _fitting_width(remembered / max(1, hours))

    def restored(self, bucket: _Bucket, tail: _Tail) -> None:
        """A bucket's tail as it was found in the topic."""
        known = self._tails.get(bucket)
        if known is None or tail.number >= known.number:
            self._tails[bucket] = tail

    def _most_bytes(self, bucket: _Bucket, room: int) -> int:
        """Return the bytes of entries that a record of a bucket may hold, a whole number of them."""
        beside = len(VERSION) + len(self._key(bucket, 10**9))
        return max(1, (min(room, _RECORD_MAX_BYTES) - beside) // ENTRY.itemsize) * ENTRY.itemsize

    def _key(self, bucket: _Bucket, number: int) -> bytes:
        return f"{self._tenant}/{bucket.width}/{bucket.number}/{number}".encode()


def _fitting_width(rows_an_hour: float) -> int:
    return next((width for width in _WIDTHS if rows_an_hour * width >= _WORTH_AN_OBJECT), _WIDTHS[-1])


def restore(records: Mapping[bytes, bytes]) -> dict[str, tuple[DedupIndex, SeenLog]]:
    """What is remembered of each tenant, from the newest value of each key of a partition.

    Raises FatalError for a record that a newer version wrote.
    """
    values: dict[str, list[bytes]] = defaultdict(list)
    last_hours: dict[str, list[int]] = defaultdict(list)
    logs: dict[str, SeenLog] = {}
    for key, value in records.items():
        if value[:1] != VERSION:
            raise FatalError(
                f"the seen topic holds a record of version {value[0]}, this program reads version {VERSION[0]}",
                "run the version that wrote it, or a newer one",
            )
        tenant, width, number, record_number = key.decode().rsplit("/", 3)
        bucket = _Bucket(int(width), int(number))
        entries = value[1:]
        sealed = len(entries) >= SEALED * ENTRY.itemsize
        tail = _Tail(int(record_number) + 1, b"") if sealed else _Tail(int(record_number), entries)
        logs.setdefault(tenant, SeenLog(tenant)).restored(bucket, tail)
        values[tenant].append(entries)
        last_hours[tenant].append(bucket.end_hour - 1)
    result = {}
    for tenant, log in logs.items():
        remembered = DedupIndex()
        lengths = [len(entries) // ENTRY.itemsize for entries in values[tenant]]
        hours = np.repeat(np.array(last_hours[tenant], np.uint32), lengths)
        remembers = np.frombuffer(b"".join(values.pop(tenant)), ENTRY)
        newest = int((remembers["meta"] & LAYOUT_MASK).max(initial=0))
        if newest > LAYOUT:
            raise FatalError(
                f"the seen topic holds fingerprints of layout {newest}, this program knows {LAYOUT}: all that they "
                "stand for would be published again; run the version that wrote them, or a newer one"
            )
        remembered.restore(remembers, hours)
        result[tenant] = (remembered, log)
    return result


def rows_per_hour(
    records: Mapping[bytes, bytes], starts: Mapping[str, int], end: int
) -> dict[str, tuple[int, NDArray[np.float64]]]:
    """Remembered rows of each tenant in `starts` by hour of call start, from its hour there to `end`, since the epoch.

    Those of a longer bucket are spread evenly over its hours in that range. A row that was revised may count twice.
    """
    sizes: dict[str, dict[_Bucket, int]] = defaultdict(lambda: defaultdict(int))
    for key, value in records.items():
        tenant, width, number, _ = key.decode().rsplit("/", 3)
        sizes[tenant][_Bucket(int(width), int(number))] += (len(value) - 1) // ENTRY.itemsize
    result = {}
    for tenant, start in starts.items():
        counts = np.zeros(max(0, end - start), np.float64)
        for bucket, rows in sizes[tenant].items():
            inside = counts[max(0, bucket.number * bucket.width - start) : max(0, bucket.end_hour - start)]
            inside += rows / max(1, len(inside))
        result[tenant] = (start, counts)
    return result


def merge(parts: Iterable[Written]) -> list[Record]:
    """The records of several parts, in order."""
    return [record for part in parts for record in part.records]
