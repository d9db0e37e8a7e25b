"""State of a tenant as its shard has committed it."""

from dataclasses import dataclass
from datetime import datetime

from connector.config import Tenant
from connector.core.dedup import DedupIndex
from connector.core.windows import Rules
from connector.kafka.seen import SeenLog
from connector.kafka.state import Checkpoint


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
