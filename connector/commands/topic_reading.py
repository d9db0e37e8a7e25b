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
    """Reader of a topic that can continue where it last stopped, when the topic has more records."""

    def __init__(self, clients: Clients, name: str, stack: ExitStack) -> None:
        self.name = name
        self.records = stack.enter_context(Records(clients, name))
        self.bounds: Bounds = {}
        self.begin: Offsets = {}
        self.next: Offsets = {}

    def open(self, since: datetime) -> None:
        """Look up the first and the last offset of each partition.

        `rest` will begin with the first record that was published at the time `since` or later.
        """
        self.bounds = self.records.bounds()
        self.begin = self.records.since(since, self.bounds) if self.bounds else {}
        self.next = dict(self.begin)

    def rest(self) -> Iterator[list[Entry]]:
        """Yield the records that were not read yet, up to the end that the last `open` or `look_again` has found."""
        return self.records.read(self.next, {number: end for number, (_, end) in self.bounds.items()})

    def look_again(self) -> None:
        """Look up the current end of the topic, so that `rest` reads up to it."""
        self.bounds = self.records.bounds()

    def again(self) -> Iterator[list[Entry]]:
        """Read the topic a second time: yield all records that were already read."""
        return self.records.read(dict(self.begin), self.next)

    def may_be_cut(self) -> list[int]:
        """Return the partitions in which Kafka may have deleted records of the compared range.

        These are the partitions that have lost their oldest records, and whose first remaining record was published
        after the range began.
        """
        return [number for number, (low, _) in self.bounds.items() if low > 0 and self.begin[number] <= low]


class DeadLetters:
    """Dead letters of one tenant, to look up whether an invalid row has one.

    A dead letter is identified by the hash of its bytes. If `altered` is true, the connector has changed the bytes that
    Graph sent. The row's id then identifies the dead letter, as it also does if the dead letter has no bytes.
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
    """Return the hash of an invalid row's bytes, which identifies the dead letter of the row."""
    return int(invalid_entry(raw)["hi"][0])
