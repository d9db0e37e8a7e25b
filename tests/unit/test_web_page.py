"""The page as people see it: rules about its words and its markup."""

from collections.abc import Mapping
from html.parser import HTMLParser
from typing import Any

import pytest

from connector.web import page

TENANT = {
    "id": "11111111-1111-1111-1111-111111111111",
    "name": "contoso",
    "shard": 3,
    "state": "ok",
    "reason": None,
    "covered_through": "2026-01-02T03:04:05.000Z",
    "lag_seconds": 12.3,
    "gap_seconds": 0,
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
    """Text, open elements and attributes; fails on an element that is closed out of turn."""

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
    status: Mapping[str, Any], requests: Mapping[str, int] | None = None, *, reasons: list[str] | None = None
) -> Reader:
    reader = Reader()
    reader.feed(page.render(status, reasons or [], lambda _: requests or {}, ready=not reasons))
    reader.close()
    assert reader.open == []
    return reader


def with_tenant(**changes: object) -> dict[str, Any]:
    return {**STATUS, "tenants": [{**TENANT, **changes}]}


def test_a_tenant_shows_its_state_lag_gaps_sweeps_records_and_requests_in_words() -> None:
    text = read(STATUS, {"200": 1200, "429": 3, "503": 2, "error": 1}).text

    for words in (
        "Ready. It owns 2 of 8 shards.",
        "1 tenant read by this worker: 1 up to date",
        "contoso Up to date 12 s read to 2026-01-02 03:04:05 UTC",
        "nothing",
        "every 1m over 15m: on time",
        "every 2h over 48h: overdue for 3 min 20 s",
        "every 24h over 7d: not ended yet",
        "1,234",
        "1,206 3 throttled (429) 3 failed",
    ):
        assert words in text


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ("ok", "Up to date"),
        ("catching_up", "Catching up"),
        ("failing", "Failing"),
        ("paused", "Paused"),
        ("unknown", "Not known yet"),
        ("a later version's", "Not known yet"),
    ],
)
def test_every_state_is_a_word_and_not_a_colour_alone(state: str, words: str) -> None:
    assert f"contoso {words}" in read(with_tenant(state=state)).text


def test_what_fails_says_why_and_comes_first() -> None:
    failing = {**TENANT, "name": "zeta", "state": "failing", "reason": "The secret has expired: put a new one."}
    reader = read({**STATUS, "tenants": [TENANT, failing]})

    assert "Failing The secret has expired: put a new one." in reader.text
    assert reader.text.index("zeta") < reader.text.index("contoso")
    assert reader.text.startswith("1 failing")


def test_what_is_not_known_is_not_shown_as_a_number() -> None:
    text = read(with_tenant(lag_seconds=None, gap_seconds=None, covered_through=None, records=None, sweeps=[])).text

    assert text.count("not known") == 3


def test_a_tenant_without_a_name_shows_its_id() -> None:
    assert f"{TENANT['id']} Up to date" in read(with_tenant(name=None)).text


def test_gaps_tell_where_and_why_and_the_list_stays_short() -> None:
    gap = {"from": "2026-01-01T00:00:00.000Z", "to": "2026-01-01T01:00:00.000Z", "cause": "outage"}
    text = read(with_tenant(gap_seconds=3600 * 50, gaps=[gap] * 50)).text

    assert "2 d 2 h 2026-01-01 00:00:00 UTC to 2026-01-01 01:00:00 UTC : outage" in text
    assert text.count("outage") == 3
    assert "and 47 more" in text


def test_a_worker_that_is_not_ready_says_why() -> None:
    text = read(STATUS, reasons=["Brokers are unreachable: look at the network."]).text

    assert "Not ready." in text
    assert "Brokers are unreachable: look at the network." in text


def test_a_worker_without_shards_stands_by() -> None:
    text = read({**STATUS, "tenants": [], "shards_owned": []}).text

    assert "It owns no shard: it stands by" in text
    assert "This worker reads no tenant at the moment." in text


def test_jobs_are_listed_while_there_are_any() -> None:
    job = {
        "id": "j-1",
        "kind": "backfill",
        "tenant": "contoso",
        "from": "A",
        "to": "B",
        "state": "running",
        "reason": None,
        "remaining_seconds": 7200,
    }

    assert "j-1 contoso A to B running 2 h" in read({**STATUS, "jobs": [job]}).text
    assert "Jobs" not in read(STATUS).text


def test_nothing_from_outside_becomes_markup() -> None:
    evil = "\"><script>alert(1)</script><b a='"
    gap = {"from": evil, "to": evil, "cause": evil}
    sweep = {"every": evil, "overlap": evil, "last_ok": None, "overdue_seconds": 0}
    tenant = {**TENANT, "id": evil, "name": evil, "reason": evil, "covered_through": evil, "gap_seconds": 1}
    status = {
        **STATUS,
        **dict.fromkeys(("app", "topic", "version", "instance", "started", "shards"), evil),
        "tenants": [{**tenant, "gaps": [gap], "sweeps": [sweep]}],
        "jobs": [dict.fromkeys(("id", "tenant", "from", "to", "state", "reason"), evil)],
    }

    reader = read(status, {evil: 1}, reasons=[evil])

    assert {tag for tag, _ in reader.seen} & {"script", "b"} == set()
    assert reader.text.count(evil) >= 15


def test_the_page_has_no_script_no_handler_and_loads_nothing() -> None:
    for tag, attributes in read(STATUS).seen:
        assert tag not in {"script", "img", "iframe", "object", "form"}
        assert not any(name.startswith("on") or name in {"style", "src"} for name in attributes)
        assert attributes.get("href", "/") in {"data:,", "/", "/status", "/metrics", "/readyz", "/livez"}


def test_the_table_can_be_read_aloud() -> None:
    seen = read(STATUS).seen

    assert ("html", {"lang": "en"}) in seen
    headers = [attributes for tag, attributes in seen if tag == "th"]
    assert headers
    assert all(attributes.get("scope") in {"col", "row"} for attributes in headers)
    assert [tag for tag, _ in seen].count("caption") == 1
    assert [tag for tag, _ in seen].count("main") == 1
    assert [tag for tag, _ in seen].count("h1") == 1


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0 s"),
        (0.4, "0 s"),
        (-0.4, "0 s"),
        (59.6, "1 min"),
        (61, "1 min 1 s"),
        (3600, "1 h"),
        (3601, "1 h"),
        (3660.2, "1 h 1 min"),
        (86400 * 3 + 7200 + 59, "3 d 2 h"),
        (-90, "minus 1 min 30 s"),
    ],
)
def test_a_duration_has_at_most_two_units(seconds: float, words: str) -> None:
    assert page.duration(seconds) == words
