"""The HTTP endpoints, requested over the loopback interface."""

import asyncio
import base64
import hashlib
import json
import re
import socket
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from prometheus_client.openmetrics.exposition import CONTENT_TYPE_LATEST
from structlog.testing import capture_logs

from connector.errors import ConfigurationError, FatalError
from connector.metrics.gauges import TenantView
from connector.metrics.worker import Metrics
from connector.web import Web

PATHS = ("/", "/metrics", "/livez", "/readyz", "/status")


class Source:
    """Replacement for the service. The test chooses what it reports."""

    def __init__(self) -> None:
        self.tenants: list[dict[str, Any]] = []
        self.ready_answer: tuple[bool, list[str]] = (True, [])
        self.alive_answer: tuple[bool, list[str]] = (True, [])
        self.fault: Exception | None = None

    async def status(self) -> dict[str, Any]:
        if self.fault:
            raise self.fault
        return {"app": "direct-routing", "version": "1", "shards": 8, "tenants": self.tenants, "jobs": []}

    def ready(self) -> tuple[bool, list[str]]:
        return self.ready_answer

    def alive(self) -> tuple[bool, list[str]]:
        return self.alive_answer


@pytest.fixture
def source() -> Source:
    return Source()


@pytest.fixture
def metrics() -> Metrics:
    return Metrics("1", 8)


@pytest.fixture
async def client(source: Source, metrics: Metrics) -> AsyncIterator[aiohttp.ClientSession]:
    async with (
        Web("127.0.0.1", 0, source, metrics) as web,
        aiohttp.ClientSession(f"http://127.0.0.1:{web.port}") as session,
    ):
        yield session


@asynccontextmanager
async def connection(port: int) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield reader, writer
    finally:
        writer.close()


@pytest.mark.parametrize("path", PATHS)
async def test_every_endpoint_answers_get_and_head(client: aiohttp.ClientSession, path: str) -> None:
    async with client.get(path) as got, client.head(path) as headed:
        assert got.status == headed.status == 200
        assert got.content_type == headed.content_type
        assert await got.read() != b""
        assert await headed.read() == b""


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"])
async def test_endpoints_refuse_methods_that_change_something(
    client: aiohttp.ClientSession, path: str, method: str
) -> None:
    async with client.request(method, path) as response:
        assert response.status == 405
        assert response.headers["Allow"] == "GET,HEAD"


@pytest.mark.parametrize("path", [*PATHS, "/nothing", "/static/../etc/passwd"])
async def test_every_response_has_security_headers(client: aiohttp.ClientSession, path: str) -> None:
    async with client.get(path) as response:
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert response.headers["Cache-Control"] == "no-store"
        assert response.headers["Referrer-Policy"] == "no-referrer"
        assert response.headers["X-Frame-Options"] == "DENY"
        assert "default-src 'none'" in response.headers["Content-Security-Policy"]
        assert response.headers["Server"] == "direct-routing-connector"


async def test_content_security_policy_allows_only_the_page_style(client: aiohttp.ClientSession) -> None:
    async with client.get("/") as response:
        policy = response.headers["Content-Security-Policy"]
        style = re.search(r"<style>(.*?)</style>", await response.text(), re.DOTALL)

    assert style
    digest = base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
    assert f"style-src 'sha256-{digest}'" in policy
    assert "unsafe" not in policy


async def test_not_found_response_lists_endpoints_but_not_the_path(client: aiohttp.ClientSession) -> None:
    async with client.get("/secret-path?token=abc") as response:
        text = await response.text()

    assert response.status == 404
    assert "/metrics" in text
    assert "secret" not in text


async def test_readyz_returns_503_with_the_reasons(client: aiohttp.ClientSession, source: Source) -> None:
    source.ready_answer = (False, ["Brokers are unreachable."])

    async with client.get("/readyz") as response:
        assert response.status == 503
        assert await response.json() == {"ready": False, "reasons": ["Brokers are unreachable."]}
    async with client.get("/livez") as response:
        assert response.status == 200
    async with client.get("/") as response:
        assert response.status == 200
        assert "Brokers are unreachable." in await response.text()


async def test_livez_returns_503_if_a_loop_is_stuck(client: aiohttp.ClientSession, source: Source) -> None:
    source.alive_answer = (False, ["Shard 3 has not turned for 61 s."])

    async with client.get("/livez") as response:
        assert response.status == 503
        assert await response.json() == {"alive": False, "reasons": ["Shard 3 has not turned for 61 s."]}


async def test_status_endpoint_returns_the_json_of_the_service(client: aiohttp.ClientSession, source: Source) -> None:
    source.tenants = [{"id": "t", "lag_seconds": 1.5, "name": "Zürich"}]

    async with client.get("/status") as response:
        assert response.content_type == "application/json"
        assert await response.json() == await source.status()


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        ("application/openmetrics-text;version=1.0.0,text/plain;q=0.2", CONTENT_TYPE_LATEST),
        ("*/*", "text/plain; version=0.0.4; charset=utf-8"),
        ("application/openmetrics-text;version=garbage", CONTENT_TYPE_LATEST),
    ],
)
async def test_metrics_endpoint_follows_the_accept_header(
    client: aiohttp.ClientSession, accept: str, content_type: str
) -> None:
    async with client.get("/metrics", headers={"Accept": accept}) as response:
        assert response.headers["Content-Type"] == content_type
        assert "# TYPE direct_routing_lag_seconds gauge" in await response.text()


async def test_long_response_is_compressed_on_request(client: aiohttp.ClientSession) -> None:
    async with client.get("/metrics", headers={"Accept-Encoding": "gzip"}) as response:
        assert response.headers["Content-Encoding"] == "gzip"
        compressed = await response.read()
    async with client.get("/metrics", headers={"Accept-Encoding": "identity"}) as response:
        assert "Content-Encoding" not in response.headers
        assert await response.read() == compressed
    async with client.get("/livez") as response:
        assert "Content-Encoding" not in response.headers


async def test_internal_error_is_logged_but_not_shown_to_clients(client: aiohttp.ClientSession, source: Source) -> None:
    source.fault = RuntimeError("inner detail")

    with capture_logs() as logs:
        async with client.get("/status") as response:
            text = await response.text()

    assert response.status == 500
    assert "inner detail" not in text
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert [(entry["event"], entry["path"]) for entry in logs] == [("http_request_failed", "/status")]


async def test_probes_respond_during_a_scrape_of_500_tenants(client: aiohttp.ClientSession, metrics: Metrics) -> None:
    for n in range(500):
        metrics.tenant(f"tenant-{n}", ("1m", "15m", "2h", "24h")).watch(lambda: TenantView(covered_through=1.0))

    async def scrape() -> int:
        async with client.get("/metrics") as response:
            return len(await response.read())

    scraping = asyncio.create_task(scrape())
    answered = 0
    while not scraping.done():
        async with client.get("/livez") as response:
            assert response.status == 200
        answered += 1

    assert await scraping > 1_000_000
    assert answered > 5


async def test_web_server_with_port_0_listens_on_a_free_port(source: Source, metrics: Metrics) -> None:
    with capture_logs() as logs:
        async with Web("127.0.0.1", 0, source, metrics) as web:
            assert web.port > 0

    assert {"event": "http_listening", "host": "127.0.0.1", "port": web.port, "log_level": "info"} in logs


async def test_occupied_port_error_has_a_remedy(source: Source, metrics: Metrics) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(
            FatalError, match=rf"^http.listen: cannot listen on 127.0.0.1:{port}: another process .*stop"
        ):
            await Web("127.0.0.1", port, source, metrics).start()


@pytest.mark.parametrize(
    ("host", "port", "words"),
    [
        ("192.0.2.1", 9464, "does not have that address"),
        ("no-such-host.invalid", 9464, "host name"),
        ("::1", 70000, ""),
    ],
)
async def test_unusable_listen_address_is_a_configuration_error(
    source: Source, metrics: Metrics, host: str, port: int, words: str
) -> None:
    with pytest.raises(
        ConfigurationError, match=rf"^http.listen: cannot listen on .*:{port}: .*{words}.*CONNECTOR_HTTP"
    ):
        await Web(host, port, source, metrics).start()


async def test_web_server_stops_within_a_second_with_open_connections(source: Source, metrics: Metrics) -> None:
    web = Web("127.0.0.1", 0, source, metrics)
    port = await web.start()
    async with connection(port) as idle, connection(port) as halfway, connection(port) as kept:
        halfway[1].write(b"GET /livez HTTP/1.1\r\nHost:")
        kept[1].write(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        await asyncio.wait_for(kept[0].readuntil(b"\r\n\r\n"), 5)
        began = time.monotonic()

        await web.stop()

        assert time.monotonic() - began < 1
        assert await asyncio.wait_for(idle[0].read(), 5) == b""
        await asyncio.wait_for(halfway[0].read(), 5)
        with pytest.raises(ConnectionRefusedError):
            async with connection(port):
                pass


async def test_web_server_stops_within_a_second_while_responding(source: Source) -> None:
    class Slow(Metrics):
        async def scrape(self, accept: str = "") -> tuple[bytes, str]:
            asked.set()
            await asyncio.sleep(3600)
            return self.render(accept)

    asked = asyncio.Event()
    web = Web("127.0.0.1", 0, source, Slow("1", 8))
    port = await web.start()
    async with connection(port) as (_, writer):
        writer.write(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
        await asyncio.wait_for(asked.wait(), 5)
        began = time.monotonic()

        await web.stop()

        assert time.monotonic() - began < 1


@pytest.mark.parametrize(
    "noise",
    [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"GET / HTTP/9.9\r\n\r\n", b"nonsense\r\n\r\n", b"\r\n" * 50],
)
async def test_invalid_http_request_ends_only_its_own_connection(
    client: aiohttp.ClientSession, caplog: pytest.LogCaptureFixture, noise: bytes
) -> None:
    async with client.get("/livez") as response:
        port = response.url.port
    assert port
    async with connection(port) as (reader, writer):
        writer.write(noise)
        writer.write_eof()
        await asyncio.wait_for(reader.read(), 5)

    async with client.get("/livez") as response:
        assert response.status == 200
    assert [record for record in caplog.records if record.levelname in {"WARNING", "ERROR", "CRITICAL"}] == []


@pytest.mark.parametrize("host", ["", "0.0.0.0", "::"])  # noqa: S104
async def test_wildcard_listen_address_serves_ipv4_and_ipv6(host: str, source: Source, metrics: Metrics) -> None:
    async with Web(host, 0, source, metrics) as web, aiohttp.ClientSession() as session:
        for loopback in ("127.0.0.1", "[::1]"):
            async with session.get(f"http://{loopback}:{web.port}/livez") as answer:
                assert answer.status == 200


async def test_ipv6_listen_address_serves_ipv6_only(source: Source, metrics: Metrics) -> None:
    async with Web("::1", 0, source, metrics) as web, aiohttp.ClientSession() as session:
        async with session.get(f"http://[::1]:{web.port}/livez") as answer:
            assert answer.status == 200
        with pytest.raises(aiohttp.ClientConnectorError):
            await session.get(f"http://127.0.0.1:{web.port}/livez")


async def test_wildcard_listen_address_works_on_a_system_without_ipv6(
    source: Source, metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "has_dualstack_ipv6", lambda: False)
    async with (
        Web("0.0.0.0", 0, source, metrics) as web,  # noqa: S104
        aiohttp.ClientSession() as session,
        session.get(f"http://127.0.0.1:{web.port}/livez") as answer,
    ):
        assert answer.status == 200


@pytest.mark.parametrize(("host", "listen"), [("::1", "[::1]"), ("127.0.0.1", "127.0.0.1"), ("", ""), ("::", "[::]")])
async def test_image_healthcheck_works_with_ipv4_and_ipv6(
    host: str, listen: str, source: Source, metrics: Metrics
) -> None:
    dockerfile = (Path(__file__).parents[2] / "deploy/Dockerfile").read_text(encoding="utf-8")
    healthcheck = re.search(r"^HEALTHCHECK .*\\\n +CMD (\[.*\])$", dockerfile, re.MULTILINE)
    assert healthcheck is not None
    _, *arguments = json.loads(healthcheck[1])
    async with Web(host, 0, source, metrics) as web:
        environment = {"CONNECTOR_HTTP__LISTEN": f"{listen}:{web.port}"}
        process = await asyncio.create_subprocess_exec(sys.executable, *arguments, env=environment)
        assert await process.wait() == 0
