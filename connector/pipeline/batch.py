"""Builder of batches: it turns the messages of the buffer into the records of one transaction.

The deduplication index changes only after the commit. Until then, the index entries of the batch's rows are in a second
index, `Change.pending`. Later pages of the same batch are compared with both indexes. If the transaction fails, the
second index is dropped with the batch. Only what `DedupIndex.mark_returned` stores changes before: no topic stores it.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import datetime

import numpy as np

from connector.config import Settings
from connector.core import horizon, jobs, windows
from connector.core.rows import RowSchema
from connector.kafka.limits import Limits
from connector.kafka.topics import Names
from connector.pipeline.batch_contents import BatchContents, ShardPosition, StateTopics
from connector.pipeline.change import Change, hour
from connector.pipeline.classification import RowClassifier
from connector.pipeline.messages import Commanded, Item, PageRead, RangeFailed, RunsDropped, RunsStarted, SliceRead
from connector.pipeline.progress_records import ProgressRecords
from connector.pipeline.row_encoder import RowEncoder
from connector.pipeline.tenant_state import TenantState

_TOMBSTONES_A_COMMIT = 1_000


class Batches:
    """Builder of batches. Its methods block and use the CPU, so they run in the producer's thread."""

    def __init__(
        self,
        settings: Settings,
        shape: RowSchema,
        partitions: Mapping[str, int],
        schema_ids: Mapping[str, int] | None = None,
        limits: Limits | None = None,
        topic_ids: Callable[[Collection[str]], Mapping[str, str]] = lambda _: {},
    ) -> None:
        """Create the builder.

        `partitions` maps each row topic to its number of partitions. `schema_ids` maps each topic to the id of its
        schema; it is None without a schema registry. The function `topic_ids` maps names of topics to the ids that
        brokers have given to these topics.
        """
        self._limits = limits or Limits()
        self._encoder = RowEncoder(settings.rows, shape, schema_ids, self._limits)
        self._classifier = RowClassifier(settings, shape, self._encoder, self._limits)
        self._names = Names(settings.kafka.app)
        progress = ProgressRecords(schema_ids, self._limits)
        self._topics = StateTopics(self._names, partitions, self._limits, progress, topic_ids)
        self._horizon = settings.dedup.horizon

    def prepare(
        self, items: Iterable[Item], tenant_states: Mapping[str, TenantState], changes: dict[str, Change]
    ) -> dict[str, Change]:
        """Add the effects of the messages `items` to `changes`, which holds one Change per tenant. Return `changes`.

        `tenant_states` holds the state of each tenant that was committed last.
        """
        self._encoder.renew_privacy()
        for item in items:
            if isinstance(item, Commanded) and item.command is None:
                continue
            tenant_state = tenant_states[item.tenant]
            if item.tenant not in changes:
                changes[item.tenant] = Change(tenant_state.checkpoint.state, failing=tenant_state.checkpoint.failing)
            self._add(item, tenant_state, changes[item.tenant])
        return changes

    def _add(self, item: Item, tenant_state: TenantState, change: Change) -> None:
        match item:
            case RunsStarted():
                if item.start is not None:
                    change.state = windows.start_earlier(change.state, tenant_state.rules, item.start, item.now)
                change.state, begun = windows.begin(change.state, tenant_state.rules, item.now)
                tenant_state.withdrawals.begun(begun, tenant_state.rules, tenant_state.remembered)
                change.begun.append(begun)
                change.overtaken.append(windows.overtaken(change.state, begun))
            case PageRead():
                self._classifier.read(item, tenant_state, change)
            case SliceRead():
                self._classifier.end_slice(item.slice, tenant_state, change)
                change.failing = None
                change.state, ended = windows.finish(
                    change.state, [(item.slice, item.steady)], item.now, tenant_state.rules
                )
                change.ended += ended
                withdrawn = tenant_state.withdrawals.ended(
                    ended, change.state, tenant_state.rules, tenant_state.remembered
                )
                change.withdrawn += [withdrawn] if withdrawn else []
            case RangeFailed():
                change.state = windows.range_failed(change.state, item.window, item.failure)
            case RunsDropped():
                tenant_state.suspended.clear()
                change.state, dropped = windows.drop_runs(change.state)
                change.dropped += dropped
                change.failing = (item.reason, item.message)
            case Commanded(command=jobs.Command() as command):
                oldest = item.now - tenant_state.rules.horizon
                change.state = windows.command(change.state, command, item.now, oldest)
                change.is_command = True

    def close(
        self, changes: Mapping[str, Change], tenant_states: Mapping[str, TenantState], now: datetime | None
    ) -> None:
        """Complete a batch: make the records of the deduplication index, and choose the entries that the index forgets.

        No messages may be added to `changes` afterwards. `now` is None until a response of Graph has confirmed that
        the local clock is right. Until then, the index forgets nothing.
        """
        for tenant, change in changes.items():
            self._close_change(change, tenant_states[tenant], now)

    def retire(self, changes: dict[str, Change], tenant_states: Mapping[str, TenantState], now: datetime) -> None:
        """Add a change for each tenant that is not configured any more and whose old state can be deleted.

        Rows behind the horizon are deleted first. The tenant itself is deleted when it has no rows left.
        """
        oldest = now - self._horizon
        for tenant, tenant_state in tenant_states.items():
            before = horizon.forget_before(tenant_state.checkpoint.state.forgotten_before, self._horizon, now)
            is_due = tenant_state.seen.is_due(hour(before)) or tenant_state.outlived(oldest)
            if tenant_state.retired and tenant not in changes and is_due:
                changes[tenant] = Change(tenant_state.checkpoint.state, failing=tenant_state.checkpoint.failing)

    def contents(
        self,
        changes: Mapping[str, Change],
        tenant_states: Mapping[str, TenantState],
        shard: ShardPosition,
        now: datetime,
    ) -> BatchContents:
        """Return the contents of the transaction that writes `changes`. Call `close` first to complete the changes."""
        return BatchContents(changes, tenant_states, shard, now, self._topics)

    def _close_change(self, change: Change, tenant_state: TenantState, now: datetime | None) -> None:
        if change.entries:
            entries = np.concatenate(change.entries)
            room = self._limits.room(self._names.seen)
            change.written.append(tenant_state.seen.write(entries, np.concatenate(change.hours), room))
        if now is None:
            return
        before = horizon.forget_before(change.state.forgotten_before, self._horizon, now)
        change.state = change.state._replace(forgotten_before=before)
        forgotten = tenant_state.seen.forget(hour(before), _TOMBSTONES_A_COMMIT)
        change.written.append(forgotten)
        is_empty = not change.entries and tenant_state.seen.is_emptied_by(forgotten)
        change.deletes_state = is_empty and tenant_state.outlived(now - self._horizon)
