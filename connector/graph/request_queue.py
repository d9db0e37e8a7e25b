"""Priority queue in front of a tenant's rate limiter.

A waiting request has no fixed place: whenever the budget allows a request, the most urgent one that waits at that
moment is sent. A live request that has just arrived therefore overtakes a backfill that has waited for a long time. A
request that failed lets the request that has waited longest go first, so that a page that always fails slows its tenant
down but does not block it.
"""

import asyncio
from collections.abc import Callable

from connector.core.budget import BACKFILL, Budget, Slot

# How often `ticked` is called while requests wait, so that the metric of throttled time does not stand still.
_TICK_S = 5.0


class _Waiter:
    __slots__ = ("aside", "future", "order", "priority")

    def __init__(self, priority: int, order: int, future: asyncio.Future[Slot], *, aside: bool) -> None:
        self.priority = priority
        self.order = order
        self.aside = aside
        self.future = future

    @property
    def urgency(self) -> tuple[int, bool, int]:
        return self.priority, self.aside, self.order


class RequestQueue:
    """Queue that gives the slots of one budget, one at a time, to the most urgent waiting request."""

    def __init__(self, budget: Budget, clock: Callable[[], float], ticked: Callable[[float], None]) -> None:
        """Create an empty queue.

        `ticked` is called with `clock()` while requests wait, at least every 5 s.
        """
        self._budget = budget
        self._clock = clock
        self._ticked = ticked
        self._waiters: list[_Waiter] = []
        self._order = 0
        self._timer: asyncio.TimerHandle | None = None

    async def enter(self, priority: int, *, aside: bool = False) -> Slot:
        """Return a slot as soon as the budget has one and no more urgent request waits.

        With `aside`, the request that has waited longest goes first.
        """
        if not self._waiters and self._budget.delay_s(now := self._clock()) <= 0:
            return self._budget.take(now)
        loop = asyncio.get_running_loop()
        self._order += 1
        waiter = _Waiter(priority, self._order, loop.create_future(), aside=aside)
        self._waiters.append(waiter)
        self._open()
        try:
            return await waiter.future
        except asyncio.CancelledError:
            if waiter in self._waiters:
                self._waiters.remove(waiter)
            elif waiter.future.done() and not waiter.future.cancelled():
                self._budget.settled(waiter.future.result())
            raise

    def _open(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        now = self._clock()
        self._ticked(now)
        while self._waiters:
            delay_s = self._budget.delay_s(now)
            if delay_s > 0:
                self._timer = asyncio.get_running_loop().call_later(min(delay_s, _TICK_S), self._open)
                return
            first = self._next()
            self._waiters.remove(first)
            if first.future.done():
                continue
            first.future.set_result(self._budget.take(now))

    def _next(self) -> _Waiter:
        """Return the most urgent waiter, or the oldest one if the most urgent one steps aside; backfills come last."""
        first = min(self._waiters, key=lambda waiter: waiter.urgency)
        others = [waiter for waiter in self._waiters if not waiter.aside]
        if not first.aside or not others:
            return first
        first.aside = False
        return min(others, key=lambda waiter: (waiter.priority >= BACKFILL, waiter.order))
