"""Failing ranges: call time that Graph fails to serve while it serves other call time of the same tenant.

1. A range that fails is narrowed: it is requested in halves, down to one second. If one second fails, it is isolated:
   runs complete without it, it is reported with its cause, and it is requested again at growing intervals.
2. The first failure halves a range at once. Any further step needs evidence that the failure depends on the range:
   Graph must have served the tenant something after the range failed. Without evidence, the range only waits for some
   seconds. A range that Graph refuses for its length (406) is halved without evidence, but is isolated only with
   evidence.
3. After a success inside a narrowed range or next to it, slices in the range may be twice as long. If the range last
   failed more than a minute ago, it is no longer narrowed at all. A success elsewhere ends the narrowing of ranges that
   last failed more than a quarter of an hour ago.
4. A range that fails next to isolated ranges that are at least as long is isolated as a whole. An isolated range that
   fails again is split in two. So a few requests are enough to isolate a long range, and it becomes shorter later.
"""

import itertools
from datetime import datetime, timedelta
from typing import NamedTuple

from connector.core.coverage import Window, subtract

MOST_RANGES = 200  # the state record of a tenant must fit into one message
_MOST_NARROWED = 32
_MOST_SPLIT = 32
_FIRST_RETRY_S = 60
_LONGEST_RETRY_S = 1800
_LONGEST_WAIT_S = 16
_RECOVERED_AFTER = timedelta(minutes=1)
_FORGOTTEN_AFTER = timedelta(minutes=15)
_MOST_CAUSE = 200


class RangeFailure(NamedTuple):
    """Failure of one request for a range of call time. Times are aware UTC."""

    cause: str
    at: datetime
    served_at: datetime | None
    "Time at which Graph last served the tenant a page of any range; None if it never did."
    too_long: bool = False
    "True if Graph refuses the range because of its length, or if the range has too many pages."


class FailingRange(NamedTuple):
    """Call time that Graph failed to serve. The failing ranges of a tenant are disjoint and sorted."""

    window: Window
    longest_s: int
    "Length of the longest slice that may be requested within the range, in seconds."
    failed_at: datetime
    retry_at: datetime
    failures: int
    """Number of failures since the range was last halved. For an isolated range: number of failures since it was
    isolated, counting only failures with evidence (rule 2).
    """
    cause: str
    isolated: bool = False


FailingRanges = tuple[FailingRange, ...]


def failed(ranges: FailingRanges, window: Window, failure: RangeFailure) -> FailingRanges:
    """Record that a request for `window` failed, and return the new failing ranges.

    The rules of this module determine whether the range is narrowed, must wait, or is isolated.
    """
    known = [one for one in ranges if _overlap(one.window, window)]
    others = _without(ranges, window)
    if refuses_any_length(ranges, window, failure):
        # Narrowing has not helped, so the length was not the reason: drop the narrowed ranges.
        return tuple(one for one in others if one.isolated)
    is_proven = _is_proven(known, failure)
    failures = 1 + max((one.failures for one in known), default=0)
    if any(one.isolated for one in known):
        # A failure while Graph serves nothing proves nothing about the range, so the interval does not grow.
        failures -= not is_proven
        return _bounded([*others, *_still_isolated(window, failure, failures, len(ranges))])
    if is_proven and (window.seconds <= 1 or _continues_isolated_area(others, window)):
        return _bounded(_merged([*others, _isolated(window, failure, 1)], window))
    longest_s = int(window.seconds)
    # Halve at the first failure, and later only with evidence. Otherwise Graph may just be unavailable: keep the length
    # and wait longer each time.
    if not known or is_proven or failure.too_long:
        failures, longest_s = 1, max(1, (longest_s + 1) // 2)
    wait_s = 0 if longest_s < window.seconds else min(2**failures, _LONGEST_WAIT_S)
    retry_at = failure.at + timedelta(seconds=wait_s)
    narrowed = FailingRange(window, longest_s, failure.at, retry_at, failures, failure.cause[:_MOST_CAUSE])
    return _bounded([*others, narrowed])


def succeeded(ranges: FailingRanges, window: Window, now: datetime) -> FailingRanges:
    """Record that Graph served `window`, and return the new failing ranges.

    `window` is removed from the failing ranges. Longer slices may be requested in failing ranges that it overlaps or
    touches, because Graph may serve them again as well (rule 3 of this module).
    """
    if not ranges:
        return ranges
    touched = [one.window for one in ranges if one.window.start <= window.end and window.start <= one.window.end]
    left = []
    for one in _without(ranges, window):
        is_beside = any(_overlap(one.window, former) for former in touched)
        if one.isolated:
            left.append(one)
        elif now - one.failed_at < (_RECOVERED_AFTER if is_beside else _FORGOTTEN_AFTER):
            left.append(_released(one, now, is_beside=is_beside))
    return tuple(left)


def as_known(ranges: FailingRanges, start: datetime, now: datetime) -> FailingRanges:
    """Remove call time before `start` from the ranges, and correct future times, which a wrong clock has recorded.

    A failure after `now` becomes a failure at `now`. The next request is at most half an hour after `now`.
    """
    if not ranges:
        return ranges
    latest = now + timedelta(seconds=_LONGEST_RETRY_S)
    readable = _without(ranges, Window(min(one.window.start for one in ranges), start))
    return tuple(
        one._replace(failed_at=min(one.failed_at, now), retry_at=min(one.retry_at, latest)) for one in readable
    )


def isolated(ranges: FailingRanges) -> list[Window]:
    """Return the isolated ranges, oldest first. Runs complete without reading them."""
    return [one.window for one in ranges if one.isolated]


def left_out(ranges: FailingRanges, now: datetime) -> list[Window]:
    """Return the ranges that no run or job may request at `now`.

    These are the isolated ranges and the ranges that must wait after a failure.
    """
    return [one.window for one in ranges if one.isolated or one.retry_at > now]


def most_promising(ranges: FailingRanges, windows: list[Window]) -> list[Window]:
    """Return the part of `windows` that is most likely to be served, so that it is requested first.

    It is the call time that never failed. If there is none, it is the call time that failed only once; otherwise all of
    `windows`. A success there is the evidence that is needed to isolate other ranges.
    """
    never_failed = subtract(windows, [one.window for one in ranges])
    return never_failed or subtract(windows, [one.window for one in ranges if one.failures > 1]) or windows


def due(ranges: FailingRanges, now: datetime) -> list[Window]:
    """Return the isolated ranges that are due to be requested again. The range that has waited longest comes first."""
    found = sorted((one.retry_at, one.window) for one in ranges if one.isolated and one.retry_at <= now)
    return [window for _, window in found]


def next_retry(ranges: FailingRanges, now: datetime) -> datetime | None:
    """Return the earliest time at which a failing range that must wait may be requested; None if no range must wait."""
    return min((one.retry_at for one in ranges if one.retry_at > now), default=None)


def fit(ranges: FailingRanges, window: Window, *, newest_first: bool) -> Window:
    """Shorten `window` to the length that its failing ranges allow.

    `newest_first` keeps the end of the window; otherwise the start is kept.
    """
    start, end = window
    for one in ranges:
        if not _overlap(one.window, window):
            continue
        # A range at the kept end limits the length. A range elsewhere in the window is left out of the result.
        longest = timedelta(seconds=one.longest_s)
        if newest_first:
            inside = one.window.end >= window.end
            start = max(start, one.window.start, window.end - longest) if inside else max(start, one.window.end)
        else:
            inside = one.window.start <= window.start
            end = min(end, one.window.end, window.start + longest) if inside else min(end, one.window.start)
    return Window(start, end)


def is_known(ranges: FailingRanges, window: Window) -> bool:
    """Return whether any part of `window` lies in a failing range."""
    return any(_overlap(one.window, window) for one in ranges)


def causes(ranges: FailingRanges, windows: list[Window], otherwise: str) -> list[tuple[Window, str]]:
    """Split `windows` into pieces, each with the cause of its failure.

    The cause is that of the isolated range which contains the piece. Outside of all isolated ranges, it is the text
    `otherwise`.
    """
    pieces = [(rest, otherwise) for rest in subtract(windows, isolated(ranges))]
    for one in ranges:
        for window in windows:
            start, end = max(one.window.start, window.start), min(one.window.end, window.end)
            if one.isolated and start < end:
                pieces.append((Window(start, end), one.cause))
    joined: list[tuple[Window, str]] = []
    for window, cause in sorted(pieces):
        if joined and joined[-1][0].end == window.start and joined[-1][1] == cause:
            joined[-1] = (Window(joined[-1][0].start, window.end), cause)
        else:
            joined.append((window, cause))
    return joined


def refuses_any_length(ranges: FailingRanges, window: Window, failure: RangeFailure) -> bool:
    """Return whether Graph refuses `window` as too long although its length cannot be the reason.

    This is so if the window is only one second long, and Graph has served the tenant nothing since the last failure of
    the window.
    """
    known = [one for one in ranges if _overlap(one.window, window)]
    return failure.too_long and window.seconds <= 1 and not _is_proven(known, failure)


def _is_proven(known: list[FailingRange], failure: RangeFailure) -> bool:
    """Return whether Graph has served the tenant anything since the ranges in `known` last failed.

    If so, a new failure shows that Graph fails only for these ranges. Otherwise Graph may fail for all ranges.
    """
    if not known or failure.served_at is None:
        return False
    return failure.served_at > max(one.failed_at for one in known)


def _released(one: FailingRange, now: datetime, *, is_beside: bool) -> FailingRange:
    """Let a narrowed range be requested again at once, because Graph has served other call time. Return the new range.

    If the success was inside the range or next to it (`is_beside`), slices in the range may also be twice as long.
    """
    longest_s = 2 * one.longest_s if is_beside else one.longest_s
    return one._replace(longest_s=longest_s, retry_at=min(one.retry_at, now))


def _continues_isolated_area(others: FailingRanges, window: Window) -> bool:
    """Return whether `window` should be isolated as a whole, because it continues an area of isolated ranges (rule 4).

    The isolated ranges directly before or directly after `window` must together be at least as long as `window`.
    """
    # Isolated ranges that touch each other count together: follow them from `window` in either direction.
    before = after = 0.0
    for one in reversed(others):
        if one.isolated and one.window.end == window.start - timedelta(seconds=before):
            before += one.window.seconds
    for one in others:
        if one.isolated and one.window.start == window.end + timedelta(seconds=after):
            after += one.window.seconds
    return max(before, after) >= window.seconds


def _isolated(window: Window, failure: RangeFailure, failures: int) -> FailingRange:
    wait_s = min(_FIRST_RETRY_S * 2 ** min(failures - 1, 10), _LONGEST_RETRY_S)
    retry_at = failure.at + timedelta(seconds=wait_s)
    cause = failure.cause[:_MOST_CAUSE]
    return FailingRange(window, max(1, int(window.seconds)), failure.at, retry_at, failures, cause, isolated=True)


def _still_isolated(window: Window, failure: RangeFailure, failures: int, count: int) -> list[FailingRange]:
    """Return the two halves of an isolated range that failed again.

    The range is not split if it is one second long, or if there are too many failing ranges (`count`).
    """
    if window.seconds <= 1 or count >= _MOST_SPLIT:
        return [_isolated(window, failure, failures)]
    middle = window.start + timedelta(seconds=int(window.seconds) // 2)
    halves = (Window(window.start, middle), Window(middle, window.end))
    return [_isolated(half, failure, failures) for half in halves]


def _merged(ranges: list[FailingRange], window: Window) -> list[FailingRange]:
    """Join the isolated range `window` with the isolated ranges that touch it."""
    result: list[FailingRange] = []
    for one in sorted(ranges):
        last = result[-1] if result else None
        touches = last is not None and last.isolated and one.isolated and last.window.end == one.window.start
        if last is not None and touches and window in (last.window, one.window):
            result[-1] = _joined(last, one)
            window = result[-1].window
        else:
            result.append(one)
    return result


def _joined(first: FailingRange, second: FailingRange) -> FailingRange:
    window = Window(first.window.start, max(first.window.end, second.window.end))
    newest = max(first, second, key=lambda one: one.failed_at)
    return newest._replace(window=window, longest_s=max(1, int(window.seconds)))


def _bounded(ranges: list[FailingRange]) -> FailingRanges:
    """Limit the number of ranges.

    Of the ranges that are not isolated, those with the oldest failures are removed. If there are still too many ranges,
    the isolated ranges that are closest to each other are joined.
    """
    narrowed = sorted((one.failed_at, one.window) for one in ranges if not one.isolated)
    forgotten = {window for _, window in narrowed[: max(0, len(narrowed) - _MOST_NARROWED)]}
    kept = sorted(one for one in ranges if one.window not in forgotten)
    while len(kept) > MOST_RANGES:
        blocked = [number for number, one in enumerate(kept) if one.isolated]
        first, second = min(
            itertools.pairwise(blocked), key=lambda pair: kept[pair[1]].window.start - kept[pair[0]].window.end
        )
        kept[first : second + 1] = [_joined(kept[first], kept[second])]
    return tuple(kept)


def _without(ranges: FailingRanges, window: Window) -> FailingRanges:
    return tuple(
        one._replace(window=part)
        for one in ranges
        for part in ([one.window] if not _overlap(one.window, window) else subtract([one.window], [window]))
    )


def _overlap(one: Window, other: Window) -> bool:
    return one.start < other.end and other.start < one.end
