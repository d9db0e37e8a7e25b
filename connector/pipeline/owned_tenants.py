"""Tenants of one shard: the one place that knows what is committed, running and wrong for each of them."""

import asyncio
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import NamedTuple

from connector import log
from connector.config import Tenant, duration_text
from connector.core import windows
from connector.kafka import control, kept_commands
from connector.kafka.control import Heard
from connector.kafka.membership import ControlRecord
from connector.kafka.state import Checkpoint
from connector.metrics.tenant import TenantMetrics
from connector.pipeline.buffer import Buffer
from connector.pipeline.change import Change
from connector.pipeline.messages import Commanded, RunsDropped
from connector.pipeline.restoration import RestoredShard
from connector.pipeline.shard_context import ShardContext
from connector.pipeline.sweeper import Sweeper
from connector.pipeline.tenant_runtime import TenantRuntime, rejected_view
from connector.pipeline.tenant_state import IndexMemory, TenantState, resumed_state, rules_of

_logger = log.get(__name__)
_NO_OFFSET = -1
_STATE_LOST_REMEDY = (
    "the tenant is read again from its start, and rows in the deduplication index are not published again; counts, "
    "jobs and progress start again, and whatever the state topic lost was lost for every tenant of the shard"
)


class Committed(NamedTuple):
    """Committed state of a tenant, with the number of rows in its deduplication index."""

    tenant: Tenant
    checkpoint: Checkpoint
    remembered: int


@dataclass
class OwnedTenant:
    """One tenant of a shard. A restart of the shard discards all but `series`, `problem` and `before`."""

    series: TenantMetrics | None = None
    "None for a tenant that is not configured."
    problem: str = ""
    "Reason why a configured tenant is not read, and what to do; empty if it can be read."
    state: TenantState | None = None
    "None until the tenant is read for the first time, and before the shard is restored."
    runtime: TenantRuntime | None = None
    "None unless the tenant is read."
    orphan: IndexMemory | None = None
    "Deduplication index of a tenant that has no checkpoint, because its state was lost."
    before: Committed | None = None
    "Committed state at the last restart of the shard."
    plan: windows.State | None = None
    "Plan of a tenant that is not read any more, because it may be ahead of what is committed."

    @property
    def last_known(self) -> Committed | None:
        """Return what is committed, or was when the shard last started again; None if nothing is known."""
        if self.state is None:
            return self.before
        return Committed(self.state.tenant, self.state.checkpoint, len(self.state.remembered))


class OwnedTenants:
    """Tenants of one shard, configured or only known from its topics."""

    def __init__(self, shard: ShardContext) -> None:
        self.failed = False
        "True once a sweep has failed or a tenant was rejected."
        self.is_outdated = False
        "True if the configuration has changed since `follow` began."
        self._shard = shard
        self._worker = shard.worker
        self._of: dict[str, OwnedTenant] = {}
        self._followed: list[Tenant] = []
        "The tenants that were configured when `follow` began."
        self._kept: list[Heard] = []
        "Commands for tenants that are not read, oldest first. It is ahead of what is committed."
        self._buffer = Buffer()

    def __iter__(self) -> Iterator[tuple[str, OwnedTenant]]:
        """Iterate over the tenants that are known at this moment."""
        return iter(sorted(self._of.items()))

    def get(self, key: str) -> OwnedTenant:
        """Return a tenant, which is empty if the shard does not know it."""
        return self._of.get(key) or OwnedTenant()

    @property
    def states(self) -> dict[str, TenantState]:
        """Return the committed state of each tenant that has one."""
        return {key: tenant.state for key, tenant in self._of.items() if tenant.state is not None}

    @property
    def runtimes(self) -> list[TenantRuntime]:
        """Return the runtime of each tenant that is read."""
        return [tenant.runtime for tenant in self._of.values() if tenant.runtime is not None]

    @property
    def is_any_rejected(self) -> bool:
        """Return whether a configured tenant is not read because of how it is configured."""
        return any(tenant.problem for tenant in self._of.values())

    def show(self) -> None:
        """Create the series of the configured tenants and close those of others.

        A tenant's series exist from the moment it is owned, and its counters survive a restart of the shard.
        """
        self._show({tenant.key: tenant for tenant in self._configured()})

    def load(self, restored: RestoredShard, buffer: Buffer) -> None:
        """Take the state of a shard that was restored. `buffer` receives what is read from now on."""
        self._buffer = buffer
        self._kept = kept_commands.parse(restored.kept)
        for key, state in restored.states.items():
            self._of.setdefault(key, OwnedTenant()).state = state
        for key, orphan in restored.orphans.items():
            self._of.setdefault(key, OwnedTenant()).orphan = orphan

    async def unload(self) -> None:
        """Discard all state, because the shard was handed over or starts again."""
        self.failed = self.failed or any(runtime.sweeper.failed for runtime in self.runtimes)
        runtimes = self.runtimes
        self._of = {
            key: OwnedTenant(one.series, one.problem, before=one.last_known)
            for key, one in self._of.items()
            if one.series
        }
        for runtime in runtimes:
            runtime.rest()
            await runtime.source.close()

    def close(self) -> None:
        """Close the series, because the shard was handed over."""
        for tenant in self._of.values():
            if tenant.series is not None:
                tenant.series.closed()

    def stop_reading(self) -> None:
        """Make no further requests to Graph. What was read can still be committed."""
        for runtime in self.runtimes:
            runtime.stop()

    async def sweepers_ended(self) -> None:
        """Return when every sweeper has ended, which happens with `once` only."""
        while running := [runtime.task for runtime in self.runtimes if not runtime.task.done()]:
            await asyncio.wait(running)

    def reconfigured(self) -> None:
        """Take note that the configuration was read again. Unchanged tenants continue undisturbed."""
        for runtime in self.runtimes:
            runtime.sweeper.rest_no_longer()
        if self.is_any_rejected or self._configured() != self._followed:
            self.is_outdated = True
            self._buffer.filled.set()

    def commanded(self, command: ControlRecord) -> None:
        """Execute a record of the control topic, or keep it until its tenant is read."""
        heard = control.parse(command)
        if heard is None:
            self._pass_over(command.offset, "it is none that this version knows")
            self._buffer.put(Commanded(command.offset, self._now()))
            return
        runtime = self.get(heard.tenant).runtime
        if runtime is not None:
            _command(runtime, command.offset, heard)
        elif control.partition_of(heard.tenant, self._worker.settings.kafka.shards) != self._shard.number:
            self._pass_over(command.offset, "its tenant belongs to another shard")
            self._buffer.put(Commanded(command.offset, self._now()))
        else:
            _logger.info("command_kept", tenant=heard.tenant, command=heard.order.command, id=heard.order.id)
            kept = kept_commands.pack([*self._kept, heard])
            if len(kept) <= len(self._kept):
                self._pass_over(command.offset, "older commands for tenants that are not read were dropped for it")
            self._kept = kept_commands.parse(kept)
            self._buffer.put(Commanded(command.offset, self._now(), kept=kept))

    def _pass_over(self, offset: int, reason: str) -> None:
        _logger.warning("command_ignored", shard=self._shard.number, offset=offset, reason=reason)

    def _apply_kept(self) -> None:
        """Execute the kept commands whose tenants are read."""
        left = []
        for heard in self._kept:
            runtime = self.get(heard.tenant).runtime
            if runtime is None:
                left.append(heard)
            else:
                _command(runtime, _NO_OFFSET, heard)
        if len(left) < len(self._kept):
            self._kept = left
            self._buffer.put(Commanded(_NO_OFFSET, self._now(), kept=kept_commands.pack(left)))

    def committed(self, changes: Mapping[str, Change]) -> None:
        """Report committed changes to the tenants, and forget the tenants that have nothing left."""
        now = self._now()
        for key, change in changes.items():
            tenant = self._of[key]
            if tenant.runtime is not None:
                tenant.runtime.committed(change, now)
            if change.ends_account:
                tenant.state = None
                if tenant.series is None:
                    del self._of[key]
                _logger.info("tenant_state_expired", shard=self._shard.number, tenant=key)
            elif tenant.state is not None:
                self._shard.warnings.committed(tenant.state.tenant, change)

    async def follow(self, group: asyncio.TaskGroup) -> None:
        """Read for the configured tenants, at the start and after tenants were added, removed or changed.

        Unchanged tenants continue undisturbed.
        """
        self.is_outdated = False
        await self._exchange(group)
        self._apply_kept()

    async def _exchange(self, group: asyncio.TaskGroup) -> None:
        """Stop reading for tenants that were removed or changed, then start for those that are to be read."""
        self._followed = self._configured()
        wanted = {tenant.key: tenant for tenant in self._followed}
        for key, tenant in list(self._of.items()):
            runtime = tenant.runtime
            if runtime is None or wanted.get(key) == runtime.account.tenant:
                continue
            await runtime.end()
            tenant.runtime, tenant.plan = None, runtime.sweeper.plan
            runtime.account.retired = True
        self._show(wanted)
        if self._shard.ownership.handing_over.is_set():
            return
        self._reject(wanted)
        now = self._now()
        for key, configured in wanted.items():
            tenant = self._of[key]
            if tenant.runtime is None and not tenant.problem:
                self._begin(tenant, configured, now, group)

    def _configured(self) -> list[Tenant]:
        return self._worker.tenants_of(self._shard.number)

    def _now(self) -> datetime:
        return self._worker.graph.clock.now()

    def _show(self, configured: Mapping[str, Tenant]) -> None:
        everys = [duration_text(sweep.every) for sweep in self._worker.settings.windows.sweeps]
        for key, tenant in self._of.items():
            if tenant.series is not None and (key not in configured or tenant.series.label != configured[key].label):
                tenant.series.closed()
                tenant.series = None
        for key, one in configured.items():
            tenant = self._of.setdefault(key, OwnedTenant())
            if tenant.series is None:
                tenant.series = self._worker.metrics.tenant(one.label, everys)

    def _reject(self, wanted: Mapping[str, Tenant]) -> None:
        """Find the tenants that cannot be read as they are configured. The others are not affected."""
        for key, tenant in self._of.items():
            configured, before = wanted.get(key), tenant.problem
            tenant.problem = self._problem(configured, tenant.state) if configured is not None else ""
            if not tenant.problem or configured is None:
                continue
            self.failed = True
            if tenant.series is not None:
                tenant.series.watch(partial(rejected_view, tenant.state, self._now))
            if tenant.state is not None and tenant.state.checkpoint.failing != ("rejected", tenant.problem):
                self._buffer.put(RunsDropped(key, "rejected", tenant.problem))
            if before != tenant.problem:
                _logger.error("tenant_rejected", tenant=configured.label, reason=tenant.problem)

    def _problem(self, tenant: Tenant, state: TenantState | None) -> str:
        """Return why a tenant cannot be read and what to do; empty if it can be read."""
        if state is not None and state.checkpoint.topic != tenant.topic:
            return _other_topic(tenant, state.checkpoint)
        return self._worker.topology.unusable.get(tenant.topic, "")

    def _begin(self, tenant: OwnedTenant, configured: Tenant, now: datetime, group: asyncio.TaskGroup) -> None:
        """Start a sweeper for a tenant. It continues the plan of a previous sweeper that is ahead of its state."""
        plan, tenant.plan = tenant.plan, None
        state, rules = tenant.state, rules_of(self._worker.settings)
        if state is None:
            memory, tenant.orphan = tenant.orphan, None
            if memory is not None:
                _logger.warning(
                    "tenant_state_lost", tenant=configured.label, rows=len(memory[0]), remedy=_STATE_LOST_REMEDY
                )
            state = resumed_state(configured, rules, None, memory, now)
        elif plan is None or plan == state.checkpoint.state:
            state = resumed_state(configured, rules, state.checkpoint, (state.remembered, state.seen), now)
            plan = None
        state.tenant, state.retired = configured, False
        tenant.state = state
        worker = self._worker
        series = tenant.series or worker.metrics.tenant(configured.label, [])
        sweeper = Sweeper(
            state,
            worker.graph.source(configured, series),
            self._buffer,
            worker.shape,
            concurrency=worker.settings.graph.concurrency,
            once=worker.once,
            now=worker.graph.clock.now,
            learn_time=worker.graph.learn_time,
        )
        if plan is not None:
            sweeper.go_on(plan)
        task = group.create_task(sweeper.run(), name=f"sweeper {configured.label}")
        tenant.runtime = TenantRuntime(state, sweeper, task, series, worker.graph.clock.now)


def _command(runtime: TenantRuntime, offset: int, heard: Heard) -> None:
    label = runtime.account.tenant.label
    _logger.info("command_applied", tenant=label, command=heard.order.command, id=heard.order.id)
    runtime.sweeper.command(offset, heard.order)


def _other_topic(tenant: Tenant, checkpoint: Checkpoint) -> str:
    return (
        f"the state of tenant {tenant.label} was written for topic {checkpoint.topic}, now its topic is "
        f"{tenant.topic}: set it back and send SIGHUP, or set kafka.app to a new name to read everything again"
    )
