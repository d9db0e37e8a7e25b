"""Rate limiter for the requests of one tenant to Graph.

1. Two requests are at least one step apart: 60 s / floor(N) plus 2 %, for N requests per minute. If a request leaves
   late, the next requests leave later as well, except for a small slack. Lost time is not made up for by a burst.
2. At most N requests leave within 60 s. Evenly spaced requests always satisfy this rule. It matters when connections
   open slowly and several requests leave together.
3. A new or resumed budget waits one step before its first request, because another worker may have just sent one.
4. `Retry-After` stops all requests until the given time. After a failure without `Retry-After`, all requests pause. The
   length of this pause doubles from failure to failure, with jitter. A request that was sent before the last pause
   began may fail later. Its failure does not lengthen the next pause.

Times are monotonic seconds, which the caller passes. `requests_per_minute` is rounded down: 1.5 counts as 1.
"""

import math
import re
from collections import deque
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Literal

BACKFILL = 1000
LIVE = 0
Lane = Literal["live", "sweep", "backfill"]
FailureKind = Literal["throttled", "broken"]

LONGEST_RETRY_AFTER_S = 3600.0
LONGEST_PAUSE_S = 60.0
FIRST_PAUSE_S: dict[FailureKind, float] = {"throttled": 4.0, "broken": 1.0}

_MARGIN = 1.02
_WINDOW_S = 60.0
# Length of the window in which the limiter counts requests. It is half a second longer than a minute: Graph counts
# requests when they arrive, and a request may be on its way for half a second longer than one that leaves later.
_KEPT_WINDOW_S = 60.5
_SECONDS = re.compile(r"[0-9]+(?:\.[0-9]*)?|\.[0-9]+")
# Every form of an HTTP date has colons, and a comma at most after the day of the week.
_DATE = re.compile(r"(?:\b(?:mon|tue|wed|thu|fri|sat|sun)[a-z]*,)?[^,]*:[^,]*", re.IGNORECASE)


def lane_name(priority: int) -> Lane:
    """Return the lane of a priority: live for 0, backfill for 1000 and above, sweep for every other priority."""
    if priority <= LIVE:
        return "live"
    return "backfill" if priority >= BACKFILL else "sweep"


def retry_after_s(value: str | None, server_now: datetime) -> float | None:
    """Return how many seconds a `Retry-After` header asks to wait, at most an hour; None if it has no usable value.

    A value is a number of seconds (decimals are allowed) or an HTTP date. The wait until a date begins at `server_now`,
    not at the time of this machine, whose clock may be wrong. `server_now` comes from the `Date` header of the
    response, if there is one. If there are several values (two headers, or one header with a comma), the longest wait
    is used. Zero, negative, past and unreadable values are ignored.
    """
    text = value or ""
    dates = _DATE.findall(text)
    waits = [_seconds(part) for part in _DATE.sub(",", text).split(",")]
    waits += [_seconds_until(date, server_now) for date in dates]
    wait_s = max(waits)
    return min(wait_s, LONGEST_RETRY_AFTER_S) if wait_s > 0 else None


def _seconds(text: str) -> float:
    text = text.strip(' \t"')
    return float(text) if _SECONDS.fullmatch(text) else 0.0


def _seconds_until(date: str, server_now: datetime) -> float:
    try:
        until = parsedate_to_datetime(date)
    except (ValueError, TypeError, IndexError, OverflowError):
        return 0.0
    return ((until if until.tzinfo else until.replace(tzinfo=UTC)) - server_now).total_seconds()


class Backoff:
    """Exponential backoff with jitter, up to one minute. A success resets it."""

    __slots__ = ("_decided_at", "_level", "until")

    def __init__(self) -> None:
        self._level = 0
        self._decided_at = -math.inf
        self.until = -math.inf

    def failed(self, sent_at: float, now: float, first_s: float, jitter: float) -> float:
        """Record a failure and return the time at which the pause ends.

        `first_s` is the length of the first pause. `jitter` is a random number in [0, 1): the pause becomes 0.5 to 1.5
        times as long. A request that was sent before the last pause began does not make the next pause longer.
        """
        if sent_at >= self._decided_at:
            self._level = min(self._level + 1, 32)
            self._decided_at = now
        pause_s = min(first_s * 2.0 ** (self._level - 1), LONGEST_PAUSE_S) * (0.5 + jitter)
        self.until = max(self.until, now + min(pause_s, LONGEST_PAUSE_S))
        return self.until

    def succeeded(self, sent_at: float) -> None:
        """Record a success: reset the backoff, unless the request was sent before the last pause began."""
        if sent_at >= self._decided_at:
            self._level = 0


class Elapsed:
    """Total length of several spans of time. Where spans overlap, the time counts once. Spans may end in the future."""

    __slots__ = ("_end", "_total_s")

    def __init__(self) -> None:
        self._end = -math.inf
        self._total_s = 0.0

    def extend(self, now: float, until: float) -> None:
        """Add the span from `now` to `until`."""
        begin = max(now, self._end)
        if until > begin:
            self._total_s += until - begin
            self._end = until

    def at(self, now: float) -> float:
        """Return how many seconds up to `now` lie inside at least one span.

        `now` must not be before the start of the last added span.
        """
        return self._total_s - max(0.0, self._end - now)


class Slot:
    """Right to send one request.

    `Budget.sent` records that the request was sent, and `Budget.settled` that it has ended.
    """

    __slots__ = ("granted_at", "sent_at")

    def __init__(self, granted_at: float) -> None:
        self.granted_at = granted_at
        self.sent_at = math.inf


class Budget:
    """Rate limiter of one tenant, which follows the rules in the module's docstring."""

    def __init__(self, requests_per_minute: float, now: float) -> None:
        if not 1 <= requests_per_minute < math.inf:
            raise ValueError(f"requests_per_minute must be at least 1, but is {requests_per_minute}")
        self._next_at = -math.inf
        self._slots: deque[Slot] = deque()
        self._stopped_until = -math.inf
        self._backoff = Backoff()
        self._asked = Elapsed()
        self._throttled = Elapsed()
        self.resume(requests_per_minute, now)

    def resume(self, requests_per_minute: float, now: float) -> None:
        """Set the number of requests per minute.

        The next request waits at least one step (rule 3). Pauses continue. The requests of the last minute still count.
        """
        self.requests_per_minute = requests_per_minute
        self._most = math.floor(requests_per_minute)
        self.step_s = _WINDOW_S / self._most * _MARGIN
        # At high rates the resolution of a timer and a busy moment of the event loop last longer than a step. At low
        # rates a tenth of a second is far less than the margin that rule 2 leaves.
        self._slack_s = min(max(self.step_s / 10, 0.02), 0.1)
        self._next_at = max(self._next_at, now + self.step_s)

    def delay_s(self, now: float) -> float:
        """Return the number of seconds until the next request may be sent; 0 if it may be sent at `now`."""
        self._forget(now)
        ready_at = max(self._next_at, self._stopped_until, self._backoff.until)
        if len(self._slots) >= self._most:
            oldest = self._slots[len(self._slots) - self._most]
            left_at = oldest.sent_at if oldest.sent_at < math.inf else now
            ready_at = max(ready_at, left_at + _KEPT_WINDOW_S)
        return max(0.0, ready_at - now)

    def take(self, now: float) -> Slot:
        """Acquire the right to send one request. Call this only when `delay_s` is 0."""
        slot = Slot(now)
        self._slots.append(slot)
        self._next_at = max(self._next_at + self.step_s, now + self.step_s - self._slack_s)
        return slot

    def sent(self, slot: Slot, now: float) -> None:
        """Record that the request of `slot` is sent at `now`.

        The request may be sent later than its slot was acquired, because it may have to wait for a connection. A second
        call for the same slot means that the HTTP client has sent the request again. Then both requests count.
        """
        if slot.sent_at < math.inf:
            slot = Slot(now)
            self._slots.append(slot)
        slot.sent_at = now
        self._next_at = max(self._next_at, now + self.step_s - self._slack_s)

    def settled(self, slot: Slot) -> None:
        """Record that the request of `slot` has ended, whether or not it was sent.

        A request that was never sent still counts towards the rate, from the time at which its slot was acquired.
        """
        if slot.sent_at == math.inf:
            slot.sent_at = slot.granted_at

    def succeeded(self, slot: Slot) -> None:
        """Record that Graph has answered the request of `slot`. The next pause after a failure is short again.

        A request that was sent before the last pause began has no effect.
        """
        self._backoff.succeeded(slot.granted_at)

    def failed(self, slot: Slot, now: float, kind: FailureKind, retry_after: float | None, jitter: float) -> None:
        """Stop all requests for `retry_after` seconds, because the request of `slot` has failed.

        If `retry_after` is None, the backoff determines the length of the pause. `jitter` is a random number in [0, 1),
        which varies this length.
        """
        if retry_after is None:
            until = self._backoff.failed(slot.granted_at, now, FIRST_PAUSE_S[kind], jitter)
        else:
            until = now + min(retry_after, LONGEST_RETRY_AFTER_S)
            self._stopped_until = max(self._stopped_until, until)
            self._asked.extend(now, until)
        if kind == "throttled" or retry_after is not None:
            self._throttled.extend(now, until)

    def asked_s(self, now: float) -> float:
        """Return for how many seconds in total, up to `now`, `Retry-After` headers have stopped all requests."""
        return self._asked.at(now)

    def throttled_s(self, now: float) -> float:
        """Return for how many seconds in total, up to `now`, throttling has stopped all requests.

        Pauses without a `Retry-After` header are included.
        """
        return self._throttled.at(now)

    def used_ratio(self, now: float) -> float:
        """Return the number of requests in the last 60 s, divided by the allowed number (`requests_per_minute`)."""
        old = 0
        for slot in self._slots:
            if slot.sent_at > now - _WINDOW_S:
                break
            old += 1
        return (len(self._slots) - old) / self.requests_per_minute

    def _forget(self, now: float) -> None:
        while self._slots and self._slots[0].sent_at <= now - _KEPT_WINDOW_S:
            self._slots.popleft()
