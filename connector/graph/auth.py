"""Access tokens of one tenant, acquired with msal but without letting msal wait for the network.

msal is synchronous: it calls its `http_client` in the middle of its own work. A sign-in that hangs would block a
thread, and with many tenants it would block all threads. msal therefore runs as a function of the responses that it
needs: it receives the responses that have arrived and stops at the first missing one, the event loop makes that
request, and msal runs again from the start. The few threads only compute signatures and read secrets.

Rules:

1. At most one token request per tenant is in flight; all callers that need the token wait for the same request.
2. A token is renewed in the last quarter of its lifetime while it is still valid, so that a short outage of sign-in
   has no effect.
3. After a failure the msal application is created again: msal caches errors in memory, and a changed secret needs a
   new instance in any case.
4. A managed identity is requested without a proxy, and its token must belong to the configured tenant, because Azure
   chooses the tenant.
"""

import asyncio
import contextlib
import math
import random
import re
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any, NamedTuple, Protocol, TypeVar

from yarl import URL

from connector import log
from connector.core.budget import FIRST_PAUSE_S, Backoff, Elapsed, retry_after_s
from connector.core.health import Health
from connector.errors import ConnectorError, PermanentError, TransientError
from connector.graph import identity, permit, refusals
from connector.graph.replay import MissingAnswerError, Replies, Request
from connector.graph.transport import BrokenAnswerError, Response, Transport

logger = log.get(__name__)
_T = TypeVar("_T")

_MAX_BYTES = 1 << 20
_MOST_ANSWERS = 8  # metadata and token are two requests
_SHORTEST_LIFETIME_S = 60.0
_GUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_ANSWERED = "wait: it was reached, and it answers again when its fault is over"
_PASSING_OF_AZURE = (404, 410)  # the machine's metadata service is being updated


class SignInTarget(Protocol):
    """The identity that signs in, and the tenant in which it signs in."""

    @property
    def id(self) -> str:
        """The tenant's id, as Graph and sign-in know it."""

    @property
    def label(self) -> str:
        """The tenant's name for log events and messages."""

    @property
    def identity(self) -> identity.Identity:
        """The identity with which the tenant is signed in."""


class Tenant(SignInTarget, Protocol):
    """The settings of a tenant that a source needs."""

    @property
    def requests_per_minute(self) -> float:
        """The request budget: the maximum number of requests to Graph within any 60 s."""


class Token(NamedTuple):
    """An access token with its times.

    `serves_until` and `renew_at` are monotonic seconds, `expires_at` is epoch seconds. The token is renewed from
    `renew_at` on and is not used after `serves_until`.
    """

    text: str
    serves_until: float
    renew_at: float
    expires_at: float


class Pauses:
    """The pauses of a tenant's sign-in, set by its `Retry-After` headers and by exponential back-off."""

    def __init__(self) -> None:
        self.backoff = Backoff()
        self.stopped_until = -math.inf
        self.asked = Elapsed()


class SignIn:
    """The access tokens of one tenant."""

    def __init__(
        self,
        transport: Transport,
        pool: ThreadPoolExecutor,
        tenant: SignInTarget,
        *,
        authority: str,
        scope: str,
        health: Health,
        pauses: "Pauses | None" = None,
    ) -> None:
        """Create the sign-in of a tenant.

        `pauses` are those of the tenant's previous sign-in, if there was one.
        """
        self._transport = transport
        self._pool = pool
        self._tenant = tenant
        self._authority = authority
        self._scope = scope
        self._health = health
        self._held: Token | None = None
        self._flight: asyncio.Task[Token] | None = None
        self._pauses = pauses or Pauses()
        self._replies = Replies()
        self._application: tuple[identity.Credential, identity.Application] | None = None
        self._last_problem = ""
        self._correlation_id = ""
        self.graph_host = ""
        "The host of Graph in the tenant's cloud, empty until the tenant's sign-in metadata has been read."

    def asked_s(self, now: float) -> float:
        """Return the seconds up to `now` during which a `Retry-After` of sign-in held requests back."""
        return self._pauses.asked.at(now)

    async def token(self) -> str:
        """Return an access token that is valid now, after waiting out the pauses of sign-in.

        Raise PermanentError or TransientError when sign-in fails.
        """
        return (await self.held()).text

    async def held(self) -> Token:
        """Return an access token that is valid now, with its times. Raise the same errors as `token`."""
        now = time.monotonic()
        if self._held is not None and now < self._held.serves_until:
            if now >= self._held.renew_at:
                self._start()
            return self._held
        return await asyncio.shield(self._start())

    def drop(self, token: str) -> None:
        """Discard a token that Graph rejected, so that it is not returned again."""
        if self._held is not None and self._held.text == token:
            self._held = None

    async def close(self) -> None:
        """Cancel a token request that is in flight."""
        if self._flight is not None and not self._flight.done():
            self._flight.cancel()
            with contextlib.suppress(asyncio.CancelledError, ConnectorError):
                await self._flight

    def _start(self) -> asyncio.Task[Token]:
        if self._flight is None or self._flight.done():
            self._flight = asyncio.create_task(self._renew(), name=f"sign-in {self._tenant.label}")
            self._flight.add_done_callback(_look_at)
        return self._flight

    async def _renew(self) -> Token:
        await asyncio.sleep(max(self._pauses.backoff.until, self._pauses.stopped_until) - time.monotonic())
        begun = time.monotonic()
        held = self._held
        try:
            token = await self._acquire()
        except (PermanentError, TransientError) as error:
            self._failed(error, held, begun)
            raise
        self._pauses.backoff.succeeded(begun)
        self._health.signed_in()
        self._last_problem = ""
        self._held = token
        return token

    def _failed(self, error: PermanentError | TransientError, held: Token | None, begun: float) -> None:
        now = time.monotonic()
        self._application = None
        if held is not None and self._held is held and now < held.serves_until:
            self._held = held._replace(renew_at=now + 30.0 + 30.0 * random.random())  # noqa: S311
        elif isinstance(error, PermanentError):
            self._health.rejected(error.reason, str(error), now)
        else:
            self._health.failed_transiently(error.reason, str(error), begun)
            self._pauses.backoff.failed(begun, now, FIRST_PAUSE_S["broken"], random.random())  # noqa: S311
        if str(error) != self._last_problem:
            self._last_problem = str(error)
            logger.warning(
                "sign_in_failed",
                tenant=self._tenant.label,
                reason=error.reason,
                problem=str(error),
                correlation_id=self._correlation_id,
            )

    async def _acquire(self) -> Token:
        try:
            credential = await self._compute(lambda: identity.read(self._tenant.identity))
        except identity.CredentialError as error:
            raise self._rejected(str(error)) from error
        if self._application is None or self._application[0] != credential:
            authority = f"{self._authority.rstrip('/')}/{self._tenant.id}"
            application = await self._compute_with_answers(
                lambda: identity.application(credential, authority, self._replies), credential
            )
            self._application = (credential, application)
        application = self._application[1]
        asked_at = time.monotonic()
        result = await self._compute_with_answers(lambda: application.acquire(self._scope), credential)
        text = result.get("access_token")
        if not isinstance(text, str) or not text:
            raise self._refusal(result, credential)
        if credential.kind == "managed_identity":
            self._check_tenant(text)
        lifetime_s = _lifetime_s(result.get("expires_in"))
        return Token(
            text,
            serves_until=asked_at + lifetime_s - min(30.0, lifetime_s / 10),
            renew_at=asked_at + lifetime_s - min(max(300.0, lifetime_s / 4), lifetime_s / 2),
            expires_at=time.time() + lifetime_s - (time.monotonic() - asked_at),
        )

    def _check_tenant(self, token: str) -> None:
        """Raise PermanentError if a token belongs to another tenant.

        The other tenant's rows would be published as rows of this tenant.
        """
        known = permit.read(token)
        here, there = self._tenant.id.lower(), known.tenant.lower() if known else ""
        if _GUID.fullmatch(here) and _GUID.fullmatch(there) and here != there:
            raise self._rejected(
                f"the managed identity is of tenant {there}, and can read no other; configure an application with a"
                " secret, a certificate or workload identity for this one"
            )

    async def _compute(self, function: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, function)

    async def _compute_with_answers(self, function: Callable[[], _T], credential: identity.Credential) -> _T:
        answers: list[Response] = []
        while True:
            self._replies.rewind(answers)
            try:
                return await self._compute(function)
            except MissingAnswerError as missing:
                if len(answers) == _MOST_ANSWERS:
                    raise self._transient("asks for ever more requests") from None
                request = missing.request
            except (PermanentError, TransientError):
                raise
            except Exception as error:  # noqa: BLE001
                # msal does not validate responses, and its exceptions may quote them, tokens included.
                raise self._transient(f"gave an answer that is not understood ({type(error).__name__})") from None
            answers.append(await self._fetch(request, credential))

    async def _fetch(self, request: Request, credential: identity.Credential) -> Response:
        """Return a response with status 200 and a JSON object as its body.

        Raise PermanentError or TransientError otherwise.

        msal must not see any other response, because it writes such a response to the log in full.
        """
        by_azure = credential.kind == "managed_identity"
        try:
            answer = await self._transport.ask(
                request.method,
                URL(request.url, encoded=True),
                headers=request.headers,
                form=request.form,
                max_bytes=_MAX_BYTES,
                through_proxy=not by_azure,
            )
        except BrokenAnswerError as error:
            raise self._transient(f"cannot be asked: {error}", remedy="") from None
        passing = (408, 429, *_PASSING_OF_AZURE) if by_azure else (408, 429)
        if answer.status >= 500 or answer.status in passing:
            self._stop(answer)
            refusal = refusals.read(refusals.parse(answer.body) or {}, credential.kind)
            codes, wait = (f" {refusal.codes}", refusal.wait) if refusal is not None else ("", "")
            raise self._transient(f"answered {answer.status}{codes}", wait or _ANSWERED)
        document = refusals.parse(answer.body)
        if document is None:
            raise self._transient(f"answered {answer.status} without JSON")
        if answer.status != 200:
            raise self._refusal(document, credential)
        host = document.get("msgraph_host")
        self.graph_host = host.lower() if isinstance(host, str) else self.graph_host
        return answer

    def _stop(self, answer: Response) -> None:
        wait_s = retry_after_s(answer.headers.get("retry-after"), datetime.now(UTC))
        if wait_s is not None:
            now = time.monotonic()
            self._pauses.stopped_until = max(self._pauses.stopped_until, now + wait_s)
            self._pauses.asked.extend(now, now + wait_s)

    def _transient(self, what: str, remedy: str = _ANSWERED) -> TransientError:
        managed = self._tenant.identity.managed_identity
        place = "Azure's identity endpoint of this machine" if managed else URL(self._authority).host
        told = f"sign-in at {place} {what}"
        if remedy:
            told += f"; {remedy}"
        return TransientError("unreachable", f"Sign-in of {self._tenant.label} at {place} {what}; trying again.", told)

    def _rejected(self, what: str) -> PermanentError:
        return PermanentError("sign_in", f"Sign-in of {self._tenant.label} is refused: {what}.", what)

    def _refusal(self, document: dict[str, Any], credential: identity.Credential) -> PermanentError | TransientError:
        refusal = refusals.read(document, credential.kind)
        if refusal is None:
            return self._transient("gave an answer that is no token")
        self._correlation_id = refusal.correlation_id
        if not refusal.remedy:
            return self._transient(f"answered {refusal.codes}", refusal.wait or _ANSWERED)
        return self._rejected(f"{refusal.remedy} ({refusal.codes})")


def _lifetime_s(expires_in: object) -> float:
    try:
        lifetime_s = float(expires_in)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return _SHORTEST_LIFETIME_S
    return min(lifetime_s, 86_400.0) if 0 < lifetime_s < math.inf else _SHORTEST_LIFETIME_S


def _look_at(flight: asyncio.Task[Token]) -> None:
    """Retrieve the exception of a finished task, because asyncio logs exceptions that were never retrieved.

    The callers that waited for the task may have been cancelled.
    """
    if not flight.cancelled():
        flight.exception()
