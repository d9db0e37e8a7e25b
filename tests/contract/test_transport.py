"""The HTTP client and responses or connections that no server library would produce."""

import asyncio
import contextlib
import dataclasses
import ssl
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import NamedTuple

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from structlog.testing import capture_logs
from yarl import URL

from connector.config import SchemaRegistry
from connector.errors import FatalError, RegistryUnavailableError
from connector.graph.transport import BrokenAnswerError, Response, Transport
from connector.kafka.registry import Registry
from connector.tls import Trust

DEADLINE_S = 20.0


@contextlib.asynccontextmanager
async def answering(head: bytes, context: ssl.SSLContext | None = None) -> AsyncIterator[URL]:
    """Run a server that sends the same response to every request; yield its URL."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            await reader.read(1)
            writer.write(head + b"Content-Length: 2\r\nConnection: close\r\n\r\n{}")
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    async with server:
        yield URL(f"{'https' if context else 'http'}://127.0.0.1:{server.sockets[0].getsockname()[1]}/")


async def ask(url: URL, ca_bundle: Path | None = None, *, strict: bool = True) -> Response:
    trust = Trust("graph", ca_bundle, strict=strict)
    async with asyncio.timeout(DEADLINE_S), Transport(5.0, trust) as transport:
        return await transport.ask("GET", url, headers={}, max_bytes=1 << 20)


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


async def test_repeated_response_header_is_joined_with_commas() -> None:
    head = b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 30\r\nRetry-After: 5\r\n"
    async with answering(head) as url:
        assert (await ask(url)).headers["retry-after"] == "30, 5"


# TLS


def _authority(*flaws: str) -> tuple[rsa.RSAPrivateKey, x509.Certificate]:
    """Return a CA that is correct except for `flaws`."""
    key = rsa.generate_private_key(65537, 2048)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Inspecting CA")])
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=9))
        .not_valid_after(now + timedelta(days=9))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical="constraints" not in flaws)
    )
    if "usage" not in flaws:
        builder = builder.add_extension(_usage(), critical=True)
    if "subject_key" not in flaws:
        builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    return key, builder.sign(key, hashes.SHA256())


def _usage() -> x509.KeyUsage:
    return x509.KeyUsage(False, False, False, False, False, True, True, False, False)  # noqa: FBT003


class Server(NamedTuple):
    """TLS context of a server, and the CA bundle of a client that trusts it."""

    context: ssl.SSLContext
    bundle: Path


@pytest.fixture
def serve_as(tmp_path: Path) -> Callable[..., Server]:
    def make(*flaws: str) -> Server:
        ca_key, ca = _authority(*flaws)
        key = rsa.generate_private_key(65537, 2048)
        now = datetime.now(UTC)
        begins = now + timedelta(days=1) if "early" in flaws else now - timedelta(days=8)
        ends = now - timedelta(days=1) if "expired" in flaws else now + timedelta(days=8)
        host = ip_address("127.0.0.9") if "address" in flaws else ip_address("127.0.0.1")
        names = [x509.DNSName("else.example")] if "host" in flaws else [x509.IPAddress(host)]
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "server")]))
            .issuer_name(ca.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(begins)
            .not_valid_after(ends)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
        )
        if "authority_key" not in flaws:
            identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key())
            builder = builder.add_extension(identifier, critical=False)
        if "purpose" in flaws:
            builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        certificate = builder.sign(ca_key, hashes.SHA256())
        chain, bundle = tmp_path / "chain.pem", tmp_path / "ca.pem"
        chain.write_bytes(
            key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
            + certificate.public_bytes(Encoding.PEM)
        )
        bundle.write_bytes(ca.public_bytes(Encoding.PEM))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(chain)
        return Server(context, bundle)

    return make


HEAD = b"HTTP/1.1 200 OK\r\n"
STRICT = [
    (("subject_key",), "Missing Subject Key Identifier"),
    (("authority_key",), "Missing Authority Key Identifier"),
    (("constraints",), "Basic Constraints of CA cert not marked critical"),
    (("usage",), "CA cert does not include key usage extension"),
]


@pytest.mark.parametrize(("flaws", "words"), STRICT)
async def test_tls_error_names_the_strict_rule_that_a_ca_violates(
    serve_as: Callable[..., Server], flaws: tuple[str, ...], words: str
) -> None:
    server = serve_as(*flaws)
    async with answering(HEAD, server.context) as url:
        with pytest.raises(BrokenAnswerError, match=words) as raised:
            await ask(url, server.bundle)
    assert raised.value.code == "certificate"
    assert "graph.tls_strict = false" in str(raised.value)


@pytest.mark.parametrize("flaws", [flaws for flaws, _ in STRICT])
async def test_tls_strict_false_accepts_a_ca_that_breaks_strict_rules(
    serve_as: Callable[..., Server], flaws: tuple[str, ...]
) -> None:
    server = serve_as(*flaws)
    async with answering(HEAD, server.context) as url:
        assert (await ask(url, server.bundle, strict=False)).status == 200


@pytest.mark.parametrize(
    ("flaws", "expected"),
    [
        (("expired",), "has expired .*; renew it or its CA's certificate"),
        (("early",), "is not valid yet .*; check the clocks"),
        (("host",), "is for another (host name|address)"),
        (("address",), "is for another address"),
        (("purpose",), "is not meant for servers"),
        (("unknown",), r"is not trusted \(.*\); add the CA that signed it to graph\.ca_bundle"),
    ],
)
@pytest.mark.parametrize("strict", [True, False])
async def test_certificate_error_names_the_failed_check(
    serve_as: Callable[..., Server],
    flaws: tuple[str, ...],
    expected: str,
    strict: bool,  # noqa: FBT001
) -> None:
    server = serve_as(*flaws)
    bundle = None if "unknown" in flaws else server.bundle
    async with answering(HEAD, server.context) as url:
        with pytest.raises(BrokenAnswerError, match=expected):
            await ask(url, bundle, strict=strict)


async def test_tls_error_states_that_the_server_does_not_speak_tls() -> None:
    async with answering(HEAD) as url:
        with pytest.raises(BrokenAnswerError, match="does not speak TLS on this port") as raised:
            await ask(url.with_scheme("https"))
    assert raised.value.code == "tls"


async def test_registry_tls_error_names_the_flaw_and_the_setting(serve_as: Callable[..., Server]) -> None:
    server = serve_as("subject_key")
    settings = SchemaRegistry("", "", None, None, server.bundle, subject_name_strategy="topic", auto_register=False)
    async with answering(HEAD, server.context) as url:
        settings = dataclasses.replace(settings, url=str(url).rstrip("/"))
        with pytest.raises(RegistryUnavailableError, match=r"Missing Subject Key.*schema_registry\.tls_strict = false"):
            await asyncio.to_thread(Registry(settings).schema, 1)
        lenient = Registry(dataclasses.replace(settings, tls_strict=False))
        with pytest.raises(FatalError, match="has no Avro record"):
            await asyncio.to_thread(lenient.schema, 1)


async def test_replaced_ca_bundle_is_read_again(serve_as: Callable[..., Server]) -> None:
    """An unreadable bundle is logged once, and the previous bundle stays in use."""
    new = serve_as()
    good = new.bundle.read_bytes()
    transport = Transport(5.0, Trust("graph", new.bundle))
    async with answering(HEAD, new.context) as url, asyncio.timeout(DEADLINE_S), transport:
        for content in (b"no certificate", b"no certificate", good[:100]):
            new.bundle.write_bytes(content)
            with capture_logs() as logs:
                assert (await transport.ask("GET", url, headers={}, max_bytes=9)).status == 200
                assert (await transport.ask("GET", url, headers={}, max_bytes=9)).status == 200
            assert [entry["event"] for entry in logs] == ["file_unreadable"]
            assert logs[0]["name"] == "graph.ca_bundle"
        serve_as()  # another CA, which did not sign this server's certificate
        with capture_logs() as logs, pytest.raises(BrokenAnswerError, match="is not trusted"):
            await transport.ask("GET", url, headers={}, max_bytes=9)
        assert [entry["event"] for entry in logs] == ["file_reloaded"]
        new.bundle.write_bytes(good)
        assert (await transport.ask("GET", url, headers={}, max_bytes=9)).status == 200
