"""Contents of the transaction of one batch: rows, dedup index, progress, checkpoints and the record of the shard.

The checkpoints name the offsets of the batch's rows. Their records are therefore made while the transaction is open,
after its rows were written.
"""

from collections import Counter
from collections.abc import Callable, Collection, Mapping
from datetime import datetime
from functools import cache
from typing import NamedTuple

import numpy as np
from msgspec import structs

from connector.core import lateness
from connector.core.dedup import DedupIndex
from connector.core.windows import Rules
from connector.kafka.limits import Limits, TooLong
from connector.kafka.publishing import Offsets, Outgoing, TransactionContents, TransactionRecord
from connector.kafka.seen import Record
from connector.kafka.state import Checkpoint, StateIdentity, checkpoint_key, checkpoint_record, shard_record
from connector.kafka.topics import Names
from connector.pipeline.change import Change, hour
from connector.pipeline.progress_records import ProgressRecords, last_stated
from connector.pipeline.tenant_state import TenantState

_CHECKPOINT_GROWTH = 10_000
_FAR_OFFSET = 10**12


class ShardPosition(NamedTuple):
    """Content of the shard's record apart from its transaction."""

    number: int
    identity: StateIdentity
    control_offset: int
    "Offset of the next command. It moves past a command in the transaction that writes the command's effect."
    control_id: str = ""
    kept: tuple[str, ...] = ()
    "Commands for tenants that are not read."


class StateTopics(NamedTuple):
    """Topics to which the state of a batch is written, with what is known of them."""

    names: Names
    partitions: Mapping[str, int]
    "Number of partitions per row topic."
    limits: Limits
    progress: ProgressRecords
    topic_ids: Callable[[Collection[str]], Mapping[str, str]]
    "Returns the brokers' ids of topics, where they are known. Blocks."


class BatchContents(TransactionContents):
    """Contents of one batch. An aborted transaction is repeated with the same object."""

    def __init__(
        self,
        changes: Mapping[str, Change],
        accounts: Mapping[str, TenantState],
        shard: ShardPosition,
        now: datetime,
        topics: StateTopics,
    ) -> None:
        """Take closed changes: no items may be added to them afterwards."""
        self._changes = changes
        self._accounts = accounts
        self._shard = shard
        self._now = now
        self._topics = topics
        self._counted = cache(self._count)

    @property
    def rows(self) -> dict[str, list[Outgoing]]:
        """Return the rows and dead letters of all tenants by tag."""
        return {tag: r for tenant, change in self._changes.items() for tag, r in change.records(tenant).items()}

    def interim_checkpoints(self, offsets: Offsets) -> list[Outgoing]:
        """Return the previous checkpoints with the offsets of this batch's rows.

        They matter with at-least-once delivery, where a batch is not a transaction: after a crash the dedup index may
        hold rows that no checkpoint covers. Those rows are not published again, and without these checkpoints the next
        progress record would name offsets below them.
        """
        topic_ids, records = self._topic_ids(), []
        for tenant, change in self._changes.items():
            if change.rows:
                before = self._located(tenant, offsets.get(tenant, {}), topic_ids)
                interim = structs.replace(before, records=before.records + len(change.rows))
                records.append(self._internal(self._topics.names.state, checkpoint_record(tenant, interim)))
        return records

    def final_records(self, offsets: Offsets) -> list[Outgoing]:
        """Return the records of the dedup index, progress and checkpoints."""
        topic_ids, records = self._topic_ids(), self._seen()
        for tenant, change in self._changes.items():
            if change.ends_account:
                records.append(self._internal(self._topics.names.state, Record(checkpoint_key(tenant), None)))
                continue
            account = self._accounts[tenant]
            before = self._located(tenant, offsets.get(tenant, {}), topic_ids)
            stated = last_stated(before)
            if not account.retired:
                records += self._topics.progress.due(change.state, stated, account, before.offsets, self._now)
            change.checkpoint = structs.replace(
                self._counted(tenant),
                offsets=before.offsets,
                topic_id=before.topic_id,
                stated=tuple((overlap, one.through_s, one.at_s) for overlap, one in stated.items()),
                stated_gaps=tuple((overlap, one.gap_s) for overlap, one in stated.items() if one.gap_s is not None),
            )
            record = checkpoint_record(tenant, change.checkpoint)
            change.checkpoint_bytes = len(record.value or b"")
            records.append(self._internal(self._topics.names.state, record))
        return records

    def shard_record(self, transaction: TransactionRecord) -> list[Outgoing]:
        """Return the record of the shard."""
        _, identity, control_offset, control_id, kept = self._shard
        record = shard_record(identity, control_offset, *transaction, control_id=control_id, kept=kept)
        return [self._internal(self._topics.names.state, record)]

    def too_long(self) -> TooLong | None:
        """Return a record that the batch cannot do without and that is too long for its topic; None if all fit.

        Rows are measured when their records are made. Checkpoints are measured here, and only when one might have
        become too long: a checkpoint does not grow to more than twice its length plus 10,000 bytes in one batch.
        """
        records = self._seen()
        for change in self._changes.values():
            records += change.dead_letters
        room = self._topics.limits.room(self._topics.names.state)
        lengths = [self._accounts[tenant].checkpoint_bytes for tenant in self._changes]
        if any(not length or 2 * length + _CHECKPOINT_GROWTH > room for length in lengths):
            records += [self._longest_checkpoint(tenant) for tenant in self._changes]
        return self._topics.limits.too_long(records)

    def _longest_checkpoint(self, tenant: str) -> Outgoing:
        """Return a tenant's checkpoint as long as the offsets and statements of this batch can make it."""
        account = self._accounts[tenant]
        overlaps = [int(sweep.sweep.overlap.total_seconds()) for sweep in self._changes[tenant].state.sweeps]
        stated = last_stated(account.checkpoint).keys() | set(overlaps)
        longest = structs.replace(
            self._counted(tenant),
            offsets=(_FAR_OFFSET,) * self._topics.partitions.get(account.tenant.topic, 0),
            stated=tuple((overlap, _FAR_OFFSET, _FAR_OFFSET) for overlap in stated),
            stated_gaps=tuple((overlap, _FAR_OFFSET) for overlap in stated),
        )
        return self._internal(self._topics.names.state, checkpoint_record(tenant, longest))

    def _seen(self) -> list[Outgoing]:
        written = [written for change in self._changes.values() for written in change.written]
        return [self._internal(self._topics.names.seen, record) for part in written for record in part.records]

    def _count(self, tenant: str) -> Checkpoint:
        """Return a tenant's next checkpoint without what depends on the offsets of its rows."""
        account, change = self._accounts[tenant], self._changes[tenant]
        before = account.checkpoint
        return Checkpoint(
            account.tenant.topic,
            change.state,
            before.records + len(change.rows),
            failing=change.failing,
            found=_found(before.found, change.found, account.rules),
            remembered=_remembered(change, account.remembered),
            ages=lateness.counted(before.ages, change.ages_s),
            dead_letters=before.dead_letters + len(change.dead_letters),
        )

    def _topic_ids(self) -> Mapping[str, str]:
        read = [self._accounts[tenant] for tenant in self._changes if not self._accounts[tenant].retired]
        return self._topics.topic_ids({account.tenant.topic for account in read})

    def _located(self, tenant: str, newest: Mapping[int, int], topic_ids: Mapping[str, str]) -> Checkpoint:
        """Return the committed checkpoint with, by partition, the offset after the tenant's last record.

        `newest`: the offsets of the batch's rows. Another id of the topic, or an offset lower than the previous one,
        proves that the topic was deleted and created again. Offsets that are known of it then belong to the old topic,
        and consumers would wait for them forever. The id is requested after the rows are written, so it is the id of
        the topic that contains them. If the id of a topic with new rows is not known, the checkpoint has none: with
        the old id, the next batch would discard the offsets of these rows.
        """
        account = self._accounts[tenant]
        before, topic = account.checkpoint, account.tenant.topic
        current = topic_ids.get(topic, "" if newest else before.topic_id)
        is_new = bool(current and before.topic_id) and current != before.topic_id
        if is_new or any(newest.get(partition, offset) < offset for partition, offset in enumerate(before.offsets)):
            before = structs.replace(before, offsets=(), stated=())
        known = list(before.offsets) + [0] * (self._topics.partitions.get(topic, 0) - len(before.offsets))
        for partition, offset in newest.items():
            known += [0] * (partition + 1 - len(known))
            known[partition] = offset
        return structs.replace(before, offsets=tuple(known), topic_id=current)

    def _internal(self, topic: str, record: Record) -> Outgoing:
        """Return a record for the shard's partition of an internal topic. It is given, never left to the key."""
        return Outgoing(topic, record.key, record.value, partition=self._shard.number)


def _remembered(change: Change, remembered: DedupIndex) -> int:
    """Return the number of rows in the dedup index once the batch is committed and old rows are forgotten."""
    before = hour(change.state.forgotten_before)
    kept = remembered.count_from(before)
    if not change.entries:
        return kept
    entries, hours = np.concatenate(change.entries), np.concatenate(change.hours)
    known, _ = remembered.find(entries)
    return kept + len(np.unique(entries[~known & (hours >= before)][["hi", "lo"]]))


def _found(before: tuple[tuple[int, int], ...], found: Counter[int], rules: Rules) -> tuple[tuple[int, int], ...]:
    """Return the number of rows per overlap (in seconds) of the sweep that found them, with the batch's rows added."""
    total = Counter(dict(before))
    for index, rows in found.items():
        if index < len(rules.sweeps):
            total[int(rules.sweeps[index].overlap.total_seconds())] += rows
    return tuple(sorted(total.items()))
