"""Model of the connector without I/O: simulated calls, a worker made of the real core, and topics in memory.

Time is a number that the test advances. The real scheduler decides what is read. The worker takes
the steps of shard.py in any order and at any pace; what it knows at its start comes from the topics and from nowhere
else.
"""

import math
import random
import zlib
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import msgspec
import numpy as np

from connector.core import instants, jobs, slices
from connector.core.coverage import Window, clip
from connector.core.failing_ranges import RangeFailure
from connector.core.pages import Page, decode_page
from connector.core.rows import RowSchema
from connector.core.scheduler import LearnTime, ReadSlice, Scheduler, SliceFailure, StartRuns
from connector.core.windows import Rules, Slice, State, Sweep
from connector.core.withdrawals import Withdrawn
from connector.kafka import avro, seen, state
from connector.kafka.publishing import NO_TRANSACTION, Offsets, Outgoing
from connector.pipeline.batch import Batches
from connector.pipeline.batch_contents import ShardPosition
from connector.pipeline.change import apply
from connector.pipeline.messages import Commanded, Item, PageRead, RangeFailed, RunsDropped, RunsStarted, SliceRead
from connector.pipeline.tenant_state import resumed_state, rules_of

if TYPE_CHECKING:
    from connector.pipeline.change import Change
    from connector.pipeline.tenant_state import TenantState

EPOCH = datetime(2026, 3, 1, tzinfo=UTC)
TOPIC, APP = "calls", "app"
HOME = state.StateIdentity(APP, "cluster", TOPIC)
PARTITIONS = 3
MINUTE_S = 60.0
_decode_row = avro.decoder(avro.ROW)
_decode_progress = avro.decoder(avro.PROGRESS)
_shape = RowSchema(avro.load(avro.ROW), "v1.0")


class _Identified(msgspec.Struct):
    id: str


def moment(time_s: float) -> datetime:
    """Return the time so many seconds after the start of the world."""
    return EPOCH + timedelta(seconds=time_s)


def seconds_of(instant: datetime) -> float:
    return (instant - EPOCH).total_seconds()


def sweep(every_min: float, overlap_min: float) -> Sweep:
    return Sweep(timedelta(minutes=every_min), timedelta(minutes=overlap_min))


class Version(NamedTuple):
    """Version of a call that Graph shows from a given time on."""

    from_s: float
    start_s: float
    text: bytes
    fits: bool = True


@dataclass
class Call:
    id: str
    versions: list[Version]
    withdrawn_s: float = math.inf
    "Time from which Graph does not show the version any more."

    @property
    def start_s(self) -> float:
        return self.versions[0].start_s

    def at(self, time_s: float) -> Version | None:
        shown = [version for version in self.versions if version.from_s <= time_s < self.withdrawn_s]
        return shown[-1] if shown else None


def _id_of(raw: msgspec.Raw) -> bytes:
    return msgspec.json.decode(raw, type=_Identified).id.encode()


def row(call_id: str, start_s: float, duration: Any) -> bytes:
    start = instants.text(moment(start_s))
    return msgspec.json.encode({"id": call_id, "startDateTime": start, "duration": duration})


def call(call_id: str, start_s: float, *late_s: float) -> Call:
    """Return a call with one version per entry of `late_s`, in seconds after it began."""
    versions = [Version(start_s + late, start_s, row(call_id, start_s, n)) for n, late in enumerate(sorted(late_s))]
    return Call(call_id, versions)


@dataclass
class World:
    """Rows that Graph shows. Each page has the rows visible at its request, so new rows shift the others."""

    calls: list[Call]
    page_rows: int = 4
    requests: int = 0
    unreadable: list[tuple[float, float, float]] = field(default_factory=list)
    "Instants of call time that Graph does not serve, each from a time on until another."

    def serves(self, window: Window, time_s: float) -> bool:
        """Return whether Graph serves every instant of a range at a given time."""
        start_s, end_s = seconds_of(window.start), seconds_of(window.end)
        return not any(start_s <= at < end_s and since <= time_s < until for at, since, until in self.unreadable)

    def page(self, window: Window, skip: int, time_s: float) -> Page:
        self.requests += 1
        texts = [version.text for _, version in self._shown(window, time_s)]
        part = texts[skip : skip + self.page_rows]
        link = b',"@odata.nextLink":"next"' if skip + self.page_rows < len(texts) else b""
        return decode_page(b'{"value":[%b]%b}' % (b",".join(part), link))

    def hidden(self, window: Window, since_s: float, until_s: float, served: Collection[bytes]) -> frozenset[str]:
        """Return the calls that were visible at the start of a page chain but are on none of its pages.

        Empty when nothing was withdrawn from the window while the chain was read.
        """
        start_s, end_s = seconds_of(window.start), seconds_of(window.end)
        withdrawn = (call for call in self.calls if since_s < call.withdrawn_s <= until_s)
        if not any(start_s <= call.start_s < end_s for call in withdrawn):
            return frozenset()
        return frozenset(call.id for call, _ in self._shown(window, since_s) if call.id.encode() not in served)

    def _shown(self, window: Window, time_s: float) -> list[tuple[Call, Version]]:
        start_s, end_s = seconds_of(window.start), seconds_of(window.end)
        shown = ((call, call.at(time_s)) for call in self.calls)
        return [
            (call, version) for call, version in shown if version is not None and start_s <= version.start_s < end_s
        ]


class Published(NamedTuple):
    tenant: str
    id: str
    revision: int
    duration: int | None


class Statement(NamedTuple):
    """Record of the progress topic, and the number of reads that were committed before it."""

    time_s: float
    record: dict[str, Any]
    reads: int
    ends: dict[int, int]
    "Next offset of each partition when the record was committed."


class CommittedRead(NamedTuple):
    """Slice whose read is committed. `began_s` is the time at which its last page chain requested the first page."""

    tenant: str
    window: Window
    began_s: float
    ended_s: float
    hidden: frozenset[str]
    "Calls that the page chain may have missed because Graph withdrew a row meanwhile."

    def shows(self, call: Call, since_s: float) -> bool:
        """Return whether the start of a call was read after an instant while Graph showed the call."""
        inside = seconds_of(self.window.start) <= call.start_s < seconds_of(self.window.end)
        return inside and since_s <= self.began_s and self.ended_s < call.withdrawn_s


class Commit(NamedTuple):
    """One committed transaction."""

    tenants: tuple[str, ...]
    time_s: float
    trusted_s: float | None
    "Time by which rows expired; None if Graph had not confirmed the time."
    horizon: timedelta


@dataclass
class Topics:
    """The committed records."""

    rows: list[Published] = field(default_factory=list)
    dead: list[tuple[bytes | None, bytes]] = field(default_factory=list)
    progress: list[Statement] = field(default_factory=list)
    reads: list[CommittedRead] = field(default_factory=list)
    withdrawn: list[tuple[str, Withdrawn]] = field(default_factory=list)
    "Withdrawn rows that workers have counted, with their tenant."
    state: dict[bytes, bytes] = field(default_factory=dict)
    seen: dict[bytes, bytes] = field(default_factory=dict)
    ends: dict[int, int] = field(default_factory=dict)
    commits: int = 0
    observe: Callable[[Commit], None] = lambda _: None
    "Called after each commit."

    def keep(self, record: Outgoing, time_s: float) -> None:
        """Keep a record of a topic other than the row topic."""
        assert record.key is not None
        if record.topic.endswith(".progress"):
            record_fields = _decode_progress(record.value or b"")
            self.progress.append(Statement(time_s, record_fields, len(self.reads), dict(self.ends)))
            return
        kept = {f"{APP}.state": self.state, f"{APP}.seen": self.seen}[record.topic]
        if record.value is None:
            kept.pop(record.key, None)
        else:
            kept[record.key] = record.value


@dataclass
class _Chain:
    piece: Slice
    skip: int = 0
    rows: int = 0
    repeated: bool = False
    began_s: float = 0.0
    asked: Page | None = None
    "Responses of Graph that have not arrived yet."
    ids: set[int] = field(default_factory=set)
    served: set[bytes] = field(default_factory=set)


class Died(Exception):  # noqa: N818
    """Raised when the process of the worker dies."""


class Worker:
    """One process of the worker: restored from the topics, then advanced step by step by the test."""

    def __init__(self, setting: "Setting", worlds: dict[str, World], topics: Topics, now_s: float) -> None:
        self._worlds = worlds
        self._topics = topics
        self._setting = setting
        settings = cast("Any", setting.settings)
        restored = state.restore(topics.state)
        state.check_identity(restored.shard, HOME)
        remembered = seen.restore(topics.seen)
        rules = rules_of(settings)
        self.tenant_states: dict[str, TenantState] = {
            tenant: resumed_state(
                cast("Any", SimpleNamespace(id=tenant, key=tenant, label=tenant, topic=TOPIC, start=setting.start)),
                rules,
                restored.checkpoints.get(tenant),
                remembered.get(tenant),
                moment(now_s),
            )
            for tenant in worlds
        }
        self._batches = Batches(settings, _shape, {TOPIC: PARTITIONS})
        self.schedulers = {
            tenant: Scheduler(
                tenant_state.checkpoint.state,
                tenant_state.rules,
                setting.concurrency,
                tenant_state.remembered.per_hour,
                start=setting.start,
            )
            for tenant, tenant_state in self.tenant_states.items()
        }
        self._chains: dict[str, list[_Chain]] = {tenant: [] for tenant in worlds}
        self._queue: list[Item] = []
        self._waiting: list[Item] = []
        self._pending: dict[str, Change] = {}
        self._reads: list[CommittedRead] = []
        self._served_at: dict[str, datetime] = {}

    @property
    def plans(self) -> dict[str, State]:
        """Return the state of each tenant as if everything that was read were committed."""
        return {tenant: scheduler.plan for tenant, scheduler in self.schedulers.items()}

    def sweep(self, tenant: str, now_s: float, learn_time: Callable[[], float | None] | None = None) -> None:
        """Start runs that are due and open chains, until the scheduler waits.

        `learn_time` returns the time that Graph has confirmed, or None while Graph does not answer.
        """
        scheduler, now = self.schedulers[tenant], moment(now_s)
        scheduler.forget(self.tenant_states[tenant].checkpoint.state.forgotten_before)
        while True:
            match scheduler.next(now):
                case LearnTime():
                    confirmed_s = learn_time() if learn_time else now_s
                    if confirmed_s is None:
                        return
                    now = moment(confirmed_s)
                    scheduler.confirm_time()
                case StartRuns(start=start):
                    self._queue.append(RunsStarted(tenant, now, start))
                case ReadSlice(slice=piece):
                    self._chains[tenant].append(_Chain(piece))
                case _:
                    return

    def command(self, tenant: str, command: jobs.Command, now_s: float) -> None:
        """Let the scheduler apply an operator's command."""
        now = moment(now_s)
        ended = self.schedulers[tenant].command(command, now)
        self._queue.append(Commanded(0, now, tenant, command))
        self._give_up(tenant, ended)

    def _give_up(self, tenant: str, pieces: Collection[Slice]) -> None:
        """End chains without an outcome."""
        self._chains[tenant] = [chain for chain in self._chains[tenant] if chain.piece not in pieces]
        for piece in pieces:
            self.schedulers[tenant].closed(piece)

    def has_chains(self, tenant: str) -> bool:
        return bool(self._chains[tenant])

    def read_page(self, tenant: str, which: int, time_s: float, now_s: float, *, slow: bool = False) -> None:
        """Read one page of an open chain. The last page hands the slice over, or starts it again."""
        chains = self._chains[tenant]
        chain = chains[which % len(chains)]
        if not chain.skip and chain.asked is None:
            chain.began_s = time_s
        if not self._worlds[tenant].serves(chain.piece.window, time_s):
            self._fail_range(tenant, chain, now_s)
            return
        page = chain.asked or self._worlds[tenant].page(chain.piece.window, chain.skip, time_s)
        chain.asked = page if slow and chain.asked is None else None
        if chain.asked:
            return
        self._served_at[tenant] = moment(now_s)
        reading = _shape.read(page.rows)
        ids = set(reading.entries["hi"].tolist())
        chain.repeated = chain.repeated or not chain.ids.isdisjoint(ids)
        chain.ids |= ids
        chain.rows += len(page.rows)
        chain.served |= {_id_of(raw) for raw in page.rows}
        chain.skip += self._worlds[tenant].page_rows
        self._queue.append(PageRead(tenant, chain.piece, page.rows, reading, moment(now_s), 1, ()))
        if page.next_link:
            return
        if self.schedulers[tenant].repeats(chain.piece, repeated=chain.repeated):
            chains[chains.index(chain)] = _Chain(chain.piece)
            return
        chains.remove(chain)
        outcome = self.schedulers[tenant].finished(chain.piece, chain.rows, moment(now_s))
        self._queue.append(SliceRead(tenant, chain.piece, outcome.steady, moment(now_s)))
        window, since_s = chain.piece.window, chain.began_s
        hidden = self._worlds[tenant].hidden(window, since_s, time_s, chain.served)
        self._reads.append(CommittedRead(tenant, window, since_s, time_s, hidden))

    def _fail_range(self, tenant: str, chain: _Chain, now_s: float) -> None:
        self._chains[tenant].remove(chain)
        cause = RangeFailure("Graph answers 500", moment(now_s), self._served_at.get(tenant))
        failure = SliceFailure(cause, of_range=True, permanent=False, tenant_fails=False)
        self.schedulers[tenant].failed(chain.piece, failure, moment(now_s))
        self._queue.append(RangeFailed(tenant, chain.piece.window, cause))

    def fail(self, tenant: str, now_s: float, *, permanent: bool = False) -> None:
        """Let the source be unavailable, so that the current runs fail."""
        rest = self.schedulers[tenant].rest(moment(now_s), permanent=permanent)
        if rest is None:
            return
        self._give_up(tenant, rest.cancelled)
        if rest.dropped:
            self._queue.append(RunsDropped(tenant, "unreachable", "away"))

    def take(self, items: int) -> None:
        """Add what was read to the batch, as the loop of the shard does."""
        taken, self._queue = self._queue[:items], self._queue[items:]
        self._waiting += taken
        self._pending = self._batches.prepare(taken, self.tenant_states, self._pending)
        if not any(change.is_urgent for change in self._pending.values()):
            self._waiting = [item for item in self._waiting if not isinstance(item, PageRead)]

    def commit(self, time_s: float, now_s: float, *, aborts: int = 0, death: str = "", is_trusted: bool = True) -> None:
        """Commit one transaction. `death`: the process dies "before" or "after" the transaction is committed.

        `is_trusted`: whether Graph has confirmed the time, so that rows may be forgotten.
        """
        if not self._waiting:
            return
        now, changes, topics = moment(now_s), self._pending, self._topics
        self._batches.close(changes, self.tenant_states, now if is_trusted else None)
        contents = self._batches.contents(changes, self.tenant_states, ShardPosition(0, HOME, 0), now)
        for _ in range(aborts):
            _, _, ends, offsets = self._produce()
            contents.final_records(offsets)
            topics.ends = {partition: end + 1 for partition, end in ends.items()}  # the marker
        rows, dead, ends, offsets = self._produce()
        last = contents.final_records(offsets)
        if death == "before":
            raise Died
        topics.commits += 1
        topics.rows += rows
        topics.withdrawn += [(tenant, one) for tenant, change in changes.items() for one in change.withdrawn]
        topics.dead += dead
        topics.ends = ends
        slices = sum(isinstance(item, SliceRead) for item in self._waiting)
        topics.reads += self._reads[:slices]
        del self._reads[:slices]
        for record in [*contents.shard_record(NO_TRANSACTION), *last]:
            topics.keep(record, time_s)
        topics.observe(Commit(tuple(changes), time_s, now_s if is_trusted else None, self._setting.horizon))
        if death == "after":
            raise Died
        apply(changes, self.tenant_states)
        self._waiting, self._pending = [], {}
        if not self._queue:
            self._check_plans()

    def _check_plans(self) -> None:
        """Raise unless the plans equal what is committed, once everything that was handed over is committed.

        Only call time that may still be read is compared. If the deduplication index forgets rows between the reading
        of a slice and its commit, the plan counts more of the slice as read.
        """
        for tenant, scheduler in self.schedulers.items():
            committed = self.tenant_states[tenant].checkpoint.state
            scheduler.forget(committed.forgotten_before)
            assert scheduler.plan.failing_ranges == committed.failing_ranges
            assert _comparable(scheduler.plan) == _comparable(committed)
            assert not scheduler.plan.is_read or scheduler.plan.start == committed.start

    def _produce(self) -> tuple[list[Published], list[tuple[bytes | None, bytes]], dict[int, int], Offsets]:
        """Return rows and dead letters of the batch, the new ends of the partitions, and the offsets of the rows."""
        ends = dict(self._topics.ends)
        rows: list[Published] = []
        dead: list[tuple[bytes | None, bytes]] = []
        offsets: Offsets = defaultdict(dict)
        records = ((tag, r) for tenant, change in self._pending.items() for tag, r in change.records(tenant).items())
        for tag, record in ((tag, record) for tag, tagged in records for record in tagged):
            if record.topic != TOPIC:
                dead.append((record.key, record.value or b""))
                continue
            fields = _decode_row(record.value or b"")
            rows.append(Published(fields["tenantId"], fields["id"], fields["revision"], fields["duration"]))
            partition = zlib.crc32(record.key or b"") % PARTITIONS
            ends[partition] = ends.get(partition, 0) + 1
            offsets[tag][partition] = ends[partition]
        return rows, dead, ends, dict(offsets)

    def is_idle(self, now: datetime) -> bool:
        """Return whether nothing is in flight and everything that was read is committed."""
        busy = self._queue or self._waiting or any(self._chains.values())
        return not busy and all(
            slices.is_idle(plan, self.tenant_states[tenant].rules, now) for tenant, plan in self.plans.items()
        )

    def drain(self, time_s: float, now_s: float) -> None:
        """Read and commit until nothing is in flight. The time does not advance."""
        for tenant in self._worlds:
            self.sweep(tenant, now_s)
            while self.has_chains(tenant):
                self.read_page(tenant, 0, time_s, now_s)
                self.sweep(tenant, now_s)
        self.take(1_000_000)
        self.commit(time_s, now_s)


def _comparable(known: State) -> tuple[Any, ...]:
    """Return coverage and orders after the time before which rows were forgotten.

    Values that only a commit sets are left out: rows, requests, the first page of a job, and reasons.
    """
    since = Window(known.forgotten_before, datetime.max.replace(tzinfo=UTC))
    reads = [(clip([Window(read.start, read.end)], since), read.at, read.steady) for read in known.coverage.reads]
    open_jobs = [
        job._replace(state="running", rows=0, requests=0, started=None, done=tuple(clip(job.done, since)))
        for job in known.orders.jobs
        if job.state not in jobs.ENDED
    ]
    ended = [(job.id, job.window) for job in known.orders.jobs if job.state in jobs.ENDED]
    orders = known.orders._replace(jobs=())
    return [read for read in reads if read[0]], open_jobs, ended, orders


@dataclass
class Setting:
    """The configuration."""

    sweeps: tuple[Sweep, ...]
    slice: timedelta = timedelta(days=1)
    settle: timedelta = timedelta(0)
    horizon: timedelta = timedelta(days=150)
    start: timedelta = timedelta(0)
    revisions: str = "publish"
    concurrency: int = 4

    @property
    def shortest_horizon(self) -> timedelta:
        """Return the shortest horizon that the configuration accepts."""
        deepest = max(self.sweeps, key=lambda sweep: (sweep.overlap, sweep.every))
        return deepest.overlap + deepest.every + timedelta(hours=1)

    @property
    def rules(self) -> Rules:
        return Rules(self.sweeps, self.settle, self.slice, self.horizon)

    @property
    def settings(self) -> SimpleNamespace:
        return SimpleNamespace(
            windows=SimpleNamespace(sweeps=self.sweeps, settle=self.settle, slice=self.slice),
            dedup=SimpleNamespace(horizon=self.horizon),
            rows=SimpleNamespace(
                key="id", timestamp="ingest", revisions=self.revisions, additional_properties="keep", privacy={}
            ),
            kafka=SimpleNamespace(app=APP),
        )


def poll(
    setting: Setting, world: World, times_s: Iterator[float] | list[float], topics: Topics | None = None
) -> Topics:
    """Let a worker with a correct clock read one tenant at given times and commit at once; return the topics."""
    topics = topics or Topics()
    worker: Worker | None = None
    for time_s in times_s:
        worker = worker or Worker(setting, {"t": world}, topics, time_s)
        worker.drain(time_s, time_s)
    return topics


def every(step_s: float, start_s: float, end_s: float) -> list[float]:
    """Return times at a fixed step."""
    return [float(time_s) for time_s in np.arange(start_s, end_s, step_s)]


def some_calls(rng: random.Random, count: int, until_s: float, latest_s: float) -> list[Call]:
    """Return calls with late, revised and invalid rows.

    Graph lists them by id, so that a late row shifts the rest of a page.
    """
    calls = []
    for number in range(count):
        call_id = f"{rng.getrandbits(48):012x}-{number}"
        start_s = round(rng.uniform(0, until_s), 3)
        late_s = rng.choice([rng.uniform(0, 90), rng.uniform(0, latest_s / 20), rng.uniform(0, latest_s)])
        versions = [Version(start_s + late_s, start_s, row(call_id, start_s, 0))]
        if rng.random() < 0.1:
            versions = [Version(start_s + late_s, start_s, row(call_id, start_s, f"{call_id}?"), fits=False)]
        while rng.random() < 0.25:
            late_s += rng.uniform(1, latest_s / 3)
            versions.append(Version(start_s + late_s, start_s, row(call_id, start_s, len(versions))))
        calls.append(Call(call_id, versions))
    return sorted(calls, key=lambda call: call.id)
