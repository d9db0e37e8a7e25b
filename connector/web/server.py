"""HTTP server for /metrics, /livez, /readyz, /status and the page. It accepts GET and HEAD only.

1. A request changes nothing, and a response contains no part of the request.
2. /livez is answered in the event loop of the worker. If the loop hangs, /livez therefore does not answer, as intended.
3. Stopping does not wait long for clients: idle connections are closed at once, others within 0.5 s.
"""

import asyncio
import errno
import logging
import socket
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Protocol, Self

import msgspec
from aiohttp import hdrs, web
from aiohttp.http_exceptions import HttpProcessingError

from connector import log
from connector.errors import ConfigurationError, FatalError
from connector.metrics.worker import Metrics
from connector.web import page

# aiohttp waits this long twice: first for responses to be sent, then for the requests that it has cancelled to end.
STOP_S = 0.25

_HEADERS = {
    hdrs.SERVER: "direct-routing-connector",
    hdrs.CACHE_CONTROL: "no-store",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_CONTENT_SECURITY_POLICY = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
_ANYWHERE = ("", "0.0.0.0", "::")  # noqa: S104
_COMPRESSED_FROM_BYTES = 4096
_YIELD_AFTER = 25
"Number of tenants after which the server lets other tasks of the event loop run."

_log = log.get(__name__)


def _is_fault(record: logging.LogRecord) -> bool:
    return not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError))


# aiohttp logs a traceback for each request that is not HTTP, so that any port scanner could fill the log.
_library_log = logging.getLogger("aiohttp.server").getChild("connector")
_library_log.addFilter(_is_fault)


class StatusSource(Protocol):
    """Source of the worker's state that the server shows. The methods run in the event loop, so they must be fast."""

    async def status(self) -> dict[str, Any]:
        """Return the JSON of /status, with times as RFC 3339 text. Other tasks may run while the JSON is built."""
        ...

    def ready(self) -> tuple[bool, list[str]]:
        """Return whether the worker is ready. If it is not, the list contains the reasons."""
        ...

    def alive(self) -> tuple[bool, list[str]]:
        """Return whether all shards make progress, and one sentence for each shard that does not."""
        ...


class Web:
    """HTTP server of one worker. After the start, `port` is the port in use, even if port 0 was configured."""

    def __init__(self, host: str, port: int, source: StatusSource, metrics: Metrics) -> None:
        self.host = host
        self.port = port
        self._source = source
        self._metrics = metrics
        application = web.Application(middlewares=[_answer])
        application.router.add_get("/", self._page)
        application.router.add_get("/metrics", self._exposition)
        application.router.add_get("/livez", self._livez)
        application.router.add_get("/readyz", self._readyz)
        application.router.add_get("/status", self._status)
        application.on_response_prepare.append(_protect)
        self._runner = web.AppRunner(
            application, access_log=None, logger=_library_log, handle_signals=False, shutdown_timeout=STOP_S
        )

    async def start(self) -> int:
        """Start to listen, and return the port.

        Raises FatalError if the port is in use, and ConfigurationError if this machine does not have the address.
        """
        await self._runner.setup()
        try:
            await self._site().start()
        except (OSError, OverflowError) as error:
            await self._runner.cleanup()
            raise _refusal(self.host, self.port, error) from error
        self.port = int(self._runner.addresses[0][1])
        _log.info("http_listening", host=self.host, port=self.port)
        return self.port

    def _site(self) -> web.BaseSite:
        """Return the listener for the configured address.

        For "0.0.0.0", "::" or an empty address, it listens on every IPv4 and IPv6 address of this machine.
        """
        if self.host in _ANYWHERE and socket.has_dualstack_ipv6():
            both = socket.create_server(
                ("", self.port), family=socket.AF_INET6, dualstack_ipv6=True, reuse_port=False, backlog=128
            )
            return web.SockSite(self._runner, both)
        return web.TCPSite(self._runner, self.host, self.port)

    async def stop(self) -> None:
        """Stop listening and close all connections within a second."""
        await self._runner.cleanup()

    async def __aenter__(self) -> Self:
        """Start to listen."""
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the server."""
        await self.stop()

    async def _page(self, request: web.Request) -> web.Response:
        ready, reasons = self._source.ready()
        status = await self._source.status()
        labels = [str(tenant.get("name") or tenant.get("id")) for tenant in status.get("tenants") or ()]
        activities = {}
        for number, label in enumerate(labels, 1):
            activities[label] = self._metrics.activity(label)
            if number % _YIELD_AFTER == 0:
                await asyncio.sleep(0)
        # For many tenants, encoding the JSON takes so long that the event loop must run other tasks meanwhile.
        text = await asyncio.to_thread(
            page.render,
            status,
            reasons,
            activities.get,
            ready=ready,
            as_of=f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC",
            still="still" in request.query,
        )
        return web.Response(
            text=text, content_type="text/html", headers={"Content-Security-Policy": page.CONTENT_SECURITY_POLICY}
        )

    async def _exposition(self, request: web.Request) -> web.Response:
        body, content_type = await self._metrics.scrape(",".join(request.headers.getall(hdrs.ACCEPT, ())))
        return web.Response(body=body, headers={hdrs.CONTENT_TYPE: content_type, hdrs.VARY: hdrs.ACCEPT})

    async def _livez(self, _request: web.Request) -> web.Response:
        alive, reasons = self._source.alive()
        return _json({"alive": alive, "reasons": reasons}, ok=alive)

    async def _readyz(self, _request: web.Request) -> web.Response:
        ready, reasons = self._source.ready()
        return _json({"ready": ready, "reasons": reasons}, ok=ready)

    async def _status(self, _request: web.Request) -> web.Response:
        status = await self._source.status()
        return await asyncio.to_thread(_json, status, ok=True)


def _json(content: dict[str, Any], *, ok: bool) -> web.Response:
    return web.Response(body=msgspec.json.encode(content), content_type="application/json", status=200 if ok else 503)


@web.middleware
async def _answer(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    try:
        response = await handler(request)
    except web.HTTPMethodNotAllowed as refusal:
        refusal.text = "Nothing can be changed here: only GET and HEAD are answered.\n"
        raise
    except web.HTTPNotFound as refusal:
        refusal.text = "The paths are /, /metrics, /livez, /readyz and /status.\n"
        raise
    except Exception:  # noqa: BLE001 — the boundary: a fault behind an endpoint is the log's business, not the client's
        _log.exception("http_request_failed", path=request.path)
        return web.Response(status=500, text="The request failed; the log states why (event http_request_failed).\n")
    if isinstance(response, web.Response) and (response.content_length or 0) > _COMPRESSED_FROM_BYTES:
        response.enable_compression()
    return response


async def _protect(_request: web.Request, response: web.StreamResponse) -> None:
    response.headers.update(_HEADERS)
    response.headers.setdefault("Content-Security-Policy", _CONTENT_SECURITY_POLICY)


def _refusal(host: str, port: int, error: OSError | OverflowError) -> FatalError | ConfigurationError:
    where = f"http.listen: cannot listen on {f'[{host}]' if ':' in host else host}:{port}"
    mend = "in the configuration, or CONNECTOR_HTTP__LISTEN"
    code = error.errno if isinstance(error, OSError) else None
    if code == errno.EADDRINUSE:
        return FatalError(f"{where}: another process listens on this address; stop it, or set another port ({mend})")
    if isinstance(error, socket.gaierror):
        return ConfigurationError([f"{where}: the host name is not known; set an address of this machine ({mend})"])
    # asyncio of Python 3.13 logs the error of each address, and raises another error that has no errno.
    if code == errno.EADDRNOTAVAIL or (code is None and isinstance(error, OSError)):
        return ConfigurationError(
            [f"{where}: this machine does not have that address; set one of its addresses ({mend})"]
        )
    if code in {errno.EACCES, errno.EPERM}:
        return ConfigurationError([f"{where}: not permitted; set a port of 1024 or higher ({mend})"])
    return ConfigurationError([f"{where}: {error}; set another address ({mend})"])
