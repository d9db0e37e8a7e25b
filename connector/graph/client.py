"""Client for call records of Graph. All tenants of a process share it."""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime
from types import TracebackType
from typing import NamedTuple, Self

from yarl import URL

from connector import log
from connector.config.settings import Graph, Tenant
from connector.core.budget import Budget
from connector.graph.auth import Pauses, SignIn
from connector.graph.clock import TrustedClock
from connector.graph.directories import Directories
from connector.graph.health import PATIENCE_S, Health
from connector.graph.page_memory import PageMemory
from connector.graph.recording import Record, RecordingTransport
from connector.graph.source import Source
from connector.graph.source_events import SourceEvents
from connector.graph.transport import Transport
from connector.tls import Trust

logger = log.get(__name__)


_SIGN_IN_THREADS = 4
_SKEW_S = 30.0
_OTHERS_ANSWER_S = 2.0


class GraphClient:
    """Client for Graph that all tenants share.

    It owns the HTTP session, the threads of sign-in, the request budgets and the clock.
    """

    def __init__(
        self,
        settings: Graph,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        record: Record | None = None,
    ) -> None:
        """Create a client. If `record` is given, it is called with each request for rows and its response."""
        self._settings = settings
        trust = Trust("graph", settings.ca_bundle, strict=settings.tls_strict)
        timeout_s = settings.timeout.total_seconds()
        self._transport = RecordingTransport(timeout_s, trust, record) if record else Transport(timeout_s, trust)
        self._pool = ThreadPoolExecutor(_SIGN_IN_THREADS, thread_name_prefix="sign-in")
        self._skewed = False
        self._memory = PageMemory()
        self._limits: dict[str, _Limits] = {}
        self._directories = Directories()
        self._now = now
        self.clock = TrustedClock(now)
        """Time that Graph has confirmed. It decides which windows are read, which old rows are removed, and when
        progress records are due.
        """
        self._is_asking_date = False

    async def __aenter__(self) -> Self:
        await self._transport.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._transport.__aexit__(kind, error, trace)
        self._pool.shutdown(wait=False, cancel_futures=True)

    def source(
        self,
        tenant: Tenant,
        events: SourceEvents,
        now: Callable[[], datetime] | None = None,
        patience_s: float = PATIENCE_S,
    ) -> "Source":
        """Create the source of one tenant's pages.

        `now` returns the time at which a page counts as received. If one page cannot be read for `patience_s` seconds,
        its page chain fails.

        A tenant gets another source when its shard restarts or moves, and when SIGHUP changes the tenant's
        configuration. Each time, the tenant's first request waits until the budget allows it. The request budget and
        the pauses of sign-in are kept, because they belong to the client.
        """
        health = Health(patience_s)
        limits = self._limits_of(tenant)
        sign_in = SignIn(
            self._transport,
            self._pool,
            tenant,
            authority=self._settings.authority,
            scope=self._settings.scope,
            health=health,
            pauses=limits.pauses,
            directories=self._directories,
        )
        return Source(
            transport=self._transport,
            root=URL(f"{self._settings.root}/{self._settings.api_version}", encoded=True),
            tenant=tenant,
            budget=limits.budget,
            memory=self._memory,
            sign_in=sign_in,
            health=health,
            events=events,
            now=now or self.clock.now,
            patience_s=patience_s,
            dated=self._compare_clocks,
        )

    def _limits_of(self, tenant: Tenant) -> "_Limits":
        now, key = time.monotonic(), tenant.id.lower()
        limits = self._limits.get(key)
        if limits is None:
            limits = self._limits[key] = _Limits(Budget(tenant.requests_per_minute, now), Pauses())
        else:
            limits.budget.resume(tenant.requests_per_minute, now)
        return limits

    async def learn_time(self, source: "Source") -> None:
        """Wait until Graph has answered any tenant's request, because the `Date` header of the response sets the clock.

        If no response has arrived yet, send a request for the `Date` through `source`. If another tenant's request for
        the `Date` is in flight, first wait up to 2 s for its response. Raises the errors of `Source.pages`.
        """
        if self._is_asking_date:
            with suppress(TimeoutError):
                async with asyncio.timeout(_OTHERS_ANSWER_S):
                    await self.clock.known.wait()
        if self.clock.known.is_set():
            return
        self._is_asking_date = True
        asking, known = asyncio.create_task(source.ask_date()), asyncio.create_task(self.clock.known.wait())
        try:
            await asyncio.wait({asking, known}, return_when=asyncio.FIRST_COMPLETED)
            if not self.clock.known.is_set():
                asking.result()
        finally:
            self._is_asking_date = False
            for task in (asking, known):
                task.cancel()
            await asyncio.gather(asking, known, return_exceptions=True)

    def _compare_clocks(self, server_now: datetime | None) -> None:
        """Set the clock to the time of Graph. Log if the clock of this machine differs from it by more than 30 s.

        The difference is logged once. It is logged again only if the clocks have agreed in the meantime.
        """
        self.clock.answered(server_now)
        if server_now is None:
            return
        skew_s = (self._now() - server_now).total_seconds()
        skewed = abs(skew_s) > _SKEW_S
        if skewed and not self._skewed:
            logger.warning("clock_skew", skew_s=round(skew_s, 1), remedy="synchronize this machine's clock")
        self._skewed = skewed


class _Limits(NamedTuple):
    """Request budget of one tenant and the pauses of its sign-in. They are kept for as long as the process runs."""

    budget: Budget
    pauses: Pauses
