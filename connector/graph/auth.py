"""Tokens of one tenant, by msal, which never waits for the network here.

msal blocks: it asks its `http_client` in the middle of its own work. A sign-in that hangs would hold a thread, and with
many tenants all of them. So msal is run as a function of the answers that it needs: it is given those that have come,
stops where the next one is missing, the request is made by the event loop, and msal is run again from the start. What
runs in the few threads is only its computing (signatures) and the reading of secrets.

Rules:

1. At most one token request is in flight a tenant; all who want the token wait for the same one.
2. A token is renewed in its last quarter while it still serves, so that sign-in may be away for a while unnoticed.
3. What failed is built anew: msal replays refusals from memory, and a changed secret needs a new instance anyhow.
"""

import asyncio
import contextlib
import json
import math
import random
import re
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any, NamedTuple, Protocol, TypeVar
from urllib.parse import urlencode

import msal
from yarl import URL

from connector import log
from connector.core.budget import FIRST_PAUSE_S, Backoff, Elapsed, retry_after_s
from connector.core.health import Health
from connector.errors import ConnectorError, RejectedError, WeatherError
from connector.graph.transport import Answer, BrokenAnswerError, Transport

logger = log.get(__name__)
_T = TypeVar("_T")

_MAX_BYTES = 1 << 20
_MOST_ANSWERS = 8  # discovery and token are two
_SHORTEST_LIFETIME_S = 60.0
_AADSTS = re.compile(r"AADSTS([0-9]{4,9})")
_SAFE = re.compile(r"[A-Za-z0-9_.:-]{1,64}")
_PASSING = {"temporarily_unavailable", "server_error", "request_timeout"}
_PASSING_CODES = {90033, 50196}

_REMEDIES = {
    7000215: "the client secret is wrong; configure the secret's value, not its id",
    7000222: "the client secret has expired; create a new one for the application and configure it",
    7000216: "a client secret is missing; configure client_secret",
    7000218: "a client secret is missing; configure client_secret",
    700016: "the application is not known in this tenant; check client_id, and give admin consent in this tenant",
    7000112: "the application is disabled in this tenant; enable its enterprise application",
    90002: "the tenant does not exist in this cloud; check the tenant's id and graph.cloud",
    900023: "the tenant's id is not valid; check it",
    900021: "the tenant's id is not valid; check it",
    500011: "Graph is not known to this tenant; check graph.cloud",
    53003: "a Conditional Access policy blocks the application; exclude it, or allow this network",
    1002012: "the scope is not valid for an application; check graph.cloud",
}
_REMEDIES_BY_ERROR = {
    "invalid_client": "the credential does not fit; check client_id and client_secret",
    "unauthorized_client": "the application may not sign in here; check client_id, and give admin consent",
    "invalid_tenant": "the tenant does not exist in this cloud; check the tenant's id and graph.cloud",
    "invalid_scope": "the scope is not valid; check graph.cloud",
}


class Secret(Protocol):
    """A value that may change on disk and is never shown."""

    def get(self) -> str:
        """The value as it is now."""


class Identity(Protocol):
    """What a tenant is signed in with."""

    @property
    def client_id(self) -> str | None:
        """The application's id."""

    @property
    def client_secret(self) -> Secret | None:
        """Its secret."""


class Tenant(Protocol):
    """What is needed of a tenant's settings."""

    @property
    def id(self) -> str:
        """As Graph and sign-in know it."""

    @property
    def label(self) -> str:
        """As people know it."""

    @property
    def identity(self) -> Identity:
        """What it is signed in with."""

    @property
    def requests_per_minute(self) -> float:
        """The most that may be asked in any minute."""


class _Token(NamedTuple):
    text: str
    serves_until: float
    renew_at: float


class _Request(NamedTuple):
    method: str
    url: str
    headers: dict[str, str]
    form: bytes | None


class _MissingAnswerError(Exception):
    """msal needs the answer to `request` to go on. No OSError or ValueError: msal catches those."""

    def __init__(self, request: _Request) -> None:
        super().__init__("an answer is missing")
        self.request = request


class _Reply:
    """An answer in the shape that msal expects."""

    def __init__(self, answer: Answer) -> None:
        self.status_code = answer.status
        self.headers = answer.headers
        self.text = answer.body.decode(errors="replace")


class _Replies:
    """msal's `http_client`: the answers that have come, in order, then _MissingAnswerError."""

    def __init__(self) -> None:
        self.answers: list[Answer] = []
        self.given = 0

    def get(self, url: str, params: Any = None, headers: Any = None, **_: Any) -> _Reply:
        if params:
            url = f"{url}{'&' if '?' in url else '?'}{urlencode(_without_none(params))}"
        return self._reply(_Request("GET", url, _texts(headers), None))

    def post(self, url: str, params: Any = None, data: Any = None, headers: Any = None, **_: Any) -> _Reply:
        if params:
            url = f"{url}{'&' if '?' in url else '?'}{urlencode(_without_none(params))}"
        form = data if isinstance(data, str) else urlencode(_without_none(data or {}))
        names = {"Content-Type": "application/x-www-form-urlencoded", **_texts(headers)}
        return self._reply(_Request("POST", url, names, form.encode()))

    def close(self) -> None:
        """Nothing is open."""

    def _reply(self, request: _Request) -> _Reply:
        if self.given == len(self.answers):
            raise _MissingAnswerError(request)
        self.given += 1
        return _Reply(self.answers[self.given - 1])


class SignIn:
    """The tokens of one tenant."""

    def __init__(
        self,
        transport: Transport,
        pool: ThreadPoolExecutor,
        tenant: Tenant,
        *,
        authority: str,
        scope: str,
        health: Health,
    ) -> None:
        self._transport = transport
        self._pool = pool
        self._tenant = tenant
        self._authority = authority
        self._scope = scope
        self._health = health
        self._held: _Token | None = None
        self._flight: asyncio.Task[str] | None = None
        self._backoff = Backoff()
        self._replies = _Replies()
        self._application: tuple[object, msal.ConfidentialClientApplication] | None = None
        self._stopped_until = -math.inf
        self._asked = Elapsed()
        self._last_problem = ""
        self._correlation_id = ""
        self.graph_host = ""
        "Of the cloud that the tenant is in, once its metadata has told."

    def asked_s(self, now: float) -> float:
        """Seconds until now in which a `Retry-After` of sign-in held everything back."""
        return self._asked.at(now)

    async def token(self) -> str:
        """A token that serves now. RejectedError and WeatherError as sign-in decides; waits out its own pauses."""
        now = time.monotonic()
        if self._held is not None and now < self._held.serves_until:
            if now >= self._held.renew_at:
                self._start()
            return self._held.text
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

    def _start(self) -> asyncio.Task[str]:
        if self._flight is None or self._flight.done():
            self._flight = asyncio.create_task(self._renew(), name=f"sign-in {self._tenant.label}")
            self._flight.add_done_callback(_look_at)
        return self._flight

    async def _renew(self) -> str:
        await asyncio.sleep(max(self._backoff.until, self._stopped_until) - time.monotonic())
        begun = time.monotonic()
        held = self._held
        try:
            token = await self._acquire()
        except (RejectedError, WeatherError) as error:
            self._failed(error, held, begun)
            raise
        self._backoff.succeeded(begun)
        self._health.signed_in()
        self._last_problem = ""
        self._held = token
        return token.text

    def _failed(self, error: RejectedError | WeatherError, held: _Token | None, begun: float) -> None:
        now = time.monotonic()
        self._application = None
        if held is not None and self._held is held and now < held.serves_until:
            self._held = held._replace(renew_at=now + 30.0 + 30.0 * random.random())  # noqa: S311
        elif isinstance(error, RejectedError):
            self._health.rejected(error.reason, str(error), now)
        else:
            self._health.weathered(error.reason, str(error), begun)
            self._backoff.failed(begun, now, FIRST_PAUSE_S["broken"], random.random())  # noqa: S311
        if str(error) != self._last_problem:
            self._last_problem = str(error)
            logger.warning(
                "sign_in_failed",
                tenant=self._tenant.label,
                reason=error.reason,
                problem=str(error),
                correlation_id=self._correlation_id,
            )

    async def _acquire(self) -> _Token:
        credential, client_id = await self._compute(self._read_credential)
        if self._application is None or self._application[0] != credential:
            application = await self._compute_with_answers(lambda: self._build(client_id, credential))
            self._application = (credential, application)
        application = self._application[1]
        # Renewal is decided here; what msal still holds would come back instead of a new token.
        application.remove_tokens_for_client()
        asked_at = time.monotonic()
        result = await self._compute_with_answers(lambda: application.acquire_token_for_client([self._scope]))
        text = result.get("access_token")
        if not isinstance(text, str) or not text:
            raise self._refusal(result)
        lifetime_s = _lifetime_s(result.get("expires_in"))
        return _Token(
            text,
            serves_until=asked_at + lifetime_s - min(30.0, lifetime_s / 10),
            renew_at=asked_at + lifetime_s - min(max(300.0, lifetime_s / 4), lifetime_s / 2),
        )

    def _read_credential(self) -> tuple[str, str]:
        """What msal calls `client_credential`, read anew, and the client's id. Other kinds of identity belong here."""
        identity = self._tenant.identity
        if not identity.client_id or identity.client_secret is None:
            raise self._rejected("client_id or client_secret is missing; configure both, there or in [identity]")
        try:
            secret = identity.client_secret.get()
        except (ConnectorError, OSError, ValueError, LookupError) as error:
            raise self._rejected("client_secret cannot be read; check that its file is there and readable") from error
        if not secret:
            raise self._rejected("client_secret is empty; configure it")
        return secret, identity.client_id

    def _build(self, client_id: str, credential: str) -> msal.ConfidentialClientApplication:
        return msal.ConfidentialClientApplication(
            client_id,
            client_credential=credential,
            authority=f"{self._authority.rstrip('/')}/{self._tenant.id}",
            # Else msal asks another host about aliases, and its failure hides the real one.
            instance_discovery=False,
            http_client=self._replies,
        )

    async def _compute(self, function: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, function)

    async def _compute_with_answers(self, function: Callable[[], _T]) -> _T:
        answers: list[Answer] = []
        while True:
            self._replies.answers, self._replies.given = answers, 0
            try:
                return await self._compute(function)
            except _MissingAnswerError as missing:
                if len(answers) == _MOST_ANSWERS:
                    raise self._weather("asks for ever more requests") from None
                request = missing.request
            except (RejectedError, WeatherError):
                raise
            except Exception as error:  # noqa: BLE001
                # msal trusts what it is sent; what it says about it may quote it.
                raise self._weather(f"gave an answer that is not understood ({type(error).__name__})") from None
            answers.append(await self._fetch(request))

    async def _fetch(self, request: _Request) -> Answer:
        """An answer with status 200 and a JSON object: whatever else msal is shown, it logs whole."""
        try:
            answer = await self._transport.ask(
                request.method,
                URL(request.url, encoded=True),
                headers=request.headers,
                form=request.form,
                max_bytes=_MAX_BYTES,
            )
        except BrokenAnswerError as error:
            raise self._weather(f"cannot be asked: {error}") from None
        if answer.status >= 500 or answer.status in (408, 429):
            self._stop(answer)
            raise self._weather(f"answered {answer.status}")
        document = _object(answer.body)
        if document is None:
            raise self._weather(f"answered {answer.status} without JSON")
        if answer.status != 200:
            raise self._refusal(document)
        host = document.get("msgraph_host")
        self.graph_host = host.lower() if isinstance(host, str) else self.graph_host
        return answer

    def _stop(self, answer: Answer) -> None:
        wait_s = retry_after_s(answer.headers.get("retry-after"), datetime.now(UTC))
        if wait_s is not None:
            now = time.monotonic()
            self._stopped_until = max(self._stopped_until, now + wait_s)
            self._asked.extend(now, now + wait_s)

    def _weather(self, what: str) -> WeatherError:
        host = URL(self._authority).host
        told = f"sign-in at {host} {what}"
        return WeatherError("unreachable", f"Sign-in of {self._tenant.label} at {host} {what}; trying again.", told)

    def _rejected(self, what: str) -> RejectedError:
        return RejectedError("sign_in", f"Sign-in of {self._tenant.label} is refused: {what}.", what)

    def _refusal(self, document: Mapping[str, Any]) -> RejectedError | WeatherError:
        """What an OAuth error means. Its description is not repeated: it may quote what was sent."""
        error = document.get("error")
        if not isinstance(error, str) or not _SAFE.fullmatch(error):
            return self._weather("gave an answer that is no token")
        codes = _codes(document)
        correlation_id = str(document.get("correlation_id") or "")
        self._correlation_id = correlation_id if _SAFE.fullmatch(correlation_id) else ""
        known = ", ".join([error, *(f"AADSTS{code}" for code in codes)])
        if error in _PASSING or _PASSING_CODES.intersection(codes):
            return self._weather(f"answered {known}")
        remedy = next((_REMEDIES[code] for code in codes if code in _REMEDIES), None)
        remedy = remedy or _REMEDIES_BY_ERROR.get(error, "check the tenant's id, client_id and client_secret")
        return self._rejected(f"{remedy} ({known})")


def _codes(document: Mapping[str, Any]) -> list[int]:
    given = document.get("error_codes")
    if isinstance(given, list):
        return [code for code in given if isinstance(code, int)][:3]
    return [int(code) for code in _AADSTS.findall(str(document.get("error_description") or ""))][:3]


def _lifetime_s(expires_in: object) -> float:
    try:
        lifetime_s = float(expires_in)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return _SHORTEST_LIFETIME_S
    return min(lifetime_s, 86_400.0) if 0 < lifetime_s < math.inf else _SHORTEST_LIFETIME_S


def _object(body: bytes) -> dict[str, Any] | None:
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None


def _texts(headers: Mapping[str, Any] | None) -> dict[str, str]:
    return {name: str(value) for name, value in (headers or {}).items() if value is not None}


def _without_none(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _look_at(flight: asyncio.Task[str]) -> None:
    """Whoever waited may have gone; asyncio complains about exceptions that nobody has seen."""
    if not flight.cancelled():
        flight.exception()
