"""Page chains: when they are read again, when they count as read, and when they end early."""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import msgspec

from connector.core import windows
from connector.core.coverage import Window
from connector.core.dedup import DedupIndex
from connector.core.jobs import Command
from connector.core.rows import RowSchema
from connector.errors import PermanentError
from connector.graph.page_memory import PageMemory
from connector.graph.source import ReadPage
from connector.kafka import avro
from connector.kafka.seen import SeenLog
from connector.kafka.state import Checkpoint
from connector.pipeline.buffer import Buffer
from connector.pipeline.messages import Item, PageRead, RunsDropped, SliceRead
from connector.pipeline.sweeper import Sweeper
from connector.pipeline.tenant_state import TenantState
from tests.unit.test_admin_sweeper import DAY, NOW, RULES, TENANT, until


class Source:
    """Source that returns the next of `chains` for each page chain, and the last one repeatedly.

    A chain is a list of pages.
    """

    def __init__(self, *chains: list[list[str]]) -> None:
        self.chains = list(chains)
        self.asked: list[Window] = []
        self.ended: list[Window] = []
        self.refused: set[int] = set()
        "Numbers of the chains that are refused as soon as another chain is requested."
        self.served_at = NOW
        self.memory = PageMemory()

    async def pages(self, window: Window, _priority: int, _attempts: int) -> AsyncGenerator[ReadPage, None]:
        number = len(self.asked)
        self.asked.append(window)
        try:
            if self.refused:
                await until(lambda: len(self.asked) > 1)
                if number in self.refused:
                    raise PermanentError("sign_in", "the secret has expired")
                await asyncio.Event().wait()
            chain = self.chains.pop(0) if len(self.chains) > 1 else self.chains[0]
            for ids in chain:
                rows = [msgspec.Raw(json.dumps({"id": one}).encode()) for one in ids]
                yield ReadPage(rows, NOW, 2, last=ids is chain[-1])
        finally:
            self.ended.append(window)

    def failing(self) -> bool:
        return bool(self.refused)


class Handed(Buffer):
    """Buffer that records the messages that it receives."""

    def __init__(self) -> None:
        super().__init__()
        self.items: list[Item] = []

    def put(self, item: Item) -> None:
        self.items.append(item)

    def of(self, kind: type) -> list[Any]:
        return [item for item in self.items if isinstance(item, kind)]


@asynccontextmanager
async def sweeping(source: Source, history: timedelta = timedelta(minutes=1)) -> AsyncIterator[tuple[Sweeper, Handed]]:
    state = windows.first_state(RULES, NOW - history, NOW)
    tenant_state = TenantState(TENANT, RULES, Checkpoint("calls", state), DedupIndex(), SeenLog("aa"))
    unchecked: Any = source
    handed, shape = Handed(), RowSchema(avro.load(avro.ROW), "v1.0")
    sweeper = Sweeper(tenant_state, unchecked, handed, shape, concurrency=3, once=False, now=lambda: NOW)
    task = asyncio.create_task(sweeper.run())
    try:
        yield sweeper, handed
    finally:
        task.cancel()
        await asyncio.wait([task])


async def test_page_chain_with_repeated_ids_is_read_again() -> None:
    """A repeated id shows that rows have shifted between two pages, so a row may have been skipped."""
    source = Source([["a", "b"], ["b", "c"]], [["a", "b"], ["c", "d"]])
    async with sweeping(source) as (_, handed):
        await until(lambda: handed.of(SliceRead))
        assert len(source.asked) == 2
        (read,) = handed.of(SliceRead)
        assert read.steady
        assert {bytes(row) for page in handed.of(PageRead) for row in page.raws} >= {b'{"id": "d"}'}


async def test_page_lists_the_ids_that_occur_twice_in_its_chain() -> None:
    source = Source([["a", "b"], ["b", "c"]])
    async with sweeping(source) as (_, handed):
        await until(lambda: handed.of(SliceRead))
        pages = handed.of(PageRead)
        assert [page.number for page in pages] == 3 * [0, 1]
        repeated = {int(page.reading.entries["hi"][0]) for page in pages if page.number}
        assert [page.repeated for page in pages] == 3 * [frozenset(), repeated]
        assert [page.suspects for page in pages] == 2 * [frozenset()] + 4 * [repeated]


async def test_slice_that_always_repeats_ids_counts_as_unstable() -> None:
    source = Source([["a", "b"], ["b", "c"]])
    async with sweeping(source) as (sweeper, handed):
        await until(lambda: handed.of(SliceRead))
        assert len(source.asked) == 3
        (read,) = handed.of(SliceRead)
        assert not read.steady
        assert not any(read.steady for read in sweeper.plan.coverage.reads)


async def test_backfill_with_option_again_reports_a_slice_after_its_rows() -> None:
    """With `--again`, a slice counts as read only after the commit of its rows. A crash could lose them otherwise."""
    source = Source([["a"], ["b"]])
    async with sweeping(source) as (sweeper, handed):
        await until(lambda: handed.of(SliceRead))
        handed.items.clear()
        sweeper.command(
            0, Command("j", "backfill", NOW, Window(NOW - DAY, NOW - DAY + timedelta(minutes=1)), again=True)
        )
        await until(lambda: handed.of(SliceRead))
        kinds = [type(item) for item in handed.items if isinstance(item, PageRead | SliceRead) and item.slice.again]
        assert kinds == [PageRead, SliceRead]
        assert len(handed.of(PageRead)[0].raws) == 2


async def test_failed_run_ends_its_other_page_chains() -> None:
    source = Source([["a"]])
    source.refused = {0}
    async with sweeping(source, 10 * DAY) as (_, handed):
        await until(lambda: handed.of(RunsDropped))
        await until(lambda: len(source.ended) == len(source.asked) > 1)
        assert not handed.of(SliceRead)


async def test_backfill_with_option_again_reads_parts_that_fit_the_buffer() -> None:
    """With `--again`, a slice is committed as a whole, so one that is larger than the buffer is divided into parts."""

    class Long(Source):
        async def pages(self, window: Window, priority: int, _attempts: int) -> AsyncGenerator[ReadPage, None]:
            self.asked.append(window)
            length = 10 << 20 if priority >= 1_000 else 2
            pages = 3 if window.end - window.start > timedelta(minutes=5) else 1
            for number in range(pages):
                yield ReadPage([msgspec.Raw(b'{"id":"%d"}' % number)], NOW, length, last=number == pages - 1)

    source = Long([["a"]])
    async with sweeping(source, timedelta(hours=3)) as (sweeper, handed):
        window = Window(NOW - timedelta(hours=2), NOW - timedelta(hours=1))
        sweeper.command(0, Command("job", "backfill", NOW, window, again=True))
        await until(lambda: [page for page in handed.of(PageRead) if page.slice.again])
        assert all(page.bytes <= 10 << 20 for page in handed.of(PageRead) if page.slice.again)
