"""The `state` topic: JSON records with a version number, one per shard and one per tenant.

Records of older versions can be read. Records of newer versions are refused. The keys are `shard` and
`checkpoint/{tenant}`. Times are in epoch seconds, because windows begin and end at whole seconds.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import NamedTuple

import msgspec

from connector.core import horizon, jobs
from connector.core.coverage import Coverage, Read, Window
from connector.core.failing_ranges import FailingRange
from connector.core.instants import EPOCH
from connector.core.windows import Run, State, Sweep, SweepState
from connector.errors import FatalError
from connector.kafka import copy_marker
from connector.kafka.seen import Record
from connector.kafka.visibility import Places

VERSION = 1
SHARD = b"shard"
NOT_CONFIGURED = "not_configured"  # reason in `Checkpoint.failing`, if the owner of the shard lacks the tenant
_CHECKPOINT = "checkpoint/"


class StateIdentity(NamedTuple):
    """App, Kafka cluster and row topic to which a state belongs."""

    app: str
    cluster: str
    topic: str


class ShardRecord(msgspec.Struct, frozen=True):
    """Last record of each transaction of a shard, in the state topic.

    `control` is the offset of the next command to execute.
    """

    app: str
    cluster: str
    topic: str
    control: int
    v: int = VERSION
    transaction: str = ""
    """Random id of the transaction that wrote the record. The other state records of the transaction have it in a
    header. Empty without transactions.
    """
    places: Places = {}
    "Offsets of the records of the transaction, except those of the state topic."
    unproven: Places = {}
    "Offsets of records of earlier, acknowledged transactions, if their commit markers were not seen yet."
    control_id: str = ""
    "Id that brokers have given to the control topic to which `control` belongs; empty if unknown."
    kept: tuple[str, ...] = ()
    "Commands that wait until their tenant is read, as JSON, oldest first."


class Checkpoint(msgspec.Struct, frozen=True):
    """Checkpoint of a tenant: its committed state, except the rows in the deduplication index."""

    topic: str
    state: State
    records: int = 0
    "Number of records that were published to the row topic."
    offsets: tuple[int, ...] = ()
    "For each partition of the row topic: the offset after the tenant's last record; 0 if it has none."
    stated: tuple[tuple[int, int, int], ...] = ()
    """Last progress record of each sweep: the sweep's overlap in seconds, the time up to which it was complete, and the
    time of the record. Times are in epoch seconds.
    """
    failing: tuple[str, str] | None = None
    "Reason and message of the last failure, if no run has succeeded since."
    found: tuple[tuple[int, int], ...] = ()
    "Pairs: the overlap of a sweep in seconds, and the number of new rows that this sweep found."
    remembered: int = 0
    "Number of rows in the deduplication index."
    ages: tuple[int, ...] = ()
    """Number of new rows per class of age (see `lateness.AGES_S`). The age of a row is the time from the start of the
    call until the row was first read.
    """
    topic_id: str = ""
    "Id that brokers have given to the row topic to which `offsets` belong; empty if unknown."
    stated_gaps: tuple[tuple[int, int], ...] = ()
    "Pairs: the overlap of a sweep in seconds, and the member `gapSeconds` of its last progress record."
    dead_letters: int = 0
    "Number of rows that were dead-lettered."


class _SweepRecord(msgspec.Struct, array_like=True):
    every_ms: int
    overlap_ms: int
    through: int
    due: int
    last_ok: int | None
    run: tuple[int, int, int] | None
    running: bool
    overtaken: int | None = None
    position: int | None = None
    missed: list[tuple[int, int]] = []


class _RangeRecord(msgspec.Struct, array_like=True):
    start: int
    end: int
    longest_s: int
    failed_at: int
    retry_at: int
    failures: int
    cause: str
    isolated: bool


class _JobRecord(msgspec.Struct, omit_defaults=True):
    id: str
    window: tuple[int, int]
    filed: int
    again: bool = False
    state: jobs.JobState = "waiting"
    reason: str | None = None
    started: int | None = None
    ended: int | None = None
    done: list[tuple[int, int]] = []
    rows: int = 0
    requests: int = 0


class _CheckpointRecord(msgspec.Struct):
    v: int
    topic: str
    start: int
    sweeps: list[_SweepRecord]
    coverage: list[tuple[int, int, int, int]]
    records: int = 0
    offsets: tuple[int, ...] = ()
    stated: tuple[tuple[int, int, int], ...] = ()
    failing: tuple[str, str] | None = None
    jobs: list[_JobRecord] = []
    paused: bool = False
    applied: tuple[str, ...] = ()
    found: tuple[tuple[int, int], ...] = ()
    remembered: int = 0
    ages: tuple[int, ...] = ()
    ranges: list[_RangeRecord] = []
    forgotten_before: int | None = None
    topic_id: str = ""
    stated_gaps: tuple[tuple[int, int], ...] = ()
    dead_letters: int = 0


class _Version(msgspec.Struct):
    v: int


class Restored(NamedTuple):
    """State of a shard, as read from the state topic. `shard` is None if the shard has no record yet."""

    shard: ShardRecord | None
    checkpoints: dict[str, Checkpoint]


def shard_record(
    identity: StateIdentity,
    control: int,
    transaction: str = "",
    places: Places | None = None,
    unproven: Places | None = None,
    control_id: str = "",
    kept: tuple[str, ...] = (),
) -> Record:
    """Encode the record of a shard. The fields of ShardRecord have the same names as the arguments."""
    record = ShardRecord(
        identity.app,
        identity.cluster,
        identity.topic,
        control,
        VERSION,
        transaction,
        places or {},
        unproven or {},
        control_id,
        kept,
    )
    return Record(SHARD, msgspec.json.encode(record))


def checkpoint_record(tenant: str, checkpoint: Checkpoint) -> Record:
    """Encode the checkpoint of a tenant. `tenant` is the lower-case id."""
    state = checkpoint.state
    sweeps = [
        _SweepRecord(
            s.sweep.every // _MS,
            s.sweep.overlap // _MS,
            _seconds(s.through),
            _seconds(s.due),
            None if s.last_ok is None else _seconds(s.last_ok),
            None
            if s.run is None
            else (_seconds(s.run.started), _seconds(s.run.window.start), _seconds(s.run.window.end)),
            s.running,
            None if s.run is None or s.run.overtaken is None else _seconds(s.run.overtaken),
            None if s.position is None else _seconds(s.position),
            [(_seconds(window.start), _seconds(window.end)) for window in s.missed],
        )
        for s in state.sweeps
    ]
    coverage = [(_seconds(r.start), _seconds(r.end), _seconds(r.at), int(r.steady)) for r in state.coverage.reads]
    record = _CheckpointRecord(
        VERSION,
        checkpoint.topic,
        _seconds(state.start),
        sweeps,
        coverage,
        checkpoint.records,
        checkpoint.offsets,
        checkpoint.stated,
        checkpoint.failing,
        [_job_record(job) for job in state.orders.jobs],
        state.orders.paused,
        state.orders.applied,
        checkpoint.found,
        checkpoint.remembered,
        checkpoint.ages,
        [_range_record(one) for one in state.failing_ranges],
        _seconds(state.forgotten_before),
        checkpoint.topic_id,
        checkpoint.stated_gaps,
        checkpoint.dead_letters,
    )
    return Record(checkpoint_key(tenant), msgspec.json.encode(record))


def checkpoint_key(tenant: str) -> bytes:
    """Return the key of a tenant's checkpoint. `tenant` is the lower-case id."""
    return f"{_CHECKPOINT}{tenant}".encode()


def restore(records: Mapping[bytes, bytes]) -> Restored:
    """Restore the state of a shard. `records` holds the newest value of each key in the shard's partition.

    Raises FatalError for an incomplete copy, and for a record of a newer version or of another program.
    """
    if copy_marker.KEY in records:
        raise copy_marker.incomplete(records[copy_marker.KEY])
    shard = None
    checkpoints = {}
    for key, value in records.items():
        try:
            version = msgspec.json.decode(value, type=_Version).v
        except msgspec.DecodeError as error:
            raise copy_marker.foreign(key) from error
        if version > VERSION:
            raise FatalError(
                f"the state topic has a record of version {version}, but this connector reads versions up to {VERSION}",
                "run the version of the connector that wrote the record, or a newer one",
            )
        if key == SHARD:
            shard = msgspec.json.decode(value, type=ShardRecord)
        elif key.startswith(_CHECKPOINT.encode()):
            checkpoints[key.decode().removeprefix(_CHECKPOINT)] = _checkpoint(value)
    return Restored(shard, checkpoints)


def check_identity(shard: ShardRecord | None, identity: StateIdentity) -> None:
    """Raise FatalError if the state of a shard was written for another row topic or Kafka cluster."""
    if shard is None:
        return
    if shard.cluster != identity.cluster:
        raise FatalError(
            f"the state in topic {identity.app}.state was written for Kafka cluster {shard.cluster}, but the brokers "
            f"are cluster {identity.cluster}",
            "restore the previous kafka.bootstrap_servers, or set kafka.app to a new name. In that case, "
            "run connector copy-state with the old configuration as --from; without it, everything is read again",
        )
    if shard.topic != identity.topic:
        raise FatalError(
            f"the state of app {identity.app} was written for topic {shard.topic}, but kafka.topic is {identity.topic}",
            "set kafka.topic back, or set kafka.app to a new name. In that case, run connector copy-state with the old "
            "configuration as --from; without it, everything is read and published again",
        )


_MS = timedelta(milliseconds=1)


def _checkpoint(value: bytes) -> Checkpoint:
    record = msgspec.json.decode(value, type=_CheckpointRecord)
    sweeps = tuple(
        SweepState(
            Sweep(s.every_ms * _MS, s.overlap_ms * _MS),
            _instant(s.through),
            _instant(s.due),
            None if s.last_ok is None else _instant(s.last_ok),
            _run(s),
            s.running,
            None if s.position is None else _instant(s.position),
            _missed(s),
        )
        for s in record.sweeps
    )
    reads = tuple(Read(_instant(a), _instant(b), _instant(at), bool(steady)) for a, b, at, steady in record.coverage)
    orders = jobs.Orders(tuple(_job(job) for job in record.jobs), record.paused, record.applied)
    state = _state(record, sweeps, Coverage(reads), orders)
    return Checkpoint(
        record.topic,
        state,
        record.records,
        record.offsets,
        record.stated,
        record.failing,
        record.found,
        record.remembered,
        record.ages,
        record.topic_id,
        record.stated_gaps,
        record.dead_letters,
    )


def _run(record: _SweepRecord) -> Run | None:
    if record.run is None:
        return None
    started, start, end = map(_instant, record.run)
    return Run(started, Window(start, end), None if record.overtaken is None else _instant(record.overtaken))


def _state(record: _CheckpointRecord, sweeps: tuple[SweepState, ...], coverage: Coverage, orders: jobs.Orders) -> State:
    """Decode a tenant's state.

    Older versions removed coverage that is older than the horizon. In their records, such call time is not a gap.
    """
    start = _instant(record.start)
    ranges = tuple(_range(one) for one in record.ranges)
    if record.forgotten_before is not None:
        return State(start, sweeps, coverage, orders, ranges, _instant(record.forgotten_before))
    cut = horizon.infer_forgotten_before(start, [sweep.through for sweep in sweeps], coverage)
    return State(max(start, cut), sweeps, coverage, orders, ranges, cut)


def _missed(record: _SweepRecord) -> tuple[Window, ...]:
    """Decode the ranges of call time that a sweep has missed, because it could not read them in time.

    If the record does not list them, the sweep has missed everything from `through` to `position`.
    """
    passed = [] if record.position is None else [(record.through, record.position)]
    return tuple(Window(_instant(start), _instant(end)) for start, end in record.missed or passed)


def _range_record(one: FailingRange) -> _RangeRecord:
    start, end, failed_at, retry_at = map(_seconds, (*one.window, one.failed_at, one.retry_at))
    return _RangeRecord(start, end, one.longest_s, failed_at, retry_at, one.failures, one.cause, one.isolated)


def _range(record: _RangeRecord) -> FailingRange:
    start, end, failed_at, retry_at = map(_instant, (record.start, record.end, record.failed_at, record.retry_at))
    window = Window(start, end)
    return FailingRange(window, record.longest_s, failed_at, retry_at, record.failures, record.cause, record.isolated)


def _job_record(job: jobs.Job) -> _JobRecord:
    return _JobRecord(
        job.id,
        (_seconds(job.window.start), _seconds(job.window.end)),
        _seconds(job.filed),
        job.again,
        job.state,
        job.reason,
        None if job.started is None else _seconds(job.started),
        None if job.ended is None else _seconds(job.ended),
        [(_seconds(window.start), _seconds(window.end)) for window in job.done],
        job.rows,
        job.requests,
    )


def _job(record: _JobRecord) -> jobs.Job:
    return jobs.Job(
        record.id,
        Window(_instant(record.window[0]), _instant(record.window[1])),
        _instant(record.filed),
        record.again,
        record.state,
        record.reason,
        None if record.started is None else _instant(record.started),
        None if record.ended is None else _instant(record.ended),
        tuple(Window(_instant(start), _instant(end)) for start, end in record.done),
        record.rows,
        record.requests,
    )


def _seconds(moment: datetime) -> int:
    return (moment - EPOCH) // timedelta(seconds=1)


def _instant(seconds: int) -> datetime:
    return EPOCH + timedelta(seconds=seconds)
