"""Records of a topic and of its dead-letter topic, for `connector verify`."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from datetime import datetime

from connector.commands.comparison import Key, id_key
from connector.core.fingerprints import invalid_entry
from connector.kafka.clients import Clients
from connector.kafka.log_reader import Entry
from connector.kafka.records import Bounds, Offsets, Records


class TopicReading:
    """A topic with the offsets up to which it was read."""

    def __init__(self, clients: Clients, name: str, stack: ExitStack) -> None:
        self.name = name
        self.records = stack.enter_context(Records(clients, name))
        self.bounds: Bounds = {}
        self.begin: Offsets = {}
        self.next: Offsets = {}

    def open(self, since: datetime) -> None:
        """Look up the bounds of the topic, and the offsets of the first records published since a time."""
        self.bounds = self.records.bounds()
        self.begin = self.records.since(since, self.bounds) if self.bounds else {}
        self.next = dict(self.begin)

    def rest(self) -> Iterator[list[Entry]]:
        """Yield the records that were not read yet, up to the end that was last looked up."""
        return self.records.read(self.next, {number: end for number, (_, end) in self.bounds.items()})

    def look_again(self) -> None:
        """Look up the current end of the topic."""
        self.bounds = self.records.bounds()

    def again(self) -> Iterator[list[Entry]]:
        """Yield all records that were read once more."""
        return self.records.read(dict(self.begin), self.next)

    def may_be_cut(self) -> list[int]:
        """Return the partitions that may have lost records of the range.

        These partitions have lost records, and hold no record that is known to be older than the range.
        """
        return [number for number, (low, _) in self.bounds.items() if low > 0 and self.begin[number] <= low]


class DeadLetters:
    """The dead letters of a tenant, by the hash of their bytes, or by id if those are not the bytes from Graph."""

    def __init__(self, tenant: str, *, altered: bool) -> None:
        self._tenant = tenant
        self._altered = altered
        self._hashes: set[int] = set()
        self._ids: set[Key | None] = set()

    def add(self, entries: Sequence[Entry]) -> None:
        """Add the dead letters that belong to the tenant."""
        for entry in entries:
            if entry.headers.get("tenant", b"").decode(errors="replace").lower() != self._tenant:
                continue
            if self._altered or not entry.value:
                self._ids.add(id_key(entry.key.decode(errors="replace")) if entry.key else None)
            else:
                self._hashes.add(bytes_hash(entry.value))

    def holds(self, row_hash: int, row_id: str | None) -> bool:
        """Return whether a row was dead-lettered."""
        return row_hash in self._hashes or (id_key(row_id) if row_id else None) in self._ids


def bytes_hash(raw: bytes) -> int:
    """Return the hash by which an invalid row is identified."""
    return int(invalid_entry(raw)["hi"][0])
