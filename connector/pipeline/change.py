"""Effect of a batch on one tenant: it is built before the transaction and applied after the commit."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

import numpy as np

from connector import log
from connector.core import dedup, instants
from connector.core.dedup import DedupIndex, Entries, Hours
from connector.core.windows import State
from connector.kafka.publishing import Outgoing
from connector.kafka.seen import Written
from connector.kafka.state import Checkpoint
from connector.pipeline.member_names import MemberNames
from connector.pipeline.tenant_state import TenantState

_logger = log.get(__name__)


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
    conflicting: int = 0
    "Dead letters of rows that contradict another row with their id."
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


def apply(changes: Mapping[str, Change], accounts: Mapping[str, TenantState]) -> None:
    """Put the changes of a committed batch into the tenants' states."""
    for tenant, change in changes.items():
        account = accounts[tenant]
        for entries, hours in _by_batch(change):
            account.remembered.put(entries, hours)
        account.remembered.forget(hour(change.state.forgotten_before))
        for written in change.written:
            account.seen.apply(written)
        if change.checkpoint is not None:
            _log_created_again(account, change.checkpoint)
            account.checkpoint, account.checkpoint_bytes = change.checkpoint, change.checkpoint_bytes


def hour(moment: datetime) -> int:
    """Return the number of hours from the epoch to a full hour."""
    return instants.to_ms(moment) // dedup.HOUR_MS


def _by_batch(change: Change) -> Iterable[tuple[Entries, Hours]]:
    """Yield the entries and hours of a change, split so that no piece has an id twice."""
    if not change.entries:
        return
    entries = np.concatenate(change.entries)
    hours = np.concatenate(change.hours)
    for group in dedup.split_repeats(entries):
        yield entries[group], hours[group]


def _log_created_again(account: TenantState, after: Checkpoint) -> None:
    before = account.checkpoint
    if before.topic_id and after.topic_id and after.topic_id != before.topic_id:
        _logger.warning("topic_recreated", topic=after.topic, tenant=account.tenant.label)
