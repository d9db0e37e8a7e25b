"""Exactly once, and the exact edge of the promise: seeded worlds against the real core.

MODEL_SEEDS=1000 runs as many worlds; a failure names its seed.
"""

import os
import random
from collections import defaultdict
from datetime import timedelta

import pytest

from connector.core import failing_ranges, windows
from connector.kafka import state
from tests.property.model import (
    EPOCH,
    MINUTE_S,
    Call,
    Died,
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

SEEDS = int(os.environ.get("MODEL_SEEDS", "4"))
FIRST_SEED = int(os.environ.get("MODEL_FIRST_SEED", "1"))
SETTINGS = (
    Setting((sweep(1, 5), sweep(5, 40), sweep(30, 240))),
    Setting((sweep(1, 5), sweep(5, 40), sweep(30, 240)), slice=timedelta(minutes=17), concurrency=1),
    Setting((sweep(3, 90),)),
    Setting((sweep(3, 60), sweep(7, 15)), slice=timedelta(minutes=25)),
    Setting((sweep(1, 4), sweep(4, 30)), start=timedelta(hours=-3), settle=timedelta(seconds=45)),
    Setting((sweep(3, 20), sweep(20, 200)), start=timedelta(hours=-5), slice=timedelta(hours=2)),
)


def deepest_s(setting: Setting) -> float:
    return max(one.overlap for one in setting.sweeps).total_seconds()


def cadence_s(setting: Setting) -> float:
    """Of the deepest sweep."""
    return max(setting.sweeps, key=lambda one: one.overlap).every.total_seconds()


class Storm:
    """One seeded history: what happens to a worker while the world goes on."""

    def __init__(self, seed: int) -> None:
        self.rng = rng = random.Random(seed)
        self.setting = SETTINGS[seed % len(SETTINGS)]
        self.until_s = rng.uniform(1.0, 2.0) * deepest_s(self.setting) + 3600
        self.clock_is_right = rng.random() < 0.6
        tenants = ["t1", "t2"] if rng.random() < 0.3 else ["t1"]
        begin_s = self.setting.start.total_seconds()
        self.worlds = {
            tenant: World(
                [
                    Call(one.id, [v._replace(from_s=v.from_s) for v in one.versions])
                    for one in some_calls(rng, rng.randrange(20, 70), self.until_s, 1.3 * deepest_s(self.setting))
                ],
                page_rows=rng.choice([2, 5, 50]),
            )
            for tenant in tenants
        }
        for world in self.worlds.values():  # the history before the first start
            for number in range(rng.randrange(20) if begin_s else 0):
                world.calls.append(call(f"old-{number}", rng.uniform(begin_s - 600, 0), 5.0))
        for world in self.worlds.values():
            world.unreadable = [self._unreadable() for _ in range(rng.choice([0, 0, 1, 2, 5]))]
        self.topics = Topics()
        self.ahead_s = 0.0
        self.most_ahead_s = 0.0
        self.time_s = 0.0
        self.worker: Worker | None = None
        self.away_until_s = dict.fromkeys(self.worlds, 0.0)

    def _unreadable(self) -> tuple[float, float, float]:
        """An instant that Graph does not serve for a while."""
        at_s, since_s = self.rng.uniform(0, self.until_s), self.rng.uniform(0, self.until_s)
        return at_s, since_s, min(self.until_s, since_s + self.rng.uniform(0, 1.5 * deepest_s(self.setting)))

    def first_start_s(self, tenant: str) -> float:
        """Calls before this are nobody's business: fixed by the first commit."""
        return seconds_of(state.restore(self.topics.state).checkpoints[tenant].state.start)

    @property
    def now_s(self) -> float:
        return self.time_s + self.ahead_s

    def step(self) -> None:
        """Time goes on by a moment, and something happens."""
        rng = self.rng
        self.time_s += rng.choice([0.3, 2.0, 9.0, 31.0])
        if rng.random() < 0.004:
            self.time_s += rng.uniform(60, 0.4 * deepest_s(self.setting))  # a poll comes late, or the machine slept
        if not self.clock_is_right and rng.random() < 0.01:
            self.ahead_s = rng.choice([0.0, rng.uniform(-400, 400), rng.uniform(-30, 30)])
            self.most_ahead_s = max(self.most_ahead_s, self.ahead_s)
        if self.worker is None:
            if rng.random() < 0.02:
                self.time_s += rng.uniform(0, 1.2 * deepest_s(self.setting))  # nobody restarts it for a while
            self.worker = Worker(self.setting, self.worlds, self.topics, self.now_s)
        try:
            self._act(self.worker)
        except Died:
            self.worker = None

    def _act(self, worker: Worker) -> None:
        rng = self.rng
        for tenant in self.worlds:
            if rng.random() < 0.003:
                self.away_until_s[tenant] = self.time_s + rng.uniform(0, 0.7 * deepest_s(self.setting))
            if self.time_s < self.away_until_s[tenant]:
                worker.fail(tenant)
                continue
            worker.sweep(tenant, self.now_s)
            for _ in range(rng.randrange(1, 9)):
                if worker.has_chains(tenant):
                    is_slow = rng.random() < 0.2
                    worker.read_page(tenant, rng.randrange(9), self.time_s, self.now_s, slow=is_slow)
        if rng.random() < 0.01:
            raise Died
        worker.take(rng.choice([1, 3, 100]))
        if rng.random() < 0.5:
            death = rng.choice(["before", "after"]) if rng.random() < 0.05 else ""
            worker.commit(self.time_s, self.now_s, aborts=int(rng.random() < 0.1), death=death)

    def run(self) -> Topics:
        """The storm, then fair weather until everything that is due has been read."""
        while self.time_s < self.until_s:
            self.step()
        self.ahead_s = 0.0
        latest_s = max(v.from_s for world in self.worlds.values() for one in world.calls for v in one.versions)
        end_s = max(self.time_s, latest_s) + deepest_s(self.setting) + 3 * cadence_s(self.setting)
        self.worker = worker = Worker(self.setting, self.worlds, self.topics, self.now_s)
        while self.time_s < end_s:
            self.time_s += self.setting.sweeps[0].every.total_seconds()
            worker.drain(self.time_s, self.time_s)
        assert worker.is_idle(moment(self.time_s))
        for plan in worker.plans.values():
            assert failing_ranges.isolated(plan.failing_ranges) == []
            assert windows.gaps(plan) == []
        return self.topics


def published(topics: Topics, tenant: str) -> dict[str, list[Published]]:
    found = defaultdict(list)
    for record in topics.rows:
        if record.tenant == tenant:
            found[record.id].append(record)
    return found


def assert_each_version_once(world: World, found: dict[str, list[Published]]) -> None:
    """Published versions are versions of the row, in order, none twice; revisions count from 0."""
    calls = {one.id: one for one in world.calls}
    for call_id, records in found.items():
        fitting = [n for n, version in enumerate(calls[call_id].versions) if version.fits]
        said = [record.duration for record in records]
        assert said == sorted(set(said)), f"{call_id}: published {said}"  # type: ignore[type-var]
        assert set(said) <= set(fitting), f"{call_id}: published {said} of {fitting}"
        assert [record.revision for record in records] == list(range(len(records)))


def assert_promise_kept(world: World, found: dict[str, list[Published]], start_s: float, promised_s: float) -> None:
    """Whatever was shown up to `promised_s` after the call began was published, or a later version of it."""
    for one in world.calls:
        due = [n for n, v in enumerate(one.versions) if v.fits and v.from_s <= one.start_s + promised_s]
        if due and one.start_s >= start_s:
            newest = max((record.duration or 0 for record in found.get(one.id, [])), default=-1)
            assert newest >= due[-1], f"{one.id} that began at {one.start_s}: version {due[-1]} is missing"


def assert_statements_true(storm: Storm, topics: Topics, tolerance_s: float) -> None:
    """Every call that began before completeThroughDateTime was last read at least overlapSeconds after it began."""
    for tenant, world in storm.worlds.items():
        starts_s = sorted(one.start_s for one in world.calls)
        last_read_s = dict.fromkeys(starts_s, float("-inf"))
        reads = 0
        for said in topics.progress:
            if said.record["tenantId"] != tenant:
                continue
            for landed in topics.reads[reads : said.reads]:
                if landed.tenant == tenant:
                    low_s, high_s = seconds_of(landed.window.start), seconds_of(landed.window.end)
                    for start_s in starts_s:
                        if low_s <= start_s < high_s:
                            last_read_s[start_s] = max(last_read_s[start_s], landed.began_s)
            reads = said.reads
            through_s = seconds_of(said.record["completeThroughDateTime"])
            begin_s = max(starts_s[0], storm.first_start_s(tenant))
            for start_s in starts_s:
                if begin_s <= start_s < through_s:
                    age_s = last_read_s[start_s] - start_s
                    assert age_s >= said.record["overlapSeconds"] - tolerance_s, (tenant, start_s, said)
            assert all(offset <= said.ends.get(n, 0) for n, offset in enumerate(said.record["offsets"]))


@pytest.mark.parametrize("seed", range(FIRST_SEED, FIRST_SEED + SEEDS))
def test_whatever_happens_each_version_is_published_once_and_none_that_was_promised_is_missing(seed: int) -> None:
    storm = Storm(seed)
    topics = storm.run()
    promised_s = deepest_s(storm.setting) - cadence_s(storm.setting) - 2 * storm.most_ahead_s
    for tenant, world in storm.worlds.items():
        found = published(topics, tenant)
        assert_each_version_once(world, found)
        assert_promise_kept(world, found, storm.first_start_s(tenant), promised_s)
    unfit = [v.text for world in storm.worlds.values() for one in world.calls for v in one.versions if not v.fits]
    texts = [text for _, text in topics.dead]
    assert len(texts) == len(set(texts)), "a row that does not fit is dead-lettered once"
    assert set(texts) <= set(unfit)
    assert_statements_true(storm, topics, storm.most_ahead_s)


THREE = Setting((sweep(1, 5), sweep(4, 20), sweep(12, 96)))
LATEST_S, DEEPEST_EVERY_S = 96 * MINUTE_S, 12 * MINUTE_S


def lateness_found(late_s: float, step_s: float, begin_s: float = 0.0) -> bool:
    """Whether a call is found that turns up so long after it began; polled at a fixed step."""
    start_s = 50 * MINUTE_S + 17.3 + begin_s
    world = World([call("late", start_s, late_s)])
    topics = poll(THREE, world, every(step_s, 0, start_s + late_s + 2 * DEEPEST_EVERY_S))
    return len(topics.rows) == 1


@pytest.mark.parametrize("begin_s", [0, 11 * MINUTE_S + 59])
@pytest.mark.parametrize("step_s", [60.0, 47.0])
def test_row_is_found_for_certain_up_to_the_full_deepest_overlap(begin_s: float, step_s: float) -> None:
    assert lateness_found(LATEST_S, step_s, begin_s)


@pytest.mark.parametrize("begin_s", [0, 11 * MINUTE_S + 59])
@pytest.mark.parametrize("step_s", [60.0, 47.0])
def test_a_row_later_than_the_deepest_overlap_and_its_cadence_is_missed(begin_s: float, step_s: float) -> None:
    assert not lateness_found(LATEST_S + DEEPEST_EVERY_S + 2 * step_s, step_s, begin_s)


def test_whatever_a_sweep_calls_complete_held_at_the_edge_to_the_second() -> None:
    """Every run reads back to where the last was complete: lateness up to the overlap itself is found, on a grid."""
    for late_s in range(int(LATEST_S - DEEPEST_EVERY_S), int(LATEST_S) + 1, 240):
        assert lateness_found(float(late_s), 60.0), late_s


def test_the_shortest_sweep_finds_within_its_own_cadence_what_turns_up_within_its_overlap() -> None:
    world = World([call("soon", 3000.0, 200.0)])
    topics = Topics()
    poll(THREE, world, every(60.0, 0, 3190.0), topics)
    assert not topics.rows
    poll(THREE, world, every(60.0, 3200.0, 3270.0), topics)
    assert [record.id for record in topics.rows] == ["soon"]


def test_a_clean_restart_publishes_nothing_again() -> None:
    rng = random.Random(3)
    world = World(some_calls(rng, 80, 7200, 600))
    topics = poll(THREE, world, every(60.0, 0, 9000))
    before = list(topics.rows), list(topics.dead)
    for again in range(5):
        poll(THREE, world, [9000.0 + 900 * again], topics)
    assert (topics.rows, topics.dead) == before


@pytest.mark.parametrize("outage_h", [0.05, 0.5, 3, 5, 30, 72])
def test_after_an_outage_of_any_length_nothing_is_missing(outage_h: float) -> None:
    rng = random.Random(4)
    until_s = 3 * 3600 + outage_h * 3600
    world = World(some_calls(rng, 200, until_s, 1800), page_rows=50)
    topics = poll(THREE, world, every(60.0, 0, 7200))
    poll(THREE, world, every(60.0, 7200 + outage_h * 3600, until_s + LATEST_S + 3600), topics)
    found = published(topics, "t")
    assert_each_version_once(world, found)
    assert_promise_kept(world, found, 0.0, LATEST_S - DEEPEST_EVERY_S)


def test_rows_are_remembered_for_as_long_as_windows_reach_back_and_tombstones_come_after() -> None:
    """With a horizon of half a day: nothing is read before it, nothing is published twice, the topic gets shorter."""
    setting = Setting((sweep(10, 60), sweep(60, 600)), horizon=timedelta(hours=12), start=timedelta(hours=-12))
    world = World([call(f"c{n}", n * 600.0 - 12 * 3600, 5.0) for n in range(6 * 72)], page_rows=500)
    topics, longest = Topics(), 0
    worker = Worker(setting, {"t": world}, topics, 0.0)
    for time_s in every(600.0, 0, 60 * 3600):
        if time_s % 36_000 == 0:
            worker = Worker(setting, {"t": world}, topics, time_s)
        worker.drain(time_s, time_s)
        longest = max(longest, len(topics.seen))
        for landed in topics.reads:
            assert landed.window.start >= moment(time_s) - timedelta(hours=12)
        topics.reads.clear()
    assert len({record.id for record in topics.rows}) == len(topics.rows)
    assert len(worker.accounts["t"].remembered) < 12 * 6 + 400 * 6
    assert longest > 0


def test_revisions_that_are_ignored_are_published_once_and_never_again() -> None:
    setting = Setting(THREE.sweeps, revisions="ignore")
    world = World([call("a", 600.0, 5.0, 400.0, 9000.0)])
    topics = poll(setting, world, every(60.0, 0, 20_000))
    assert [(record.id, record.revision, record.duration) for record in topics.rows] == [("a", 0, 0)]


def test_a_row_that_turns_back_into_what_it_was_is_one_more_revision() -> None:
    first = call("a", 600.0, 5.0)
    there = call("a", 600.0, 5.0, 300.0).versions[1]
    back = first.versions[0]._replace(from_s=1500.0)
    world = World([Call("a", [first.versions[0], there, back])])
    topics = poll(THREE, world, every(60.0, 0, 20_000))
    assert [(record.revision, record.duration) for record in topics.rows] == [(0, 0), (1, 1), (2, 0)]


def test_a_revision_that_moves_the_start_is_the_same_row() -> None:
    first = call("a", 3000.0, 5.0).versions[0]
    moved = call("a", 2000.0, 5.0, 5.0).versions[1]._replace(from_s=3300.0)
    topics = poll(THREE, World([Call("a", [first, moved])]), every(60.0, 0, 20_000))
    assert [(record.id, record.revision) for record in topics.rows] == [("a", 0), ("a", 1)]


def test_a_row_that_did_not_fit_and_fits_later_is_revision_0() -> None:
    fitting = call("a", 600.0, 400.0).versions[0]
    unfit = fitting._replace(from_s=610.0, text=fitting.text.replace(b'"duration":0', b'"duration":"0"'), fits=False)
    topics = poll(THREE, World([Call("a", [unfit, fitting])]), every(60.0, 0, 20_000))
    assert [(record.id, record.revision) for record in topics.rows] == [("a", 0)]
    assert [text for _, text in topics.dead] == [unfit.text]


def test_a_first_start_reads_from_the_configured_start_and_not_before() -> None:
    setting = Setting(THREE.sweeps, start=timedelta(hours=-10))
    world = World([call("before", -36_001.0, 5.0), call("at", -36_000.0, 5.0), call("after", -35_999.0, 5.0)])
    topics = poll(setting, world, [0.0])
    assert sorted(record.id for record in topics.rows) == ["after", "at"]
    assert min(landed.window.start for landed in topics.reads) == EPOCH - timedelta(hours=10)
    poll(setting, world, every(60.0, 60, 30_000), topics)
    assert len(topics.rows) == 2, "start is fixed at the first start"
