"""Limit on the memory that the pages of all tenants of a process use.

1. A request is sent only after memory for one page of usual size was reserved. The memory is released when the page is
   committed.
2. Tenants that wait for memory get it in the order in which they began to wait, for one request each. A request that
   waits for its budget reserves no memory.
3. Once the real size of a page is known, the reservation changes to this size. All reservations together may then
   exceed the limit. No request is sent until they are below the limit again.
4. Some page chains keep all their pages in memory until the last page was read. Such a chain reserves memory for all of
   its pages before its first request. Together, these chains reserve at most half of the limit. The other half becomes
   free with each commit, and each request needs memory for one page only. Therefore these chains never wait for each
   other.
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
    """Memory limit in bytes, from which reservations are taken. Each reservation begins with the same size, the unit.

    Bytes that are reserved in this pool are also reserved in the pool `whole`, if there is one.
    """

    def __init__(self, max_bytes: int, unit: int, whole: "_Pool | None" = None) -> None:
        self._max_bytes = max_bytes
        self._unit = unit
        self._whole = whole
        self._waiting: dict[Callable[[], None], None] = {}
        "Callbacks of the callers that wait for memory, in the order in which they began to wait."
        self.bytes = 0

    def reserve(self, freed: Callable[[], None]) -> PageRoom | None:
        """Reserve one unit and return the reservation. Return None if there is no room.

        In that case, `freed` is called once, as soon as there is room.
        """
        if not self._has_room():
            self._waiting.setdefault(freed)
            return None
        self._waiting.pop(freed, None)
        self._add(self._unit)
        return PageRoom(self, self._unit)

    def change(self, by: int) -> None:
        """Add `by` bytes, which may be negative, to the reserved memory.

        Then call the callbacks of waiting callers while there is room.
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
        """Return whether one unit may be reserved.

        If nothing is reserved, the unit may even be larger than the limit.
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
        """Reserve memory for one page, and return the reservation.

        If no memory is free, return None. `freed` is then called once, as soon as memory is free for this caller.
        """
        return self._all.reserve(freed)

    def reserve_chain(self, freed: Callable[[], None]) -> PageRoom | None:
        """Reserve memory for a page chain whose pages all stay in memory until its last page was read.

        Return the reservation, or None if there is no room. `freed` is then called once, as soon as there is room
        again.
        """
        return self._chains.reserve(freed)


NO_ROOM = PageRoom(_Pool(0, 0), 0)
"Reservation of no memory. Releasing it has no effect."
