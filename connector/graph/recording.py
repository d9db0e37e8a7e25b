"""Record of the requests for rows, and of their responses, as they were sent and received."""

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, NamedTuple

from yarl import URL

from connector.graph.transport import BrokenAnswerError, RequestTiming, Response, Transport
from connector.tls import Trust


class RecordedRequest(NamedTuple):
    """One request for rows, and its response. The headers of the request are not recorded: they hold the token."""

    url: URL
    client_request_id: str
    sent_at: datetime
    duration_ms: int
    "Time until the response was complete, or until the request failed."
    response: Response | None
    failure: str
    "Reason in one word why there is no complete response. Empty if there is one."


Record = Callable[[RecordedRequest], None]


class RecordingTransport(Transport):
    """HTTP session that records requests for rows: it passes each of them to `record`, with its response.

    Requests for tokens are not recorded, because they hold secrets.
    """

    def __init__(self, timeout_s: float, trust: Trust, record: Record) -> None:
        super().__init__(timeout_s, trust)
        self._record = record

    async def ask(
        self, method: str, url: URL, *, headers: dict[str, str], departure: RequestTiming | None = None, **options: Any
    ) -> Response:
        """Send one request as `Transport.ask` does, and record it."""
        sent_at, began = datetime.now(UTC), time.monotonic()
        response, failure = None, ""
        try:
            response = await super().ask(method, url, headers=headers, departure=departure, **options)
        except BrokenAnswerError as error:
            failure = error.code
            raise
        finally:
            if departure is not None and (response is not None or failure):
                duration_ms = round((time.monotonic() - began) * 1000)
                request_id = headers.get("client-request-id", "")
                self._record(RecordedRequest(url, request_id, sent_at, duration_ms, response, failure))
        return response
