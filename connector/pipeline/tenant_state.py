"""Committed state of a tenant, and how it is made from the contents of the topics."""

from dataclasses import dataclass, field, replace
from datetime import datetime

from msgspec import structs

from connector.config import Identity, Settings, Tenant
from connector.core import windows
from connector.core.dedup import DedupIndex
from connector.core.windows import Rules, Slice
from connector.core.withdrawals import Withdrawals
from connector.kafka.seen import SeenLog
from connector.kafka.state import Checkpoint
from connector.pipeline.messages import PageRead


@dataclass
class TenantState:
    """State of one tenant that the shard has committed."""

    tenant: Tenant
    rules: Rules
    checkpoint: Checkpoint
    remembered: DedupIndex
    seen: SeenLog
    checkpoint_bytes: int = 0
    "Length of the last checkpoint in bytes; 0 if it is not known."
    retired: bool = False
    """True if the tenant is not configured. It is not read, and its state is deleted when all of it lies behind the
    horizon.
    """
    suspended: dict[Slice, dict[int, PageRead]] = field(default_factory=dict)
    """Rows that are suspended until their page chain has ended, because their content was rejected before. They are
    stored by slice, then by the first half of the id's hash (field `hi`), each row as a page of its own.
    """
    withdrawals: Withdrawals = field(default_factory=Withdrawals)

    def outlived(self, horizon: datetime) -> bool:
        """Return whether the tenant is retired and all of its call time that was read lies before `horizon`."""
        through = self.checkpoint.state.coverage.through or self.checkpoint.state.start
        return self.retired and through <= horizon


IndexMemory = tuple[DedupIndex, SeenLog]
"Deduplication index of a tenant, together with the part of the `seen` topic that holds it."


def rules_of(settings: Settings) -> Rules:
    """Return the settings that determine what the sweeps of a tenant read."""
    return Rules(settings.windows.sweeps, settings.windows.settle, settings.windows.slice, settings.dedup.horizon)


def resumed_state(
    tenant: Tenant, rules: Rules, checkpoint: Checkpoint | None, memory: IndexMemory | None, now: datetime
) -> TenantState:
    """Make the state of a tenant that is going to be read, from its checkpoint and its deduplication index.

    `checkpoint` is None for a tenant that was never read. `memory` is None if the tenant has no deduplication index.
    """
    remembered, seen_log = memory or (DedupIndex(), SeenLog(tenant.key))
    if checkpoint is None:
        start = now + tenant.start if not isinstance(tenant.start, datetime) else tenant.start
        checkpoint = Checkpoint(tenant.topic, windows.first_state(rules, start, now))
    checkpoint = structs.replace(checkpoint, state=windows.resume(checkpoint.state, rules, now))
    hours = int(rules.horizon.total_seconds() // 3600)
    span = max(1, min(hours, int((now - checkpoint.state.start).total_seconds() // 3600)))
    seen_log.fit_width(len(remembered), span)
    return TenantState(tenant, rules, checkpoint, remembered, seen_log)


def retired_state(
    key: str, rules: Rules, checkpoint: Checkpoint, memory: IndexMemory | None, now: datetime
) -> TenantState:
    """Make the state of a tenant from its checkpoint and its deduplication index, and mark the tenant as retired.

    Every restored tenant is marked. When a configured tenant is read, its mark is removed.
    """
    tenant = Tenant(key, key, None, key, Identity(None, None), checkpoint.state.start, 1, checkpoint.topic)
    return replace(resumed_state(tenant, rules, checkpoint, memory, now), checkpoint=checkpoint, retired=True)
