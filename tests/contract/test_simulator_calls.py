"""Rows that the simulator generates, and when they become visible, without sockets."""

import itertools
import json
import tomllib
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connector.core.rows import Row, RowSchema
from connector.simulator import Options
from connector.simulator.calls import DAY_MS, CallSequence, tenant_key
from connector.simulator.options import Recipe
from connector.simulator.pages import CallLog, Version
from connector.simulator.row_content import UNFIT
from connector.simulator.world import World

DATA = Path(__file__).parents[1] / "data"
SCHEMA = Path(__file__).parents[2] / "schemas" / "directRoutingLogRow.avsc"
NOON_MS = int(datetime(2026, 3, 4, 12, tzinfo=UTC).timestamp() * 1000)
HOUR_MS = 3_600_000
EVER_MS = NOON_MS + 400 * DAY_MS


def log_of(recipe: Recipe, tenant: int = 0, since_ms: int = NOON_MS - 10 * DAY_MS) -> CallLog:
    return CallLog(CallSequence(recipe, tenant_key(recipe.seed, tenant), since_ms))


def versions_of(recipe: Recipe, hours: int = 24, at_ms: int = EVER_MS) -> list[Version]:
    return list(log_of(recipe).versions((NOON_MS - hours * HOUR_MS, NOON_MS), at_ms))


def read(log: CallLog, bounds: tuple[int, int], at_ms: int, size: int, order: str = "start") -> list[bytes]:
    rows: list[bytes] = []
    for offset in itertools.count(0, size):
        page = log.page(bounds, at_ms, offset, size, order)  # type: ignore[arg-type]
        rows += page.rows
        if not page.more:
            return rows
    raise AssertionError


def seen(versions: list[Version]) -> list[bytes]:
    return sorted(version.text for version in versions if version.until_ms is None)


def sample_rows() -> list[dict[str, object]]:
    return [row for name in ("first", "last") for row in json.loads((DATA / f"page-{name}.json").read_text())["value"]]


def test_simulated_row_has_exactly_the_documented_members() -> None:
    kinds: dict[str, set[type]] = {}
    for row in sample_rows():
        for name, value in row.items():
            kinds.setdefault(name, set()).add(type(value))
    nullable = {"userId", "userPrincipalName", "userDisplayName", "endDateTime", "failureDateTime"}
    complete = 0
    for version in versions_of(Recipe(calls_per_day=2000)):
        row = {name: value for name, value in json.loads(version.text).items() if not name.startswith("@")}
        assert set(row) <= set(kinds)
        complete += set(row) == set(kinds)
        for name, value in row.items():
            assert type(value) in kinds[name] or (value is None and name in nullable), (name, value)
    assert complete > 1500


def test_simulated_beta_row_has_four_additional_members() -> None:
    page = log_of(Recipe(calls_per_day=500)).page((NOON_MS - DAY_MS, NOON_MS), EVER_MS, 0, 1000, is_beta=True)
    added = {"userCountryCode", "otherPartyCountryCode", "transferorCorrelationId", "administrativeUnitInfos"}
    assert all(added <= set(json.loads(row)) for row in page.rows)


def test_simulated_rows_contain_the_known_irregularities_of_graph() -> None:
    rows = [json.loads(version.text) for version in versions_of(Recipe(calls_per_day=5000))]
    fractions = {len(r["startDateTime"].partition(".")[2].rstrip("Z")) for r in rows}
    assert fractions == {0, 1, 2, 3, 5, 6, 7}
    missing = {r.get("endDateTime", "absent") for r in rows if not r["successfulCall"]}
    assert missing == {"0001-01-01T00:00:00Z", None, "absent"}
    assert any(r["callerNumber"].endswith("***") for r in rows)
    assert any(r["callerNumber"] == "anonymous" for r in rows)
    assert {None, ""} < {r.get("userId") for r in rows}
    assert len({r["trunkFullyQualifiedDomainName"] for r in rows}) == 4
    assert len({r["callType"] for r in rows}) > 5
    assert len({r["id"] for r in rows}) > len({r["correlationId"] for r in rows}) > 4000
    assert {r["finalSipCode"] for r in rows if r["successfulCall"]} == {0}
    failed = [r for r in rows if not r["successfulCall"]]
    assert any(r["startDateTime"] == r["inviteDateTime"] for r in failed)
    assert any(r["startDateTime"] == r["failureDateTime"] for r in failed)


def test_simulated_rows_do_not_depend_on_earlier_requests() -> None:
    recipe = Recipe(calls_per_day=3000, unfit=0.01, unknown=0.01)
    first, other = log_of(recipe), log_of(recipe, since_ms=NOON_MS - 5 * DAY_MS)
    read(other, (NOON_MS - 2 * HOUR_MS, NOON_MS), NOON_MS, 7)
    bounds = (NOON_MS - 30 * HOUR_MS, NOON_MS - 3 * HOUR_MS)
    assert read(first, bounds, EVER_MS, 1000) == read(other, bounds, EVER_MS, 300)
    assert read(log_of(Recipe(seed=2, calls_per_day=3000)), bounds, EVER_MS, 1000) != read(first, bounds, EVER_MS, 1000)
    assert read(log_of(recipe, tenant=1), bounds, EVER_MS, 1000) != read(first, bounds, EVER_MS, 1000)


def test_rows_of_a_simulator_seed_never_change() -> None:
    page = log_of(Recipe(seed=7, calls_per_day=100)).page((NOON_MS - DAY_MS, NOON_MS), NOON_MS, 0, 2)
    golden = json.loads((DATA / "simulator-seed-7.json").read_text())
    assert [json.loads(row) for row in page.rows] == golden


@pytest.mark.parametrize("shape", ["flat", "busy-hours"])
@pytest.mark.parametrize("per_day", [1, 40, 10_000])
def test_simulated_day_has_the_requested_number_of_calls(shape: str, per_day: int) -> None:
    calls = CallSequence(Recipe(calls_per_day=per_day, shape=shape), tenant_key(1, 0), 0)  # type: ignore[arg-type]
    day_ms = 20_000 * DAY_MS
    starts = [start for block in calls.blocks(day_ms, day_ms + DAY_MS) for start in block.start.tolist()]
    assert sum(day_ms <= start < day_ms + DAY_MS for start in starts) == per_day
    if shape == "busy-hours" and per_day > 1000:
        busy = sum(8 * HOUR_MS <= start - day_ms < 18 * HOUR_MS for start in starts)
        assert 0.88 < busy / per_day < 0.92


@settings(max_examples=25, deadline=None)
@given(
    per_day=st.sampled_from([3, 300, 6000]),
    hours=st.floats(0.01, 40),
    age_h=st.floats(0, 60),
    size=st.sampled_from([1, 7, 100, 1000]),
    order=st.sampled_from(["start", "newest", "id"]),
    moved=st.booleans(),
)
def test_simulated_pages_contain_all_visible_rows(
    per_day: int, hours: float, age_h: float, size: int, order: str, *, moved: bool
) -> None:
    recipe = Recipe(calls_per_day=per_day, revised=0.3, moved=1.0 if moved else 0.0, unfit=0.05)
    log = log_of(recipe)
    first = NOON_MS - int(hours * HOUR_MS)
    at_ms = NOON_MS + int(age_h * HOUR_MS)
    bounds = (first, first + min(NOON_MS - first, 4 * HOUR_MS))
    around = (bounds[0] - HOUR_MS, bounds[1] + HOUR_MS)
    current = [
        v
        for v in log.versions(around, at_ms)
        if v.until_ms is None and bounds[0] <= v.block.start_of(v.call, v.number) < bounds[1]
    ]
    if size == 1:
        bounds = (bounds[0], min(bounds[1], bounds[0] + HOUR_MS // 10))
        current = [v for v in current if v.block.start_of(v.call, v.number) < bounds[1]]
    assert sorted(read(log, bounds, at_ms, size, order)) == seen(current)


def test_simulated_range_includes_its_start_and_excludes_its_end() -> None:
    log = log_of(Recipe(calls_per_day=1000, revised=0))
    starts = [v.block.start_of(v.call, 0) for v in log.versions((NOON_MS - HOUR_MS, NOON_MS), EVER_MS)]
    first, last = starts[0], starts[-1]
    assert len(read(log, (first, last), EVER_MS, 1000)) == len(starts) - 1
    assert len(read(log, (first, last + 1), EVER_MS, 1000)) == len(starts)
    assert len(read(log, (first + 1, last), EVER_MS, 1000)) == len(starts) - 2


def test_simulated_rows_appear_within_six_days_of_the_call() -> None:
    late = []
    for version in versions_of(Recipe(calls_per_day=20_000)):
        ended = int(version.block.end[version.call])
        assert version.visible_ms >= ended
        assert version.visible_ms - version.block.start_of(version.call, 0) <= 6 * DAY_MS
        if not version.number:
            late.append(version.visible_ms - ended)
    share = [sum(ms <= limit for ms in late) / len(late) for limit in (600_000, DAY_MS, 6 * DAY_MS)]
    assert 0.88 < share[0] < 0.92
    assert 0.98 < share[1] < 1
    assert share[2] == 1


def test_simulated_row_without_lateness_appears_at_the_call_end() -> None:
    for version in versions_of(Recipe(calls_per_day=500, lateness="none", revised=0)):
        assert version.visible_ms == int(version.block.end[version.call])


def test_simulated_lateness_is_as_configured() -> None:
    for version in versions_of(Recipe(calls_per_day=500, lateness="1:7d-8d", revised=0)):
        assert 7 * DAY_MS <= version.visible_ms - int(version.block.end[version.call]) <= 8 * DAY_MS


def test_simulated_revision_replaces_the_earlier_version() -> None:
    by_call: dict[tuple[int, int], list[Version]] = {}
    for version in versions_of(Recipe(calls_per_day=5000, revised=0.1, moved=0.5)):
        by_call.setdefault((version.block.number, version.call), []).append(version)
    revised = [versions for versions in by_call.values() if len(versions) > 1]
    assert 0.07 < len(revised) / len(by_call) < 0.12
    assert {len(versions) for versions in revised} == {2, 3, 4}
    moved = 0
    for versions in revised:
        rows = [json.loads(v.text) for v in versions]
        assert len({row["id"] for row in rows}) == 1
        assert len({row["callEndSubReason"] for row in rows}) == len(rows)
        moved += rows[0]["startDateTime"] != rows[1]["startDateTime"]
        for earlier, later in itertools.pairwise(versions):
            assert earlier.until_ms == later.visible_ms > earlier.visible_ms
    assert 0.3 < moved / len(revised) < 0.7


def test_schema_rejects_exactly_the_rows_generated_as_invalid() -> None:
    recipe = Recipe(calls_per_day=20_000, unfit=0.05, unknown=0.05, startless=0.02, revised=0.1)
    versions = versions_of(recipe)
    shape = RowSchema(json.loads(SCHEMA.read_text()), "v1.0")
    readings = shape.read(v.text for v in versions).rows
    fitting = [
        isinstance(row, Row) and shape.resolve(row, version.text)[1] is None
        for row, version in zip(readings, versions, strict=True)
    ]
    assert fitting == [version.fits for version in versions]
    unfit = [v for v in versions if not v.fits]
    assert len({v.text for v in unfit}) == len(unfit)
    assert len({v.block.unfit[v.call] % len(UNFIT) for v in unfit}) == len(UNFIT)
    assert any(v.fits and v.number and v.call in v.block.unfit for v in versions), "no invalid row was corrected"
    unknown = sum(bool(row.unknown) for row in readings if isinstance(row, Row))
    assert 0.04 < unknown / len(readings) < 0.06


def test_simulated_beta_rows_match_the_schema() -> None:
    log = log_of(Recipe(calls_per_day=2000))
    shape = RowSchema(json.loads(SCHEMA.read_text()), "beta")
    rows = log.page((NOON_MS - DAY_MS, NOON_MS), EVER_MS, 0, 1000, is_beta=True).rows
    assert all(isinstance(row, Row) and not row.unknown for row in shape.read(rows).rows)


def test_late_row_shifts_the_following_pages_of_a_chain() -> None:
    log = log_of(Recipe(calls_per_day=5000, lateness="0.5:0s-0s,0.5:10m-20m", revised=0))
    bounds = (NOON_MS - HOUR_MS, NOON_MS)
    first = log.page(bounds, NOON_MS - HOUR_MS // 2, 0, 50)
    seam = log.page(bounds, NOON_MS, 50, 50)
    assert set(first.rows) & set(seam.rows), "late rows came before the offset, so some repeat"
    newest = [
        log.page(bounds, NOON_MS - 60_000, 0, 20, "newest"),
        log.page(bounds, NOON_MS + 600_000, 20, 20, "newest"),
    ]
    assert set(newest[0].rows) & set(newest[1].rows)


def test_frozen_simulator_shows_no_new_rows() -> None:
    now = datetime(2026, 3, 4, 12, tzinfo=UTC)
    world = World(Options(calls_per_day=5000, frozen=True), lambda: now)
    tenant = next(iter(world.tenants))
    count = len(list(world.truth(tenant)))
    now += timedelta(hours=1)
    assert len(list(world.truth(tenant))) == count
    world.freeze(on=False)
    assert len(list(world.truth(tenant))) > count
    world.set_offset(timedelta(days=-3))
    assert len(list(world.truth(tenant))) < count


def test_simulator_reports_its_rows_as_of_an_earlier_time() -> None:
    now = datetime(2026, 3, 4, 12, tzinfo=UTC)
    world = World(Options(calls_per_day=2000, days=1, revised=0.2), lambda: now)
    tenant = next(iter(world.tenants))
    at = now - timedelta(hours=6)
    then = list(world.truth(tenant, at=at))
    assert then
    assert all(row.visible <= at and (row.until is None or row.until <= at) for row in then)
    later = {(row.id, row.version) for row in world.truth(tenant)}
    assert {(row.id, row.version) for row in then} < later
    assert all(msgspec.json.decode(row.row)["id"] == row.id for row in then)


def test_simulator_names_every_invalid_option() -> None:
    problems = Options(failed=2, lateness="soon", tenants=0, order="x").check()  # type: ignore[arg-type]
    assert [problem.partition(":")[0] for problem in problems] == ["lateness", "failed", "tenants", "order"]


def test_packages_of_the_simulator_are_declared_dependencies() -> None:
    declared = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]["dependencies"]
    assert any(name.startswith("cryptography") for name in declared)
