"""What the HTTP client makes of answers and connections that no library of a server would send."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from yarl import URL

from connector.graph.transport import Answer, Transport

DEADLINE_S = 20.0


@contextlib.asynccontextmanager
async def answering(head: bytes) -> AsyncIterator[URL]:
    """A server that gives one answer to everything: the URL of it."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(head + b"Content-Length: 2\r\nConnection: close\r\n\r\n{}")
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield URL(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/")


async def ask(url: URL, ca_bundle: Path | None = None) -> Answer:
    async with asyncio.timeout(DEADLINE_S), Transport(5.0, ca_bundle) as transport:
        return await transport.ask("GET", url, headers={}, max_bytes=1 << 20)


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


async def test_two_retry_after_headers_are_both_seen() -> None:
    head = b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 30\r\nRetry-After: 5\r\n"
    async with answering(head) as url:
        assert (await ask(url)).headers["retry-after"] == "30, 5"
