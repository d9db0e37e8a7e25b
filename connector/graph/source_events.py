"""Interface through which the client of Graph reports requests and throttling to the metrics."""

from typing import Protocol


class SourceEvents(Protocol):
    """Receiver of events about one tenant's requests, for metrics."""

    def request_finished(self, lane: str, status: str, seconds: float) -> None:
        """Count a finished request. `status` is the HTTP status, or "error" if no complete response arrived."""

    def throttled(self, seconds: float) -> None:
        """Count `seconds`, during which no request was sent because Graph throttles this tenant."""


class NoEvents:
    """Receiver that ignores all events."""

    def request_finished(self, lane: str, status: str, seconds: float) -> None:
        """Ignore the event."""

    def throttled(self, seconds: float) -> None:
        """Ignore the event."""
