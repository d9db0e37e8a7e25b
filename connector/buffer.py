"""What was read and is not committed yet, in the order in which it was read: bounded in rows and in bytes."""

import asyncio
from collections import deque

from connector.batch import Item, PageRead

MAX_ROWS = 20_000
MAX_BYTES = 16 << 20


class Buffer:
    """Between the chains of a shard's tenants and its transactions. Room comes back with the commit, not before."""

    def __init__(self, max_rows: int = MAX_ROWS, max_bytes: int = MAX_BYTES) -> None:
        self._max_rows = max_rows
        self._max_bytes = max_bytes
        self._items: deque[Item] = deque()
        self._rows = 0
        self._bytes = 0
        self._room = asyncio.Condition()
        self.filled = asyncio.Event()
        "Set while something waits to be taken."

    async def put_page(self, page: PageRead) -> None:
        """Takes a page as soon as there is room: a slow broker slows the reading."""
        async with self._room:
            await self._room.wait_for(self._has_room)
            self._rows += len(page.raws)
            self._bytes += page.bytes
            self.put(page)

    def put(self, item: Item) -> None:
        """Takes what needs no room."""
        self._items.append(item)
        self.filled.set()

    def take(self, max_rows: int) -> list[Item]:
        """The oldest items, up to a number of rows but one page at least; empty when there are none."""
        taken: list[Item] = []
        rows = 0
        while self._items:
            item = self._items[0]
            if isinstance(item, PageRead):
                if taken and rows + len(item.raws) > max_rows:
                    break
                rows += len(item.raws)
            taken.append(self._items.popleft())
        if not self._items:
            self.filled.clear()
        return taken

    async def committed(self, items: list[Item]) -> None:
        """Gives back the room of items that were taken."""
        pages = [item for item in items if isinstance(item, PageRead)]
        if pages:
            async with self._room:
                self._rows -= sum(len(page.raws) for page in pages)
                self._bytes -= sum(page.bytes for page in pages)
                self._room.notify_all()

    def _has_room(self) -> bool:
        return not self._rows or (self._rows < self._max_rows and self._bytes < self._max_bytes)
