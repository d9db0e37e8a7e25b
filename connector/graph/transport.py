"""The one HTTP client that Graph and its sign-in are asked with: TLS, proxies, time limits and size limits."""

import ssl
import time
import urllib.request
from asyncio import sslproto
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace, TracebackType
from typing import Self

import aiohttp
from yarl import URL

from connector.core.budget import Budget, Slot
from connector.errors import ConfigurationError

_TLS_BUFFER = 32 << 10


class Answer:
    """A whole response. `body` is decompressed."""

    __slots__ = ("body", "headers", "status")

    def __init__(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.status = status
        self.headers = headers
        "Names in lower case."
        self.body = body


class BrokenAnswerError(Exception):
    """No whole answer came: the sentence says what happened, without what was sent or received."""


class Departure:
    """A request that counts against a budget from the moment it leaves."""

    __slots__ = ("budget", "slot")

    def __init__(self, budget: Budget, slot: Slot) -> None:
        self.budget = budget
        self.slot = slot


class Transport:
    """One aiohttp session a process; no cookies, no redirects, no requests repeated behind the budget's back."""

    def __init__(self, timeout_s: float, ca_bundle: Path | None) -> None:
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)
        self._ca_bundle = ca_bundle
        self._session: aiohttp.ClientSession | None = None
        self._proxies: dict[str, URL | None] = {}

    async def __aenter__(self) -> Self:
        try:
            context = ssl.create_default_context(cafile=self._ca_bundle)
        except OSError as error:
            problem = f"graph.ca_bundle: {self._ca_bundle} holds no certificates that can be read; name a PEM file"
            raise ConfigurationError([problem]) from error
        # By default each connection keeps 256 KiB: with hundreds of tenants more than all that they remember.
        sslproto.SSLProtocol.max_size = _TLS_BUFFER
        trace = aiohttp.TraceConfig()
        trace.on_request_headers_sent.append(_left)
        self._session = aiohttp.ClientSession(
            # No limit of its own: a tenant whose connections hang must not use up those of the others.
            connector=aiohttp.TCPConnector(ssl=context, limit=0),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=self._timeout,
            headers={"User-Agent": f"direct-routing-connector/{_version()}"},
            trace_configs=[trace],
        )
        # aiohttp sends a GET again by itself when a kept connection breaks: a request that no budget knows of.
        self._session._retry_connection = False  # noqa: SLF001
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def ask(
        self,
        method: str,
        url: URL,
        *,
        headers: dict[str, str],
        max_bytes: int,
        form: bytes | None = None,
        departure: Departure | None = None,
        through_proxy: bool = True,
    ) -> Answer:
        """The answer to one request, whatever its status; a redirect is an answer.

        `through_proxy`: false for what only this machine can reach.

        Raises BrokenAnswerError when none came whole within the time and `max_bytes`.
        """
        if self._session is None:
            raise RuntimeError("the client is not open")
        try:
            async with self._session.request(
                method,
                url,
                headers=headers,
                data=form,
                allow_redirects=False,
                proxy=self._proxy(url) if through_proxy else None,
                trace_request_ctx=departure,
            ) as response:
                body = bytearray()
                async for chunk in response.content.iter_any():
                    body += chunk
                    if len(body) > max_bytes:
                        raise BrokenAnswerError(f"the answer is longer than {max_bytes >> 20} MiB")
                names = {name.lower(): value for name, value in response.headers.items()}
                if "retry-after" in names:
                    names["retry-after"] = ", ".join(response.headers.getall("retry-after"))
                return Answer(response.status, names, bytes(body))
        except TimeoutError as error:
            raise BrokenAnswerError(f"no whole answer within {self._timeout.total:g} s") from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise BrokenAnswerError(_describe(error)) from error

    def _proxy(self, url: URL) -> URL | None:
        """Read once for each host: aiohttp's own way of honouring proxies reads the environment for every request."""
        place = f"{url.host}:{url.port}"
        if place not in self._proxies:
            found = None if urllib.request.proxy_bypass(place) else urllib.request.getproxies().get(url.scheme)
            self._proxies[place] = URL(found) if found else None
        return self._proxies[place]


async def _left(
    session: aiohttp.ClientSession,  # noqa: ARG001
    context: SimpleNamespace,
    parameters: aiohttp.TraceRequestHeadersSentParams,  # noqa: ARG001
) -> None:
    departure = context.trace_request_ctx
    if isinstance(departure, Departure):
        departure.budget.sent(departure.slot, time.monotonic())


# By OpenSSL's X509_V_ERR codes; every other one is about who signed it.
_CERTIFICATES = {
    9: "its certificate is not valid yet; see that the clocks of both machines are right",
    10: "its certificate has expired; whoever runs it has to renew it, or this machine's clock is wrong",
    62: "its certificate is for another name; check the host, and that no proxy answers instead",
    64: "its certificate is for another address; use a host name that it is for",
}


def _describe(error: Exception) -> str:
    """What broke, without URLs or data, which aiohttp's own texts may hold."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return _describe(error.certificate_error)
    if isinstance(error, ssl.SSLCertVerificationError):
        return _CERTIFICATES.get(error.verify_code, "its certificate is not trusted; name its authority in ca_bundle")
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return "its name cannot be resolved"
    if isinstance(error, aiohttp.ClientProxyConnectionError | aiohttp.ClientHttpProxyError):
        return "the proxy refused or did not answer"
    if isinstance(error, aiohttp.ClientConnectorError):
        return f"no connection ({error.os_error.strerror or type(error.os_error).__name__})"
    if isinstance(error, aiohttp.ClientPayloadError):
        return "the answer was cut off"
    return f"the connection broke ({type(error).__name__})"


def _version() -> str:
    try:
        return metadata.version("direct-routing-connector")
    except metadata.PackageNotFoundError:
        return "0"
