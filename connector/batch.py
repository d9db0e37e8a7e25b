"""Batches: they turn what was read into what one transaction writes (deduplication, rows, Avro).

The dedup index changes only after the commit. Until then the entries of a batch lie in a pending index, which later
pages of the same batch are also compared with. The pending index is dropped together with the transaction.

Every row of a page ends in one of three ways: it is published, known already, or dead-lettered. The only exceptions are
rows that the dedup index may have forgotten: they are left out and counted in `Change.too_old`.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Any, NamedTuple

import msgspec
import numpy as np
from msgspec import structs
from numpy.typing import NDArray

from connector import log
from connector.config import Settings, Tenant
from connector.core import dedup, horizon, instants, jobs, lateness, windows
from connector.core.coverage import Window
from connector.core.dedup import DedupIndex, Entries, Hours
from connector.core.failing_ranges import RangeFailure
from connector.core.member_names import MemberNames
from connector.core.rows import InvalidRow, PageRows, Row, RowSchema, invalid_entry
from connector.core.windows import Rules, Slice, State
from connector.dead_letters import dead_letter
from connector.kafka import avro, topics
from connector.kafka.limits import MOST_OVERHEAD, Limits, TooLong, raise_command, size
from connector.kafka.publishing import Offsets, Outgoing
from connector.kafka.seen import Record, SeenLog, Written
from connector.kafka.state import Checkpoint, checkpoint_key, checkpoint_record
from connector.records import Made, RowRecords

_logger = log.get(__name__)
_STATE_PROGRESS_EVERY_S = 60
_TOMBSTONES_A_COMMIT = 1_000
_CHECKPOINT_GROWTH = 10_000
_FAR_OFFSET = 10**12
_NO_IDS: Mapping[str, str] = MappingProxyType({})


class SweepsBegun(NamedTuple):
    """Start of a run of every sweep that was due at `now`."""

    tenant: str
    now: datetime
    start: datetime | None = None
    "The tenant's start if the tenant was never read before, else None."


class PageRead(NamedTuple):
    """One page of a slice."""

    tenant: str
    slice: Slice
    raws: Sequence[msgspec.Raw]
    reading: PageRows
    received_at: datetime
    bytes: int
    uncounted: tuple[Window, ...]
    "Call time that was never read before (first start, outage). Its rows do not count towards lateness."
    requests: int = 1


class SliceRead(NamedTuple):
    """End of a slice. All of its pages were put into the buffer before this item."""

    tenant: str
    slice: Slice
    steady: bool
    now: datetime


class RangeFailed(NamedTuple):
    """Failure of a range of call time, which Graph did not serve."""

    tenant: str
    window: Window
    failure: RangeFailure


class RunsDropped(NamedTuple):
    """Failure of all of the tenant's runs that were in progress."""

    tenant: str
    reason: str
    message: str


class Commanded(NamedTuple):
    """Record of the control topic. A record without a command only moves the control offset past it."""

    offset: int
    now: datetime
    tenant: str = ""
    command: jobs.Command | None = None


Item = SweepsBegun | PageRead | SliceRead | RangeFailed | RunsDropped | Commanded


@dataclass
class TenantState:
    """State of one tenant as the shard has committed it."""

    tenant: Tenant
    rules: Rules
    checkpoint: Checkpoint
    remembered: DedupIndex
    seen: SeenLog
    checkpoint_bytes: int = 0
    "Length of the checkpoint that was written last; 0 if it is not known."
    retired: bool = False
    "True for a tenant that is not configured: it is not read, and its state is dropped at the horizon."

    def outlived(self, horizon: datetime) -> bool:
        """Return whether the tenant is retired and none of its call time that was read lies after `horizon`."""
        through = self.checkpoint.state.coverage.through or self.checkpoint.state.start
        return self.retired and through <= horizon


@dataclass
class Change:
    """Effect of a batch on one tenant, which `apply` puts into the tenant's state after the commit."""

    state: State
    pending: DedupIndex = field(default_factory=DedupIndex)
    entries: list[Entries] = field(default_factory=list)
    hours: list[Hours] = field(default_factory=list)
    rows: list[Outgoing] = field(default_factory=list)
    dead_letters: list[Outgoing] = field(default_factory=list)
    published: int = 0
    revised: int = 0
    duplicate: int = 0
    unknown_names: MemberNames = field(default_factory=MemberNames)
    unknown_count: int = 0
    lateness_s: list[float] = field(default_factory=list)
    found: Counter[int] = field(default_factory=Counter)
    "New rows per index of the sweep that found them, without rows of call time that was never read before."
    ages_s: list[float] = field(default_factory=list)
    "Seconds from call start to first read for those rows of `found` that have a start."
    oldest_received_at: datetime | None = None
    ended: list[int] = field(default_factory=list)
    begun: list[list[int]] = field(default_factory=list)
    overtaken: list[list[int]] = field(default_factory=list)
    "The sweeps that were started, per start, whose previous run had not ended."
    dropped: list[int] = field(default_factory=list)
    failing: tuple[str, str] | None = None
    is_command: bool = False
    too_old: int = 0
    "New rows that the dedup index may have forgotten: not published, and their call time does not count as read."
    written: list[Written] = field(default_factory=list)
    checkpoint: Checkpoint | None = None
    checkpoint_bytes: int = 0
    ends_account: bool = False
    "True if nothing is left of a retired tenant, so that its state is deleted."

    @property
    def has_rows(self) -> bool:
        """Return whether the batch publishes rows or dead letters."""
        return bool(self.rows or self.dead_letters)

    @property
    def is_urgent(self) -> bool:
        """Return whether the batch should be committed at once instead of waiting for more items."""
        return self.has_rows or self.is_command

    def records(self, tenant: str) -> dict[str, list[Outgoing]]:
        """Return the rows and dead letters by tag.

        The publisher reports offsets per tag. The rows have the tenant's own tag because the checkpoint needs their
        offsets.
        """
        return {tenant: self.rows, f"{tenant}/dead letters": self.dead_letters}


class Stated(NamedTuple):
    """The last statement about a sweep on the progress topic."""

    through_s: int = 0
    at_s: int = 0
    gap_s: int | None = None


_NEVER_STATED = Stated()


class _Origin(NamedTuple):
    """Page that rows were read from, with the tenant's state and the change that they belong to."""

    page: PageRead
    account: TenantState
    change: Change
    observed_ms: int
    uncounted_ms: tuple[tuple[int, int], ...]


class Batches:
    """Builder of batches. Its methods block and use the CPU, so they run in the producer's thread."""

    def __init__(
        self,
        settings: Settings,
        shape: RowSchema,
        partitions: Mapping[str, int],
        schema_ids: Mapping[str, int] | None = None,
        limits: Limits | None = None,
    ) -> None:
        """`partitions` and `schema_ids` are per topic. Without a schema registry `schema_ids` is None."""
        self._rows = settings.rows
        self._limits = limits or Limits()
        self._too_short: set[str] = set()
        "Progress topics that cannot take a progress record and for which this was logged."
        self._records = RowRecords(settings.rows, shape, schema_ids, self._limits)
        self._partitions = partitions
        self._names = topics.Names(settings.kafka.app)
        self._schema_ids = schema_ids
        self._encoders: dict[tuple[str, str], Callable[[Mapping[str, Any]], bytes]] = {}
        self._horizon = settings.dedup.horizon
        self._horizon_hours = settings.dedup.horizon // timedelta(hours=1)

    def prepare(
        self, items: Iterable[Item], accounts: Mapping[str, TenantState], changes: dict[str, Change]
    ) -> dict[str, Change]:
        """Add the effects of `items` to `changes` and return it. The tenants' states in `accounts` do not change."""
        self._records.renew_privacy()
        for item in items:
            if isinstance(item, Commanded) and item.command is None:
                continue
            account = accounts[item.tenant]
            if item.tenant not in changes:
                changes[item.tenant] = Change(account.checkpoint.state, failing=account.checkpoint.failing)
            change = changes[item.tenant]
            match item:
                case SweepsBegun():
                    if item.start is not None:
                        change.state = windows.start_earlier(change.state, account.rules, item.start, item.now)
                    change.state, begun = windows.begin(change.state, account.rules, item.now)
                    change.begun.append(begun)
                    change.overtaken.append(windows.overtaken(change.state, begun))
                case PageRead():
                    self._read(item, account, change)
                case SliceRead():
                    change.failing = None
                    change.state, ended = windows.finish(
                        change.state, [(item.slice, item.steady)], item.now, account.rules
                    )
                    change.ended += ended
                case RangeFailed():
                    change.state = windows.range_failed(change.state, item.window, item.failure)
                case RunsDropped():
                    change.state, dropped = windows.drop_runs(change.state)
                    change.dropped += dropped
                    change.failing = (item.reason, item.message)
                case Commanded(command=jobs.Command() as command):
                    oldest = item.now - account.rules.horizon
                    change.state = windows.command(change.state, command, item.now, oldest)
                    change.is_command = True
        return changes

    def close(self, changes: Mapping[str, Change], accounts: Mapping[str, TenantState], now: datetime | None) -> None:
        """Complete the changes: compute the records of the dedup index and which of its entries are forgotten.

        No items may be added afterwards. `now` is None while the time is not confirmed; then nothing is forgotten.
        """
        for tenant, change in changes.items():
            self._remember(change, accounts[tenant], now)

    def retire(self, changes: dict[str, Change], accounts: Mapping[str, TenantState], now: datetime) -> None:
        """Add a change for each tenant that is not configured and has something to forget at the horizon."""
        oldest = now - self._horizon
        for tenant, account in accounts.items():
            before = horizon.forget_before(account.checkpoint.state.forgotten_before, self._horizon, now)
            is_due = account.seen.is_due(_hour(before)) or account.outlived(oldest)
            if account.retired and tenant not in changes and is_due:
                changes[tenant] = Change(account.checkpoint.state, failing=account.checkpoint.failing)

    def _read(self, page: PageRead, account: TenantState, change: Change) -> None:
        entries = page.reading.entries
        observed_ms = instants.to_ms(page.received_at)
        uncounted_ms = tuple((instants.to_ms(start), instants.to_ms(end)) for start, end in page.uncounted)
        origin = _Origin(page, account, change, observed_ms, uncounted_ms)
        published, again, dead_letters = 0, 0, len(change.dead_letters)
        # An id may occur several times in one page. Each group has an id at most once, and later groups are compared
        # with the pending entries of earlier ones, so that a repeated row becomes a revision only if it differs.
        for number, group in enumerate(dedup.split_repeats(entries)):
            chosen = entries[group]
            verdict = dedup.classify(chosen, (change.pending, account.remembered), _older(page.reading, group))
            revisions = verdict.revisions
            wanted = verdict.new
            if not page.slice.again:
                wanted = self._certain(wanted, group, page, change)
            if self._rows.revisions == "ignore":
                # Under `again` a changed row is published with the revision that it already has.
                revisions[verdict.revised] -= 1
            elif len(verdict.revised):
                wanted = np.sort(np.concatenate([wanted, verdict.revised]))
            fresh = wanted
            # `again` publishes known rows too, but each id once: the first group holds one occurrence of every id.
            if page.slice.again and number == 0:
                wanted = np.arange(len(chosen))
            at = group[wanted].tolist()
            rows, raws = [page.reading.rows[index] for index in at], [page.raws[index] for index in at]
            made = self._publish(rows, revisions[wanted].tolist(), raws, origin)
            indices = wanted[made.at]
            # Rows that are published again are in the index already and must not get a new entry or revision.
            is_fresh = np.isin(indices, fresh)
            again += len(indices) - int(is_fresh.sum())
            indices = indices[is_fresh]
            published += len(indices)
            if len(indices):
                hours = dedup.hours_of(made.starts_ms, observed_ms, self._horizon_hours)[is_fresh]
                self._pend(change, dedup.with_revision(chosen[indices], revisions[indices]), hours)
        if page.slice.job:
            orders = jobs.counted(
                change.state.orders, page.slice.job, published + again, page.requests, page.received_at
            )
            change.state = change.state._replace(orders=orders)
        handled = published + again + len(change.dead_letters) - dead_letters
        change.duplicate += len(entries) - handled
        if handled and change.oldest_received_at is None:
            change.oldest_received_at = page.received_at

    @staticmethod
    def _certain(new: NDArray[np.intp], group: NDArray[np.intp], page: PageRead, change: Change) -> NDArray[np.intp]:
        """Return the rows of `new` that were certainly never published.

        A row whose call began before `forgotten_before` is left out, because the index may have forgotten it. This
        happens when a page chain takes so long that the horizon passes its call time meanwhile. windows.finish does
        not count that call time as read.
        """
        before = change.state.forgotten_before
        window = page.slice.window
        if window.start >= before:
            return new
        assumed_ms, before_ms = instants.to_ms(window.end) - 1, instants.to_ms(before)
        starts_ms = [_start_ms(page.reading.rows[index]) for index in group[new].tolist()]
        certain = np.array([(assumed_ms if start is None else start) >= before_ms for start in starts_ms], np.bool_)
        change.too_old += len(new) - int(certain.sum())
        return new[certain]

    def _publish(
        self, rows: list[Row | InvalidRow], revisions: list[int], raws: list[msgspec.Raw], origin: _Origin
    ) -> Made:
        """Add the records of valid rows to the change and dead-letter invalid rows; return the records made."""
        page, account, change, observed_ms, _ = origin
        chosen = [row for row in rows if not isinstance(row, InvalidRow)]
        fitting: Sequence[int] = range(len(rows))
        if len(chosen) < len(rows):
            fitting = [at for at, row in enumerate(rows) if not isinstance(row, InvalidRow)]
            raws, revisions = [raws[at] for at in fitting], [revisions[at] for at in fitting]
        made = self._records.make(chosen, raws, revisions, observed_ms, account.tenant)
        if made.unfit or len(chosen) < len(rows):
            for row in [row for row in rows if isinstance(row, InvalidRow)] + made.unfit:
                self._dead_letter(row, page, account, change)
        change.rows += made.records
        if made.unfit:
            chosen, revisions = [chosen[at] for at in made.at], [revisions[at] for at in made.at]
        revised = len(revisions) - revisions.count(0)
        change.revised += revised
        change.published += len(revisions) - revised
        _note_lateness(made, revisions, origin)
        for unknown in [row.unknown for row in chosen if row.unknown]:
            change.unknown_names.add(unknown)
            change.unknown_count += len(unknown)
        return made._replace(at=[fitting[at] for at in made.at])

    def _dead_letter(self, row: InvalidRow, page: PageRead, account: TenantState, change: Change) -> None:
        """Dead-letter a row, unless a row with the same bytes was dead-lettered before."""
        entry = invalid_entry(row.raw)
        if not len(dedup.classify(entry, (change.pending, account.remembered)).new):
            return
        observed_ms = instants.to_ms(page.received_at)
        value = self._records.dead_letter_value(row)
        tenant, window = account.tenant, page.slice.window
        change.dead_letters.append(dead_letter(row, value, tenant.topic, tenant.id, window, observed_ms, self._limits))
        self._pend(change, entry, dedup.hours_of([row.start_ms], observed_ms, self._horizon_hours))

    @staticmethod
    def _pend(change: Change, entries: Entries, hours: Hours) -> None:
        change.pending.put(entries, hours)
        change.entries.append(entries)
        change.hours.append(hours)

    def _remember(self, change: Change, account: TenantState, now: datetime | None) -> None:
        if change.entries:
            entries = np.concatenate(change.entries)
            room = self._limits.room(self._names.seen)
            change.written.append(account.seen.write(entries, np.concatenate(change.hours), room))
        if now is None:
            return
        before = horizon.forget_before(change.state.forgotten_before, self._horizon, now)
        change.state = change.state._replace(forgotten_before=before)
        forgotten = account.seen.forget(_hour(before), _TOMBSTONES_A_COMMIT)
        change.written.append(forgotten)
        is_empty = not change.entries and account.seen.is_emptied_by(forgotten)
        change.ends_account = is_empty and account.outlived(now - self._horizon)

    def noted(
        self,
        changes: Mapping[str, Change],
        accounts: Mapping[str, TenantState],
        offsets: Offsets,
        shard: int,
        topic_ids: Mapping[str, str] = _NO_IDS,
    ) -> list[Outgoing]:
        """Return the previous checkpoints with the offsets of this batch's rows.

        They matter with at-least-once delivery, where a batch is not a transaction: after a crash the dedup index may
        hold rows that no checkpoint covers. Those rows are not published again, and without these checkpoints the next
        progress record would name offsets below them.
        """
        records = []
        for tenant, change in changes.items():
            if change.rows:
                before = self._located(accounts[tenant], offsets.get(tenant, {}), topic_ids)
                noted = structs.replace(before, records=before.records + len(change.rows))
                records.append(self.internal(self._names.state, shard, checkpoint_record(tenant, noted)))
        return records

    def last(
        self,
        changes: Mapping[str, Change],
        accounts: Mapping[str, TenantState],
        offsets: Offsets,
        shard: int,
        now: datetime,
        topic_ids: Mapping[str, str] = _NO_IDS,
    ) -> list[Outgoing]:
        """Return the records that end a transaction: dedup index, progress and checkpoints.

        They need the offsets of the batch's rows, so they are made after the rows were produced. `topic_ids`: the
        brokers' ids of the row topics, where they are known.
        """
        records = []
        for tenant, change in changes.items():
            account = accounts[tenant]
            for written in change.written:
                records += [self.internal(self._names.seen, shard, record) for record in written.records]
            if change.ends_account:
                records.append(self.internal(self._names.state, shard, Record(checkpoint_key(tenant), None)))
                continue
            before = self._located(account, offsets.get(tenant, {}), topic_ids)
            gaps = dict(before.stated_gaps)
            stated = {overlap: Stated(through, at, gaps.get(overlap)) for overlap, through, at in before.stated}
            if not account.retired:
                records += self._statements(change.state, stated, account, before.offsets, now)
            change.checkpoint = Checkpoint(
                account.tenant.topic,
                change.state,
                before.records + len(change.rows),
                before.offsets,
                tuple((overlap, one.through_s, one.at_s) for overlap, one in stated.items()),
                change.failing,
                _found(before.found, change.found, account.rules),
                _remembered(change, account.remembered),
                lateness.counted(before.ages, change.ages_s),
                before.topic_id,
                tuple((overlap, one.gap_s) for overlap, one in stated.items() if one.gap_s is not None),
            )
            record = checkpoint_record(tenant, change.checkpoint)
            change.checkpoint_bytes = len(record.value or b"")
            records.append(self.internal(self._names.state, shard, record))
        return records

    def too_long(
        self, changes: Mapping[str, Change], accounts: Mapping[str, TenantState], shard: int, now: datetime
    ) -> TooLong | None:
        """Return a record that the batch cannot do without and that is too long for its topic; None if all fit.

        Rows are measured when their records are made. Checkpoints are measured here, and only when one might have
        become too long: a checkpoint does not grow to more than twice its length plus 10,000 bytes in one batch.
        """
        seen = [record for change in changes.values() for written in change.written for record in written.records]
        records = [self.internal(self._names.seen, shard, record) for record in seen]
        for change in changes.values():
            records += change.dead_letters
        lengths = [accounts[tenant].checkpoint_bytes for tenant in changes]
        if any(
            not length or 2 * length + _CHECKPOINT_GROWTH > self._limits.room(self._names.state) for length in lengths
        ):
            furthest = {
                tenant: dict.fromkeys(range(self._partitions.get(accounts[tenant].tenant.topic, 0)), _FAR_OFFSET)
                for tenant in changes
            }
            records += self.last(changes, accounts, furthest, shard, now)
        return self._limits.too_long(records)

    def _located(self, account: TenantState, newest: Mapping[int, int], topic_ids: Mapping[str, str]) -> Checkpoint:
        """Return the committed checkpoint with, by partition, the offset after the tenant's last record.

        `newest`: the offsets of the batch's rows. Another id of the topic, or an offset lower than the previous one,
        proves that the topic was deleted and created again. Offsets that are known of it then belong to the old topic,
        and consumers would wait for them forever. The id is requested after the rows are written, so it is the id of
        the topic that contains them. If the id of a topic with new rows is not known, the checkpoint has none: with
        the old id, the next batch would discard the offsets of these rows.
        """
        before, topic = account.checkpoint, account.tenant.topic
        current = topic_ids.get(topic, "" if newest else before.topic_id)
        is_new = bool(current and before.topic_id) and current != before.topic_id
        if is_new or any(newest.get(partition, offset) < offset for partition, offset in enumerate(before.offsets)):
            before = structs.replace(before, offsets=(), stated=())
        known = list(before.offsets) + [0] * (self._partitions.get(topic, 0) - len(before.offsets))
        for partition, offset in newest.items():
            known += [0] * (partition + 1 - len(known))
            known[partition] = offset
        return structs.replace(before, offsets=tuple(known), topic_id=current)

    def _statements(
        self,
        state: State,
        stated: dict[int, Stated],
        account: TenantState,
        offsets: Sequence[int],
        now: datetime,
    ) -> list[Outgoing]:
        """Return the progress records that are due, and update `stated`, which maps overlaps in seconds."""
        records = []
        now_s = instants.to_ms(now) // 1000
        for sweep_state in state.sweeps:
            overlap_s = int(sweep_state.sweep.overlap.total_seconds())
            last = stated.get(overlap_s, _NEVER_STATED)
            if sweep_state.through <= state.start or 0 <= now_s - last.at_s < _STATE_PROGRESS_EVERY_S:
                continue
            through_s, gap_s = instants.to_ms(sweep_state.through) // 1000, int(gap_seconds(state))
            if (through_s, gap_s) == (last.through_s, last.gap_s):
                continue
            topic = topics.progress(account.tenant.topic)
            value = self._encoder(avro.PROGRESS, topic)(
                {
                    "tenantId": account.tenant.id,
                    "overlapSeconds": overlap_s,
                    "completeThroughDateTime": through_s * 1000,
                    "observedDateTime": instants.to_ms(now),
                    "gapSeconds": gap_s,
                    "offsets": list(offsets),
                }
            )
            record = Outgoing(topic, account.tenant.id.encode(), value, partition=0)
            if self._limits.too_long([record]):
                self._log_long_statement(record)
                continue
            stated[overlap_s] = Stated(through_s, now_s, gap_s)
            records.append(record)
        return records

    def _log_long_statement(self, record: Outgoing) -> None:
        """Log, once per topic, that progress is not published. Consumers wait for it, but no row depends on it."""
        if record.topic not in self._too_short:
            self._too_short.add(record.topic)
            needed = size(record) + MOST_OVERHEAD
            _logger.warning("progress_too_long", topic=record.topic, remedy=raise_command(record.topic, needed))

    def _encoder(self, name: str, topic: str) -> Callable[[Mapping[str, Any]], bytes]:
        encode = self._encoders.get((name, topic))
        if encode is None:
            encode = avro.encoder(name, None if self._schema_ids is None else self._schema_ids[topic])
            self._encoders[name, topic] = encode
        return encode

    @staticmethod
    def internal(topic: str, shard: int, record: Record) -> Outgoing:
        """Return a record for the shard's partition of an internal topic.

        The partition is given, never left to the key.
        """
        return Outgoing(topic, record.key, record.value, partition=shard)


def apply(changes: Mapping[str, Change], accounts: Mapping[str, TenantState]) -> None:
    """Put the changes of a committed batch into the tenants' states."""
    for tenant, change in changes.items():
        account = accounts[tenant]
        for entries, hours in _by_batch(change):
            account.remembered.put(entries, hours)
        account.remembered.forget(_hour(change.state.forgotten_before))
        for written in change.written:
            account.seen.apply(written)
        if change.checkpoint is not None:
            _log_created_again(account, change.checkpoint)
            account.checkpoint, account.checkpoint_bytes = change.checkpoint, change.checkpoint_bytes


def _log_created_again(account: TenantState, after: Checkpoint) -> None:
    before = account.checkpoint
    if before.topic_id and after.topic_id and after.topic_id != before.topic_id:
        _logger.warning("topic_created_again", topic=after.topic, tenant=account.tenant.label)


def _by_batch(change: Change) -> Iterable[tuple[Entries, Hours]]:
    """Yield the entries and hours of a change, split so that no piece has an id twice."""
    if not change.entries:
        return
    entries = np.concatenate(change.entries)
    hours = np.concatenate(change.hours)
    for group in dedup.split_repeats(entries):
        yield entries[group], hours[group]


def gap_seconds(state: State) -> float:
    """Return the seconds between the tenant's start and the newest call time read that were never read."""
    return sum(gap.seconds for gap in windows.gaps(state))


def _remembered(change: Change, remembered: DedupIndex) -> int:
    """Return the number of rows in the dedup index once the batch is committed and old rows are forgotten."""
    before = _hour(change.state.forgotten_before)
    kept = remembered.count_from(before)
    if not change.entries:
        return kept
    entries, hours = np.concatenate(change.entries), np.concatenate(change.hours)
    known, _ = remembered.find(entries)
    return kept + len(np.unique(entries[~known & (hours >= before)][["hi", "lo"]]))


def _hour(moment: datetime) -> int:
    """Return the number of hours from the epoch to a full hour."""
    return instants.to_ms(moment) // dedup.HOUR_MS


def _start_ms(row: Row | InvalidRow) -> int | None:
    """Return when the call of a row began, in epoch milliseconds; None if it cannot be read."""
    if isinstance(row, InvalidRow):
        return row.start_ms
    try:
        return instants.parse_ms(row.values.startDateTime)
    except (TypeError, ValueError):
        return None


def _older(reading: PageRows, group: np.ndarray[Any, np.dtype[np.intp]]) -> dedup.Fingerprints | None:
    """Return a function for fingerprints of an older version, by index into `group`; None if the page has none."""
    of_all = reading.fingerprints
    return None if of_all is None else lambda layout, indices: of_all(layout, group[indices])


def _note_lateness(made: Made, revisions: list[int], origin: _Origin) -> None:
    """Record how late each new row was, except for rows of call time that was never read before."""
    page, _, change, observed_ms, uncounted_ms = origin
    for start_ms, end_ms, revision in zip(made.starts_ms, made.ends_ms, revisions, strict=True):
        late_since = start_ms if end_ms is None else end_ms
        if revision or late_since is None or not _counts(uncounted_ms, start_ms):
            continue
        change.lateness_s.append(max(0.0, (observed_ms - late_since) / 1000))
        change.found[page.slice.priority] += 1
        if start_ms is not None:
            change.ages_s.append((observed_ms - start_ms) / 1000)


def _counts(uncounted_ms: tuple[tuple[int, int], ...], start_ms: int | None) -> bool:
    if not uncounted_ms:
        return True
    if start_ms is None:
        return False
    for first, end in uncounted_ms:  # noqa: SIM110 - a generator costs more per row than comparing all windows
        if first <= start_ms < end:
            return False
    return True


def _found(before: tuple[tuple[int, int], ...], found: Counter[int], rules: Rules) -> tuple[tuple[int, int], ...]:
    """Return the number of rows per overlap (in seconds) of the sweep that found them, with the batch's rows added."""
    total = Counter(dict(before))
    for index, rows in found.items():
        if index < len(rules.sweeps):
            total[int(rules.sweeps[index].overlap.total_seconds())] += rows
    return tuple(sorted(total.items()))
