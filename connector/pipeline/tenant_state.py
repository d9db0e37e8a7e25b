"""State of a tenant as its shard has committed it, and how it is made from what the topics hold."""

from dataclasses import dataclass, field, replace
from datetime import datetime

from msgspec import structs

from connector.config import Identity, Settings, Tenant
from connector.core import windows
from connector.core.dedup import DedupIndex
from connector.core.windows import Rules, Slice
from connector.kafka.seen import SeenLog
from connector.kafka.state import Checkpoint
from connector.pipeline.messages import PageRead


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
    suspended: dict[Slice, dict[int, PageRead]] = field(default_factory=dict)
    "Rows of chains that have not ended, which wait for that end: pages of one row, by the first half of the id."

    def outlived(self, horizon: datetime) -> bool:
        """Return whether the tenant is retired and none of its call time that was read lies after `horizon`."""
        through = self.checkpoint.state.coverage.through or self.checkpoint.state.start
        return self.retired and through <= horizon


IndexMemory = tuple[DedupIndex, SeenLog]
"Deduplication index of a tenant, with the records of the `seen` topic that hold it."


def rules_of(settings: Settings) -> Rules:
    """Return the rules by which windows are planned."""
    return Rules(settings.windows.sweeps, settings.windows.settle, settings.windows.slice, settings.dedup.horizon)


def resumed_state(
    tenant: Tenant, rules: Rules, checkpoint: Checkpoint | None, memory: IndexMemory | None, now: datetime
) -> TenantState:
    """Return the state from which to read for a tenant. It has no checkpoint if it was never read."""
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
    """Return a tenant as the state topic knows it, marked as retired even if it is configured."""
    tenant = Tenant(key, key, None, key, Identity(None, None), checkpoint.state.start, 1, checkpoint.topic)
    return replace(resumed_state(tenant, rules, checkpoint, memory, now), checkpoint=checkpoint, retired=True)
