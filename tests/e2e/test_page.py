"""The status page in a browser, with the real service behind it: five tenants in five states.

`SCREENSHOTS=docs/images pytest tests/e2e/test_page.py` takes the pictures of the documentation again.
"""

import os
import re
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, Request, expect, sync_playwright

from tests import commands
from tests.conftest import SharedBroker
from tests.simulation import Simulation
from tests.system_software import program
from tests.workers import Worker, configuration

CHROMIUM = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
DEADLINE_MS = 30_000
HEALTHY, FAILING, SLOW, GAP, BACKFILL = NAMES = ("contoso", "fabrikam", "tailspin", "wingtip", "litware")
SLOWLY = {"requests_per_minute": 10, "start": "-60d"}
"Tenant settings with a long history and a small budget, so that catching up takes minutes."
LEAST_CONTRAST = 4.5

_CONTRASTS = """() => {
  const light = c => { const v = c.match(/[\\d.]+/g).slice(0, 3).map(x => x / 255)
    .map(x => x <= 0.03928 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4);
    return 0.2126 * v[0] + 0.7152 * v[1] + 0.0722 * v[2]; };
  const ground = e => { for (; e; e = e.parentElement) {
    const c = getComputedStyle(e).backgroundColor; if (!/, 0\\)$/.test(c)) return c; } return 'rgb(255, 255, 255)'; };
  return [...document.querySelectorAll('body *')]
    .filter(e => e.checkVisibility() && [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim())
      && e.namespaceURI.endsWith('xhtml'))
    .map(e => { const a = light(getComputedStyle(e).color), b = light(ground(e));
      return [(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), e.outerHTML.slice(0, 80)]; })
    .sort((a, b) => a[0] - b[0])[0];
}"""


class Service(NamedTuple):
    """The worker and the address of its page."""

    worker: Worker
    url: str


@pytest.fixture(scope="module")
def service(broker: SharedBroker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Run a worker with five tenants in five states, and yield the address of its page."""
    with Simulation(tenants=5, days=0.5, calls_per_day=4_000, lateness="none", revised=0.0) as source:
        tenants: list[dict[str, Any]] = [
            {"id": tenant, "name": name, "start": "-13d"} for tenant, name in zip(source.tenants, NAMES, strict=True)
        ]
        tenants[2] |= SLOWLY
        tenants[3] |= SLOWLY
        tenants[4] |= {"start": "-1d", "requests_per_minute": 30}
        source.set_faults(source.tenants[1], forbidden=1.0)
        folder = tmp_path_factory.mktemp("page")
        tag = uuid.uuid4().hex[:6]
        sweeps = [{"every": "1m", "overlap": "15m"}, {"every": "15m", "overlap": "3h"}]
        settings = configuration(
            broker.bootstrap,
            f"direct-routing-calls-{tag}",
            f"direct-routing-{tag}",
            source,
            tenants=tenants,
            windows={"sweeps": sweeps},
        )
        worker = Worker(folder, settings)
        worker.start()
        try:
            worker.until_ready()
            until_state(worker, HEALTHY, "ok")
            until_state(worker, BACKFILL, "ok")
            until_state(worker, FAILING, "failing")
            worker.until(lambda: all(tenant_of(worker, name)["gaps"] for name in (SLOW, GAP)), "call time to be read")
            commands.succeed(worker.config, "pause", "--tenant", GAP)
            commands.succeed(worker.config, "backfill", "--tenant", BACKFILL, "--from", "-140d", "--to", "-4d")
            until_state(worker, GAP, "paused")
            worker.until(
                lambda: any(0 < job["remaining_seconds"] < 136 * 86_400 for job in worker.status()["jobs"]),
                "progress of the backfill",
            )
            yield Service(worker, f"http://127.0.0.1:{worker.port}/")
        finally:
            worker.kill()


def tenant_of(worker: Worker, name: str) -> dict[str, Any]:
    found: dict[str, Any] = next((t for t in worker.status()["tenants"] if t["name"] == name), {"gaps": []})
    return found


def until_state(worker: Worker, name: str, state: str) -> None:
    worker.until(lambda: tenant_of(worker, name).get("state") == state, f"{name} to be {state}")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program("chromium"), args=list(CHROMIUM))
        yield browser
        browser.close()


class Visit:
    """Browser page, with all its requests and its console errors."""

    def __init__(self, browser: Browser, **options: Any) -> None:
        self.context = browser.new_context(**options)
        self.context.set_default_timeout(DEADLINE_MS)
        self.page: Page = self.context.new_page()
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self.page.on("request", self._requested)
        self.page.on("requestfailed", lambda request: self.complaints.append(request.url))
        self.page.on("console", self._record_message)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))

    def _requested(self, request: Request) -> None:
        self.requests.append(request.url)

    def _record_message(self, message: ConsoleMessage) -> None:
        self.complaints.append(message.text)


@pytest.fixture(params=["light", "dark"])
def visit(browser: Browser, request: pytest.FixtureRequest) -> Iterator[Visit]:
    visit = Visit(browser, color_scheme=request.param, viewport={"width": 1200, "height": 900})
    yield visit
    visit.context.close()


def test_status_page_shows_failing_tenants_first(
    service: Service, visit: Visit, request: pytest.FixtureRequest
) -> None:
    page = visit.page
    answer = page.goto(f"{service.url}?still=1")
    assert answer is not None
    assert answer.status == 200
    expect(page).to_have_title(re.compile("^1 failing · direct-routing-"))
    assert page.get_by_role("heading", level=3).all_inner_texts() == [FAILING, SLOW, GAP, HEALTHY, BACKFILL]
    words = {
        FAILING: ("Failing", "grant the application permission CallRecords.Read.All", "Budget used"),
        SLOW: ("Catching up", "call time that was not read yet is being read", "gap: 20"),
        GAP: ("Paused", "run connector resume to continue", "paused"),
        HEALTHY: ("Up to date", "only the newest", "Rows per minute"),
        BACKFILL: ("Up to date",),
    }
    strips = {
        FAILING: "not read yet, and reading has stopped, 13 d",
        SLOW: "not read yet, reading continues",
        GAP: "not read yet, and reading has stopped",
        HEALTHY: "read in the last hour, 13 d",
        BACKFILL: "not read yet, reading continues",
    }
    for name in NAMES:
        article = page.get_by_role("article", name=name)
        for text in words[name]:
            expect(article).to_contain_text(text)
        weeks = article.get_by_role("img", name="Last 14 days")
        assert strips[name] in (weeks.get_attribute("aria-label") or "")
        expect(article.get_by_role("img", name="Last 24 hours")).to_be_visible()
    jobs = page.get_by_role("table", name="Jobs of the tenants")
    expect(jobs.get_by_role("row", name=BACKFILL)).to_contain_text("Running")
    expect(jobs.get_by_role("progressbar")).to_be_visible()
    _draw(page, request.node.callspec.params["visit"])


def test_status_page_loads_nothing_from_other_hosts(service: Service, visit: Visit) -> None:
    answer = visit.page.goto(service.url)
    assert answer is not None
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    visit.page.get_by_text("Sweeps and readings").first.click()
    assert set(visit.requests) == {service.url}
    assert visit.complaints == []


def test_status_page_has_enough_contrast_in_light_and_dark_mode(service: Service, visit: Visit) -> None:
    visit.page.goto(f"{service.url}?still=1")
    contrast, where = visit.page.evaluate(_CONTRASTS)
    assert contrast >= LEAST_CONTRAST, where


def test_status_page_is_usable_by_keyboard(service: Service, visit: Visit) -> None:
    page = visit.page
    page.goto(service.url)
    page.keyboard.press("Tab")
    opened = page.locator("details[open]")
    expect(opened).to_have_count(0)
    page.keyboard.press("Enter")
    expect(opened).to_have_count(1)
    expect(opened).to_contain_text("every 1m, overlap 15m")
    still = page.get_by_role("link", name="Stop refreshing")
    for _ in range(12):
        page.keyboard.press("Tab")
        if still.evaluate("link => link === document.activeElement"):
            break
    page.keyboard.press("Enter")
    expect(page.get_by_role("link", name="Refresh every 30 s")).to_be_visible()
    assert page.locator("meta[http-equiv=refresh]").count() == 0


def test_status_page_keeps_the_scroll_position_on_refresh(service: Service, browser: Browser) -> None:
    visit = Visit(browser, viewport={"width": 390, "height": 800})
    page = visit.page
    # The refresh interval of 30 s is shortened in the response. The test is about how a browser refreshes the page.
    page.route("**/", lambda route: route.fulfill(response=(got := route.fetch()), body=_hurried(got.text())))
    page.goto(service.url)
    page.evaluate("scrollTo(0, 700)")
    with page.expect_response(service.url):
        pass
    page.wait_for_load_state()
    page.wait_for_function("Math.abs(scrollY - 700) < 2")
    visit.context.close()


def _hurried(document: str) -> str:
    assert document.count('http-equiv="refresh" content="30"') == 1
    return document.replace('http-equiv="refresh" content="30"', 'http-equiv="refresh" content="1"')


def test_status_page_fits_a_phone_screen(service: Service, browser: Browser, request: pytest.FixtureRequest) -> None:
    visit = Visit(browser, viewport={"width": 390, "height": 844})
    visit.page.goto(f"{service.url}?still=1")
    assert visit.page.evaluate("document.documentElement.scrollWidth") == 390
    _draw(visit.page, request.node.name)
    visit.context.close()


def _draw(page: Page, what: str) -> None:
    folder = os.environ.get("SCREENSHOTS")
    if not folder:
        return
    where = Path(folder)
    where.mkdir(parents=True, exist_ok=True)
    if what not in ("light", "dark"):
        page.screenshot(path=where / "page-telephone.png")
        return
    page.screenshot(path=where / f"page-{what}.png")
    if what == "light":
        states = {HEALTHY: "healthy", FAILING: "failing", SLOW: "catching-up", GAP: "gap", BACKFILL: "backfill"}
        for name, state in states.items():
            page.get_by_role("article", name=name).screenshot(path=where / f"page-{state}.png")
