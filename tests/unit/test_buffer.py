"""The buffer between reading and committing: bounded in rows and in bytes, in order."""

import asyncio
from datetime import UTC, datetime
from typing import Any, cast

import pytest

from connector.pipeline.buffer import Buffer
from connector.pipeline.messages import Item, PageRead, RunsStarted

NOW = datetime(2026, 3, 1, tzinfo=UTC)
DEADLINE_S = 5.0


def page(rows: int, size: int = 1) -> PageRead:
    raws = cast("Any", [b"{}"] * rows)
    return PageRead("t", cast("Any", None), raws, cast("Any", None), NOW, size, ())


async def is_waiting(task: "asyncio.Task[None]") -> bool:
    """Return whether a task still waits after 20 turns of the event loop."""
    for _ in range(20):
        await asyncio.sleep(0)
    return not task.done()


async def test_buffer_keeps_the_order_of_messages() -> None:
    buffer = Buffer()
    items: list[Item] = [RunsStarted("t", NOW), page(1), RunsStarted("u", NOW), page(2)]
    for item in items:
        if isinstance(item, PageRead):
            await buffer.put_page(item)
        else:
            buffer.put(item)
    assert buffer.filled.is_set()
    assert buffer.take(100) == items
    assert not buffer.filled.is_set()
    assert buffer.take(100) == []


async def test_buffer_take_returns_at_least_one_page() -> None:
    buffer = Buffer()
    for rows in (7, 3, 1):
        await buffer.put_page(page(rows))
    assert [len(item.raws) for item in buffer.take(5) if isinstance(item, PageRead)] == [7]
    assert buffer.filled.is_set()
    assert [len(item.raws) for item in buffer.take(4) if isinstance(item, PageRead)] == [3, 1]


@pytest.mark.parametrize("big", [page(10, 1), page(1, 100)])
async def test_full_buffer_makes_readers_wait(big: PageRead) -> None:
    buffer = Buffer(max_rows=10, max_bytes=100)
    await buffer.put_page(big)
    waiting = asyncio.create_task(buffer.put_page(page(1)))
    assert await is_waiting(waiting)
    taken = buffer.take(100)
    assert await is_waiting(waiting), "rows of an open transaction still take up room"
    await buffer.committed(taken)
    async with asyncio.timeout(DEADLINE_S):
        await waiting


async def test_messages_without_rows_enter_a_full_buffer() -> None:
    buffer = Buffer(max_rows=1)
    await buffer.put_page(page(1))
    buffer.put(RunsStarted("t", NOW))
    assert len(buffer.take(100)) == 2


async def test_oversized_page_enters_an_empty_buffer() -> None:
    buffer = Buffer(max_rows=10, max_bytes=10)
    async with asyncio.timeout(DEADLINE_S):
        await buffer.put_page(page(1000, 1000))


async def test_pages_without_rows_never_fill_the_buffer() -> None:
    buffer = Buffer(max_rows=10, max_bytes=1000)
    async with asyncio.timeout(DEADLINE_S):
        for _ in range(50):
            await buffer.put_page(page(0, 10))
    await buffer.committed(buffer.take(100))
    assert (buffer._rows, buffer._bytes) == (0, 0)


async def test_cancelled_reader_takes_no_room_in_the_buffer() -> None:
    buffer = Buffer(max_rows=1)
    await buffer.put_page(page(1))
    waiting = asyncio.create_task(buffer.put_page(page(1)))
    assert await is_waiting(waiting)
    waiting.cancel()
    await asyncio.wait([waiting])
    await buffer.committed(buffer.take(100))
    assert (buffer._rows, buffer._bytes) == (0, 0)
    assert buffer.take(100) == []
