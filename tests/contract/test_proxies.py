"""HTTPS_PROXY and NO_PROXY, for the schema registry too."""

import asyncio

import pytest

from connector.config import SchemaRegistry
from connector.errors import RefusedError, RegistryAwayError
from connector.kafka.registry import Registry
from connector.simulator import Options, Simulator
from tests.proxies import proxy


@pytest.mark.parametrize("excepted", ["", "127.0.0.1"])
async def test_the_schema_registry_is_asked_through_the_proxy_unless_it_is_excepted(
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
        # Any server that answers will do: what counts is the way there.
        with pytest.raises((RefusedError, RegistryAwayError), match=r"answers|refuses|wants credentials"):
            await asyncio.to_thread(Registry(settings).schema, 1)
        assert asked == ([] if excepted else [server.url.removeprefix("https://")])
