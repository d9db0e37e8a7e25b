"""Output for people: coloured tables on a terminal, plain text in a file or a pipe."""

import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple, TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from connector import words

_STYLES = {
    "ok": "green",
    "done": "green",
    "running": "cyan",
    "catching_up": "yellow",
    "waiting": "yellow",
    "paused": "yellow",
    "unknown": "magenta",
    "failing": "bold red",
    "failed": "bold red",
    "cancelled": "dim",
}
_FULL, _PART, _NONE, _OUTSIDE = "█", "▒", "·", " "
LEGEND = f"{_FULL} read  {_PART} partly read  {_NONE} not read yet  blank: before the start"
_PLAIN = str.maketrans({_FULL: "#", _PART: "+", _NONE: "."})


class Section(NamedTuple):
    """Table with a title. A column whose name ends in `>` is aligned to the right."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


def show(sections: Sequence[Section], stream: TextIO | None = None) -> None:
    """Write the tables to `stream`, by default standard output. Tables without rows are left out."""
    stream = stream or sys.stdout
    shown = [section for section in sections if section.rows]
    if not stream.isatty():
        stream.write("\n".join(_plain(section) for section in shown))
        return
    console = Console(file=stream)
    for section in shown:
        table = Table(title=section.title, title_justify="left", title_style="bold", box=None, pad_edge=False)
        for column in section.columns:
            table.add_column(column.rstrip(">"), justify="right" if column.endswith(">") else "left", overflow="fold")
        for row in section.rows:
            table.add_row(*(Text(cell, style=_STYLES.get(cell, "")) for cell in row))
        console.print(table)
        console.print()


def _plain(section: Section) -> str:
    titles = [column.rstrip(">") for column in section.columns]
    rows = [titles, *([cell.translate(_PLAIN) for cell in row] for row in section.rows)]
    widths = [max(len(row[n]) for row in rows) for n in range(len(titles))]
    lines = [section.title.translate(_PLAIN)]
    for row in rows:
        cells = [
            cell.rjust(width) if column.endswith(">") else cell.ljust(width)
            for cell, width, column in zip(row, widths, section.columns, strict=True)
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines) + "\n"


def progress_bar(console: Console, estimate_over_s: float) -> Progress:
    """Create a progress bar that shows a task's description, its field `counts`, and the elapsed and remaining time.

    The remaining time is computed from the speed in the last `estimate_over_s` seconds. Without a terminal, nothing is
    shown.
    """
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        TaskProgressColumn(),
        TextColumn("{task.fields[counts]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
        speed_estimate_period=estimate_over_s,
        disable=not console.is_terminal,
    )


def bar(tenant: Mapping[str, Any], end: datetime, length: timedelta, cells: int) -> str:
    """Return a tenant's coverage of the last `length` before `end`, as a bar of `cells` characters.

    Each character stands for the same length of call time. It shows whether all, a part or none of it was read. A
    character is blank if no rows are expected in its call time.
    """
    pieces = [(_moment(piece["from"]), _moment(piece["to"])) for piece in tenant["coverage"]]
    gaps = [(_moment(gap["from"]), _moment(gap["to"])) for gap in tenant["gaps"]]
    expected_from = min((start for start, _ in (*pieces, *gaps)), default=end)
    result = ""
    for number in range(cells):
        start = end - length + number * length / cells
        stop = start + length / cells
        # Call time after the newest read call time is not a gap: it may not have been due for reading yet.
        through = pieces[-1][1] if pieces else end
        wanted = max(0.0, (min(stop, max(through, start)) - max(start, expected_from)).total_seconds())
        read = sum(max(0.0, (min(stop, b) - max(start, a)).total_seconds()) for a, b in pieces)
        if start >= through and pieces and end - through > length / cells:
            result += _NONE
        elif wanted <= 0:
            result += _OUTSIDE
        else:
            result += _FULL if read >= wanted - 1 else _PART if read > 0 else _NONE
    return result


def ago(text: str | None, now: datetime) -> str:
    """Return how long ago the RFC 3339 time `text` was, such as "5 min ago". Return "never" for None."""
    return f"{span((now - _moment(text)).total_seconds())} ago" if text else "never"


def when(text: str | None) -> str:
    """Return an RFC 3339 time without `T` and fractions of a second, or a dash for None."""
    return text[:19].replace("T", " ") if text else "-"


def span(seconds: float | None) -> str:
    """Return a duration as text for people, or a dash if it is not known."""
    return "-" if seconds is None else words.duration(max(0.0, seconds))


def number(value: float | None) -> str:
    """Return a count with separators between thousands, or a dash if it is not known."""
    return "-" if value is None else f"{value:,.0f}"


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)
