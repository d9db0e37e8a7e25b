"""The Graph client, tested against the simulator: each kind of error, and the known defects of similar clients."""

import asyncio
import contextlib
import time
from base64 import b64encode
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest
import pytest_asyncio
from structlog.testing import capture_logs

from connector.config.secret import Secret
from connector.config.settings import Graph, Identity, Tenant
from connector.core import budget
from connector.core.coverage import Window
from connector.errors import ConfigurationError, PermanentError, RangeTooLongError, TransientError
from connector.graph import source as graph_source
from connector.graph.client import GraphClient
from connector.graph.source import ReadPage, Source
from connector.simulator import Options, Simulator, graph
from tests.proxies import proxy

# One simulator serves most tests; making its keys takes longer than the tests.
pytestmark = pytest.mark.asyncio(loop_scope="module")

DEADLINE_S = 20.0
FAST = 1_000_000.0


def settings_of(url: str, ca_bundle: Path | None, timeout_s: float = 5.0) -> Graph:
    return Graph(
        cloud="global",
        root=url,
        authority=url,
        scope="https://graph.microsoft.com/.default",
        ca_bundle=ca_bundle,
        api_version="v1.0",
        requests_per_minute=FAST,
        timeout=timedelta(seconds=timeout_s),
        concurrency=4,
    )


@dataclass
class Events:
    """Recorder of the events that the client reports for the metrics of a tenant."""

    requests: list[tuple[str, str]] = field(default_factory=list)
    throttled_s: float = 0.0

    def request_finished(self, lane: str, status: str, seconds: float) -> None:
        assert 0 <= seconds < DEADLINE_S
        self.requests.append((lane, status))

    def throttled(self, seconds: float) -> None:
        assert seconds > 0
        self.throttled_s += seconds

    @property
    def statuses(self) -> list[str]:
        return [status for _, status in self.requests]


@dataclass
class Bench:
    """Simulator with more than a thousand calls, and clients to read them."""

    simulator: Simulator
    settings: Graph
    client: GraphClient
    events: Events = field(default_factory=Events)

    def tenant(self, number: int = 0, secret: str | None = None, **changes: object) -> Tenant:
        sim = self.simulator
        identity = Identity(sim.client_id, Secret(sim.client_secret if secret is None else secret))
        tenant = sim.tenants[number]
        given = Tenant(tenant, tenant, None, f"tenant-{number}", identity, timedelta(days=-7), FAST, "calls")
        return replace(given, **changes)  # type: ignore[arg-type]

    def source(self, tenant: Tenant | None = None, patience_s: float = 60.0) -> Source:
        return self.client.source(tenant or self.tenant(), self.events, patience_s=patience_s)

    @property
    def window(self) -> Window:
        now = datetime.now(UTC).replace(microsecond=0)
        return Window(now - timedelta(days=2), now - timedelta(days=1))

    def graph_requests(self) -> int:
        return sum(request.kind == "graph" for request in self.simulator.requests)

    def token_requests(self) -> int:
        return sum(request.kind == "token" for request in self.simulator.requests)

    def expected(self, window: Window) -> set[str]:
        return {row.id for row in self.simulator.truth(start=window.start, end=window.end) if row.id}


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(budget.FIRST_PAUSE_S, "throttled", 0.01)
    monkeypatch.setitem(budget.FIRST_PAUSE_S, "broken", 0.01)


@contextlib.asynccontextmanager
async def opened(timeout_s: float = 5.0, **options: object) -> AsyncIterator[Bench]:
    chosen = {"calls_per_day": 250, "page_size": 60, "lateness": "none", "revised": 0.0, "requests_per_minute": 0}
    async with Simulator(Options(**{**chosen, **options})) as simulator, bench_of(simulator, timeout_s) as bench:  # type: ignore[arg-type]
        yield bench


@contextlib.asynccontextmanager
async def bench_of(simulator: Simulator, timeout_s: float = 5.0) -> AsyncIterator[Bench]:
    settings = settings_of(simulator.url, simulator.ca_path, timeout_s)
    async with asyncio.timeout(DEADLINE_S), GraphClient(settings) as client:
        yield Bench(simulator, settings, client)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def simulator() -> AsyncIterator[Simulator]:
    options = Options(calls_per_day=250, page_size=60, lateness="none", revised=0.0, requests_per_minute=0)
    async with Simulator(options) as it:
        yield it


@pytest_asyncio.fixture(loop_scope="module")
async def bench(simulator: Simulator) -> AsyncIterator[Bench]:
    simulator.clear_faults()
    simulator.world.visits.requests.clear()
    async with bench_of(simulator) as it:
        yield it


async def read(source: Source, window: Window, priority: int = 0) -> list[ReadPage]:
    return [page async for page in source.pages(window, priority)]


def ids(pages: list[ReadPage]) -> list[str]:
    return [msgspec.json.decode(row)["id"] for page in pages for row in page.rows]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


@pytest.fixture
def logs() -> Iterator[list[dict[str, object]]]:
    with capture_logs() as entries:
        yield entries  # type: ignore[misc]


# Reading


async def test_page_chain_is_read_to_its_last_page(bench: Bench) -> None:
    source, window = bench.source(), bench.window
    before = datetime.now(UTC)
    pages = await read(source, window)
    assert sorted(ids(pages)) == sorted(bench.expected(window))
    assert [page.last for page in pages] == [*[False] * (len(pages) - 1), True]
    assert len(pages) > 3
    assert all(before <= page.received_at <= datetime.now(UTC) and page.bytes > 1000 for page in pages)
    assert bench.events.requests == [("live", "200")] * len(pages)
    assert source.up
    assert source.failing() is None
    assert bench.token_requests() == 1


async def test_request_url_has_times_in_utc_with_whole_seconds(bench: Bench) -> None:
    await read(bench.source(), Window(datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), datetime(2026, 1, 2, 4, tzinfo=UTC)))
    asked = bench.simulator.requests[-1]
    assert asked.url == (
        "/v1.0/communications/callRecords/getDirectRoutingCalls"
        "(fromDateTime=2026-01-02T03:04:05Z,toDateTime=2026-01-02T04:00:00Z)"
    )
    assert asked.client_request_id


@pytest.mark.parametrize(("priority", "lane"), [(0, "live"), (2, "sweep"), (1000, "backfill")])
async def test_request_metrics_have_the_lane_of_the_request(bench: Bench, priority: int, lane: str) -> None:
    await read(bench.source(), bench.window, priority)
    assert {seen for seen, _ in bench.events.requests} == {lane}


@pytest.mark.parametrize("fault", ["upper_link", "empty_page", "repeat"])
async def test_client_follows_both_spellings_of_next_link(bench: Bench, fault: str) -> None:
    bench.simulator.set_faults({fault: 1.0} if fault != "empty_page" else {fault: {"share": 1.0, "times": 4}})
    window = bench.window
    assert set(ids(await read(bench.source(), window))) == bench.expected(window)


async def test_client_reads_compressed_pages() -> None:
    async with opened(compress=True) as bench:
        window = bench.window
        assert set(ids(await read(bench.source(), window))) == bench.expected(window)


async def test_concurrent_page_chains_share_one_token_request(bench: Bench) -> None:
    source, window = bench.source(), bench.window
    every = await asyncio.gather(*(read(source, window) for _ in range(4)))
    assert all(set(ids(pages)) == bench.expected(window) for pages in every)
    assert bench.token_requests() == 1


# Transient errors


@pytest.mark.parametrize(
    ("faults", "statuses"),
    [
        ({"throttled": "1x1", "retry_after": "seconds", "retry_after_s": 1}, {"429"}),
        ({"throttled": "1x1", "retry_after": "date", "retry_after_s": 0.0}, {"429"}),
        ({"throttled": "1x3", "retry_after": "none"}, {"429"}),
        ({"server_error": "1x2", "status": 500}, {"500"}),
        ({"server_error": "1x2", "status": 502}, {"502"}),
        ({"server_error": "1x2", "status": 503}, {"503"}),
        ({"server_error": "1x2", "status": 504}, {"504"}),
        ({"server_error": "1x2", "status": 509}, {"509"}),
        ({"cut": "1x4"}, {"error"}),
        ({"garbage": "1x4"}, {"200"}),
        ({"not_a_page": "1x4"}, {"200"}),
    ],
)
async def test_page_chain_skips_no_page_after_transient_errors(
    bench: Bench, faults: dict[str, object], statuses: set[str]
) -> None:
    bench.simulator.set_faults(faults)
    source, window = bench.source(), bench.window
    pages = await read(source, window)
    assert sorted(ids(pages)) == sorted(bench.expected(window))
    assert set(bench.events.statuses) == {"200"} | statuses
    assert source.up
    assert source.failing() is None


async def test_page_chain_loses_no_row_despite_various_faults(bench: Bench) -> None:
    bench.simulator.set_faults(
        throttled=0.1, retry_after="none", server_error=0.1, cut=0.1, garbage=0.05, upper_link=0.3
    )
    source, window = bench.source(), bench.window
    for pages in await asyncio.gather(*(read(source, window, number) for number in range(4))):
        assert sorted(ids(pages)) == sorted(bench.expected(window))


async def test_retry_after_pauses_all_page_chains_and_is_reported(bench: Bench) -> None:
    bench.simulator.set_faults(throttled="1x1", retry_after_s=1)
    source, window = bench.source(), bench.window
    started = time.monotonic()
    await asyncio.gather(*(read(source, window) for _ in range(2)))
    assert time.monotonic() - started >= 1.0
    assert bench.events.throttled_s == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize("fault", ["throttled", "sign_in_throttled"])
async def test_retry_after_pause_continues_after_a_shard_restart(bench: Bench, fault: str) -> None:
    """A shard restart, a reload or a shard that returns to the worker creates a new page source for the same tenant."""
    bench.simulator.set_faults({fault: "1x1", "retry_after_s": 1})
    first = bench.source()
    reading = asyncio.create_task(read(first, bench.window))
    await until(lambda: any(request.status == 429 for request in bench.simulator.requests))
    started = time.monotonic()
    await until(lambda: first._asked_s(time.monotonic() + 1.0) > 0.5)
    reading.cancel()
    await asyncio.wait([reading])
    await first.close()
    second = bench.source(bench.tenant(requests_per_minute=FAST / 2))
    assert await read(second, bench.window)
    assert time.monotonic() - started >= 0.9
    assert second.budget is first.budget
    assert second.budget.requests_per_minute == FAST / 2


async def test_retry_after_pause_does_not_count_as_failing_time(bench: Bench) -> None:
    bench.simulator.set_faults(throttled="1x1", retry_after_s=1)
    source = bench.source(patience_s=0.25)
    assert await read(source, bench.window)


@pytest.mark.parametrize(
    ("faults", "reason"),
    [
        ({"throttled": 1.0, "retry_after": "none"}, "throttled"),
        ({"server_error": 1.0}, "unreachable"),
        ({"garbage": 1.0}, "unreachable"),
        ({"down": True}, "unreachable"),
        ({"self_link": 1.0}, "unreachable"),
        ({"sign_in_down": True}, "unreachable"),
        ({"sign_in_error": 1.0}, "unreachable"),
        ({"sign_in_throttled": 1.0, "retry_after": "none"}, "unreachable"),
    ],
)
async def test_page_chain_fails_if_transient_errors_last_too_long(
    bench: Bench, faults: dict[str, object], reason: str
) -> None:
    bench.simulator.set_faults(faults)
    source = bench.source(patience_s=0.1)
    with pytest.raises(TransientError) as raised:
        await read(source, bench.window)
    assert raised.value.reason == reason
    assert "tenant-0" in str(raised.value)
    failure = source.failing()
    assert failure is not None
    assert failure.reason == reason
    assert not source.up
    bench.simulator.clear_faults()
    assert await read(source, bench.window)
    assert source.failing() is None


async def test_request_without_a_response_is_retried_after_the_timeout(bench: Bench, simulator: Simulator) -> None:
    async with bench_of(simulator, timeout_s=0.3) as impatient:
        bench.simulator.set_faults(hang="1x1")
        assert await read(impatient.source(), bench.window)
        assert impatient.events.statuses[0] == "error"


async def test_page_that_links_to_itself_is_requested_again(bench: Bench) -> None:
    bench.simulator.set_faults(self_link="1x2")
    window = bench.window
    pages = await read(bench.source(), window)
    assert sorted(ids(pages)) == sorted(bench.expected(window))


async def test_each_request_is_charged_to_the_budget_once(bench: Bench) -> None:
    """Connections of the pool break before they deliver a response. Each request that reached Graph was counted."""
    source = bench.source(patience_s=0.1)
    await read(source, bench.window)
    bench.simulator.set_faults(down=True)
    with pytest.raises(TransientError):
        await read(source, bench.window)
    assert bench.graph_requests() == len(bench.events.requests)


async def test_page_over_the_size_limit_is_a_transient_error(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph_source, "MAX_PAGE_BYTES", 1 << 12)
    with pytest.raises(TransientError, match="longer than"):
        await read(bench.source(patience_s=0.1), bench.window)


# Rejections


@pytest.mark.parametrize(
    ("fault", "reason", "words"),
    [
        ("forbidden", "permission", "CallRecords.Read.All"),
        ("bad_request", "rejected", "400"),
        ("not_found", "rejected", "404"),
        ("redirect", "rejected", "redirects"),
        ("foreign_link", "rejected", "another host"),
        ("unauthorized", "sign_in", "401"),
    ],
)
async def test_permanent_error_ends_the_page_chain_and_has_a_remedy(
    bench: Bench, fault: str, reason: str, words: str
) -> None:
    bench.simulator.set_faults({fault: 1.0})
    source = bench.source()
    with pytest.raises(PermanentError, match=words) as raised:
        await read(source, bench.window)
    assert raised.value.reason == reason
    failure = source.failing()
    assert failure is not None
    assert (failure.reason, failure.message) == (reason, str(raised.value))
    assert not source.up
    bench.simulator.clear_faults()
    assert await read(source, bench.window)
    assert source.failing() is None


async def test_missing_role_error_names_the_role_and_the_application() -> None:
    async with opened(without_role=1) as bench:
        source = bench.source()
        with pytest.raises(PermanentError) as raised:
            await read(source, bench.window)
        assert raised.value.reason == "permission"
        assert "CallRecords.Read.All" in str(raised.value)
        assert bench.simulator.client_id in str(raised.value)
        assert "consent" in str(raised.value)


async def test_client_sends_no_token_to_a_next_link_on_another_host(bench: Bench) -> None:
    async with opened() as elsewhere:
        for fault in ("foreign_link", "redirect"):
            bench.simulator.clear_faults()
            bench.simulator.set_faults({fault: 1.0, "foreign_url": elsewhere.simulator.url})
            with pytest.raises(PermanentError):
                await read(bench.source(), bench.window)
        assert elsewhere.simulator.requests == []


@pytest.mark.parametrize(
    "link",
    [
        "http://{place}/v1.0/x",
        "https://localhost:1/v1.0/x",
        "https://127.0.0.1/v1.0/x",
        "https://user@{place}/v1.0/x",
        "https://{place}@graph.invalid/x",
        "//{place}/x",
        "/v1.0/x",
        "x",
        "https://{place}/x y",
        "https://{place}/x\r\nHost: graph.invalid",
        "https://{place}/\u00e9",
        "https://[/x",
        "https://{place}:99999999/x",
        "file:///etc/passwd",
    ],
)
async def test_next_link_must_have_the_configured_scheme_host_and_port(bench: Bench, link: str) -> None:
    source = bench.source()
    place = bench.simulator.url.removeprefix("https://")
    assert not source._is_trusted_link(link.format(place=place))
    assert source._is_trusted_link(f"https://{place}/v1.0/x?$skip=1000")


async def test_status_406_of_graph_raises_range_too_long(bench: Bench) -> None:
    now = datetime.now(UTC).replace(microsecond=0)
    source = bench.source()
    with pytest.raises(RangeTooLongError, match="406"):
        await read(source, Window(now - timedelta(days=120), now))
    assert source.up


async def test_page_chain_over_the_page_limit_raises_range_too_long(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graph_source, "MAX_PAGES", 1)
    with pytest.raises(RangeTooLongError, match="over 1 pages"):
        await read(bench.source(), bench.window)
    assert bench.graph_requests() == 1


async def test_endless_chain_of_empty_pages_is_a_permanent_error(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Splitting the range would not help, because its parts would have no end either."""
    monkeypatch.setattr(graph_source, "MAX_PAGES", 20)
    bench.simulator.set_faults(endless=1.0)
    source = bench.source()
    with pytest.raises(PermanentError, match="20 pages"):
        await read(source, bench.window)
    assert bench.graph_requests() == 20
    failure = source.failing()
    assert failure is not None
    assert failure.reason == "rejected"


# Sign-in


async def test_expired_token_is_renewed_once_for_all_page_chains(bench: Bench) -> None:
    source, window = bench.source(), bench.window

    async def read_and_expire() -> list[ReadPage]:
        pages = []
        async for page in source.pages(window, 0):
            pages.append(page)
            if len(pages) == 2:
                bench.simulator.expire_tokens()
        return pages

    every = await asyncio.gather(read_and_expire(), read(source, window), read(source, window))
    assert all(sorted(ids(pages)) == sorted(bench.expected(window)) for pages in every)
    assert bench.token_requests() == 2
    assert "401" in bench.events.statuses


async def test_token_that_graph_rejects_is_renewed_only_once(bench: Bench) -> None:
    bench.simulator.set_faults(unauthorized=1.0)
    with pytest.raises(PermanentError):
        await read(bench.source(), bench.window)
    assert bench.token_requests() == 2
    assert bench.graph_requests() == 2


@pytest.mark.parametrize("characters", [9_000, 200_000, 3_000_000])
async def test_401_response_with_an_oversized_header_renews_the_token(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, characters: int
) -> None:
    """The WWW-Authenticate header of the response exceeds every length limit. The token is renewed once."""
    monkeypatch.setattr(graph, "CHALLENGE", f'Bearer error_description="{"x" * characters}"')
    source = bench.source(patience_s=2.0)
    await read(source, bench.window)
    bench.simulator.expire_tokens()
    assert await read(source, bench.window)
    assert bench.token_requests() == 2
    bench.simulator.set_faults(unauthorized=1.0)
    with pytest.raises((PermanentError, TransientError)):
        await read(source, bench.window)
    assert bench.token_requests() == 3


async def test_short_lived_token_is_used_for_most_of_its_lifetime() -> None:
    async with opened(token_lifetime_s=60) as bench:
        source = bench.source()
        for _ in range(3):
            await read(source, bench.window)
        assert bench.token_requests() == 1


async def test_valid_token_is_used_while_sign_in_is_unavailable() -> None:
    async with opened(token_lifetime_s=4, calls_per_day=10) as bench:
        source = bench.source()
        await read(source, bench.window)
        bench.simulator.set_faults(sign_in_down=True)
        deadline = time.monotonic() + 2.6  # real time, in which the client tries once to renew the token of 4 s
        while time.monotonic() < deadline:
            assert await read(source, bench.window)
            await asyncio.sleep(0.05)
        assert source.up
        assert source.failing() is None
        assert sum(request.fault == "sign_in_down" for request in bench.simulator.requests) == 1
        await source.close()


async def test_tenant_signs_in_after_an_outage_without_a_reload(bench: Bench) -> None:
    bench.simulator.set_faults(sign_in_down=True)
    reading = asyncio.create_task(read(bench.source(), bench.window))
    await until(lambda: any(request.fault == "sign_in_down" for request in bench.simulator.requests))
    bench.simulator.clear_faults()
    assert await reading


async def test_client_obeys_the_retry_after_header_of_sign_in(bench: Bench) -> None:
    bench.simulator.set_faults(sign_in_throttled="1x1", retry_after_s=1)
    started = time.monotonic()
    assert await read(bench.source(patience_s=0.3), bench.window)
    assert time.monotonic() - started >= 1.0


async def test_hanging_sign_ins_delay_no_other_tenant() -> None:
    async with opened(tenants=101, calls_per_day=20, days=3) as bench:
        hanging = bench.simulator.tenants[1:]
        for tenant in hanging:
            bench.simulator.set_faults({"sign_in_hang": 1.0}, tenant)
        stuck = [bench.source(bench.tenant(number)) for number in range(1, 101)]
        tasks = [asyncio.create_task(read(source, bench.window)) for source in stuck for _ in range(2)]
        await asyncio.sleep(0)  # lets the tasks start
        started = time.monotonic()
        assert await read(bench.source(), bench.window)
        assert time.monotonic() - started < 4.0
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for source in stuck:
            await source.close()
        asked = [request.tenant for request in bench.simulator.requests if request.kind == "discovery"]
        assert all(asked.count(tenant) <= 1 for tenant in hanging)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"secret": "wrong-secret-value"}, "AADSTS7000215"),
        ({"id": "99999999-9999-9999-9999-999999999999"}, "AADSTS90002"),
        ({"identity": Identity("88888888-8888-8888-8888-888888888888", Secret("wrong-secret-value"))}, "AADSTS700016"),
        ({"identity": Identity("x", None)}, "client_secret"),
        ({"identity": Identity("x", Secret(""))}, "client_secret"),
    ],
)
async def test_sign_in_error_has_a_remedy_and_no_secret(
    bench: Bench, logs: list[dict[str, object]], change: dict[str, object], words: str
) -> None:
    source = bench.source(bench.tenant(**change))  # type: ignore[arg-type]
    with pytest.raises(PermanentError, match=words):
        await read(source, bench.window)
    with pytest.raises(PermanentError, match=words) as raised:
        await read(source, bench.window)
    assert raised.value.reason == "sign_in"
    failure = source.failing()
    assert failure is not None
    assert failure.reason == "sign_in"
    assert [entry["event"] for entry in logs] == ["sign_in_failed"]
    assert "wrong-secret-value" not in f"{raised.value}{logs}"
    assert bench.graph_requests() == 0


async def test_changed_secret_file_is_used_at_the_next_sign_in(bench: Bench, tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text("old")
    identity = Identity(bench.simulator.client_id, Secret.from_file(file))
    source = bench.source(bench.tenant(identity=identity))
    with pytest.raises(PermanentError):
        await read(source, bench.window)
    file.write_text(bench.simulator.client_secret)
    assert await read(source, bench.window)
    assert source.failing() is None


async def test_untrusted_ca_is_a_transient_error_with_a_remedy(bench: Bench) -> None:
    settings = settings_of(bench.simulator.url, None)
    async with GraphClient(settings) as client:
        source = client.source(bench.tenant(), bench.events, patience_s=0.0)
        with pytest.raises(TransientError, match="ca_bundle"):
            await read(source, bench.window)


async def test_invalid_ca_bundle_is_a_configuration_error(bench: Bench, tmp_path: Path) -> None:
    broken = tmp_path / "ca.pem"
    broken.write_text("no certificate")
    for path in (broken, tmp_path / "missing.pem"):
        with pytest.raises(ConfigurationError, match="ca_bundle"):
            async with GraphClient(settings_of(bench.simulator.url, path)):
                pass


# Proxy


async def test_https_proxy_is_used_for_graph_and_sign_in(
    bench: Bench, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with proxy() as (address, asked):
        monkeypatch.setenv("HTTPS_PROXY", address)
        monkeypatch.setenv("NO_PROXY", "")
        monkeypatch.delenv("https_proxy", raising=False)
        monkeypatch.delenv("no_proxy", raising=False)
        async with bench_of(simulator) as behind:
            source = behind.source()
            pages = await read(source, bench.window)
            assert source.budget_used_ratio() * FAST == pytest.approx(len(pages))
        assert set(asked) == {bench.simulator.url.removeprefix("https://")}


@pytest.mark.parametrize("excepted", ["127.0.0.1", "127.0.0.1:{port}", "*"])
async def test_no_proxy_variable_bypasses_the_https_proxy(
    bench: Bench, simulator: Simulator, monkeypatch: pytest.MonkeyPatch, excepted: str
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", excepted.format(port=simulator.port))
    monkeypatch.delenv("https_proxy", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    async with bench_of(simulator) as direct:
        assert await read(direct.source(), bench.window)


@pytest.mark.parametrize(
    ("variable", "expected"),
    [
        (
            "http://me:hunter2@127.0.0.1:9",
            r"the proxy http://127\.0\.0\.1:9 cannot be reached \(.*\); check HTTPS_PROXY",
        ),
        ("proxy.invalid:3128", r"the proxy http://proxy\.invalid:3128 cannot be reached \(its name cannot be resolved"),
    ],
)
async def test_unavailable_proxy_error_names_the_proxy_but_no_password(
    bench: Bench, simulator: Simulator, monkeypatch: pytest.MonkeyPatch, variable: str, expected: str
) -> None:
    _set_proxy(monkeypatch, variable)
    async with bench_of(simulator) as behind:
        with pytest.raises(TransientError, match=expected) as raised:
            await read(behind.source(patience_s=0.0), bench.window)
    assert "hunter2" not in str(raised.value)


@pytest.mark.parametrize(
    ("user", "status", "expected"),
    [
        ("", 407, "requires a user name and password \\(407\\); set them in HTTPS_PROXY"),
        ("me:hunter2@", 407, "does not accept the user name and password \\(407\\)"),
        ("", 403, "refuses the connection \\(403\\); allow this host"),
    ],
)
async def test_proxy_refusal_names_the_proxy_but_no_password(
    bench: Bench, simulator: Simulator, monkeypatch: pytest.MonkeyPatch, user: str, status: int, expected: str
) -> None:
    async with proxy(refuses=status) as (address, _):
        _set_proxy(monkeypatch, f"http://{user}{address.removeprefix('http://')}")
        async with bench_of(simulator) as behind:
            with pytest.raises(TransientError, match=f"the proxy {address} {expected}") as raised:
                await read(behind.source(patience_s=0.0), bench.window)
    assert "hunter2" not in str(raised.value)


async def test_proxy_receives_the_credentials_of_its_variable(
    bench: Bench, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    heads: list[bytes] = []
    async with proxy(heads=heads) as (address, _):
        _set_proxy(monkeypatch, f"me:p%C3%A4ss%40@{address.removeprefix('http://')}")
        async with bench_of(simulator) as behind:
            assert await read(behind.source(), bench.window)
    assert all(b"Basic " + b64encode("me:päss@".encode()) in head for head in heads)


async def test_unsupported_proxy_scheme_is_a_configuration_error(
    bench: Bench, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    _set_proxy(monkeypatch, "socks5://127.0.0.1:1080")
    async with bench_of(simulator) as behind:
        with pytest.raises(ConfigurationError, match=r"HTTPS_PROXY.*socks5"):
            await read(behind.source(), bench.window)


def _set_proxy(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("HTTPS_PROXY", value)
    monkeypatch.setenv("NO_PROXY", "")
    monkeypatch.delenv("https_proxy", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)


# Budget


async def test_live_request_precedes_waiting_backfill_requests(bench: Bench) -> None:
    source, window = bench.source(bench.tenant(requests_per_minute=600)), bench.window
    order: list[str] = []

    async def follow(name: str, priority: int) -> None:
        async for _ in source.pages(window, priority):
            order.append(name)  # noqa: PERF401

    slow = [asyncio.create_task(follow("backfill", budget.BACKFILL)) for _ in range(3)]
    await until(lambda: len(order) >= 2)
    seen = len(order)
    await follow("live", 0)
    live_pages = order.count("live")
    # One more backfill request may have been sent before the live chain started.
    assert order[seen:].index("live") <= 1
    assert order[seen:].count("backfill") <= live_pages + 2
    for task in slow:
        task.cancel()
    await asyncio.gather(*slow, return_exceptions=True)


async def test_requests_are_spaced_by_requests_per_minute(bench: Bench) -> None:
    source = bench.source(bench.tenant(requests_per_minute=600))
    started = time.monotonic()
    pages = await read(source, bench.window)
    assert time.monotonic() - started >= len(pages) * 0.1
    assert source.budget_used_ratio() == pytest.approx(len(pages) / 600)


async def test_cancelled_page_chain_leaves_no_waiting_request(bench: Bench) -> None:
    source, window = bench.source(bench.tenant(requests_per_minute=120)), bench.window
    tasks = [asyncio.create_task(read(source, window)) for _ in range(5)]
    await until(lambda: bench.graph_requests() > 0)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    asked = bench.graph_requests()
    assert await anext(aiter(source.pages(window, 0)))
    assert bench.graph_requests() == asked + 1


# Logs


async def test_repeated_failure_is_logged_once_without_request_data(
    bench: Bench, logs: list[dict[str, object]]
) -> None:
    bench.simulator.set_faults(forbidden=1.0)
    source = bench.source()
    for _ in range(5):
        with pytest.raises(PermanentError):
            await read(source, bench.window)
    failed = [entry for entry in logs if entry["event"] == "request_failed"]
    assert len(failed) == 1
    asked = next(request for request in bench.simulator.requests if request.kind == "graph")
    assert failed[0]["status"] == 403
    assert failed[0]["code"] == "Forbidden"
    assert failed[0]["request_id"] == asked.request_id
    assert failed[0]["client_request_id"] == asked.client_request_id
    assert "eyJ" not in str(logs)


async def test_request_failed_event_names_code_and_cause(bench: Bench, logs: list[dict[str, object]]) -> None:
    source = bench.source(patience_s=0.0)
    await source.sign_in()
    bench.simulator.set_faults(down=True)
    with pytest.raises(TransientError):
        await read(source, bench.window)
    failed = next(entry for entry in logs if entry["event"] == "request_failed")
    assert (failed["status"], failed["code"]) == ("error", "connection")
    assert failed["problem"] == "Graph cannot be read: the connection broke (ServerDisconnectedError)"


async def test_error_response_is_not_reported_as_unreachable(bench: Bench) -> None:
    for faults in ({"server_error": 1.0}, {"throttled": 1.0, "retry_after": "none"}, {"sign_in_error": 1.0}):
        bench.simulator.clear_faults()
        bench.simulator.set_faults(faults)
        with pytest.raises(TransientError) as raised:
            await read(bench.source(patience_s=0.0), bench.window)
        assert "the service responds" in raised.value.remedy


async def test_clock_skew_is_logged_once(bench: Bench, logs: list[dict[str, object]]) -> None:
    bench.simulator.set_faults(date_skew_s=-300.0)
    await read(bench.source(), bench.window)
    skews = [entry for entry in logs if entry["event"] == "clock_skew"]
    assert len(skews) == 1
    assert skews[0]["skew_s"] == pytest.approx(300.0, abs=2.0)


async def test_successful_page_chain_logs_nothing(bench: Bench, logs: list[dict[str, object]]) -> None:
    await read(bench.source(), bench.window)
    assert logs == []
