"""Whether a tenant fails and why, from the outcomes of its requests.

Rules:

1. What the owner has to repair (sign_in, permission, rejected) makes the tenant fail at once.
2. Weather (throttled, unreachable) does when nothing succeeded for the patience after it began.
3. Only an answer of Graph ends a failure. A token alone does not: the role may still be missing.
"""

from typing import NamedTuple

from connector.errors import RejectedReason, WeatherReason

PATIENCE_S = 120.0


class Failure(NamedTuple):
    """Why a tenant fails: a reason as the metrics call it, and a sentence for people."""

    reason: RejectedReason | WeatherReason
    message: str
    since: float


class Health:
    """The outcomes of one tenant's requests. Times are monotonic seconds, passed in."""

    __slots__ = ("_patience_s", "_rejected", "_weather", "up")

    def __init__(self, patience_s: float = PATIENCE_S) -> None:
        self.up = False
        "The last request, for a token or to Graph, succeeded."
        self._patience_s = patience_s
        self._rejected: Failure | None = None
        self._weather: Failure | None = None

    def signed_in(self) -> None:
        """A token was issued."""
        self.up = True

    def answered(self) -> None:
        """Graph answered what was asked."""
        self.up = True
        self._rejected = self._weather = None

    def rejected(self, reason: RejectedReason, message: str, now: float) -> None:
        """The owner has to repair something."""
        self.up = False
        since = self._rejected.since if self._rejected is not None and self._rejected.reason == reason else now
        self._rejected = Failure(reason, message, since)
        self._weather = None

    def weathered(self, reason: WeatherReason, message: str, begun: float) -> None:
        """It passes by itself. `begun`: when the request that met it was begun."""
        self.up = False
        since = begun if self._weather is None else self._weather.since
        self._weather = Failure(reason, message, since)

    def failing(self, now: float) -> Failure | None:
        """The failure that counts at this moment, if any."""
        if self._weather is not None and now - self._weather.since >= self._patience_s:
            return self._weather
        return self._rejected
