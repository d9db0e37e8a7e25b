"""Recovery of records that hanging transactions have lost.

A transaction hangs in a partition if it has ended, but its commit or abort marker never reached the partition. Kafka
4.3.0, 4.3.1 and 4.4.0 treat a partition without a leader as deleted (KAFKA-20734). So if all replicas of a partition
were unavailable, the marker of an acknowledged commit or abort may never reach it. Readers with `read_committed` then
wait in this partition, until the same producer id writes its next marker there. This later marker also applies to the
records of the hanging transaction: an abort marker hides them forever, even if their transaction was committed.

A shard recovers as ADR 9 says:

1. It aborts its transactions that are still open. No reader has seen the records that this removes.
2. It finds out which transactions were committed. A transaction was committed if any of its records is visible in any
   partition. All other transactions were aborted.
3. Records that a committed transaction has lost are still in the log. The shard writes them again in one transaction.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import NamedTuple, cast

import msgspec
from confluent_kafka import IsolationLevel, KafkaException, Message

from connector import log
from connector.errors import ShardRestartError
from connector.kafka import state, topics, visibility
from connector.kafka.clients import Clients
from connector.kafka.log_reader import Place, named
from connector.kafka.publishing import Outgoing, TransactionRecord
from connector.kafka.restore import PartitionContents
from connector.kafka.state import ShardRecord
from connector.kafka.topics import Names
from connector.kafka.visibility import Places, last_offsets, merge

HEADER = "transaction"
_METADATA_S = 10.0
_logger = log.get(__name__)


class Unseen(NamedTuple):
    """Transaction that was written completely, but is invisible to `read_committed` readers of the state topic."""

    record: ShardRecord
    values: dict[bytes, bytes | None]
    "The transaction's records in the state topic: the value of each key, None for a tombstone."


class LostCommits(NamedTuple):
    """Records that committed transactions have written, but that `read_committed` readers do not see."""

    record: ShardRecord | None
    "The shard's record of the newest committed transaction; None if there is none."
    records: dict[Place, list[Message]]
    checkpoints: dict[bytes, bytes | None]
    "Records that the state topic has lost: the value of each key, None for a tombstone."


class Inspection(NamedTuple):
    """Shard whose transactions are checked after a restart.

    `read` holds the contents of the shard's internal topics, as a `read_committed` reader sees them.
    """

    clients: Clients
    names: Names
    shard: int
    read: PartitionContents

    @property
    def internal(self) -> tuple[Place, Place]:
        """Return the partitions of the internal topics, to which only this shard writes."""
        return (self.names.state, self.shard), (self.names.seen, self.shard)

    @property
    def last(self) -> ShardRecord | None:
        """Return the newest visible record of the shard in the state topic; None if there is none."""
        return state.restore(self.read.values[self.names.state]).shard

    @property
    def was_transaction(self) -> bool:
        """Return whether the newest visible record of the shard was written in a transaction."""
        return self.last is not None and bool(self.last.transaction)


def open_places(inspection: Inspection, row_topics: Collection[str], is_stopped: Callable[[], bool]) -> set[Place]:
    """Wait until no transaction of this shard is open. Return the partitions in which one may still be open.

    The wait ends after `Clients.decided_within_s` seconds at the latest.
    """
    ends: dict[Place, int | None] = dict.fromkeys(_watched(inspection, row_topics))
    return visibility.undecided(inspection.clients, ends, inspection.clients.decided_within_s, is_stopped)


def _watched(inspection: Inspection, row_topics: Collection[str]) -> set[Place]:
    """Return the partitions in which the shard may have left a transaction open.

    These are all partitions of its tenants' topics, its partitions of the internal topics, and the partitions in which
    its last transactions wrote.
    """
    restored = state.restore(inspection.read.values[inspection.names.state])
    known = {*row_topics, *(checkpoint.topic for checkpoint in restored.checkpoints.values())}
    try:
        metadata = inspection.clients.asking.list_topics(timeout=_METADATA_S).topics
    except KafkaException as error:
        raise ShardRestartError(f"the partitions of the row topics cannot be listed: {error.args[0].str()}") from error
    partitions = {
        (name, number)
        for topic in known
        for name in topics.of_rows(topic)
        if name in metadata
        for number in metadata[name].partitions
    }
    records = [restored.shard, *(unseen.record for unseen in unseen_transactions(inspection))]
    places = merge(*(_places(record) for record in records if record is not None))
    if restored.shard is not None and not restored.shard.transaction:
        # The shard's last record has no transaction id, so it is unknown which records an abort would remove.
        # Records that hang in row topics are therefore left: the next commit to the partition publishes them.
        partitions = set()
    return partitions | last_offsets(places).keys() | set(inspection.internal)


def find_lost(inspection: Inspection, ended: Collection[Place], is_stopped: Callable[[], bool]) -> LostCommits:
    """Return the records that committed transactions have written, but that brokers have lost.

    Call this when no transaction of the shard is open any more. `ended` holds the partitions in which
    `Publisher.end_open` has just aborted an open transaction. Blocks. Raises ShardRestartError if it stays unknown
    whether a transaction was committed.
    """
    last, unseen = inspection.last, unseen_transactions(inspection)
    records = [record for record in (last, *(one.record for one in unseen)) if record is not None]
    _check_decided(inspection, merge(*(_places(record) for record in records)), is_stopped)
    # In these partitions, `end_open` has aborted records, or a commit marker was never seen. If one of the partitions
    # cannot be read, the outcome of a transaction stays unknown.
    doubtful = {*ended, *(place for one in unseen for place in last_offsets(one.record.unproven))}
    # The oldest unseen transaction comes first, so later records replace earlier ones.
    newest, checkpoints = last, dict[bytes, bytes | None]()
    committed = [] if last is None else [_places(last)]
    for one in unseen:
        if _was_committed(inspection.clients, one, doubtful):
            committed.append(_places(one.record))
            checkpoints |= one.values
            newest = one.record
    lost = visibility.lost(inspection.clients, merge(*committed))
    unreadable = lost.unreadable
    if doubtful & unreadable.keys():
        raise ShardRestartError(_unknown(unreadable))
    if unreadable:
        _logger.warning(
            "transaction_unverified",
            shard=inspection.shard,
            reason=next(iter(unreadable.values())),
            consequence="if brokers have lost records of the shard's last transaction, they are not written again",
        )
    checkpoints.pop(state.SHARD, None)
    return LostCommits(newest, lost.records, checkpoints)


def unseen_transactions(inspection: Inspection) -> list[Unseen]:
    """Return the complete transactions whose records in the state topic are not visible, oldest first.

    They come after the last visible record. Only readers with `read_uncommitted` find them.
    """
    place = inspection.names.state, inspection.shard
    start = inspection.read.offsets[inspection.names.state] + 1
    end = visibility.offsets(inspection.clients, [place], IsolationLevel.READ_UNCOMMITTED).get(place)
    if end is None:
        raise ShardRestartError(f"no broker returned the end offset of {named([place])}")
    if end <= start:
        return []
    messages, _ = visibility.read(inspection.clients, {place: (start, end - 1)}, "read_uncommitted")
    # Group the records by the transaction id in their header. A transaction without the record of the shard, which is
    # its last, was not written completely and cannot have been committed.
    found: dict[str, dict[bytes, bytes | None]] = {}
    for message in messages[place].values():
        headers = cast("dict[str, bytes]", dict(message.headers() or []))
        found.setdefault(headers.get(HEADER, b"").decode(), {})[message.key() or b""] = message.value()
    return [
        Unseen(msgspec.json.decode(value, type=ShardRecord), values)
        for transaction, values in found.items()
        if transaction and (value := values.get(state.SHARD)) is not None
    ]


def records_to_rewrite(inspection: Inspection, lost: LostCommits) -> dict[str, list[Outgoing]]:
    """Return the lost records that must be written again, by topic. Lost progress records are not written again.

    Instead, `state_to_rewrite` changes the tenant's checkpoint, so that the next commit publishes the progress.
    """
    progress = {topics.progress(checkpoint.topic) for checkpoint in _checkpoints(inspection, lost).values()}
    again: dict[str, list[Outgoing]] = {}
    for (topic, number), messages in lost.records.items():
        if topic not in progress:
            again.setdefault(topic, []).extend(
                Outgoing(topic, m.key(), m.value(), number, m.timestamp()[1], _headers(m)) for m in messages
            )
    return again


def state_to_rewrite(inspection: Inspection, lost: LostCommits, written: Places) -> list[Outgoing]:
    """Return the records of the state topic that must be written again, when the lost rows have been written again.

    `written` holds the new offsets of the rows. They replace the old offsets in the checkpoints.
    """
    # Old offset to new offset, per partition: records are written again in the order in which they were read.
    moved = {
        (topic, number): dict(zip((m.offset() for m in lost.records[topic, number]), _each(offset_ranges), strict=True))
        for topic, partitions in written.items()
        for number, offset_ranges in partitions.items()
        if (topic, number) in lost.records
    }
    # Progress records are keyed by tenant. A tenant that lost one gets a new checkpoint and states its progress again.
    tenants = {str((m.key() or b"").decode()).lower() for of in lost.records.values() for m in of}
    values = dict(lost.checkpoints)
    for tenant, checkpoint in _checkpoints(inspection, lost).items():
        # A checkpoint names the offset after the last record. So look up the record before it, and add 1 again.
        offsets = tuple(
            moved.get((checkpoint.topic, number), {}).get(end - 1, end - 1) + 1
            for number, end in enumerate(checkpoint.offsets)
        )
        if offsets != checkpoint.offsets or tenant in tenants:
            record = state.checkpoint_record(tenant, msgspec.structs.replace(checkpoint, offsets=offsets, stated=()))
            values[record.key] = record.value
    return [Outgoing(inspection.names.state, key, value, inspection.shard) for key, value in values.items()]


def shard_record_to_rewrite(
    inspection: Inspection, lost: LostCommits, transaction: TransactionRecord
) -> list[Outgoing]:
    """Return the record of the shard, as the last record of the transaction that restores lost records.

    `transaction` describes this transaction. The list is empty if the shard has no record yet.
    """
    if lost.record is None:
        return []
    record = msgspec.structs.replace(
        lost.record, transaction=transaction.transaction, places=transaction.places, unproven=transaction.unproven
    )
    return [Outgoing(inspection.names.state, state.SHARD, msgspec.json.encode(record), inspection.shard)]


def _places(record: ShardRecord) -> Places:
    return merge(record.unproven, record.places)


def _checkpoints(inspection: Inspection, lost: LostCommits) -> dict[str, state.Checkpoint]:
    """Return the checkpoints of the tenants as they would be if brokers had lost no record."""
    values: dict[bytes, bytes | None] = {**inspection.read.values[inspection.names.state], **lost.checkpoints}
    return state.restore({key: value for key, value in values.items() if value is not None}).checkpoints


def _check_decided(inspection: Inspection, places: Places, is_stopped: Callable[[], bool]) -> None:
    """Raise ShardRestartError if an open transaction of another producer hides records of this shard.

    While that transaction is open, the shard cannot find out whether its own transactions were committed.
    """
    ends: dict[Place, int | None] = {place: last + 1 for place, last in last_offsets(places).items()}
    hidden = visibility.undecided(inspection.clients, ends, inspection.clients.decided_within_s, is_stopped)
    if hidden:
        raise ShardRestartError(
            f"an open transaction of another producer hides records of shard {inspection.shard} in {named(hidden)}: "
            "wait until it ends, or end it with kafka-transactions.sh (find-hanging, then abort)"
        )


def _was_committed(clients: Clients, one: Unseen, doubtful: Collection[Place]) -> bool:
    """Return whether the transaction `one` was committed: whether any of its records is visible in any partition.

    `doubtful` holds the partitions in which a committed record may be invisible. If there are any, and a partition of
    the transaction cannot be read, the answer is not known: ShardRestartError is raised.
    """
    ends = {place: (end, end) for place, end in last_offsets(one.record.places).items()}
    visible, unreadable = visibility.read(clients, ends, "read_committed")
    if any(visible.values()):
        return True
    if unreadable and doubtful:
        raise ShardRestartError(_unknown(unreadable))
    return False


def _unknown(unreadable: Mapping[Place, str]) -> str:
    return (
        f"it is unknown whether a transaction in {named(unreadable)} was committed: {next(iter(unreadable.values()))}"
    )


def _headers(message: Message) -> list[tuple[str, bytes]] | None:
    headers = message.headers()
    return None if headers is None else cast("list[tuple[str, bytes]]", headers)


def _each(offset_ranges: Collection[tuple[int, int]]) -> Iterator[int]:
    return (offset for first, last in offset_ranges for offset in range(first, last + 1))
