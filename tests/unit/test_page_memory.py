"""Limit on the bytes of pages in memory, whatever the number of tenants and shards."""

import asyncio
import json
import tracemalloc
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any, cast
from unittest import mock

from yarl import URL

from connector.config import Identity, Tenant
from connector.core import windows
from connector.core.budget import Budget
from connector.core.coverage import Window
from connector.core.dedup import DedupIndex
from connector.core.jobs import Command
from connector.core.rows import RowSchema
from connector.core.windows import Rules, Sweep
from connector.graph.health import Health
from connector.graph.page_memory import MAX_BYTES, PageMemory, PageRoom
from connector.graph.request_queue import RequestQueue
from connector.graph.source import Source
from connector.graph.source_events import NoEvents
from connector.graph.transport import Response
from connector.kafka import avro
from connector.kafka.seen import SeenLog
from connector.kafka.state import Checkpoint
from connector.pipeline.buffer import Buffer
from connector.pipeline.messages import PageRead
from connector.pipeline.sweeper import Sweeper
from connector.pipeline.tenant_state import TenantState

NOW = datetime(2026, 3, 1, tzinfo=UTC)
WINDOW = Window(NOW, NOW + timedelta(hours=1))
TENANTS, SHARDS = 100, 2
LIMIT = 96 << 20
PAGE = json.dumps({"value": [{"id": str(n), "calleeNumber": "0" * 10_000} for n in range(100)]}).encode()
"A page of big rows, about 1 MiB."


def reserve(memory: PageMemory) -> PageRoom:
    room = memory.reserve(lambda: None)
    assert room is not None
    return room


def test_page_over_the_memory_limit_is_read_if_it_is_alone() -> None:
    memory = PageMemory(max_bytes=10, page_bytes=4)
    room = reserve(memory)
    room.resize(100)
    assert memory.reserve(lambda: None) is None
    room.release()
    assert reserve(PageMemory(max_bytes=1, page_bytes=4)).bytes == 4


def test_page_memory_limit_is_the_documented_one() -> None:
    assert MAX_BYTES == 384 << 20


def test_released_page_memory_goes_to_waiting_requests_in_order() -> None:
    memory, order = PageMemory(max_bytes=8, page_bytes=4), []
    rooms = [reserve(memory), reserve(memory)]

    def wait(name: str) -> None:
        def freed() -> None:
            if memory.reserve(freed) is not None:
                order.append(name)

        freed()

    for name in ("first", "second", "third"):
        wait(name)
    rooms[0].resize(3)
    assert order == [], "a page was admitted although only one byte was free"
    rooms[1].release()
    assert order == ["first"]
    rooms[0].release()
    rooms[0].release()
    assert order == ["first", "second"]
    assert memory.bytes == 8


def test_backfill_with_option_again_uses_half_of_the_page_memory() -> None:
    memory, freed = PageMemory(max_bytes=20, page_bytes=2, chain_bytes=5), mock.Mock()
    chains = [memory.reserve_chain(freed) for _ in range(2)]
    assert memory.reserve_chain(freed) is None
    assert memory.bytes == 10
    for _ in range(5):
        reserve(memory)
    assert memory.reserve(lambda: None) is None
    assert not freed.called
    assert chains[0] is not None
    chains[0].release()
    assert freed.call_count == 1
    assert reserve(memory).bytes == 2


async def test_cancelled_request_returns_its_page_memory() -> None:
    memory, now = PageMemory(), 0.0
    queue = RequestQueue(Budget(60, 0.0), memory, lambda: now, lambda _: None)
    waiting = asyncio.create_task(queue.enter(0))
    await asyncio.sleep(0)  # lets the task run until it waits
    assert memory.bytes == 0, "memory is reserved while the budget pauses"
    now = 10.0
    queue._open()
    assert memory.bytes
    waiting.cancel()
    await asyncio.wait([waiting])
    assert memory.bytes == 0


async def test_page_cancelled_at_a_full_buffer_returns_its_page_memory() -> None:
    memory, buffer = PageMemory(), Buffer(max_rows=1)
    await buffer.put_page(read(reserve(memory)))
    waiting = asyncio.create_task(buffer.put_page(read(reserve(memory))))
    await asyncio.sleep(0)  # lets the task run until it waits
    held = memory.bytes
    waiting.cancel()
    await asyncio.wait([waiting])
    assert memory.bytes == held // 2


async def test_restarted_shard_returns_its_page_memory() -> None:
    memory, buffer = PageMemory(), Buffer()
    for _ in range(3):
        await buffer.put_page(read(reserve(memory)))
    await buffer.committed(buffer.take(1))
    buffer.discard()
    assert memory.bytes == 0


def read(room: PageRoom) -> PageRead:
    return PageRead("t", cast("Any", None), cast("Any", [b"{}"]), cast("Any", None), NOW, room.bytes, (), room=room)


class Answering:
    """Transport that answers each request with a full page."""

    def __init__(self, pages: int = 1) -> None:
        self.pages = pages
        "Number of pages of a chain."
        self.asked = 0

    async def ask(self, _method: str, url: URL, **_: object) -> Response:
        self.asked += 1
        number = int(url.query.get("page", "1"))
        link = f'{{"@odata.nextLink":"https://graph/v1.0?page={number + 1}",'.encode() if number < self.pages else b"{"
        await asyncio.sleep(0)
        return Response(200, {"date": "Sun, 01 Mar 2026 00:00:00 GMT"}, link + PAGE[1:])


async def test_page_memory_stays_limited_while_nothing_is_committed() -> None:
    """While brokers are unavailable, each tenant has a full page in memory.

    All pages are read once commits succeed again.
    """
    transport, shape = Answering(), RowSchema(avro.load(avro.ROW), "v1.0")
    memory = PageMemory(max_bytes=LIMIT)
    buffers = [Buffer() for _ in range(SHARDS)]
    done: list[int] = []

    async def chain(number: int) -> None:
        async for page in source(transport, memory).pages(WINDOW, 0):
            reading = shape.read(page.rows)
            await buffers[number % SHARDS].put_page(
                PageRead("t", cast("Any", None), page.rows, reading, NOW, page.bytes, (), room=page.room)
            )
            done.append(number)

    tracemalloc.start()
    try:
        tasks = [asyncio.create_task(chain(number)) for number in range(TENANTS)]
        before = -1
        while transport.asked != before:  # until 50 turns of the event loop cause no further request
            before = transport.asked
            for _ in range(50):
                await asyncio.sleep(0)
        assert tracemalloc.get_traced_memory()[0] < LIMIT
    finally:
        tracemalloc.stop()
    async with asyncio.timeout(60):
        while len(done) < TENANTS:
            for buffer in buffers:
                await buffer.committed(buffer.take(10_000))
            await asyncio.sleep(0)
    await asyncio.gather(*tasks)


async def test_backfill_with_option_again_respects_the_page_memory_limit() -> None:
    """While brokers are unavailable, each tenant has a `backfill --again`.

    All rows are read once commits succeed again.
    """
    transport, shape = Answering(pages=8), RowSchema(avro.load(avro.ROW), "v1.0")
    memory = PageMemory(max_bytes=LIMIT, chain_bytes=24 << 20)
    buffer, window = Buffer(), Window(NOW - timedelta(days=9, seconds=40), NOW - timedelta(days=9))
    sweepers = [sweeper(number, source(transport, memory), buffer, shape) for number in range(8)]
    tracemalloc.start()
    try:
        tasks = [asyncio.create_task(running.run()) for running in sweepers]
        for running in sweepers:
            running.command(0, Command("j", "backfill", NOW, window, again=True))
        before = -1
        while transport.asked != before:  # until 50 turns of the event loop cause no further request
            before = transport.asked
            for _ in range(50):
                await asyncio.sleep(0.001)
        assert tracemalloc.get_traced_memory()[1] < LIMIT
    finally:
        tracemalloc.stop()
    rows = 0
    async with asyncio.timeout(60):
        while rows < len(sweepers) * 8 * 100:
            taken = buffer.take(10_000)
            rows += sum(len(item.raws) for item in taken if isinstance(item, PageRead) and item.slice.again)
            await buffer.committed(taken)
            await asyncio.sleep(0.001)
    assert rows == len(sweepers) * 8 * 100
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    buffer.discard()
    assert memory.bytes == 0


def sweeper(number: int, source: Source, buffer: Buffer, shape: RowSchema) -> Sweeper:
    rules = Rules((Sweep(timedelta(days=1), timedelta(days=2)),), timedelta(), timedelta(days=1), timedelta(days=150))
    tenant = Tenant(f"T{number}", f"t{number}", "t", "t", Identity(None, None), -timedelta(days=1), 45, "calls")
    state = windows.first_state(rules, NOW - timedelta(seconds=10), NOW)
    tenant_state = TenantState(tenant, rules, Checkpoint("calls", state), DedupIndex(), SeenLog(tenant.key))
    return Sweeper(tenant_state, source, buffer, shape, concurrency=3, once=False, now=lambda: NOW)


def source(transport: Answering, memory: PageMemory) -> Source:
    tenant = SimpleNamespace(id="t", key="t", label="t", topic="calls", requests_per_minute=60_000)
    tenant.identity = SimpleNamespace(client_id="app")
    sign_in = SimpleNamespace(token=mock.AsyncMock(return_value="x.x.x"), asked_s=lambda _: 0.0, graph_host="")
    return Source(
        transport=cast("Any", transport),
        root=URL("https://graph/v1.0"),
        tenant=cast("Any", tenant),
        budget=Budget(60_000, -100.0),
        memory=memory,
        sign_in=cast("Any", sign_in),
        health=Health(),
        events=NoEvents(),
        now=lambda: NOW,
        patience_s=120.0,
        dated=lambda _: None,
    )
