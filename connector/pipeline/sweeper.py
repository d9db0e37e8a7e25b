"""Sweeper of one tenant: it reads the page chains that the scheduler decides on, and puts the pages into the buffer."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime
from functools import partial

from connector import log
from connector.core import instants, jobs
from connector.core.coverage import Window
from connector.core.failing_ranges import RangeFailure
from connector.core.rows import RowSchema
from connector.core.scheduler import LearnTime, Outcome, ReadSlice, Rest, Scheduler, SliceFailure, StartRuns, Stop, Wait
from connector.core.windows import Slice, State
from connector.errors import PermanentError, RangeTooLongError, SourceError, TransientError
from connector.graph.page_memory import DECODED, NO_ROOM
from connector.graph.source import Source
from connector.pipeline.buffer import Buffer
from connector.pipeline.messages import Commanded, RangeFailed, RunsDropped, RunsStarted, SliceRead
from connector.pipeline.page_chain import PageChain, read_chain
from connector.pipeline.tenant_state import TenantState

_logger = log.get(__name__)
_SHORTEST_SLEEP_S = 0.2
_LONGEST_SLEEP_S = 30.0


class Sweeper:
    """Sweeper of one tenant: it reads what the scheduler decides, until it is cancelled.

    With `once`, it ends when every due sweep has ended or failed.
    """

    def __init__(  # noqa: PLR0913
        self,
        tenant_state: TenantState,
        source: Source,
        buffer: Buffer,
        shape: RowSchema,
        *,
        concurrency: int,
        once: bool,
        now: Callable[[], datetime],
        learn_time: Callable[[Source], Awaitable[None]] | None = None,
    ) -> None:
        """Create the sweeper. `now` returns the current time, and `learn_time` asks Graph for it.

        After `learn_time`, Graph has confirmed the time that `now` returns. If `learn_time` is None, the time is used
        without confirmation.
        """
        self.tenant_state = tenant_state
        self.source = source
        self._buffer = buffer
        self._read_chain = partial(read_chain, source, tenant_state.tenant, shape, buffer)
        self._now = now
        self._learn_time = learn_time
        self._tenant = tenant_state.tenant.key
        self._scheduler = Scheduler(
            tenant_state.checkpoint.state,
            tenant_state.rules,
            concurrency,
            tenant_state.remembered.per_hour,
            start=tenant_state.tenant.start if learn_time else None,
            once=once,
        )
        self._tasks: dict[Slice, asyncio.Task[None]] = {}
        self._wake = asyncio.Event()

    async def run(self) -> None:
        """Read everything that the scheduler decides on.

        Errors of Graph are handled here; any other exception is a bug.
        """
        async with asyncio.TaskGroup() as chains:
            while True:
                self._wake.clear()
                self._scheduler.forget(self.tenant_state.checkpoint.state.forgotten_before)
                now = self._now()
                match self._scheduler.next(now):
                    case LearnTime():
                        await self._confirm_time()
                    case StartRuns(start=start):
                        self._buffer.put(RunsStarted(self._tenant, now, start))
                    case ReadSlice() as read:
                        self._open_chain(read, chains)
                    case Wait(until=until):
                        await self._sleep(until)
                    case Stop():
                        return

    @property
    def failed(self) -> bool:
        """Return whether a run has failed or a range was isolated."""
        return self._scheduler.has_failed

    @property
    def plan(self) -> State:
        """Return the state of the tenant, including everything that is in the buffer but not committed yet."""
        return self._scheduler.plan

    def continue_plan(self, plan: State) -> None:
        """Continue the plan of the tenant's previous sweeper, which may contain more than is committed.

        This must be called before `run`.
        """
        self._scheduler.plan = plan

    def end_rest(self) -> None:
        """End the pause after a failure early, because the cause of the failure may have been removed."""
        self._scheduler.end_rest()
        self._wake.set()

    def command(self, offset: int, command: jobs.Command) -> None:
        """Apply an operator's command to the plan at once, and put it into the buffer for the next commit."""
        now = self._now()
        for piece in self._scheduler.command(command, now):
            self._tasks[piece].cancel("an operator's command")
        self._buffer.put(Commanded(offset, now, self._tenant, command))
        self._wake.set()

    async def _confirm_time(self) -> None:
        """Wait until Graph has confirmed the time.

        If Graph does not answer, begin a rest, in which the tenant is not read.
        """
        try:
            if self._learn_time is not None:
                await self._learn_time(self.source)
        except SourceError as error:
            self._rest(self._scheduler.rest(self._now(), permanent=isinstance(error, PermanentError)), error)
        else:
            self._scheduler.confirm_time()

    def _open_chain(self, read: ReadSlice, chains: asyncio.TaskGroup) -> None:
        name = f"chain {self.tenant_state.tenant.label} {read.slice.window.start:%m-%dT%H:%M:%S}"
        task = self._tasks[read.slice] = chains.create_task(self._read(read), name=name)
        task.add_done_callback(partial(self._close_chain, read.slice))

    def _close_chain(self, piece: Slice, task: asyncio.Task[None]) -> None:
        """Close a slice because the task that read its page chain has ended.

        Do nothing if another task is already reading the same slice.
        """
        if self._tasks.get(piece) is task:
            del self._tasks[piece]
            self._scheduler.closed(piece)
        self._wake.set()

    async def _read(self, read: ReadSlice) -> None:
        """Read the page chain of a slice and report the outcome to the scheduler.

        A backfill with `again` needs memory for its whole page chain. Without enough memory, the slice is closed
        without an outcome, and backfills wait until memory is free.
        """
        piece = read.slice
        room = self.source.memory.reserve_chain(self._allow_backfills) if piece.again else NO_ROOM
        if room is None:
            self._scheduler.may_backfill = False
            return
        try:
            chain = await self._read_until_stable(read)
        except BaseException as error:
            room.release()
            if not isinstance(error, SourceError):
                raise
            self._failed(piece, error)
            return
        if chain.held:
            room.resize(DECODED * chain.held.bytes)
            await self._buffer.put_page(chain.held._replace(room=room))
        now = self._now()
        outcome = self._scheduler.finished(piece, chain.rows, now)
        self._buffer.put(SliceRead(self._tenant, piece, outcome.steady, now))
        self._log_ranges(outcome)

    async def _read_until_stable(self, read: ReadSlice) -> PageChain:
        """Read the page chain of a slice. Repeat this if the paging was not stable."""
        suspects: frozenset[int] = frozenset()
        while True:
            chain = await self._read_chain(read, suspects)
            if not self._scheduler.repeats(read.slice, repeated=bool(chain.repeated)):
                return chain
            suspects = chain.repeated
            del chain  # its pages must not stay in memory while the chain is read again

    def _allow_backfills(self) -> None:
        """Let backfills continue, because memory for a page chain may be free."""
        self._scheduler.may_backfill = True
        self._wake.set()

    def _failed(self, piece: Slice, error: SourceError) -> None:
        """Report to the scheduler that a slice could not be read, and put the resulting messages into the buffer."""
        now = self._now()
        cause = RangeFailure(error.wrong, now, self.source.served_at, isinstance(error, RangeTooLongError))
        failure = SliceFailure(cause, error.of_range, isinstance(error, PermanentError), bool(self.source.failing()))
        outcome = self._scheduler.failed(piece, failure, now)
        if error.of_range:
            self._buffer.put(RangeFailed(self._tenant, piece.window, cause))
        self._log_ranges(outcome)
        self._rest(outcome.rest, error)

    def _rest(self, rest: Rest | None, error: SourceError) -> None:
        """Begin the rest that the scheduler has returned after a failure. Do nothing if `rest` is None.

        During a rest, the tenant is not read. The reading of open slices is stopped. If runs were in progress, a
        message that they have failed is put into the buffer.
        """
        if rest is None:
            return
        if rest.dropped:
            reason = error.reason if isinstance(error, PermanentError | TransientError) else "rejected"
            self._buffer.put(RunsDropped(self._tenant, reason, str(error)))
        for piece in rest.cancelled:
            self._tasks[piece].cancel(f"{piece.window} of a failed run")
        _logger.warning(
            "sweep_failed", tenant=self.tenant_state.tenant.label, reason=str(error), again_in_s=rest.seconds
        )

    def _log_ranges(self, outcome: Outcome) -> None:
        """Log the ranges that have become isolated, and the ranges that are no longer isolated."""
        label = self.tenant_state.tenant.label
        for window, cause in outcome.isolated:
            _logger.warning("range_isolated", tenant=label, window=_text(window), reason=cause)
        for window in outcome.read_again:
            _logger.info("range_recovered", tenant=label, window=_text(window))

    async def _sleep(self, until: datetime | None) -> None:
        """Wait until the time `until`. The wait ends earlier when a page chain ends or a command arrives.

        The wait takes at most 30 s, because the clock may be changed in the meantime.
        """
        delay_s = _LONGEST_SLEEP_S if until is None else (until - self._now()).total_seconds()
        try:
            async with asyncio.timeout(min(max(_SHORTEST_SLEEP_S, delay_s), _LONGEST_SLEEP_S)):
                await self._wake.wait()
        except TimeoutError:
            pass


def _text(window: Window) -> list[str]:
    return [instants.text(moment) for moment in window]
