"""One shard: restore, sweep, commit. This is the only module that joins the stages.

1. All HTTP requests for a batch are finished before its transaction begins.
2. The dedup index changes only after the commit.
3. After an abort that is certain, the batch is repeated with fresh group metadata. After any other failure the shard
   starts again as if it were new: the recovery path is the start path.
4. A transaction begins only with a snapshot of the group in which this worker still owns the shard.
5. Before a new producer is opened, a further poll confirms the ownership. Otherwise two workers would fence each other
   in turns.
"""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial

import msgspec

from connector import batch, log
from connector.batch import Batches, Change, Commanded, Item, PageRead, RunsDropped, TenantState
from connector.buffer import Buffer
from connector.config import Identity, Settings, Tenant, duration_text
from connector.core import windows
from connector.core.dedup import DedupIndex
from connector.core.member_names import MemberNames
from connector.core.rows import RowSchema
from connector.core.windows import Rules
from connector.errors import (
    FatalError,
    FencedError,
    HandedOverError,
    ShardRestartError,
)
from connector.graph.client import GraphClient
from connector.kafka import control, recreation, seen, state, topics
from connector.kafka.acknowledgement import Acknowledgements
from connector.kafka.clients import Clients
from connector.kafka.limits import LengthRefusedError, RecordTooLongError, refusing_topics
from connector.kafka.ownership import Command, Membership
from connector.kafka.publishing import (
    AbortedError,
    CommitContext,
    Offsets,
    Outgoing,
    Publisher,
    TransactionContents,
    TransactionRecord,
)
from connector.kafka.restore import PartitionContents, read_partition, trim_heap
from connector.kafka.state import Checkpoint, StateIdentity
from connector.kafka.transaction import Transactions
from connector.length_limits import LengthLimits
from connector.metrics import Metrics, TenantMetrics
from connector.reading import TenantRuntime, rejected_view
from connector.sweeper import Sweeper

_logger = log.get(__name__)
_ROWS_A_TRANSACTION = 10_000
_COMMIT_AT_LATEST_S = 5.0
_SNAPSHOT_WAIT_S = 10.0
_FIRST_PAUSE_S = 0.2
_LONGEST_PAUSE_S = 5.0
_FORGET_EVERY_S = 600.0
_NOWHERE = recreation.Place(0, "")
_LOG_AGAIN_S = 60.0
_STATE_LOST_REMEDY = (
    "the tenant is read again from its start, and rows in the deduplication index are not published again; counts, "
    "jobs and progress start again, and whatever the state topic lost was lost for every tenant of the shard"
)
_TOO_OLD_REMEDY = "their chain took so long that they may be published already: connector backfill --again reads them"
_DECIDED_S = 10.0
"Time in which brokers write the markers of a transaction after they report it as ended."


@dataclass(frozen=True)
class WorkerContext:
    """Settings and objects that all shards of a worker share."""

    settings: Settings
    home: StateIdentity
    partitions: dict[str, int]
    "Number of partitions per topic."
    schema_ids: dict[str, int] | None
    "Schema id per topic; None without a registry."
    unusable: dict[str, str]
    "Row topics of single tenants that cannot be used, with what is wrong and what to do."
    clients: Clients
    membership: Membership
    graph: GraphClient
    metrics: Metrics
    shape: RowSchema
    once: bool


class Shard:
    """Lifecycle of one shard.

    `run` returns after a hand-over and raises FatalError if retrying cannot fix a problem.
    """

    def __init__(self, number: int, around: WorkerContext, tenants: list[Tenant]) -> None:
        self.number = number
        self.readings: dict[str, TenantRuntime] = {}
        self.accounts: dict[str, TenantState] = {}
        "States of all tenants in the topics, also of those that are not configured; empty before they are restored."
        self.rejected: dict[str, str] = {}
        "Configured tenants that are not read, with what is wrong and what to do."
        self.restored = False
        self.failed = False
        "True once a sweep has failed or a tenant was rejected."
        self._turned_at = time.monotonic()
        self._around = around
        self._tenants = tenants
        self._names = topics.Names(around.settings.kafka.app)
        self._series = around.metrics.shard(number)
        self._handing_over = asyncio.Event()
        limits = around.clients.limits
        self._batches = Batches(around.settings, around.shape, around.partitions, around.schema_ids, limits)
        self._lengths = LengthLimits(around.clients, number, (self._names.state, self._names.seen))
        self.problem: str | None = None
        "Reason why nothing is published until an operator acts, else None."
        self._publisher: Publisher | None = None
        self._control, self._control_id = _NOWHERE
        self._topic_ids = recreation.TopicIds(around.clients)
        self._changed = False
        self._is_following = False
        self._early: list[Command] = []
        "Commands that arrived while tenants were exchanged."
        self._sweeping: dict[str, asyncio.Task[None]] = {}
        self._plans: dict[str, windows.State] = {}
        "Plans of tenants that are not configured any more, because they may be ahead of what is committed."
        self._without_state: dict[str, tuple[DedupIndex, seen.SeenLog]] = {}
        "Dedup index of tenants that have no checkpoint, because their state was lost."
        self._unknown_names = MemberNames()
        self._too_old, self._logged_too_old_at = 0, -_LOG_AGAIN_S
        self._tenant_series: dict[str, TenantMetrics] = {}
        self._buffer = Buffer()

    @property
    def turned_at(self) -> float:
        """Return when the shard's loop last made progress, in monotonic seconds.

        A call to brokers counts as progress as long as it is within its time-outs.
        """
        is_waiting = self._publisher is not None and self._publisher.is_within_bounds
        return time.monotonic() if is_waiting else self._turned_at

    def touch(self) -> None:
        """Record that the shard makes progress."""
        self._turned_at = time.monotonic()

    def hand_over(self) -> None:
        """Release the shard: no further requests to Graph are made, and the open transaction finishes.

        The next owner has its own request budget, so the requests must stop at once and not wait for a commit that
        blocks.
        """
        self._handing_over.set()
        for sweeping in self._sweeping.values():
            sweeping.cancel()

    def configure(self, tenants: list[Tenant]) -> None:
        """Use tenants that were read again, maybe with other secrets. Unchanged tenants continue undisturbed."""
        for reading in self.readings.values():
            reading.sweeper.rest_no_longer()
        if tenants != self._tenants or self.rejected:
            self._tenants = tenants
            self._changed = True
            self._buffer.filled.set()

    def commanded(self, command: Command) -> None:
        """Execute a record of the control topic.

        Records that arrive before the shard is restored are ignored: they are delivered again afterwards.
        """
        if not self.restored:
            return
        if self._is_following:
            self._early.append(command)
            return
        heard = control.parse(command)
        reading = self.readings.get(heard.tenant) if heard is not None else None
        if heard is None or reading is None:
            why = "it is none that this version knows" if heard is None else "its tenant is not configured here"
            _logger.warning("command_passed_over", shard=self.number, offset=command.offset, reason=why)
            self._buffer.put(Commanded(command.offset, self._around.graph.clock.now()))
            return
        _logger.info(
            "command_taken", tenant=reading.account.tenant.label, command=heard.order.command, id=heard.order.id
        )
        reading.sweeper.command(command.offset, heard.order)

    async def run(self) -> None:
        """Run the shard, and start it again as if it were new whenever the outcome of a transaction is unknown."""
        pause_s = _FIRST_PAUSE_S
        try:
            while not self._handing_over.is_set():
                self._show_tenants()
                begun = time.monotonic()
                try:
                    await self._live()
                except ShardRestartError as error:
                    if not isinstance(error, RecordTooLongError):
                        event = "shard_fenced" if isinstance(error, FencedError) else "shard_restarting"
                        _logger.warning(event, shard=self.number, reason=str(error), again_in_s=pause_s)
                    # This is not limited to FencedError: the producer may report a fence as another fatal error.
                    # Opening a producer without confirmed ownership would fence the new owner, which would fence back.
                    await self._confirm_ownership()
                    await self._heed_limits(error)
                else:
                    return
                self._turned_at = time.monotonic()
                pause_s = _FIRST_PAUSE_S if self._turned_at - begun > 4 * _LONGEST_PAUSE_S else pause_s
                await self._wait(self._handing_over, pause_s)
                pause_s = min(_LONGEST_PAUSE_S, 2 * pause_s)
        except HandedOverError:
            _logger.info("shard_lost", shard=self.number)
        finally:
            self._series.closed()
            for series in self._tenant_series.values():
                series.closed()

    async def _heed_limits(self, error: ShardRestartError) -> None:
        """Wait until a record that was too long for its topic may be tried again."""
        self.problem = str(error) if isinstance(error, RecordTooLongError) else None

        async def pause(seconds: float) -> bool:
            self._turned_at = time.monotonic()
            self._series.transaction_aborted()
            await self._wait(self._handing_over, seconds)
            return self._handing_over.is_set()

        await self._lengths.heed(error, pause)
        self.problem = None

    def _show_tenants(self) -> None:
        """Create the series of the configured tenants and close those of others.

        A tenant's series exist from the moment it is owned, and its counters survive a restart of the shard.
        """
        everys = [duration_text(sweep.every) for sweep in self._around.settings.windows.sweeps]
        labels = {tenant.key: tenant.label for tenant in self._tenants}
        for key in [key for key, series in self._tenant_series.items() if series.label != labels.get(key)]:
            self._tenant_series.pop(key).closed()
        for tenant in self._tenants:
            if tenant.key not in self._tenant_series:
                self._tenant_series[tenant.key] = self._around.metrics.tenant(tenant.label, everys)

    async def _live(self) -> None:
        if self._around.settings.kafka.delivery == "at_least_once":
            self._lengths.check()  # opening the publisher writes to these topics
        publisher = self._new_publisher()
        self._publisher = publisher
        opening = asyncio.create_task(self._open(publisher), name=f"open shard {self.number}")
        try:
            handing_over = asyncio.create_task(self._handing_over.wait())
            await asyncio.wait({opening, handing_over}, return_when=asyncio.FIRST_COMPLETED)
            handing_over.cancel()
            if not opening.done():
                opening.cancel()
                return
            accounts = opening.result()
            await self._sweep(accounts, publisher)
        finally:
            self._around.membership.shut(self.number)
            self.restored = False
            await publisher.close()

    def _new_publisher(self) -> Publisher:
        if self._around.settings.kafka.delivery == "at_least_once":
            return Acknowledgements(self._around.clients, self._names, self.number)
        return Transactions(self._around.clients, self._names.transactional_id(self.number))

    async def _open(self, publisher: Publisher) -> dict[str, TenantState]:
        """Open the producer, restore the shard from its topics, and return the tenants' states.

        A transactional producer fences all older ones, so that they cannot write during the restore.
        """
        begun = time.monotonic()
        await publisher.call(publisher.open)
        read = await self._read(publisher)
        values = read.values
        restored = state.restore(values[self._names.state])
        state.check_identity(restored.shard, self._around.home)
        remembered = await publisher.call(seen.restore, values[self._names.seen])
        _check_remembered(self._names.seen, restored.checkpoints, remembered)
        self._without_state = {key: known for key, known in remembered.items() if key not in restored.checkpoints}
        known = recreation.Place(restored.shard.control, restored.shard.control_id) if restored.shard else _NOWHERE
        locate = partial(recreation.locate, self._around.clients, self._names.control, self.number)
        self._control, self._control_id = await publisher.call(locate, known)
        checkpoints = await publisher.call(self._without_stale_offsets, restored.checkpoints)
        now = self._around.graph.clock.now()
        accounts = {
            key: self._retired(key, checkpoint, remembered.get(key), now) for key, checkpoint in checkpoints.items()
        }
        del values, remembered
        await publisher.call(trim_heap)
        seconds = time.monotonic() - begun
        self._series.restored(seconds)
        rows = sum(len(account.remembered) for account in accounts.values())
        tenants = sum(tenant.key in accounts for tenant in self._tenants)
        _logger.info("shard_restored", shard=self.number, tenants=tenants, rows=rows, seconds=round(seconds, 2))
        return accounts

    def _without_stale_offsets(self, checkpoints: Mapping[str, Checkpoint]) -> dict[str, Checkpoint]:
        """Return the checkpoints without offsets in topics that were created again, where the end proves it."""
        created_again = recreation.topics_that_end_before(self._around.clients, checkpoints.values())
        for topic in created_again:
            _logger.warning("topic_created_again", topic=topic, shard=self.number)
        return {
            key: msgspec.structs.replace(checkpoint, offsets=(), stated=())
            if checkpoint.topic in created_again and not checkpoint.topic_id
            else checkpoint
            for key, checkpoint in checkpoints.items()
        }

    def _is_stopped(self, publisher: Publisher) -> bool:
        """Return whether the restore should stop.

        The restore calls this regularly, which also shows that it makes progress.
        """
        publisher.touch()
        return self._handing_over.is_set()

    async def _read(self, publisher: Publisher) -> PartitionContents:
        """Read the internal topics once they are consistent.

        Before that, hanging transactions of the shard are aborted, and lost records of committed transactions are
        written again. Raise ShardRestartError if a transaction stays open.
        """
        read = partial(
            read_partition,
            self._around.clients,
            (self._names.state, self._names.seen),
            self.number,
            is_stopped=partial(self._is_stopped, publisher),
            decided_within_s=_DECIDED_S,
        )
        found = await publisher.call(read)
        # Checked before anything is aborted or written: the topics may hold the state of another cluster or topic.
        state.check_identity(state.restore(found.values[self._names.state]).shard, self._around.home)
        topics_now = {tenant.topic for tenant in self._tenants}
        is_stopped, position = self._handing_over.is_set, await self._position(0)
        ended = await publisher.call(publisher.end_open, found, topics_now, position, is_stopped)
        if ended:
            found = await publisher.call(read)
        # Aborting can have taken long, so ownership is checked again before records are written.
        position = await self._position(0)
        written = await publisher.call(publisher.write_lost, found, ended, position, is_stopped)
        if written:
            found = await publisher.call(read)
        if ended or written:
            outcome = "committed" if written else "aborted"
            _logger.warning(
                "hanging_transaction_ended",
                shard=self.number,
                outcome=outcome,
                partitions=sorted(f"{topic}-{number}" for topic, number in ended),
                records_written_again=written,
            )
        if found.undecided:
            where = " and ".join(f"{topic}-{self.number}" for topic in sorted(found.undecided))
            raise ShardRestartError(
                f"a transaction in {where} stays open: end it with kafka-transactions.sh (find-hanging, then abort)"
            )
        return found

    def _account(
        self,
        tenant: Tenant,
        checkpoint: Checkpoint | None,
        memory: tuple[DedupIndex, seen.SeenLog] | None,
        now: datetime,
    ) -> TenantState:
        settings = self._around.settings
        rules = Rules(settings.windows.sweeps, settings.windows.settle, settings.windows.slice, settings.dedup.horizon)
        remembered, seen_log = memory or (DedupIndex(), seen.SeenLog(tenant.key))
        if checkpoint is None:
            start = now + tenant.start if not isinstance(tenant.start, datetime) else tenant.start
            checkpoint = Checkpoint(tenant.topic, windows.first_state(rules, start, now))
        checkpoint = msgspec.structs.replace(checkpoint, state=windows.resume(checkpoint.state, rules, now))
        hours = int(rules.horizon.total_seconds() // 3600)
        span = max(1, min(hours, int((now - checkpoint.state.start).total_seconds() // 3600)))
        seen_log.fit_width(len(remembered), span)
        return TenantState(tenant, rules, checkpoint, remembered, seen_log)

    def _retired(
        self, key: str, checkpoint: Checkpoint, memory: tuple[DedupIndex, seen.SeenLog] | None, now: datetime
    ) -> TenantState:
        """Return a tenant as the state topic knows it, marked as retired even if it is configured.

        `_exchange` removes the mark from configured tenants.
        """
        nobody = Identity(None, None)
        tenant = Tenant(key, key, None, key, nobody, checkpoint.state.start, 1, checkpoint.topic)
        return replace(self._account(tenant, checkpoint, memory, now), checkpoint=checkpoint, retired=True)

    async def _sweep(self, accounts: dict[str, TenantState], publisher: Publisher) -> None:
        around = self._around
        buffer = self._buffer = Buffer()
        self.accounts = accounts
        try:
            async with asyncio.TaskGroup() as group:
                await self._follow(accounts, group)
                self.restored = True
                # Commands are requested only now, because `commanded` ignores them before the shard is restored.
                around.membership.open(self.number, self._control)
                done = group.create_task(self._all_done(buffer), name="sweepers done")
                await self._commit_loop(buffer, accounts, publisher, done, group)
                for task in (*self._sweeping.values(), done):
                    task.cancel()
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from errors
        finally:
            self.failed = self.failed or any(reading.sweeper.failed for reading in self.readings.values())
            self.accounts = {}
            self._sweeping.clear()
            self._plans.clear()
            readings, self.readings = self.readings, {}
            for reading in readings.values():
                reading.rest()
                await reading.source.close()

    def _begin(self, account: TenantState, group: asyncio.TaskGroup, plan: windows.State | None = None) -> None:
        """Start a sweeper for a tenant. It continues `plan` if there is one."""
        around, tenant = self._around, account.tenant
        series = self._tenant_series[tenant.key]
        sweeper = Sweeper(
            account,
            around.graph.source(tenant, series),
            self._buffer,
            around.shape,
            concurrency=around.settings.graph.concurrency,
            once=around.once,
            now=around.graph.clock.now,
            learn_time=around.graph.learn_time,
        )
        if plan is not None:
            sweeper.go_on(plan)
        self.readings[tenant.key] = TenantRuntime(account, sweeper, series, around.graph.clock.now)
        self._sweeping[tenant.key] = group.create_task(sweeper.run(), name=f"sweeper {tenant.label}")

    async def _follow(self, accounts: dict[str, TenantState], group: asyncio.TaskGroup) -> None:
        """Read for the configured tenants, at the start and after tenants were added, removed or changed.

        Unchanged tenants continue undisturbed.
        """
        self._changed = False
        self._is_following = True
        await self._exchange(accounts, group)
        self._is_following = False
        early, self._early = self._early, []
        for command in early:
            self.commanded(command)

    async def _exchange(self, accounts: dict[str, TenantState], group: asyncio.TaskGroup) -> None:
        """Stop reading for tenants that were removed or changed, then start for those that are to be read."""
        wanted = {tenant.key: tenant for tenant in self._tenants}
        going = [key for key, reading in self.readings.items() if wanted.get(key) != reading.account.tenant]
        for key in going:
            self._sweeping[key].cancel()
            await asyncio.wait([self._sweeping.pop(key)])
            reading = self.readings.pop(key)
            await reading.source.close()
            self._plans[key] = reading.sweeper.plan
            reading.account.retired = True
        self._show_tenants()
        if self._handing_over.is_set():
            return
        now = self._around.graph.clock.now()
        self._reject(wanted, accounts)
        for key, tenant in wanted.items():
            if key in self.readings or key in self.rejected:
                continue
            account = accounts.get(key)
            plan = self._plans.pop(key, None)
            if account is None:
                memory = self._without_state.pop(key, None)
                if memory is not None:
                    _logger.warning("state_lost", tenant=tenant.label, rows=len(memory[0]), remedy=_STATE_LOST_REMEDY)
                account = accounts[key] = self._account(tenant, None, memory, now)
            elif plan is None or plan == account.checkpoint.state:
                account = accounts[key] = self._account(
                    tenant, account.checkpoint, (account.remembered, account.seen), now
                )
                plan = None
            account.tenant, account.retired = tenant, False
            self._begin(account, group, plan)

    def _reject(self, wanted: Mapping[str, Tenant], accounts: Mapping[str, TenantState]) -> None:
        """Find the tenants that cannot be read as they are configured. The others are not affected."""
        before, self.rejected = self.rejected, {}
        for key, tenant in wanted.items():
            account = accounts.get(key)
            problem = self._problem(tenant, account)
            if not problem:
                continue
            self.rejected[key] = problem
            self.failed = True
            self._tenant_series[key].watch(partial(rejected_view, account, self._around.graph.clock.now))
            if account is not None and account.checkpoint.failing != ("rejected", problem):
                self._buffer.put(RunsDropped(key, "rejected", problem))
            if before.get(key) != problem:
                _logger.error("tenant_rejected", tenant=tenant.label, reason=problem)

    def _problem(self, tenant: Tenant, account: TenantState | None) -> str:
        """Return why a tenant cannot be read and what to do; empty if it can be read."""
        if account is not None and account.checkpoint.topic != tenant.topic:
            return _other_topic(tenant, account.checkpoint)
        return self._around.unusable.get(tenant.topic, "")

    async def _all_done(self, buffer: Buffer) -> None:
        """Return when every sweeper has ended, which happens with `once` only."""
        if not self._around.once:
            await asyncio.Event().wait()
        while running := [task for task in self._sweeping.values() if not task.done()]:
            await asyncio.wait(running)
        buffer.filled.set()

    async def _commit_loop(
        self,
        buffer: Buffer,
        accounts: dict[str, TenantState],
        publisher: Publisher,
        done: asyncio.Task[None],
        group: asyncio.TaskGroup,
    ) -> None:
        """Commit what was read: rows and commands at once, everything else after 5 s at the latest."""
        waiting: list[Item] = []
        is_urgent = False
        pending: dict[str, Change] = {}
        since = forget_at = time.monotonic()
        while not self._handing_over.is_set():
            self._turned_at = time.monotonic()
            if self._changed:
                await self._follow(accounts, group)
                _logger.info("tenants_changed", shard=self.number, tenants=len(self._tenants))
            at = self._around.graph.clock.trusted()
            if at is not None and time.monotonic() >= forget_at:
                forget_at = time.monotonic() + _FORGET_EVERY_S
                await publisher.call(self._batches.retire, pending, accounts, at)
                await publisher.call(trim_heap)
                is_urgent = is_urgent or bool(pending)
            finished = done.done()
            items = buffer.take(_ROWS_A_TRANSACTION)
            if items:
                if not waiting:
                    since = time.monotonic()
                waiting += items
                pending = await publisher.call(self._batches.prepare, items, accounts, pending)
                is_urgent = is_urgent or any(change.is_urgent for change in pending.values())
                # Nothing of these pages is published, because all rows are known. They need not occupy the buffer
                # until the next commit; only what they mean for coverage waits.
                if not is_urgent:
                    await buffer.committed(items)
                    waiting = [item for item in waiting if not isinstance(item, PageRead)]
            is_due = time.monotonic() - since >= _COMMIT_AT_LATEST_S or finished
            if (waiting or pending) and (is_due or is_urgent):
                await self._commit(pending, accounts, publisher, _control_after(waiting, self._control))
                await buffer.committed(waiting)
                waiting, pending, is_urgent = [], {}, False
            elif finished and not items:
                return
            elif not items and not done.done():
                left_s = since + _COMMIT_AT_LATEST_S - time.monotonic() if waiting else _COMMIT_AT_LATEST_S
                await self._wait_for_work(buffer, max(0.0, left_s))
        # Hand-over: commit what was read while this worker still owns the shard. Otherwise the next owner would have to
        # read it again, from its own request budget.
        if waiting and self.number in self._around.membership.snapshot.partitions:
            await self._commit(pending, accounts, publisher, _control_after(waiting, self._control))

    async def _commit(
        self, changes: dict[str, Change], accounts: dict[str, TenantState], publisher: Publisher, control_offset: int
    ) -> None:
        """Commit one batch, repeating it as long as it is certain that nothing of it was committed."""
        around = self._around
        now = around.graph.clock.now()
        # The index forgets by confirmed time only: with a clock that is ahead it would forget rows that Graph still
        # serves, and they would be published again.
        await publisher.call(self._batches.close, changes, accounts, around.graph.clock.trusted())
        await self._check_lengths(changes, accounts, publisher, now)
        records = {tag: r for tenant, change in changes.items() for tag, r in change.records(tenant).items()}

        closing = self._closing(changes, accounts, control_offset, now)
        pause_s = _FIRST_PAUSE_S
        # Each attempt needs the current metadata of the group: brokers refuse that of an older generation.
        while True:
            position = await self._position(control_offset)
            begun = time.monotonic()
            try:
                await publisher.call(partial(publisher.commit, records, closing, position))
            except AbortedError as error:
                self._series.transaction_aborted()
                _restart_if_refused(error)
                # One abort per rebalance is normal. A second abort of the same batch needs an operator's attention.
                if pause_s == _FIRST_PAUSE_S:
                    _logger.info("transaction_aborted", shard=self.number, reason=str(error))
                else:
                    _logger.warning("transaction_aborted_again", shard=self.number, reason=str(error))
                await self._wait(self._handing_over, pause_s)
                pause_s = min(_LONGEST_PAUSE_S, 2 * pause_s)
                self.touch()
                if self._handing_over.is_set():
                    raise HandedOverError from error
            except ShardRestartError as error:
                self._series.transaction_aborted()
                around.metrics.kafka_answered(ok=False)
                _restart_if_refused(error)
                raise
            else:
                break
        self._control = control_offset
        self._series.transaction_committed(time.monotonic() - begun)
        around.metrics.kafka_answered(ok=True)
        await publisher.call(batch.apply, changes, accounts)
        committed_at = around.graph.clock.now()
        for tenant, change in changes.items():
            reading = self.readings.get(tenant)
            if reading is not None:
                reading.committed(change, committed_at)
            if change.ends_account:
                del accounts[tenant]
                _logger.info("tenant_forgotten", shard=self.number, tenant=tenant)
                continue
            self._log_unknown(accounts[tenant].tenant, change)
            self._log_too_old(accounts[tenant].tenant, change)

    def _log_too_old(self, tenant: Tenant, change: Change) -> None:
        """Report rows that were left out, at most once per minute."""
        self._too_old += change.too_old
        if self._too_old and time.monotonic() - self._logged_too_old_at >= _LOG_AGAIN_S:
            _logger.warning("rows_left_out", tenant=tenant.label, rows=self._too_old, remedy=_TOO_OLD_REMEDY)
            self._logged_too_old_at, self._too_old = time.monotonic(), 0

    def _closing(
        self, changes: dict[str, Change], accounts: dict[str, TenantState], control_offset: int, now: datetime
    ) -> TransactionContents:
        """Return the records that end a batch, as functions of the offsets of its rows."""
        read = [accounts[tenant] for tenant in changes if not accounts[tenant].retired]
        row_topics = {account.tenant.topic for account in read}

        def noted(offsets: Offsets) -> list[Outgoing]:
            ids = self._topic_ids.of(row_topics)
            return self._batches.noted(changes, accounts, offsets, self.number, ids)

        def last(offsets: Offsets) -> list[Outgoing]:
            ids = self._topic_ids.of(row_topics)
            return self._batches.last(changes, accounts, offsets, self.number, now, ids)

        def shard(transaction: TransactionRecord) -> list[Outgoing]:
            # The control offset moves past a command in the same transaction that writes the command's effect.
            record = state.shard_record(self._around.home, control_offset, *transaction, control_id=self._control_id)
            return [self._batches.internal(self._names.state, self.number, record)]

        return TransactionContents(noted, last, shard)

    async def _check_lengths(
        self, changes: dict[str, Change], accounts: dict[str, TenantState], publisher: Publisher, now: datetime
    ) -> None:
        """Raise RecordTooLongError if the state of a batch cannot be written. Nothing is written before this check."""
        self._lengths.check()
        too_long = await publisher.call(self._batches.too_long, changes, accounts, self.number, now)
        if too_long is not None:
            raise RecordTooLongError(too_long, self._around.clients.limits.of(too_long.topic))

    def _log_unknown(self, tenant: Tenant, change: Change) -> None:
        """Log names that this shard has not logged yet, and once that there are more than it logs."""
        logged_all = not self._unknown_names.unnamed
        names = sorted(self._unknown_names.add(change.unknown_names))
        self._unknown_names.unnamed += change.unknown_names.unnamed
        if logged_all and self._unknown_names.unnamed:
            _logger.warning("unknown_properties", tenant=tenant.label, names=names, further=True)
        elif names:
            _logger.warning("unknown_properties", tenant=tenant.label, names=names)

    async def _position(self, control_offset: int) -> CommitContext:
        """Return the control offset with the group metadata of a poll in which this worker owned the shard.

        Raise HandedOverError if the shard is not owned any more, and ShardRestartError if the group does not answer
        within ten seconds.
        """
        deadline = time.monotonic() + _SNAPSHOT_WAIT_S
        holds = partial(self._around.membership.holds, self.number)
        while True:
            snapshot = self._around.membership.snapshot
            if self.number not in snapshot.partitions:
                raise HandedOverError
            if snapshot.metadata is not None:
                return CommitContext(self._names.control, self.number, control_offset, snapshot.metadata, holds)
            if time.monotonic() > deadline:
                raise ShardRestartError("the consumer group does not answer")
            await self._wait(self._handing_over, 0.02)

    async def _confirm_ownership(self) -> None:
        """Wait for a poll that began after this call. Raise HandedOverError if the shard is not owned any more."""
        # Two more polls: the first of them may have started before this call and report an older assignment.
        polls = self._around.membership.snapshot.polls
        while self._around.membership.snapshot.polls <= polls + 1 and not self._handing_over.is_set():
            await self._wait(self._handing_over, 0.05)
        if self.number not in self._around.membership.snapshot.partitions:
            raise HandedOverError

    async def _wait_for_work(self, buffer: Buffer, seconds: float) -> None:
        waits = {asyncio.create_task(buffer.filled.wait()), asyncio.create_task(self._handing_over.wait())}
        try:
            await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    @staticmethod
    async def _wait(event: asyncio.Event, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await event.wait()
        except TimeoutError:
            pass


def _other_topic(tenant: Tenant, checkpoint: Checkpoint) -> str:
    return (
        f"the state of tenant {tenant.label} was written for topic {checkpoint.topic}, now its topic is "
        f"{tenant.topic}: set it back and send SIGHUP, or set kafka.app to a new name to read everything again"
    )


def _restart_if_refused(error: AbortedError | ShardRestartError) -> None:
    """Raise LengthRefusedError if a topic refused a record because of its length.

    The same batch would be refused again, so it must not be repeated.
    """
    refused = refusing_topics(error)
    if refused:
        raise LengthRefusedError(str(error), refused) from error


def _check_remembered(
    topic: str,
    checkpoints: Mapping[str, Checkpoint],
    remembered: Mapping[str, tuple[DedupIndex, seen.SeenLog]],
) -> None:
    """Raise FatalError if a tenant's dedup index is gone: all of its rows would be published again."""
    for key, checkpoint in checkpoints.items():
        if checkpoint.remembered and key not in remembered:
            raise FatalError(
                f"the state says that {checkpoint.remembered} rows of tenant {key} are in the deduplication index, but "
                f"topic {topic} holds none of them: they would be published again",
                f"restore topic {topic}, or set kafka.app to a new name to read everything again into a new topic",
            )


def _control_after(items: list[Item], control_offset: int) -> int:
    """Return the offset of the next command once `items` are committed."""
    return max((item.offset + 1 for item in items if isinstance(item, Commanded)), default=control_offset)
