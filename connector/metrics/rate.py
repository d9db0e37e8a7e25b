"""Rate of an event over the last five minutes. Events are counted per ten seconds, to use little memory."""

from collections import deque

WINDOW_S = 300.0
_BUCKET_S = 10.0


class Rate:
    """Rate of an event over the last five minutes. Times are seconds of a clock that never goes back."""

    def __init__(self, now: float) -> None:
        self._begun = now
        self._buckets: deque[tuple[int, int]] = deque()

    def add(self, count: int, now: float) -> None:
        """Count `count` events at the time `now`."""
        bucket = int(now // _BUCKET_S)
        if self._buckets and self._buckets[-1][0] == bucket:
            count += self._buckets.pop()[1]
        self._buckets.append((bucket, count))
        self._forget(now)

    def per_minute(self, now: float) -> float:
        """Return the mean number of events per minute over the last five minutes.

        If less time has passed since the start, the mean is taken over that time, but over at least one minute.
        """
        self._forget(now)
        seconds = min(WINDOW_S, max(60.0, now - self._begun))
        return 60.0 * sum(count for _, count in self._buckets) / seconds

    def _forget(self, now: float) -> None:
        oldest = int((now - WINDOW_S) // _BUCKET_S)
        while self._buckets and self._buckets[0][0] <= oldest:
            self._buckets.popleft()
