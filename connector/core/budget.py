"""How often a tenant may be asked: an even pace, stops that Graph asks for, and pauses when it names no time.

Rules:

1. Requests are spaced by one step, 60 s / floor(N) and 2 % more. A request that left late moves those after it, but
   for a small slack, so that nothing is ever made up for in a bunch.
2. Besides, the N-th request before the next one left more than 60 s ago. With evenly spaced requests this never bites;
   it holds the promise when connections are slow to open.
3. A budget that is new or resumed waits one step before its next request: another worker may have asked just now.
4. `Retry-After` stops everything until then. Without it requests pause for longer and longer, with jitter; what was
   sent before a pause was decided and fails too belongs to the same step.

Times are monotonic seconds, passed in. `requests_per_minute` is not rounded up: 1.5 a minute is one.
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
# The window as this side keeps it: a request may take this much longer on its way than one that left a minute later.
_KEPT_WINDOW_S = 60.5
_SECONDS = re.compile(r"[0-9]+(?:\.[0-9]*)?|\.[0-9]+")
# Every form of an HTTP date has colons, and a comma at most after the day of the week.
_DATE = re.compile(r"(?:\b(?:mon|tue|wed|thu|fri|sat|sun)[a-z]*,)?[^,]*:[^,]*", re.IGNORECASE)


def lane_name(priority: int) -> Lane:
    """The lane that a priority is counted under: 0 live, 1000 and above backfill, else sweep."""
    if priority <= LIVE:
        return "live"
    return "backfill" if priority >= BACKFILL else "sweep"


def retry_after_s(value: str | None, server_now: datetime) -> float | None:
    """Return how long `Retry-After` asks to wait, at most an hour; None when it says nothing of use.

    Seconds, also with decimals, or an HTTP date, which is counted from `server_now`, the response's own Date where it
    has one, so that a wrong clock does not matter. Of several values (two headers, or one with a comma) the longest
    counts. Zero, negative, past and unreadable values say nothing.
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
    """Pauses that double from failure to failure, with jitter, up to about a minute; a success starts afresh."""

    __slots__ = ("_decided_at", "_level", "until")

    def __init__(self) -> None:
        self._level = 0
        self._decided_at = -math.inf
        self.until = -math.inf

    def failed(self, sent_at: float, now: float, first_s: float, jitter: float) -> float:
        """The instant until which to pause. `jitter` is a random number in [0, 1), the pause 0.5 to 1.5 times its step.

        What was sent before the last pause was decided adds no step.
        """
        if sent_at >= self._decided_at:
            self._level = min(self._level + 1, 32)
            self._decided_at = now
        pause_s = min(first_s * 2.0 ** (self._level - 1), LONGEST_PAUSE_S) * (0.5 + jitter)
        self.until = max(self.until, now + min(pause_s, LONGEST_PAUSE_S))
        return self.until

    def succeeded(self, sent_at: float) -> None:
        """What was sent before the last pause was decided proves nothing."""
        if sent_at >= self._decided_at:
            self._level = 0


class Elapsed:
    """How much time has passed inside spans, which may overlap and may end in the future."""

    __slots__ = ("_end", "_total_s")

    def __init__(self) -> None:
        self._end = -math.inf
        self._total_s = 0.0

    def extend(self, now: float, until: float) -> None:
        """Adds the span from `now` to `until`."""
        begin = max(now, self._end)
        if until > begin:
            self._total_s += until - begin
            self._end = until

    def at(self, now: float) -> float:
        """Seconds inside spans up to `now`, which is not before the last span was added."""
        return self._total_s - max(0.0, self._end - now)


class Slot:
    """Leave for one request, until it has left (`Budget.sent`) or will not leave any more (`Budget.settled`)."""

    __slots__ = ("granted_at", "sent_at")

    def __init__(self, granted_at: float) -> None:
        self.granted_at = granted_at
        self.sent_at = math.inf


class Budget:
    """When the next request of one tenant may leave; see the rules of the module."""

    def __init__(self, requests_per_minute: float, now: float) -> None:
        if not 1 <= requests_per_minute < math.inf:
            raise ValueError(f"requests_per_minute must be a number from 1, not {requests_per_minute}")
        self._next_at = -math.inf
        self._slots: deque[Slot] = deque()
        self._stopped_until = -math.inf
        self._backoff = Backoff()
        self._asked = Elapsed()
        self._throttled = Elapsed()
        self.resume(requests_per_minute, now)

    def resume(self, requests_per_minute: float, now: float) -> None:
        """Continue at a rate that may be another one. Pauses, and the requests of the last minute, are kept."""
        self.requests_per_minute = requests_per_minute
        self._most = math.floor(requests_per_minute)
        self.step_s = _WINDOW_S / self._most * _MARGIN
        # At high rates a timer's grain and a busy moment of the event loop are longer than a step; at low rates a
        # tenth of a second is far less than what rule 2 leaves.
        self._slack_s = min(max(self.step_s / 10, 0.02), 0.1)
        self._next_at = max(self._next_at, now + self.step_s)

    def delay_s(self, now: float) -> float:
        """How long until the next request may leave; 0 when it may now."""
        self._forget(now)
        ready_at = max(self._next_at, self._stopped_until, self._backoff.until)
        if len(self._slots) >= self._most:
            oldest = self._slots[len(self._slots) - self._most]
            left_at = oldest.sent_at if oldest.sent_at < math.inf else now
            ready_at = max(ready_at, left_at + _KEPT_WINDOW_S)
        return max(0.0, ready_at - now)

    def take(self, now: float) -> Slot:
        """The leave that `delay_s` was 0 for."""
        slot = Slot(now)
        self._slots.append(slot)
        self._next_at = max(self._next_at + self.step_s, now + self.step_s - self._slack_s)
        return slot

    def sent(self, slot: Slot, now: float) -> None:
        """The request is on its way; before that it may have waited for a connection. A second time: it left again."""
        if slot.sent_at < math.inf:
            slot = Slot(now)
            self._slots.append(slot)
        slot.sent_at = now
        self._next_at = max(self._next_at, now + self.step_s - self._slack_s)

    def settled(self, slot: Slot) -> None:
        """A request that has not left by now will not leave any more."""
        if slot.sent_at == math.inf:
            slot.sent_at = slot.granted_at

    def succeeded(self, slot: Slot) -> None:
        """Graph answered: pauses start from the shortest again."""
        self._backoff.succeeded(slot.granted_at)

    def failed(self, slot: Slot, now: float, kind: FailureKind, retry_after: float | None, jitter: float) -> None:
        """Stops for `retry_after` seconds, or else backs off. `jitter`: a random number in [0, 1)."""
        if retry_after is None:
            until = self._backoff.failed(slot.granted_at, now, FIRST_PAUSE_S[kind], jitter)
        else:
            until = now + min(retry_after, LONGEST_RETRY_AFTER_S)
            self._stopped_until = max(self._stopped_until, until)
            self._asked.extend(now, until)
        if kind == "throttled" or retry_after is not None:
            self._throttled.extend(now, until)

    def asked_s(self, now: float) -> float:
        """Seconds until now in which `Retry-After` held everything back."""
        return self._asked.at(now)

    def throttled_s(self, now: float) -> float:
        """Seconds until now in which Graph's throttling held everything back, with `Retry-After` or without."""
        return self._throttled.at(now)

    def used_ratio(self, now: float) -> float:
        """Requests in the last 60 s ÷ requests_per_minute."""
        old = 0
        for slot in self._slots:
            if slot.sent_at > now - _WINDOW_S:
                break
            old += 1
        return (len(self._slots) - old) / self.requests_per_minute

    def _forget(self, now: float) -> None:
        while self._slots and self._slots[0].sent_at <= now - _KEPT_WINDOW_S:
            self._slots.popleft()
