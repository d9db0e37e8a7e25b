"""Coverage as a strip: call time in cells, each with the worst that is true of it; equal neighbours are one.

The worst wins, so that a minute that was never read shows in a strip of two weeks.
"""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

NONE, RECENT, TODAY, OLDER, DUE, GAP = range(6)
"What is true of a cell, from what says least to the worst."
NAMES = ("none", "recent", "today", "older", "due", "gap")

_HOUR, _DAY = timedelta(hours=1), timedelta(days=1)


class Run(NamedTuple):
    """Cells of one kind, from `first` to before `last`."""

    kind: int
    first: int
    last: int


class Pieces(NamedTuple):
    """What is known of a tenant's call time. `start`: where it begins to be wanted."""

    now: datetime
    start: datetime
    read: list[tuple[datetime, datetime, datetime]]
    "From, to, last read."
    unread: list[tuple[datetime, datetime, bool]]
    "From, to, and whether it is going to be read without anybody doing anything."


def pieces(tenant: Mapping[str, Any], jobs: Iterable[Mapping[str, Any]] = ()) -> Pieces | None:
    """Of a TENANT and its JOBs; None when nothing is known of it."""
    if tenant.get("lag_seconds") is None:
        return None
    lag = timedelta(seconds=float(tenant["lag_seconds"]))
    through = moment(tenant.get("covered_through"))
    now = through + lag if through else datetime.now(UTC)
    read = [
        (first, last, at)
        for piece in tenant.get("coverage") or ()
        if (first := moment(piece.get("from")))
        and (last := moment(piece.get("to")))
        and (at := moment(piece.get("last_read")))
    ]
    goes_on = tenant.get("state") in ("ok", "catching_up")
    unread = [
        (first, last, goes_on)
        for gap in tenant.get("gaps") or ()
        if (first := moment(gap.get("from"))) and (last := moment(gap.get("to")))
    ]
    start = min([piece[0] for piece in (*read, *unread)], default=now - lag)
    unread.append((through or start, now, goes_on))
    for job in jobs:
        begin, end = moment(job.get("from")), moment(job.get("to"))
        if job.get("state") in ("waiting", "running") and begin and end:
            unread += [(first, last, goes_on) for first, last in _without(begin, min(end, now), read)]
    return Pieces(now, start, read, unread)


def runs(known: Pieces, length: timedelta, cells: int) -> list[Run]:
    """The last `length` before now."""
    begin, width = known.now - length, length / cells
    kinds = [NONE] * cells

    def mark(start: datetime, end: datetime, kind: int) -> None:
        first = max(0, int((start - begin) / width))
        last = min(cells, -int((begin - end) // width))
        for at in range(first, last):
            kinds[at] = max(kinds[at], kind)

    for start, end, at in known.read:
        if end > begin:
            age = known.now - at
            mark(start, end, RECENT if age <= _HOUR else TODAY if age <= _DAY else OLDER)
    for start, end, goes_on in known.unread:
        # The newest cell is never read to its end: unless reading has stopped for longer, that is no news.
        last = min(end, known.now - width) if goes_on or start > known.now - width else end
        if start < last and last > begin:
            mark(start, last, DUE if goes_on else GAP)
    found: list[Run] = []
    for number, kind in enumerate(kinds):
        if found and found[-1].kind == kind:
            found[-1] = found[-1]._replace(last=number + 1)
        else:
            found.append(Run(kind, number, number + 1))
    return found


def oldest_reading(known: Pieces, length: timedelta) -> timedelta | None:
    """How long ago the call time of the last `length` that waits longest was last read; None where none was."""
    ages = [known.now - at for _, end, at in known.read if end > known.now - length]
    return max(ages) if ages else None


def moment(text: object) -> datetime | None:
    """An instant of JSON; None for anything else."""
    try:
        found = datetime.fromisoformat(str(text))
    except ValueError:
        return None
    return found if found.tzinfo else None


def _without(
    start: datetime, end: datetime, read: Iterable[tuple[datetime, datetime, datetime]]
) -> Iterable[tuple[datetime, datetime]]:
    for first, last, _ in read:
        if last <= start or first >= end:
            continue
        if first > start:
            yield start, first
        start = last
    if start < end:
        yield start, end
