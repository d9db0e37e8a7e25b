"""Coverage: the call time that was read, and when it was last read.

It is a list of pieces of call time, which are sorted, disjoint and not empty.
"""

from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

_NEVER = datetime.max.replace(tzinfo=UTC, microsecond=0)


class Window(NamedTuple):
    """Range of call time from `start` up to, but not including, `end`. Both are aware UTC in whole seconds."""

    start: datetime
    end: datetime

    @property
    def seconds(self) -> float:
        """Return the length of the range in seconds."""
        return (self.end - self.start).total_seconds()


class Read(NamedTuple):
    """Piece of call time that was read. `at` is the start of the run that read it last."""

    start: datetime
    end: datetime
    at: datetime
    steady: bool = True
    "False if the paging was not stable in any attempt, when the piece was last read."


class Coverage(NamedTuple):
    """All call time of a tenant that was read, in pieces with the time at which each was last read."""

    reads: tuple[Read, ...] = ()

    @property
    def through(self) -> datetime | None:
        """Return the end of the newest call time that was read; None if nothing was read."""
        return self.reads[-1].end if self.reads else None

    def add(self, window: Window, at: datetime, *, steady: bool = True) -> "Coverage":
        """Record that `window` was read at `at`, and return the new coverage.

        Parts of `window` that already have a later read time keep that time.
        """
        pieces = [piece for read in self.reads for piece in _outside(read, window)]
        # Inside `window`, keep pieces with a later read time. Fill the space between them. `newest` is the end of
        # the filled part.
        newest = window.start
        for read in self.reads:
            start, end = max(read.start, window.start), min(read.end, window.end)
            if start < end and read.at > at:
                if newest < start:
                    pieces.append(Read(newest, start, at, steady))
                pieces.append(Read(start, end, read.at, read.steady))
                newest = end
        if newest < window.end:
            pieces.append(Read(newest, window.end, at, steady))
        return Coverage(_joined(sorted(pieces)))

    def missing(self, window: Window, since: datetime | None = None) -> list[Window]:
        """Return the parts of `window` that were never read, oldest first.

        With `since`, the parts that were last read before this time are returned as well.
        """
        parts = []
        # Call time before `at` is either read or already in `parts`.
        at = window.start
        for read in self.reads:
            if read.end <= at or (since is not None and read.at < since):
                continue
            if read.start >= window.end:
                break
            if read.start > at:
                parts.append(Window(at, read.start))
            at = read.end
        if at < window.end:
            parts.append(Window(at, window.end))
        return parts

    def unripe(self, window: Window, overlap: timedelta) -> list[Window]:
        """Return the parts of `window` that were not read late enough, oldest first.

        A part was read late enough if it was last read at least `overlap` after its calls began. Parts that were never
        read are returned as well.
        """
        ripe = (Window(read.start, min(read.end, read.at - overlap)) for read in self.reads)
        return subtract([window], [part for part in ripe if part.start < part.end])

    def until(self, now: datetime) -> "Coverage":
        """Remove call time after `now`, correct read times after `now`, and return the new coverage.

        The coverage contains such times when a clock that was ahead has been set back. A read time after `now` becomes
        one second before `now`, because the call time was really read earlier.
        """
        if all(read.end <= now and read.at <= now for read in self.reads):
            return self
        before = now - timedelta(seconds=1)
        return Coverage(
            tuple(
                read._replace(end=min(read.end, now), at=read.at if read.at <= now else before)
                for read in self.reads
                if read.start < now
            )
        )

    def merged(self, is_alike: Callable[[Read, datetime], bool]) -> "Coverage":
        """Merge adjacent pieces if this changes nothing for any sweep, and return the new coverage.

        A merged piece keeps the older of the two read times. The function `is_alike(piece, at)` decides: it returns
        True if every sweep behaves the same when `piece` gets the earlier read time `at`.
        """
        pieces: list[Read] = []
        for read in self.reads:
            last = pieces[-1] if pieces else None
            if last and last.end == read.start and last.steady == read.steady:
                at = min(last.at, read.at)
                newer = [one for one in (last, read) if one.at > at]
                if all(is_alike(one, at) for one in newer):
                    pieces[-1] = Read(last.start, read.end, at, last.steady)
                    continue
            pieces.append(read)
        return Coverage(tuple(pieces))

    def limited(self, most: int) -> "Coverage":
        """Reduce the coverage to at most `most` pieces, so that its record has a bounded size.

        The result never claims more than was read. Adjacent pieces with similar read times are merged, and keep the
        older time. If this is not enough, the shortest pieces are removed: their call time counts as never read.
        """
        reads, tolerance = list(self.reads), timedelta(minutes=1)
        while len(reads) > most and tolerance < timedelta(days=1000):
            joined: list[Read] = []
            for read in reads:
                last = joined[-1] if joined else None
                if last and last.end == read.start and abs(last.at - read.at) <= tolerance:
                    joined[-1] = Read(last.start, read.end, min(last.at, read.at), last.steady and read.steady)
                else:
                    joined.append(read)
            reads, tolerance = joined, 4 * tolerance
        longest = sorted(reads, key=lambda read: read.end - read.start, reverse=True)[:most]
        return self if len(self.reads) <= most else Coverage(tuple(sorted(longest)))

    def with_passable(self, windows: Iterable[Window]) -> "Coverage":
        """Return a coverage in which `windows` count as read late enough for every sweep.

        The caller passes the isolated ranges, so that runs can complete without them.
        """
        coverage = self
        for window in windows:
            coverage = coverage.add(window, _NEVER)
        return coverage

    def complete_through(self, start: datetime, overlap: timedelta) -> datetime:
        """Return the end of the call time from `start` on that was read late enough, without a gap.

        Every call between `start` and the result was last read at least `overlap` after it began.
        """
        at = start
        for read in self.reads:
            if read.end <= at:
                continue
            if read.start > at:
                break
            # Of this piece, only calls that began before `read.at - overlap` were read late enough.
            at = max(at, min(read.end, read.at - overlap))
            if at < read.end:
                break
        return at


def subtract(windows: Iterable[Window], taken: Iterable[Window]) -> list[Window]:
    """Return the parts of `windows` that lie outside all of `taken`, in order."""
    left = list(windows)
    for excluded in taken:
        # A part that touches no window leaves the list as it is, which is the usual case.
        left = (
            [
                Window(start, end)
                for window in left
                for start, end in (
                    (window.start, min(window.end, excluded.start)),
                    (max(window.start, excluded.end), window.end),
                )
                if start < end
            ]
            if any(window.start < excluded.end and excluded.start < window.end for window in left)
            else left
        )
    return left


def clip(windows: Iterable[Window], bounds: Window) -> list[Window]:
    """Return the parts of `windows` that lie inside `bounds`, in order."""
    inside = (Window(max(w.start, bounds.start), min(w.end, bounds.end)) for w in windows)
    return [window for window in inside if window.start < window.end]


def _outside(read: Read, window: Window) -> list[Read]:
    if read.end <= window.start or read.start >= window.end:
        return [read]
    parts = (read._replace(end=min(read.end, window.start)), read._replace(start=max(read.start, window.end)))
    return [part for part in parts if part.start < part.end]


def _joined(pieces: list[Read]) -> tuple[Read, ...]:
    joined: list[Read] = []
    for piece in pieces:
        last = joined[-1] if joined else None
        if last and last.end == piece.start and last.at == piece.at and last.steady == piece.steady:
            joined[-1] = last._replace(end=piece.end)
        else:
            joined.append(piece)
    return tuple(joined)
