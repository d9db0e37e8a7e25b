"""Sweeper of one tenant: it starts runs when they are due, opens page chains for slices, and hands over the pages.

It plans ahead of what is committed: `plan` is the state as it will be once everything that was handed over is
committed. The shard applies the same steps, from the same items in the same order, to the state that it writes.
"""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from functools import partial
from typing import NamedTuple

from connector import log
from connector.batch import Commanded, PageRead, RangeFailed, RunsDropped, SliceRead, SweepsBegun, TenantState
from connector.buffer import MAX_BYTES, Buffer
from connector.core import failing_ranges, instants, jobs, windows
from connector.core.coverage import Window, subtract
from connector.core.failing_ranges import RangeFailure
from connector.core.instants import EPOCH
from connector.core.rows import RowSchema, join
from connector.core.windows import Sizes, Slice, State
from connector.errors import PermanentError, RangeTooLongError, SourceError, TransientError
from connector.graph.client import Source

_logger = log.get(__name__)
_REPEATS = 2
_SHORTEST_SLEEP_S = 0.2
_LONGEST_SLEEP_S = 30.0
_FIRST_REST_S = 10.0
_LONGEST_REST_S = 60.0
_TRANSIENT_REST_S = 1.0
_ATTEMPTS = 3
"Failures of one page after which a range is split. A range that failed before has one attempt."
_NORMAL_STEP_S = 120.0
_MOST_HELD_ROWS = 2 * windows.ROWS_A_SLICE


class _Chain(NamedTuple):
    """Page chain that was read to its end."""

    rows: int
    repeated: bool
    "True if an id was on two pages, so that rows may have shifted between pages while they were read."
    held: list[PageRead]
    "Pages that were not handed over yet."


class Sweeper:
    """Reader of one tenant, until it is cancelled or, with `once`, until every due sweep has ended or failed."""

    def __init__(  # noqa: PLR0913
        self,
        account: TenantState,
        source: Source,
        buffer: Buffer,
        shape: RowSchema,
        *,
        concurrency: int,
        once: bool,
        now: Callable[[], datetime],
        learn_time: Callable[[Source], Awaitable[None]] | None = None,
    ) -> None:
        """`now` is the time that Graph has confirmed, once `learn_time` has returned.

        Without `learn_time` it counts at once.
        """
        self.account = account
        self.source = source
        self.failed = False
        "True once a run has failed."
        self._plan = account.checkpoint.state._replace(orders=self._orders(account.checkpoint.state.orders, once=once))
        self._buffer = buffer
        self._shape = shape
        self._concurrency = concurrency
        self._once = once
        self._now = now
        self._learn_time = learn_time
        self._tenant = account.tenant.key
        self._chains: dict[Slice, asyncio.Task[None]] = {}
        self._wake = asyncio.Event()
        self._rest_s = 0.0
        self._resting_until = 0.0
        self._guess = windows.first_guess()
        self._steps = 0

    async def run(self) -> None:
        """Read what is due. Errors of the source never leave this method; any other error is a bug and does."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.TaskGroup() as chains:
                while True:
                    self._wake.clear()
                    resting_s = self._resting_until - loop.time()
                    if resting_s <= 0 and await self._knows_time():
                        self._begin()
                        self._open_chains(chains)
                    is_begun = self._steps or self.failed
                    if self._once and is_begun and not self._chains and (self._is_idle() or self.failed):
                        return
                    await self._sleep(resting_s)
        finally:
            self._chains.clear()

    @property
    def plan(self) -> State:
        """Return the state as it will be once everything that was handed over is committed."""
        return self._plan

    def go_on(self, plan: State) -> None:
        """Continue the plan of a previous sweeper, which has handed over more than is committed."""
        self._plan = plan

    def rest_no_longer(self) -> None:
        """End the rest after a failure: its cause may have been fixed."""
        self._rest_s = self._resting_until = 0.0
        self._wake.set()

    def command(self, offset: int, command: jobs.Command) -> None:
        """Apply an operator's command to the plan at once, and hand it over for the next commit."""
        now = self._now()
        self._plan = windows.command(self._plan, command, now, now - self.account.rules.horizon)
        self._plan = self._plan._replace(orders=self._orders(self._plan.orders, once=self._once))
        self._buffer.put(Commanded(offset, now, self._tenant, command))
        orders = self._plan.orders
        for piece, chain in self._chains.items():
            if orders.paused or (piece.job and not jobs.is_open(orders, piece.job)):
                chain.cancel("an operator's command")
        self._wake.set()

    @staticmethod
    def _orders(orders: jobs.Orders, *, once: bool) -> jobs.Orders:
        """Return the orders, with `once` without jobs: other workers run the backfills."""
        return orders._replace(jobs=()) if once else orders

    async def _knows_time(self) -> bool:
        """Return whether Graph has confirmed the time. Before that no run starts and no tenant's start is fixed."""
        if self._learn_time is not None and not self._plan.orders.paused:
            try:
                await self._learn_time(self.source)
            except SourceError as error:
                self._fail(error)
                return False
        return True

    def _fix_start(self, now: datetime) -> datetime | None:
        """Return the start of a tenant that was never read, once the time is known; None for any other."""
        is_read = self._plan.coverage.reads or any(sweep_state.run for sweep_state in self._plan.sweeps)
        if is_read or self._learn_time is None:
            return None
        start = self.account.tenant.start
        start = start if isinstance(start, datetime) else now + start
        self._plan = windows.start_earlier(self._plan, self.account.rules, start, now)
        return self._plan.start

    def _is_idle(self) -> bool:
        return windows.is_idle(self._plan, self.account.rules, self._now())

    def _begin(self) -> None:
        if self._once and self._steps:
            return
        now = self._now()
        self._heed_what_was_forgotten()
        start = self._fix_start(now)
        self._plan, started = windows.begin(self._plan, self.account.rules, now)
        if started:
            self._buffer.put(SweepsBegun(self._tenant, now, start))
        self._steps += 1

    def _heed_what_was_forgotten(self) -> None:
        """Update the plan with what the dedup index has forgotten, which commits decide and not items."""
        forgotten_before = max(self._plan.forgotten_before, self.account.checkpoint.state.forgotten_before)
        self._plan = self._plan._replace(forgotten_before=forgotten_before)

    def _open_chains(self, chains: asyncio.TaskGroup) -> None:
        """Open as many chains as allowed. If several are allowed, one is reserved for the live sweep."""
        while True:
            live, others = windows.room(self._chains, self._concurrency)
            piece = windows.next_slice(
                self._plan,
                self.account.rules,
                self._chains,
                self._sizes(),
                self._now(),
                live=live,
                others=others,
            )
            if piece is None:
                return
            name = f"chain {self.account.tenant.label} {piece.window.start:%m-%dT%H:%M:%S}"
            task = self._chains[piece] = chains.create_task(self._read(piece), name=name)
            task.add_done_callback(partial(self._forget_chain, piece))

    def _forget_chain(self, piece: Slice, task: asyncio.Task[None]) -> None:
        """Remove the chain of a task that was cancelled before its first step, so that its `finally` did not run."""
        if self._chains.get(piece) is task:
            del self._chains[piece]
            self._wake.set()

    def _sizes(self) -> Sizes:
        first = (self._plan.start - EPOCH) // timedelta(hours=1)
        end = (self._now() - EPOCH) // timedelta(hours=1) + 1
        counts = self.account.remembered.per_hour(first, end)
        return Sizes(counts, first, self._plan.coverage, self._guess)

    async def _read(self, piece: Slice) -> None:
        """Read a slice, hand it over, and update the plan with the outcome."""
        try:
            unread = tuple(self._unread(piece))
            chain = await self._read_chain(piece, unread)
            for _ in range(_REPEATS):
                if chain.repeated:
                    chain = await self._read_chain(piece, unread)
        except SourceError as error:
            self._failed(piece, error)
        else:
            if chain.held:
                await self._buffer.put_page(_joined(chain.held))
            item = SliceRead(self._tenant, piece, not chain.repeated, self._now())
            self._buffer.put(item)
            before = failing_ranges.isolated(self._plan.failing_ranges)
            self._plan, _ = windows.finish(self._plan, [(piece, item.steady)], item.now, self.account.rules)
            self._log_isolated(before)
            self._rest_s = 0.0
            if unread:
                self._guess = windows.next_guess(piece.window, chain.rows)
        finally:
            self._chains.pop(piece, None)
            self._wake.set()

    async def _read_chain(self, piece: Slice, unread: tuple[Window, ...]) -> _Chain:
        """Read one chain to its end. Hand over its pages at once, unless they must be committed as a whole."""
        seen: set[int] = set()
        rows, repeated = 0, False
        held: list[PageRead] = []
        attempts = 1 if failing_ranges.is_known(self._plan.failing_ranges, piece.window) else _ATTEMPTS
        async for page in self.source.pages(piece.window, piece.priority, attempts):
            reading = self._shape.read(page.rows)
            ids = set(reading.entries["hi"].tolist())
            repeated = repeated or not seen.isdisjoint(ids)
            seen |= ids
            rows += len(page.rows)
            read = PageRead(self._tenant, piece, page.rows, reading, page.received_at, page.bytes, unread)
            if piece.again:
                held.append(read)
                if rows > _MOST_HELD_ROWS or (len(held) > 1 and sum(one.bytes for one in held) > MAX_BYTES):
                    raise RangeTooLongError(f"a slice of {self.account.tenant.label} is too large to be held")
            else:
                await self._buffer.put_page(read)
        return _Chain(rows, repeated, held)

    def _unread(self, piece: Slice) -> list[Window]:
        """Return the call time of a slice that was never read, whose rows therefore do not count towards lateness.

        All of a backfill's window counts as never read. A step of usual length of a live sweep does not: its rows are
        on time.
        """
        window = piece.window
        if piece.job:
            return [window]
        unread = self._plan.coverage.missing(window)
        step_s = 2 * self.account.rules.sweeps[0].every.total_seconds()
        if self._plan.coverage.reads and sum(part.seconds for part in unread) <= max(step_s, _NORMAL_STEP_S):
            return []
        return unread

    def _failed(self, piece: Slice, error: SourceError) -> None:
        """Record that a slice could not be read. The tenant fails unless only this range may be affected."""
        too_long = isinstance(error, RangeTooLongError)
        failure = RangeFailure(error.wrong, self._now(), self.source.served_at, too_long)
        is_hopeless = failing_ranges.refuses_any_length(self._plan.failing_ranges, piece.window, failure)
        if error.of_range:
            before = failing_ranges.isolated(self._plan.failing_ranges)
            self._plan = windows.range_failed(self._plan, piece.window, failure)
            self._buffer.put(RangeFailed(self._tenant, piece.window, failure))
            self._log_isolated(before)
        if is_hopeless:
            self._fail(PermanentError("rejected", str(error)))
        elif not too_long and self.source.failing():
            self._fail(error)

    def _log_isolated(self, before: list[Window]) -> None:
        """Log the call time that runs leave out from now on, and the call time that they include again."""
        ranges = self._plan.failing_ranges
        after, label = failing_ranges.isolated(ranges), self.account.tenant.label
        for window, cause in failing_ranges.causes(ranges, subtract(after, before), ""):
            self.failed = True
            _logger.warning("range_isolated", tenant=label, window=_text(window), reason=cause)
        for window in subtract(before, after):
            _logger.info("range_read_again", tenant=label, window=_text(window))

    def _fail(self, error: SourceError) -> None:
        """Fail all runs in progress. They start again after a rest."""
        if self._resting_until > asyncio.get_running_loop().time():
            return
        self.failed = True
        self._plan, dropped = windows.drop_runs(self._plan)
        if dropped:
            reason = error.reason if isinstance(error, PermanentError | TransientError) else "rejected"
            self._buffer.put(RunsDropped(self._tenant, reason, str(error)))
        for piece, task in self._chains.items():
            if task is not asyncio.current_task():
                task.cancel(f"{piece.window} of a failed run")
        permanent = isinstance(error, PermanentError)
        self._rest_s = min(_LONGEST_REST_S, max(_FIRST_REST_S, 2 * self._rest_s)) if permanent else _TRANSIENT_REST_S
        self._resting_until = asyncio.get_running_loop().time() + self._rest_s
        _logger.warning("sweep_failed", tenant=self.account.tenant.label, reason=str(error), again_in_s=self._rest_s)

    async def _sleep(self, resting_s: float) -> None:
        """Wait until a chain ends or a sweep is due, at most 30 s because the wall clock may be set."""
        if resting_s > 0:
            delay_s = resting_s
        else:
            due = self._next_turn()
            delay_s = _LONGEST_SLEEP_S if due is None else max(_SHORTEST_SLEEP_S, (due - self._now()).total_seconds())
        try:
            async with asyncio.timeout(min(delay_s, _LONGEST_SLEEP_S)):
                await self._wake.wait()
        except TimeoutError:
            pass

    def _next_turn(self) -> datetime | None:
        if self._once:
            return failing_ranges.next_retry(self._plan.failing_ranges, self._now())
        return windows.next_turn(self._plan, self.account.rules, self._now())


def _text(window: Window) -> list[str]:
    return [instants.text(moment) for moment in window]


def _joined(pages: list[PageRead]) -> PageRead:
    """Return the pages of a chain that publishes known rows again as one page.

    One page is committed as a whole, so that a crash cannot publish a part of the chain twice.
    """
    first = pages[0]
    return first._replace(
        raws=[raw for page in pages for raw in page.raws],
        reading=join([page.reading for page in pages]),
        received_at=pages[-1].received_at,
        bytes=sum(page.bytes for page in pages),
        requests=len(pages),
    )
