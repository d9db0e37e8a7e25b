"""Exactly once, and the exact limit of the guarantee: seeded histories with the real core.

MODEL_SEEDS=1000 runs as many worlds; a failure names its seed.
"""

import math
import os
import random
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace
from datetime import timedelta

import pytest

from connector.core.coverage import Window
from tests.property.model import (
    EPOCH,
    MINUTE_S,
    Call,
    Published,
    Setting,
    Topics,
    Worker,
    World,
    call,
    every,
    moment,
    poll,
    seconds_of,
    some_calls,
    sweep,
)
from tests.property.storm import Storm, deepest_s

SEEDS = int(os.environ.get("MODEL_SEEDS", "4"))
FIRST_SEED = int(os.environ.get("MODEL_FIRST_SEED", "1"))


def published(topics: Topics, tenant: str) -> dict[str, list[Published]]:
    found = defaultdict(list)
    for record in topics.rows:
        if record.tenant == tenant:
            found[record.id].append(record)
    return found


def assert_each_version_once(world: World, found: dict[str, list[Published]]) -> None:
    """Check that published versions are versions of the row, in order, none twice, with revisions from 0."""
    calls = {call.id: call for call in world.calls}
    for call_id, records in found.items():
        fitting = [n for n, version in enumerate(calls[call_id].versions) if version.fits]
        durations = [record.duration for record in records]
        assert durations == sorted(set(durations)), f"{call_id}: published {durations}"  # type: ignore[type-var]
        assert set(durations) <= set(fitting), f"{call_id}: published {durations} of {fitting}"
        assert [record.revision for record in records] == list(range(len(records)))


def assert_promise_kept(
    world: World, topics: Topics, tenant: str, start_s: float, promised_s: float, missed: Iterable[Window] = ()
) -> None:
    """Check that each version visible within `promised_s` after the call began was published, or a later version.

    There are two exceptions: the deepest sweep reports the call time as `missed`, or Graph withdrew another row during
    each page chain that could have found the row.
    """
    found = published(topics, tenant)
    for expected in world.calls:
        due = [n for n, v in enumerate(expected.versions) if v.fits and v.from_s <= expected.start_s + promised_s]
        newest = max((record.duration or 0 for record in found.get(expected.id, [])), default=-1)
        if not due or expected.start_s < start_s or newest >= due[-1]:
            continue
        since_s = expected.versions[due[-1]].from_s
        reads = [read for read in topics.reads if read.tenant == tenant and read.shows(expected, since_s)]
        is_missed = any(seconds_of(part.start) <= expected.start_s < seconds_of(part.end) for part in missed)
        is_withdrawn = expected.withdrawn_s < math.inf
        assert reads or is_missed or is_withdrawn, (
            f"{expected.id} that began at {expected.start_s}: version {due[-1]} is missing"
        )
        assert all(expected.id in read.hidden for read in reads), f"{expected.id} was read and is missing: {due[-1]}"


@pytest.mark.parametrize("seed", range(FIRST_SEED, FIRST_SEED + SEEDS))
def test_random_history_neither_loses_nor_duplicates_rows(seed: int) -> None:
    storm = Storm(seed)
    topics = storm.run()
    promised_s = deepest_s(storm.setting) - storm.tolerance_s
    for tenant, world in storm.worlds.items():
        assert_each_version_once(world, published(topics, tenant))
        assert_promise_kept(world, topics, tenant, storm.first_start_s(tenant), promised_s, storm.missed(tenant))
        withdrawn = sum(found.rows for of, found in topics.withdrawn if of == tenant)
        assert withdrawn <= sum(one.withdrawn_s <= storm.time_s for one in world.calls)
    unfit = [v.text for world in storm.worlds.values() for one in world.calls for v in one.versions if not v.fits]
    texts = [text for _, text in topics.dead]
    assert len(texts) == len(set(texts)), "an invalid row was dead-lettered twice"
    assert set(texts) <= set(unfit)


THREE = Setting((sweep(1, 5), sweep(4, 20), sweep(12, 96)))
LATEST_S, DEEPEST_EVERY_S = 96 * MINUTE_S, 12 * MINUTE_S


def lateness_found(late_s: float, step_s: float, begin_s: float = 0.0) -> bool:
    """Return whether a worker that polls every `step_s` finds a call that becomes visible `late_s` after its start."""
    start_s = 50 * MINUTE_S + 17.3 + begin_s
    world = World([call("late", start_s, late_s)])
    topics = poll(THREE, world, every(step_s, 0, start_s + late_s + 2 * DEEPEST_EVERY_S))
    return len(topics.rows) == 1


@pytest.mark.parametrize("begin_s", [0, 11 * MINUTE_S + 59])
@pytest.mark.parametrize("step_s", [60.0, 47.0])
def test_row_within_the_deepest_overlap_is_always_found(begin_s: float, step_s: float) -> None:
    assert lateness_found(LATEST_S, step_s, begin_s)


@pytest.mark.parametrize("is_shortest", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_row_late_by_the_overlap_is_found_by_irregular_runs(seed: int, *, is_shortest: bool) -> None:
    """The intervals between runs vary, and outages of any length occur (of half an hour with the shortest horizon)."""
    rng = random.Random(seed)
    setting = replace(THREE, horizon=THREE.shortest_horizon if is_shortest else THREE.horizon)
    longest_s = 25 * MINUTE_S if is_shortest else 50 * 3600
    times_s = [0.0]
    while times_s[-1] < 60_000:
        is_outage = rng.random() < 0.01
        times_s.append(times_s[-1] + (rng.uniform(0, longest_s) if is_outage else rng.uniform(5, 200)))
    until_s = times_s[-1] - LATEST_S - 2 * DEEPEST_EVERY_S
    late = [call(f"{rng.getrandbits(48):012x}", rng.uniform(0, until_s), LATEST_S) for _ in range(300)]
    topics = poll(setting, World(late, page_rows=500), times_s)
    assert len({record.id for record in topics.rows}) == len(topics.rows) == len(late)
    assert {gap for statement in topics.progress for gap in [statement.record["gapSeconds"]]} == {0}


@pytest.mark.parametrize("begin_s", [0, 11 * MINUTE_S + 59])
@pytest.mark.parametrize("step_s", [60.0, 47.0])
def test_row_later_than_overlap_plus_cadence_is_missed(begin_s: float, step_s: float) -> None:
    assert not lateness_found(LATEST_S + DEEPEST_EVERY_S + 2 * step_s, step_s, begin_s)


def test_row_late_by_up_to_the_full_overlap_is_found() -> None:
    """Each run reads back to the end of the last complete run. The test tries many delays up to the overlap."""
    for late_s in range(int(LATEST_S - DEEPEST_EVERY_S), int(LATEST_S) + 1, 240):
        assert lateness_found(float(late_s), 60.0), late_s


def test_live_sweep_finds_a_row_within_one_cadence() -> None:
    world = World([call("soon", 3000.0, 200.0)])
    topics = Topics()
    poll(THREE, world, every(60.0, 0, 3190.0), topics)
    assert not topics.rows
    poll(THREE, world, every(60.0, 3200.0, 3270.0), topics)
    assert [record.id for record in topics.rows] == ["soon"]


def test_restarted_worker_of_the_model_republishes_nothing() -> None:
    rng = random.Random(3)
    world = World(some_calls(rng, 80, 7200, 600))
    topics = poll(THREE, world, every(60.0, 0, 9000))
    before = list(topics.rows), list(topics.dead)
    for again in range(5):
        poll(THREE, world, [9000.0 + 900 * again], topics)
    assert (topics.rows, topics.dead) == before


@pytest.mark.parametrize("outage_h", [0.05, 0.5, 3, 5, 30, 72])
def test_outage_of_any_length_misses_no_row(outage_h: float) -> None:
    rng = random.Random(4)
    until_s = 3 * 3600 + outage_h * 3600
    world = World(some_calls(rng, 200, until_s, 1800), page_rows=50)
    topics = poll(THREE, world, every(60.0, 0, 7200))
    poll(THREE, world, every(60.0, 7200 + outage_h * 3600, until_s + LATEST_S + 3600), topics)
    assert_each_version_once(world, published(topics, "t"))
    assert_promise_kept(world, topics, "t", 0.0, LATEST_S)


def test_dedup_index_keeps_rows_longer_than_windows_reach_back() -> None:
    """With a horizon of half a day, nothing older is read, no row is published twice, and index records are deleted."""
    setting = Setting((sweep(10, 60), sweep(60, 600)), horizon=timedelta(hours=12), start=timedelta(hours=-12))
    world = World([call(f"c{n}", n * 600.0 - 12 * 3600, 5.0) for n in range(6 * 72)], page_rows=500)
    topics, longest = Topics(), 0
    worker = Worker(setting, {"t": world}, topics, 0.0)
    for time_s in every(600.0, 0, 60 * 3600):
        if time_s % 36_000 == 0:
            worker = Worker(setting, {"t": world}, topics, time_s)
        worker.drain(time_s, time_s)
        longest = max(longest, len(topics.seen))
        for read in topics.reads:
            assert read.window.start >= moment(time_s) - timedelta(hours=12)
        topics.reads.clear()
    assert len({record.id for record in topics.rows}) == len(topics.rows)
    assert len(worker.tenant_states["t"].remembered) < 12 * 6 + 400 * 6
    assert longest > 0


def test_rows_are_published_once_if_revisions_are_ignored() -> None:
    setting = Setting(THREE.sweeps, revisions="ignore")
    world = World([call("a", 600.0, 5.0, 400.0, 9000.0)])
    topics = poll(setting, world, every(60.0, 0, 20_000))
    assert [(record.id, record.revision, record.duration) for record in topics.rows] == [("a", 0, 0)]


def test_row_that_reverts_to_old_content_is_a_new_revision() -> None:
    first = call("a", 600.0, 5.0)
    there = call("a", 600.0, 5.0, 300.0).versions[1]
    back = first.versions[0]._replace(from_s=1500.0)
    world = World([Call("a", [first.versions[0], there, back])])
    topics = poll(THREE, world, every(60.0, 0, 20_000))
    assert [(record.revision, record.duration) for record in topics.rows] == [(0, 0), (1, 1), (2, 0)]


def test_row_with_a_changed_start_is_a_revision_of_the_same_row() -> None:
    first = call("a", 3000.0, 5.0).versions[0]
    moved = call("a", 2000.0, 5.0, 5.0).versions[1]._replace(from_s=3300.0)
    topics = poll(THREE, World([Call("a", [first, moved])]), every(60.0, 0, 20_000))
    assert [(record.id, record.revision) for record in topics.rows] == [("a", 0), ("a", 1)]


def test_invalid_row_that_becomes_valid_is_revision_0() -> None:
    fitting = call("a", 600.0, 400.0).versions[0]
    unfit = fitting._replace(from_s=610.0, text=fitting.text.replace(b'"duration":0', b'"duration":"0"'), fits=False)
    topics = poll(THREE, World([Call("a", [unfit, fitting])]), every(60.0, 0, 20_000))
    assert [(record.id, record.revision) for record in topics.rows] == [("a", 0)]
    assert [text for _, text in topics.dead] == [unfit.text]


def test_first_start_reads_from_the_configured_start() -> None:
    setting = Setting(THREE.sweeps, start=timedelta(hours=-10))
    world = World([call("before", -36_001.0, 5.0), call("at", -36_000.0, 5.0), call("after", -35_999.0, 5.0)])
    topics = poll(setting, world, [0.0])
    assert sorted(record.id for record in topics.rows) == ["after", "at"]
    assert min(read.window.start for read in topics.reads) == EPOCH - timedelta(hours=10)
    poll(setting, world, every(60.0, 60, 30_000), topics)
    assert len(topics.rows) == 2, "the start of the tenant changed"
