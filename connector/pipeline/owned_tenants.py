"""Tenants of one shard: their committed states, their sweepers, and the reasons for tenants that cannot be read."""

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
from connector.kafka.control import TenantCommand
from connector.kafka.membership import ControlRecord
from connector.kafka.state import NOT_CONFIGURED, Checkpoint
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
_NOT_CONFIGURED = "the worker that owns the tenant's shard does not have the tenant in its configuration"
_STATE_LOST_REMEDY = (
    "find out why the state topic has lost records, because other tenants of the shard may be affected; the tenant is "
    "read again from its start, but its rows are not published again; its counters, jobs and progress start from zero"
)


class Committed(NamedTuple):
    """Committed state of a tenant. `remembered` is the number of rows in its deduplication index."""

    tenant: Tenant
    checkpoint: Checkpoint
    remembered: int


@dataclass
class OwnedTenant:
    """One tenant of a shard. A restart of the shard clears all attributes except `series`, `problem` and `before`."""

    series: TenantMetrics | None = None
    "Metrics of the tenant. None for a tenant that is not configured."
    problem: str = ""
    "Reason why the tenant cannot be read although it is configured, with the remedy. Empty if it can be read."
    state: TenantState | None = None
    "Committed state. None before the shard is restored, and for a tenant that was never read."
    runtime: TenantRuntime | None = None
    "Sweeper with its task. None while no sweeper runs for the tenant."
    orphan: IndexMemory | None = None
    "Deduplication index of a tenant whose checkpoint was lost. It is used when the tenant is read again."
    before: Committed | None = None
    "Committed state at the last restart of the shard. Metrics and status show it until the shard is restored."
    plan: windows.State | None = None
    """Plan of the tenant's last sweeper, which was stopped. It may contain more than is committed. The next sweeper
    continues it.
    """

    @property
    def last_known(self) -> Committed | None:
        """Return the last committed state of the tenant; None if there is none.

        While the shard is being restored, it is the state that was committed before the restart.
        """
        if self.state is None:
            return self.before
        return Committed(self.state.tenant, self.state.checkpoint, len(self.state.remembered))


class OwnedTenants:
    """Tenants of one shard: configured tenants, and former tenants whose records are still in the shard's topics."""

    def __init__(self, shard: ShardContext) -> None:
        self.failed = False
        "True as soon as a sweep has failed or a configured tenant could not be read."
        self.is_outdated = False
        "True if the configuration has changed since `follow` was called. Then `follow` must be called again."
        self._shard = shard
        self._worker = shard.worker
        self._of: dict[str, OwnedTenant] = {}
        self._followed: list[Tenant] = []
        "Tenants that were configured when `follow` was last called."
        self._kept: list[TenantCommand] = []
        "Commands that wait until their tenant is read, oldest first. The last changes may not be committed yet."
        self._buffer = Buffer()

    def __iter__(self) -> Iterator[tuple[str, OwnedTenant]]:
        """Iterate over a copy of the tenants, sorted by key."""
        return iter(sorted(self._of.items()))

    def get(self, key: str) -> OwnedTenant:
        """Return a tenant. For an unknown key the result is an empty OwnedTenant."""
        return self._of.get(key) or OwnedTenant()

    @property
    def states(self) -> dict[str, TenantState]:
        """Return the committed states by tenant. Tenants that were never read are left out."""
        return {key: tenant.state for key, tenant in self._of.items() if tenant.state is not None}

    @property
    def runtimes(self) -> list[TenantRuntime]:
        """Return the runtimes of all tenants for which a sweeper runs."""
        return [tenant.runtime for tenant in self._of.values() if tenant.runtime is not None]

    @property
    def is_any_rejected(self) -> bool:
        """Return whether any configured tenant cannot be read because of its configuration."""
        return any(tenant.problem for tenant in self._of.values())

    def update_metrics(self) -> None:
        """Create the metrics of all configured tenants, and remove the metrics of other tenants.

        Metrics exist as soon as the worker owns the tenant's shard. Their counters continue after a restart of the
        shard.
        """
        self._update_metrics({tenant.key: tenant for tenant in self._configured()})

    def load(self, restored: RestoredShard, buffer: Buffer) -> None:
        """Store the state of a restored shard. From now on, sweepers add the pages that they read to `buffer`."""
        self._buffer = buffer
        self._kept = kept_commands.parse(restored.kept)
        for key, state in restored.states.items():
            self._of.setdefault(key, OwnedTenant()).state = state
        for key, orphan in restored.orphans.items():
            self._of.setdefault(key, OwnedTenant()).orphan = orphan

    async def discard(self) -> None:
        """Discard the state of all tenants, because the shard was handed over or restarts.

        The last committed state is kept for metrics and status until the shard is restored.
        """
        self.failed = self.failed or any(runtime.sweeper.failed for runtime in self.runtimes)
        runtimes = self.runtimes
        self._of = {
            key: OwnedTenant(one.series, one.problem, before=one.last_known)
            for key, one in self._of.items()
            if one.series
        }
        for runtime in runtimes:
            runtime.freeze_gauges()
            await runtime.source.close()

    def close(self) -> None:
        """Remove the metrics of all tenants, because the shard was handed over."""
        for tenant in self._of.values():
            if tenant.series is not None:
                tenant.series.closed()

    def stop_reading(self) -> None:
        """Stop all sweepers, so that no further requests are sent to Graph.

        Messages in the buffer can still be committed.
        """
        for runtime in self.runtimes:
            runtime.stop()

    async def sweepers_ended(self) -> None:
        """Wait until every sweeper has ended. Sweepers end by themselves only with `once`."""
        while running := [runtime.task for runtime in self.runtimes if not runtime.task.done()]:
            await asyncio.wait(running)

    def reconfigured(self) -> None:
        """React to a reload of the configuration: end rests after failures, and check whether the tenants have changed.

        If the tenants have changed, `is_outdated` is set. Then `follow` must be called, which starts and stops
        sweepers.
        """
        for runtime in self.runtimes:
            runtime.sweeper.end_rest()
        if self.is_any_rejected or self._configured() != self._followed:
            self.is_outdated = True
            self._buffer.filled.set()

    def commanded(self, command: ControlRecord) -> None:
        """Execute the command in a record of the control topic.

        If no sweeper runs for the tenant, the command is stored until a sweeper runs. Unknown commands and commands for
        tenants of other shards are ignored.
        """
        received = control.parse(command)
        if received is None:
            self._log_ignored(command.offset, "the record is not a command that this version knows")
            self._buffer.put(Commanded(command.offset, self._now()))
            return
        runtime = self.get(received.tenant).runtime
        if runtime is not None:
            _command(runtime, command.offset, received)
        elif control.partition_of(received.tenant, self._worker.settings.kafka.shards) != self._shard.number:
            self._log_ignored(command.offset, "the command's tenant belongs to another shard")
            self._buffer.put(Commanded(command.offset, self._now()))
        else:
            _logger.info("command_kept", tenant=received.tenant, command=received.order.command, id=received.order.id)
            kept = kept_commands.pack([*self._kept, received])
            if len(kept) <= len(self._kept):
                self._log_ignored(
                    command.offset,
                    "too many commands wait for tenants that are not read: the oldest commands are dropped",
                )
            self._kept = kept_commands.parse(kept)
            self._buffer.put(Commanded(command.offset, self._now(), kept=kept))

    def _log_ignored(self, offset: int, reason: str) -> None:
        _logger.warning("command_ignored", shard=self._shard.number, offset=offset, reason=reason)

    def _execute_waiting(self) -> None:
        """Execute the stored commands of those tenants for which a sweeper runs."""
        left = []
        for received in self._kept:
            runtime = self.get(received.tenant).runtime
            if runtime is None:
                left.append(received)
            else:
                _command(runtime, _NO_OFFSET, received)
        if len(left) < len(self._kept):
            self._kept = left
            self._buffer.put(Commanded(_NO_OFFSET, self._now(), kept=kept_commands.pack(left)))

    def committed(self, changes: Mapping[str, Change]) -> None:
        """Update the metrics of the tenants in `changes` after their commit, and log warnings about rows.

        Tenants whose state the batch has deleted are removed, unless they are configured again.
        """
        now = self._now()
        for key, change in changes.items():
            tenant = self._of[key]
            if tenant.runtime is not None:
                tenant.runtime.committed(change, now)
            if change.deletes_state:
                tenant.state = None
                if tenant.series is None:
                    del self._of[key]
                _logger.info("tenant_state_expired", shard=self._shard.number, tenant=key)
            elif tenant.state is not None:
                self._shard.warnings.committed(tenant.state.tenant, change)

    async def follow(self, group: asyncio.TaskGroup) -> None:
        """Start and stop sweepers so that exactly the configured tenants are read. The sweepers run in `group`.

        This is called at the start of the shard and after each change of the configuration. Sweepers of unchanged
        tenants continue to run.
        """
        self.is_outdated = False
        await self._exchange(group)
        self._execute_waiting()

    async def _exchange(self, group: asyncio.TaskGroup) -> None:
        """Stop the sweepers of removed and changed tenants, then start the sweepers that are missing."""
        self._followed = self._configured()
        wanted = {tenant.key: tenant for tenant in self._followed}
        for key, tenant in list(self._of.items()):
            runtime = tenant.runtime
            if runtime is None or wanted.get(key) == runtime.tenant_state.tenant:
                continue
            await runtime.end()
            # The buffer may hold messages of the old sweeper. Its plan contains them, so a new sweeper continues it.
            tenant.runtime, tenant.plan = None, runtime.sweeper.plan
            runtime.tenant_state.retired = True
        self._update_metrics(wanted)
        if self._shard.ownership.handing_over.is_set():
            return
        self._find_rejected(wanted)
        now = self._now()
        for key, configured in wanted.items():
            tenant = self._of[key]
            if tenant.runtime is None and not tenant.problem:
                self._start_sweeper(tenant, configured, now, group)

    def _configured(self) -> list[Tenant]:
        return self._worker.tenants_of(self._shard.number)

    def _now(self) -> datetime:
        return self._worker.graph.clock.now()

    def _update_metrics(self, configured: Mapping[str, Tenant]) -> None:
        everys = [duration_text(sweep.every) for sweep in self._worker.settings.windows.sweeps]
        for key, tenant in self._of.items():
            if tenant.series is not None and (key not in configured or tenant.series.label != configured[key].label):
                tenant.series.closed()
                tenant.series = None
        for key, one in configured.items():
            tenant = self._of.setdefault(key, OwnedTenant())
            if tenant.series is None:
                tenant.series = self._worker.metrics.tenant(one.label, everys)

    def _find_rejected(self, wanted: Mapping[str, Tenant]) -> None:
        """Find the configured tenants that cannot be read, and report the reason. Other tenants are not affected."""
        for key, tenant in self._of.items():
            configured, before = wanted.get(key), tenant.problem
            tenant.problem = self._problem(configured, tenant.state) if configured is not None else ""
            if configured is None:
                self._report_not_configured(key, tenant)
            if not tenant.problem or configured is None:
                continue
            self.failed = True
            if tenant.series is not None:
                tenant.series.watch(partial(rejected_view, tenant.state, self._now))
            if tenant.state is not None and tenant.state.checkpoint.failing != ("rejected", tenant.problem):
                self._buffer.put(RunsDropped(key, "rejected", tenant.problem))
            if before != tenant.problem:
                _logger.error("tenant_rejected", tenant=configured.label, reason=tenant.problem)

    def _report_not_configured(self, key: str, tenant: OwnedTenant) -> None:
        """Commit to the state topic that the tenant is not read, because it is not in this worker's configuration.

        Do nothing if this was committed before. The workers whose configuration contains the tenant read it from the
        state topic, and report it.
        """
        if tenant.state is None or (tenant.state.checkpoint.failing or ("",))[0] == NOT_CONFIGURED:
            return
        _logger.warning("tenant_not_configured", shard=self._shard.number, tenant=key)
        self._buffer.put(RunsDropped(key, NOT_CONFIGURED, _NOT_CONFIGURED))

    def _problem(self, tenant: Tenant, state: TenantState | None) -> str:
        """Return the reason why a tenant cannot be read, with the remedy; empty if it can be read."""
        if state is not None and state.checkpoint.topic != tenant.topic:
            return _other_topic(tenant, state.checkpoint)
        return self._worker.topology.unusable.get(tenant.topic, "")

    def _start_sweeper(self, tenant: OwnedTenant, configured: Tenant, now: datetime, group: asyncio.TaskGroup) -> None:
        """Start a sweeper for a tenant.

        If the buffer still holds messages of the tenant's previous sweeper, the new sweeper continues the previous
        plan.
        """
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
            sweeper.continue_plan(plan)
        task = group.create_task(sweeper.run(), name=f"sweeper {configured.label}")
        tenant.runtime = TenantRuntime(state, sweeper, task, series, worker.graph.clock.now)


def _command(runtime: TenantRuntime, offset: int, received: TenantCommand) -> None:
    label = runtime.tenant_state.tenant.label
    _logger.info("command_applied", tenant=label, command=received.order.command, id=received.order.id)
    runtime.sweeper.command(offset, received.order)


def _other_topic(tenant: Tenant, checkpoint: Checkpoint) -> str:
    return (
        f"the state of tenant {tenant.label} was written for topic {checkpoint.topic}, but now its topic is "
        f"{tenant.topic}: set the tenant's topic back to {checkpoint.topic} and send SIGHUP, or, to use the new topic, "
        "set kafka.app to a new name and copy the state with connector copy-state"
    )
