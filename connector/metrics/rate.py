"""Rate of an event: a mean over the last minutes that needs little memory."""

from collections import deque

WINDOW_S = 300.0
_BUCKET_S = 10.0


class Rate:
    """Counts of the last five minutes. Times are seconds of any clock that does not go back."""

    def __init__(self, now: float) -> None:
        self._begun = now
        self._buckets: deque[tuple[int, int]] = deque()

    def add(self, count: int, now: float) -> None:
        """Add `count` events at `now`."""
        bucket = int(now // _BUCKET_S)
        if self._buckets and self._buckets[-1][0] == bucket:
            count += self._buckets.pop()[1]
        self._buckets.append((bucket, count))
        self._forget(now)

    def per_minute(self, now: float) -> float:
        """Return the mean per minute over the last five minutes, or since the start when that is shorter.

        At least one minute is averaged over.
        """
        self._forget(now)
        seconds = min(WINDOW_S, max(60.0, now - self._begun))
        return 60.0 * sum(count for _, count in self._buckets) / seconds

    def _forget(self, now: float) -> None:
        oldest = int((now - WINDOW_S) // _BUCKET_S)
        while self._buckets and self._buckets[0][0] <= oldest:
            self._buckets.popleft()
