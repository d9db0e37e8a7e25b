"""Effect of commands on how a tenant is read."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from connector.config import Identity, Tenant
from connector.core import windows
from connector.core.coverage import Window
from connector.core.dedup import DedupIndex
from connector.core.jobs import Command
from connector.core.rows import RowSchema
from connector.core.windows import Rules, Sweep
from connector.graph.source import ReadPage
from connector.kafka import avro
from connector.kafka.seen import SeenLog
from connector.kafka.state import Checkpoint
from connector.pipeline.buffer import Buffer
from connector.pipeline.sweeper import Sweeper
from connector.pipeline.tenant_state import TenantState

NOW = datetime(2026, 3, 10, 12, tzinfo=UTC)
DAY = timedelta(days=1)
RULES = Rules((Sweep(DAY, 2 * DAY),), timedelta(), DAY, 150 * DAY)
TENANT = Tenant("AA", "aa", "contoso", "contoso", Identity(None, None), -DAY, 45, "calls")


class Source:
    """Source that sends no response until the test allows it."""

    def __init__(self) -> None:
        self.asked: list[Window] = []
        self.answering = asyncio.Event()

    async def pages(self, window: Window, priority: int, attempts: int) -> AsyncGenerator[ReadPage, None]:
        assert priority >= 0
        assert attempts > 1
        self.asked.append(window)
        await self.answering.wait()
        yield ReadPage([], NOW, 2, last=True)

    def failing(self) -> None:
        return None


@asynccontextmanager
async def sweeping(source: Source) -> AsyncIterator[Sweeper]:
    state = windows.first_state(RULES, NOW - timedelta(minutes=1), NOW)
    tenant_state = TenantState(TENANT, RULES, Checkpoint("calls", state), DedupIndex(), SeenLog("aa"))
    unchecked: Any = source
    sweeper = Sweeper(
        tenant_state,
        unchecked,
        Buffer(),
        RowSchema(avro.load(avro.ROW), "v1.0"),
        concurrency=2,
        once=False,
        now=lambda: NOW,
    )
    task = asyncio.create_task(sweeper.run())
    try:
        yield sweeper
    finally:
        task.cancel()
        await asyncio.wait([task])


async def until(condition: Any) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - the condition sets no event
            await asyncio.sleep(0)


async def test_cancelled_backfills_do_not_block_the_next_backfill() -> None:
    source = Source()
    async with sweeping(source) as sweeper:
        await until(lambda: len(source.asked) == 1)
        window = Window(NOW - 10 * DAY, NOW - 9 * DAY)
        for number in range(5):
            sweeper.command(2 * number, Command(f"job-{number}", "backfill", NOW, window))
            await until(lambda: any(piece.job for piece in sweeper._tasks))
            sweeper.command(2 * number + 1, Command(f"end-{number}", "cancel", NOW, job=f"job-{number}"))
            await until(lambda: not any(piece.job for piece in sweeper._tasks))
        assert len(source.asked) == 1, "no chain of a job has come to its first request"
        sweeper.command(10, Command("last", "backfill", NOW, window))
        await until(lambda: len(source.asked) == 2)


async def test_paused_tenant_sends_no_requests() -> None:
    source = Source()
    async with sweeping(source) as sweeper:
        await until(lambda: len(source.asked) == 1)
        sweeper.command(0, Command("p", "pause", NOW))
        await until(lambda: not sweeper._tasks)
        source.answering.set()
        for _ in range(100):  # turns of the event loop in which a request would start if the pause had no effect
            await asyncio.sleep(0)
        assert len(source.asked) == 1
        sweeper.command(1, Command("r", "resume", NOW))
        await until(lambda: len(source.asked) == 2)
