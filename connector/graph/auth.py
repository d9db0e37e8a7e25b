"""Access tokens of one tenant. They are acquired with msal, but msal itself never waits for the network.

msal is synchronous: it sends its HTTP requests through a client (`http_client`) that it calls in the middle of its
work. A sign-in that hangs would block a thread, and with many tenants it would block all threads. This module therefore
runs msal repeatedly. Each time, msal gets the responses that have arrived so far and is stopped at the first missing
one. The event loop then sends the request for the missing response, and msal runs again from the start. The few threads
only compute signatures and read secrets.

Rules:

1. At most one token request per tenant is in flight. All callers that need the token wait for the same request.
2. A token is renewed in the last quarter of its lifetime. The old token is still valid then, so a short outage of
   sign-in has no effect.
3. After a failure the msal application is created again: msal caches errors in memory, and a changed secret needs a new
   instance in any case.
4. The token of a managed identity is requested without a proxy. The module checks that the token belongs to the
   configured tenant, because Azure alone determines the tenant of a managed identity.
"""

import asyncio
import contextlib
import math
import random
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any, NamedTuple, TypeVar

from yarl import URL

from connector import log
from connector.config.settings import EventHubs, Tenant
from connector.core.budget import FIRST_PAUSE_S, Backoff, Elapsed, retry_after_s
from connector.errors import ConnectorError, PermanentError, TransientError
from connector.graph import entra_errors, identity, token_claims
from connector.graph.directories import GUID, Directories
from connector.graph.health import Health
from connector.graph.replay import MissingAnswerError, Replies, Request
from connector.graph.transport import BrokenAnswerError, Response, Transport

logger = log.get(__name__)
_T = TypeVar("_T")

_MAX_BYTES = 1 << 20
_MOST_ANSWERS = 8  # metadata and token are two requests
_SHORTEST_LIFETIME_S = 60.0
_LOOK_EVERY_S = 10.0
_ANSWERED = "wait: the service responds, and the connector retries until the fault ends"
_PASSING_OF_AZURE = (404, 410)  # the machine's metadata service is being updated


class Token(NamedTuple):
    """Access token with its times.

    `serves_until` and `renew_at` are monotonic seconds, `expires_at` is epoch seconds. The token is renewed from
    `renew_at` on and is not used after `serves_until`.
    """

    text: str
    serves_until: float
    renew_at: float
    expires_at: float
    directory: str = ""
    "Id of the directory that the token gives access to. It is empty if the token does not state it."


class Pauses:
    """Pauses between a tenant's sign-in requests, caused by `Retry-After` headers and by exponential back-off."""

    def __init__(self) -> None:
        self.backoff = Backoff()
        self.stopped_until = -math.inf
        self.asked = Elapsed()


class SignIn:
    """Sign-in of one tenant. It acquires, caches and renews the tenant's access token."""

    def __init__(  # noqa: PLR0913
        self,
        transport: Transport,
        pool: ThreadPoolExecutor,
        tenant: Tenant | EventHubs,
        *,
        authority: str,
        scope: str,
        health: Health,
        pauses: "Pauses | None" = None,
        directories: Directories | None = None,
    ) -> None:
        """Create the sign-in of a tenant.

        `pauses` are the waiting times after failures, which a new sign-in of the same tenant takes over. `directories`
        is the record of which tenant reads which Entra directory. It prevents two tenants from reading the same
        directory. Without it, this is not checked.
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
        self._directories = directories
        self._credential: identity.Credential | None = None
        self._credential_problem = ""
        self._look: asyncio.Task[identity.Credential | None] | None = None
        self._check_files_at = -math.inf
        self._last_problem = ""
        self._correlation_id = ""
        self.graph_host = ""
        "Host of Graph in the tenant's cloud. It is empty until the tenant's sign-in metadata was read."

    def asked_s(self, now: float) -> float:
        """Return for how many seconds, until `now`, `Retry-After` headers of sign-in have stopped requests."""
        return self._pauses.asked.at(now)

    async def token(self) -> str:
        """Return a valid access token. If there is none, acquire one, after the pause that follows a failed sign-in.

        Raises PermanentError or TransientError if sign-in fails.
        """
        return (await self.held()).text

    async def held(self) -> Token:
        """Return a valid access token together with its times. If there is none yet, sign in first.

        Raises the errors of `token`.
        """
        now = time.monotonic()
        if self._held is not None and now < self._held.serves_until:
            self._check_reader(self._held.directory)
            if now >= self._held.renew_at:
                self._start()
            elif now >= self._check_files_at:
                self._check_files_at = now + _LOOK_EVERY_S
                self._look = asyncio.create_task(self._look_at_files(), name=f"credential {self._tenant.label}")
            return self._held
        return await asyncio.shield(self._start())

    def drop(self, token: str) -> None:
        """Discard a token, because Graph rejected it. The next call of `token` acquires another one."""
        if self._held is not None and self._held.text == token:
            self._held = None

    async def close(self) -> None:
        """Cancel the token request in flight, and release the directory, so that another tenant may read it."""
        if self._directories is not None and isinstance(self._tenant, Tenant):
            self._directories.end(self._tenant)
        for task in (self._flight, self._look):
            if task is not None and not task.done():
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError, ConnectorError):
                    await task

    def _start(self) -> asyncio.Task[Token]:
        if self._flight is None or self._flight.done():
            self._flight = asyncio.create_task(self._renew(), name=f"sign-in {self._tenant.label}")
            self._flight.add_done_callback(_retrieve_exception)
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
        credential = await self._read_credential()
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
        claims = token_claims.read(text)
        directory = claims.tenant.lower() if claims else ""
        if credential.kind == "managed_identity":
            self._check_tenant(directory)
        self._check_reader(directory)
        lifetime_s = _lifetime_s(result.get("expires_in"))
        return Token(
            text,
            serves_until=asked_at + lifetime_s - min(30.0, lifetime_s / 10),
            renew_at=asked_at + lifetime_s - min(max(300.0, lifetime_s / 4), lifetime_s / 2),
            expires_at=time.time() + lifetime_s - (time.monotonic() - asked_at),
            directory=directory,
        )

    async def _look_at_files(self) -> identity.Credential | None:
        """Read the credential again if one of its files has changed. Return None if no file has changed.

        The purpose is an early log message: a file may become unusable long before the next token request needs it.
        """
        if not await self._compute(lambda: identity.has_changed(self._tenant.identity)):
            return None
        return await self._read_credential()

    async def _read_credential(self) -> identity.Credential:
        """Read and return the current credential. If it cannot be used, return the last usable one.

        Raises PermanentError if there was no usable credential yet.
        """
        try:
            credential = await self._compute(lambda: identity.read(self._tenant.identity))
        except identity.CredentialError as error:
            if self._credential is None:
                raise self._rejected(str(error)) from error
            if str(error) != self._credential_problem:
                self._credential_problem = str(error)
                name, _, problem = str(error).partition(" ")
                logger.warning("file_unreadable", name=name, tenant=self._tenant.label, problem=problem)
            return self._credential
        if self._credential_problem:
            name, self._credential_problem = self._credential_problem.partition(" ")[0], ""
            logger.info("file_reloaded", name=name, tenant=self._tenant.label)
        self._credential = credential
        return credential

    def _check_reader(self, directory: str) -> None:
        """Raise PermanentError if another configured tenant reads the same directory.

        Otherwise the rows of the directory would be published twice.
        """
        if self._directories is None or not directory or not isinstance(self._tenant, Tenant):
            return
        other = self._directories.other_reader(directory, self._tenant)
        if other is not None:
            error = self._rejected(
                f"tenant {other.label} has the same directory {directory}, so its rows would be published twice; remove"
                " one of the two tenants"
            )
            self._health.rejected(error.reason, str(error), time.monotonic())
            raise error

    def _check_tenant(self, directory: str) -> None:
        """Raise PermanentError if a managed identity belongs to another directory than the tenant.

        `directory` is the directory of the managed identity. Without this check, its rows would be published as rows of
        the configured tenant.
        """
        here = self._tenant.id.lower()
        if GUID.fullmatch(here) and GUID.fullmatch(directory) and here != directory:
            raise self._rejected(
                f"the managed identity belongs to tenant {directory}, and cannot read another tenant; configure an"
                " application with a secret, a certificate or workload identity for this tenant"
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
                    raise self._transient(f"needs more than {_MOST_ANSWERS} requests for one token") from None
                request = missing.request
            except (PermanentError, TransientError):
                raise
            except Exception as error:  # noqa: BLE001
                # msal does not validate responses, and its exceptions may quote them, tokens included.
                raise self._transient(f"returned a response that cannot be parsed ({type(error).__name__})") from None
            answers.append(await self._fetch(request, credential))

    async def _fetch(self, request: Request, credential: identity.Credential) -> Response:
        """Send a request for msal. Return the response if it has status 200 and a JSON object as its body.

        Raises PermanentError or TransientError for any other response. msal must not receive such a response, because
        msal would write all of it to the log.
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
            raise self._transient(f"failed: {error}", remedy="") from None
        passing = (408, 429, *_PASSING_OF_AZURE) if by_azure else (408, 429)
        if answer.status >= 500 or answer.status in passing:
            self._stop(answer)
            refusal = entra_errors.read(entra_errors.parse(answer.body) or {}, credential.kind)
            codes, wait = (f" {refusal.codes}", refusal.wait) if refusal is not None else ("", "")
            raise self._transient(f"answered {answer.status}{codes}", wait or _ANSWERED)
        document = entra_errors.parse(answer.body)
        if document is None:
            raise self._transient(f"answered {answer.status} with a body that is not JSON")
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
        explanation = f"sign-in at {place} {what}"
        if remedy:
            explanation += f"; {remedy}"
        return TransientError(
            "unreachable", f"Sign-in of {self._tenant.label} at {place} {what}; trying again.", explanation
        )

    def _rejected(self, what: str) -> PermanentError:
        return PermanentError("sign_in", f"Sign-in of {self._tenant.label} is refused: {what}.", what)

    def _refusal(self, document: dict[str, Any], credential: identity.Credential) -> PermanentError | TransientError:
        refusal = entra_errors.read(document, credential.kind)
        if refusal is None:
            return self._transient("returned a response without a token")
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


def _retrieve_exception(flight: asyncio.Task[Token]) -> None:
    """Retrieve the exception of a finished task, because asyncio logs every exception that was never retrieved.

    Normally, the callers that wait for the task retrieve it. But all of them may have been cancelled.
    """
    if not flight.cancelled():
        flight.exception()
