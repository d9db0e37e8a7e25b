"""Proxy on the loopback interface."""

import asyncio
import contextlib
from collections.abc import AsyncIterator


@contextlib.asynccontextmanager
async def proxy(refuses: int = 0, heads: list[bytes] | None = None) -> AsyncIterator[tuple[str, list[str]]]:
    """Run an HTTP proxy that supports CONNECT; yield its address and the list of requested destinations.

    `refuses`: the status with which it refuses every request, if not 0. `heads`: receives the head of every request.
    """
    asked: list[str] = []
    serving: set[asyncio.Task[None] | None] = set()
    writers: list[asyncio.StreamWriter] = []

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving.add(asyncio.current_task())
        head = await reader.readuntil(b"\r\n\r\n")
        place = head.split()[1].decode()
        asked.append(place)
        if heads is not None:
            heads.append(head)
        if refuses:
            writer.write(f"HTTP/1.1 {refuses} Refused\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode())
            writer.close()
            return
        host, _, port = place.rpartition(":")
        far_reader, far_writer = await asyncio.open_connection(host, int(port))
        writers.extend((writer, far_writer))
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            await asyncio.gather(pump(reader, far_writer), pump(far_reader, writer))

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", asked
    finally:
        server.close()
        for writer in writers:
            writer.close()
        await asyncio.gather(*filter(None, serving), return_exceptions=True)
        await asyncio.gather(*(writer.wait_closed() for writer in writers), return_exceptions=True)
