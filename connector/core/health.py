"""Whether a tenant fails and why, from the outcomes of its requests.

Rules:

1. What the owner has to repair (sign_in, permission, rejected) makes the tenant fail at once.
2. Weather (throttled, unreachable) does when nothing succeeded for the patience after it began.
3. Refusals that may be of one range (4xx but 401) within a minute of an answer fail the tenant only when nothing but
   refusals came for ten seconds and three requests.
4. Only an answer of Graph ends a failure. A token alone does not: the role may still be missing.
"""

import math
from typing import NamedTuple

from connector.errors import PermanentReason, TransientReason

PATIENCE_S = 120.0
_ANSWERED_S = 60.0
_REFUSED_S = 10.0
_REFUSALS = 3


class Failure(NamedTuple):
    """Why a tenant fails: a reason as the metrics call it, and a sentence for people."""

    reason: PermanentReason | TransientReason
    message: str
    since: float


class Health:
    """The outcomes of one tenant's requests. Times are monotonic seconds, passed in."""

    __slots__ = (
        "_answered_at",
        "_may_pass",
        "_patience_s",
        "_refusals",
        "_refused_since",
        "_rejected",
        "_transient",
        "up",
    )

    def __init__(self, patience_s: float = PATIENCE_S) -> None:
        self.up = False
        "The last request, for a token or to Graph, succeeded."
        self._patience_s = patience_s
        self._rejected: Failure | None = None
        self._transient: Failure | None = None
        self._answered_at = self._refused_since = -math.inf
        self._refusals = 0
        self._may_pass = False

    def signed_in(self) -> None:
        """A token was issued."""
        self.up = True

    def answered(self, now: float = -math.inf) -> None:
        """Graph answered what was asked."""
        self.up = True
        self._answered_at = max(self._answered_at, now)
        self._refusals = 0
        self._rejected = self._transient = None

    def rejected(self, reason: PermanentReason, message: str, now: float, *, may_pass: bool = False) -> None:
        """The owner has to repair something, unless it `may_pass`: another range may be answered."""
        self.up = False
        if not self._refusals:
            self._refused_since = now
            self._may_pass = now - self._answered_at <= _ANSWERED_S
        self._may_pass = self._may_pass and may_pass
        self._refusals += 1
        since = self._rejected.since if self._rejected is not None and self._rejected.reason == reason else now
        self._rejected = Failure(reason, message, since)
        if not may_pass:
            self._transient = None

    def failed_transiently(self, reason: TransientReason, message: str, begun: float) -> None:
        """It passes by itself. `begun`: when the request that met it was begun."""
        self.up = False
        since = begun if self._transient is None else self._transient.since
        self._transient = Failure(reason, message, since)

    def failing(self, now: float) -> Failure | None:
        """The failure that counts at this moment, if any."""
        if self._transient is not None and now - self._transient.since >= self._patience_s:
            return self._transient
        is_short = self._refusals < _REFUSALS or now - self._refused_since < _REFUSED_S
        return None if self._may_pass and is_short else self._rejected
