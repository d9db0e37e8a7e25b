"""Reading of one range of call time from Graph by a command, in slices, with a progress bar."""

from collections.abc import AsyncGenerator, Callable, Iterable, Iterator
from contextlib import aclosing, contextmanager
from datetime import datetime, timedelta

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from connector.core import windows
from connector.core.coverage import Window
from connector.errors import RangeTooLongError
from connector.graph.source import ReadPage, Source

ShowProgress = Callable[[str, datetime], None]


async def read_pages(
    source: Source, window: Window, longest: timedelta, show: ShowProgress
) -> AsyncGenerator[tuple[Window, ReadPage], None]:
    """Yield the pages of a range, each with the part of the range that was requested.

    No part is longer than `longest`. A part that Graph finds too long is read again in halves. Raises the errors of
    `source.pages`.
    """
    left = [window]
    while left:
        part = left.pop()
        if part.end - part.start > longest:
            edge = part.start + longest
            left += [Window(edge, part.end), Window(part.start, edge)]
            continue
        show("reading Graph", part.start)
        try:
            async with aclosing(source.pages(part, 0)) as pages:
                async for page in pages:
                    page.room.release()
                    yield part, page
        except RangeTooLongError:
            parts = windows.halves(part)
            if len(parts) < 2:
                raise
            left += reversed(parts)


def ranges_around(moments: Iterable[datetime], margin: timedelta, shortest_gap: timedelta) -> list[Window]:
    """Return ranges of whole seconds that contain each moment and the time of `margin` before and after it.

    Ranges are joined if the gap between them is shorter than `shortest_gap`, which keeps the number of requests low.
    """
    ranges: list[Window] = []
    for moment in sorted(moments):
        start, end = windows.second(moment - margin), windows.second(moment + margin)
        if ranges and start - ranges[-1].end < shortest_gap:
            ranges[-1] = ranges[-1]._replace(end=end)
        else:
            ranges.append(Window(start, end))
    return ranges


@contextmanager
def progress_screen(window: Window) -> Iterator[ShowProgress]:
    """Show a progress bar on standard error if it is a terminal. Progress is measured in call time.

    The context manager yields a function that sets the description and the call time that was reached.
    """
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=window.seconds)

        def tell(what: str, at: datetime) -> None:
            progress.update(task, description=what, completed=(at - window.start).total_seconds())

        yield tell
