"""The status page: its text and its markup."""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from typing import Any

import pytest

from connector.core import instants
from connector.metrics.worker import Activity
from connector.web import page, strip

TENANT = {
    "id": "11111111-1111-1111-1111-111111111111",
    "name": "contoso",
    "shard": 3,
    "state": "ok",
    "reason": None,
    "covered_through": "2026-01-02T03:04:05.000Z",
    "lag_seconds": 12.3,
    "gap_seconds": 0,
    "unread_seconds": 12.3,
    "unread_from": "2026-01-02T03:04:05.000Z",
    "unread_done": None,
    "dead_letters": 7,
    "gaps": [],
    "coverage": [],
    "sweeps": [
        {"every": "1m", "overlap": "15m", "last_ok": "2026-01-02T03:04:05.000Z", "overdue_seconds": 0},
        {"every": "2h", "overlap": "48h", "last_ok": None, "overdue_seconds": 200},
        {"every": "24h", "overlap": "7d", "last_ok": None, "overdue_seconds": 0},
    ],
    "remembered_rows": 0,
    "records": 1234,
}
STATUS: dict[str, Any] = {
    "app": "direct-routing",
    "topic": "calls",
    "version": "0.1.0",
    "shards": 8,
    "tenants": [TENANT],
    "jobs": [],
    "instance": "worker-1",
    "ready": True,
    "reasons": [],
    "shards_owned": [0, 3],
    "started": "2026-01-02T03:00:00.000Z",
}
VOID = {"meta", "link"}


class Reader(HTMLParser):
    """HTML parser that collects text and attributes, and fails on an element that is closed out of order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def read(
    status: Mapping[str, Any],
    requests: Mapping[str, int] | None = None,
    *,
    reasons: list[str] | None = None,
    still: bool = False,
) -> Reader:
    reader = Reader()
    activity = Activity(requests or {}, rows_per_minute=34.2, budget_used_ratio=0.27)
    text = page.render(status, reasons or [], lambda _: activity, ready=not reasons, as_of="12:00", still=still)
    reader.feed(text)
    reader.close()
    assert reader.open == []
    return reader


def with_tenant(**changes: object) -> dict[str, Any]:
    return {**STATUS, "tenants": [{**TENANT, **changes}]}


def test_tenant_card_of_the_status_page_shows_state_lag_and_gaps() -> None:
    text = read(STATUS, {"200": 1200, "429": 3, "503": 2, "error": 1}).text

    for words in (
        "Ready. This worker owns 2 of 8 shards: 0, 3.",
        "This worker has 1 tenant: 1 up to date",
        "contoso Up to date Lag 12 s read to 2026-01-02 03:04:05 UTC",
        "Not read yet only the newest 12 s Rows per minute",
        "Rows per minute 34",
        "Dead letters 7",
        "Budget used 27%",
        "Shard 3",
        "every 1m, overlap 15m: on time, last ended 2026-01-02 03:04:05 UTC",
        "every 2h, overlap 48h: overdue for 3 min 20 s",
        "every 24h, overlap 7d: not ended yet",
        "Published 1,234",
        "1,206 requests, 3 throttled (429), 3 failed",
    ):
        assert words in text


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ("ok", "Up to date"),
        ("catching_up", "Catching up"),
        ("failing", "Failing"),
        ("paused", "Paused"),
        ("unknown", "Not being read"),
        ("a later version's", "Not being read"),
    ],
)
def test_status_page_shows_each_tenant_state_in_words(state: str, words: str) -> None:
    assert f"contoso {words}" in read(with_tenant(state=state)).text


def test_status_page_lists_failing_tenants_first_with_a_reason() -> None:
    failing = {**TENANT, "name": "zeta", "state": "failing", "reason": "The secret has expired: put a new one."}
    reader = read({**STATUS, "tenants": [TENANT, failing]})

    assert "Failing The secret has expired: put a new one." in reader.text
    assert reader.text.index("zeta") < reader.text.index("contoso")
    assert reader.text.startswith("1 failing")


def test_status_page_shows_unknown_values_as_not_known() -> None:
    names = ("lag_seconds", "gap_seconds", "unread_seconds", "covered_through", "records", "dead_letters")
    text = read(with_tenant(**dict.fromkeys(names), sweeps=[])).text

    for words in ("Lag not known", "Not read yet not known", "Published not known", "Dead letters not known"):
        assert words in text


def test_status_page_shows_the_id_of_a_tenant_without_name() -> None:
    assert f"{TENANT['id']} Up to date" in read(with_tenant(name=None)).text


def test_status_page_lists_only_a_few_gaps_with_their_causes() -> None:
    gap = {"from": "2026-01-01T00:00:00.000Z", "to": "2026-01-01T01:00:00.000Z", "cause": "outage"}
    text = read(with_tenant(gap_seconds=3600 * 50, unread_seconds=3600 * 50, gaps=[gap] * 50)).text

    assert "Not read yet 2 d 2 h" in text
    assert "gap: 2026-01-01 00:00:00 UTC to 2026-01-01 01:00:00 UTC : outage" in text
    assert text.count("outage") == 3
    assert "47 more gaps" in text


def test_lagging_tenant_card_shows_when_catching_up_will_end() -> None:
    behind = {
        "state": "catching_up",
        "unread_seconds": 86_400 * 13,
        "unread_from": "2026-01-01T00:00:00.000Z",
        "unread_done": "2026-01-14T03:00:00.000Z",
    }
    text = read(with_tenant(**behind)).text

    expected = "Not read yet 13 d from 2026-01-01 00:00:00 UTC at this rate, all is read by 2026-01-14 03:00:00 UTC"
    assert expected in text
    assert "Gaps" not in text


def test_failing_tenant_card_shows_the_start_of_the_failure() -> None:
    text = read(with_tenant(state="failing", reason="why", since="2026-01-01T00:00:00.000Z")).text

    assert "why (not read since 2026-01-01 00:00:00 UTC )" in text


def test_status_page_counts_tenants_of_other_workers() -> None:
    text = read({**STATUS, "tenants_elsewhere": 2}).text

    assert (
        "2 tenants of this app are not in the shards of this worker: run connector status to list all tenants." in text
    )
    assert "of this app" not in read(STATUS).text


def test_status_page_names_tenants_that_no_worker_reads() -> None:
    unread = [{"id": "aa", "name": "contoso", "reason": "why"}, {"id": "bb", "name": None, "reason": "because"}]

    text = read({**STATUS, "tenants_unread": unread}).text

    assert "contoso is not read by any worker: why. bb is not read by any worker: because." in text


def test_status_page_shows_why_a_worker_is_not_ready() -> None:
    text = read(STATUS, reasons=["Brokers are unreachable: look at the network."]).text

    assert "Not ready." in text
    assert "Brokers are unreachable: look at the network." in text


def test_status_page_shows_a_worker_without_shards_as_standby() -> None:
    text = read({**STATUS, "tenants": [], "shards_owned": []}).text

    assert "This worker owns no shard: it is a standby" in text
    assert "This worker reads no tenant at the moment." in text


def test_status_page_lists_jobs_with_their_progress() -> None:
    job = {
        "id": "j-1",
        "kind": "backfill",
        "tenant": TENANT["id"],
        "from": "2026-01-01T00:00:00.000Z",
        "to": "2026-01-01T08:00:00.000Z",
        "state": "running",
        "reason": "it is slow",
        "remaining_seconds": 7200,
        "rows": 1500,
    }
    reader = read({**STATUS, "jobs": [{**job, "id": "j-0", "state": "done", "remaining_seconds": 0}, job]})

    words = "contoso 2026-01-01 00:00:00 UTC to 2026-01-01 08:00:00 UTC Running it is slow 75 %, 2 h of call time left"
    assert words in reader.text
    assert reader.text.index("j-1") < reader.text.index("j-0"), "open jobs do not come first"
    bars = [attributes["value"] for tag, attributes in reader.seen if tag == "progress"]
    assert bars == ["75", "100"]
    assert "Backfills" not in read(STATUS).text


def test_status_page_escapes_external_text() -> None:
    hostile = "\"><script>alert(1)</script><b a='"
    gap = {"from": hostile, "to": hostile, "cause": hostile}
    sweep = {"every": hostile, "overlap": hostile, "last_ok": None, "overdue_seconds": 0}
    tenant = {**TENANT, "id": hostile, "name": hostile, "reason": hostile, "covered_through": hostile, "gap_seconds": 1}
    status = {
        **STATUS,
        **dict.fromkeys(("app", "topic", "version", "instance", "started", "shards"), hostile),
        "tenants": [{**tenant, "gaps": [gap], "sweeps": [sweep]}],
        "jobs": [dict.fromkeys(("id", "tenant", "from", "to", "state", "reason"), hostile)],
    }

    reader = read(status, {hostile: 1}, reasons=[hostile])

    assert {tag for tag, _ in reader.seen} & {"script", "b"} == set()
    assert reader.text.count(hostile) >= 15


def test_status_page_has_no_script_and_loads_nothing() -> None:
    for tag, attributes in read(STATUS).seen:
        assert tag not in {"script", "img", "iframe", "object", "form"}
        assert not any(name.startswith("on") or name in {"style", "src"} for name in attributes)
        assert attributes.get("href", "/") in {"data:,", "/", "/?still=1", "/status", "/metrics", "/readyz", "/livez"}


def many(count: int) -> dict[str, Any]:
    failing = {**TENANT, "id": "f", "name": "zeta", "state": "failing", "reason": "why"}
    return {**STATUS, "tenants": [*({**TENANT, "id": str(n), "name": f"t-{n:03}"} for n in range(count)), failing]}


def test_status_page_is_readable_by_screen_readers() -> None:
    for status in (STATUS, many(100)):
        seen = read(status).seen
        tags = [tag for tag, _ in seen]

        assert ("html", {"lang": "en"}) in seen
        assert all(attributes.get("scope") in {"col", "row"} for tag, attributes in seen if tag == "th")
        assert (tags.count("main"), tags.count("h1")) == (1, 1)
        assert tags.count("caption") == tags.count("table")
        ids = [attributes["id"] for _, attributes in seen if "id" in attributes]
        assert len(ids) == len(set(ids))
        named = [attributes["aria-labelledby"] for _, attributes in seen if "aria-labelledby" in attributes]
        assert set(named) <= set(ids)
        for tag, attributes in seen:
            if tag == "svg":
                assert attributes.get("aria-hidden") or (attributes["role"] == "img" and attributes["aria-label"])


def test_status_page_lists_healthy_tenants_compactly() -> None:
    reader = read(many(100))

    assert [tag for tag, _ in reader.seen].count("article") == 1
    assert reader.text.index("zeta Failing why Lag") < reader.text.index("The other 100 tenants")
    assert "t-099 Up to date 12 s only the newest 12 s 7 34 27%" in reader.text


def test_status_page_of_500_tenants_is_below_half_a_megabyte() -> None:
    tenants = [
        {**covered((300, 48, 900), (48, 3, 70), (3, 0, 0.2)), "id": str(n), "name": f"t-{n}"} for n in range(500)
    ]
    text = page.render({**STATUS, "tenants": tenants}, [], lambda _: None, ready=True)

    assert len(text) < 500_000


def test_status_page_refreshes_unless_paused() -> None:
    def refreshes(reader: Reader) -> bool:
        return any(attributes.get("http-equiv") == "refresh" for tag, attributes in reader.seen if tag == "meta")

    assert refreshes(read(STATUS))
    still = read(STATUS, still=True)
    assert not refreshes(still)
    assert ("a", {"href": "/"}) in still.seen


NOW = datetime(2026, 1, 2, 12, tzinfo=UTC)


def hours_ago(hours: float) -> str:
    return instants.text(NOW - timedelta(hours=hours))


def covered(*pieces: tuple[float, float, float], **changes: object) -> dict[str, Any]:
    """Return a tenant's status with coverage from tuples of start, end and last read, in hours before now."""
    coverage = [{"from": hours_ago(a), "to": hours_ago(b), "last_read": hours_ago(at)} for a, b, at in pieces]
    through = coverage[-1]["to"]
    lag_s = 3600 * pieces[-1][1]
    return {**TENANT, "coverage": coverage, "covered_through": through, "lag_seconds": lag_s, **changes}


def drawn(tenant: Mapping[str, Any], jobs: Iterable[Mapping[str, Any]] = ()) -> str:
    """Return the coverage of the last 24 hours, one letter per hour."""
    known = strip.pieces(tenant, jobs)
    assert known is not None
    letters = {"none": " ", "recent": "r", "today": "t", "older": "o", "due": "d", "gap": "G"}
    runs = strip.runs(known, timedelta(hours=24), 24)
    return "".join(letters[strip.NAMES[run.kind]] * (run.last - run.first) for run in runs)


def test_coverage_strip_shows_when_call_time_was_last_read() -> None:
    assert drawn(covered((22, 10, 30), (10, 2, 5), (2, 0, 0.5))) == "  " + 12 * "o" + 8 * "t" + "rr"


def test_short_gap_is_visible_in_the_coverage_strip() -> None:
    gap = [{"from": hours_ago(10.5), "to": hours_ago(10.4), "cause": "permission"}]
    tenant = covered((24, 10.5, 1), (10.4, 0, 0.5), gaps=gap, gap_seconds=360)

    assert drawn({**tenant, "state": "failing"}) == 13 * "r" + "G" + 10 * "r"
    assert drawn({**tenant, "state": "catching_up"}) == 13 * "r" + "d" + 10 * "r"


def test_page_shows_recent_unread_time_as_gap_only_for_failing_tenants() -> None:
    tenant = covered((24, 3, 0.5))

    assert drawn({**tenant, "state": "failing"}) == 21 * "r" + "GGG"
    assert drawn({**tenant, "state": "catching_up"}) == 21 * "r" + "ddr".replace("r", " ")


def test_coverage_strip_shows_the_range_of_an_open_backfill() -> None:
    job = {"from": hours_ago(20), "to": hours_ago(8), "state": "running"}
    tenant = covered((12, 0, 0.5))

    assert drawn(tenant, [job]) == 4 * " " + 8 * "d" + 12 * "r"
    assert drawn(tenant, [{**job, "state": "done"}]) == 12 * " " + 12 * "r"


def test_tenant_without_known_state_has_no_coverage_strip() -> None:
    assert strip.pieces({**TENANT, "lag_seconds": None}) is None


def test_coverage_strip_has_a_text_alternative() -> None:
    labels = [
        attributes.get("aria-label", "")
        for tag, attributes in read({**STATUS, "tenants": [covered((12, 0, 0.5))]}).seen
    ]

    assert "Last 24 hours: read in the last hour, 12 h; before the start of the tenant, 12 h" in labels
