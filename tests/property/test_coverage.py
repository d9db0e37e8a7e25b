"""Coverage, compared with a plain array of seconds."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from connector.core.coverage import Coverage, Read, Window, clip, subtract

_ZERO = datetime(2026, 1, 1, tzinfo=UTC)
_LENGTH = 40
_NEVER = -1


def at(second: int) -> datetime:
    return _ZERO + timedelta(seconds=second)


def seconds(moment: datetime) -> int:
    return int((moment - _ZERO).total_seconds())


_windows = st.tuples(st.integers(0, _LENGTH - 1), st.integers(1, 15)).map(
    lambda pair: Window(at(pair[0]), at(min(_LENGTH, pair[0] + pair[1])))
)
_reads = st.lists(st.tuples(_windows, st.integers(0, 100), st.booleans()), max_size=12)
_Reads = list[tuple[Window, int, bool]]


def covered(reads: _Reads) -> tuple[Coverage, list[tuple[int, bool]]]:
    """Return the coverage, and for each second when it was last read and whether its paging was stable."""
    coverage, model = Coverage(), [(_NEVER, True)] * _LENGTH
    for window, read_at, steady in reads:
        coverage = coverage.add(window, at(read_at), steady=steady)
        for second in range(seconds(window.start), seconds(window.end)):
            if read_at >= model[second][0]:
                model[second] = (read_at, steady)
    return coverage, model


def unpacked(coverage: Coverage) -> list[tuple[int, bool]]:
    model = [(_NEVER, True)] * _LENGTH
    for read in coverage.reads:
        for second in range(seconds(read.start), seconds(read.end)):
            assert model[second][0] == _NEVER, "pieces overlap"
            model[second] = (seconds(read.at), read.steady)
    return model


def pieces(windows: list[Window]) -> set[int]:
    found = [second for window in windows for second in range(seconds(window.start), seconds(window.end))]
    assert len(found) == len(set(found))
    return set(found)


@given(_reads)
def test_coverage_keeps_the_latest_read_of_each_second(reads: _Reads) -> None:
    coverage, model = covered(reads)
    assert unpacked(coverage) == model
    assert list(coverage.reads) == sorted(coverage.reads)
    assert all(read.start < read.end for read in coverage.reads)
    for first, second in zip(coverage.reads, coverage.reads[1:], strict=False):
        assert first.end < second.start or (first.at, first.steady) != (second.at, second.steady), (
            "adjacent pieces are not merged"
        )
    ends = [n + 1 for n, (read_at, _) in enumerate(model) if read_at != _NEVER]
    assert coverage.through == (at(max(ends)) if ends else None)


@given(_reads, _windows, st.none() | st.integers(0, 100))
def test_missing_ranges_are_those_not_read_since_a_given_time(reads: _Reads, window: Window, since: int | None) -> None:
    coverage, model = covered(reads)
    missing = coverage.missing(window, None if since is None else at(since))
    inside = range(seconds(window.start), seconds(window.end))
    least = 0 if since is None else since
    assert pieces(missing) == {second for second in inside if model[second][0] < least}
    assert missing == sorted(missing)


@given(_reads, _windows, st.integers(0, 60))
def test_seconds_last_read_before_the_overlap_passed_are_found(reads: _Reads, window: Window, overlap: int) -> None:
    coverage, model = covered(reads)
    inside = range(seconds(window.start), seconds(window.end))
    # A call may begin at the very end of its second.
    unripe = {second for second in inside if model[second][0] == _NEVER or model[second][0] < second + 1 + overlap}
    assert pieces(coverage.unripe(window, timedelta(seconds=overlap))) == unripe


@given(_reads, st.integers(0, _LENGTH), st.integers(0, 60))
def test_complete_call_time_ends_at_the_first_second_read_too_early(reads: _Reads, start: int, overlap: int) -> None:
    coverage, model = covered(reads)
    through = start
    while through < _LENGTH and model[through][0] != _NEVER and model[through][0] >= through + 1 + overlap:
        through += 1
    assert coverage.complete_through(at(start), timedelta(seconds=overlap)) == at(through)


@given(_reads, st.integers(0, 110))
def test_coverage_in_the_future_is_dropped_after_a_clock_correction(reads: _Reads, now: int) -> None:
    coverage, model = covered(reads)
    known = unpacked(coverage.until(at(now)))
    for second, (read_at, steady) in enumerate(model):
        if second >= now:
            assert known[second][0] == _NEVER
        elif read_at != _NEVER:
            assert known[second] == (min(read_at, now - 1) if read_at > now else read_at, steady)
    assert coverage.until(at(200)) is coverage


@given(_reads, st.integers(0, _LENGTH))
def test_merged_coverage_contains_no_unread_second(reads: _Reads, before: int) -> None:
    coverage, model = covered(reads)
    merged = coverage.merged(lambda read, _: read.end <= at(before))
    assert len(merged.reads) <= len(coverage.reads)
    for second, (read_at, steady) in enumerate(unpacked(merged)):
        assert (read_at == _NEVER) == (model[second][0] == _NEVER)
        assert read_at <= model[second][0]
        assert steady == model[second][1]
        if second >= before:
            assert read_at == model[second][0]


@given(_reads, st.integers(1, 4))
def test_coverage_cut_to_a_size_limit_contains_no_unread_second(reads: _Reads, most: int) -> None:
    coverage, model = covered(reads)
    limited = coverage.limited(most)
    assert len(limited.reads) <= most
    if len(coverage.reads) <= most:
        assert limited == coverage
    for second, (read_at, _) in enumerate(unpacked(limited)):
        assert read_at <= model[second][0]


@given(st.lists(_windows, max_size=6), st.lists(_windows, max_size=6), _windows)
def test_subtracting_and_clipping_windows_equals_set_operations(
    windows: list[Window], taken: list[Window], bounds: Window
) -> None:
    disjoint: list[Window] = []
    for window in windows:
        disjoint += subtract([window], disjoint)
    disjoint.sort()
    assert pieces(disjoint) == {s for w in windows for s in range(seconds(w.start), seconds(w.end))}
    gone = {second for window in taken for second in range(seconds(window.start), seconds(window.end))}
    assert pieces(subtract(disjoint, taken)) == pieces(disjoint) - gone
    assert pieces(clip(disjoint, bounds)) == pieces(disjoint) & pieces([bounds])


def test_empty_coverage_covers_nothing() -> None:
    assert Coverage().through is None
    assert Coverage().missing(Window(at(0), at(5))) == [Window(at(0), at(5))]
    assert Coverage().complete_through(at(3), timedelta(0)) == at(3)
    assert Read(at(0), at(1), at(2)).steady
    assert Window(at(1), at(61)).seconds == 60
