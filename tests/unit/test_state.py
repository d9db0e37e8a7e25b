"""The state topic: later versions read older records, and records of another origin are refused."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from connector.core import jobs, windows
from connector.core.coverage import Coverage, Read, Window
from connector.core.failing_ranges import FailingRange
from connector.core.windows import Rules, State, Sweep, SweepState
from connector.errors import FatalError
from connector.kafka import state
from connector.kafka.state import Checkpoint, StateIdentity

DATA = Path(__file__).parent.parent / "data"
ZERO = datetime(2026, 3, 1, tzinfo=UTC)
HOME = StateIdentity("app", "cluster-1", "calls")
RULES = Rules(
    (Sweep(timedelta(minutes=1), timedelta(minutes=15)), Sweep(timedelta(days=1), timedelta(days=7))),
    timedelta(0),
    timedelta(days=1),
    timedelta(days=150),
)


def at(seconds: int) -> datetime:
    return ZERO + timedelta(seconds=seconds)


def some_checkpoint() -> Checkpoint:
    """Return a checkpoint of a tenant in the middle of a run, with a gap and a range read with unstable paging."""
    first = windows.first_state(RULES, at(-7200), at(0))
    running, _ = windows.begin(first, RULES, at(0))
    coverage = Coverage((Read(at(-7200), at(-3600), at(0)), Read(at(-900), at(0), at(0), steady=False)))
    sweeps = (running.sweeps[0]._replace(running=False, last_ok=at(5), due=at(60)), running.sweeps[1])
    return Checkpoint("calls", running._replace(coverage=coverage, sweeps=sweeps), 17, (3, 0, 14), ((900, 1, 2),))


_seconds = st.integers(-(10**8), 10**8).map(at)
_runs = st.builds(windows.Run, _seconds, st.builds(Window, _seconds, _seconds), st.none() | _seconds)
_sweeps = st.builds(
    SweepState,
    st.builds(
        Sweep,
        st.timedeltas(min_value=timedelta(seconds=1)).map(lambda d: timedelta(seconds=d.days)),
        st.just(timedelta(hours=3)),
    ),
    _seconds,
    _seconds,
    st.none() | _seconds,
    st.none() | _runs,
    st.booleans(),
    st.none(),
    st.lists(st.builds(Window, _seconds, _seconds), max_size=2).map(tuple),
)
_coverage = st.lists(st.builds(Read, _seconds, _seconds, _seconds, st.booleans()), max_size=5).map(
    lambda reads: Coverage(tuple(reads))
)
_windows = st.builds(Window, _seconds, _seconds)
_jobs = st.builds(
    jobs.Job,
    st.uuids().map(str),
    _windows,
    _seconds,
    st.booleans(),
    st.sampled_from(["waiting", "running", "done", "cancelled", "failed"]),
    st.none() | st.text(),
    st.none() | _seconds,
    st.none() | _seconds,
    st.lists(_windows, max_size=3).map(tuple),
    st.integers(0, 10**9),
    st.integers(0, 10**9),
)
_orders = st.builds(
    jobs.Orders, st.lists(_jobs, max_size=2).map(tuple), st.booleans(), st.lists(st.text(), max_size=3).map(tuple)
)
_ranges = st.builds(
    FailingRange, _windows, st.integers(1, 86_400), _seconds, _seconds, st.integers(1, 99), st.text(), st.booleans()
)
_checkpoints = st.builds(
    Checkpoint,
    st.text(),
    st.builds(
        State,
        _seconds,
        st.lists(_sweeps, max_size=3).map(tuple),
        _coverage,
        _orders,
        st.lists(_ranges).map(tuple),
        _seconds,
    ),
    st.integers(0, 2**53),
    st.lists(st.integers(0, 2**62), max_size=9).map(tuple),
    st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 10**10), st.integers(0, 10**10)), max_size=3).map(tuple),
)


@given(_checkpoints)
def test_checkpoint_is_restored_from_its_record(checkpoint: Checkpoint) -> None:
    record = state.checkpoint_record("tenant/x", checkpoint)
    assert record.value is not None
    assert state.restore({record.key: record.value}).checkpoints == {"tenant/x": checkpoint}


def test_shard_state_is_restored_from_its_record() -> None:
    record = state.shard_record(HOME, 42)
    assert record.value is not None
    restored = state.restore({record.key: record.value})
    assert restored.shard is not None
    assert restored.shard.control == 42
    state.check_identity(restored.shard, HOME)
    state.check_identity(None, HOME)


@pytest.mark.parametrize(
    ("identity", "expected"),
    [(HOME._replace(cluster="cluster-2"), "cluster cluster-1"), (HOME._replace(topic="other"), "kafka.topic is other")],
)
def test_state_written_for_another_topic_or_cluster_is_refused(identity: StateIdentity, expected: str) -> None:
    record = state.shard_record(HOME, 0)
    assert record.value is not None
    with pytest.raises(FatalError, match=expected):
        state.check_identity(state.restore({record.key: record.value}).shard, identity)


@pytest.mark.parametrize("key", [b"shard", b"checkpoint/t", b"whatever"])
def test_internal_record_of_a_newer_version_is_refused(key: bytes) -> None:
    with pytest.raises(FatalError, match=r"version 2.*run the version of the connector that wrote the record"):
        state.restore({key: b'{"v":2,"all":"different"}'})


@pytest.mark.parametrize("value", [b"", b"\x00", b"[]", b"{}", b'{"v":"1"}'])
def test_state_record_of_another_program_is_refused(value: bytes) -> None:
    with pytest.raises(FatalError, match="was not written by the connector"):
        state.restore({b"shard": value})


def test_empty_state_topic_restores_nothing() -> None:
    assert state.restore({}) == state.Restored(None, {})


def test_internal_records_of_version_1_stay_readable() -> None:
    """The records of the test were written by version 1. Every later version must be able to read them."""
    lines = (DATA / "state-1.jsonl").read_bytes().splitlines()
    restored = state.restore(dict(zip(lines[::2], lines[1::2], strict=True)))
    assert restored.shard is not None
    assert restored.shard.control == 42
    state.check_identity(restored.shard, HOME)
    assert restored.checkpoints == {"t1": some_checkpoint()}


def test_older_state_record_gets_defaults_for_later_members() -> None:
    """Members that the first version did not write get their default values."""
    record = state.checkpoint_record("t1", some_checkpoint())
    assert record.value is not None
    members = msgspec.json.decode(record.value)
    oldest = {name: members[name] for name in ("v", "topic", "start", "sweeps", "coverage")}
    restored = state.restore({record.key: msgspec.json.encode(oldest)}).checkpoints["t1"]
    assert restored == Checkpoint("calls", some_checkpoint().state)
