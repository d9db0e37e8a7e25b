"""Conflicting rows: one content is published, and each other content is dead-lettered once."""

from typing import Any

import msgspec
import pytest

from connector.core.pages import decode_page
from connector.core.rows import PageRows
from connector.kafka import avro
from connector.pipeline.messages import PageRead, SliceRead
from tests.property.model import moment
from tests.unit.test_batch import PIECE, SHAPE, Bench, published_versions, row

_decode = avro.decoder(avro.ROW)
A, B = row(duration=1), row(duration=2)
MODES = pytest.mark.parametrize("revisions", ["publish", "ignore"])


NO_IDS: frozenset[int] = frozenset()


def page(*rows: Any, number: int = 0, earlier: frozenset[int] = NO_IDS, suspects: frozenset[int] = NO_IDS) -> PageRead:
    """Return a page. `earlier` are the ids of the pages before it in the chain."""
    rows_read = decode_page(msgspec.json.encode({"value": rows})).rows
    reading = SHAPE.read(rows_read)
    repeated = earlier & ids(reading)
    return PageRead(
        "t", PIECE, rows_read, reading, moment(1.0), 1, (), number=number, repeated=repeated, suspects=suspects
    )


def ids(reading: PageRows) -> frozenset[int]:
    return frozenset(reading.entries["hi"].tolist())


def sweep(bench: Bench, *attempts: list[list[Any]]) -> tuple[list[int], list[int]]:
    """Read a slice, a chain of pages per attempt; return the durations that are published and dead-lettered."""
    suspects = NO_IDS
    for chain in attempts:
        earlier = repeated = NO_IDS
        for number, rows in enumerate(chain):
            read = page(*rows, number=number, earlier=earlier, suspects=suspects)
            bench.batches.prepare([read], bench.tenant_states, bench.changes)
            earlier, repeated = earlier | ids(read.reading), repeated | read.repeated
        suspects = repeated
    bench.batches.prepare([SliceRead("t", PIECE, len(attempts) == 1, moment(2.0))], bench.tenant_states, bench.changes)
    change = bench.changes["t"]
    letters = [msgspec.json.decode(record.value or b"")["duration"] for record in change.dead_letters]
    durations = [_decode(record.value or b"")["duration"] for record in change.rows]
    assert change.conflicting == len(letters)
    assert change.duplicate >= 0
    bench.commit()
    return durations, letters


@MODES
def test_one_of_several_conflicting_rows_is_published(revisions: str) -> None:
    outcomes = [sweep(Bench(revisions=revisions), [rows]) for rows in ([A, B, A], [B, A, B])]
    assert outcomes[0] == outcomes[1]
    published, letters = outcomes[0]
    assert sorted(published + letters) == [1, 2]
    assert len(published) == 1


@MODES
def test_conflicting_rows_publish_nothing_in_later_sweeps(revisions: str) -> None:
    bench = Bench(revisions=revisions)
    sweep(bench, [[A, B]])
    assert [sweep(bench, [rows]) for rows in ([A, B], [B, A])] == [([], []), ([], [])]


@MODES
def test_conflicting_rows_do_not_replace_the_version_on_the_topic(revisions: str) -> None:
    for first, second in ((A, B), (B, A)):
        bench = Bench(revisions=revisions)
        sweep(bench, [[first]])
        assert sweep(bench, [[first, second]]) == ([], [second["duration"]])


def test_dead_letter_of_conflicting_rows_states_the_conflict() -> None:
    change = Bench().read(A, B)
    headers = dict(change.dead_letters[0].headers or [])
    assert change.dead_letters[0].key == b"a"
    assert headers["__connect.errors.exception.class.name"] == b"connector.RowConflict"
    assert headers["__connect.errors.exception.message"].startswith(b"row: another row")


def test_row_changed_between_two_pages_is_published_as_a_revision() -> None:
    """Different contents on two pages are not a conflict, because Graph may have changed the row in between."""
    bench = Bench()
    assert sweep(bench, [[A], [B]], [[row("b", duration=3)], [B]]) == ([1, 2, 3], [])


def test_row_changed_during_the_second_reading_is_published_as_a_revision() -> None:
    """Rows had shifted, so the chain was read again. The row was on one page only when it was read first."""
    bench = Bench()
    other, third = row("b", duration=3), row("c", duration=4)
    assert sweep(bench, [[other, A], [other]], [[third, A], [B]]) == ([3, 1, 4, 2], [])


@MODES
def test_conflict_across_pages_publishes_nothing_in_later_sweeps(revisions: str) -> None:
    bench = Bench(revisions=revisions)
    published, letters = sweep(bench, [[A], [B]], [[A], [B]], [[A], [B]])
    assert (published, letters) == (([1, 2, 1] if revisions == "publish" else [1]), [2])
    for chain in ([[A], [B]], [[B], [A]], [[B], [A]], [[A], [B]]):
        assert sweep(bench, chain, chain, chain) == ([], [])


def test_dead_lettered_row_is_published_when_its_conflict_ends() -> None:
    bench = Bench()
    _published, letters = sweep(bench, [[A, B]])
    loser = A if letters == [1] else B
    assert sweep(bench, [[loser], []]) == (letters, [])
    assert sweep(bench, [[loser], []]) == ([], [])


def test_unpublished_row_is_dropped_if_its_page_chain_fails() -> None:
    bench = Bench()
    _, letters = sweep(bench, [[A, B]])
    loser, winner = (A, B) if letters == [1] else (B, A)
    bench.batches.prepare([page(loser)], bench.tenant_states, bench.changes)
    assert published_versions(bench.changes["t"]) == []
    assert sweep(bench, [[winner]]) == ([], [])
