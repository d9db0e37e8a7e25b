"""Metadata of one request to Graph and of its response, and the log of failed requests."""

import re
import time
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import msgspec

from connector import log
from connector.core.budget import Slot, retry_after_s
from connector.graph.transport import Response

logger = log.get(__name__)

OK = 200

_LOG_AGAIN_S = 60.0
_SAFE = re.compile(r"[A-Za-z0-9_.:-]{1,64}")
_MOST_KINDS = 64


class Exchange:
    """One request and the metadata of its response: status, error code, ids, Date and `Retry-After`."""

    __slots__ = ("code", "dated_at", "graph_id", "id", "retry_after_s", "slot", "status")

    def __init__(self, slot: Slot, request_id: str) -> None:
        self.slot = slot
        self.id = request_id
        self.graph_id = ""
        self.status: int | None = None
        self.code = ""
        self.dated_at: datetime | None = None
        self.retry_after_s: float | None = None

    def record_response(self, answer: Response, received_at: datetime) -> None:
        """Record the metadata of the response. Only an error code is taken from its body."""
        self.status = answer.status
        self.graph_id = _safe(answer.headers.get("request-id", ""))
        self.dated_at = _date(answer.headers.get("date"))
        if answer.status != OK:
            self.code = error_code(answer.body)
            self.retry_after_s = retry_after_s(answer.headers.get("retry-after"), self.dated_at or received_at)

    @property
    def outcome(self) -> str:
        """HTTP status and error code of Graph, as text for messages and logs."""
        return f"{self.status} {self.code}".rstrip()


class RequestFailures:
    """Log of one tenant's failed requests.

    Failures with the same status and error code are of one kind. The first failure of a kind is logged at once. Then
    failures of this kind are only counted for a minute. The next failure after this minute is logged with their number.
    """

    def __init__(self, label: str) -> None:
        self._label = label
        self._seen: dict[str, tuple[float, int]] = {}

    def record(self, exchange: Exchange, problem: str) -> None:
        """Log a failed request. If its kind was logged within the last minute, only count it."""
        now = time.monotonic()
        logged_at, unlogged = self._seen.get(exchange.outcome, (-_LOG_AGAIN_S, 0))
        if now - logged_at < _LOG_AGAIN_S:
            self._seen[exchange.outcome] = (logged_at, unlogged + 1)
            return
        if len(self._seen) >= _MOST_KINDS:
            self._seen.clear()
        self._seen[exchange.outcome] = (now, 0)
        logger.warning(
            "request_failed",
            tenant=self._label,
            status=exchange.status or "error",
            code=exchange.code,
            problem=f"Graph {problem}",
            request_id=exchange.graph_id,
            client_request_id=exchange.id,
            more_since_last=unlogged,
        )


class _ErrorDetail(msgspec.Struct):
    code: str = ""


class _ErrorBody(msgspec.Struct):
    error: _ErrorDetail


def error_code(body: bytes) -> str:
    """Return Graph's error code from a response body, or an empty string if there is none.

    Gateways answer with HTML. Text that does not look like an error code may be confidential, so it is not returned.
    """
    try:
        return _safe(msgspec.json.decode(body, type=_ErrorBody).error.code)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ""


def _safe(text: str) -> str:
    return text if _SAFE.fullmatch(text) else ""


def _date(header: str | None) -> datetime | None:
    try:
        date = parsedate_to_datetime(header or "")
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return date if date.tzinfo else date.replace(tzinfo=UTC)
