"""Recovery of records that hanging transactions have lost.

A transaction hangs in a partition if it has ended but its marker never reached that partition. Kafka 4.3.0, 4.3.1 and
4.4.0 treat a partition without a leader as deleted (KAFKA-20734). An acknowledged commit or abort may therefore never
reach a partition whose replicas were all unavailable. `read_committed` readers then wait there, until the next marker
of the same producer id in that partition, commit or abort, decides the records. A shard recovers as ADR 9 says:

1. It aborts its transactions that are still open. This hides nothing that a reader has seen.
2. A transaction was committed if any of its records is visible in any partition. The others were aborted.
3. Records that a committed transaction has lost are still in the log. They are written again in one transaction.
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
    """A completely written transaction that a `read_committed` reader of the state topic does not find."""

    record: ShardRecord
    values: dict[bytes, bytes | None]
    "Its records in the state topic."


class LostCommits(NamedTuple):
    """Records that committed transactions have lost."""

    record: ShardRecord | None
    "Shard's record of the newest committed transaction."
    records: dict[Place, list[Message]]
    checkpoints: dict[bytes, bytes | None]
    "Records that the state topic lacks because of the loss, by key."


class Look(NamedTuple):
    """A shard, and what a `read_committed` reader finds in its partitions of the internal topics."""

    clients: Clients
    names: Names
    shard: int
    read: PartitionContents

    @property
    def internal(self) -> tuple[Place, Place]:
        """Return the partitions that only this shard writes to."""
        return (self.names.state, self.shard), (self.names.seen, self.shard)

    @property
    def last(self) -> ShardRecord | None:
        """Return the shard's record of the last transaction that is visible in the state topic."""
        return state.restore(self.read.values[self.names.state]).shard

    @property
    def was_transaction(self) -> bool:
        """Return whether the shard's last visible record was written in a transaction."""
        return self.last is not None and bool(self.last.transaction)


def open_places(look: Look, row_topics: Collection[str], is_stopped: Callable[[], bool]) -> set[Place]:
    """Return the partitions in which a transaction stays open that may belong to this shard. Blocks."""
    ends: dict[Place, int | None] = dict.fromkeys(_watched(look, row_topics))
    return visibility.undecided(look.clients, ends, look.clients.decided_within_s, is_stopped)


def _watched(look: Look, row_topics: Collection[str]) -> set[Place]:
    """Return the partitions in which the shard may have left a transaction open.

    They are those of its tenants' topics as they exist now, those that its transactions name, and the internal ones.
    """
    restored = state.restore(look.read.values[look.names.state])
    known = {*row_topics, *(checkpoint.topic for checkpoint in restored.checkpoints.values())}
    try:
        metadata = look.clients.asking.list_topics(timeout=_METADATA_S).topics
    except KafkaException as error:
        raise ShardRestartError(f"looking for partitions: {error.args[0].str()}") from error
    partitions = {
        (name, number)
        for topic in known
        for name in topics.of_rows(topic)
        if name in metadata
        for number in metadata[name].partitions
    }
    records = [restored.shard, *(unseen.record for unseen in unseen_transactions(look))]
    places = merge(*(_places(record) for record in records if record is not None))
    if restored.shard is not None and not restored.shard.transaction:
        # The last record was written without an identity, so it would be unknown which records an abort takes away.
        # What hangs in row topics is left as it is: the next commit there publishes it.
        partitions = set()
    return partitions | last_offsets(places).keys() | set(look.internal)


def find_lost(look: Look, ended: Collection[Place], is_stopped: Callable[[], bool]) -> LostCommits:
    """Return the records that committed transactions have lost. No transaction of the shard may be open.

    `ended`: the partitions in which an open transaction was aborted. Blocks. Raises ShardRestartError when the outcome
    of a transaction cannot be known.
    """
    last, unseen = look.last, unseen_transactions(look)
    records = [record for record in (last, *(one.record for one in unseen)) if record is not None]
    _check_decided(look, merge(*(_places(record) for record in records)), is_stopped)
    # Where records were aborted just now or were never proven, a partition that cannot be read leaves the outcome open.
    doubtful = {*ended, *(place for one in unseen for place in last_offsets(one.record.unproven))}
    newest, checkpoints = last, dict[bytes, bytes | None]()
    committed = [] if last is None else [_places(last)]
    for one in unseen:
        if _was_committed(look.clients, one, doubtful):
            committed.append(_places(one.record))
            checkpoints |= one.values
            newest = one.record
    lost = visibility.lost(look.clients, merge(*committed))
    unreadable = lost.unreadable
    if doubtful & unreadable.keys():
        raise ShardRestartError(_unknown(unreadable))
    if unreadable:
        _logger.warning("transaction_unverified", shard=look.shard, reason=next(iter(unreadable.values())))
    checkpoints.pop(state.SHARD, None)
    return LostCommits(newest, lost.records, checkpoints)


def unseen_transactions(look: Look) -> list[Unseen]:
    """Return the transactions behind the last record that a reader of the state topic finds, oldest first."""
    place = look.names.state, look.shard
    start = look.read.offsets[look.names.state] + 1
    end = visibility.offsets(look.clients, [place], IsolationLevel.READ_UNCOMMITTED).get(place)
    if end is None:
        raise ShardRestartError(f"looking for the end of {named([place])}: no answer")
    if end <= start:
        return []
    messages, _ = visibility.read(look.clients, {place: (start, end - 1)}, "read_uncommitted")
    found: dict[str, dict[bytes, bytes | None]] = {}
    for message in messages[place].values():
        headers = cast("dict[str, bytes]", dict(message.headers() or []))
        found.setdefault(headers.get(HEADER, b"").decode(), {})[message.key() or b""] = message.value()
    return [
        Unseen(msgspec.json.decode(value, type=ShardRecord), values)
        for transaction, values in found.items()
        if transaction and (value := values.get(state.SHARD)) is not None
    ]


def records_again(look: Look, lost: LostCommits) -> dict[str, list[Outgoing]]:
    """Return by topic the records to write again, except progress records. Progress is stated again later."""
    progress = {topics.progress(checkpoint.topic) for checkpoint in _checkpoints(look, lost).values()}
    again: dict[str, list[Outgoing]] = {}
    for (topic, number), messages in lost.records.items():
        if topic not in progress:
            again.setdefault(topic, []).extend(
                Outgoing(topic, m.key(), m.value(), number, m.timestamp()[1], _headers(m)) for m in messages
            )
    return again


def state_again(look: Look, lost: LostCommits, written: Places) -> list[Outgoing]:
    """Return the state records that belong to records that were written again.

    `written`: where the records lie now. Their offsets in the checkpoints change accordingly.
    """
    # Old offset to new offset, per partition: records are written again in the order in which they were read.
    moved = {
        (topic, number): dict(zip((m.offset() for m in lost.records[topic, number]), _each(runs), strict=True))
        for topic, partitions in written.items()
        for number, runs in partitions.items()
        if (topic, number) in lost.records
    }
    # Progress records are keyed by tenant. A tenant that lost one gets a new checkpoint and states its progress again.
    tenants = {str((m.key() or b"").decode()).lower() for of in lost.records.values() for m in of}
    values = dict(lost.checkpoints)
    for tenant, checkpoint in _checkpoints(look, lost).items():
        offsets = tuple(
            moved.get((checkpoint.topic, number), {}).get(end - 1, end - 1) + 1
            for number, end in enumerate(checkpoint.offsets)
        )
        if offsets != checkpoint.offsets or tenant in tenants:
            record = state.checkpoint_record(tenant, msgspec.structs.replace(checkpoint, offsets=offsets, stated=()))
            values[record.key] = record.value
    return [Outgoing(look.names.state, key, value, look.shard) for key, value in values.items()]


def shard_again(look: Look, lost: LostCommits, transaction: TransactionRecord) -> list[Outgoing]:
    """Return the record of the shard that ends the transaction in which everything is written again."""
    if lost.record is None:
        return []
    record = msgspec.structs.replace(
        lost.record, transaction=transaction.transaction, places=transaction.places, unproven=transaction.unproven
    )
    return [Outgoing(look.names.state, state.SHARD, msgspec.json.encode(record), look.shard)]


def _places(record: ShardRecord) -> Places:
    return merge(record.unproven, record.places)


def _checkpoints(look: Look, lost: LostCommits) -> dict[str, state.Checkpoint]:
    """Return the tenants' checkpoints as they would be without the loss."""
    values: dict[bytes, bytes | None] = {**look.read.values[look.names.state], **lost.checkpoints}
    return state.restore({key: value for key, value in values.items() if value is not None}).checkpoints


def _check_decided(look: Look, places: Places, is_stopped: Callable[[], bool]) -> None:
    """Raise ShardRestartError if a transaction of another producer hides whether ours was committed."""
    ends: dict[Place, int | None] = {place: last + 1 for place, last in last_offsets(places).items()}
    hidden = visibility.undecided(look.clients, ends, look.clients.decided_within_s, is_stopped)
    if hidden:
        raise ShardRestartError(
            f"records of this shard in {named(hidden)} lie behind a transaction of another producer that is open: "
            "wait for its end, or end it with kafka-transactions.sh (find-hanging, then abort)"
        )


def _was_committed(clients: Clients, one: Unseen, doubtful: Collection[Place]) -> bool:
    """Return whether any record of the transaction is visible. Raises ShardRestartError if that cannot be known."""
    ends = {place: (end, end) for place, end in last_offsets(one.record.places).items()}
    visible, unreadable = visibility.read(clients, ends, "read_committed")
    if any(visible.values()):
        return True
    if unreadable and doubtful:
        raise ShardRestartError(_unknown(unreadable))
    return False


def _unknown(unreadable: Mapping[Place, str]) -> str:
    return f"whether a transaction was committed cannot be known: {next(iter(unreadable.values()))}"


def _headers(message: Message) -> list[tuple[str, bytes]] | None:
    headers = message.headers()
    return None if headers is None else cast("list[tuple[str, bytes]]", headers)


def _each(runs: Collection[tuple[int, int]]) -> Iterator[int]:
    return (offset for first, last in runs for offset in range(first, last + 1))
