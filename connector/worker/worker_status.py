"""Health and status of a worker, which its web server shows."""

import asyncio
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

from connector import __version__, status_json
from connector.core import instants
from connector.pipeline.tenant_runtime import TenantRuntime
from connector.pipeline.tenant_state import TenantState
from connector.worker.broker_probe import BrokerProbe
from connector.worker.owned_shards import OwnedShards
from connector.worker.reload import Configuration
from connector.worker.startup import Startup
from connector.worker.unread_tenants import UnreadTenants

_STUCK_S = 60.0
_YIELD_AFTER = 25
"Number of tenants after which /status lets other tasks of the event loop run."


class WorkerStatus:
    """Health and status of one worker."""

    def __init__(
        self,
        configuration: Configuration,
        instance: str,
        now: Callable[[], datetime],
        *,
        probe: BrokerProbe,
        startup: Startup,
        shards: OwnedShards,
        unread: UnreadTenants,
    ) -> None:
        self._configuration = configuration
        self._instance = instance
        self._now = now
        self._started = now()
        self._probe = probe
        self._startup = startup
        self._shards = shards
        self._unread = unread

    def alive(self) -> tuple[bool, list[str]]:
        """Return whether every shard makes progress, and one text for each shard that makes no progress."""
        stuck = [n for n, shard in self._shards.running.items() if time.monotonic() - shard.turned_at > _STUCK_S]
        return not stuck, [
            f"shard {number} has made no progress for more than {_STUCK_S:.0f} s" for number in sorted(stuck)
        ]

    def ready(self) -> tuple[bool, list[str]]:
        """Return whether the worker is ready, and the reasons if it is not.

        It is ready if brokers and schema registry answer, the worker is in the consumer group, every shard is restored
        and can publish, and at least one tenant does not fail.
        """
        reasons = []
        if not self._probe.is_up:
            reasons.append(self._brokers_away)
        if self._startup.registry_unavailable is not None:
            reasons.append(self._startup.registry_unavailable)
        if self._shards.worker is None or not self._shards.worker.membership.is_member:
            reasons.append("the worker is not in the consumer group yet")
        restoring = sorted(number for number, shard in self._shards.running.items() if not shard.restored)
        if restoring:
            reasons.append(f"shards {restoring} are being restored")
        reasons += [shard.problem for _, shard in sorted(self._shards.running.items()) if shard.problem]
        runtimes = [runtime for shard in self._shards.running.values() for runtime in shard.tenants.runtimes]
        rejected = any(shard.tenants.is_any_rejected for shard in self._shards.running.values())
        if (runtimes or rejected) and all(runtime.source.failing() for runtime in runtimes):
            reasons.append("every tenant fails: /status states why for each tenant")
        return not reasons, reasons

    @property
    def _brokers_away(self) -> str:
        return "brokers are unreachable" + (f": {self._probe.why}" if self._probe.why else "")

    async def status(self) -> dict[str, Any]:
        """Return the JSON of /status. Other tasks of the event loop may run after every 25 tenants."""
        ready, reasons = self.ready()
        tenants: list[dict[str, Any]] = []
        jobs: list[dict[str, Any]] = []
        for described, of_tenant in self._described():
            tenants.append(described)
            jobs += of_tenant
            if len(tenants) % _YIELD_AFTER == 0:
                await asyncio.sleep(0)
        settings = self._configuration.settings
        mine = {tenant["id"].lower() for tenant in tenants}
        return {
            "app": settings.kafka.app,
            "topic": settings.kafka.topic,
            "version": __version__,
            "shards": settings.kafka.shards,
            "tenants": tenants,
            "jobs": status_json.by_age(jobs),
            "instance": self._instance,
            "ready": ready,
            "reasons": reasons,
            "shards_owned": sorted(self._shards.running),
            "started": instants.text(self._started),
            "tenants_elsewhere": sum(tenant.key not in mine for tenant in settings.tenants),
            "tenants_unread": [
                {"id": one.tenant.id, "name": one.tenant.name, "reason": one.reason} for one in self._unread.found
            ],
        }

    def _described(self) -> Iterator[tuple[dict[str, Any], list[dict[str, Any]]]]:
        """Yield two things for each tenant of the worker's shards: its JSON object, and the JSON objects of its jobs.

        docs/interface.md describes them as TENANT and JOB. Shards may start or stop between two tenants.
        """
        worker = self._shards.worker
        for number, shard in sorted(self._shards.running.items()):
            for tenant in worker.tenants_of(number) if worker is not None else ():
                subject = status_json.ReportedTenant(tenant.key, tenant, number)
                owned = shard.tenants.get(tenant.key)
                if owned.problem:
                    yield _describe_rejected(subject, owned.state, self._now(), owned.problem)
                else:
                    yield _describe(subject, owned.runtime, self._now(), shard.problem), _jobs(subject, owned.runtime)
            for key, owned in shard.tenants:
                if owned.state is not None and owned.state.retired and not owned.problem:
                    stranger = status_json.ReportedTenant(key, None, number)
                    described = _describe_tenant_state(stranger, owned.state, self._now(), None)
                    orders = owned.state.checkpoint.state.orders
                    yield described, status_json.jobs(key, orders, None, status_json.NOT_CONFIGURED)
        cause = "the worker is not in the consumer group" if self._probe.is_up else self._brokers_away
        yield from self._shards.last_known.described(cause)


def _describe(
    subject: status_json.ReportedTenant, reading: TenantRuntime | None, now: datetime, problem: str | None
) -> dict[str, Any]:
    """Return the JSON object of a tenant (TENANT in docs/interface.md).

    `reading` is None while the tenant's shard is being restored. `problem` states why the shard cannot publish; it is
    None if there is no problem.
    """
    if reading is None:
        return status_json.unknown(subject, problem or "the tenant's shard is being restored")
    return _describe_tenant_state(subject, reading.tenant_state, now, _failing(reading))


def _describe_tenant_state(
    subject: status_json.ReportedTenant, tenant_state: TenantState, now: datetime, failing: tuple[str, str] | None
) -> dict[str, Any]:
    return status_json.tenant(
        subject, tenant_state.checkpoint, now, failing=failing, remembered=len(tenant_state.remembered)
    )


def _describe_rejected(
    subject: status_json.ReportedTenant, tenant_state: TenantState | None, now: datetime, problem: str
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return the JSON objects of a tenant that is not read because its configuration has a problem, and of its jobs.

    `problem` states what is wrong.
    """
    failing = ("rejected", problem)
    if tenant_state is None:
        return status_json.unknown(subject, problem) | {"state": "failing"}, []
    jobs = status_json.jobs(subject.id, tenant_state.checkpoint.state.orders, failing)
    return _describe_tenant_state(subject, tenant_state, now, failing), jobs


def _jobs(subject: status_json.ReportedTenant, reading: TenantRuntime | None) -> list[dict[str, Any]]:
    """Return the tenant's jobs as JSON objects (JOB in docs/interface.md)."""
    return (
        status_json.jobs(subject.id, reading.tenant_state.checkpoint.state.orders, _failing(reading)) if reading else []
    )


def _failing(reading: TenantRuntime) -> tuple[str, str] | None:
    failure = reading.source.failing()
    return (failure.reason, failure.message) if failure else None
