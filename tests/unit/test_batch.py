"""Batches from pages to records: each row is published, known already, or dead-lettered."""

import json
from datetime import timedelta
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest

from connector.core import windows
from connector.core.coverage import Coverage, Read, Window
from connector.core.dedup import DedupIndex
from connector.core.pages import decode_page
from connector.core.rows import RowSchema
from connector.core.windows import Slice
from connector.kafka import avro, state
from connector.kafka.limits import Limits
from connector.kafka.publishing import Outgoing
from connector.kafka.seen import SeenLog
from connector.kafka.state import Checkpoint
from connector.pipeline.batch import Batches
from connector.pipeline.batch_contents import BatchContents, ShardPosition
from connector.pipeline.change import Change, apply
from connector.pipeline.messages import PageRead, RunsStarted, SliceRead
from connector.pipeline.progress_records import gap_seconds
from connector.pipeline.tenant_state import TenantState
from tests.property.model import TOPIC, Setting, moment, sweep

SHAPE = RowSchema(avro.load(avro.ROW), "v1.0")
SETTING = Setting((sweep(1, 15),), start=timedelta(hours=-1))
WINDOW = Window(moment(-600), moment(0))
PIECE = Slice(WINDOW, 0, moment(0))
TENANT = "AAAAAAAA-1111-1111-1111-111111111111"
_decode = avro.decoder(avro.ROW)
_decode_progress = avro.decoder(avro.PROGRESS)


class Bench:
    """One tenant and its batches, one after the other."""

    def __init__(self, **rows: Any) -> None:
        settings = SETTING.settings
        for name, value in rows.items():
            setattr(settings.rows, name, value)
        self.topic_ids: dict[str, str] = {}
        self.limits = Limits()
        self.batches = Batches(
            cast("Any", settings), SHAPE, {TOPIC: 3}, limits=self.limits, topic_ids=lambda _: self.topic_ids
        )
        tenant = SimpleNamespace(id=TENANT, key="t", label="t", topic=TOPIC)
        state = windows.first_state(SETTING.rules, moment(-3600), moment(0))
        checkpoint = Checkpoint(TOPIC, state)
        self.tenant_state = TenantState(cast("Any", tenant), SETTING.rules, checkpoint, DedupIndex(), SeenLog("t"))
        self.tenant_states = {"t": self.tenant_state}
        self.changes: dict[str, Change] = {}

    def read(self, *rows: Any, time_s: float = 1.0, uncounted: tuple[Window, ...] = ()) -> Change:
        """Add a page of rows to the batch; rows other than bytes are encoded as JSON."""
        texts = [row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows]
        page = decode_page(b'{"value":[%b]}' % b",".join(texts))
        item = PageRead("t", PIECE, page.rows, SHAPE.read(page.rows), moment(time_s), 1, uncounted)
        self.batches.prepare([item], self.tenant_states, self.changes)
        return self.changes["t"]

    def end(self, offsets: dict[int, int] | None = None, time_s: float = 2.0, topic_id: str = "") -> list[Outgoing]:
        """Close the batch; return the last records that the transaction would write."""
        self.topic_ids = {TOPIC: topic_id} if topic_id else {}
        self.batches.close(self.changes, self.tenant_states, moment(time_s))
        return self.contents(time_s).final_records({"t": offsets or {}})

    def contents(self, time_s: float = 2.0, shard: int = 0) -> BatchContents:
        position = ShardPosition(shard, state.StateIdentity("app", "cluster", TOPIC), 0)
        return self.batches.contents(self.changes, self.tenant_states, position, moment(time_s))

    def commit(self, offsets: dict[int, int] | None = None, time_s: float = 2.0, topic_id: str = "") -> list[Outgoing]:
        records = self.end(offsets, time_s, topic_id)
        apply(self.changes, self.tenant_states)
        self.changes = {}
        return records


def row(call_id: str = "a", **members: Any) -> dict[str, Any]:
    return {"id": call_id, "startDateTime": "2026-02-28T23:55:00Z", **members}


def published_versions(change: Change) -> list[tuple[str, int]]:
    values = [_decode(record.value or b"") for record in change.rows]
    return [(value["id"], value["revision"]) for value in values]


def test_published_row_has_the_fields_that_the_connector_adds() -> None:
    change = Bench().read(row(zz=1.50, duration=7))
    value = _decode(change.rows[0].value or b"")
    assert value["tenantId"] == TENANT
    assert value["observedDateTime"] == moment(1.0)
    assert (value["revision"], value["duration"], value["additionalProperties"]) == (0, 7, {"zz": "1.5"})
    assert (change.rows[0].topic, change.rows[0].key, change.rows[0].headers) == (TOPIC, b"a", None)
    assert (change.published, list(change.unknown_names), change.unknown_count) == (1, ["zz"], 1)


def test_dropped_unknown_json_members_are_counted() -> None:
    change = Bench(additional_properties="drop").read(row(zz=1))
    assert _decode(change.rows[0].value or b"")["additionalProperties"] == {}
    assert change.unknown_count == 1


@pytest.mark.parametrize(
    ("key", "member", "expected"),
    [
        ("correlationId", "c", b"c"),
        ("userId", "", b"a"),
        ("userId", None, b"a"),
        ("trunkFullyQualifiedDomainName", "tränk", "tränk".encode()),
    ],
)
def test_record_key_is_the_configured_member_or_the_row_id(key: str, member: str | None, expected: bytes) -> None:
    change = Bench(key=key).read(row() | {key: member})
    assert change.rows[0].key == expected


def test_record_timestamp_follows_the_timestamp_setting() -> None:
    start_ms = 1_772_322_900_000
    assert Bench().read(row()).rows[0].timestamp_ms == start_ms + 301_000
    assert Bench(timestamp="event").read(row()).rows[0].timestamp_ms == start_ms
    assert Bench(timestamp="event").read({"id": "a"}).rows[0].timestamp_ms == start_ms + 301_000


def test_rows_waiting_for_a_commit_are_not_published_again() -> None:
    bench = Bench()
    bench.read(row(), row("b"))
    change = bench.read(row(), row("b", duration=2), row("c"))
    assert published_versions(change) == [("a", 0), ("b", 0), ("b", 1), ("c", 0)]
    assert (change.published, change.revised, change.duplicate) == (3, 1, 1)
    bench.changes = {}  # the transaction was lost with the process
    assert published_versions(bench.read(row(), row("b"))) == [("a", 0), ("b", 0)]


def test_committed_rows_are_in_the_dedup_index() -> None:
    bench = Bench()
    bench.read(row(), row("b"))
    bench.commit()
    change = bench.read(row(), row("b", duration=1), row("c"))
    assert published_versions(change) == [("b", 1), ("c", 0)]
    bench.commit()
    assert published_versions(bench.read(row(), row("b", duration=1), row("c"))) == []
    assert bench.tenant_state.checkpoint.records == 4


def test_changed_row_is_a_duplicate_if_revisions_are_ignored() -> None:
    bench = Bench(revisions="ignore")
    bench.read(row())
    bench.commit()
    change = bench.read(row(duration=1))
    assert (published_versions(change), change.duplicate, change.has_rows) == ([], 1, False)


class TestDeadLetters:
    BAD = b'{"id":"bad","startDateTime":"2026-02-28T23:55:00Z","duration":"x"}'

    def test_invalid_row_is_dead_lettered_as_received(self) -> None:
        change = Bench().read(row(), self.BAD, row("b"))
        assert published_versions(change) == [("a", 0), ("b", 0)]
        record = change.dead_letters[0]
        assert (record.topic, record.key, record.value) == (f"{TOPIC}.dlq", b"bad", self.BAD)
        assert dict(record.headers or []) == {
            "__connect.errors.topic": TOPIC.encode(),
            "__connect.errors.exception.class.name": b"connector.RowDoesNotFit",
            "__connect.errors.exception.message": b"duration: expected int | null, got str",
            "tenant": TENANT.encode(),
            "window.from": b"2026-02-28T23:50:00.000Z",
            "window.to": b"2026-03-01T00:00:00.000Z",
        }

    @pytest.mark.parametrize("bad", [b"7", b'"x"', b'{"duration":1}', b'{"id":""}', b'{"id":null}', b'{"id":7}'])
    def test_dead_letter_of_a_row_without_id_has_no_key(self, bad: bytes) -> None:
        assert Bench().read(bad).dead_letters[0].key is None

    @pytest.mark.parametrize("bad", [BAD, b'{"id":"a","endDateTime":"soon"}', b"[]"])
    def test_identical_invalid_rows_are_dead_lettered_once(self, bad: bytes) -> None:
        bench = Bench()
        assert len(bench.read(bad, bad).dead_letters) == 1
        assert len(bench.read(bad).dead_letters) == 1
        assert bench.changes["t"].duplicate == 2
        bench.commit()
        assert bench.tenant_state.checkpoint.dead_letters == 1
        change = bench.read(bad)
        assert (change.dead_letters, change.duplicate) == ([], 1)
        assert len(bench.read(bad + b" " if bad == b"[]" else bad.replace(b":", b": ", 1)).dead_letters) == (
            bad != b"[]"
        )

    def test_invalid_row_that_becomes_valid_is_revision_0(self) -> None:
        bench = Bench()
        bench.read(self.BAD)
        bench.commit()
        assert published_versions(bench.read(row("bad", duration=1))) == [("bad", 0)]

    def test_invalid_version_of_a_row_keeps_the_last_valid_revision(self) -> None:
        bench = Bench()
        bench.read(row("bad", duration=1))
        bench.commit()
        change = bench.read(self.BAD, row("bad", endDateTime="soon"))
        assert (len(change.dead_letters), published_versions(change)) == (2, [])
        bench.commit()
        assert published_versions(bench.read(row("bad", duration=1), row("b"))) == [("b", 0)]
        assert published_versions(bench.read(row("bad", duration=2))) == [("b", 0), ("bad", 1)]

    def test_too_long_row_is_dead_lettered_without_its_value(self) -> None:
        change = Bench().read(row("long", zz="x" * 950_000), row())
        assert published_versions(change) == [("a", 0)]
        assert (change.dead_letters[0].key, change.dead_letters[0].value) == (b"long", b"")


def test_lateness_is_measured_from_the_end_of_the_call() -> None:
    ended = row(endDateTime="2026-02-28T23:59:00Z")
    assert Bench().read(ended).lateness_s == [61.0]
    assert Bench().read(row()).lateness_s == [301.0]
    assert Bench().read(ended, uncounted=(WINDOW,)).lateness_s == []
    assert Bench().read(ended, uncounted=(Window(moment(-10), moment(0)),)).lateness_s == [61.0]
    assert Bench().read({"id": "a"}).lateness_s == []


class TestTransactionRecords:
    def test_checkpoint_keeps_row_offsets_per_partition(self) -> None:
        bench = Bench()
        bench.read(row())
        bench.commit({1: 5})
        assert list(bench.tenant_state.checkpoint.offsets) == [0, 5, 0]
        bench.read(row("b"))
        bench.commit({2: 9, 4: 2})
        assert list(bench.tenant_state.checkpoint.offsets) == [0, 5, 9, 0, 2]

    def test_row_offsets_restart_in_a_recreated_topic(self) -> None:
        bench = Bench()
        bench.read(row("a"))
        bench.commit({0: 70, 1: 50})
        bench.read(row("b"))
        bench.commit({0: 1})
        assert bench.tenant_state.checkpoint.offsets == (1, 0, 0)

    @pytest.mark.parametrize(
        ("before", "after", "expected", "id_after"),
        [
            ("old", "new", (0, 90, 0), "new"),
            ("old", "old", (70, 90, 0), "old"),
            ("", "new", (70, 90, 0), "new"),
            ("old", "", (70, 90, 0), ""),
        ],
    )
    def test_row_offsets_are_kept_unless_the_topic_id_changes(
        self, before: str, after: str, expected: tuple[int, ...], id_after: str
    ) -> None:
        """If brokers reported no topic id with a batch, an id that they report later does not discard its offsets."""
        bench = Bench()
        bench.read(row("a"))
        bench.commit({0: 70, 1: 50}, topic_id=before)
        bench.read(row("b"))
        bench.commit({1: 90}, topic_id=after)
        assert (bench.tenant_state.checkpoint.offsets, bench.tenant_state.checkpoint.topic_id) == (expected, id_after)

    def test_progress_offsets_restart_in_a_recreated_topic(self) -> None:
        bench = Bench()
        assert self.sweep_through(bench, 0.0, {0: 3}, "old")
        (record,) = self.sweep_through(bench, 30.0, {}, "new")
        assert _decode_progress(record.value or b"")["offsets"] == [0, 0, 0]

    def test_checkpoint_keeps_the_topic_id_if_brokers_report_none(self) -> None:
        """The batch wrote no rows, so the stored offsets still belong to the topic with the stored id."""
        bench = Bench()
        self.sweep_through(bench, 0.0, {0: 3}, "old")
        assert not self.sweep_through(bench, 30.0, {}, "")
        assert bench.tenant_state.checkpoint.topic_id == "old"

    def test_repeated_transaction_stores_the_new_row_offsets(self) -> None:
        bench = Bench()
        bench.read(row())
        first = bench.end({1: 5})
        repeated = bench.contents().final_records({"t": {1: 7}})
        assert [record.key for record in repeated] == [record.key for record in first]
        apply(bench.changes, bench.tenant_states)
        assert list(bench.tenant_state.checkpoint.offsets) == [0, 7, 0]

    def test_interim_checkpoint_includes_offsets_of_the_new_rows(self) -> None:
        """After a crash, the dedup index may have rows that no later checkpoint covers.

        The next progress must include them.
        """
        bench = Bench()
        before = bench.tenant_state.checkpoint
        bench.read(row())
        noted = bench.contents().interim_checkpoints({"t": {1: 5}})
        values = {record.key or b"": record.value or b"" for record in noted}
        restored = state.restore(values).checkpoints["t"]
        assert (restored.offsets, restored.records) == ((0, 5, 0), 1)
        assert restored.state == before.state
        assert bench.tenant_state.checkpoint == before

    def test_batch_without_rows_has_no_interim_checkpoint(self) -> None:
        bench = Bench()
        bench.read(b"5")
        assert bench.contents().interim_checkpoints({"t": {}}) == []

    def test_internal_records_go_to_the_partition_of_the_shard(self) -> None:
        bench = Bench()
        bench.read(row())
        bench.batches.close(bench.changes, bench.tenant_states, moment(2.0))
        records = bench.contents(shard=5).final_records({})
        assert {record.partition for record in records if record.topic.startswith("app.")} == {5}
        assert {record.topic for record in records} == {"app.seen", "app.state"}

    def sweep_through(
        self, bench: Bench, time_s: float, offsets: dict[int, int] | None = None, topic_id: str = ""
    ) -> list[Outgoing]:
        """Run and commit a complete sweep; return its progress records."""
        now = moment(time_s)
        state = bench.tenant_state.checkpoint.state
        due = state._replace(sweeps=(state.sweeps[0]._replace(due=min(now, state.sweeps[0].due)),))
        bench.tenant_state.checkpoint = msgspec.structs.replace(bench.tenant_state.checkpoint, state=due)
        bench.batches.prepare([RunsStarted("t", now)], bench.tenant_states, bench.changes)
        run = bench.changes["t"].state.sweeps[0].run
        assert run is not None
        piece = Slice(Window(moment(-3600), run.window.end), 0, run.started)
        bench.batches.prepare([SliceRead("t", piece, steady=True, now=now)], bench.tenant_states, bench.changes)
        records = bench.commit({0: 3} if offsets is None else offsets, time_s, topic_id)
        return [record for record in records if record.topic == f"{TOPIC}.progress"]

    def test_progress_is_written_at_most_once_per_minute(self) -> None:
        bench = Bench()
        written = [bool(self.sweep_through(bench, time_s)) for time_s in (0.0, 60.0, 119.0 + 1, 180.0)]
        assert written == [True, True, True, True]
        bench = Bench()
        assert self.sweep_through(bench, 0.0)
        assert not self.sweep_through(bench, 30.0)

    def test_changed_gap_is_reported_although_progress_is_unchanged(self) -> None:
        bench = Bench()
        self.sweep_through(bench, 0.0)
        state = bench.tenant_state.checkpoint.state
        window = Window(moment(100), moment(160))

        def gap_seconds(time_s: float) -> list[int]:
            bench.changes["t"] = Change(state._replace(coverage=Coverage(reads)))
            progress = [one for one in bench.commit({}, time_s) if one.topic == f"{TOPIC}.progress"]
            return [_decode_progress(one.value or b"")["gapSeconds"] for one in progress]

        reads = (*state.coverage.reads, Read(*window, moment(160)))
        gap_s = (window.start - state.coverage.reads[-1].end) // timedelta(seconds=1)
        assert [gap_seconds(30), gap_seconds(60), gap_seconds(120)] == [[], [gap_s], []]
        assert bench.tenant_state.checkpoint.state.sweeps == state.sweeps

    def test_rows_written_again_cause_new_progress_records_at_once(self) -> None:
        """Rows that were written again have new offsets, so earlier progress records do not count any more."""
        bench = Bench()
        self.sweep_through(bench, 0.0)
        state = bench.tenant_state.checkpoint.state
        deeper = state.sweeps[0]._replace(sweep=sweep(60, 60))
        sweeps = (state.sweeps[0], deeper)
        bench.tenant_state.checkpoint = Checkpoint(TOPIC, state._replace(sweeps=sweeps), 1, (70, 0, 0))
        bench.changes["t"] = Change(bench.tenant_state.checkpoint.state)
        records = [record for record in bench.commit({}, 1.0) if record.topic == f"{TOPIC}.progress"]
        statements = [_decode_progress(record.value or b"") for record in records]
        offsets = [(fields["overlapSeconds"], fields["offsets"]) for fields in statements]
        assert offsets == [(900, [70, 0, 0]), (3600, [70, 0, 0])]

    def test_progress_record_has_the_end_offset_of_each_partition(self) -> None:
        record = self.sweep_through(Bench(), 0.0)[0]
        assert (record.key, record.partition) == (TENANT.encode(), 0)
        value = _decode_progress(record.value or b"")
        assert value == {
            "tenantId": TENANT,
            "overlapSeconds": 900,
            "completeThroughDateTime": moment(-900),
            "observedDateTime": moment(0),
            "gapSeconds": 0,
            "offsets": [3, 0, 0],
        }


def test_gaps_are_unread_ranges_before_the_newest_read_range() -> None:
    state = windows.first_state(SETTING.rules, moment(-3600), moment(0))
    assert windows.gaps(state) == []
    coverage = state.coverage.add(Window(moment(-600), moment(-300)), moment(0))
    coverage = coverage.add(Window(moment(-3000), moment(-2000)), moment(0))
    state = state._replace(coverage=coverage)
    assert windows.gaps(state) == [Window(moment(-3600), moment(-3000)), Window(moment(-2000), moment(-600))]
    assert gap_seconds(state) == 2000


def test_state_of_a_removed_tenant_expires_at_the_horizon() -> None:
    """Its rows in the dedup index expire one by one.

    Its checkpoint expires when all call time read is behind the horizon.
    """
    bench = Bench()
    bench.read(row())
    bench.commit()
    bench.tenant_state.retired = True
    horizon_s = SETTING.settings.dedup.horizon.total_seconds()

    def retire(time_s: float) -> list[tuple[str, bytes | None]]:
        bench.batches.retire(bench.changes, bench.tenant_states, moment(time_s))
        return [(record.topic, record.value) for record in bench.commit(time_s=time_s)]

    assert retire(horizon_s / 2) == []
    # Buckets of a quiet tenant are sixteen days long.
    written = retire(horizon_s + 20 * 86_400)
    assert [(topic.rpartition(".")[2], value) for topic, value in written] == [("seen", None), ("state", None)]
    assert not len(bench.tenant_state.remembered)
