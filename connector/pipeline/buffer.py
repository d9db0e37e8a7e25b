"""Buffer for what was read and is not committed yet: in reading order, limited in rows and in bytes."""

import asyncio
from collections import deque

from connector.pipeline.messages import Item, PageRead

MAX_ROWS = 20_000
MAX_BYTES = 16 << 20


class Buffer:
    """Queue between the page chains of a shard's tenants and its transactions.

    Taking an item does not free its room; `committed` does. So what is read but not committed stays limited.
    """

    def __init__(self, max_rows: int = MAX_ROWS, max_bytes: int = MAX_BYTES) -> None:
        self._max_rows = max_rows
        self._max_bytes = max_bytes
        self._items: deque[Item] = deque()
        self._pages: dict[int, PageRead] = {}
        "Pages that were put and are not committed, by identity."
        self._rows = 0
        self._bytes = 0
        self._room = asyncio.Condition()
        self.filled = asyncio.Event()
        "Set while an item waits to be taken."

    async def put_page(self, page: PageRead) -> None:
        """Add a page as soon as there is room, so that slow brokers slow the reading down."""
        try:
            async with self._room:
                await self._room.wait_for(self._has_room)
        except asyncio.CancelledError:
            page.room.release()
            raise
        self._rows += len(page.raws)
        self._bytes += page.bytes
        self._pages[id(page)] = page
        self.put(page)

    def put(self, item: Item) -> None:
        """Add an item that needs no room."""
        self._items.append(item)
        self.filled.set()

    def take(self, max_rows: int) -> list[Item]:
        """Remove and return the oldest items: at most `max_rows` rows, but at least one page.

        The list is empty if the buffer is.
        """
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
        """Free the room of items that were committed, or that turned out to need no commit."""
        pages = [item for item in items if isinstance(item, PageRead)]
        if pages:
            async with self._room:
                self._rows -= sum(len(page.raws) for page in pages)
                self._bytes -= sum(page.bytes for page in pages)
                self._room.notify_all()
            for page in pages:
                self._pages.pop(id(page), page).room.release()

    def discard(self) -> None:
        """Release the room of all pages, because their shard was handed over or starts again."""
        for page in self._pages.values():
            page.room.release()
        self._pages.clear()

    def _has_room(self) -> bool:
        return not self._rows or (self._rows < self._max_rows and self._bytes < self._max_bytes)
