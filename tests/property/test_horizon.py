"""The horizon limits what is read, kept and published, tested with the worker of the model."""

from collections import Counter
from datetime import datetime, timedelta

import msgspec
import pytest

from connector import status_json
from connector.config import Identity, Tenant
from connector.core import horizon, jobs, windows
from connector.core.coverage import Coverage, Window
from connector.core.dedup import DedupIndex
from connector.core.windows import Slice, Sweep
from connector.kafka import state
from connector.kafka.state import Checkpoint
from connector.pipeline.messages import PageRead, SliceRead
from connector.pipeline.progress_records import gap_seconds
from tests.property.model import (
    Setting,
    Topics,
    Worker,
    World,
    _shape,
    call,
    every,
    moment,
    poll,
    seconds_of,
    sweep,
)

HOUR_S = 3600.0
SHALLOW, DEEP = sweep(10, 60), sweep(60, 600)
TWELVE = Setting((SHALLOW, DEEP), horizon=timedelta(hours=12))
BACKFILL = "11111111-1111-1111-1111-11111111111"


def world(until_h: float, from_h: float = 0.0) -> World:
    """Return a world with one call every ten minutes, visible five seconds after its start."""
    calls = [call(f"c{n:05}", n * 600.0 + from_h * HOUR_S, 5.0) for n in range(int((until_h - from_h) * 6))]
    return World(calls, page_rows=500)


def doubled(topics: Topics) -> list[tuple[str, int]]:
    counts = Counter((row.id, row.revision) for row in topics.rows)
    return [row for row, count in counts.items() if count > 1]


def order(worker: Worker, time_s: float, command: jobs.Command) -> None:
    worker.command("t", command, time_s)
    worker.take(1_000_000)
    worker.commit(time_s, time_s)


def backfill(number: int, time_s: float, from_s: float, to_s: float, *, again: bool = False) -> jobs.Command:
    window = Window(moment(from_s), moment(to_s))
    return jobs.Command(f"{BACKFILL}{number}", "backfill", moment(time_s), window, again)


def committed(topics: Topics) -> windows.State:
    return state.restore(topics.state).checkpoints["t"].state


def test_backfill_partly_beyond_the_horizon_duplicates_nothing() -> None:
    topics = poll(TWELVE, world(40), every(600.0, 0, 20 * HOUR_S))
    worker, time_s = Worker(TWELVE, {"t": world(40)}, topics, 20 * HOUR_S), 20 * HOUR_S
    order(worker, time_s, backfill(1, time_s, time_s - 10 * HOUR_S, time_s - HOUR_S))
    order(worker, time_s, jobs.Command("pause", "pause", moment(time_s)))
    time_s += 6 * HOUR_S
    order(worker, time_s, jobs.Command("resume", "resume", moment(time_s)))
    worker.drain(time_s, time_s)
    job = committed(topics).orders.jobs[0]
    assert doubled(topics) == []
    assert job.state == "failed"
    assert job.done == (Window(moment(14.5 * HOUR_S), moment(19 * HOUR_S)),), "the rest was read"
    assert "2026-03-01T10:00:00.000Z to 2026-03-01T14:30:00.000Z" in (job.reason or "")
    assert "--again" in (job.reason or "")


def test_machine_suspend_before_a_commit_duplicates_no_row() -> None:
    """The machine is suspended after it has read a slice.

    Before the commit, a part of the slice falls behind the horizon.
    """
    shown, time_s = world(40), 20 * HOUR_S
    topics = poll(TWELVE, shown, every(600.0, 0, time_s))
    worker = Worker(TWELVE, {"t": shown}, topics, time_s)
    order(worker, time_s, backfill(1, time_s, 9 * HOUR_S, 10.5 * HOUR_S))
    worker.sweep("t", time_s)
    while worker.has_chains("t"):
        worker.read_page("t", 0, time_s, time_s)
    worker.take(len(worker._queue) - 1)
    time_s += 2 * HOUR_S
    worker.commit(time_s, time_s)
    worker.take(1)
    worker.commit(time_s, time_s)
    assert committed(topics).orders.jobs[0].done == (Window(moment(10 * HOUR_S), moment(10.5 * HOUR_S)),)
    assert doubled(topics) == []


def test_backfill_wholly_beyond_the_horizon_fails() -> None:
    topics = poll(TWELVE, world(40), every(600.0, 0, 20 * HOUR_S))
    worker, time_s = Worker(TWELVE, {"t": world(40)}, topics, 20 * HOUR_S), 20 * HOUR_S
    order(worker, time_s, backfill(1, time_s, time_s - 10 * HOUR_S, time_s - 8 * HOUR_S))
    order(worker, time_s, jobs.Command("pause", "pause", moment(time_s)))
    order(worker, time_s + 9 * HOUR_S, jobs.Command("resume", "resume", moment(time_s)))
    worker.drain(time_s + 9 * HOUR_S, time_s + 9 * HOUR_S)
    assert committed(topics).orders.jobs[0].state == "failed"
    assert doubled(topics) == []


@pytest.mark.parametrize("again", [False, True])
def test_only_backfill_with_option_again_reads_beyond_the_horizon(*, again: bool) -> None:
    shown = world(72)
    topics = poll(TWELVE, shown, every(600.0, 0, 72 * HOUR_S))
    published = len(topics.rows)
    raised = Setting(TWELVE.sweeps, horizon=timedelta(days=5))
    worker, time_s = Worker(raised, {"t": shown}, topics, 72 * HOUR_S), 72 * HOUR_S
    assert committed(topics).forgotten_before == moment(59 * HOUR_S)
    order(worker, time_s, backfill(1, time_s, HOUR_S, 71 * HOUR_S, again=again))
    worker.drain(time_s, time_s)
    job = committed(topics).orders.jobs[0]
    assert committed(topics).forgotten_before == moment(59 * HOUR_S), "a longer horizon made expired call time readable"
    if again:
        assert (job.state, job.rows) == ("done", 70 * 6)
    else:
        assert (job.state, doubled(topics)) == ("failed", [])
        assert job.done == (Window(moment(59 * HOUR_S), moment(71 * HOUR_S)),)
        assert len(topics.rows) == published + 1


def test_call_time_beyond_the_old_horizon_stays_unreadable() -> None:
    raised = timedelta(days=5)
    assert horizon.readable_from(moment(59 * HOUR_S), raised, moment(72 * HOUR_S)) == moment(59 * HOUR_S)


def test_expiry_time_is_rounded_down_to_the_full_hour() -> None:
    assert horizon.forget_before(moment(0), timedelta(hours=4, minutes=30), moment(10 * HOUR_S)) == moment(5 * HOUR_S)
    assert horizon.forget_before(moment(6 * HOUR_S), timedelta(hours=4), moment(9 * HOUR_S)) == moment(6 * HOUR_S)


def test_tenant_read_for_longer_than_the_horizon_has_no_gap() -> None:
    setting = Setting(TWELVE.sweeps, horizon=TWELVE.horizon, start=-TWELVE.horizon)
    shown, topics = world(60, -12), Topics()
    worker = Worker(setting, {"t": shown}, topics, 0.0)
    for time_s in every(600.0, 0, 60 * HOUR_S):
        worker.drain(time_s, time_s)
        assert gap_seconds(worker.tenant_states["t"].checkpoint.state) == 0
        assert len(worker.tenant_states["t"].checkpoint.state.coverage.reads) < 40
    assert committed(topics).start == moment(-11 * HOUR_S), "a start before what may be read is moved"
    assert len({row.id for row in topics.rows}) == 71 * 6 - 1
    assert {statement.record["gapSeconds"] for statement in topics.progress} == {0}


@pytest.mark.parametrize("outage_s", [0.0, 28 * 60.0])
def test_shortest_horizon_suffices_for_runs_that_begin_late(outage_s: float) -> None:
    """A run that begins late reads back to the end of the last complete run, which must not lie before the horizon."""
    setting = Setting((sweep(1, 5), sweep(12, 96)), horizon=timedelta(minutes=96 + 12 + 60))
    at_the_edge = [call(f"c{n:05}", 5.3 + 61.7 * n, 96 * 60.0) for n in range(360)]
    times_s = [*every(67.0, 0.0, 4 * HOUR_S), *every(67.0, 4 * HOUR_S + outage_s, 9 * HOUR_S)]
    topics = poll(setting, World(at_the_edge, page_rows=500), times_s)
    assert [sweep_state.missed for sweep_state in committed(topics).sweeps] == [(), ()]
    assert len({row.id for row in topics.rows}) == len(topics.rows) == len(at_the_edge)


def test_outage_longer_than_the_horizon_leaves_a_gap() -> None:
    topics = poll(TWELVE, world(40), every(600.0, 0, 4 * HOUR_S))
    shown = world(40)
    poll(TWELVE, shown, every(600.0, 30 * HOUR_S, 40 * HOUR_S), topics)
    known = committed(topics)
    last_read_s = 4 * HOUR_S - 600
    (gap,) = windows.gaps(known)
    assert gap == Window(moment(last_read_s), moment(18.5 * HOUR_S))
    for statement in topics.progress:
        assert statement.record["completeThroughDateTime"] <= moment(last_read_s)
    tenant = Tenant("t", "t", None, "t", Identity(None, None), timedelta(), 45, "calls")
    status = status_json.tenant(
        status_json.ReportedTenant("t", tenant, 0),
        Checkpoint("calls", known),
        moment(40 * HOUR_S - 500),
        failing=None,
        remembered=0,
    )
    assert [piece["cause"] for piece in status["gaps"]] == [status_json.BEYOND_HORIZON]
    assert (status["state"], status["gap_seconds"]) == ("ok", gap.seconds)
    seconds_read = sum(read.window.seconds for read in topics.reads)
    requests = shown.requests
    poll(TWELVE, shown, every(600.0, 40 * HOUR_S, 41 * HOUR_S), topics)
    assert shown.requests - requests < 30, "a gap that cannot be read costs no requests"
    assert sum(read.window.seconds for read in topics.reads) - seconds_read < 24 * HOUR_S


def test_progress_continues_after_a_backfill_closes_the_gap() -> None:
    topics = poll(TWELVE, world(40), every(600.0, 0, 4 * HOUR_S))
    longer = Setting(TWELVE.sweeps, horizon=timedelta(days=5))
    poll(TWELVE, world(40), [30 * HOUR_S], topics)
    worker, time_s = Worker(longer, {"t": world(40)}, topics, 31 * HOUR_S), 31 * HOUR_S
    worker.drain(time_s, time_s)
    stuck = committed(topics)
    order(worker, time_s, backfill(1, time_s, 0, 21 * HOUR_S, again=True))
    for later_s in every(600.0, time_s, time_s + 2 * HOUR_S):
        worker.drain(later_s, later_s)
    known = committed(topics)
    assert [one.through for one in stuck.sweeps] == [moment(4 * HOUR_S - 600 - 3600), moment(0)]
    assert [seconds_of(one.through) for one in known.sweeps] == [32 * HOUR_S - 600, 22 * HOUR_S]
    assert windows.gaps(known) == []


class TestSlowChains:
    """Page chain that takes so long that its rows may expire while it is read."""

    def read(self, *, again: bool) -> tuple[Topics, Worker]:
        topics = poll(TWELVE, world(30), every(600.0, 0, 30 * HOUR_S))
        worker = Worker(TWELVE, {"t": world(30)}, topics, 30 * HOUR_S)
        before = worker.tenant_states["t"].checkpoint.state.forgotten_before
        worker.tenant_states["t"].remembered = DedupIndex()
        window = Window(before - timedelta(hours=2), before + timedelta(hours=2))
        piece = Slice(window, 1, moment(30 * HOUR_S), again=again)
        page = world(30).page(window, 0, 30 * HOUR_S)
        worker._queue += [
            PageRead("t", piece, page.rows, _shape.read(page.rows), moment(30 * HOUR_S), 1, ()),
            SliceRead("t", piece, steady=True, now=moment(30 * HOUR_S)),
        ]
        worker.take(10)
        return topics, worker

    def test_rows_beyond_the_horizon_are_not_published(self) -> None:
        topics, worker = self.read(again=False)
        change = worker._pending["t"]
        assert (len(change.rows), change.too_old) == (12, 12)
        before = committed(topics).forgotten_before
        newest = [read for read in change.state.coverage.reads if read.at >= moment(30 * HOUR_S)]
        assert min(read.start for read in newest) == before, "call time whose rows were left out does not count"

    def test_backfill_with_option_again_publishes_beyond_the_horizon(self) -> None:
        _, worker = self.read(again=True)
        change = worker._pending["t"]
        assert (len(change.rows), change.too_old) == (24, 0)


class TestChangedSweeps:
    @pytest.mark.parametrize(
        "sweeps", [(SHALLOW, sweep(60, 500)), (SHALLOW, sweep(30, 600)), (sweep(10, 90), DEEP), (sweep(5, 30), DEEP)]
    )
    def test_changed_sweep_settings_do_not_read_the_history_again(self, sweeps: tuple[Sweep, ...]) -> None:
        before = Setting((SHALLOW, DEEP))
        topics = poll(before, world(100), every(600.0, 0, 99 * HOUR_S))
        topics.reads.clear()
        poll(Setting(sweeps), world(100), every(600.0, 99 * HOUR_S, 100 * HOUR_S), topics)
        assert min(read.window.start for read in topics.reads) >= moment(99 * HOUR_S - 12 * HOUR_S)
        assert all(one.through > moment(85 * HOUR_S) for one in committed(topics).sweeps)

    def test_deeper_new_sweep_reads_call_time_not_yet_complete(self) -> None:
        topics = poll(Setting((SHALLOW,)), world(100), every(600.0, 0, 99 * HOUR_S))
        topics.reads.clear()
        poll(Setting((SHALLOW, DEEP)), world(100), every(600.0, 99 * HOUR_S, 100 * HOUR_S), topics)
        assert min(read.window.start for read in topics.reads) == moment(0)


class TestOlderRecords:
    """State records of older versions, which lack the expiry time and cut coverage at the horizon."""

    @staticmethod
    def stripped(known: windows.State) -> windows.State:
        record = state.checkpoint_record("t", Checkpoint("calls", known))
        text = (record.value or b"").replace(b'"forgotten_before":%d' % known.forgotten_before.timestamp(), b'"x":0')
        return state.restore({record.key: text}).checkpoints["t"].state

    def test_call_time_beyond_the_horizon_is_not_a_gap(self) -> None:
        known = committed(poll(TWELVE, world(40), every(600.0, 0, 40 * HOUR_S)))
        cut = moment(28 * HOUR_S)
        reads = tuple(read._replace(start=max(read.start, cut)) for read in known.coverage.reads if read.end > cut)
        restored = self.stripped(known._replace(coverage=Coverage(reads)))
        assert (restored.start, restored.forgotten_before) == (cut, cut)
        assert windows.gaps(restored) == []

    def test_unfinished_first_run_stays_due_after_an_upgrade(self) -> None:
        setting = Setting((SHALLOW, DEEP), start=timedelta(hours=-20), slice=timedelta(hours=1))
        worker = Worker(setting, {"t": world(5, -20)}, topics := Topics(), 0.0)
        worker.sweep("t", 0.0)
        worker.read_page("t", 0, 0.0, 0.0)
        worker.take(10)
        worker.commit(0.0, 0.0)
        restored = self.stripped(committed(topics))
        assert restored.start == moment(-20 * HOUR_S)
        assert restored.forgotten_before < restored.start


def test_finished_parts_of_a_job_are_not_merged_across_a_gap() -> None:
    orders = jobs.apply(jobs.Orders(), backfill(1, 9 * HOUR_S, 0, 9 * HOUR_S), moment(9 * HOUR_S), moment(-99 * HOUR_S))
    read = [Window(moment(at * HOUR_S), moment((at + 1) * HOUR_S)) for at in (0, 4, 1)]
    for window in read:
        orders = jobs.progressed(orders, f"{BACKFILL}1", window, moment(9 * HOUR_S))
    assert orders.jobs[0].done == (Window(moment(0), moment(2 * HOUR_S)), read[1])
    assert orders.jobs[0].remaining_seconds == 6 * HOUR_S


def test_removed_tenant_is_kept_until_its_newest_read_expires() -> None:
    topics = poll(TWELVE, world(40), every(600.0, 0, 20 * HOUR_S))
    tenant_state = Worker(TWELVE, {"t": world(40)}, topics, 20 * HOUR_S).tenant_states["t"]
    tenant_state.retired = True
    assert not tenant_state.outlived(moment(19 * HOUR_S))
    assert tenant_state.outlived(moment(20 * HOUR_S))


def test_progress_continues_after_the_clock_was_set_back() -> None:
    topics = poll(TWELVE, world(10), every(600.0, 0, 4 * HOUR_S))
    ahead = state.restore(topics.state).checkpoints["t"]
    stated = tuple((overlap, through, at + 3 * 86_400) for overlap, through, at in ahead.stated)
    record = state.checkpoint_record("t", msgspec.structs.replace(ahead, stated=stated))
    topics.state[record.key] = record.value or b""
    count = len(topics.progress)
    poll(TWELVE, world(10), every(600.0, 4 * HOUR_S, 5 * HOUR_S), topics)
    assert len(topics.progress) > count


def test_missed_ranges_are_merged_into_at_most_200() -> None:
    missed = [Window(moment(n * 100.0), moment(n * 100.0 + 10)) for n in range(500)]
    kept = horizon.bounded(missed)
    assert len(kept) == 200
    assert all(any(one.start <= window.start and window.end <= one.end for one in kept) for window in missed)


def test_row_count_of_the_checkpoint_excludes_expired_rows() -> None:
    topics = poll(TWELVE, world(10), [*every(600.0, 0, 10 * HOUR_S), 60 * HOUR_S])
    assert state.restore(topics.state).checkpoints["t"].remembered == 0
    assert isinstance(committed(topics).forgotten_before, datetime)


def test_clock_ahead_at_the_first_start_misses_no_row() -> None:
    """A backfill runs before the first run, and the worker is restarted. The tenant keeps the correct start."""
    shown, topics, ahead_s = world(5), Topics(), 48 * HOUR_S
    worker = Worker(TWELVE, {"t": shown}, topics, ahead_s)
    worker.command("t", backfill(1, 60.0, -HOUR_S, 0.0), 60.0)
    worker.sweep("t", 60.0)
    worker.read_page("t", 0, 60.0, 60.0)
    worker.take(1_000_000)
    worker.commit(60.0, 60.0)
    assert committed(topics).start == moment(60.0)
    poll(TWELVE, shown, every(600.0, 600.0, 6 * HOUR_S), topics)
    assert {row.id for row in topics.rows} == {one.id for one in shown.calls[1:]}
