"""Order in which waiting requests are sent. Time is simulated; `sleep(0)` lets each task run until it waits."""

import asyncio

from connector.core.budget import BACKFILL, Budget
from connector.graph.page_memory import PageMemory
from connector.graph.request_queue import RequestQueue


class Clock:
    """Clock that moves only when a test moves it."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


async def test_most_urgent_request_is_sent_first() -> None:
    clock, order = Clock(), []
    queue = RequestQueue(Budget(60, 0.0), PageMemory(), clock, lambda _: None)

    async def enter(name: str, priority: int, *, lets_another_pass: bool = False) -> None:
        await queue.enter(priority, lets_another_pass=lets_another_pass)
        order.append(name)

    tasks = [
        asyncio.create_task(enter("backfill", BACKFILL)),
        asyncio.create_task(enter("failed live", 0, lets_another_pass=True)),
        asyncio.create_task(enter("sweep", 2)),
        asyncio.create_task(enter("second sweep", 2)),
        asyncio.create_task(enter("live", 0)),
    ]
    await asyncio.sleep(0)
    for _ in tasks:
        clock.now += 1.1
        queue._open()
        await asyncio.sleep(0)
    assert order == ["live", "sweep", "failed live", "second sweep", "backfill"]


async def test_retry_waits_until_one_other_request_was_sent() -> None:
    clock, order = Clock(), []
    queue = RequestQueue(Budget(60, 0.0), PageMemory(), clock, lambda _: None)

    async def enter(name: str, priority: int, *, lets_another_pass: bool = False) -> None:
        await queue.enter(priority, lets_another_pass=lets_another_pass)
        order.append(name)

    tasks = [
        asyncio.create_task(enter("failed live", 0, lets_another_pass=True)),
        asyncio.create_task(enter("backfill", BACKFILL)),
        asyncio.create_task(enter("second backfill", BACKFILL)),
    ]
    await asyncio.sleep(0)
    for _ in tasks:
        clock.now += 1.1
        queue._open()
        await asyncio.sleep(0)
    assert order == ["backfill", "failed live", "second backfill"]


async def test_failing_requests_do_not_starve_the_oldest_request() -> None:
    """Two urgent ranges fail repeatedly, while a less urgent sweep must still be able to read other call time."""
    clock, order = Clock(), []
    queue = RequestQueue(Budget(60, 0.0), PageMemory(), clock, lambda _: None)

    async def fail(name: str) -> None:
        while True:
            await queue.enter(1, lets_another_pass=True)
            order.append(name)

    async def sweep() -> None:
        await queue.enter(2)
        order.append("sweep")

    tasks = [asyncio.create_task(coroutine) for coroutine in (fail("one"), fail("other"), sweep())]
    for _ in range(4):
        await asyncio.sleep(0)
        clock.now += 1.1
        queue._open()
        await asyncio.sleep(0)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert order.index("sweep") <= 1


async def test_cancelled_request_uses_no_slot_of_the_budget() -> None:
    clock, order = Clock(), []
    budget = Budget(60, 0.0)
    queue = RequestQueue(budget, PageMemory(), clock, lambda _: None)

    async def enter(name: str) -> None:
        await queue.enter(0)
        order.append(name)

    first, second = asyncio.create_task(enter("first")), asyncio.create_task(enter("second"))
    await asyncio.sleep(0)
    first.cancel()
    clock.now += 1.1
    queue._open()
    await asyncio.gather(first, second, return_exceptions=True)
    assert order == ["second"]


async def test_cancelled_request_returns_its_slot_to_the_budget() -> None:
    clock = Clock()
    budget = Budget(1, -100.0)
    budget.settled(budget.take(-70.0))
    queue = RequestQueue(budget, PageMemory(), clock, lambda _: None)
    waiting = asyncio.create_task(queue.enter(0))
    await asyncio.sleep(0)
    clock.now = 30.0
    queue._open()
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert budget.delay_s(100.0) == 0.0
