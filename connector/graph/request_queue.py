"""Priority queue of the requests of one tenant, in front of the tenant's request budget.

The order is decided only when the budget allows a request. The most urgent request that waits at that moment is sent. A
live request that has just arrived therefore overtakes a backfill that has waited for a long time.

Before a failed request is repeated, another request is sent: the one that has waited longest. So a page that always
fails slows its tenant down, but does not block it.
"""

import asyncio
from collections.abc import Callable
from typing import NamedTuple

from connector.core.budget import BACKFILL, Budget, Slot
from connector.graph.page_memory import PageMemory, PageRoom

# How often `ticked` is called while requests wait, so that the metric of throttled time does not stand still.
_TICK_S = 5.0


class Admission(NamedTuple):
    """Permission to send one request: its place in the budget, and the memory reserved for its page."""

    slot: Slot
    room: PageRoom


class _Waiter:
    __slots__ = ("future", "lets_another_pass", "order", "priority")

    def __init__(
        self, priority: int, order: int, future: asyncio.Future[Admission], *, lets_another_pass: bool
    ) -> None:
        self.priority = priority
        self.order = order
        self.lets_another_pass = lets_another_pass
        self.future = future

    @property
    def urgency(self) -> tuple[int, bool, int]:
        return self.priority, self.lets_another_pass, self.order


class RequestQueue:
    """Queue of requests that wait for one budget. Whenever the budget allows a request, the most urgent one is sent."""

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

    async def enter(self, priority: int, *, lets_another_pass: bool = False) -> Admission:
        """Wait until a request may be sent. Return its place in the budget, and the memory for its page.

        A lower `priority` is more urgent. If `lets_another_pass` is true, another waiting request is sent first.
        """
        loop = asyncio.get_running_loop()
        self._order += 1
        waiter = _Waiter(priority, self._order, loop.create_future(), lets_another_pass=lets_another_pass)
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
        """Return the waiting request that is sent next.

        Normally it is the most urgent request. If this request must let another one pass, the request that has waited
        longest is sent instead. Only requests that need not let another one pass are considered. Backfills come last.
        """
        first = min(self._waiters, key=lambda waiter: waiter.urgency)
        others = [waiter for waiter in self._waiters if not waiter.lets_another_pass]
        if not first.lets_another_pass or not others:
            return first
        first.lets_another_pass = False
        return min(others, key=lambda waiter: (waiter.priority >= BACKFILL, waiter.order))
