"""Reader of the page chain of a slice: it reads all pages and puts them into the buffer."""

from typing import NamedTuple

from connector.config import Tenant
from connector.core import slices
from connector.core.rows import RowSchema, join
from connector.core.scheduler import ReadSlice
from connector.errors import RangeTooLongError
from connector.graph.page_memory import HELD_BYTES
from connector.graph.source import Source
from connector.pipeline.buffer import Buffer
from connector.pipeline.messages import PageRead

_MOST_HELD_ROWS = 2 * slices.ROWS_A_SLICE


class PageChain(NamedTuple):
    """Result of reading a page chain to its end."""

    rows: int
    repeated: frozenset[int]
    """Ids that occurred on two pages, in the form of PageRead.repeated. If there are any, rows may have moved between
    pages during the reading.
    """
    held: PageRead | None
    "All rows as one page, which the caller must put into the buffer; None if the pages are in the buffer already."


async def read_chain(
    source: Source, tenant: Tenant, shape: RowSchema, buffer: Buffer, read: ReadSlice, suspects: frozenset[int]
) -> PageChain:
    """Read a page chain to its end. `suspects` are the ids that occurred on two pages when the chain was read before.

    Each page is put into `buffer` at once. A backfill with `again` is different: its pages are joined and returned as
    one page (see `join_pages`). The caller must have reserved memory for them. Raises RangeTooLongError if they need
    too much memory.
    """
    piece = read.slice
    seen: set[int] = set()
    rows, number = 0, 0
    repeated: frozenset[int] = frozenset()
    held: list[PageRead] = []
    async for page in source.pages(piece.window, piece.priority, read.attempts):
        reading = shape.read(page.rows)
        # Half of an id's hash is enough here: a false match is rare, and only makes the chain be read again.
        ids = set(reading.entries["hi"].tolist())
        again = frozenset(seen & ids)
        repeated |= again
        seen |= ids
        rows += len(page.rows)
        page_read = PageRead(
            tenant.key,
            piece,
            page.rows,
            reading,
            page.received_at,
            page.bytes,
            read.unread,
            number=number,
            repeated=again,
            suspects=suspects,
            room=page.room,
        )
        number += 1
        if not piece.again:
            await buffer.put_page(page_read)
            continue
        page.room.release()  # the memory of the chain includes the page
        held.append(page_read)
        if rows > _MOST_HELD_ROWS or (len(held) > 1 and sum(one.bytes for one in held) > HELD_BYTES):
            raise RangeTooLongError(
                f"A page chain of {tenant.label} needs too much memory; its call time is read in shorter parts."
            )
    return PageChain(rows, repeated, join_pages(held) if held else None)


def join_pages(pages: list[PageRead]) -> PageRead:
    """Join all pages of a chain into one page, so that the whole chain is committed in one transaction.

    A backfill with `again` needs this, because it also publishes known rows. If its pages were committed one by one,
    the first pages would be published a second time after a crash.
    """
    first = pages[0]
    return first._replace(
        raws=[raw for page in pages for raw in page.raws],
        reading=join([page.reading for page in pages]),
        received_at=pages[-1].received_at,
        bytes=sum(page.bytes for page in pages),
        requests=len(pages),
        repeated=frozenset(),
    )
