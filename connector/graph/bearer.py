"""Tokens for clients that block: an event loop of its own, in a thread of its own, signs in as for Graph."""

import asyncio
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Protocol

from connector.core.health import Health
from connector.errors import ConnectorError
from connector.graph.auth import SignIn, SignInTarget, Token
from connector.graph.transport import Transport
from connector.trust import Trust

# A client's constructor waits 10 s for its first token, and fails then.
_PATIENCE_S = 5.0
_UNUSABLE = "none"
_UNUSABLE_S = 5.0


class SignInContext(Protocol):
    """What is needed of the settings of Graph."""

    @property
    def authority(self) -> str:
        """Sign-in's root URL, without the tenant."""

    @property
    def ca_bundle(self) -> Path | None:
        """A PEM file, or None for the system's authorities."""

    @property
    def tls_strict(self) -> bool:
        """Whether certificates of CAs have to follow RFC 5280 to the letter."""

    @property
    def timeout(self) -> timedelta:
        """For one whole answer."""


@dataclass(frozen=True, slots=True)
class Bearer:
    """`librdkafka`'s `oauth_cb`. Any thread may call it; none waits longer than 5 s.

    While sign-in is away it gives out a token that no broker takes: a constructor would fail otherwise, and what it is
    made for is to wait, as it waits for brokers. librdkafka asks again within seconds.
    """

    sign_in: SignIn
    loop: asyncio.AbstractEventLoop

    @classmethod
    def start(cls, surroundings: SignInContext, account: SignInTarget, scope: str) -> "Bearer":
        """With a thread that lives as long as the process. Raises ConfigurationError."""
        loop = asyncio.new_event_loop()
        threading.Thread(target=loop.run_forever, name="sign-in of brokers", daemon=True).start()
        trust = Trust("graph", surroundings.ca_bundle, strict=surroundings.tls_strict)
        transport = Transport(surroundings.timeout.total_seconds(), trust)
        asyncio.run_coroutine_threadsafe(transport.__aenter__(), loop).result()
        pool = ThreadPoolExecutor(1, thread_name_prefix="sign-in of brokers")
        sign_in = SignIn(transport, pool, account, authority=surroundings.authority, scope=scope, health=Health())
        return cls(sign_in, loop)

    def __call__(self, _: str | None = None) -> tuple[str, float]:
        """Token and the epoch second at which it ends."""
        waiting: Future[Token] = asyncio.run_coroutine_threadsafe(self.sign_in.held(), self.loop)
        try:
            token = waiting.result(_PATIENCE_S)
        except (ConnectorError, TimeoutError):
            # SignIn has logged why; what it began goes on.
            waiting.cancel()
            return _UNUSABLE, time.time() + _UNUSABLE_S
        return token.text, token.expires_at
