"""HTTP client for msal that never waits. It returns responses that have arrived, and stops msal if one is missing."""

from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import urlencode

from connector.graph.transport import Response


class Request(NamedTuple):
    """HTTP request that msal wants to send."""

    method: str
    url: str
    headers: dict[str, str]
    form: bytes | None


class MissingAnswerError(Exception):
    """Signal that msal cannot continue without the response to `request`.

    It must not be an OSError or a ValueError, because msal catches those.
    """

    def __init__(self, request: Request) -> None:
        super().__init__("a response is missing")
        self.request = request


class _Reply:
    """Response with the attributes that msal expects."""

    def __init__(self, answer: Response) -> None:
        self.status_code = answer.status
        self.headers = answer.headers
        self.text = answer.body.decode(errors="replace")


class Replies:
    """HTTP client for msal that never waits.

    It returns the responses that have arrived, in order. If msal needs another one, it raises MissingAnswerError.
    """

    def __init__(self) -> None:
        self._answers: list[Response] = []
        self._given = 0

    def rewind(self, answers: list[Response]) -> None:
        """Prepare another run of msal from the start. It receives the responses `answers`, in this order."""
        self._answers, self._given = answers, 0

    def get(self, url: str, params: Any = None, headers: Any = None, **_: Any) -> _Reply:
        """Return the next response to a GET request. msal calls this as the `get` of a `requests` session."""
        return self._reply(Request("GET", _with(url, params), _texts(headers), None))

    def post(self, url: str, params: Any = None, data: Any = None, headers: Any = None, **_: Any) -> _Reply:
        """Return the next response to a POST request. msal calls this as the `post` of a `requests` session."""
        form = data if isinstance(data, str) else urlencode(_without_none(data or {}))
        names = {"Content-Type": "application/x-www-form-urlencoded", **_texts(headers)}
        return self._reply(Request("POST", _with(url, params), names, form.encode()))

    def close(self) -> None:
        """Do nothing: this client has no connection. msal requires the method."""

    def _reply(self, request: Request) -> _Reply:
        if self._given == len(self._answers):
            raise MissingAnswerError(request)
        self._given += 1
        return _Reply(self._answers[self._given - 1])


def _with(url: str, params: Any) -> str:
    return f"{url}{'&' if '?' in url else '?'}{urlencode(_without_none(params))}" if params else url


def _texts(headers: Mapping[str, Any] | None) -> dict[str, str]:
    return {name: str(value) for name, value in (headers or {}).items() if value is not None}


def _without_none(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}
