"""HTTPS_PROXY and NO_PROXY apply to the schema registry as well."""

import asyncio
from base64 import b64encode

import pytest

from connector.config import SchemaRegistry
from connector.errors import ConfigurationError, FatalError, RegistryUnavailableError
from connector.kafka.registry import Registry
from connector.simulator import Options, Simulator
from tests.proxies import proxy


@pytest.mark.parametrize("excepted", ["", "127.0.0.1"])
async def test_registry_client_uses_the_proxy_unless_no_proxy_matches(
    excepted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("https_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    async with Simulator(Options(calls_per_day=1)) as server, proxy() as (address, asked):
        monkeypatch.setenv("HTTPS_PROXY", address)
        monkeypatch.setenv("NO_PROXY", excepted)
        settings = SchemaRegistry(
            server.url, "", None, None, server.ca_path, subject_name_strategy="topic", auto_register=False
        )
        # Any server that responds suffices, because only the route to it is tested.
        with pytest.raises((FatalError, RegistryUnavailableError), match=r"answers|refuses|requires credentials"):
            await asyncio.to_thread(Registry(settings).schema, 1)
        assert asked == ([] if excepted else [server.url.removeprefix("https://")])


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize(("user", "status"), [("", 407), ("me:hunter2@", 407), ("", 403)])
async def test_registry_client_names_the_proxy_that_refuses(
    scheme: str, user: str, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with proxy(refuses=status) as (address, _):
        _set_proxy(monkeypatch, scheme, f"{user}{address.removeprefix('http://')}")
        with pytest.raises(RegistryUnavailableError) as raised:
            await asyncio.to_thread(Registry(_settings(f"{scheme}://registry.invalid:8081")).schema, 1)
    assert (f"the proxy {address}" in str(raised.value)) == (status == 407 or scheme == "https")
    assert f"({status})" in str(raised.value)
    assert "hunter2" not in str(raised.value)


async def test_registry_client_names_the_unavailable_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    _set_proxy(monkeypatch, "https", "me:hunter2@127.0.0.1:9")
    with pytest.raises(RegistryUnavailableError, match=r"the proxy http://127\.0\.0\.1:9 cannot be reached") as raised:
        await asyncio.to_thread(Registry(_settings("https://registry.invalid")).schema, 1)
    assert "hunter2" not in str(raised.value)


async def test_registry_client_sends_credentials_to_the_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    heads: list[bytes] = []
    async with proxy(refuses=403, heads=heads) as (address, asked):
        for scheme in ("http", "https"):
            _set_proxy(monkeypatch, scheme, f"me:p%40ss@{address.removeprefix('http://')}")
            with pytest.raises((RegistryUnavailableError, FatalError)):
                await asyncio.to_thread(Registry(_settings(f"{scheme}://registry.invalid:8081")).schema, 1)
    assert asked == ["http://registry.invalid:8081/schemas/ids/1", "registry.invalid:8081"]
    assert all(b"Basic " + b64encode(b"me:p@ss") in head for head in heads)


def test_registry_client_refuses_an_unsupported_proxy_scheme(monkeypatch: pytest.MonkeyPatch) -> None:
    _set_proxy(monkeypatch, "https", "socks5://127.0.0.1:1080")
    with pytest.raises(ConfigurationError, match=r"HTTPS_PROXY.*socks5"):
        Registry(_settings("https://registry.invalid"))


def _settings(url: str) -> SchemaRegistry:
    return SchemaRegistry(url, "", None, None, None, subject_name_strategy="topic", auto_register=False)


def _set_proxy(monkeypatch: pytest.MonkeyPatch, scheme: str, value: str) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv(f"{scheme.upper()}_PROXY", value)
