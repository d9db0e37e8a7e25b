"""The `seen` topic: a restart restores the same dedup index, from few records."""

import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from connector.core.dedup import DedupIndex, classify
from connector.core.fingerprints import ENTRY, LAYOUT, REVISION_SHIFT
from connector.core.index_run import Entries, Hours
from connector.errors import FatalError
from connector.kafka import seen
from connector.kafka.seen import SEALED, SeenLog, Written

DATA = Path(__file__).parent.parent / "data"


def rows(count: int, first: int = 0, revision: int = 0) -> Entries:
    entries = np.zeros(count, ENTRY)
    entries["hi"] = np.arange(first, first + count) * 7919
    entries["lo"] = np.arange(first, first + count)
    entries["meta"] = LAYOUT | revision << REVISION_SHIFT
    entries["fp"] = np.arange(count) + 3
    return entries


def hours(count: int, hour: int) -> Hours:
    return np.full(count, hour, np.uint32)


class Topic:
    """One partition, compacted."""

    def __init__(self) -> None:
        self.records: dict[bytes, bytes] = {}
        self.written = 0

    def take(self, log: SeenLog, written: Written) -> None:
        for record in written.records:
            self.written += 1
            if record.value is None:
                del self.records[record.key]  # a tombstone is written only for an existing record
            else:
                self.records[record.key] = record.value
        log.apply(written)

    def write(self, log: SeenLog, entries: Entries, at: Hours) -> None:
        self.take(log, log.write(entries, at))

    def restored(self, tenant: str = "t") -> tuple[DedupIndex, SeenLog]:
        return seen.restore(self.records).get(tenant, (DedupIndex(), SeenLog(tenant)))


def is_all_known(remembered: DedupIndex, entries: Entries) -> bool:
    result = classify(entries, (remembered,))
    return not len(result.new) and not len(result.revised)


@given(
    st.lists(st.tuples(st.integers(0, 700), st.integers(0, 2000), st.booleans()), max_size=12),
    st.sampled_from([1, 24, 384]),
)
def test_dedup_index_is_restored_from_its_records(batches: list[tuple[int, int, bool]], width: int) -> None:
    topic, log, first = Topic(), SeenLog("t"), 0
    log.width = width
    for count, hour, restart in batches:
        topic.write(log, rows(count, first), hours(count, hour))
        first += count
        if restart:
            remembered, log = topic.restored()
            assert len(remembered) == first
    remembered, _ = topic.restored()
    assert not len(classify(rows(first), (remembered,)).new)
    assert all(len(value) <= 64 * 1024 for value in topic.records.values())


def test_last_record_of_a_bucket_is_rewritten_until_it_is_full() -> None:
    topic, log = Topic(), SeenLog("t")
    log.width = 1
    for first in range(0, 600, 10):
        topic.write(log, rows(10, first), hours(10, 5))
    assert topic.written == 60
    assert len(topic.records) == 3  # two full records and the last one
    sizes = sorted((len(value) - 1) // ENTRY.itemsize for value in topic.records.values())
    assert sizes == [80, 260, 260]


@pytest.mark.parametrize("count", [1, SEALED - 1, SEALED, SEALED + 1, 2730, 2731, 20_000])
def test_large_batches_are_written_in_records_of_at_most_64_kb(count: int) -> None:
    topic, log = Topic(), SeenLog("t")
    topic.write(log, rows(count), hours(count, 5))
    assert topic.written == len(topic.records) <= count // 2700 + 2
    assert all(len(value) <= 64 * 1024 for value in topic.records.values())
    assert len(topic.restored()[0]) == count


def test_dedup_records_depend_only_on_committed_batches() -> None:
    log = SeenLog("t")
    first, repeated = log.write(rows(5), hours(5, 5)), log.write(rows(5), hours(5, 5))
    assert first.records == repeated.records
    log.apply(repeated)
    longer = log.write(rows(5, 5), hours(5, 5)).records
    assert [record.key for record in longer] == [record.key for record in first.records]
    assert (longer[0].value or b"").startswith(first.records[0].value or b"?")


def test_highest_revision_is_restored_in_any_record_order() -> None:
    topic, log = Topic(), SeenLog("t")
    log.width = 1
    for revision in range(5):
        topic.write(log, rows(SEALED, 0, revision), hours(SEALED, 5))
    records = list(topic.records.items())
    random.Random(1).shuffle(records)
    remembered, _ = seen.restore(dict(records))["t"]
    found, known = remembered.find(rows(SEALED))
    assert found.all()
    assert set((known["meta"] >> REVISION_SHIFT).tolist()) == {4}


def test_highest_revision_across_buckets_is_restored() -> None:
    topic, log = Topic(), SeenLog("t")
    log.width = 1
    topic.write(log, rows(3, 0, 1), hours(3, 9))
    topic.write(log, rows(3, 0, 0), hours(3, 5))
    remembered, _ = topic.restored()
    assert len(remembered) == 3
    assert set((remembered.find(rows(3))[1]["meta"] >> REVISION_SHIFT).tolist()) == {1}


@pytest.mark.parametrize("width", [1, 4, 24])
def test_expired_buckets_are_deleted_by_tombstones(width: int) -> None:
    topic, log = Topic(), SeenLog("t")
    log.width = width
    for hour in range(48):
        topic.write(log, rows(300, hour * 300), hours(300, hour))
    for before in range(49):
        while (written := log.forget(before, 7)).records:
            topic.take(log, written)
        remembered, _ = topic.restored()
        kept = 48 - before // width * width
        assert len(remembered) == 300 * max(0, kept)
        if kept:
            assert is_all_known(remembered, rows(300, 47 * 300))
    assert topic.records == {}
    assert not log.forget(10**6, 1000).records


def test_number_of_tombstones_per_commit_is_limited() -> None:
    topic, log = Topic(), SeenLog("t")
    log.width = 1
    for hour in range(100):
        topic.write(log, rows(1, hour), hours(1, hour))
    assert len(log.forget(1000, 10).records) == 10


def test_expired_buckets_of_any_width_are_deleted_after_a_restart() -> None:
    topic, log = Topic(), SeenLog("t")
    for width in (1, 4, 24, 96, 384):
        log.width = width
        topic.write(log, rows(700, width * 1000), hours(700, 400))
    _, log = topic.restored()
    topic.take(log, log.forget(10_000, 1000))
    assert topic.records == {}


@pytest.mark.parametrize(
    ("remembered", "span_h", "width"),
    [
        (0, 1, 384),
        (10, 3600, 384),
        (3600 * 1000, 3600, 1),
        (3600 * 300, 3600, 4),
        (3600 * 50, 3600, 24),
        (3600 * 11, 3600, 96),
    ],
)
def test_bucket_width_follows_the_row_rate(remembered: int, span_h: int, width: int) -> None:
    log = SeenLog("t")
    log.fit_width(remembered, span_h)
    assert log.width == width


def test_dedup_index_keeps_tenants_separate() -> None:
    topic, logs = Topic(), {tenant: SeenLog(tenant) for tenant in ("a", "b/c")}
    topic.write(logs["a"], rows(5), hours(5, 5))
    topic.write(logs["b/c"], rows(7, 100), hours(7, 5))
    assert {tenant: len(remembered) for tenant, (remembered, _) in seen.restore(topic.records).items()} == {
        "a": 5,
        "b/c": 7,
    }


def test_restart_does_not_make_dedup_rows_expire_earlier() -> None:
    """Records do not store the hour of each row. After a restart, each row gets the last hour of its bucket."""
    topic, log = Topic(), SeenLog("t")
    log.width = 24
    topic.write(log, rows(5), hours(5, 24))
    remembered, _ = topic.restored()
    assert remembered.per_hour(0, 100).tolist().index(5) == 47
    assert remembered.forget(47) == 0
    assert remembered.forget(48) == 5


def test_internal_record_of_a_newer_version_is_refused() -> None:
    with pytest.raises(FatalError, match="version 2"):
        seen.restore({b"t/1/1/0": b"\x02rest"})


def test_internal_records_of_version_1_stay_readable() -> None:
    """The records of the test were written by version 1. Every later version must be able to read them."""
    lines = (DATA / "seen-1.hex").read_text().split()
    records = {bytes.fromhex(key): bytes.fromhex(value) for key, value in zip(lines[::2], lines[1::2], strict=True)}
    restored = seen.restore(records)
    assert {tenant: len(remembered) for tenant, (remembered, _) in restored.items()} == {"t1": 303, "t2": 2}
    remembered, log = restored["t1"]
    found, known = remembered.find(rows(3))
    assert found.all()
    assert (known["meta"] >> REVISION_SHIFT).tolist() == [2, 2, 2]
    assert known["fp"].tolist() == [3, 4, 5]
    assert [record.key for record in log.forget(10**6, 10**6).records] == [b"t1/24/17/0", b"t1/24/17/1", b"t1/1/400/0"]


def golden() -> dict[bytes, bytes]:
    """Write the content of `records of version 1`; return the records."""
    topic, log, other = Topic(), SeenLog("t1"), SeenLog("t2")
    log.width = 24
    topic.write(log, rows(300), hours(300, 410))
    topic.write(log, rows(3, 300), hours(3, 410))
    log.width = 1
    topic.write(log, rows(3, 0, 2), hours(3, 400))
    topic.write(other, rows(2, 900), hours(2, 0))
    return topic.records


def test_dedup_records_match_the_golden_version_1_bytes() -> None:
    lines = (DATA / "seen-1.hex").read_text().split()
    assert [text for record in golden().items() for text in (record[0].hex(), record[1].hex())] == lines


def test_restoring_the_dedup_index_frees_temporary_memory() -> None:
    """Memory is measured in a process of its own, so that other tests do not change it."""
    program = """
import gc, os
from pathlib import Path
import numpy as np
from connector.core.fingerprints import ENTRY, LAYOUT
from connector.kafka import seen
from connector.kafka.restore import trim_heap

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")

def remembered(rows):
    log = seen.SeenLog("t")
    entries = np.zeros(rows, ENTRY)
    entries["hi"], entries["meta"] = np.random.default_rng(1).integers(0, 2**64, rows, np.uint64), LAYOUT
    written = log.write(entries, np.arange(rows, dtype=np.uint32) * 3600 // rows)
    return {record.key: record.value for record in written.records}

seen.restore(remembered(1_000))
gc.collect()
trim_heap()  # what the imports left free would take the rows in
before = resident()
values = remembered(300_000)
restored = seen.restore(values)
del values
trim_heap()
print((resident() - before) / 300_000)
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert 28 <= float(run.stdout) < 40
