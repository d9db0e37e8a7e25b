"""Page chain of a slice: reads it to its end and hands over its pages."""

from typing import NamedTuple

from connector.config import Tenant
from connector.core import slices
from connector.core.rows import RowSchema, join
from connector.core.scheduler import ReadSlice
from connector.errors import RangeTooLongError
from connector.graph.source import Source
from connector.pipeline.buffer import MAX_BYTES, Buffer
from connector.pipeline.messages import PageRead

_MOST_HELD_ROWS = 2 * slices.ROWS_A_SLICE


class PageChain(NamedTuple):
    """Page chain that was read to its end."""

    rows: int
    repeated: bool
    "True if an id was on two pages, so that rows may have shifted between pages while they were read."
    held: PageRead | None
    "All rows of the chain, if they were not handed over yet."


async def read_chain(
    source: Source, tenant: Tenant, shape: RowSchema, buffer: Buffer, read: ReadSlice, attempt: int
) -> PageChain:
    """Read one chain to its end, after `attempt` earlier readings.

    Hand over its pages at once, unless they must be committed as a whole.
    """
    piece = read.slice
    seen: set[int] = set()
    rows, number, repeated = 0, 0, False
    held: list[PageRead] = []
    async for page in source.pages(piece.window, piece.priority, read.attempts):
        reading = shape.read(page.rows)
        ids = set(reading.entries["hi"].tolist())
        again = frozenset(seen & ids)
        repeated = repeated or bool(again)
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
            attempt=attempt,
            repeated=again,
            room=page.room,
        )
        number += 1
        if not piece.again:
            await buffer.put_page(page_read)
            continue
        # Chains that waited for room while they hold pages would wait for each other. They have a limit of their own.
        page.room.release()
        held.append(page_read)
        if rows > _MOST_HELD_ROWS or (len(held) > 1 and sum(one.bytes for one in held) > MAX_BYTES):
            raise RangeTooLongError(f"a slice of {tenant.label} is too large to be held")
    return PageChain(rows, repeated, joined(held) if held else None)


def joined(pages: list[PageRead]) -> PageRead:
    """Return the pages of a chain that publishes known rows again as one page.

    One page is committed as a whole, so that a crash cannot publish a part of the chain twice.
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
