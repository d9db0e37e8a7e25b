"""Faults of Graph and of its sign-in: no row is lost, repeated or misread."""

import json
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from connector.simulator.row_content import Texts
from tests import commands, oracle
from tests.conftest import SharedBroker
from tests.simulation import Simulation
from tests.workers import Worker

Simulate = Callable[..., Simulation]
NewWorker = Callable[..., Worker]
Settings = Callable[..., dict[str, Any]]

RETRYING_SOON = (
    "-c",
    "import connector.core.failing_ranges as r; r._FIRST_RETRY_S = 5; from connector.__main__ import main; main()",
    "run",
)
"""`connector run` that requests an isolated range again after seconds instead of a minute."""
SMALL = {"days": 1, "calls_per_day": 2_000, "frozen": True, "page_size": 100}


class Bench:
    """One simulator and one worker on topics of their own."""

    def __init__(self, bootstrap: str, topic: str, app: str, simulate: Simulate, new_worker: NewWorker) -> None:
        self.bootstrap, self.topic, self.app = bootstrap, topic, app
        self.simulate, self.new_worker = simulate, new_worker

    def check(self, source: Simulation, *, claims: bool = True) -> oracle.Committed:
        return oracle.check(self.bootstrap, self.topic, self.app, source.truth(), claims=claims)


@pytest.fixture
def bench(broker: SharedBroker, topic: str, app: str, simulate: Simulate, new_worker: NewWorker) -> Bench:
    return Bench(broker.bootstrap, topic, app, simulate, new_worker)


@pytest.mark.parametrize(
    ("faults", "rows"),
    [
        pytest.param({"repeat": 1.0}, {}, id="last_rows_of_each_page_repeated"),
        pytest.param({"repeat_once": 0.5, "upper_link": 0.5}, {}, id="rows_shifted_between_pages"),
        pytest.param({"empty_page": 0.5, "upper_link": 0.5}, {}, id="empty_pages_with_a_next_link"),
        pytest.param({"server_error": 0.05, "not_a_page": 0.1, "garbage": 0.1}, {}, id="bodies_that_are_not_pages"),
        pytest.param(
            {"cut": 0.15}, {"unfit": 0.05, "unknown": 0.1, "startless": 0.02}, id="truncated_bodies_and_invalid_rows"
        ),
        pytest.param(
            {"throttled": "0.9x10", "retry_after": "mixed", "retry_after_s": 1.0}, {}, id="many_429_responses"
        ),
        pytest.param({"unauthorized": "1x1"}, {}, id="refused_token"),
    ],
)
def test_faults_of_graph_keep_exactly_once(
    bench: Bench, settings: Settings, faults: dict[str, Any], rows: dict[str, Any]
) -> None:
    """Known defects of other programs: elastic/beats 34304, a limit of 1,000 rows, a resume "from now"."""
    source = bench.simulate(**SMALL, **rows, faults=faults)
    worker = bench.new_worker(settings(source))
    assert worker.run_once() == 0
    found = bench.check(source)
    assert len(found.rows) + len(found.dead_letters) > 1_800
    assert bool(found.dead_letters) == bool(rows)


def test_tokens_refused_by_graph_keep_exactly_once(bench: Bench, settings: Settings) -> None:
    """A refused token is renewed once.

    A second refusal in a row fails the run, so four refusals fail at most two runs.
    """
    source = bench.simulate(**SMALL, faults={"unauthorized": "0.2x4"})
    worker = bench.new_worker(settings(source))
    codes = [worker.run_once()]
    while codes[-1] and len(codes) < 3:
        codes.append(worker.run_once())
    assert codes[-1] == 0
    assert len(bench.check(source).rows) > 1_800


def test_second_that_graph_cannot_serve_delays_no_other_row(bench: Bench, settings: Settings) -> None:
    """The gap is reported with its cause, and its rows arrive when the fault ends."""
    source = bench.simulate(**SMALL)
    (tenant,) = source.tenants
    versions = source.truth()[tenant]
    second = sorted(version.start for version in versions)[len(versions) // 2].replace(microsecond=0)
    source.set_faults(unservable=1, unservable_at=second.isoformat(), unservable_status=500)
    inside = {v.id for v in versions if second <= v.start < second + timedelta(seconds=1)}
    outside = {v.id for v in versions} - inside
    worker = bench.new_worker(settings(source), *RETRYING_SOON)
    worker.start()
    worker.until_logged("range_isolated")
    worker.until(
        lambda: worker.metric("rows_total", outcome="published") >= len(outside),
        "all rows outside of that second",
    )
    worker.until(
        lambda: ["500" in gap["cause"] for gap in worker.tenant(tenant).get("gaps", ())] == [True],
        "a gap with its cause",
    )
    shown = worker.tenant(tenant)
    (gap,) = shown["gaps"]
    assert (datetime.fromisoformat(gap["from"]), shown["gap_seconds"]) == (second, 1)
    assert shown["unreadable"] == shown["gaps"]
    assert shown["state"] == "catching_up"
    assert worker.metric("tenant_failing") == 0
    assert {row.id for row in oracle.committed(bench.bootstrap, bench.topic, bench.app).rows} == outside
    source.set_faults(unservable=0)
    worker.until(lambda: worker.tenant(tenant)["gap_seconds"] == 0, "no gap", 180)
    worker.until_logged("range_recovered")
    assert worker.tenant(tenant)["unreadable"] == []
    worker.until_complete(source.freeze())
    assert worker.stop() == 0
    bench.check(source)


def test_dead_letter_states_the_problem_without_the_value(bench: Bench, settings: Settings) -> None:
    """The valid rows of the same page are published."""
    source = bench.simulate(**SMALL, unfit=0.1)
    worker = bench.new_worker(settings(source))
    assert worker.run_once() == 0
    messages = Counter(
        dict(entry.headers)["__connect.errors.exception.message"].decode() for entry in bench.check(source).dead_letters
    )
    assert len(messages) > 10
    assert any("duration" in message for message in messages)
    for message in messages:
        assert "yesterday" not in message
        assert "49301234567" not in message


def test_row_that_is_not_valid_utf_8_is_dead_lettered(
    bench: Bench, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of a surrogate pair is legal in JSON, but not in UTF-8 (redpanda-data/connect `schema_registry_encode`)."""
    whole = Texts.__init__

    def spoil(self: Texts, *arguments: Any) -> None:
        whole(self, *arguments)
        for call in range(0, len(self.first), 20):
            self.first[call] = self.first[call].replace(b'"userDisplayName":"', b'"userDisplayName":"\\ud800')

    monkeypatch.setattr(Texts, "__init__", spoil)
    source = bench.simulate(**SMALL, revised=0.0)
    worker = bench.new_worker(settings(source))
    assert worker.run_once() == 0
    shown = [(version.id, bytes(version.row)) for version in source.truth()[source.tenants[0]]]
    broken = [row for _, row in shown if b"\\ud800" in row]
    found = oracle.committed(bench.bootstrap, bench.topic, bench.app)  # each value of the row topic is Avro
    assert len(broken) > 20
    assert Counter(entry.value for entry in found.dead_letters) == Counter(broken)
    assert Counter(row.id for row in found.rows) == Counter(name for name, row in shown if b"\\ud800" not in row)


def test_token_expiry_during_a_sign_in_outage_loses_no_row(bench: Bench, settings: Settings) -> None:
    source = bench.simulate(**SMALL, faults={"slow": 1.0, "slow_s": 0.1})
    worker = bench.new_worker(settings(source))
    worker.start()
    worker.until(lambda: worker.metric("rows_total", outcome="published") > 500, "the first pages")
    source.set_faults(sign_in_down=True)
    source.expire_tokens()
    worker.until(lambda: worker.metric("tenant_up") == 0, "the sign-in to fail")
    assert worker.get("/livez")[0] == 200
    source.set_faults(sign_in_down=False)
    worker.until(lambda: worker.metric("tenant_up") == 1, "the sign-in to succeed")
    worker.until_complete(datetime.now(UTC))
    assert worker.stop() == 0
    bench.check(source)


def test_coverage_advances_through_a_month_without_calls(bench: Bench, settings: Settings) -> None:
    """Known defect of castorm/kafka-connect-http, issue 273."""
    source = bench.simulate(days=0, calls_per_day=0)
    worker = bench.new_worker(settings(source, tenants=[{"id": source.tenants[0], "start": "-31d"}]))
    started_at = datetime.now(UTC)
    worker.start()
    worker.until_complete(started_at - timedelta(seconds=1))
    tenant = worker.tenant(source.tenants[0])
    assert tenant["lag_seconds"] < 30
    assert (tenant["state"], tenant["gaps"], tenant["records"]) == ("ok", [], 0)
    assert worker.stop() == 0
    found = bench.check(source)
    assert not found.rows
    assert {statement.gap_seconds for statement in found.progress} == {0}
    assert max(statement.complete_through for statement in found.progress) > started_at - timedelta(minutes=11)


def test_rows_that_appear_within_the_second_being_read_are_found(bench: Bench, settings: Settings) -> None:
    """Rows appear in the second that is just being read (known defects: airbytehq/airbyte 85918 and 80152)."""
    source = bench.simulate(
        days=0.001,
        calls_per_day=4_000_000,
        durations="short",
        lateness="1:0s-3s",
        moved=0,
        revised=0.05,
        revised_after="1:1s-5s",
    )
    sweeps = [{"every": "1s", "overlap": "30s"}, {"every": "4s", "overlap": "10m"}]
    tenants = [{"id": source.tenants[0], "start": "-5m"}]
    worker = bench.new_worker(settings(source, tenants=tenants, windows={"sweeps": sweeps}))
    worker.start()
    worker.until(lambda: worker.metric("sweeps_total", every="1s", outcome="ok") >= 6, "six live sweeps")
    frozen_at = source.freeze()
    worker.until_complete(frozen_at)
    assert worker.stop() == 0
    found = bench.check(source)
    assert any(row.revision for row in found.rows)
    assert {statement.overlap for statement in found.progress} == {timedelta(seconds=30)}


def test_row_that_appears_six_days_late_is_found(bench: Bench, settings: Settings) -> None:
    """Known defect: meltano/squared PR 677. Rows that the first start reads are not counted as late."""
    source = bench.simulate(
        days=7,
        calls_per_day=1_200,
        durations="short",
        lateness="0.5:0s-0s,0.5:6d-6d",
        revised=0,
        clock_offset_s=-10_800,
    )
    worker = bench.new_worker(settings(source))
    worker.start()
    worker.until_complete(source.freeze())
    assert worker.metric("row_lateness_seconds_count") == 0
    before = worker.metric("rows_total", outcome="published")
    source.set_clock_offset(timedelta())
    worker.until_complete(source.freeze())
    late = worker.metric("row_lateness_seconds_bucket", le="604800.0") - worker.metric(
        "row_lateness_seconds_bucket", le="172800.0"
    )
    assert worker.metric("rows_total", outcome="published") > before
    assert late > 10
    assert worker.metric("deepest_sweep_rows_total") >= late
    assert worker.named("very_late_rows_found")
    assert worker.stop() == 0
    bench.check(source, claims=False)


def test_rows_that_graph_withdraws_are_counted_and_stay_on_the_topic(bench: Bench, settings: Settings) -> None:
    source = bench.simulate(**SMALL | {"calls_per_day": 400}, unfit=0, revised=0.2, lateness="none")
    sweeps = [{"every": "1s", "overlap": "10m"}, {"every": "2s", "overlap": "3d"}]
    worker = bench.new_worker(settings(source, windows={"sweeps": sweeps}))
    worker.start()
    worker.until_complete(datetime.now(UTC))

    def until_runs(more: int) -> None:
        before = worker.metric("sweeps_total", every="2s", outcome="ok")
        worker.until(lambda: worker.metric("sweeps_total", every="2s", outcome="ok") >= before + more, "runs")

    until_runs(3)
    assert worker.metric("withdrawn_rows_total") == 0
    (rows,) = source.truth().values()
    newest = datetime.now(UTC) - timedelta(hours=3)
    ids = sorted({str(row.id) for row in rows if row.start < newest})[:7]
    source.set_faults(withdrawn=",".join(ids))
    worker.until(lambda: worker.metric("withdrawn_rows_total") >= len(ids), "withdrawn rows")
    until_runs(4)
    assert worker.metric("withdrawn_rows_total") == len(ids)
    assert sum(event["rows"] for event in worker.named("rows_withdrawn")) == len(ids)
    assert len(worker.named("rows_withdrawn")) <= 2
    options = ("--tenant", source.tenants[0], "--from", "-3d", "--to", "-1s", "--requests-per-minute", "60000")
    report = json.loads(commands.succeed(worker.config, "verify", *options, "--json"))
    assert sorted(report["withdrawn"]["ids"]) == ids
    assert report["unexpected"] == report["withdrawn"]
    assert report["identical"] == len({row.id for row in rows}) - len(ids)
    assert worker.stop() == 0
    bench.check(source)


def test_row_that_appears_after_the_deepest_overlap_is_missed(bench: Bench, settings: Settings) -> None:
    """The exact limit of the guarantee: no sweep reads a row that appears after the last sweep over its start."""
    source = bench.simulate(
        days=1,
        calls_per_day=5_000,
        durations="short",
        lateness="0.9:0s-0s,0.1:10h-10h",
        revised=0,
        clock_offset_s=-3_600,
    )
    sweeps = [{"every": "1s", "overlap": "10m"}, {"every": "2s", "overlap": "5h"}]
    worker = bench.new_worker(settings(source, windows={"sweeps": sweeps}))
    worker.start()
    worker.until(lambda: worker.tenant(source.tenants[0]).get("gap_seconds") == 0, "the history")
    worker.until(lambda: worker.metric("sweeps_total", every="2s", outcome="ok") >= 2, "a sweep after the history")
    source.set_clock_offset(timedelta())
    frozen_at = source.freeze()
    sweeps_before = worker.metric("sweeps_total", every="2s", outcome="ok")
    worker.until(
        lambda: worker.metric("sweeps_total", every="2s", outcome="ok") >= sweeps_before + 2, "two further sweeps"
    )
    assert worker.stop() == 0
    found = oracle.committed(bench.bootstrap, bench.topic, bench.app)
    published = {row.id for row in found.rows}
    (versions,) = source.truth().values()
    came_since = [v for v in versions if v.visible > frozen_at - timedelta(hours=1)]
    in_reach = {v.id for v in came_since if v.start > frozen_at - timedelta(hours=4)}
    too_late = {v.id for v in came_since if v.start < frozen_at - timedelta(hours=6)}
    assert in_reach <= published
    assert too_late
    assert not too_late & published


@pytest.mark.parametrize(
    ("page_size", "days"), [(100, 1.0), (3, 0.001)], ids=["kills_between_pages", "kills_between_rows_of_one_second"]
)
def test_kills_within_a_page_chain_keep_exactly_once(
    bench: Bench, settings: Settings, page_size: int, days: float
) -> None:
    """Rows with the same start lie on two pages (defects: castorm/kafka-connect-http PR 90, kafka-connect-jdbc 598)."""
    source = bench.simulate(
        days=days,
        calls_per_day=int(40 * page_size / days),
        lateness="none",
        durations="1:0s-0s",
        frozen=True,
        page_size=page_size,
        faults={"slow": 1.0, "slow_s": 0.2},
    )
    seconds = Counter(version.start.replace(microsecond=0) for version in source.truth()[source.tenants[0]])
    assert max(seconds.values()) > 1
    worker = bench.new_worker(settings(source, graph={"concurrency": 1}))
    for _ in range(3):
        worker.start()
        worker.until(lambda: worker.metric("rows_total", outcome="published") > 0, "rows since the restart")
        worker.kill()
    assert worker.run_once() == 0
    found = bench.check(source)
    assert len(found.rows) > 30 * page_size
