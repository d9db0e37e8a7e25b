"""Access tokens for synchronous clients, from an event loop in a separate thread that signs in as for Graph."""

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

# A client's constructor fails after waiting 10 s for its first token.
_PATIENCE_S = 5.0
_UNUSABLE = "none"
_UNUSABLE_S = 5.0


class SignInContext(Protocol):
    """The settings of Graph that signing in needs."""

    @property
    def authority(self) -> str:
        """The root URL of sign-in, without the tenant."""

    @property
    def ca_bundle(self) -> Path | None:
        """A PEM file with certificate authorities, or None for those of the system."""

    @property
    def tls_strict(self) -> bool:
        """Return whether CA certificates must conform to RFC 5280 strictly."""

    @property
    def timeout(self) -> timedelta:
        """The time limit for one complete response."""


@dataclass(frozen=True, slots=True)
class Bearer:
    """Token callback of librdkafka (`oauth_cb`). It is thread-safe and returns within 5 s.

    While sign-in is unavailable it returns a token that every broker rejects. Without a token the constructor of a
    client would fail, although the client can wait for sign-in as it waits for brokers. librdkafka calls again within
    seconds.
    """

    sign_in: SignIn
    loop: asyncio.AbstractEventLoop

    @classmethod
    def start(cls, surroundings: SignInContext, account: SignInTarget, scope: str) -> "Bearer":
        """Start the event loop in a thread that lives as long as the process. Raise ConfigurationError."""
        loop = asyncio.new_event_loop()
        threading.Thread(target=loop.run_forever, name="sign-in of brokers", daemon=True).start()
        trust = Trust("graph", surroundings.ca_bundle, strict=surroundings.tls_strict)
        transport = Transport(surroundings.timeout.total_seconds(), trust)
        asyncio.run_coroutine_threadsafe(transport.__aenter__(), loop).result()
        pool = ThreadPoolExecutor(1, thread_name_prefix="sign-in of brokers")
        sign_in = SignIn(transport, pool, account, authority=surroundings.authority, scope=scope, health=Health())
        return cls(sign_in, loop)

    def __call__(self, _: str | None = None) -> tuple[str, float]:
        """Return a token and the time at which it expires, in epoch seconds."""
        waiting: Future[Token] = asyncio.run_coroutine_threadsafe(self.sign_in.held(), self.loop)
        try:
            token = waiting.result(_PATIENCE_S)
        except (ConnectorError, TimeoutError):
            # SignIn has logged the reason. Its token request continues and serves a later call.
            waiting.cancel()
            return _UNUSABLE, time.time() + _UNUSABLE_S
        return token.text, token.expires_at
