"""Network between Kafka clients and brokers on loopback. It can be cut or slowed down, and can lose one response.

It can also hide APIs of the brokers, as if the brokers did not have them.

There is one TCP proxy per broker. A broker that advertises the proxy's port is reached through the proxy by every
client that bootstraps there.
"""

import asyncio
import struct
import threading
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, Literal, Self

from tests.brokers import HOST, free_ports

END_TXN = 26
"Kafka's number of the request that ends a transaction."
ADD_OFFSETS = 25
"Kafka's number of the request that adds the offsets of a consumer group to a transaction."
TRANSACTION_API = frozenset({22, 24, ADD_OFFSETS, END_TXN, 28})
"Kafka's numbers of the requests that idempotent and transactional producers need."
Loss = Literal["request", "answer", "hold", "delay"]

_API_VERSIONS = 18
_COMPACT_SINCE = 3
"Version of the request for API versions since which arrays are compact and each entry has tagged fields."
_DEADLINE_S = 20.0
_LAST_WORD_S = 0.5


class _Connection:
    """Connection of a client, and the connection to the broker that carries its requests."""

    def __init__(self, client: asyncio.StreamWriter, broker: asyncio.StreamWriter) -> None:
        self.client = client
        self.broker = broker
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.may_ask = asyncio.Event()
        self.versions_asked: dict[int, int] = {}
        "For each pending request for API versions: the version of the request, by correlation id."


class Wire:
    """Proxy of one broker. Its methods are called in the event loop of `Wires`."""

    def __init__(self, port: int) -> None:
        self.port = port
        "Port at which clients reach it."
        self.broker_port = 0
        self.struck = 0
        "Number of requests and answers that were lost, held or delayed."
        self.opened = 0
        "Number of connections that clients have opened."
        self._server: asyncio.Server | None = None
        self._connections: set[_Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._refuses = False
        self._delay_s = 0.0
        self._is_held = False
        self._loss: tuple[int, Loss] | None = None
        self._hidden: frozenset[int] = frozenset()

    async def listen(self) -> None:
        self._server = await asyncio.start_server(self._serve, HOST, self.port)

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        for connection in list(self._connections):
            self._cut(connection)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def cut(self) -> None:
        """Cut every connection and refuse new ones until `heal`."""
        self._refuses = True
        for connection in list(self._connections):
            self._cut(connection)

    def delay(self, seconds: float) -> None:
        """Delay everything that a broker sends."""
        self._delay_s = seconds

    def hold(self) -> None:
        """Let requests pass and hold responses until `heal`."""
        self._is_held = True
        for connection in self._connections:
            connection.may_answer.clear()

    def lose(self, request: int, loss: Loss) -> None:
        """Lose each such request or its response, with the connection; or hold the response; or delay the request.

        Answers that are held and requests that are delayed continue at `heal`.
        """
        self._loss = (request, loss)

    def hide(self, requests: frozenset[int]) -> None:
        """Hide APIs from clients that connect from now on."""
        self._hidden = requests

    def heal(self) -> None:
        """End all faults except `hide`; everything that was held continues."""
        self._refuses, self._delay_s, self._is_held, self._loss = False, 0.0, False, None
        for connection in self._connections:
            connection.may_answer.set()
            connection.may_ask.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.opened += 1
        try:
            await self._carry(reader, writer)
        except asyncio.CancelledError:
            pass  # the proxy is stopped
        finally:
            writer.close()
            self._tasks.discard(task)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._refuses:
            return
        try:
            from_broker, to_broker = await asyncio.open_connection(HOST, self.broker_port)
        except OSError:
            return
        connection = _Connection(writer, to_broker)
        if self._is_held:
            connection.may_answer.clear()
        self._connections.add(connection)
        answers = asyncio.create_task(self._answers(from_broker, connection))
        try:
            await self._requests(reader, connection)
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            self._connections.discard(connection)
            answers.cancel()
            await asyncio.gather(answers, return_exceptions=True)
            to_broker.close()

    async def _requests(self, reader: asyncio.StreamReader, connection: _Connection) -> None:
        """Forward requests one by one: four bytes with the length, then the API key of the request."""
        while True:
            header = await reader.readexactly(4)
            body = await reader.readexactly(struct.unpack(">i", header)[0])
            request, version, correlation = struct.unpack_from(">hhi", body)
            if request == _API_VERSIONS:
                connection.versions_asked[correlation] = version
            loss = self._loss[1] if self._loss and request == self._loss[0] else None
            if loss is not None:
                self.struck += 1
            if loss == "request":
                return
            if loss == "delay":
                connection.may_ask.clear()
                await connection.may_ask.wait()
            elif loss is not None:
                connection.may_answer.clear()
            connection.broker.write(header + body)
            await connection.broker.drain()
            if loss == "answer":
                connection.client.close()
                await asyncio.sleep(_LAST_WORD_S)
                return

    async def _answers(self, reader: asyncio.StreamReader, connection: _Connection) -> None:
        try:
            while True:
                header = await reader.readexactly(4)
                body = await reader.readexactly(struct.unpack(">i", header)[0])
                version = connection.versions_asked.pop(struct.unpack_from(">i", body)[0], None)
                if version is not None and self._hidden:
                    body = _without(self._hidden, body, version)
                if self._delay_s:
                    await asyncio.sleep(self._delay_s)
                await connection.may_answer.wait()
                connection.client.write(struct.pack(">i", len(body)) + body)
                await connection.client.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            connection.client.close()

    @staticmethod
    def _cut(connection: _Connection) -> None:
        connection.client.transport.abort()
        connection.broker.transport.abort()


def _without(hidden: frozenset[int], body: bytes, version: int) -> bytes:
    """Return a response to a request for API versions that does not list the hidden APIs."""
    start, error = 6, struct.unpack_from(">h", body, 4)[0]
    if error or version < _COMPACT_SINCE:
        count, head, size = struct.unpack_from(">i", body, start)[0], 4, 6
    else:
        assert body[start] < 128, "one byte holds the number of entries"
        count, head, size = body[start] - 1, 1, 7
    first, end = start + head, start + head + count * size
    entries = [body[at : at + size] for at in range(first, end, size)]
    kept = [entry for entry in entries if struct.unpack_from(">h", entry)[0] not in hidden]
    length = struct.pack(">i", len(kept)) if head == 4 else bytes([len(kept) + 1])
    return body[:start] + length + b"".join(kept) + body[end:]


class Wires:
    """One proxy per broker, in a thread of their own, as a context manager.

    Every method may be called from any thread.
    """

    def __init__(self, count: int) -> None:
        self._wires = [Wire(port) for port in free_ports(count)]
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="wires", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        for wire in self._wires:
            self._wait(wire.listen())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for wire in self._wires:
            self._wait(wire.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_DEADLINE_S)
        self._loop.close()

    @property
    def ports(self) -> list[int]:
        return [wire.port for wire in self._wires]

    @property
    def bootstrap(self) -> str:
        """Return the addresses of all brokers through the proxies."""
        return ",".join(f"{HOST}:{port}" for port in self.ports)

    @property
    def struck(self) -> int:
        """Return the number of requests and answers that were lost, held or delayed."""
        return sum(wire.struck for wire in self._wires)

    @property
    def opened(self) -> int:
        """Return the number of connections that clients have opened."""
        return sum(wire.opened for wire in self._wires)

    def lead_to(self, ports: list[int]) -> None:
        """Set the ports at which the brokers listen."""
        for wire, port in zip(self._wires, ports, strict=True):
            wire.broker_port = port

    def cut(self, number: int) -> None:
        self._do(self._wires[number].cut)

    def delay(self, number: int, seconds: float) -> None:
        self._do(lambda: self._wires[number].delay(seconds))

    def hold(self, number: int) -> None:
        self._do(self._wires[number].hold)

    def lose(self, request: int, loss: Loss) -> None:
        """Lose requests or answers at every broker, because a client may ask any of them."""
        for wire in self._wires:
            self._do(lambda wire=wire: wire.lose(request, loss))  # type: ignore[misc]

    def hide(self, requests: frozenset[int]) -> None:
        """Hide APIs of every broker from clients that connect from now on."""
        for wire in self._wires:
            self._do(lambda wire=wire: wire.hide(requests))  # type: ignore[misc]

    def heal(self) -> None:
        for wire in self._wires:
            self._do(wire.heal)

    def _do(self, function: Callable[[], None]) -> None:
        async def call() -> None:
            function()

        self._wait(call())

    def _wait(self, coroutine: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(_DEADLINE_S)
