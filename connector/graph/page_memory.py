"""Limit on the memory that the pages of all tenants of a process use.

1. A request is sent only after memory for one page of usual size was reserved. The memory is released when the page is
   committed.
2. Tenants get memory in the order in which they began to wait, for one request each. A request that still waits for its
   budget reserves no memory.
3. Once the real size of a page is known, the reservation changes to this size. All reservations together may then
   exceed the limit. No request is sent until they are below the limit again.
4. Some page chains keep all their pages in memory until the last page was read. Such a chain reserves memory for all
   pages before its first request. These chains may reserve at most half of the limit. All other requests need memory
   for one page only, and each commit releases memory. So a deadlock is impossible.
"""

from collections.abc import Callable

MAX_BYTES = 384 << 20
DECODED = 3
"""Size of a page in memory, with its decoded rows, divided by the size of its JSON. (Measured: 2.9 for a page of a
thousand rows.)
"""
_PAGE_BYTES = DECODED << 20  # a page of a thousand rows is about one MiB
HELD_BYTES = 16 << 20
"Maximum size in bytes of a page chain whose pages all stay in memory until its last page was read."


class PageRoom:
    """Reservation of memory for one page, or for all pages of a page chain. It ends when `release` is called."""

    __slots__ = ("_memory", "bytes")

    def __init__(self, memory: "_Pool", size: int) -> None:
        self._memory = memory
        self.bytes = size

    def resize(self, size: int) -> None:
        """Change the reservation to `size` bytes, once the real size of the pages is known."""
        self._memory.change(size - self.bytes)
        self.bytes = size

    def release(self) -> None:
        """Release the memory. Do nothing if it was released before."""
        if self.bytes:
            self.resize(0)


class _Pool:
    """Memory limit in bytes. Each reservation begins with a fixed size, the unit: one page, or one page chain.

    If there is a pool `whole`, every reserved byte also counts in that pool.
    """

    def __init__(self, max_bytes: int, unit: int, whole: "_Pool | None" = None) -> None:
        self._max_bytes = max_bytes
        self._unit = unit
        self._whole = whole
        self._waiting: dict[Callable[[], None], None] = {}
        "Callbacks of the callers that wait for memory, in the order in which they began to wait."
        self.bytes = 0

    def reserve(self, freed: Callable[[], None]) -> PageRoom | None:
        """Reserve one unit of memory, and return the reservation. Return None if the limit would be exceeded.

        If the result is None, `freed` is called once, as soon as there is room.
        """
        if not self._has_room():
            self._waiting.setdefault(freed)
            return None
        self._waiting.pop(freed, None)
        self._add(self._unit)
        return PageRoom(self, self._unit)

    def change(self, by: int) -> None:
        """Add `by` bytes to the reserved memory. A negative number releases memory.

        While there is room, the callbacks of waiting callers are called.
        """
        self._add(by)
        while self._waiting and self._has_room():
            freed = next(iter(self._waiting))
            del self._waiting[freed]
            freed()

    def _add(self, by: int) -> None:
        self.bytes += by
        if self._whole is not None:
            self._whole.change(by)

    def _has_room(self) -> bool:
        """Return whether memory of the size of one unit may be reserved.

        If nothing is reserved yet, this is allowed even if the unit is larger than the limit.
        """
        return not self.bytes or self.bytes + self._unit <= self._max_bytes


class PageMemory:
    """Limit on the memory of all pages that are being requested or are not committed yet.

    It counts the reserved bytes. It does not store the pages.
    """

    def __init__(
        self, max_bytes: int = MAX_BYTES, page_bytes: int = _PAGE_BYTES, chain_bytes: int = DECODED * HELD_BYTES
    ) -> None:
        self._all = _Pool(max_bytes, page_bytes)
        self._chains = _Pool(max_bytes // 2, chain_bytes, self._all)

    @property
    def bytes(self) -> int:
        """Return the number of reserved bytes."""
        return self._all.bytes

    def reserve(self, freed: Callable[[], None]) -> PageRoom | None:
        """Reserve memory for one page, and return the reservation. Return None if no memory is free.

        If the result is None, `freed` is called once, as soon as memory is free for this caller.
        """
        return self._all.reserve(freed)

    def reserve_chain(self, freed: Callable[[], None]) -> PageRoom | None:
        """Reserve memory for a page chain whose pages all stay in memory until its last page was read.

        Return the reservation, or None if no memory is free. If the result is None, `freed` is called once, as soon as
        memory is free.
        """
        return self._chains.reserve(freed)


NO_ROOM = PageRoom(_Pool(0, 0), 0)
"Reservation of no memory. Releasing it has no effect."
