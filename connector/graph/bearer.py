"""Access tokens for the Kafka clients.

A thread with its own event loop acquires them, because the clients are synchronous.
"""

import asyncio
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from connector.config.settings import EventHubs, Graph
from connector.errors import ConnectorError
from connector.graph.auth import SignIn, Token
from connector.graph.health import Health
from connector.graph.transport import Transport
from connector.tls import Trust

# A client's constructor fails after waiting 10 s for its first token.
_PATIENCE_S = 5.0
_UNUSABLE = "none"
_UNUSABLE_S = 5.0


@dataclass(frozen=True, slots=True)
class Bearer:
    """Callback that gives librdkafka its tokens (`oauth_cb`). It is thread-safe and returns within 5 s.

    While sign-in is unavailable, it returns an invalid token, because a client without any token could not be created.
    Every broker rejects the invalid token. The client then behaves as if brokers were unavailable: librdkafka calls
    this callback again within seconds.
    """

    sign_in: SignIn
    loop: asyncio.AbstractEventLoop

    @classmethod
    def start(cls, graph: Graph, target: EventHubs) -> "Bearer":
        """Create the callback, and start its event loop in a thread that lives as long as the process.

        `target` names the brokers to sign in to. `graph` holds the settings of TLS and time-outs. Raises
        ConfigurationError if the CA bundle cannot be read.
        """
        loop = asyncio.new_event_loop()
        threading.Thread(target=loop.run_forever, name="sign-in of brokers", daemon=True).start()
        trust = Trust("graph", graph.ca_bundle, strict=graph.tls_strict)
        transport = Transport(graph.timeout.total_seconds(), trust)
        asyncio.run_coroutine_threadsafe(transport.__aenter__(), loop).result()
        pool = ThreadPoolExecutor(1, thread_name_prefix="sign-in of brokers")
        sign_in = SignIn(transport, pool, target, authority=graph.authority, scope=target.scope, health=Health())
        return cls(sign_in, loop)

    def __call__(self, _: str | None = None) -> tuple[str, float]:
        """Return a token and its expiry time in epoch seconds."""
        waiting: Future[Token] = asyncio.run_coroutine_threadsafe(self.sign_in.held(), self.loop)
        try:
            token = waiting.result(_PATIENCE_S)
        except (ConnectorError, TimeoutError):
            # SignIn has logged the reason. Its token request continues, and the next call of this method uses the
            # result.
            waiting.cancel()
            return _UNUSABLE, time.time() + _UNUSABLE_S
        return token.text, token.expires_at
