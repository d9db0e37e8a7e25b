"""Throttling of the simulator, and a record of the requests that it received. Times are monotonic seconds."""

import math
from collections import deque
from dataclasses import dataclass
from datetime import datetime

WINDOW_S = 60.0
_REMEMBERED = 100_000


@dataclass(slots=True)
class ReceivedRequest:
    """Request, with its response. Status 0 means that the connection was closed without a response."""

    at: datetime
    kind: str
    tenant: str | None
    url: str
    status: int = 0
    fault: str | None = None
    rows: int = 0
    complete: bool = False
    client_request_id: str | None = None
    request_id: str = ""
    retry_after: str | None = None


class Arrivals:
    """Requests of one tenant in the last 60 s. Throttled requests also count towards the tenant's limit."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.most = 0
        self.total = 0
        self._times: deque[float] = deque()

    def arrive(self, now: float) -> float | None:
        """Count a request.

        Return None if it is within the limit. Otherwise, return the seconds until the client may send the next request.
        """
        while self._times and self._times[0] <= now - WINDOW_S:
            self._times.popleft()
        self._times.append(now)
        self.total += 1
        self.most = max(self.most, len(self._times))
        if not self.limit or len(self._times) <= self.limit:
            return None
        return max(1.0, math.ceil(self._times[-self.limit] + WINDOW_S - now))


class Visits:
    """Record of the latest requests, with counters of all requests."""

    def __init__(self) -> None:
        self.requests: deque[ReceivedRequest] = deque(maxlen=_REMEMBERED)
        self.counts: dict[tuple[str, str | None, int], int] = {}
        self.total = 0

    def note(self, request: ReceivedRequest) -> None:
        """Add a request whose response has ended."""
        self.requests.append(request)
        key = (request.kind, request.tenant, request.status)
        self.counts[key] = self.counts.get(key, 0) + 1
        self.total += 1
