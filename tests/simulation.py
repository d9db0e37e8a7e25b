"""Simulator for tests that are not asynchronous: in a thread of its own, on a free port."""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Any, Self, TypeVar

from connector.simulator import Options, Simulator, TruthRow
from connector.simulator.arrivals import ReceivedRequest

_T = TypeVar("_T")
_DEADLINE_S = 60.0


class Simulation:
    """Simulator as a context manager; every method may be called from the test's thread."""

    def __init__(self, now: Callable[[], datetime] = lambda: datetime.now(UTC), **options: Any) -> None:
        """Create a simulator with `options`. It throttles no request unless an option says so."""
        self._simulator = Simulator(Options(**{"requests_per_minute": 0, **options}), now)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="simulator", daemon=True)
        self.url = self.ca = ""

    def __enter__(self) -> Self:
        self._thread.start()
        self._wait(self._simulator.start())
        self.url, self.ca = self._simulator.url, str(self._simulator.ca_path)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._wait(self._simulator.stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_DEADLINE_S)
        self._loop.close()

    @property
    def tenants(self) -> list[str]:
        """Return the ids of the tenants."""
        return self._simulator.tenants

    @property
    def identity(self) -> dict[str, Any]:
        """Return the [identity] section of a configuration that may read every tenant."""
        return {"client_id": self._simulator.client_id, "client_secret": self._simulator.client_secret}

    def signing_keys(self) -> dict[str, object]:
        """Return the keys (JWKS) that tokens are signed with."""
        return self._simulator.world.sign_in.keys().body

    def truth(self, *tenants: str) -> dict[str, list[TruthRow]]:
        """Return every version that is visible now, by tenant (default: all tenants)."""

        def read() -> dict[str, list[TruthRow]]:
            return {tenant: list(self._simulator.truth(tenant)) for tenant in tenants or self.tenants}

        return self._call(read)

    def requests(self, kind: str = "graph") -> list[ReceivedRequest]:
        """Return the answered requests of a kind, oldest first."""
        return [request for request in self._call(lambda: self._simulator.requests) if request.kind == kind]

    def set_faults(self, tenant: str | None = None, **faults: object) -> None:
        """Change the named faults, of one tenant or of all."""
        self._call(lambda: self._simulator.set_faults(faults, tenant))

    def clear_faults(self) -> None:
        """Turn every fault off."""
        self._call(self._simulator.clear_faults)

    def expire_tokens(self) -> None:
        """Invalidate every token that was issued so far."""
        self._call(self._simulator.expire_tokens)

    def set_clock_offset(self, offset: timedelta) -> None:
        """Move the data's clock; it goes on from there."""
        self._call(lambda: self._simulator.set_clock_offset(offset))

    def freeze(self) -> datetime:
        """Stop the data's clock; return the time, by the machine's clock, after which no row appears or changes."""
        self._call(self._simulator.freeze)
        return datetime.now(UTC)

    def _call(self, function: Callable[[], _T]) -> _T:
        async def call() -> _T:
            return function()

        return self._wait(call())

    def _wait(self, coroutine: Coroutine[Any, Any, _T]) -> _T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(_DEADLINE_S)
