"""Coverage of a tenant as a strip of cells. Each cell stands for the same length of call time.

A cell shows the worst state in its call time. So even one minute that was never read is visible in a strip of two
weeks. Adjacent cells with the same state are merged.
"""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

NONE, RECENT, TODAY, OLDER, DUE, GAP = range(6)
"States of a cell, ordered from the least to the most severe."
NAMES = ("none", "recent", "today", "older", "due", "gap")

_HOUR, _DAY = timedelta(hours=1), timedelta(days=1)


class CellRange(NamedTuple):
    """Adjacent cells with the same state: those with the numbers from `first` up to but not including `last`."""

    kind: int
    first: int
    last: int


class Pieces(NamedTuple):
    """Ranges of a tenant's call time that were read, and ranges that were not. The call time begins at `start`."""

    now: datetime
    start: datetime
    read: list[tuple[datetime, datetime, datetime]]
    "Ranges that were read: start, end, and when they were last read."
    unread: list[tuple[datetime, datetime, bool]]
    "Ranges that were not read: start, end, and whether they will be read without an operator's action."


def pieces(tenant: Mapping[str, Any], jobs: Iterable[Mapping[str, Any]] = ()) -> Pieces | None:
    """Return the read and unread ranges of a tenant, taken from its JSON object TENANT and its JOB objects.

    Return None if the tenant's state is not known.
    """
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


def runs(known: Pieces, length: timedelta, cells: int) -> list[CellRange]:
    """Return the cells of a strip that shows the call time from `length` ago until now.

    The strip is divided into `cells` cells of equal length. Adjacent cells with the same state are merged.
    """
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
        # The newest cell is never read to its end. This is normal, unless reading has stopped for longer.
        last = min(end, known.now - width) if goes_on or start > known.now - width else end
        if start < last and last > begin:
            mark(start, last, DUE if goes_on else GAP)
    found: list[CellRange] = []
    for number, kind in enumerate(kinds):
        if found and found[-1].kind == kind:
            found[-1] = found[-1]._replace(last=number + 1)
        else:
            found.append(CellRange(kind, number, number + 1))
    return found


def oldest_reading(known: Pieces, length: timedelta) -> timedelta | None:
    """Return how long ago the oldest reading in the last `length` of call time was; None if there is no reading.

    If a part of the call time was read several times, only its last reading counts.
    """
    ages = [known.now - at for _, end, at in known.read if end > known.now - length]
    return max(ages) if ages else None


def moment(text: object) -> datetime | None:
    """Return a timestamp of JSON as a datetime, or None for any other value."""
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
