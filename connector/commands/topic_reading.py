"""Reading of a row topic and of its dead-letter topic for `connector verify`."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from datetime import datetime

from connector.commands.comparison import Key, id_key
from connector.core.fingerprints import invalid_entry
from connector.kafka.clients import Clients
from connector.kafka.log_reader import Entry
from connector.kafka.records import Bounds, Offsets, Records


class TopicReading:
    """Topic that is read in several steps, with the offsets up to which it was read."""

    def __init__(self, clients: Clients, name: str, stack: ExitStack) -> None:
        self.name = name
        self.records = stack.enter_context(Records(clients, name))
        self.bounds: Bounds = {}
        self.begin: Offsets = {}
        self.next: Offsets = {}

    def open(self, since: datetime) -> None:
        """Look up the bounds of the topic, and the offset in each partition at which reading begins.

        Reading begins with the first record that was published at the time `since` or later.
        """
        self.bounds = self.records.bounds()
        self.begin = self.records.since(since, self.bounds) if self.bounds else {}
        self.next = dict(self.begin)

    def rest(self) -> Iterator[list[Entry]]:
        """Yield the records that were not read yet, up to the end that `open` or `look_again` found last."""
        return self.records.read(self.next, {number: end for number, (_, end) in self.bounds.items()})

    def look_again(self) -> None:
        """Look up the current end of the topic, so that `rest` reads up to it."""
        self.bounds = self.records.bounds()

    def again(self) -> Iterator[list[Entry]]:
        """Read the topic a second time: yield all records that were already read."""
        return self.records.read(dict(self.begin), self.next)

    def may_be_cut(self) -> list[int]:
        """Return the partitions in which Kafka may have deleted records of the compared range.

        In these partitions, Kafka has deleted records, and no remaining record was published before the range.
        """
        return [number for number, (low, _) in self.bounds.items() if low > 0 and self.begin[number] <= low]


class DeadLetters:
    """Dead letters of one tenant.

    A dead letter is found by the hash of its bytes. If it does not hold the bytes that Graph sent, its id is used.
    """

    def __init__(self, tenant: str, *, altered: bool) -> None:
        self._tenant = tenant
        self._altered = altered
        self._hashes: set[int] = set()
        self._ids: set[Key | None] = set()

    def add(self, entries: Sequence[Entry]) -> None:
        """Add the records that are dead letters of this tenant, and skip all others."""
        for entry in entries:
            if entry.headers.get("tenant", b"").decode(errors="replace").lower() != self._tenant:
                continue
            if self._altered or not entry.value:
                self._ids.add(id_key(entry.key.decode(errors="replace")) if entry.key else None)
            else:
                self._hashes.add(bytes_hash(entry.value))

    def holds(self, row_hash: int, row_id: str | None) -> bool:
        """Return whether there is a dead letter for a row with this hash or id."""
        return row_hash in self._hashes or (id_key(row_id) if row_id else None) in self._ids


def bytes_hash(raw: bytes) -> int:
    """Return the hash of the bytes of an invalid row, by which its dead letter is found."""
    return int(invalid_entry(raw)["hi"][0])
