"""Commit loop of one shard: it takes messages from the buffer and commits them, one transaction after the other.

1. All requests to Graph for a batch are finished before its transaction begins.
2. The deduplication index in memory changes only after the commit.
3. If it is certain that the transaction was aborted, the batch is repeated with new group metadata. Any other failure
   ends the loop.
4. A transaction begins only if this worker owned the shard at the last poll of the consumer group.
"""

import asyncio
import time
from functools import partial

from connector import log
from connector.backoff import doubling
from connector.errors import HandedOverError, ShardRestartError, UnsupportedError
from connector.kafka import recreation
from connector.kafka.limits import LengthRefusedError, RecordTooLongError, refusing_topics
from connector.kafka.publishing import AbortedError, Publisher
from connector.kafka.restore import trim_heap
from connector.pipeline.batch_contents import BatchContents, ShardPosition
from connector.pipeline.buffer import Buffer
from connector.pipeline.change import Change, apply
from connector.pipeline.messages import Commanded, Item, PageRead
from connector.pipeline.owned_tenants import OwnedTenants
from connector.pipeline.shard_context import ShardContext

_logger = log.get(__name__)
_ROWS_A_TRANSACTION = 10_000
_COMMIT_AT_LATEST_S = 5.0
_FORGET_EVERY_S = 600.0
_FIRST_PAUSE_S = 0.2
_LONGEST_PAUSE_S = 5.0


class CommitLoop:
    """Commit loop of a restored shard.

    It runs until the hand-over, or until the outcome of a transaction is unknown.
    """

    def __init__(
        self,
        shard: ShardContext,
        publisher: Publisher,
        tenants: OwnedTenants,
        buffer: Buffer,
        control: recreation.Place,
        kept: tuple[str, ...] = (),
    ) -> None:
        """Create the loop.

        `control` holds the offset of the next command to execute. `kept` holds commands, as JSON, that wait until a
        sweeper runs for their tenant.
        """
        self._shard = shard
        self._worker = shard.worker
        self._publisher = publisher
        self._tenants = tenants
        self._buffer = buffer
        self._control, self._control_id = control
        self._kept = kept
        self._waiting: list[Item] = []
        "Items that were taken from the buffer but are not committed yet."
        self._pending: dict[str, Change] = {}
        "Changes that the messages in `_waiting` cause, by tenant."
        self._is_urgent = False
        self._since = self._forget_at = time.monotonic()

    async def run(self, group: asyncio.TaskGroup, sweepers: asyncio.Task[None]) -> None:
        """Commit messages until the hand-over, or until all sweepers have ended and everything is committed.

        Rows and commands are committed at once, everything else after at most 5 s. The task `sweepers` ends when all
        sweepers have ended. The sweepers of added and changed tenants start in `group`.
        """
        handing_over = self._shard.ownership.handing_over
        while not handing_over.is_set():
            self._shard.liveness.touch()
            if self._tenants.is_outdated:
                await self._tenants.follow(group)
                tenants = len(self._worker.tenants_of(self._shard.number))
                _logger.info("tenants_changed", shard=self._shard.number, tenants=tenants)
            await self._forget()
            finished = sweepers.done()
            items = self._buffer.take(_ROWS_A_TRANSACTION)
            if items:
                await self._add(items)
            is_due = self._is_urgent or finished or time.monotonic() - self._since >= _COMMIT_AT_LATEST_S
            if is_due and (self._waiting or self._pending):
                await self._flush()
            elif finished and not items:
                return
            elif not items and not sweepers.done():
                left_s = _COMMIT_AT_LATEST_S
                if self._waiting:
                    left_s = max(0.0, self._since + _COMMIT_AT_LATEST_S - time.monotonic())
                await self._shard.ownership.wait_for(self._buffer.filled, left_s)
        # Hand-over: commit what was read while this worker still owns the shard. Otherwise the next owner would have to
        # read it again, from its own request budget.
        if self._waiting and self._shard.ownership.is_owned:
            await self._commit(self._pending, _control_after(self._waiting, self._control))

    async def _forget(self) -> None:
        """Add to the batch the deletion of old state of tenants that are not configured any more.

        This happens at most every 10 minutes.
        """
        at = self._worker.graph.clock.trusted()
        if at is None or time.monotonic() < self._forget_at:
            return
        self._forget_at = time.monotonic() + _FORGET_EVERY_S
        await self._publisher.call(self._shard.batches.retire, self._pending, self._tenants.states, at)
        await self._publisher.call(trim_heap)
        self._is_urgent = self._is_urgent or bool(self._pending)

    async def _add(self, items: list[Item]) -> None:
        """Add the effects of the messages `items` to the batch. The batch is committed later."""
        if not self._waiting:
            self._since = time.monotonic()
        self._waiting += items
        self._pending = await self._publisher.call(
            self._shard.batches.prepare, items, self._tenants.states, self._pending
        )
        self._is_urgent = self._is_urgent or any(change.is_urgent for change in self._pending.values())
        # Nothing of these pages is published, because all rows are known. They need not occupy the buffer until the
        # next commit; only their effect on coverage waits.
        if not self._is_urgent:
            await self._buffer.committed(items)
            self._waiting = [item for item in self._waiting if not isinstance(item, PageRead)]

    async def _flush(self) -> None:
        """Commit the batch, release its memory in the buffer, and start an empty batch."""
        await self._commit(self._pending, _control_after(self._waiting, self._control))
        await self._buffer.committed(self._waiting)
        self._waiting, self._pending, self._is_urgent = [], {}, False

    async def _commit(self, changes: dict[str, Change], control_offset: int) -> None:
        """Commit one batch, then apply it to the tenants' states in memory."""
        publisher, clock, states = self._publisher, self._worker.graph.clock, self._tenants.states
        now = clock.now()
        # The index forgets by confirmed time only: with a clock that is ahead it would forget rows that Graph still
        # serves, and they would be published again.
        await publisher.call(self._shard.batches.close, changes, states, clock.trusted())
        kept = _kept_after(self._waiting, self._kept)
        # The control offset moves past a command in the same transaction that writes the command's effect.
        shard = ShardPosition(self._shard.number, self._worker.identity, control_offset, self._control_id, kept)
        contents = self._shard.batches.contents(changes, states, shard, now)
        await self._check_lengths(contents)
        await self._write(contents, control_offset)
        self._control, self._kept = control_offset, kept
        await publisher.call(apply, changes, states)
        self._tenants.committed(changes)

    async def _write(self, contents: BatchContents, control_offset: int) -> None:
        """Write one batch, and repeat it after each abort until it is committed.

        Raises HandedOverError if the worker loses the shard in the meantime, and ShardRestartError if the outcome is
        unknown.
        """
        # Each attempt needs the current metadata of the group: brokers refuse metadata of an older generation.
        for pause_s in doubling(_FIRST_PAUSE_S, _LONGEST_PAUSE_S):
            context = await self._shard.ownership.commit_context(control_offset)
            begun = time.monotonic()
            try:
                await self._publisher.call(partial(self._publisher.commit, contents, context))
            except AbortedError as error:
                self._shard.series.transaction_aborted()
                _restart_if_refused(error)
                self._log_abort(error, is_first=pause_s == _FIRST_PAUSE_S)
                await self._shard.ownership.wait(pause_s)
                self._shard.liveness.touch()
                if self._shard.ownership.handing_over.is_set():
                    raise HandedOverError from error
            except ShardRestartError as error:
                self._shard.series.transaction_aborted()
                self._worker.metrics.kafka_answered(ok=False)
                if isinstance(error, UnsupportedError):
                    self._shard.commit_problem = str(error)
                _restart_if_refused(error)
                raise
            else:
                self._shard.commit_problem = None
                self._shard.series.transaction_committed(time.monotonic() - begun)
                self._worker.metrics.kafka_answered(ok=True)
                return

    def _log_abort(self, error: AbortedError, *, is_first: bool) -> None:
        """Log that a batch was aborted.

        The first abort of a batch is normal during a rebalance. If the same batch is aborted again, a warning is
        logged.
        """
        if is_first:
            _logger.info("transaction_aborted", shard=self._shard.number, reason=str(error))
        else:
            _logger.warning("transaction_aborted_repeatedly", shard=self._shard.number, reason=str(error))

    async def _check_lengths(self, contents: BatchContents) -> None:
        """Raise RecordTooLongError if a record of the batch does not fit into its topic.

        Call this before any record of the batch is written.
        """
        self._shard.lengths.check()
        too_long = await self._publisher.call(contents.too_long)
        if too_long is not None:
            raise RecordTooLongError(too_long, self._worker.clients.limits.of(too_long.topic))


def _restart_if_refused(error: AbortedError | ShardRestartError) -> None:
    """Raise LengthRefusedError if a topic refused a record because of its length.

    Such a batch must not be repeated, because the topic would refuse it again.
    """
    refused = refusing_topics(error)
    if refused:
        raise LengthRefusedError(str(error), refused) from error


def _control_after(items: list[Item], control_offset: int) -> int:
    """Return the control offset to commit with the messages `items`: the offset after the last command among them.

    Without a command, it is `control_offset`, the current control offset.
    """
    return max([control_offset, *(item.offset + 1 for item in items if isinstance(item, Commanded))])


def _kept_after(items: list[Item], kept: tuple[str, ...]) -> tuple[str, ...]:
    """Return the commands, as JSON, that wait for a sweeper of their tenant after the commit of the messages `items`.

    `kept` holds the commands that waited before the commit.
    """
    return next((i.kept for i in reversed(items) if isinstance(i, Commanded) and i.kept is not None), kept)
