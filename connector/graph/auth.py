"""Tokens of one tenant, by msal, which never waits for the network here.

msal blocks: it asks its `http_client` in the middle of its own work. A sign-in that hangs would hold a thread, and with
many tenants all of them. So msal is run as a function of the answers that it needs: it is given those that have come,
stops where the next one is missing, the request is made by the event loop, and msal is run again from the start. What
runs in the few threads is only its computing (signatures) and the reading of secrets.

Rules:

1. At most one token request is in flight a tenant; all who want the token wait for the same one.
2. A token is renewed in its last quarter while it still serves, so that sign-in may be away for a while unnoticed.
3. What failed is built anew: msal replays refusals from memory, and a changed secret needs a new instance anyhow.
4. A managed identity is asked for without a proxy, and its token must be the tenant's: Azure picks the tenant, not we.
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
_MOST_ANSWERS = 8  # discovery and token are two
_SHORTEST_LIFETIME_S = 60.0
_GUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_ANSWERED = "wait: it was reached, and it answers again when its fault is over"
_PASSING_OF_AZURE = (404, 410)  # while the machine's metadata service is updated


class SignInTarget(Protocol):
    """Who signs in where."""

    @property
    def id(self) -> str:
        """The tenant, as Graph and sign-in know it."""

    @property
    def label(self) -> str:
        """As people know it."""

    @property
    def identity(self) -> identity.Identity:
        """What it is signed in with."""


class Tenant(SignInTarget, Protocol):
    """What is needed of a tenant's settings."""

    @property
    def requests_per_minute(self) -> float:
        """The most that may be asked in any minute."""


class Token(NamedTuple):
    """Text, and until when it serves (monotonic and epoch seconds); renewed before."""

    text: str
    serves_until: float
    renew_at: float
    expires_at: float


class Pauses:
    """How long a tenant's sign-in is left alone, by its own `Retry-After` and by back-off."""

    def __init__(self) -> None:
        self.backoff = Backoff()
        self.stopped_until = -math.inf
        self.asked = Elapsed()


class SignIn:
    """The tokens of one tenant."""

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
        """`pauses`: those of the tenant's sign-in before, if any."""
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
        "Of the cloud that the tenant is in, once its metadata has told."

    def asked_s(self, now: float) -> float:
        """Seconds until now in which a `Retry-After` of sign-in held everything back."""
        return self._pauses.asked.at(now)

    async def token(self) -> str:
        """A token that serves now. PermanentError and TransientError as sign-in decides; waits out its own pauses."""
        return (await self.held()).text

    async def held(self) -> Token:
        """The same, with its times."""
        now = time.monotonic()
        if self._held is not None and now < self._held.serves_until:
            if now >= self._held.renew_at:
                self._start()
            return self._held
        return await asyncio.shield(self._start())

    def drop(self, token: str) -> None:
        """Graph did not take this token: it is not given out again."""
        if self._held is not None and self._held.text == token:
            self._held = None

    async def close(self) -> None:
        """Ends a token request that is in flight."""
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
        """Rows read with another tenant's token would be published as this one's."""
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
                # msal trusts what it is sent; what it says about it may quote it.
                raise self._transient(f"gave an answer that is not understood ({type(error).__name__})") from None
            answers.append(await self._fetch(request, credential))

    async def _fetch(self, request: Request, credential: identity.Credential) -> Response:
        """An answer with status 200 and a JSON object: whatever else msal is shown, it logs whole."""
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
    """Whoever waited may have gone; asyncio complains about exceptions that nobody has seen."""
    if not flight.cancelled():
        flight.exception()
