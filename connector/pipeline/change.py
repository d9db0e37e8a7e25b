"""Change: the effect of one batch on the state of one tenant.

It is built before the transaction and applied to the tenant's state after the commit.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

import numpy as np

from connector import log
from connector.core import dedup, instants
from connector.core.dedup import DedupIndex
from connector.core.index_run import Entries, Hours
from connector.core.windows import State
from connector.core.withdrawals import Withdrawn
from connector.kafka.publishing import Outgoing
from connector.kafka.seen import Written
from connector.kafka.state import Checkpoint
from connector.pipeline.member_names import MemberNames
from connector.pipeline.tenant_state import TenantState

_logger = log.get(__name__)


@dataclass
class Change:
    """Effect of one batch on one tenant: the next state, the records to write, and counts for metrics and logs."""

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
    """Number of new rows by the index of the sweep that found them. Rows of call time that was never read before are
    not counted.
    """
    ages_s: list[float] = field(default_factory=list)
    "Age in seconds, from the start of the call to the first reading, of the rows in `found` that have a start."
    oldest_received_at: datetime | None = None
    ended: list[int] = field(default_factory=list)
    begun: list[list[int]] = field(default_factory=list)
    overtaken: list[list[int]] = field(default_factory=list)
    "For each element of `begun`: the sweeps whose previous run was replaced before it was done."
    dropped: list[int] = field(default_factory=list)
    failing: tuple[str, str] | None = None
    is_command: bool = False
    conflicting: int = 0
    "Number of dead letters for rows whose content conflicts with another row with the same id."
    too_old: int = 0
    """Number of new rows that are not published, because the deduplication index may have forgotten that they were
    published before. Their call time does not count as read.
    """
    withdrawn: list[Withdrawn] = field(default_factory=list)
    written: list[Written] = field(default_factory=list)
    checkpoint: Checkpoint | None = None
    checkpoint_bytes: int = 0
    deletes_state: bool = False
    "True if the batch deletes the tenant's state, because the tenant is not configured any more and has no rows left."

    @property
    def has_rows(self) -> bool:
        """Return whether the batch publishes rows or dead letters."""
        return bool(self.rows or self.dead_letters)

    @property
    def is_urgent(self) -> bool:
        """Return whether the batch must be committed at once. If not, it may wait for more messages."""
        return self.has_rows or self.is_command

    def records(self, tenant: str) -> dict[str, list[Outgoing]]:
        """Return the rows and dead letters of the tenant by tag: one tag for the rows, another for the dead letters.

        The publisher reports offsets per tag. The checkpoint of the tenant contains only the offsets of the rows.
        """
        return {tenant: self.rows, f"{tenant}/dead letters": self.dead_letters}


def apply(changes: Mapping[str, Change], tenant_states: Mapping[str, TenantState]) -> None:
    """Apply the changes of a committed batch to the tenants' states."""
    for tenant, change in changes.items():
        tenant_state = tenant_states[tenant]
        for entries, hours in _groups_without_repeats(change):
            tenant_state.remembered.put(entries, hours)
        tenant_state.remembered.forget(hour(change.state.forgotten_before))
        for written in change.written:
            tenant_state.seen.apply(written)
        if change.checkpoint is not None:
            _log_created_again(tenant_state, change.checkpoint)
            tenant_state.checkpoint, tenant_state.checkpoint_bytes = change.checkpoint, change.checkpoint_bytes


def hour(moment: datetime) -> int:
    """Return the number of full hours from the epoch to `moment`."""
    return instants.to_ms(moment) // dedup.HOUR_MS


def _groups_without_repeats(change: Change) -> Iterable[tuple[Entries, Hours]]:
    """Split the entries and hours of a change into groups in which no id occurs twice, as the index requires."""
    if not change.entries:
        return
    entries = np.concatenate(change.entries)
    hours = np.concatenate(change.hours)
    for group in dedup.split_repeats(entries):
        yield entries[group], hours[group]


def _log_created_again(tenant_state: TenantState, after: Checkpoint) -> None:
    before = tenant_state.checkpoint
    if before.topic_id and after.topic_id and after.topic_id != before.topic_id:
        _logger.warning("topic_recreated", topic=after.topic, tenant=tenant_state.tenant.label)
