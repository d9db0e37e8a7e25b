"""Clock that never runs ahead of the time that Graph has sent in its responses."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from time import monotonic

_TRUNCATED = timedelta(seconds=1)  # a Date has whole seconds
_SET_BACK = timedelta(minutes=2)  # a response arrives within this time of its Date


class TrustedClock:
    """Clock that never runs ahead of Graph, because the clock of a machine may be days ahead.

    It limits the time of this machine to the `Date` of Graph's last response, plus the seconds since that response. The
    seconds are counted by the monotonic clock, so a jump of the machine's clock has no effect. While a machine is
    suspended, the monotonic clock stops. The time is then too early until the next response, which is harmless.
    """

    def __init__(
        self, now: Callable[[], datetime] = lambda: datetime.now(UTC), elapsed_s: Callable[[], float] = monotonic
    ) -> None:
        self.known = asyncio.Event()
        "Event that the first response of Graph sets."
        self._now = now
        self._elapsed_s = elapsed_s
        self._dated: tuple[datetime, float] | None = None

    def answered(self, server_now: datetime | None) -> None:
        """Record that a response has arrived. `server_now` is the time in its `Date` header.

        If the first response has no usable `Date` (None), the clock of this machine is trusted.
        """
        self.known.set()
        if server_now is None:
            return
        latest = self._latest()
        # The Date of a slow response is older than the time that is already known. Only a Date more than
        # `_SET_BACK` behind means that the known time was wrong.
        if latest is None or not latest - _SET_BACK < server_now + _TRUNCATED < latest:
            self._dated = server_now + _TRUNCATED, self._elapsed_s()

    def now(self) -> datetime:
        """Return the current time in UTC. Before the first response, it is the time of this machine."""
        latest, now = self._latest(), self._now()
        return now if latest is None else min(now, latest)

    def trusted(self) -> datetime | None:
        """Return the current time in UTC, or None before the first response."""
        return self.now() if self.known.is_set() else None

    def _latest(self) -> datetime | None:
        if self._dated is None:
            return None
        at, elapsed_s = self._dated
        return at + timedelta(seconds=self._elapsed_s() - elapsed_s)
