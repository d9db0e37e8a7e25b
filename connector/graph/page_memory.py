"""Limit on the bytes of pages in memory, for all tenants of a process.

1. A request leaves only with room for one page of usual size. The room is held until the page is committed.
2. A tenant's requests wait for room in turn with those of other tenants, and hold none while their budget pauses.
3. The room of a page is its real size once it is known. It may exceed the limit then; no request leaves meanwhile.
"""

from collections.abc import Callable

MAX_BYTES = 384 << 20
DECODED = 3
"Bytes in memory per byte of a page, with its decoded rows. (Measured: 2.9 for a page of a thousand rows.)"
_PAGE_BYTES = DECODED << 20  # a page of a thousand rows is about one MiB


class PageRoom:
    """Room for one page, until it is released."""

    __slots__ = ("_memory", "bytes")

    def __init__(self, memory: "PageMemory", size: int) -> None:
        self._memory = memory
        self.bytes = size

    def resize(self, size: int) -> None:
        """Set the size of the page."""
        self._memory.change(size - self.bytes)
        self.bytes = size

    def release(self) -> None:
        """Free the room. A second call has no effect."""
        if self.bytes:
            self.resize(0)


class PageMemory:
    """Bytes in memory for all pages that are requested, held by their chains, or not committed yet."""

    def __init__(self, max_bytes: int = MAX_BYTES, page_bytes: int = _PAGE_BYTES) -> None:
        self._max_bytes = max_bytes
        self._page_bytes = page_bytes
        self._waiting: dict[Callable[[], None], None] = {}
        "In the order in which they began to wait."
        self.bytes = 0

    def reserve(self, freed: Callable[[], None]) -> PageRoom | None:
        """Return room for one page; None if there is none, and call `freed` once when it is that one's turn."""
        if not self._has_room():
            self._waiting.setdefault(freed)
            return None
        self._waiting.pop(freed, None)
        self.bytes += self._page_bytes
        return PageRoom(self, self._page_bytes)

    def change(self, by: int) -> None:
        """Add `by` bytes, and let those that wait go on if there is room for them."""
        self.bytes += by
        while self._waiting and self._has_room():
            freed = next(iter(self._waiting))
            del self._waiting[freed]
            freed()

    def _has_room(self) -> bool:
        """Return whether a page may be requested. Without any other page, one of any size may."""
        return not self.bytes or self.bytes + self._page_bytes <= self._max_bytes


NO_ROOM = PageRoom(PageMemory(), 0)
"Room of a page that takes none. Releasing it has no effect."
