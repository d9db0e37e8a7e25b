"""Contents of the transaction of one batch.

The contents are rows, dead letters, deduplication index, progress records, checkpoints and the record of the shard. A
checkpoint contains the offsets of the rows. It can therefore only be made while the transaction is open, after the rows
were written.
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
    """Data of a shard that every batch writes to the shard's record in `{app}.state`.

    The data about the transaction is not part of it. It is added when the transaction is written.
    """

    number: int
    identity: StateIdentity
    control_offset: int
    """Offset of the next command to execute. It moves past a command in the same transaction that writes the command's
    effect.
    """
    control_id: str = ""
    kept: tuple[str, ...] = ()
    "Commands that wait until their tenant is read by this shard, as JSON."


class StateTopics(NamedTuple):
    """Topics to which the state of a batch is written, with their length limits and the builder of progress records."""

    names: Names
    partitions: Mapping[str, int]
    "Number of partitions per row topic."
    limits: Limits
    progress: ProgressRecords
    topic_ids: Callable[[Collection[str]], Mapping[str, str]]
    "Function that returns the ids which brokers have given to topics, as far as they are known. Blocks."


class BatchContents(TransactionContents):
    """Contents of one batch. If its transaction is aborted, the next attempt writes the same contents."""

    def __init__(
        self,
        changes: Mapping[str, Change],
        tenant_states: Mapping[str, TenantState],
        shard: ShardPosition,
        now: datetime,
        topics: StateTopics,
    ) -> None:
        """Create the contents of the transaction that writes `changes`.

        Call `Batches.close` first. It adds the records of the deduplication index to the changes, and chooses the rows
        that the index forgets.
        """
        self._changes = changes
        self._tenant_states = tenant_states
        self._shard = shard
        self._now = now
        self._topics = topics
        self._cached_checkpoint = cache(self._next_checkpoint)

    @property
    def rows(self) -> dict[str, list[Outgoing]]:
        """Return the rows and dead letters of all tenants, by tag.

        Each tenant has one tag for its rows and another for its dead letters. The publisher reports the offsets per
        tag.
        """
        return {tag: r for tenant, change in self._changes.items() for tag, r in change.records(tenant).items()}

    def interim_checkpoints(self, offsets: Offsets) -> list[Outgoing]:
        """Return the committed checkpoints with the offsets of this batch's rows.

        They are written only with at-least-once delivery, where a crash can leave a batch half written. After the
        crash, rows in the deduplication index are not published again. Their offsets would then be missing from every
        later checkpoint.
        """
        topic_ids, records = self._topic_ids(), []
        for tenant, change in self._changes.items():
            if change.rows:
                before = self._with_offsets(tenant, offsets.get(tenant, {}), topic_ids)
                interim = structs.replace(before, records=before.records + len(change.rows))
                records.append(self._internal(self._topics.names.state, checkpoint_record(tenant, interim)))
        return records

    def final_records(self, offsets: Offsets) -> list[Outgoing]:
        """Return the records of the deduplication index, the progress records and the new checkpoints.

        Each new checkpoint is also stored in the tenant's Change, so that it can be applied after the commit.
        """
        topic_ids, records = self._topic_ids(), self._seen()
        for tenant, change in self._changes.items():
            if change.deletes_state:
                records.append(self._internal(self._topics.names.state, Record(checkpoint_key(tenant), None)))
                continue
            tenant_state = self._tenant_states[tenant]
            before = self._with_offsets(tenant, offsets.get(tenant, {}), topic_ids)
            stated = last_stated(before)
            if not tenant_state.retired:
                records += self._topics.progress.due(change.state, stated, tenant_state, before.offsets, self._now)
            change.checkpoint = structs.replace(
                self._cached_checkpoint(tenant),
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
        """Return the record of the shard, in a list."""
        _, identity, control_offset, control_id, kept = self._shard
        record = shard_record(identity, control_offset, *transaction, control_id=control_id, kept=kept)
        return [self._internal(self._topics.names.state, record)]

    def too_long(self) -> TooLong | None:
        """Return a record that is too long for its topic and prevents the commit; None if all records fit.

        Only dead letters and state are checked here. The length of a row is checked when its record is made.
        Checkpoints are measured only if one of them might be too long: one batch at most doubles a checkpoint and adds
        10,000 bytes.
        """
        records = self._seen()
        for change in self._changes.values():
            records += change.dead_letters
        room = self._topics.limits.room(self._topics.names.state)
        lengths = [self._tenant_states[tenant].checkpoint_bytes for tenant in self._changes]
        if any(not length or 2 * length + _CHECKPOINT_GROWTH > room for length in lengths):
            records += [self._longest_checkpoint(tenant) for tenant in self._changes]
        return self._topics.limits.too_long(records)

    def _longest_checkpoint(self, tenant: str) -> Outgoing:
        """Return the longest checkpoint that this batch can write for a tenant, to check its length in advance.

        Offsets and times of progress records are known only after the rows were written. Numbers with many digits stand
        for them.
        """
        tenant_state = self._tenant_states[tenant]
        overlaps = [int(sweep.sweep.overlap.total_seconds()) for sweep in self._changes[tenant].state.sweeps]
        stated = last_stated(tenant_state.checkpoint).keys() | set(overlaps)
        longest = structs.replace(
            self._cached_checkpoint(tenant),
            offsets=(_FAR_OFFSET,) * self._topics.partitions.get(tenant_state.tenant.topic, 0),
            stated=tuple((overlap, _FAR_OFFSET, _FAR_OFFSET) for overlap in stated),
            stated_gaps=tuple((overlap, _FAR_OFFSET) for overlap in stated),
        )
        return self._internal(self._topics.names.state, checkpoint_record(tenant, longest))

    def _seen(self) -> list[Outgoing]:
        written = [written for change in self._changes.values() for written in change.written]
        return [self._internal(self._topics.names.seen, record) for part in written for record in part.records]

    def _next_checkpoint(self, tenant: str) -> Checkpoint:
        """Return a tenant's next checkpoint, without the new offsets and progress records, which the caller adds."""
        tenant_state, change = self._tenant_states[tenant], self._changes[tenant]
        before = tenant_state.checkpoint
        return Checkpoint(
            tenant_state.tenant.topic,
            change.state,
            before.records + len(change.rows),
            failing=change.failing,
            found=_found(before.found, change.found, tenant_state.rules),
            remembered=_index_size(change, tenant_state.remembered),
            ages=lateness.counted(before.ages, change.ages_s),
            dead_letters=before.dead_letters + len(change.dead_letters),
        )

    def _topic_ids(self) -> Mapping[str, str]:
        read = [self._tenant_states[tenant] for tenant in self._changes if not self._tenant_states[tenant].retired]
        return self._topics.topic_ids({tenant_state.tenant.topic for tenant_state in read})

    def _with_offsets(self, tenant: str, newest: Mapping[int, int], topic_ids: Mapping[str, str]) -> Checkpoint:
        """Return the committed checkpoint with new offsets: per partition, the offset after the tenant's last record.

        `newest` holds the offsets after this batch's rows. If the topic was deleted and created again, the old offsets
        are dropped, because consumers would wait for them forever. A new topic is recognized by another topic id, or by
        an offset that is lower than before.

        `topic_ids` were requested after the rows were written, so they belong to the topics that contain the rows. If
        brokers report no id, the new offsets are stored without an id. With an outdated id, the next batch would drop
        the offsets.
        """
        tenant_state = self._tenant_states[tenant]
        before, topic = tenant_state.checkpoint, tenant_state.tenant.topic
        current = topic_ids.get(topic, "" if newest else before.topic_id)
        is_new = bool(current and before.topic_id) and current != before.topic_id
        if is_new or any(newest.get(partition, offset) < offset for partition, offset in enumerate(before.offsets)):
            before = structs.replace(before, offsets=(), stated=())
        # One offset per partition; 0 stands for a partition without a record of the tenant.
        known = list(before.offsets) + [0] * (self._topics.partitions.get(topic, 0) - len(before.offsets))
        for partition, offset in newest.items():
            known += [0] * (partition + 1 - len(known))
            known[partition] = offset
        return structs.replace(before, offsets=tuple(known), topic_id=current)

    def _internal(self, topic: str, record: Record) -> Outgoing:
        """Return a record for an internal topic. It goes to the partition of this shard."""
        return Outgoing(topic, record.key, record.value, partition=self._shard.number)


def _index_size(change: Change, remembered: DedupIndex) -> int:
    """Return how many rows the deduplication index will hold after the commit."""
    before = hour(change.state.forgotten_before)
    kept = remembered.count_from(before)
    if not change.entries:
        return kept
    entries, hours = np.concatenate(change.entries), np.concatenate(change.hours)
    # Count each id that is not in the index yet once, although it may occur several times in the batch.
    known, _ = remembered.find(entries)
    return kept + len(np.unique(entries[~known & (hours >= before)][["hi", "lo"]]))


def _found(before: tuple[tuple[int, int], ...], found: Counter[int], rules: Rules) -> tuple[tuple[int, int], ...]:
    """Add the new rows that this batch has found to the number of rows that each sweep has found before.

    The keys of `before` and of the result are the overlaps of the sweeps in seconds. The keys of `found` are the
    indices of the sweeps.
    """
    total = Counter(dict(before))
    for index, rows in found.items():
        if index < len(rules.sweeps):
            total[int(rules.sweeps[index].overlap.total_seconds())] += rows
    return tuple(sorted(total.items()))
