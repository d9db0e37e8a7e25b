"""Time that Graph has confirmed."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from time import monotonic

_TRUNCATED = timedelta(seconds=1)  # a Date has whole seconds
_SET_BACK = timedelta(minutes=2)  # an answer takes less time than this from its Date to its end


class TrustedClock:
    """This machine's clock, but never later than what Graph's Date allows. A machine may be ahead by days.

    Between two answers the monotonic clock counts, so that a clock that jumps ahead is noticed at once. While a machine
    is suspended that clock stands still: then time is late until the next answer, which is harmless.
    """

    def __init__(
        self, now: Callable[[], datetime] = lambda: datetime.now(UTC), elapsed_s: Callable[[], float] = monotonic
    ) -> None:
        self.known = asyncio.Event()
        "Set by the first answer of Graph."
        self._now = now
        self._elapsed_s = elapsed_s
        self._dated: tuple[datetime, float] | None = None

    def answered(self, server_now: datetime | None) -> None:
        """Take note of an answer and its Date. If it has none, this machine's clock is trusted."""
        self.known.set()
        if server_now is None:
            return
        latest = self._latest()
        # The Date of an answer that took long is older than what is known already.
        if latest is None or not latest - _SET_BACK < server_now + _TRUNCATED < latest:
            self._dated = server_now + _TRUNCATED, self._elapsed_s()

    def now(self) -> datetime:
        """Return the time (aware UTC); before the first answer that of this machine."""
        latest, now = self._latest(), self._now()
        return now if latest is None else min(now, latest)

    def trusted(self) -> datetime | None:
        """Return the time (aware UTC); None before the first answer."""
        return self.now() if self.known.is_set() else None

    def _latest(self) -> datetime | None:
        if self._dated is None:
            return None
        at, elapsed_s = self._dated
        return at + timedelta(seconds=self._elapsed_s() - elapsed_s)
