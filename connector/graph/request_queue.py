"""Priority queue in front of a tenant's rate limiter.

Waiting requests have no fixed order. Whenever the budget allows a request, the most urgent one of those that wait at
that moment is sent. A live request that has just arrived therefore overtakes a backfill that has waited for a long
time. Before a request that failed is repeated, the request that has waited longest is sent. A page that always fails
therefore slows its tenant down, but does not block it.
"""

import asyncio
from collections.abc import Callable
from typing import NamedTuple

from connector.core.budget import BACKFILL, Budget, Slot
from connector.graph.page_memory import PageMemory, PageRoom

# How often `ticked` is called while requests wait, so that the metric of throttled time does not stand still.
_TICK_S = 5.0


class Admission(NamedTuple):
    """Slot of the budget for a request, and the memory reserved for its page."""

    slot: Slot
    room: PageRoom


class _Waiter:
    __slots__ = ("aside", "future", "order", "priority")

    def __init__(self, priority: int, order: int, future: asyncio.Future[Admission], *, aside: bool) -> None:
        self.priority = priority
        self.order = order
        self.aside = aside
        self.future = future

    @property
    def urgency(self) -> tuple[int, bool, int]:
        return self.priority, self.aside, self.order


class RequestQueue:
    """Queue of requests that wait for one budget. The most urgent request gets the next slot of the budget."""

    def __init__(
        self, budget: Budget, memory: PageMemory, clock: Callable[[], float], ticked: Callable[[float], None]
    ) -> None:
        """Create an empty queue.

        While requests wait, `ticked` is called with `clock()` at least every 5 s, to keep the throttling metric up to
        date.
        """
        self._budget = budget
        self._memory = memory
        self._clock = clock
        self._ticked = ticked
        self._waiters: list[_Waiter] = []
        self._order = 0
        self._timer: asyncio.TimerHandle | None = None

    async def enter(self, priority: int, *, aside: bool = False) -> Admission:
        """Wait until it is this request's turn. Return a slot of the budget and memory for a page.

        A lower `priority` is more urgent. With `aside`, one other request goes first: the one that has waited longest.
        """
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
                self._budget.settled(waiter.future.result().slot)
                waiter.future.result().room.release()
            raise

    def _open(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        now = self._clock()
        self._ticked(now)
        self._waiters = [waiter for waiter in self._waiters if not waiter.future.done()]
        while self._waiters:
            delay_s = self._budget.delay_s(now)
            room = self._memory.reserve(self._open) if delay_s <= 0 else None
            if room is None:
                next_s = min(delay_s, _TICK_S) if delay_s > 0 else _TICK_S
                self._timer = asyncio.get_running_loop().call_later(next_s, self._open)
                return
            first = self._next_waiter()
            self._waiters.remove(first)
            first.future.set_result(Admission(self._budget.take(now), room))

    def _next_waiter(self) -> _Waiter:
        """Return the waiting request that gets the next slot.

        Normally it is the most urgent request. If that request lets others go first (`aside`), the slot goes to the one
        that has waited longest among the requests without `aside`. A backfill is chosen only if no other request waits.
        """
        first = min(self._waiters, key=lambda waiter: waiter.urgency)
        others = [waiter for waiter in self._waiters if not waiter.aside]
        if not first.aside or not others:
            return first
        first.aside = False
        return min(others, key=lambda waiter: (waiter.priority >= BACKFILL, waiter.order))
