"""Buffer for messages of the sweepers that are not committed yet. It keeps their order, and limits rows and bytes."""

import asyncio
from collections import deque

from connector.pipeline.messages import Item, PageRead

MAX_ROWS = 20_000
MAX_BYTES = 16 << 20


class Buffer:
    """Queue from the sweepers of a shard's tenants to the commit loop of the shard.

    A message that was taken from the queue counts towards the limits until `committed` is called. So the limits apply
    to everything that was read but is not committed.
    """

    def __init__(self, max_rows: int = MAX_ROWS, max_bytes: int = MAX_BYTES) -> None:
        self._max_rows = max_rows
        self._max_bytes = max_bytes
        self._items: deque[Item] = deque()
        self._pages: dict[int, PageRead] = {}
        "Pages in the buffer or taken from it whose memory is not released yet. The key is the `id()` of the page."
        self._rows = 0
        self._bytes = 0
        self._room = asyncio.Condition()
        self.filled = asyncio.Event()
        "Set while the queue holds an item."

    async def put_page(self, page: PageRead) -> None:
        """Wait until the buffer is below its limits, then add a page.

        In this way, slow brokers slow down the reading.
        """
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
        """Add a message at once, even if the buffer is full."""
        self._items.append(item)
        self.filled.set()

    def take(self, max_rows: int) -> list[Item]:
        """Remove and return the oldest messages, with at most `max_rows` rows in all pages together.

        A page with more rows is returned if it is the oldest message. The list is empty if the buffer is empty.
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
        """Release the memory of messages that were taken from the buffer.

        Call this when the messages are committed or need no commit.
        """
        pages = [item for item in items if isinstance(item, PageRead)]
        if pages:
            async with self._room:
                self._rows -= sum(len(page.raws) for page in pages)
                self._bytes -= sum(page.bytes for page in pages)
                self._room.notify_all()
            for page in pages:
                self._pages.pop(id(page), page).room.release()

    def discard(self) -> None:
        """Release the memory of all pages, because the shard was handed over or restarts."""
        for page in self._pages.values():
            page.room.release()
        self._pages.clear()

    def _has_room(self) -> bool:
        return not self._rows or (self._rows < self._max_rows and self._bytes < self._max_bytes)
