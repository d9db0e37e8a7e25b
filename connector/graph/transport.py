"""HTTP client for all requests to Graph and its sign-in, with TLS, proxies, time limits and size limits."""

import asyncio
import os
import ssl
import time
from asyncio import sslproto
from contextlib import AsyncExitStack
from importlib import metadata
from types import SimpleNamespace, TracebackType
from typing import Self

import aiohttp
from yarl import URL

from connector import proxies
from connector.core.budget import Budget, Slot
from connector.errors import ConfigurationError
from connector.proxies import Proxy
from connector.tls import Trust

_TLS_BUFFER = 32 << 10
_LARGE_BYTES = 2 << 20  # a full page of rows has about 1 MiB
_MOST_LARGE_BODIES = 4
# Far above aiohttp's defaults, so that unusual headers do not hide the status of a response.
_MAX_LINE_BYTES = 64 << 10
_MAX_HEADER_BYTES = 1 << 20
_MAX_HEADERS = 1000
_PROXY_AUTHENTICATION_REQUIRED = 407


class Response:
    """Complete HTTP response with its decompressed body."""

    __slots__ = ("body", "headers", "status")

    def __init__(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.status = status
        self.headers = headers
        "Headers by name in lower case."
        self.body = body


class BrokenAnswerError(Exception):
    """Failure to receive a complete response.

    The message states the reason, without any data that was sent or received.
    """

    def __init__(self, message: str, code: str = "connection") -> None:
        """Create the error. `code` is the reason in one word, for logs."""
        super().__init__(message)
        self.code = code


class RequestTiming:
    """Place of a request in a budget.

    A transport that receives it informs the budget when the request is really sent.
    """

    __slots__ = ("budget", "slot")

    def __init__(self, budget: Budget, slot: Slot) -> None:
        self.budget = budget
        self.slot = slot


class Transport:
    """HTTP session of the process. It has no cookies and follows no redirects.

    It never retries on its own, because the request budget would not count such a retry.
    """

    def __init__(self, timeout_s: float, trust: Trust) -> None:
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)
        self._trust = trust
        self._session: aiohttp.ClientSession | None = None
        self._proxies: dict[str, Proxy | None] = {}
        self._large_bodies = asyncio.Semaphore(_MOST_LARGE_BODIES)

    async def __aenter__(self) -> Self:
        # By default each connection keeps a buffer of 256 KiB, which is too much with hundreds of tenants.
        sslproto.SSLProtocol.max_size = _TLS_BUFFER
        trace = aiohttp.TraceConfig()
        trace.on_request_headers_sent.append(_left)
        self._session = aiohttp.ClientSession(
            # No limit on connections: a tenant whose connections hang must not use up those of other tenants.
            connector=aiohttp.TCPConnector(limit=0),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=self._timeout,
            max_line_size=_MAX_LINE_BYTES,
            max_field_size=_MAX_HEADER_BYTES,
            max_headers=_MAX_HEADERS,
            headers={"User-Agent": f"direct-routing-connector/{_version()}"},
            trace_configs=[trace],
        )
        # aiohttp repeats a GET by itself when a kept connection breaks, and no budget would count that request.
        self._session._retry_connection = False  # noqa: SLF001
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def _body(self, response: aiohttp.ClientResponse, max_bytes: int) -> bytes:
        """Return the body of a response. Raise an error if it is longer than `max_bytes`.

        At most four bodies of more than 2 MiB are received at the same time, for all tenants together.
        """
        body = bytearray()
        async with AsyncExitStack() as large:
            async for chunk in response.content.iter_any():
                size = len(body) + len(chunk)
                if size > max_bytes:
                    body.clear()  # the traceback keeps it alive
                    raise BrokenAnswerError(f"the response is longer than {max_bytes >> 20} MiB", "too_long")
                if len(body) <= _LARGE_BYTES < size:
                    await large.enter_async_context(self._large_bodies)
                body += chunk
            return bytes(body)

    async def ask(
        self,
        method: str,
        url: URL,
        *,
        headers: dict[str, str],
        max_bytes: int,
        form: bytes | None = None,
        departure: RequestTiming | None = None,
        through_proxy: bool = True,
    ) -> Response:
        """Send one request and return its response, whatever its status. Redirects are not followed.

        `departure` makes the budget count the request when it is sent. `through_proxy` is False for an address that
        only this machine can reach. `max_bytes` is the maximum size of the response.

        Raises BrokenAnswerError if the response is longer, or is not complete within the timeout. Raises
        ConfigurationError if a proxy variable cannot be used.
        """
        if self._session is None:
            raise RuntimeError("the client is not open")
        proxy = self._proxy(url) if through_proxy else None
        if proxy is not None and url.scheme == "http":  # without a tunnel the proxy reads the request's own headers
            headers = headers | proxy.headers
        try:
            async with self._session.request(
                method,
                url,
                headers=headers,
                data=form,
                allow_redirects=False,
                proxy=URL(proxy.address) if proxy else None,
                proxy_headers=proxy.headers if proxy else None,
                ssl=self._trust.context(),
                trace_request_ctx=departure,
            ) as response:
                if proxy is not None and response.status == _PROXY_AUTHENTICATION_REQUIRED:
                    raise BrokenAnswerError(proxy.refused(response.status), "proxy")
                body = await self._body(response, max_bytes)
                names = {name.lower(): value for name, value in response.headers.items()}
                if "retry-after" in names:
                    names["retry-after"] = ", ".join(response.headers.getall("retry-after"))
                return Response(response.status, names, body)
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise self._broken(error, proxy) from error

    def _proxy(self, url: URL) -> Proxy | None:
        """Return the proxy for a URL, or None for a direct connection.

        Raises ConfigurationError if the environment variable that sets the proxy has an invalid value.
        """
        place = str(url.origin())
        if place not in self._proxies:
            try:
                self._proxies[place] = proxies.choose(place, os.environ)
            except proxies.UnusableProxyError as error:
                raise ConfigurationError([f"{error.variable}: {error}"]) from error
        return self._proxies[place]

    def _broken(self, error: Exception, proxy: Proxy | None) -> BrokenAnswerError:
        """Return the error to raise for a failed request that was sent through `proxy`, or directly if it is None.

        The message contains no URL and no text from an error of aiohttp, because these may be confidential.
        """
        if proxy is None:
            code, explanation = self._describe(error)
            return BrokenAnswerError(explanation, code)
        if isinstance(error, aiohttp.ClientHttpProxyError):
            return BrokenAnswerError(proxy.refused(error.status), "proxy")
        # Behind a proxy the client resolves and connects to the proxy only.
        if isinstance(error, aiohttp.ClientConnectorDNSError):
            return BrokenAnswerError(proxy.unreachable("its name cannot be resolved"), "proxy")
        if isinstance(error, aiohttp.ClientProxyConnectionError):
            return BrokenAnswerError(proxy.unreachable(_reason(error.os_error)), "proxy")
        code, explanation = self._describe(error)
        wrong, semicolon, remedy = explanation.partition("; ")
        return BrokenAnswerError(f"{wrong}, through the proxy {proxy.address}{semicolon}{remedy}", code)

    def _describe(self, error: Exception) -> tuple[str, str]:
        """Return two texts about the failure of a request: a code of one word, and the reason.

        The reason may end with what to do, after a semicolon. The caller puts what failed in front of the reason, for
        example "Graph cannot be read: ".
        """
        if isinstance(error, aiohttp.ClientConnectorCertificateError):
            error = error.certificate_error
        elif isinstance(error, aiohttp.ClientConnectorError) and isinstance(error.os_error, ssl.SSLError):
            error = error.os_error
        if isinstance(error, ssl.SSLError):
            is_certificate = isinstance(error, ssl.SSLCertVerificationError)
            return "certificate" if is_certificate else "tls", self._trust.describe(error)
        if isinstance(error, TimeoutError):
            return "timeout", f"no complete response within {self._timeout.total:g} s"
        if isinstance(error, aiohttp.ClientConnectorDNSError):
            return "dns", "its name cannot be resolved"
        if isinstance(error, aiohttp.ClientConnectorError):
            return "connection", f"no connection ({_reason(error.os_error)})"
        if isinstance(error, aiohttp.ClientPayloadError):
            return "cut_off", "the response was cut off"
        if isinstance(error, aiohttp.ClientResponseError):
            return "headers", "the header of the response is not HTTP or is too long"
        return "connection", f"the connection broke ({type(error).__name__})"


async def _left(
    session: aiohttp.ClientSession,  # noqa: ARG001
    context: SimpleNamespace,
    parameters: aiohttp.TraceRequestHeadersSentParams,  # noqa: ARG001
) -> None:
    departure = context.trace_request_ctx
    if isinstance(departure, RequestTiming):
        departure.budget.sent(departure.slot, time.monotonic())


def _reason(error: OSError) -> str:
    return error.strerror or type(error).__name__


def _version() -> str:
    try:
        return metadata.version("direct-routing-connector")
    except metadata.PackageNotFoundError:
        return "0"
