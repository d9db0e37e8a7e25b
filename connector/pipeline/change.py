"""Effect of a batch on one tenant: it is built before the transaction and applied after the commit."""

from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime

from connector.core.dedup import DedupIndex, Entries, Hours
from connector.core.windows import State
from connector.kafka.publishing import Outgoing
from connector.kafka.seen import Written
from connector.kafka.state import Checkpoint
from connector.pipeline.member_names import MemberNames


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
