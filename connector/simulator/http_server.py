"""Server of the simulator: Graph, its sign-in and the control interface on one HTTPS port."""

import asyncio
import os
import socket
import tempfile
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Self

from aiohttp import web

from connector.simulator import certificates, control_api, entra, graph, imds, responses
from connector.simulator.arrivals import ReceivedRequest
from connector.simulator.options import Options
from connector.simulator.world import TenantServed, TruthRow, World

_STOP_S = 0.5
_BACKLOG = 512
_ANYWHERE = {"", "0.0.0.0", "::"}  # noqa: S104


def utc_now() -> datetime:
    """Return the real time in UTC."""
    return datetime.now(UTC)


class Simulator:
    """Simulator of Graph and its sign-in. It is used with `async with`, or with start() and stop().

    `now` is a function that returns the current time (aware, UTC). This time determines which rows are visible and
    whether tokens have expired. Throttling always uses the real time.
    """

    def __init__(self, options: Options | None = None, now: Callable[[], datetime] = utc_now) -> None:
        self.options = options or Options()
        problems = self.options.check()
        if problems:
            raise ValueError("; ".join(problems))
        self.world = World(self.options, now)
        self.url = ""
        self.imds_url = ""
        "URL of the token endpoint for managed identities. It is empty if the endpoint is not enabled."
        self.port = 0
        self.ca_path = Path()
        self._host = "127.0.0.1" if self.options.host == "localhost" else self.options.host
        self._ca, self._tls = certificates.make(
            [*([] if self._host in _ANYWHERE else [self._host]), *self.options.names]
        )
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._runner: web.AppRunner | None = None
        self._azure: web.AppRunner | None = None
        self._site: web.SockSite | None = None
        self._reopening: asyncio.Task[None] | None = None

    @property
    def tenants(self) -> list[str]:
        """The ids of the tenants."""
        return list(self.world.tenants)

    @property
    def client_id(self) -> str:
        """The client id of the application."""
        return self.world.client_id

    @property
    def client_secret(self) -> str:
        """The secret of the application, which is the same in every tenant."""
        return self.world.sign_in.secret

    @property
    def managed_identity(self) -> str:
        """The client id of the user-assigned managed identity that the simulator offers to this machine."""
        return next(iter(self.world.sign_in.machines))

    def register(self, *certificates: bytes) -> None:
        """Replace the registered certificates of the application by `certificates` (PEM)."""
        self.world.sign_in.registration.register(certificates)

    @property
    def requests(self) -> list[ReceivedRequest]:
        """The latest 100,000 requests, oldest first."""
        return list(self.world.visits.requests)

    @property
    def announcement(self) -> dict[str, object]:
        """The values that `connector simulate` prints as JSON when it is ready."""
        return {
            "url": self.url,
            "ca": str(self.ca_path),
            "tenants": self.tenants,
            "client_id": self.client_id,
            "client_secret": self.client_secret,
            **({"imds": self.imds_url, "managed_identity": self.managed_identity} if self.imds_url else {}),
        }

    async def start(self) -> None:
        """Start to listen, and set `url`, `port` and `ca_path`.

        Raises OSError if the port or the path of the CA file cannot be used.
        """
        if self.options.prebuilt:
            await asyncio.to_thread(self.world.prebuild)
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=_STOP_S)
        await self._runner.setup()
        try:
            self._write_ca()
            await self._listen(self.options.port)
            if self.options.imds:
                await self._listen_as_azure()
        except OSError:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Close every connection. Delete the CA file, unless the option `ca_out` names it."""
        if self._reopening is not None:
            self._reopening.cancel()
            self._reopening = None
        if self._runner is not None:
            self._cut_connections()
            await self._runner.cleanup()
            self._runner = self._site = None
        if self._azure is not None:
            await self._azure.cleanup()
            self._azure = None
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    async def __aenter__(self) -> Self:
        """Start the simulator."""
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the simulator."""
        await self.stop()

    def truth(
        self,
        tenant: str | None = None,
        start: datetime | None = None,
        end: datetime | None = None,
        at: datetime | None = None,
        *,
        is_beta: bool = False,
    ) -> Iterator[TruthRow]:
        """Yield every row version that has appeared by `at` (default: now) and whose call start is in [start, end).

        By default, the rows are those of the first tenant.
        """
        return self.world.truth(tenant or self.tenants[0], start, end, at, is_beta=is_beta)

    def served(self) -> dict[str, TenantServed]:
        """Return for each tenant how many different versions and rows were sent completely, with status 200."""
        return self.world.served()

    def served_rows(self, tenant: str | None = None) -> Iterator[TruthRow]:
        """Yield every row version that was sent in a complete response with status 200.

        By default, the rows are those of the first tenant.
        """
        return self.world.served_rows(tenant or self.tenants[0])

    def set_faults(
        self, changes: Mapping[str, object] | None = None, tenant: str | None = None, **more: object
    ) -> None:
        """Change some faults and settings, for all tenants or only for `tenant`. Keep all others unchanged.

        Examples are throttled=0.05 and cut={"share": 1, "times": 3}. `faults.STRIKES` and `faults.SETTINGS` have the
        names.
        """
        self.world.set_faults({**(changes or {}), **more}, tenant)

    def clear_faults(self) -> None:
        """Turn off all faults."""
        self.world.faults.clear()

    def expire_tokens(self) -> int:
        """Invalidate all tokens that were issued so far, and return their number."""
        return self.world.sign_in.expire()

    def freeze(self, *, on: bool = True) -> None:
        """Stop the clock of the data, so that no more rows become visible. With on=False, let it run again."""
        self.world.freeze(on=on)

    def set_clock_offset(self, offset: timedelta) -> None:
        """Set the difference between the clock of the data and the real time."""
        self.world.set_offset(offset)

    def max_requests_in_60_s(self, tenant: str | None = None) -> int:
        """Return the highest number of requests to Graph that arrived within any 60 s.

        By default, these are the requests for the first tenant.
        """
        return self.world.tenants[tenant or self.tenants[0]].arrivals.most

    async def refuse(self, for_s: float | None = None) -> None:
        """Close the port and all connections for `for_s` seconds, or until `accept` is called if `for_s` is None."""
        if self._reopening is not None:
            self._reopening.cancel()
            self._reopening = None
        if self._site is not None:
            await self._site.stop()
            self._site = None
        self._cut_connections()
        if for_s is not None:
            self._reopening = asyncio.create_task(self._reopen(for_s), name="simulator-reopen")

    async def accept(self) -> None:
        """Listen again on the same port, after `refuse` has closed it."""
        if self._site is None:
            await self._listen(self.port)

    async def _reopen(self, after_s: float) -> None:
        await asyncio.sleep(after_s)
        await self.accept()

    async def _refuse_soon(self, for_s: float) -> None:
        # The delay lets the response to this request be sent first.
        asyncio.get_running_loop().call_later(0.05, lambda: self._start_refusing(for_s))

    def _start_refusing(self, for_s: float) -> None:
        if self._runner is not None and self._reopening is None:
            self._reopening = asyncio.create_task(self._refuse_for(for_s), name="simulator-refuse")

    async def _refuse_for(self, for_s: float) -> None:
        if self._site is not None:
            await self._site.stop()
            self._site = None
        self._cut_connections()
        await asyncio.sleep(for_s)
        await self.accept()
        self._reopening = None

    def _cut_connections(self) -> None:
        if self._runner is not None and self._runner.server is not None:
            for connection in list(self._runner.server.connections):
                if connection.transport is not None:
                    connection.transport.abort()

    async def _listen(self, port: int) -> None:
        if self._runner is None:
            return
        both = self._host in _ANYWHERE and socket.has_dualstack_ipv6()
        family = socket.AF_INET6 if both or ":" in self._host else socket.AF_INET
        address = ("" if both else self._host, port)
        listening = socket.create_server(address, family=family, backlog=_BACKLOG, dualstack_ipv6=both)
        self._site = web.SockSite(self._runner, listening, ssl_context=self._tls)
        await self._site.start()
        self.port = listening.getsockname()[1]
        name = "localhost" if self._host in _ANYWHERE else self._host
        self.url = f"https://[{name}]:{self.port}" if ":" in name else f"https://{name}:{self.port}"

    async def _listen_as_azure(self) -> None:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._answer_as_azure)
        self._azure = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=_STOP_S)
        await self._azure.setup()
        listening = socket.create_server(("127.0.0.1", 0))
        await web.SockSite(self._azure, listening).start()
        self.imds_url = f"http://127.0.0.1:{listening.getsockname()[1]}"

    async def _answer_as_azure(self, request: web.Request) -> web.StreamResponse:
        return await imds.answer(self.world, request)

    def _write_ca(self) -> None:
        path = self.options.ca_out
        if path is None:
            self._folder = tempfile.TemporaryDirectory(prefix="connector-simulator-")
            path = Path(self._folder.name, "ca.pem")
        # A program that waits for the file must never read an incomplete one.
        written = path.with_name(f".{path.name}.{os.getpid()}")
        written.write_bytes(self._ca)
        written.replace(path)
        self.ca_path = path.absolute()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        path = request.path
        if path.startswith("/simulator/"):
            return await control_api.answer(self.world, request, self._refuse_soon)
        if entra.KEYS.fullmatch(path):
            return entra.keys(self.world)
        if entra.TOKEN.fullmatch(path) or entra.DISCOVERY.fullmatch(path):
            return await entra.answer(self.world, request)
        try:
            return await graph.answer(self.world, request)
        except ConnectionError:  # the client has closed the connection; aiohttp would log an error of the server
            return responses.drop(request)
