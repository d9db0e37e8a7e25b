"""State of every tenant. It is computed from the committed state and from the commands that no worker has applied yet.

No worker needs to run for this.
"""

from collections.abc import Iterable
from datetime import datetime
from typing import Any, NamedTuple

import msgspec

from connector import status_json
from connector.config import Settings
from connector.core import jobs, windows
from connector.core.instants import EPOCH
from connector.core.jobs import Orders
from connector.kafka import control
from connector.kafka.control import TenantCommand
from connector.kafka.operator_client import OperatorClient
from connector.kafka.state import Checkpoint
from connector.status_json import ReportedTenant


class Known(NamedTuple):
    """Known state of one tenant. `checkpoint` is None if no worker has committed anything for the tenant yet."""

    subject: ReportedTenant
    checkpoint: Checkpoint | None
    orders: Orders
    untaken: frozenset[str]
    "Ids of the commands that no worker has applied yet. `orders` and `checkpoint` already include their effect."


class Overview(NamedTuple):
    """State of all tenants: first the configured ones in their order, then those that are not configured any more."""

    tenants: list[Known]
    workers: int | None
    "Number of running workers, or None if the broker does not state it."

    def find_job(self, job_id: str) -> tuple[Known, jobs.Job] | None:
        """Return a job together with its tenant, or None if there is no such job."""
        return next(((known, job) for known in self.tenants for job in known.orders.jobs if job.id == job_id), None)

    def describe_tenants(self, app: str, now: datetime, *, is_new: bool) -> list[dict[str, Any]]:
        """Return all tenants as JSON objects (TENANT in docs/interface.md).

        `is_new` is true if no worker has ever run with `app` as kafka.app.
        """
        found = []
        for known in self.tenants:
            if known.checkpoint is None:
                reason = (
                    f"no worker has ever run with kafka.app = {app}" if is_new else "no worker has read the tenant yet"
                )
                found.append(status_json.unknown(known.subject, reason))
                continue
            failing, remembered = known.checkpoint.failing, known.checkpoint.remembered
            found.append(
                status_json.tenant(
                    known.subject, known.checkpoint, now, failing=failing, remembered=remembered, idle=self._idle
                )
            )
        return found

    def describe_jobs(self) -> list[dict[str, Any]]:
        """Return all jobs as JSON objects (JOB in docs/interface.md), oldest first."""
        found: list[dict[str, Any]] = []
        for known in self.tenants:
            failing = known.checkpoint.failing if known.checkpoint else None
            idle = self._idle if known.subject.configured else status_json.NOT_CONFIGURED
            untaken = dict.fromkeys(known.untaken, "no worker has read the command yet")
            found += status_json.jobs(known.subject.id, known.orders, failing, idle, untaken)
        return status_json.by_age(found)

    @property
    def _idle(self) -> str:
        return "no worker is running" if self.workers == 0 else ""


def read_state(client: OperatorClient, settings: Settings, now: datetime) -> Overview:
    """Read the committed state of all tenants from Kafka, and the commands that no worker has applied yet.

    Raises the errors of OperatorClient.
    """
    shards = settings.kafka.shards
    views = client.read(range(shards))
    configured = {tenant.key: tenant for tenant in settings.tenants}
    committed = {key: checkpoint for view in views.values() for key, checkpoint in view.restored.checkpoints.items()}
    known = []
    for key in (*configured, *sorted(committed.keys() - configured.keys())):
        subject = ReportedTenant(key, configured.get(key), control.partition_of(key, shards))
        # A worker ignores commands for tenants that are not in its configuration.
        waiting = [heard for heard in views[subject.shard].waiting if heard.tenant == key and subject.configured]
        known.append(_known(subject, committed.get(key), waiting, settings, now))
    return Overview(known, 0 if client.is_new else client.workers())


def _known(
    subject: ReportedTenant,
    checkpoint: Checkpoint | None,
    waiting: Iterable[TenantCommand],
    settings: Settings,
    now: datetime,
) -> Known:
    oldest = now - settings.dedup.horizon
    orders = checkpoint.state.orders if checkpoint else Orders()
    forgotten_before = checkpoint.state.forgotten_before if checkpoint else EPOCH
    untaken = set()
    for heard in waiting:
        if heard.order.id not in orders.applied:
            untaken.add(heard.order.id)
        ended = {job.id for job in orders.jobs if job.state in jobs.ENDED}
        orders = jobs.apply(orders, heard.order, now, oldest, forgotten_before)
        # A job whose command no worker has applied yet has no end time.
        orders = orders._replace(
            jobs=tuple(j._replace(ended=None) if j.ended == now and j.id not in ended else j for j in orders.jobs)
        )
    if checkpoint and untaken:
        state = checkpoint.state._replace(orders=orders)
        checkpoint = msgspec.structs.replace(checkpoint, state=windows.drop_runs(state)[0] if orders.paused else state)
    return Known(subject, checkpoint, orders, frozenset(untaken))
