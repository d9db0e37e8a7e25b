"""Health of a tenant, derived from the outcomes of its requests: whether the tenant fails, and why.

Rules:

1. A permanent error, which needs operator action (sign_in, permission, rejected), makes the tenant fail at once.
2. A transient error (throttled, unreachable) does not make the tenant fail at once. The tenant fails if no request
   succeeds for `patience_s` seconds after the error.
3. A refusal with a 4xx status other than 401 may concern one range only. The tenant therefore fails only after three
   refusals in a row over at least ten seconds. This applies if Graph served a request less than a minute before the
   first refusal. Otherwise the tenant fails at once.
4. Only a request that Graph serves ends a failure. A token alone does not: the role may still be missing.
"""

import math
from typing import NamedTuple

from connector.errors import PermanentReason, TransientReason

PATIENCE_S = 120.0
_ANSWERED_S = 60.0
_REFUSED_S = 10.0
_REFUSALS = 3


class Failure(NamedTuple):
    """Reason why a tenant fails, as the value of a metric label and as a sentence for people."""

    reason: PermanentReason | TransientReason
    message: str
    since: float


class Health:
    """Health of one tenant. All times are monotonic seconds, which the caller passes in."""

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
        "True if the last request succeeded, whether to sign-in or to Graph."
        self._patience_s = patience_s
        self._rejected: Failure | None = None
        self._transient: Failure | None = None
        self._answered_at = self._refused_since = -math.inf
        self._refusals = 0
        self._may_pass = False

    def signed_in(self) -> None:
        """Record that sign-in issued a token."""
        self.up = True

    def answered(self, now: float = -math.inf) -> None:
        """Record that Graph served a request. This ends any failure of the tenant.

        `now` is the time of the response. Without it, rule 3 of this module ignores the response.
        """
        self.up = True
        self._answered_at = max(self._answered_at, now)
        self._refusals = 0
        self._rejected = self._transient = None

    def rejected(self, reason: PermanentReason, message: str, now: float, *, may_pass: bool = False) -> None:
        """Record a permanent error.

        If `may_pass` is true, the error may concern only one range of call time. A single error of this kind does not
        always make the tenant fail: see rule 3 of this module.
        """
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
        """Record a transient error.

        `begun` is the time at which the failed request began. If the errors go on for `patience_s` seconds from this
        time, the tenant fails.
        """
        self.up = False
        since = begun if self._transient is None else self._transient.since
        self._transient = Failure(reason, message, since)

    def failing(self, now: float) -> Failure | None:
        """Return why the tenant fails at `now`, or None if the tenant does not fail."""
        if self._transient is not None and now - self._transient.since >= self._patience_s:
            return self._transient
        is_short = self._refusals < _REFUSALS or now - self._refused_since < _REFUSED_S
        return None if self._may_pass and is_short else self._rejected
