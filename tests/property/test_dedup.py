"""The dedup index, compared with a dictionary that holds the same rows."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from connector.core import dedup
from connector.core.dedup import HOUR_MS, DedupIndex, classify, split_repeats, with_revision
from connector.core.fingerprints import BETA_KNOWN, ENTRY, LAYOUT, MAX_REVISION, REVISION_SHIFT
from connector.core.index_run import Entries, Hours, IndexRun

# Few values of `hi`, so that ids collide in their first 64 bits all the time.
_KEYS = st.tuples(st.sampled_from([0, 1, 7, 2**63, 2**64 - 1]), st.integers(0, 40))
_ROWS = st.dictionaries(_KEYS, st.tuples(st.integers(0, 5), st.integers(0, 3)), min_size=0, max_size=60)


def entries_of(rows: list[tuple[tuple[int, int], int, int]]) -> Entries:
    """Return index entries for tuples of key, fingerprint and revision."""
    result = np.zeros(len(rows), ENTRY)
    for at, ((high, low), fingerprint, revision) in enumerate(rows):
        result[at] = (high, low, LAYOUT | revision << REVISION_SHIFT, fingerprint << 28)
    return result


def hours_of(hours: list[int]) -> Hours:
    return np.array(hours, np.uint32)


class AgainstADictionary(RuleBasedStateMachine):
    """State machine that applies each step to the dedup index and to a dictionary, and compares them."""

    def __init__(self) -> None:
        super().__init__()
        self.remembered = DedupIndex()
        self.model: dict[tuple[int, int], tuple[int, int, int]] = {}
        self.forgotten_before = 0

    @rule(rows=_ROWS, hour=st.integers(0, 50))
    def put(self, rows: dict[tuple[int, int], tuple[int, int]], hour: int) -> None:
        hour += self.forgotten_before
        items = [(key, fingerprint, revision) for key, (fingerprint, revision) in rows.items()]
        self.remembered.put(entries_of(items), hours_of([hour + key[1] % 3 for key, _, _ in items]))
        for key, fingerprint, revision in items:
            self.model[key] = (fingerprint, revision, hour + key[1] % 3)

    @rule(ahead=st.integers(0, 30))
    def forget(self, ahead: int) -> None:
        self.forgotten_before += ahead
        gone = [key for key, (_, _, hour) in self.model.items() if hour < self.forgotten_before]
        assert self.remembered.forget(self.forgotten_before) == len(gone)
        for key in gone:
            del self.model[key]

    @rule(rows=_ROWS)
    def classify(self, rows: dict[tuple[int, int], tuple[int, int]]) -> None:
        items = [(key, fingerprint, 0) for key, (fingerprint, _) in rows.items()]
        result = classify(entries_of(items), (DedupIndex(), self.remembered))
        assert result.new.tolist() == [n for n, (key, _, _) in enumerate(items) if key not in self.model]
        revised = [
            n for n, (key, content, _) in enumerate(items) if key in self.model and self.model[key][0] != content
        ]
        assert result.revised.tolist() == revised
        for n, (key, _, _) in enumerate(items):
            if key in self.model:
                assert result.revisions[n] == self.model[key][1] + (n in revised)

    @rule()
    def restore(self) -> None:
        """Restore the index as after a restart, with an additional older revision of each id."""
        items = [(key, content, revision) for key, (content, revision, _) in self.model.items()]
        older = [(key, 99, revision - 1) for key, _, revision in items if revision]
        hours = [hour for _, _, hour in self.model.values()]
        self.remembered = DedupIndex()
        self.remembered.restore(entries_of(older + items), hours_of([0] * len(older) + hours))

    @invariant()
    def same(self) -> None:
        assert len(self.remembered) == len(self.model)
        hours = [hour for _, _, hour in self.model.values()]
        first, end = min(hours, default=0) - 3, max(hours, default=0) + 3
        counted = self.remembered.per_hour(first, end)
        assert counted.tolist() == [hours.count(hour) for hour in range(first, end)]


AgainstADictionary.TestCase.settings = settings(max_examples=25, stateful_step_count=20, deadline=None)
TestAgainstADictionary: Any = AgainstADictionary.TestCase


def test_dedup_index_finds_every_row_and_uses_few_bytes() -> None:
    rng = np.random.default_rng(1)
    remembered = DedupIndex()
    chunks = []
    for hour in range(60):
        chunk = np.zeros(5_000, ENTRY)
        chunk["hi"] = rng.integers(0, 2**63, 5_000, np.uint64)
        chunk["hi"][:4] = 42  # many ids have the same first 64 bits
        chunk["lo"] = np.arange(5_000) + hour * 5_000
        chunk["meta"] = LAYOUT
        remembered.put(chunk, np.full(5_000, hour, np.uint32))
        chunks.append(chunk)
    assert len(remembered) == 300_000
    assert remembered.nbytes <= 28 * 300_000
    for chunk in chunks:
        result = classify(chunk, (remembered,))
        assert not len(result.new)
        assert not len(result.revised)
    strangers = chunks[0].copy()
    strangers["lo"] += 1_000_000
    assert len(classify(strangers, (remembered,)).new) == 5_000
    assert remembered.forget(30) == 150_000
    assert len(classify(chunks[29], (remembered,)).new) == 5_000
    assert not len(classify(chunks[30], (remembered,)).new)


def test_pending_dedup_entries_override_committed_ones() -> None:
    pending, remembered = DedupIndex(), DedupIndex()
    remembered.put(entries_of([((1, 1), 5, 3)]), hours_of([0]))
    pending.put(entries_of([((1, 1), 6, 4)]), hours_of([0]))
    same, back = (classify(entries_of([((1, 1), content, 0)]), (pending, remembered)) for content in (6, 5))
    assert not len(same.revised)
    assert (back.revised.tolist(), back.revisions.tolist()) == ([0], [5])


@given(st.lists(st.tuples(st.sampled_from([0, 1]), st.integers(0, 5)), max_size=40))
def test_rows_with_the_same_id_are_classified_in_order(keys: list[tuple[int, int]]) -> None:
    groups = split_repeats(entries_of([(key, 0, 0) for key in keys]))
    for group in groups:
        assert len({keys[at] for at in group}) == len(group)
        assert sorted(group) == list(group)
    assert sorted(at for group in groups for at in group) == list(range(len(keys)))
    for key in set(keys):  # the first occurrence is in the first group, and so on
        at = [n for n, one in enumerate(keys) if one == key]
        assert [[n for n in group if keys[n] == key] for group in groups[: len(at)]] == [[n] for n in at]


@given(st.lists(st.integers(0, MAX_REVISION), min_size=1, max_size=9), st.sampled_from([LAYOUT, LAYOUT | BETA_KNOWN]))
def test_storing_a_revision_in_a_dedup_entry_keeps_its_flags(revisions: list[int], flags: int) -> None:
    entries = np.zeros(len(revisions), ENTRY)
    entries["meta"] = flags
    kept = with_revision(entries, np.array(revisions, np.int64))
    assert [int(entry["meta"]) >> REVISION_SHIFT for entry in kept] == revisions
    assert set((kept["meta"] & 0xFFF).tolist()) == {flags}
    assert not (entries["meta"] >> REVISION_SHIFT).any()


def test_revision_number_stops_at_its_maximum() -> None:
    remembered = DedupIndex()
    remembered.put(entries_of([((1, 1), 0, MAX_REVISION)]), hours_of([0]))
    assert classify(entries_of([((1, 1), 1, 0)]), (remembered,)).revisions.tolist() == [MAX_REVISION]


@pytest.mark.parametrize(
    ("start_h", "hour"),
    [
        (None, 1000),
        (1000, 1000),
        (900, 900),
        (800, 800),
        (799, 1000),
        (1024, 1024),
        (1025, 1000),
        (-5, 1000),
        (10**7, 1000),
    ],
)
def test_dedup_index_assigns_rows_to_the_hour_of_their_start(start_h: int | None, hour: int) -> None:
    start_ms = None if start_h is None else start_h * HOUR_MS + 5
    assert dedup.hours_of([start_ms], 1000 * HOUR_MS + 7, 200) == [hour]


def test_empty_dedup_index_finds_nothing() -> None:
    remembered = DedupIndex()
    nothing = entries_of([])
    remembered.put(nothing, hours_of([]))
    remembered.restore(nothing, hours_of([]))
    assert not remembered.forget(10**6)
    assert not len(classify(nothing, (remembered,)).new)
    assert split_repeats(nothing)[0].tolist() == []
    assert remembered.per_hour(5, 5).tolist() == []


def test_dedup_index_length_is_stable_during_a_merge(monkeypatch: pytest.MonkeyPatch) -> None:
    """The event loop reads the length while the producer's thread adds rows."""
    index, lengths = DedupIndex(), []
    merged = IndexRun.merged

    def watched(run: Any, other: Any) -> Any:
        lengths.append(len(index))
        return merged(run, other)

    monkeypatch.setattr(IndexRun, "merged", watched)
    for number in range(16):
        entries = np.zeros(1, ENTRY)
        entries["hi"] = number
        index.put(entries, np.zeros(1, np.uint32))
        assert len(index) == number + 1
        assert set(lengths) <= {number, number + 1}
        lengths.clear()
