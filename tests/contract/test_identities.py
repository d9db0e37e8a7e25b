"""Each kind of credential gets a token from a sign-in that verifies it. Refusals have a remedy and no secret."""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import jwt
import pytest
import pytest_asyncio
from structlog.testing import capture_logs

from connector import config
from connector.core import budget
from connector.core.coverage import Window
from connector.errors import PermanentError, TransientError
from connector.graph import auth
from connector.graph.client import GraphClient
from connector.graph.source import Source
from connector.simulator import Options, Simulator
from connector.simulator.options import Federation
from tests.certificates import KeyPair, key_pair
from tests.proxies import proxy

pytestmark = pytest.mark.asyncio(loop_scope="module")

DEADLINE_S = 60.0
ISSUER = "https://oidc.cluster.example/"
SUBJECT = "system:serviceaccount:voice:connector"
AUDIENCE = "api://AzureADTokenExchange"
OWN, OTHER = "registered", "another"


@pytest.fixture(autouse=True)
def _surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(budget.FIRST_PAUSE_S, "broken", 0.01)
    for name in ("HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def simulator() -> AsyncIterator[Simulator]:
    federation = Federation(ISSUER, SUBJECT, key_pair("issuer").public_pem)
    options = Options(
        calls_per_day=100,
        days=1.0,
        lateness="none",
        requests_per_minute=0,
        tenants=2,
        certificates=(key_pair(OWN).certificate_pem, key_pair("old", expired=True).certificate_pem),
        federation=federation,
        imds=True,
    )
    async with Simulator(options) as simulator:
        yield simulator


class Bench:
    """Simulator and configuration file with which a test signs in."""

    def __init__(self, simulator: Simulator, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.simulator = simulator
        self.folder = folder
        self.environ: dict[str, str] = {}
        self._patch = monkeypatch
        self.requests: list[str] = []

    def request_finished(self, lane: str, status: str, seconds: float) -> None:  # noqa: ARG002 - as SourceEvents has it
        self.requests.append(status)

    def throttled(self, seconds: float) -> None:
        raise AssertionError(seconds)

    def write(self, name: str, content: bytes | str) -> str:
        path = self.folder / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(path)

    def set(self, name: str, value: str) -> None:
        """Set an environment variable, for the configuration and for msal."""
        self.environ[name] = value
        self._patch.setenv(name, value)

    @contextlib.asynccontextmanager
    async def source(self, identity: str, graph: str = "", tenant: int = 0) -> AsyncIterator[Source]:
        sim = self.simulator
        text = f"""
            [graph]
            base_url = "{sim.url}"
            authority = "{sim.url}"
            ca_bundle = "{sim.ca_path}"
            requests_per_minute = 1000000
            {graph}
            [identity]
            {identity}
            [[tenants]]
            id = "{sim.tenants[tenant]}"
        """
        path = Path(self.write("connector.toml", text))
        settings = config.load(path, self.environ)
        async with asyncio.timeout(DEADLINE_S), GraphClient(settings.graph) as client:
            yield client.source(settings.tenants[0], self, patience_s=0.0)

    def count(self, kind: str) -> int:
        return sum(request.kind == kind and request.status == 200 for request in self.simulator.requests)


@pytest.fixture
def bench(simulator: Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    simulator.clear_faults()
    simulator.register(key_pair(OWN).certificate_pem, key_pair("old", expired=True).certificate_pem)
    return Bench(simulator, tmp_path, monkeypatch)


async def read(source: Source) -> int:
    now = datetime.now(UTC).replace(microsecond=0)
    return sum([len(page.rows) async for page in source.pages(Window(now - timedelta(hours=20), now), 0)])


def federated(key: str = "issuer", **changes: Any) -> str:
    now = int(time.time())
    claims = {"iss": ISSUER, "sub": SUBJECT, "aud": [AUDIENCE], "iat": now, "nbf": now, "exp": now + 3600, **changes}
    return jwt.encode(claims, key_pair(key).key_pem(), algorithm="RS256", headers={"kid": "issuer"})


def certificate(bench: Bench, content: bytes, password: str | None = None) -> str:
    line = f'client_certificate = {{ file = "{bench.write("certificate", content)}" }}'
    if password:
        line += f'\nclient_certificate_password = "{password}"'
    return f'client_id = "{bench.simulator.client_id}"\n{line}'


def workload(bench: Bench, token: str) -> str:
    bench.set("AZURE_FEDERATED_TOKEN_FILE", bench.write("token", token))
    return f'client_id = "{bench.simulator.client_id}"\nworkload_identity = true'


def managed(bench: Bench, client_id: str | None = None) -> str:
    bench.set("AZURE_POD_IDENTITY_AUTHORITY_HOST", bench.simulator.imds_url)
    return f'managed_identity = "{client_id}"' if client_id else "managed_identity = true"


# Tokens

ACCEPTED: dict[str, tuple[str, Callable[[Bench], str]]] = {
    "secret": (
        "token",
        lambda b: f'client_id = "{b.simulator.client_id}"\nclient_secret = "{b.simulator.client_secret}"',
    ),
    "pem": ("token", lambda b: certificate(b, key_pair(OWN).pem())),
    "certificate_first": (
        "token",
        lambda b: certificate(b, key_pair(OWN).certificate_pem + key_pair(OWN).key_pem()),
    ),
    "chain": (
        "token",
        lambda b: certificate(b, key_pair(OTHER).certificate_pem + key_pair(OWN).pem()),
    ),
    "pem_password": ("token", lambda b: certificate(b, key_pair(OWN).pem("p4ss"), "p4ss")),
    "pfx": ("token", lambda b: certificate(b, key_pair(OWN).pfx())),
    "pfx_password": ("token", lambda b: certificate(b, key_pair(OWN).pfx("p4ss"), "p4ss")),
    "password_not_needed": ("token", lambda b: certificate(b, key_pair(OWN).pem(), "p4ss")),
    "workload": ("token", lambda b: workload(b, f"\n{federated()}\n\n")),
    "managed_system": ("managed_token", managed),
    "managed_user": ("managed_token", lambda b: managed(b, b.simulator.managed_identity)),
}


@pytest.mark.parametrize("name", ACCEPTED)
async def test_each_kind_of_credential_gets_a_token(bench: Bench, name: str) -> None:
    kind, write = ACCEPTED[name]
    before = bench.count(kind)
    async with bench.source(write(bench)) as source:
        assert await read(source) > 0
    assert bench.count(kind) == before + 1


REFUSED: dict[str, tuple[str, Callable[[Bench], str]]] = {
    "unknown_certificate": ("add its public part.*AADSTS700027", lambda b: certificate(b, key_pair(OTHER).pem())),
    "expired_certificate": ("expired.*AADSTS700027", lambda b: certificate(b, key_pair("old", expired=True).pem())),
    "wrong_audience": ("api://AzureADTokenExchange.*AADSTS700212", lambda b: workload(b, federated(aud="https://x"))),
    "wrong_issuer": ("federated credential.*AADSTS700211", lambda b: workload(b, federated(iss="https://x"))),
    "wrong_subject": ("federated credential.*AADSTS700213", lambda b: workload(b, federated(sub="system:other"))),
    "wrong_key": ("issuer.*AADSTS50013", lambda b: workload(b, federated(OTHER))),
    "expired_token": ("renew the federated token.*AADSTS700024", lambda b: workload(b, federated(exp=1))),
    "no_token": ("AZURE_FEDERATED_TOKEN_FILE.*AADSTS50027", lambda b: workload(b, "no token")),
    "not_assigned": ("assign it, and check managed_identity", lambda b: managed(b, "not-assigned")),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_refused_credential_fails_its_tenant_with_a_remedy(bench: Bench, name: str) -> None:
    words, write = REFUSED[name]
    with capture_logs() as logs:
        async with bench.source(write(bench)) as source:
            with pytest.raises(PermanentError, match=words) as raised:
                await read(source)
            failure = source.failing()
    assert raised.value.reason == "sign_in"
    assert failure is not None
    assert failure.reason == "sign_in"
    assert [entry["event"] for entry in logs] == ["sign_in_failed"]
    assert bench.requests == []


async def test_certificate_of_another_application_is_refused(bench: Bench) -> None:
    lines = certificate(bench, key_pair(OWN).pem()).replace(bench.simulator.client_id, "8" * 8)
    async with bench.source(lines) as source:
        with pytest.raises(PermanentError, match=r"check client_id.*AADSTS700016"):
            await read(source)


async def test_managed_identity_of_another_tenant_is_refused(bench: Bench) -> None:
    async with bench.source(managed(bench), tenant=1) as source:
        with pytest.raises(PermanentError, match=f"to tenant {bench.simulator.tenants[0]}, and cannot read another"):
            await read(source)
    assert bench.requests == []


async def test_unavailable_identity_endpoint_is_a_transient_error(bench: Bench) -> None:
    bench.simulator.set_faults(sign_in_down=True)
    async with bench.source(managed(bench)) as source:
        with pytest.raises(TransientError, match=r"identity endpoint of this machine answered 503"):
            await read(source)
        bench.simulator.clear_faults()
        assert await read(source) > 0


# One directory under two ids


@pytest.mark.parametrize("ids", [("{0}.example", "{0}"), ("{0}.example", "{0}.onmicrosoft.com")])
async def test_entra_tenant_configured_twice_is_read_only_once(bench: Bench, ids: tuple[str, str]) -> None:
    sim = bench.simulator
    tenants = "".join(f'[[tenants]]\nid = "{one.format(sim.tenants[0])}"\nname = "{n}"\n' for n, one in enumerate(ids))
    path = Path(
        bench.write(
            "connector.toml",
            f"""
            [graph]
            base_url = "{sim.url}"
            authority = "{sim.url}"
            ca_bundle = "{sim.ca_path}"
            requests_per_minute = 1000000
            [identity]
            client_id = "{sim.client_id}"
            client_secret = "{sim.client_secret}"
            {tenants}
            """,
        )
    )
    settings = config.load(path, {})
    async with asyncio.timeout(DEADLINE_S), GraphClient(settings.graph) as client:
        domain, other = (client.source(tenant, bench, patience_s=0.0) for tenant in settings.tenants)
        assert await read(domain) > 0
        second, first = (domain, other) if ids[1] == "{0}" else (other, domain)
        assert (await read(other) > 0) if first is other else True
        with pytest.raises(PermanentError, match=rf"tenant {int(first is other)} has the same directory"):
            await read(second)
        assert second.failing() is not None
        await first.close()
        assert await read(second) > 0


# Rotation

PAIRS: dict[str, Callable[[KeyPair], bytes]] = {"pem": KeyPair.pem, "pfx": KeyPair.pfx}


@pytest.mark.parametrize("form", PAIRS)
async def test_replaced_certificate_is_used_without_a_restart(bench: Bench, form: str) -> None:
    async with bench.source(certificate(bench, PAIRS[form](key_pair(OWN)))) as source:
        assert await read(source) > 0
        bench.simulator.register(key_pair("next").certificate_pem)
        bench.simulator.expire_tokens()
        with pytest.raises(PermanentError, match="AADSTS700027"):
            await read(source)
        bench.write("certificate", PAIRS[form](key_pair("next")))
        assert await read(source) > 0


@pytest.mark.parametrize("form", PAIRS)
async def test_old_certificate_stays_in_use_if_a_new_one_is_unusable(
    bench: Bench, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auth, "_LOOK_EVERY_S", 0.0)
    good = PAIRS[form](key_pair(OWN))
    with capture_logs() as logs:
        async with bench.source(certificate(bench, good)) as source:
            assert await read(source) > 0
            bench.write("certificate", b"half of a certificate")
            await _read_until(source, lambda: _named(logs, "file_unreadable"))
            bench.simulator.expire_tokens()
            assert await read(source) > 0
            bench.write("certificate", good)
            await _read_until(source, lambda: _named(logs, "file_reloaded"))
    file_events = [(entry["event"], entry.get("name")) for entry in logs if entry["event"].startswith("file_")]
    assert file_events == [("file_unreadable", "client_certificate"), ("file_reloaded", "client_certificate")]


async def test_unusable_secret_file_is_logged_before_the_next_sign_in(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auth, "_LOOK_EVERY_S", 0.0)
    file = bench.write("secret", bench.simulator.client_secret)
    with capture_logs() as logs:
        async with bench.source(
            f'client_id = "{bench.simulator.client_id}"\nclient_secret = {{ file = "{file}" }}'
        ) as it:
            assert await read(it) > 0
            bench.write("secret", "")
            await _read_until(it, lambda: _named(logs, "file_unreadable"))
    assert [entry["event"] for entry in logs] == ["file_unreadable"]


def _named(logs: Sequence[Mapping[str, Any]], event: str) -> bool:
    return any(entry["event"] == event for entry in logs)


async def _read_until(source: Source, is_done: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not is_done():
            assert await read(source) > 0


async def test_federated_token_file_is_read_for_each_sign_in(bench: Bench) -> None:
    async with bench.source(workload(bench, federated(exp=1))) as source:
        with pytest.raises(PermanentError, match="AADSTS700024"):
            await read(source)
        bench.write("token", federated())
        assert await read(source) > 0
        bench.write("token", federated(sub="system:other"))
        bench.simulator.expire_tokens()
        with pytest.raises(PermanentError, match="AADSTS700213"):
            await read(source)


# Secrecy


@pytest.mark.parametrize("name", ["pem_password", "pfx_password", "workload", "managed_user"])
async def test_credentials_are_never_logged(bench: Bench, name: str, caplog: pytest.LogCaptureFixture) -> None:
    lines = ACCEPTED[name][1](bench)
    hidden = ["p4ss", *key_pair(OWN).key_pem().decode().splitlines()[1:-1], "eyJ"]
    with caplog.at_level(logging.DEBUG, "connector"), capture_logs() as logs:
        async with bench.source(lines) as source:
            assert await read(source) > 0
            bench.simulator.expire_tokens()
            bench.simulator.register()
            bench.set("AZURE_POD_IDENTITY_AUTHORITY_HOST", "http://127.0.0.1:9")
            bench.write("token", "eyJ")
            with pytest.raises((PermanentError, TransientError)) as raised:
                await read(source)
            output = f"{logs}{caplog.text}{raised.value}{source.failing()}{source._tenant!r}"
    assert logs
    assert [text for text in hidden if text in output] == []


# Clouds

ROOTS = {
    "global": ("https://graph.microsoft.com", "https://login.microsoftonline.com"),
    "us-gov-l4": ("https://graph.microsoft.us", "https://login.microsoftonline.us"),
    "us-gov-l5": ("https://dod-graph.microsoft.us", "https://login.microsoftonline.us"),
}


@pytest.mark.parametrize("cloud", ROOTS)
async def test_each_cloud_has_its_own_endpoints_and_scope(cloud: str, tmp_path: Path) -> None:
    path = tmp_path / "connector.toml"
    path.write_text(
        f'graph.cloud = "{cloud}"\n[[tenants]]\nid = "contoso.example"\nclient_id = "x"\nclient_secret = "y"'
    )
    graph = config.load(path, {}).graph
    root, authority = ROOTS[cloud]
    assert (graph.root, graph.authority, graph.scope) == (root, authority, f"{root}/.default")


@pytest.mark.parametrize("cloud", ROOTS)
async def test_token_for_another_cloud_is_refused(cloud: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = Options(calls_per_day=100, days=1.0, lateness="none", requests_per_minute=0, cloud=cloud, imds=True)
    async with Simulator(options) as simulator:
        bench = Bench(simulator, tmp_path, monkeypatch)
        for other, (root, _) in ROOTS.items():
            for identity in (ACCEPTED["secret"][1](bench), managed(bench)):
                async with bench.source(identity, f'cloud = "{other}"') as source:
                    if other == cloud:
                        assert await read(source) > 0
                        continue
                    host = root.removeprefix("https://")
                    with pytest.raises(
                        PermanentError, match=rf"for {host} \(cloud {other}\).*check graph.cloud"
                    ) as raised:
                        await read(source)
                    assert raised.value.reason == "sign_in"


# Proxies


async def test_managed_identity_requests_bypass_the_proxy(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    async with proxy() as (address, asked):
        for name in ("HTTPS_PROXY", "HTTP_PROXY"):
            monkeypatch.setenv(name, address)
        before = bench.count("managed_token")
        async with bench.source(managed(bench)) as source:
            assert await read(source) > 0
        assert bench.count("managed_token") == before + 1
        assert set(asked) == {bench.simulator.url.removeprefix("https://")}


@pytest.mark.parametrize("name", ["pem", "workload"])
async def test_certificate_and_workload_sign_in_use_the_proxy(
    bench: Bench, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with proxy() as (address, asked):
        monkeypatch.setenv("HTTPS_PROXY", address)
        async with bench.source(ACCEPTED[name][1](bench)) as source:
            assert await read(source) > 0
        assert set(asked) == {bench.simulator.url.removeprefix("https://")}
