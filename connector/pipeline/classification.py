"""Classification of rows that were read: each row is published, dead-lettered, or left out because it is already known.

A row that looks new is left out too if the deduplication index may have forgotten it. It is counted in
`Change.too_old`.

Rows conflict if one id has different contents in one page, or in a page chain that is read again. One content is
chosen. Each other content is rejected and dead-lettered once (ADR 10).

A rejected content may be read again later, when no other content of its id is on the same page. Then the row is
suspended until its page chain has ended. It is published only if the chain contains no other content of the id.
"""

from collections.abc import Iterable
from datetime import timedelta

import msgspec
import numpy as np
import numpy.typing as npt

from connector.config import Settings
from connector.core import dedup, instants, jobs
from connector.core.dedup import DedupResult
from connector.core.fingerprints import ENTRY, UNFIT, id_keys, invalid_entry, rejected_entries
from connector.core.index_run import Entries, Hours
from connector.core.rows import InvalidRow, Row, RowSchema
from connector.core.windows import Slice
from connector.kafka.limits import Limits
from connector.pipeline.change import Change
from connector.pipeline.dead_letters import dead_letter
from connector.pipeline.messages import PageRead
from connector.pipeline.row_encoder import EncodedRow, FoundRow, RowEncoder
from connector.pipeline.tenant_state import TenantState

_CONFLICT_PROBLEM = "row: another row in the same page or page chain has the same id, but different contents"


class RowClassifier:
    """Classifier of rows: it decides which rows are published or dead-lettered. Only one thread uses it."""

    def __init__(self, settings: Settings, shape: RowSchema, encoder: RowEncoder, limits: Limits) -> None:
        self._shape = shape
        self._encoder = encoder
        self._limits = limits
        self._ignores_revisions = settings.rows.revisions == "ignore"
        self._horizon_hours = settings.dedup.horizon // timedelta(hours=1)

    def read(self, page: PageRead, tenant_state: TenantState, change: Change) -> None:
        """Classify the rows of a page, and add the resulting records and index entries to `change`."""
        if not page.number:
            tenant_state.suspended.pop(page.slice, None)
        result = self._classify(page, tenant_state, change)
        _mark_returned(result, page, tenant_state, change)
        if page.repeated or len(result.revised):
            result = self._without_conflicts(result, page, tenant_state, change)
        self._publish(result, page, tenant_state, change)

    def end_slice(self, piece: Slice, tenant_state: TenantState, change: Change) -> None:
        """Publish the suspended rows of a page chain that has ended.

        A row was suspended because its content was rejected before. No other content of its id has occurred in the
        chain; otherwise the row would not be suspended any more.
        """
        for page in tenant_state.suspended.pop(piece, {}).values():
            self._publish(self._classify(page, tenant_state, change), page, tenant_state, change)

    @staticmethod
    def _classify(page: PageRead, tenant_state: TenantState, change: Change) -> DedupResult:
        reading = page.reading
        return dedup.classify(reading.entries, (change.pending, tenant_state.remembered), reading.fingerprints)

    def _without_conflicts(
        self, result: DedupResult, page: PageRead, tenant_state: TenantState, change: Change
    ) -> DedupResult:
        """Remove rows from `result` that conflict with another row of their page chain, or may turn out to conflict.

        1. A revised row is rejected if its id was on an earlier page of the chain and its content was rejected before.
        2. A revised row is also rejected if its id was on two pages in this reading and in the reading before. An id
           that was on two pages only once counts as a revision, because Graph may have changed the row in between.
        3. A revised row is suspended until the chain ends if its content was rejected before, but its id is new in the
           chain.
        """
        suspended = tenant_state.suspended.get(page.slice, {})
        # The id of a suspended row has turned up again in the chain, so the suspended content stays rejected.
        for key in page.repeated & suspended.keys():
            del suspended[key]
            change.duplicate += 1
        # The masks below have one element per revised row.
        entries = page.reading.entries[result.revised]
        was_rejected, _ = dedup.find(rejected_entries(entries), (change.pending, tenant_state.remembered))
        is_repeated = _are_ids_in(page.repeated, entries)
        contradicts = is_repeated & (was_rejected | _are_ids_in(page.suspects, entries))
        waits = was_rejected & ~is_repeated & (not self._ignores_revisions)
        for index in result.revised[waits].tolist():
            key = int(page.reading.entries["hi"][index])
            tenant_state.suspended.setdefault(page.slice, {})[key] = self._single_row_page(page, index)
            change.duplicate -= 1  # it is counted when it is published, or when its id turns up again
        left_out = result.revised[contradicts | waits]
        return result._replace(
            revised=result.revised[~contradicts & ~waits],
            chosen=np.setdiff1d(result.chosen, left_out),
            rejected=np.concatenate([result.rejected, result.revised[contradicts]]),
        )

    def _single_row_page(self, page: PageRead, index: int) -> PageRead:
        """Make a page that contains only one row of `page`. It does not keep `page` in memory."""
        raw = msgspec.Raw(bytes(page.raws[index]))
        return page._replace(raws=[raw], reading=self._shape.read([raw]), bytes=len(bytes(raw)), requests=0)

    def _publish(self, result: DedupResult, page: PageRead, tenant_state: TenantState, change: Change) -> None:
        """Add records of new and revised rows to `change`, and dead letters of invalid and rejected rows."""
        observed_ms, letters = instants.to_ms(page.received_at), len(change.dead_letters)
        for index in result.rejected.tolist():
            self._reject(page, index, tenant_state, change)
        found = self._rows_to_publish(result, page)
        if not page.slice.again:
            found = _without_forgotten(found, page, change)
        outcomes = self._encoder.encode(found, observed_ms, tenant_state.tenant) if found else []
        encoded = [one for one in outcomes if not isinstance(one, InvalidRow)]
        if len(encoded) < len(found):
            found = [row for row, one in zip(found, outcomes, strict=True) if not isinstance(one, InvalidRow)]
            for one in outcomes:
                if isinstance(one, InvalidRow):
                    self._dead_letter(one, page, tenant_state, change)
        change.rows += [one.record for one in encoded]
        self._add_entries(found, encoded, page, change)
        _count(found, encoded, page, change)
        # Every other row of the page is known already or was dead-lettered before.
        handled = len(encoded) + len(change.dead_letters) - letters
        change.duplicate += len(page.reading.entries) - handled
        if handled and change.oldest_received_at is None:
            change.oldest_received_at = page.received_at

    def _add_entries(self, found: list[FoundRow], encoded: list[EncodedRow], page: PageRead, change: Change) -> None:
        """Add the index entries of new and revised rows to `change`.

        Known rows, which a backfill with `again` publishes once more, are already in the index.
        """
        observed_ms = instants.to_ms(page.received_at)
        starts_ms = [one.start_ms for row, one in zip(found, encoded, strict=True) if row.is_version]
        versions = found if len(starts_ms) == len(found) else [row for row in found if row.is_version]
        if versions:
            hours = dedup.hours_of(starts_ms, observed_ms, self._horizon_hours)
            entries = page.reading.entries[[row.at for row in versions]]
            revisions = np.array([row.revision for row in versions], np.int64)
            _add_pending(change, dedup.with_revision(entries, revisions), hours)

    def _rows_to_publish(self, result: DedupResult, page: PageRead) -> list[FoundRow]:
        """Return the rows to publish: new and revised rows and, for a backfill with `again`, known rows as well.

        If the configuration ignores revisions, a revised row counts as known, and keeps its revision number.
        """
        revisions, is_version = result.revisions, np.zeros(len(page.raws), np.bool_)
        is_version[result.new] = True
        if self._ignores_revisions:
            # `classify` has already counted the change as the next revision.
            revisions[result.revised] -= 1
        else:
            is_version[result.revised] = True
        at = result.chosen if page.slice.again else np.flatnonzero(is_version)
        indices = at.tolist()
        raws = page.raws
        return list(
            map(
                FoundRow,
                indices,
                page.reading.pick(indices),
                [raws[index] for index in indices],
                revisions[at].tolist(),
                is_version[at].tolist(),
            )
        )

    def _reject(self, page: PageRead, index: int, tenant_state: TenantState, change: Change) -> None:
        """Dead-letter a row that conflicts with another row, unless the same content was dead-lettered before."""
        row, raw = page.reading.rows[index], bytes(page.raws[index])
        letter = InvalidRow(raw, row.id, _CONFLICT_PROBLEM, _start_ms(row), is_conflict=True)
        entry = rejected_entries(page.reading.entries[[index]])
        change.conflicting += self._add_letter(letter, entry, page, tenant_state, change)

    def _dead_letter(self, row: InvalidRow, page: PageRead, tenant_state: TenantState, change: Change) -> None:
        """Dead-letter an invalid row, unless a row with the same bytes was dead-lettered before."""
        self._add_letter(row, invalid_entry(row.raw), page, tenant_state, change)

    def _add_letter(
        self, row: InvalidRow, entry: Entries, page: PageRead, tenant_state: TenantState, change: Change
    ) -> bool:
        """Add a dead letter and its index entry to `change`, unless the index already has the entry.

        Return whether the dead letter was added.
        """
        is_known, _ = dedup.find(entry, (change.pending, tenant_state.remembered))
        if is_known.any():
            return False
        observed_ms = instants.to_ms(page.received_at)
        value = self._encoder.dead_letter_value(row)
        tenant, window = tenant_state.tenant, page.slice.window
        letter = dead_letter(row, value, tenant.topic, tenant.id, window, observed_ms, self._limits)
        change.dead_letters.append(letter)
        _add_pending(change, entry, dedup.hours_of([row.start_ms], observed_ms, self._horizon_hours))
        return True


def _mark_returned(result: DedupResult, page: PageRead, tenant_state: TenantState, change: Change) -> None:
    """Mark the known rows of a page in the deduplication index as returned by Graph, with the hours of their calls.

    A row that was published and is invalid now is marked, too: Graph still has it. The hour counts only if the call
    lies in the range that was requested, and the index has not forgotten it.
    """
    entries, window = page.reading.entries, page.slice.window
    first_ms = instants.to_ms(max(window.start, change.state.forgotten_before))
    end_ms = instants.to_ms(window.end)

    def mark(entries: Entries, rows: Iterable[Row | InvalidRow]) -> None:
        starts_ms = map(_start_ms, rows)
        hours = [ms // dedup.HOUR_MS if ms is not None and first_ms <= ms < end_ms else -1 for ms in starts_ms]
        tenant_state.remembered.mark_returned(entries, np.array(hours, np.int64))

    if len(result.unmarked):
        mark(entries[result.unmarked], page.reading.pick(result.unmarked.tolist()))
    invalid_at = np.flatnonzero(entries["meta"] & UNFIT).tolist()
    if invalid := {row.id: row for row in page.reading.pick(invalid_at) if row.id}:
        by_id, keys = np.zeros(len(invalid), ENTRY), id_keys(map(str, invalid))
        by_id["hi"], by_id["lo"] = keys["hi"], keys["lo"]
        mark(by_id, invalid.values())


def _add_pending(change: Change, entries: Entries, hours: Hours) -> None:
    change.pending.put(entries, hours)
    change.entries.append(entries)
    change.hours.append(hours)


def _are_ids_in(ids: frozenset[int], entries: Entries) -> npt.NDArray[np.bool_]:
    """Return for each entry whether its id, as the first half of its hash, is in `ids`."""
    return np.isin(entries["hi"], np.array([*ids], np.uint64))


def _without_forgotten(found: list[FoundRow], page: PageRead, change: Change) -> list[FoundRow]:
    """Return `found` without new rows of calls that began before `forgotten_before`.

    The deduplication index may have forgotten that these rows were published. They are read if a page chain takes so
    long that the horizon moves past its call time. `windows.finish` does not count this call time as read.
    """
    before, window = change.state.forgotten_before, page.slice.window
    if window.start >= before:
        return found
    assumed_ms, before_ms = instants.to_ms(window.end) - 1, instants.to_ms(before)
    kept = []
    for one in found:
        start_ms = _start_ms(one.row)
        if one.revision or (assumed_ms if start_ms is None else start_ms) >= before_ms:
            kept.append(one)
    change.too_old += len(found) - len(kept)
    return kept


def _start_ms(row: Row | InvalidRow) -> int | None:
    """Return the start of a row's call in epoch milliseconds; None if it cannot be read."""
    if isinstance(row, InvalidRow):
        return row.start_ms
    try:
        return instants.parse_ms(row.values.startDateTime)
    except (TypeError, ValueError):
        return None


def _count(found: list[FoundRow], encoded: list[EncodedRow], page: PageRead, change: Change) -> None:
    """Count the published rows in `change`: new and revised rows, unknown members, lateness, and the rows of a job."""
    revised = sum([1 for row in found if row.revision])
    change.revised += revised
    change.published += len(found) - revised
    for row in found:
        if unknown := row.row.unknown:  # type: ignore[union-attr]  # invalid rows are not published
            change.unknown_names.add(unknown)
            change.unknown_count += len(unknown)
    _note_lateness(found, encoded, page, change)
    if page.slice.job:
        orders = jobs.counted(change.state.orders, page.slice.job, len(found), page.requests, page.received_at)
        change.state = change.state._replace(orders=orders)


def _note_lateness(found: list[FoundRow], encoded: list[EncodedRow], page: PageRead, change: Change) -> None:
    """Add the lateness of each new row to `change`, except for rows of call time that was never read before."""
    observed_ms = instants.to_ms(page.received_at)
    uncounted_ms = [(instants.to_ms(start), instants.to_ms(end)) for start, end in page.uncounted]
    new = [one for row, one in zip(found, encoded, strict=True) if not row.revision]
    if uncounted_ms:
        new = [one for one in new if _counts_for_lateness(uncounted_ms, one.start_ms)]
    since_ms = [one.start_ms if one.end_ms is None else one.end_ms for one in new]
    lateness_s = [max(0.0, (observed_ms - since) / 1000) for since in since_ms if since is not None]
    change.lateness_s += lateness_s
    if lateness_s:
        change.found[page.slice.priority] += len(lateness_s)
    change.ages_s += [(observed_ms - one.start_ms) / 1000 for one in new if one.start_ms is not None]


def _counts_for_lateness(uncounted_ms: list[tuple[int, int]], start_ms: int | None) -> bool:
    if start_ms is None:
        return False
    for first, end in uncounted_ms:  # noqa: SIM110 - a generator costs more per row than comparing all windows
        if first <= start_ms < end:
            return False
    return True
