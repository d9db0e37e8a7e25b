"""Limit on the memory that the pages of all tenants of a process use.

1. A request is sent only after memory for one page of usual size was reserved. The memory is released when the
   page is committed.
2. Tenants that wait for memory get it in the order in which they began to wait, for one request each. A request that
   waits for its budget reserves no memory.
3. Once the real size of a page is known, the reservation changes to this size. The sum may then exceed the limit; no
   request is sent until it is below the limit again.
"""

from collections.abc import Callable

MAX_BYTES = 384 << 20
DECODED = 3
"Bytes in memory per byte of a page, with its decoded rows. (Measured: 2.9 for a page of a thousand rows.)"
_PAGE_BYTES = DECODED << 20  # a page of a thousand rows is about one MiB


class PageRoom:
    """Reservation of memory for one page. It ends when `release` is called."""

    __slots__ = ("_memory", "bytes")

    def __init__(self, memory: "PageMemory", size: int) -> None:
        self._memory = memory
        self.bytes = size

    def resize(self, size: int) -> None:
        """Change the reservation to `size` bytes, once the real size of the page is known."""
        self._memory.change(size - self.bytes)
        self.bytes = size

    def release(self) -> None:
        """Release the memory. If it was released before, nothing happens."""
        if self.bytes:
            self.resize(0)


class PageMemory:
    """Memory for all pages that are being requested, held by their page chains, or not committed yet, in bytes."""

    def __init__(self, max_bytes: int = MAX_BYTES, page_bytes: int = _PAGE_BYTES) -> None:
        self._max_bytes = max_bytes
        self._page_bytes = page_bytes
        self._waiting: dict[Callable[[], None], None] = {}
        "Callbacks of the callers that wait for memory, in the order in which they began to wait."
        self.bytes = 0

    def reserve(self, freed: Callable[[], None]) -> PageRoom | None:
        """Reserve memory for one page, and return the reservation.

        If no memory is free, return None. `freed` is then called once, as soon as memory is free for this caller.
        """
        if not self._has_room():
            self._waiting.setdefault(freed)
            return None
        self._waiting.pop(freed, None)
        self.bytes += self._page_bytes
        return PageRoom(self, self._page_bytes)

    def change(self, by: int) -> None:
        """Add `by` bytes to the reserved memory. Notify waiting requests for which memory is now free."""
        self.bytes += by
        while self._waiting and self._has_room():
            freed = next(iter(self._waiting))
            del self._waiting[freed]
            freed()

    def _has_room(self) -> bool:
        """Return whether memory for another page is free. If no page is in memory, it always is."""
        return not self.bytes or self.bytes + self._page_bytes <= self._max_bytes


NO_ROOM = PageRoom(PageMemory(), 0)
"Reservation of no memory. Releasing it has no effect."
