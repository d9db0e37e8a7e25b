"""The simulator over HTTPS, compared with the documented responses of Graph and Entra."""

import asyncio
import functools
import itertools
import json
import signal
import ssl
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import aiohttp
import msal
import pytest
import requests
from yarl import URL

from connector.config import load
from connector.core.pages import NotAPageError, decode_page
from connector.simulator import Options, Simulator
from connector.simulator.arrivals import Arrivals

DATA = Path(__file__).parents[1] / "data"
FIRST = json.loads((DATA / "page-first.json").read_text())
LAST = json.loads((DATA / "page-last.json").read_text())
NOON = datetime(2026, 3, 4, 12, tzinfo=UTC)
SCOPE = "https://graph.microsoft.com/.default"
DAY = timedelta(days=1)
SECOND = timedelta(seconds=1)


class Client:
    """Simulator whose clock stands at noon, with a plain HTTP client that neither retries nor checks."""

    def __init__(self, simulator: Simulator, session: aiohttp.ClientSession) -> None:
        self.simulator = simulator
        self.session = session
        self.token = ""

    def address(self, start: datetime = NOON - DAY, end: datetime = NOON, version: str = "v1.0") -> str:
        arguments = f"fromDateTime={start:%Y-%m-%dT%H:%M:%SZ},toDateTime={end:%Y-%m-%dT%H:%M:%SZ}"
        return f"{self.simulator.url}/{version}/communications/callRecords/getDirectRoutingCalls({arguments})"

    async def sign_in(self, tenant: str | None = None, **changes: str) -> dict[str, Any]:
        form = {
            "grant_type": "client_credentials",
            "client_id": self.simulator.client_id,
            "client_secret": self.simulator.client_secret,
            "scope": SCOPE,
            **changes,
        }
        url = f"{self.simulator.url}/{tenant or self.simulator.tenants[0]}/oauth2/v2.0/token"
        async with self.session.post(url, data=form) as response:
            answer: dict[str, Any] = {"status": response.status, **json.loads(await response.read())}
        self.token = answer.get("access_token", "")
        return answer

    async def get(self, url: str, **headers: str) -> tuple[aiohttp.ClientResponse, bytes]:
        headers = {"Authorization": f"Bearer {self.token}", **headers}
        async with self.session.get(URL(url, encoded=True), headers=headers, allow_redirects=False) as response:
            return response, await response.read()

    async def page(self, url: str) -> dict[str, Any]:
        response, body = await self.get(url)
        assert response.status == 200, body
        page: dict[str, Any] = json.loads(body)
        return page

    async def chain(self, url: str, most: int = 50) -> list[dict[str, Any]]:
        pages: list[dict[str, Any]] = []
        link: str | None = url
        while link is not None and len(pages) < most:
            pages.append(await self.page(link))
            link = pages[-1].get("@odata.nextLink") or pages[-1].get("@odata.NextLink")
        return pages

    async def is_reachable_within(self, seconds: float, *, reachable: bool = True) -> bool:
        end = asyncio.get_running_loop().time() + seconds
        while asyncio.get_running_loop().time() < end:
            try:
                found = (await self.get(self.address()))[0].status == 200
            except aiohttp.ClientConnectionError:
                found = False
            if found is reachable:
                return True
            await asyncio.sleep(0.01)
        return False

    async def post(self, name: str, body: dict[str, object]) -> dict[str, Any]:
        async with self.session.post(f"{self.simulator.url}/simulator/{name}", json=body) as response:
            assert response.status == 200, await response.text()
            answer: dict[str, Any] = await response.json()
            return answer


class Clients:
    """Starts simulators for one test and stops them."""

    def __init__(self, stack: AsyncExitStack) -> None:
        self._stack = stack

    async def __call__(self, *, tenant: int = 0, now: Any = None, **options: Any) -> Client:
        chosen = Options(**{"calls_per_day": 500, "days": 3, "page_size": 100, "requests_per_minute": 0, **options})
        simulator = await self._stack.enter_async_context(Simulator(chosen, now or (lambda: NOON)))
        context = ssl.create_default_context(cafile=str(simulator.ca_path))
        connector = aiohttp.TCPConnector(ssl=context)
        session = await self._stack.enter_async_context(aiohttp.ClientSession(connector=connector))
        client = Client(simulator, session)
        await client.sign_in(simulator.tenants[tenant])
        return client


@pytest.fixture
async def start() -> AsyncIterator[Clients]:
    async with AsyncExitStack() as stack:
        yield Clients(stack)


async def test_simulator_page_has_the_documented_json(start: Clients) -> None:
    client = await start()
    pages = await client.chain(client.address())
    first, last = pages[0], pages[-1]
    assert list(first) == list(FIRST)
    assert list(last) == list(LAST)
    assert first["@odata.context"] == FIRST["@odata.context"]
    assert [page["@odata.count"] for page in pages] == [len(page["value"]) for page in pages]
    assert list(first["value"][0]) == list(FIRST["value"][0])
    assert first["@odata.nextLink"] == f"{client.address()}?$skip=100"
    response, _ = await client.get(client.address(), **{"client-request-id": "abc"})
    assert response.headers["client-request-id"] == "abc"
    assert response.headers["request-id"]
    assert abs(parsedate_to_datetime(response.headers["Date"]) - datetime.now(UTC)) < timedelta(minutes=1)
    assert response.content_type == "application/json"


@pytest.mark.parametrize("order", ["start", "newest", "id"])
async def test_simulator_page_chain_has_each_visible_row_once(start: Clients, order: str) -> None:
    client = await start(order=order, revised=0.1)
    pages = await client.chain(client.address())
    ids = [row["id"] for page in pages for row in page["value"]]
    truth = client.simulator.truth(start=NOON - DAY, end=NOON)
    assert sorted(ids) == sorted(str(row.id) for row in truth if row.until is None)
    assert len(set(ids)) == len(ids)
    assert len(pages) == 5


async def test_simulator_serves_beta_under_its_own_path(start: Clients) -> None:
    client = await start()
    page = await client.page(client.address(version="beta"))
    assert page["@odata.context"].startswith("https://graph.microsoft.com/beta/")
    assert "administrativeUnitInfos" in page["value"][0]
    assert "/beta/" in page["@odata.nextLink"]


async def test_new_calls_appear_until_the_simulator_is_frozen(start: Clients) -> None:
    now = NOON
    client = await start(now=lambda: now, page_size=1000, calls_per_day=5000, token_lifetime_s=86400)
    address = client.address(NOON - timedelta(hours=1), NOON + timedelta(hours=2))
    counts = [len((await client.page(address))["value"])]
    for _ in range(2):
        now += timedelta(minutes=20)
        counts.append(len((await client.page(address))["value"]))
    assert counts[0] < counts[1] < counts[2]
    frozen = await client.post("freeze", {"on": True})
    now += timedelta(minutes=20)
    assert len((await client.page(address))["value"]) == counts[2]
    assert frozen["frozen"] is True
    await client.post("clock", {"offset": "-3d"})
    assert len((await client.page(address))["value"]) == 0


async def test_simulators_with_the_same_seed_serve_the_same_bytes(start: Clients) -> None:
    first, other = await start(seed=5), await start(seed=5, days=2)
    assert first.simulator.tenants == other.simulator.tenants
    assert first.simulator.client_secret == other.simulator.client_secret
    pages = [json.loads((await client.get(client.address()))[1])["value"] for client in (first, other)]
    assert pages[0] == pages[1]


async def test_msal_signs_in_to_the_simulator_with_its_ca(start: Clients) -> None:
    client = await start()
    simulator = client.simulator

    def acquire(tenant: str, secret: str) -> dict[str, Any]:
        with requests.Session() as session:
            session.request = functools.partial(  # type: ignore[method-assign]
                session.request, verify=str(simulator.ca_path), timeout=5
            )
            application = msal.ConfidentialClientApplication(
                simulator.client_id,
                client_credential=secret,
                authority=f"{simulator.url}/{tenant}",
                instance_discovery=False,
                http_client=session,
            )
            answer: dict[str, Any] = application.acquire_token_for_client([SCOPE])
            return answer

    answer = await asyncio.to_thread(acquire, simulator.tenants[0], simulator.client_secret)
    client.token = answer["access_token"]
    assert (await client.page(client.address()))["value"]
    refused = await asyncio.to_thread(acquire, simulator.tenants[0], "wrong")
    assert (refused["error"], refused["error_codes"]) == ("invalid_client", [7000215])
    with pytest.raises(ValueError, match="authority configuration"):
        await asyncio.to_thread(acquire, "99999999-9999-9999-9999-999999999999", simulator.client_secret)


@pytest.mark.parametrize(
    ("tenant", "changes", "status", "error", "number"),
    [
        ("99999999-9999-9999-9999-999999999999", {}, 400, "invalid_request", 90002),
        (None, {"client_secret": "wrong"}, 401, "invalid_client", 7000215),
        (None, {"client_id": "00000000-0000-0000-0000-000000000000"}, 400, "unauthorized_client", 700016),
        (None, {"scope": "https://graph.microsoft.com/User.Read"}, 400, "invalid_scope", 70011),
        (None, {"grant_type": "password"}, 400, "unsupported_grant_type", 70003),
    ],
)
async def test_simulated_sign_in_refuses_with_the_codes_of_entra(
    start: Clients, tenant: str | None, changes: dict[str, str], status: int, error: str, number: int
) -> None:
    client = await start()
    answer = await client.sign_in(tenant, **changes)
    assert (answer["status"], answer["error"], answer["error_codes"]) == (status, error, [number])
    assert answer["error_description"].startswith(f"AADSTS{number}: ")


async def test_request_with_an_invalid_token_gets_401(start: Clients) -> None:
    now = NOON
    client = await start(now=lambda: now, token_lifetime_s=600)
    other = await start(seed=2)
    good = client.token
    for token in ("", "x.y.z", other.token):
        response, body = await client.get(client.address(), Authorization=f"Bearer {token}" if token else "")
        assert response.status == 401
        assert response.headers["WWW-Authenticate"].startswith("Bearer ")
        error = json.loads(body)["error"]
        assert error["code"] == "InvalidAuthenticationToken"
        assert {"date", "request-id", "client-request-id"} == set(error["innerError"])
    await client.sign_in(scope="https://storage.example/.default")
    assert (await client.get(client.address()))[0].status == 401
    client.token = good
    now += timedelta(seconds=601)
    assert (await client.get(client.address()))[0].status == 401


async def test_simulator_expires_tokens_on_request(start: Clients) -> None:
    client = await start()
    assert (await client.post("expire-tokens", {}))["expired"] == 1
    assert (await client.get(client.address()))[0].status == 401
    await client.sign_in()
    assert (await client.get(client.address()))[0].status == 200


async def test_tenant_without_the_role_gets_403(start: Clients) -> None:
    client = await start(tenants=2, without_role=1, tenant=1)
    response, body = await client.get(client.address())
    assert (response.status, json.loads(body)["error"]["message"]) == (403, "")
    await client.sign_in(client.simulator.tenants[0])
    assert (await client.get(client.address()))[0].status == 200


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        ("fromDateTime=2026-03-03T00:00:00Z,toDateTime=2026-03-04T00:00:00Z", 200),
        ("fromDateTime=2026-03-03T00:00:00.1234567Z,toDateTime=2026-03-04T00:00:00.5Z", 200),
        ("fromDateTime=2026-03-03,toDateTime=2026-03-04", 200),
        ("fromDateTime=2026-03-03T00:00:00%2B00:00,toDateTime=2026-03-04T00:00:00Z", 200),
        ("fromDateTime=2026-03-03T00:00:00+00:00,toDateTime=2026-03-04T00:00:00Z", 400),
        ("fromDateTime='2026-03-03T00:00:00Z',toDateTime='2026-03-04T00:00:00Z'", 400),
        ("fromDateTime=2026-03-05T00:00:00Z,toDateTime=2026-03-04T00:00:00Z", 400),
        ("fromDateTime=2026-13-45T00:00:00Z,toDateTime=2026-03-04T00:00:00Z", 400),
        ("fromDateTime=yesterday,toDateTime=2026-03-04T00:00:00Z", 400),
        ("fromDateTime=2026-03-03T00:00:00Z", 400),
        ("fromDateTime=2025-12-04T00:00:00Z,toDateTime=2026-03-04T00:00:00Z", 200),
        ("fromDateTime=2025-12-03T23:59:59Z,toDateTime=2026-03-04T00:00:00Z", 406),
    ],
)
async def test_simulator_accepts_and_refuses_arguments_as_graph_does(
    start: Clients, arguments: str, status: int
) -> None:
    client = await start()
    url = f"{client.simulator.url}/v1.0/communications/callRecords/getDirectRoutingCalls({arguments})"
    response, body = await client.get(url)
    assert response.status == status, body
    if status != 200:
        assert set(json.loads(body)["error"]) == {"code", "message", "innerError"}
    assert (await client.get(f"{client.simulator.url}/v1.0/users"))[0].status == 404


async def test_simulator_ignores_unknown_query_options(start: Clients) -> None:
    client = await start()
    plain = await client.page(client.address())
    with_unknown_options = await client.page(f"{client.address()}?$filter=callType%20eq%20'ByotIn'&$top=5&x=y")
    assert with_unknown_options == plain


async def test_refused_requests_count_towards_simulated_throttling(start: Clients) -> None:
    client = await start(requests_per_minute=50, tenants=2, calls_per_day=10)
    statuses = [(await client.get(client.address()))[0].status for _ in range(52)]
    assert statuses == [200] * 50 + [429] * 2
    response, body = await client.get(client.address())
    assert json.loads(body)["error"]["code"] == "TooManyRequests"
    assert 1 <= int(response.headers["Retry-After"]) <= 60
    assert client.simulator.max_requests_in_60_s() == 53
    await client.sign_in(client.simulator.tenants[1])
    assert (await client.get(client.address()))[0].status == 200


def test_early_retry_prolongs_simulated_throttling() -> None:
    arrivals = Arrivals(50)
    assert [arrivals.arrive(float(second)) for second in range(50)] == [None] * 50
    assert arrivals.arrive(55.0) == 6.0
    assert arrivals.arrive(60.5) is not None, "the refused request counts"
    assert arrivals.arrive(200.0) is None


@pytest.mark.parametrize("form", ["seconds", "date", "none"])
async def test_throttled_fault_sends_the_configured_retry_after(start: Clients, form: str) -> None:
    client = await start()
    client.simulator.set_faults(throttled=1, retry_after=form, retry_after_s=7)
    response, _ = await client.get(client.address())
    assert response.status == 429
    value = response.headers.get("Retry-After")
    if form == "seconds":
        assert value == "7"
    elif form == "date":
        assert NOON + timedelta(seconds=7) <= parsedate_to_datetime(str(value)) <= NOON + timedelta(seconds=8)
    else:
        assert value is None


async def test_server_error_fault_sends_html_with_documented_statuses(start: Clients) -> None:
    client = await start()
    client.simulator.set_faults(server_error=1)
    statuses = set()
    for _ in range(40):
        response, body = await client.get(client.address())
        assert body.startswith(b"<html>")
        statuses.add(response.status)
    assert statuses == {500, 502, 503, 504, 509}
    client.simulator.set_faults(status=503, error_retry_after=True)
    response, _ = await client.get(client.address())
    assert (response.status, response.headers["Retry-After"]) == (503, "2")


async def test_cut_fault_truncates_the_body(start: Clients) -> None:
    client = await start()
    client.simulator.set_faults(cut={"share": 1, "times": 6})
    for _ in range(6):
        with pytest.raises((aiohttp.ClientPayloadError, aiohttp.ClientConnectionError)):
            await client.get(client.address())
    assert client.simulator.served()[client.simulator.tenants[0]].versions == 0
    assert len((await client.page(client.address()))["value"]) == 100
    assert client.simulator.served()[client.simulator.tenants[0]].versions == 100


@pytest.mark.parametrize("fault", ["garbage", "not_a_page"])
async def test_garbage_faults_send_bodies_that_are_not_pages(start: Clients, fault: str) -> None:
    client = await start()
    client.simulator.set_faults({fault: 1})
    for _ in range(30):
        response, body = await client.get(client.address())
        assert response.status == 200
        with pytest.raises(NotAPageError):
            decode_page(body)


@pytest.mark.parametrize(
    ("fault", "status"),
    [("unauthorized", 401), ("forbidden", 403), ("bad_request", 400), ("not_found", 404), ("too_long", 406)],
)
async def test_status_fault_responds_with_its_http_status(start: Clients, fault: str, status: int) -> None:
    client = await start(faults={fault: "1x1"})
    assert (await client.get(client.address()))[0].status == status
    assert (await client.get(client.address()))[0].status == 200


@pytest.mark.parametrize("status", [500, 400])
async def test_unservable_fault_fails_ranges_that_contain_the_given_time(start: Clients, status: int) -> None:
    instant = NOON - DAY / 2
    client = await start(faults={"unservable": 1, "unservable_at": instant.isoformat(), "unservable_status": status})
    for first, end, expected in (
        (NOON - DAY, NOON, status),
        (instant, instant + SECOND, status),
        (NOON - DAY, instant, 200),
        (instant + SECOND, NOON, 200),
    ):
        assert (await client.get(client.address(first, end)))[0].status == expected
    assert client.simulator.world.faults.struck["unservable"] == 2
    for wrong in ("yesterday", "2026-03-01T10:00:00"):
        with pytest.raises(ValueError, match=r"offset from UTC|Invalid isoformat"):
            client.simulator.set_faults(unservable_at=wrong)


@pytest.mark.parametrize("order", ["start", "newest", "id"])
async def test_withdrawn_rows_are_on_no_page(start: Clients, order: str) -> None:
    client = await start(order=order)
    before = [row["id"] for page in await client.chain(client.address()) for row in page["value"]]
    client.simulator.set_faults(withdrawn=", ".join(before[::50]))
    after = [row["id"] for page in await client.chain(client.address()) for row in page["value"]]
    assert after == [one for one in before if one not in before[::50]]


async def test_upper_link_fault_capitalizes_the_next_link_member(start: Clients) -> None:
    client = await start(faults={"upper_link": 1})
    pages = await client.chain(client.address())
    assert "@odata.NextLink" in pages[0]
    assert "@odata.nextLink" not in pages[0]
    assert len(pages) == 5


async def test_empty_page_fault_loses_no_row(start: Clients) -> None:
    client = await start(faults={"empty_page": 1})
    pages = await client.chain(client.address())
    assert [bool(page["value"]) for page in pages] == [False, True] * 5
    ids = {row["id"] for page in pages for row in page["value"]}
    assert len(ids) == len({row.id for row in client.simulator.truth(start=NOON - DAY, end=NOON) if row.until is None})


async def test_self_link_fault_links_a_page_to_itself(start: Clients) -> None:
    client = await start(faults={"self_link": 1})
    page = await client.page(f"{client.address()}?$skip=100")
    assert page["@odata.nextLink"] == f"{client.address()}?$skip=100"


async def test_foreign_link_fault_links_to_another_host(start: Clients) -> None:
    client = await start(faults={"foreign_link": 1, "foreign_url": "https://elsewhere.example"})
    assert (await client.page(client.address()))["@odata.nextLink"].startswith("https://elsewhere.example/v1.0/")


async def test_redirect_fault_redirects_to_another_host(start: Clients) -> None:
    client = await start(faults={"redirect": 1, "foreign_url": "https://elsewhere.example"})
    response, _ = await client.get(client.address())
    assert response.status in {302, 307, 308}
    assert response.headers["Location"].startswith("https://elsewhere.example/v1.0/")


async def test_endless_fault_sends_a_different_link_each_time(start: Clients) -> None:
    client = await start(faults={"endless": "1x1"})
    links = [page["@odata.nextLink"] for page in await client.chain(client.address(), most=20)]
    assert len(set(links)) == 20


async def test_repeat_fault_repeats_rows_at_page_boundaries(start: Clients) -> None:
    client = await start()
    steady = [row["id"] for page in await client.chain(client.address()) for row in page["value"]]
    client.simulator.set_faults(repeat=1, repeat_rows=3)
    for _ in range(2):
        pages = await client.chain(client.address())
        for one, other in itertools.pairwise(pages):
            assert one["value"][-3:] == other["value"][:3]
        ids = [row["id"] for page in pages for row in page["value"]]
        assert list(dict.fromkeys(ids)) == steady
        assert len(ids) == len(steady) + 3 * (len(pages) - 1)


async def test_repeat_once_fault_affects_only_one_page_chain(start: Clients) -> None:
    client = await start(faults={"repeat_once": 1, "repeat_rows": 3, "upper_link": 0.5})
    counts = []
    for _ in range(2):
        rows = [row["id"] for page in await client.chain(client.address()) for row in page["value"]]
        counts.append((len(rows), len(set(rows))))
    assert counts[0][0] > counts[0][1]
    assert counts[1][0] == counts[1][1] == counts[0][1]


async def test_slow_fault_delays_and_hang_fault_never_responds(start: Clients) -> None:
    client = await start(faults={"slow": "1x1", "slow_s": 0.2, "hang": "0"})
    before = asyncio.get_running_loop().time()
    assert (await client.get(client.address()))[0].status == 200
    assert asyncio.get_running_loop().time() - before >= 0.2
    client.simulator.set_faults(hang="1x1")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await client.get(client.address())
    assert (await client.get(client.address()))[0].status == 200


async def test_simulator_survives_a_client_that_disconnects_early(
    start: Clients, caplog: pytest.LogCaptureFixture
) -> None:
    client = await start(faults={"slow": "1x1", "slow_s": 0.3})
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await client.get(client.address())

    def has_answered() -> bool:
        return any(request.fault == "slow" for request in client.simulator.requests)

    async with asyncio.timeout(10):
        while not has_answered():
            assert (await client.get(client.address()))[0].status == 200
    assert (await client.get(client.address()))[0].status == 200
    assert not caplog.records


async def test_down_fault_closes_connections_until_it_is_cleared(start: Clients) -> None:
    client = await start()
    client.simulator.set_faults(down=True)
    with pytest.raises(aiohttp.ClientConnectionError):
        await client.get(client.address())
    assert (await client.sign_in())["status"] == 200
    await client.post("faults", {"down": False, "sign_in_down": True})
    assert (await client.get(client.address()))[0].status == 200
    with pytest.raises(aiohttp.ClientConnectionError):
        await client.sign_in()


async def test_simulator_can_stop_and_resume_accepting_connections(start: Clients) -> None:
    client = await start()
    url = client.simulator.url
    await client.simulator.refuse()
    with pytest.raises(aiohttp.ClientConnectionError):
        await client.get(client.address())
    await client.simulator.accept()
    assert client.simulator.url == url
    assert (await client.get(client.address()))[0].status == 200
    await client.post("refuse", {"for": "100ms"})
    assert await client.is_reachable_within(5, reachable=False)
    assert await client.is_reachable_within(5)


async def test_simulated_sign_in_faults_respond_as_documented(start: Clients) -> None:
    client = await start(faults={"slow_s": 0.1, "retry_after_s": 3})
    url = f"{client.simulator.url}/{client.simulator.tenants[0]}/v2.0/.well-known/openid-configuration"
    client.simulator.set_faults(sign_in_error="1x1")
    async with client.session.get(url) as response:
        assert response.status in {500, 502, 503}
        assert response.content_type == "text/html"
    client.simulator.set_faults(sign_in_throttled="1x1")
    async with client.session.get(url) as response:
        assert (response.status, response.headers["Retry-After"]) == (429, "3")
    client.simulator.set_faults(sign_in_hang="1x1")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await client.sign_in()
    assert (await client.sign_in())["status"] == 200


async def test_fault_of_one_tenant_does_not_affect_other_tenants(start: Clients) -> None:
    client = await start(tenants=2)
    first, second = client.simulator.tenants
    await client.post("faults", {"tenant": first, "server_error": 1})
    assert (await client.get(client.address()))[0].status >= 500
    await client.sign_in(second)
    assert (await client.get(client.address()))[0].status == 200
    client.simulator.clear_faults()
    await client.sign_in(first)
    assert (await client.get(client.address()))[0].status == 200


async def test_simulator_refuses_unknown_and_invalid_faults(start: Clients) -> None:
    client = await start()
    async with client.session.post(f"{client.simulator.url}/simulator/faults", json={"throtled": 1}) as response:
        assert response.status == 400
        assert 'did you mean "throttled"' in (await response.json())["error"]
    for wrong in ({"cut": 2}, {"cut": "often"}, {"retry_after": "soon"}, {"down": "maybe"}, {"slow_s": "x"}):
        with pytest.raises(ValueError, match=r"write|seconds, date"):
            client.simulator.set_faults(wrong)


async def test_date_skew_fault_shifts_the_date_header(start: Clients) -> None:
    client = await start(faults={"date_skew_s": 300})
    response, _ = await client.get(client.address())
    off = parsedate_to_datetime(response.headers["Date"]) - datetime.now(UTC)
    assert timedelta(seconds=250) < off < timedelta(seconds=350)


async def test_simulator_reports_generated_and_served_rows_over_http(start: Clients) -> None:
    client = await start(revised=0.2, unfit=0.05)
    await client.chain(client.address())
    url, tenant = client.simulator.url, client.simulator.tenants[0]
    async with client.session.get(f"{url}/simulator/truth?tenant={tenant}&from=2026-03-03T12:00:00Z") as response:
        truth = [json.loads(line) for line in (await response.text()).splitlines()]
    assert {"id", "version", "visible", "until", "start", "fits", "row"} == set(truth[0])
    assert any(row["version"] for row in truth)
    current = sorted(json.dumps(row["row"]) for row in truth if row["until"] is None)
    async with client.session.get(f"{url}/simulator/served?tenant={tenant}") as response:
        served = [json.loads(line) for line in (await response.text()).splitlines()]
    assert sorted(json.dumps(row["row"]) for row in served) == current
    async with client.session.get(f"{url}/simulator/served") as response:
        assert (await response.json())["versions"] == len(current)
    async with client.session.get(f"{url}/simulator/truth?tenant=nobody") as response:
        assert response.status == 400


async def test_simulator_records_each_request_with_its_outcome(start: Clients) -> None:
    client = await start(faults={"throttled": "1x1"})
    tenant = client.simulator.tenants[0]
    for _ in range(3):
        await client.get(client.address())
    async with client.session.get(f"{client.simulator.url}/simulator/requests?limit=2") as response:
        seen = await response.json()
    assert seen["tenants"][tenant]["graph_requests"] == seen["tenants"][tenant]["max_in_60_s"] == 3
    assert seen["tenants"][tenant]["by_status"]["graph"] == {"200": 2, "429": 1}
    assert len(seen["requests"]) == 2
    noted = [request for request in client.simulator.requests if request.kind == "graph"]
    assert [(request.status, request.fault, request.rows) for request in noted] == [
        (429, "throttled", 0),
        (200, None, 100),
        (200, None, 100),
    ]


async def test_prebuilt_simulator_serves_equal_rows_without_throttling(start: Clients) -> None:
    plain = await start()
    quick = await start(prebuilt=True, requests_per_minute=50)
    pages = [await client.chain(client.address()) for client in (plain, quick, quick)]
    rows = [[row for page in chain for row in page["value"]] for chain in pages]
    assert rows[0] == rows[1] == rows[2]
    for _ in range(60):
        await quick.page(quick.address())


async def test_simulator_compresses_pages_if_configured(start: Clients) -> None:
    client = await start(compress=True)
    response, body = await client.get(client.address())
    assert response.headers["Content-Encoding"] in {"gzip", "deflate"}
    assert len(json.loads(body)["value"]) == 100


async def test_simulate_command_prints_json_and_stops_on_sigterm(tmp_path: Path) -> None:
    program = "import typer; from connector.commands.simulate import simulate; typer.run(simulate)"
    arguments = ["--listen", "127.0.0.1:0", "--ca-out", str(tmp_path / "ca.pem"), "--tenants", "2", "--seed", "3"]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, *arguments, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(30):
            ready = json.loads(await process.stdout.readline())
            assert {"url", "ca", "tenants", "client_id", "client_secret"} == set(ready)
            assert len(ready["tenants"]) == 2
            context = ssl.create_default_context(cafile=ready["ca"])
            url = f"{ready['url']}/{ready['tenants'][1]}/v2.0/.well-known/openid-configuration"
            async with aiohttp.ClientSession() as session, session.get(url, ssl=context) as response:
                assert response.status == 200
            process.send_signal(signal.SIGTERM)
            assert await process.wait() == 0
            assert await process.stdout.read() == b""
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def test_simulate_command_writes_a_valid_connector_configuration(tmp_path: Path) -> None:
    program = "import typer; from connector.commands.simulate import simulate; typer.run(simulate)"
    written = tmp_path / "connector.toml"
    arguments = ["--ca-out", str(tmp_path / "ca.pem"), "--tenants", "2", "--config-out", str(written)]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        async with asyncio.timeout(30):
            next_step = await process.stderr.readline()
            ready = json.loads(await process.stdout.readline())
        assert f"connector run --config {written}" in next_step.decode()
        settings = load(written, {}, required=("kafka.bootstrap_servers",))
    finally:
        process.kill()
        await process.wait()

    assert [tenant.id for tenant in settings.tenants] == ready["tenants"]
    assert [tenant.name for tenant in settings.tenants] == ["simulated-1", "simulated-2"]
    assert str(settings.graph.root).startswith(ready["url"])
    assert settings.kafka.bootstrap_servers == "localhost:9092"


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])  # noqa: S104
async def test_simulator_with_wildcard_address_serves_ipv4_and_ipv6(host: str) -> None:
    async with Simulator(Options(host=host)) as simulator:
        for loopback in ("127.0.0.1", "::1"):
            _, writer = await asyncio.open_connection(loopback, simulator.port)
            writer.close()
            await writer.wait_closed()
