"""Source of one tenant's pages. It reads page chains within the tenant's request budget.

Rules:

1. The next page of a chain is the one to which the `nextLink` of the current page leads. The link must lead to the
   configured scheme, host and port. If the chain has followed the link before, the current page counts as failed and is
   requested again. Otherwise the rest of the chain would be lost.
2. Transient errors are retried here, within the budget. If one page fails for `patience_s` seconds, the chain ends with
   TransientError, and the range is scheduled again. The time for which Graph asked to wait does not count. If
   `attempts` is given, the chain also ends after this number of failures of one page. Only failures that may depend on
   the range count.
3. A permanent error, which needs operator action, ends the chain at once.
4. A page is yielded only when it and its link are complete. No part of a response body is ever logged, except Graph's
   error code.
"""

import random
import time
import uuid
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from typing import NamedTuple, NoReturn

import msgspec
from yarl import URL

from connector.config.settings import Tenant
from connector.core.budget import Budget, FailureKind, Slot, lane_name
from connector.core.coverage import Window
from connector.core.pages import NotAPageError, Page, decode_page
from connector.errors import PermanentError, PermanentReason, RangeTooLongError, TransientError, TransientReason
from connector.graph import token_claims
from connector.graph.auth import SignIn
from connector.graph.exchange import OK, Exchange, RequestFailures
from connector.graph.health import Failure, Health
from connector.graph.page_memory import DECODED, NO_ROOM, PageMemory, PageRoom
from connector.graph.request_queue import Admission, RequestQueue
from connector.graph.source_events import SourceEvents
from connector.graph.token_claims import TokenClaims
from connector.graph.transport import BrokenAnswerError, RequestTiming, Transport

MAX_PAGE_BYTES = 16 << 20  # a page of a thousand rows is about one MiB
MAX_PAGES = 1000
MAX_LINK_CHARACTERS = 8192  # the links of a chain are kept in memory until it ends
_DATE_RANGE_AGO = timedelta(days=7)
_UNAUTHORIZED, _FORBIDDEN, _NOT_ACCEPTABLE, _TOO_MANY = 401, 403, 406, 429
_ANSWERED = "wait: the service responds, and the connector retries until the fault ends"
_PASSING_STATUSES = {408, 425, _TOO_MANY}


class ReadPage(NamedTuple):
    """One page of a page chain. `rows` holds the JSON of each row as received. `received_at` is in UTC."""

    rows: list[msgspec.Raw]
    received_at: datetime
    bytes: int
    "Size of the decompressed body."
    last: bool
    room: PageRoom = NO_ROOM
    "Memory reserved for the page. The receiver of the page must release it."


class _UnauthorizedError(Exception):
    """Response 401: Graph rejected the token."""

    def __init__(self, exchange: Exchange, audience: str) -> None:
        super().__init__("401")
        self.exchange = exchange
        self.audience = audience
        "Audience claim of the token. It is empty if the claim is unknown."


class Source:
    """Source of one tenant's pages. Page chains that are read concurrently share its budget, token and health."""

    def __init__(  # noqa: PLR0913
        self,
        *,
        transport: Transport,
        root: URL,
        tenant: Tenant,
        budget: Budget,
        memory: PageMemory,
        sign_in: SignIn,
        health: Health,
        events: SourceEvents,
        now: Callable[[], datetime],
        patience_s: float,
        dated: Callable[[datetime | None], None],
    ) -> None:
        self.budget = budget
        self.health = health
        self.memory = memory
        self._transport = transport
        self._root = root
        self._tenant = tenant
        self._sign_in = sign_in
        self._events = events
        self._now = now
        self._patience_s = patience_s
        self._dated = dated
        self._queue = RequestQueue(self.budget, memory, time.monotonic, self._report_throttled)
        self._reported_throttled_s = budget.throttled_s(time.monotonic())
        self._has_dropped_token = False
        self.served_at: datetime | None = None
        "Time in UTC at which Graph last returned a page of this tenant's rows."
        self._failures = RequestFailures(tenant.label)

    @property
    def up(self) -> bool:
        """True if the last request succeeded. Requests to Graph and to the sign-in service both count."""
        return self.health.up

    def failing(self) -> Failure | None:
        """Return why the tenant fails now, or None if the tenant does not fail."""
        return self.health.failing(time.monotonic())

    def budget_used_ratio(self) -> float:
        """Return the used part of the budget: requests in the last 60 s divided by `requests_per_minute`."""
        return self.budget.used_ratio(time.monotonic())

    async def pages(self, window: Window, priority: int, attempts: int | None = None) -> AsyncGenerator[ReadPage, None]:
        """Read one page chain and yield its pages in order. `last` is true for the last page.

        `priority` is 0 for the live sweep, higher for slower sweeps, and 1000 for backfills.

        Raises PermanentError if operator action is needed. Raises TransientError if one page could not be read for
        `patience_s` seconds or in `attempts` attempts. Raises RangeTooLongError for status 406, and for a chain of more
        than 1000 pages with rows.
        """
        url = URL(f"{self._root}/{_call(window)}", encoded=True)
        followed = {str(url)}
        rows = 0
        for _ in range(MAX_PAGES):
            page, received_at, size, room = await self._page(url, followed, priority, attempts)
            rows += len(page.rows)
            yield ReadPage(page.rows, received_at, size, page.next_link is None, room)
            if page.next_link is None:
                return
            url = URL(page.next_link, encoded=True)
            followed.add(page.next_link)
        if rows < MAX_PAGES:  # splitting the range would not help: the chain has almost no rows
            self._reject(None, "rejected", f"returns {MAX_PAGES} pages with almost no rows; check graph.base_url")
        raise RangeTooLongError(f"A range of {self._tenant.label} has over {MAX_PAGES} pages; it is read in parts.")

    async def ask_date(self) -> None:
        """Request a range of one second, only because the response contains the time of Graph in its `Date` header.

        Raises the errors of `pages`.
        """
        begin = self._now().replace(microsecond=0) - _DATE_RANGE_AGO
        async with aclosing(self.pages(Window(begin, begin + timedelta(seconds=1)), 0)) as pages:
            (await anext(pages)).room.release()

    async def sign_in(self) -> tuple[TokenClaims | None, str]:
        """Sign in. Return the claims of the token, and the host name of Graph in the tenant's cloud.

        The claims are None if the token cannot be read. The host is empty if the tenant's sign-in metadata does not
        contain it. Raises the errors of `SignIn.token`.
        """
        return token_claims.read(await self._sign_in.token()), self._sign_in.graph_host

    async def ask_once(self, window: Window) -> ReadPage:
        """Return the first page of a range. The request is sent only once. Raises the errors of `pages`."""
        url = URL(f"{self._root}/{_call(window)}", encoded=True)
        admission = await self._queue.enter(0)
        try:
            page, received_at, size, room = await self._ask(url, {str(url)}, 0, admission)
        except _UnauthorizedError as error:
            self._reject(error.exchange, "sign_in", self._rejected_token_text(error.audience))
        room.release()
        return ReadPage(page.rows, received_at, size, page.next_link is None)

    def _rejected_token_text(self, audience: str) -> str:
        """Return the error message for a new token that Graph has rejected: the likely reason and what to do.

        `audience` is the service for which the token was issued.
        """
        cloud = token_claims.cloud_of(audience)
        made_for = f" that is for {cloud}" if cloud else ""
        theirs = token_claims.cloud_of(self._sign_in.graph_host)
        hint = f", and according to sign-in, this tenant belongs to {theirs}" if theirs and theirs != cloud else ""
        what = f"at {self._root.host} does not accept a fresh token{made_for} (401){hint}"
        return f"{what}; check graph.cloud and the tenant's id"

    async def close(self) -> None:
        """Cancel the token request that is in flight. Page chains are not closed: their readers must close them."""
        await self._sign_in.close()

    async def _page(
        self, url: URL, followed: set[str], priority: int, attempts: int | None
    ) -> tuple[Page, datetime, int, PageRoom]:
        """Request one page. Repeat the request until it succeeds, or until a rule of this module ends the retries.

        Return the page, the time at which it was received, its size in bytes, and the memory reserved for it.
        `followed` holds the links that the page chain has followed so far.
        """
        begun: tuple[float, float] | None = None
        unauthorized, failures = False, 0
        # `attempts` is 1 for a range that failed before. Its request lets another request go first.
        failed = attempts == 1
        while True:
            at = time.monotonic()
            asked_s = self._asked_s(at)
            try:
                await self._sign_in.token()
                admission = await self._queue.enter(priority, lets_another_pass=failed)
                at, asked_s = admission.slot.granted_at, self._asked_s(admission.slot.granted_at)
                return await self._ask(url, followed, priority, admission)
            except _UnauthorizedError as error:
                if unauthorized:
                    self._reject(error.exchange, "sign_in", self._rejected_token_text(error.audience))
                unauthorized = True
            except TransientError as error:
                failed = True
                failures += error.of_range
                unauthorized = False
                begun = begun or (at, asked_s)
                now = time.monotonic()
                tried_s = now - begun[0] - (self._asked_s(now) - begun[1])
                if tried_s >= self._patience_s or (attempts is not None and failures >= attempts):
                    raise

    def _asked_s(self, now: float) -> float:
        return self.budget.asked_s(now) + self._sign_in.asked_s(now)

    async def _ask(
        self, url: URL, followed: set[str], priority: int, admission: Admission
    ) -> tuple[Page, datetime, int, PageRoom]:
        """Send one request for a page. If it fails, release the memory that was reserved for the page.

        Return the page, the time at which it was received, its size in bytes, and the memory reserved for it.
        """
        room = admission.room
        try:
            page, received_at, size = await self._send(url, followed, priority, admission.slot)
        except BaseException:
            room.release()
            raise
        room.resize(DECODED * size)
        return page, received_at, size, room

    async def _send(self, url: URL, followed: set[str], priority: int, slot: Slot) -> tuple[Page, datetime, int]:
        """Send one request for a page, in the place `slot` of the budget. Raise an error if no page is received.

        Return the page, the time at which it was received, and its size in bytes.
        """
        exchange = Exchange(slot, str(uuid.uuid4()))
        try:
            # The token may have expired while the request waited for its slot.
            token = await self._sign_in.token()
            begun = time.monotonic()
            try:
                answer = await self._transport.ask(
                    "GET",
                    url,
                    headers={
                        "Accept": "application/json",
                        "Authorization": f"Bearer {token}",
                        "client-request-id": exchange.id,
                    },
                    max_bytes=MAX_PAGE_BYTES,
                    departure=RequestTiming(self.budget, slot),
                )
            except BrokenAnswerError as error:
                self._finished(priority, "error", begun)
                exchange.code = error.code
                if error.code == "headers":
                    self._drop_doubtful_token(token)
                self._transient(exchange, "unreachable", f"cannot be read: {error}")
        finally:
            self.budget.settled(slot)
        self._finished(priority, str(answer.status), begun)
        exchange.record_response(answer, self._now())
        self._dated(exchange.dated_at)
        received_at = self._now()
        if answer.status != OK:
            self._raise_for_status(exchange, answer.status, token)
        page = self._read(exchange, answer.body, followed)
        self.served_at = received_at
        return page, received_at, len(answer.body)

    def _drop_doubtful_token(self, token: str) -> None:
        """Discard the token after a response with an unreadable header: it may have been a 401 with a long header.

        Until a page is received again, no other token is discarded for this reason.
        """
        if not self._has_dropped_token:
            self._has_dropped_token = True
            self._sign_in.drop(token)

    def _read(self, exchange: Exchange, body: bytes, followed: set[str]) -> Page:
        try:
            page = decode_page(body)
        except NotAPageError:
            self._transient(exchange, "unreachable", "responds 200 with a body that is not a page of call records")
        link = page.next_link
        if link is not None:
            if len(link) > MAX_LINK_CHARACTERS:
                self._transient(
                    exchange, "unreachable", f"returns a next link that is too long ({len(link)} characters)"
                )
            if link in followed:
                self._transient(exchange, "unreachable", "returns a next link that the page chain has followed before")
            if not self._is_trusted_link(link):
                self._reject(exchange, "rejected", "returns a next link to another host; check graph.base_url")
        self.health.answered(time.monotonic())
        self.budget.succeeded(exchange.slot)
        self._has_dropped_token = False
        return page

    def _is_trusted_link(self, link: str) -> bool:
        """Return whether the token may be sent to a link: only to the configured scheme, host and port.

        The link is parsed as for the later request, because different parsers could find different hosts in it.
        """
        if not link.isascii() or not link.isprintable() or " " in link:
            return False
        try:
            url = URL(link, encoded=True)
            place = url.scheme, (url.host or "").lower(), url.port, url.user, url.password
        except ValueError:
            return False
        return place == (self._root.scheme, (self._root.host or "").lower(), self._root.port, None, None)

    def _raise_for_status(self, exchange: Exchange, status: int, token: str) -> NoReturn:
        """Raise the error for an HTTP status. The body of the response does not change which error is raised."""
        if status == _UNAUTHORIZED:
            self._sign_in.drop(token)
            self.health.up = False
            known = token_claims.read(token)
            raise _UnauthorizedError(exchange, known.audience if known else "")
        if status == _NOT_ACCEPTABLE:
            self.health.answered()
            self.budget.succeeded(exchange.slot)
            self._failures.record(exchange, "refuses the range of call time as too long")
            raise RangeTooLongError(f"Graph refuses a range of {self._tenant.label} as too long ({exchange.outcome}).")
        if status == _FORBIDDEN:
            self._reject(
                exchange,
                "permission",
                f"refuses access to the direct routing log ({exchange.outcome}); "
                "grant the application permission CallRecords.Read.All to "
                f"{self._tenant.identity.client_id or 'the application'} and give admin consent in this tenant",
                of_range=True,
            )
        if status in _PASSING_STATUSES or not 300 <= status < 500:
            reason: TransientReason = "throttled" if status == _TOO_MANY else "unreachable"
            self._transient(exchange, reason, f"answers {exchange.outcome}")
        if status < 400:
            self._reject(exchange, "rejected", f"redirects ({status}), which is not followed; check graph.base_url")
        self._reject(
            exchange,
            "rejected",
            f"rejects the request ({exchange.outcome}); check graph.cloud, graph.base_url and graph.api_version,"
            " because this cloud may not have the direct routing log",
            of_range=True,
        )

    def _transient(self, exchange: Exchange, reason: TransientReason, what: str) -> NoReturn:
        now = time.monotonic()
        kind: FailureKind = "throttled" if reason == "throttled" else "broken"
        message = f"Graph {what} for {self._tenant.label}; trying again."
        self.budget.failed(exchange.slot, now, kind, exchange.retry_after_s, random.random())  # noqa: S311
        self.health.failed_transiently(reason, message, exchange.slot.granted_at)
        self._failures.record(exchange, what)
        explanation = f"Graph {what}" if exchange.status is None else f"Graph {what}; {_ANSWERED}"
        error = TransientError(reason, message, explanation)
        error.of_range = reason != "throttled"
        raise error

    def _reject(
        self, exchange: Exchange | None, reason: PermanentReason, what: str, *, of_range: bool = False
    ) -> NoReturn:
        message = f"Graph {what} (tenant {self._tenant.label})."
        self.health.rejected(reason, message, time.monotonic(), may_pass=of_range)
        if exchange is not None:
            self._failures.record(exchange, what)
        error = PermanentError(reason, message, f"Graph {what}")
        error.of_range = of_range
        raise error

    def _finished(self, priority: int, status: str, begun: float) -> None:
        now = time.monotonic()
        self._events.request_finished(lane_name(priority), status, now - begun)
        self._report_throttled(now)

    def _report_throttled(self, now: float) -> None:
        throttled_s = self.budget.throttled_s(now)
        if throttled_s > self._reported_throttled_s:
            self._events.throttled(throttled_s - self._reported_throttled_s)
            self._reported_throttled_s = throttled_s


def _call(window: Window) -> str:
    start, end = (instant.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ") for instant in (window.start, window.end))
    return f"communications/callRecords/getDirectRoutingCalls(fromDateTime={start},toDateTime={end})"
