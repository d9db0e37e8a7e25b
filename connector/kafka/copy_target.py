"""Target of `connector copy-state`: the internal topics of an app that has no state of its own.

Everything is written without transactions, so that any brokers can be used. The markers make the copy atomic: they are
written first and removed last, and no worker starts while a topic contains one.
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import NamedTuple

import msgspec
from xxhash import xxh3_64_intdigest

from connector.config import Kafka
from connector.errors import FatalError
from connector.kafka import kept_commands, seen, state, topics
from connector.kafka.acknowledgement import Acknowledgements
from connector.kafka.clients import Clients
from connector.kafka.control import TenantCommand, partition_of
from connector.kafka.copy_marker import KEY, CopyMarker
from connector.kafka.limits import raise_command
from connector.kafka.log_reader import LogReader, Place, apply, from_beginning, named, place_of
from connector.kafka.publishing import Outgoing
from connector.kafka.recreation import topic_id
from connector.kafka.seen import Record
from connector.kafka.state import Checkpoint, StateIdentity

_PIECE_BYTES = 4 * 1024 * 1024
Digests = dict[Place, dict[bytes, int]]
"For each partition and key: the hash of the newest value."


class _Held(NamedTuple):
    """Records that the target contains: their hashes, and the marker of each shard that has one."""

    digests: Digests
    markers: dict[int, CopyMarker]


class CopyTarget:
    """Writer of a copied state. Its methods block."""

    def __init__(self, kafka: Kafka, clients: Clients, cluster: str, *, exists: bool, dry_run: bool) -> None:
        """Create the writer.

        `exists` is True if the internal topics exist. They must exist unless `dry_run` is True.
        """
        self._dry_run = dry_run
        self._identity = StateIdentity(kafka.app, cluster, kafka.topic)
        self._names = topics.Names(kafka.app)
        self._clients = clients
        self._places: list[Place] = []
        if exists:
            self._places = [(t, n) for t in (self._names.state, self._names.seen) for n in range(kafka.shards)]
        self._shards = kafka.shards
        self._held = _Held(defaultdict(dict), {})
        self._expected: Digests = defaultdict(dict)
        self._writer: Acknowledgements | None = None

    def shard_of(self, tenant: str) -> int:
        """Return the shard of a tenant."""
        return partition_of(tenant, self._shards)

    def look(self, marker: CopyMarker) -> None:
        """Read the records of the target.

        Raises FatalError if the target contains records, unless they are from an interrupted copy of the same source.
        """
        self._held = self._read()
        other = next((found for found in self._held.markers.values() if not found.is_from(marker)), None)
        if other is not None:
            raise FatalError(f"app {self._identity.app} contains an incomplete copy of {other.source}", self._delete())
        if not self.is_complete and any(
            self._held.digests[place] for place in self._places if place[1] not in self._held.markers
        ):
            raise FatalError(f"app {self._identity.app} already has state", self._delete())

    @property
    def is_complete(self) -> bool:
        """Return whether an earlier run has completed the copy, but has not removed all markers."""
        return any(marker.complete for marker in self._held.markers.values())

    def check_unchanged(self, marker: CopyMarker) -> None:
        """Raise FatalError if the source has changed since the copy in the target was made."""
        if any(found.ends != marker.ends for found in self._held.markers.values()):
            raise FatalError(
                f"the copy in app {self._identity.app} is complete, but {marker.source} has changed since it was made",
                self._delete(),
            )

    def mark(self, marker: CopyMarker) -> None:
        """Write the marker to all shards. Raises FatalError if a worker has written state before the marker."""
        was_empty = not self._held.markers
        self._write_markers(marker.record)
        self._held = self._read()
        if was_empty and any(self._held.digests.values()):
            self._write_markers(Record(KEY, None))
            raise FatalError(f"app {self._identity.app} already has state", self._delete())

    def put(self, tenant: str, checkpoint: Checkpoint | None, remembered: Mapping[bytes, bytes]) -> None:
        """Write the state of a tenant to its shard. Records that the shard already contains are not written again.

        `remembered` holds the records of the dedup index.
        """
        records = [(self._names.seen, Record(key, value)) for key, value in remembered.items()]
        if checkpoint is not None:
            records.append((self._names.state, state.checkpoint_record(tenant, checkpoint)))
        self._put(self.shard_of(tenant), records)

    def put_shards(self, waiting: Collection[TenantCommand]) -> None:
        """Write the record of each shard, including the waiting commands of the shard's tenants."""
        control_id = topic_id(self._clients, self._names.control)
        for shard in range(self._shards):
            mine = [command for command in waiting if self.shard_of(command.tenant) == shard]
            kept = kept_commands.pack(mine)
            if len(kept) < len(mine):
                raise FatalError(
                    f"the source has {len(mine)} waiting commands for tenants of shard {shard}, but one shard of the "
                    f"target can store only {len(kept)} of them",
                    "start a worker of the source whose configuration has these tenants, stop it after it has applied "
                    "the commands, and copy the state again",
                )
            record = state.shard_record(self._identity, 0, control_id=control_id, kept=kept)
            self._put(shard, [(self._names.state, record)])

    def remove_stale(self) -> None:
        """Delete records that an interrupted copy has written, and that the source does not contain any more."""
        for (topic, shard), held in self._held.digests.items():
            stale = held.keys() - self._expected[topic, shard].keys()
            self._write([self._internal(shard, topic, Record(key, None)) for key in sorted(stale)])

    def verify(self, indexes: Mapping[str, str], progress: Callable[[], object]) -> None:
        """Read every shard of the target as a worker would, and compare it with the source.

        `indexes` maps each tenant of the source to the hash of its dedup index. `progress` is called after each shard.
        Raises FatalError if anything differs.
        """
        found: dict[str, str] = {}
        with LogReader(self._clients) as reader:
            for shard in range(self._shards):
                found |= self._restored(reader, shard)
                progress()
        if found != {tenant: digest for tenant, digest in indexes.items() if digest}:
            raise FatalError(
                f"the deduplication index of app {self._identity.app} differs from that of the source", _AGAIN
            )

    def _restored(self, reader: LogReader, shard: int) -> dict[str, str]:
        """Read a shard of the target. Return the hash of the dedup index of each tenant.

        Raises FatalError if a record differs from the record that was copied.
        """
        values: dict[str, dict[bytes, bytes]] = {self._names.state: {}, self._names.seen: {}}
        for records in reader.read_to_end(from_beginning((topic, shard) for topic in values)):
            for record in records:
                apply(values[record.topic() or ""], record)
        values[self._names.state].pop(KEY, None)
        for topic, of in values.items():
            if {key: xxh3_64_intdigest(value) for key, value in of.items()} != self._expected[topic, shard]:
                raise FatalError(f"the records in {named([(topic, shard)])} differ from those that were copied", _AGAIN)
        state.check_identity(state.restore(values[self._names.state]).shard, self._identity)
        return {tenant: index.digest() for tenant, (index, _) in seen.restore(values[self._names.seen]).items()}

    def finish(self, marker: CopyMarker) -> None:
        """Mark the copy as complete, and then remove the markers, so that workers may start."""
        self._write_markers(msgspec.structs.replace(marker, complete=True).record)
        self._write_markers(Record(KEY, None))

    def _write_markers(self, record: Record) -> None:
        self._write([self._internal(shard, self._names.state, record) for shard in range(self._shards)])

    def close(self) -> None:
        """Close the producer."""
        if self._writer is not None:
            self._writer.release()

    def _put(self, shard: int, records: Iterable[tuple[str, Record]]) -> None:
        missing = []
        for topic, record in records:
            digest = xxh3_64_intdigest(record.value or b"")
            self._expected[topic, shard][record.key] = digest
            if self._held.digests[topic, shard].get(record.key) != digest:
                missing.append(self._internal(shard, topic, record))
        too_long = self._clients.limits.too_long(missing)
        if too_long is not None:
            raise FatalError(
                f"a record of {too_long.needed} bytes is too long for topic {too_long.topic}",
                f"raise its limit and run connector copy-state again: {raise_command(*too_long)}",
            )
        self._write(missing)

    def _write(self, records: list[Outgoing]) -> None:
        for piece in () if self._dry_run else _pieces(records):
            if self._writer is None:
                self._writer = Acknowledgements(self._clients, self._names, 0)
                self._writer.open()
            self._writer.write(piece)

    def _read(self) -> _Held:
        digests: Digests = defaultdict(dict)
        markers: dict[int, CopyMarker] = {}
        with LogReader(self._clients) as reader:
            within_s = self._clients.decided_within_s
            for records in reader.read_to_end(from_beginning(self._places), decided_within_s=within_s):
                for record in records:
                    place, key, value = place_of(record), record.key() or b"", record.value()
                    if key != KEY and value is not None:
                        digests[place][key] = xxh3_64_intdigest(value)
                    elif key != KEY:
                        digests[place].pop(key, None)
                    elif value is not None:
                        markers[place[1]] = CopyMarker.parse(value)
                    else:
                        markers.pop(place[1], None)
            if reader.undecided:
                raise FatalError(
                    f"an interrupted copy has left a transaction open in {named(reader.undecided)}", self._delete()
                )
        return _Held(digests, markers)

    def _delete(self) -> str:
        """Return the remedy for an app that cannot be the target: choose another app, or delete the app's topics."""
        unneeded = f"delete the topics {self._names.state} and {self._names.seen} if nothing needs them"
        return f"set kafka.app to another name, or {unneeded}"

    @staticmethod
    def _internal(shard: int, topic: str, record: Record) -> Outgoing:
        return Outgoing(topic, record.key, record.value, shard)


_AGAIN = "run connector copy-state again"


def _pieces(records: list[Outgoing]) -> Iterator[list[Outgoing]]:
    """Split the records into lists that are small enough for brokers to acknowledge before the time-out."""
    piece: list[Outgoing] = []
    size = 0
    for record in records:
        piece.append(record)
        size += len(record.key or b"") + len(record.value or b"")
        if size >= _PIECE_BYTES:
            yield piece
            piece, size = [], 0
    if piece:
        yield piece
