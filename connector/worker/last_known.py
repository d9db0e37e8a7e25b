"""Last known state of the tenants whose shards this worker has lost.

While the brokers are unreachable, no worker owns the shards. During that time, /status and /metrics show the last
committed state of the tenants. The lag in the metrics therefore keeps growing during an outage.
"""

from collections.abc import Callable, Iterator
from datetime import datetime
from functools import partial
from typing import Any, NamedTuple

from connector import status_json
from connector.kafka.state import Checkpoint
from connector.metrics.tenant import TenantMetrics
from connector.metrics.worker import Metrics
from connector.pipeline.shard import Shard
from connector.pipeline.tenant_runtime import committed_view
from connector.status_json import ReportedTenant


class _LostTenant(NamedTuple):
    subject: ReportedTenant
    checkpoint: Checkpoint
    remembered: int
    series: TenantMetrics


class LastKnown:
    """Last committed state of the tenants of lost shards, with their metrics."""

    def __init__(self, metrics: Metrics, now: Callable[[], datetime]) -> None:
        self._metrics = metrics
        self._now = now
        self._tenants: list[_LostTenant] = []

    def keep(self, shard: Shard) -> None:
        """Keep the last committed state of all configured tenants of a lost shard.

        The metrics of these tenants are created again, with counters that start at 0.
        """
        for key, owned in shard.tenants:
            before = owned.series
            known = owned.last_known
            if before is None or known is None:
                continue
            series = self._metrics.tenant(before.label, before.everys)
            series.watch(partial(committed_view, known.checkpoint.state, known.remembered, self._now))
            subject = ReportedTenant(key, known.tenant, shard.number)
            self._tenants.append(_LostTenant(subject, known.checkpoint, known.remembered, series))

    def forget(self) -> None:
        """Drop the state of all tenants, because the consumer group has assigned shards again."""
        lost, self._tenants = self._tenants, []
        for tenant in lost:
            tenant.series.closed()

    def described(self, cause: str) -> Iterator[tuple[dict[str, Any], list[dict[str, Any]]]]:
        """Yield two things for each tenant: its JSON object, and the list of the JSON objects of its jobs.

        docs/interface.md describes them as TENANT and JOB. `cause` states why the tenants are not being read.
        """
        for lost in self._tenants:
            described = status_json.tenant(
                lost.subject, lost.checkpoint, self._now(), failing=None, remembered=lost.remembered, idle=cause
            )
            jobs = status_json.jobs(lost.subject.id, lost.checkpoint.state.orders, None, cause)
            yield described | {"state": "unknown", "reason": cause}, jobs
