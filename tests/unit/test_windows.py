"""Choice of the call time to read next: slices, merged sweeps, catching up, first starts, restarts."""

from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from connector.core import slices, windows
from connector.core.coverage import Coverage, Window
from connector.core.instants import EPOCH
from connector.core.jobs import Command
from connector.core.slices import ROWS_A_SLICE, Sizes
from connector.core.windows import Rules, Slice, State, Sweep

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
S, M, H, D = (timedelta(seconds=s) for s in (1, 60, 3600, 86_400))
DEFAULT = Rules((Sweep(M, 15 * M), Sweep(15 * M, 3 * H), Sweep(2 * H, 48 * H), Sweep(D, 7 * D)), 0 * S, D, 150 * D)


def sizes(coverage: Coverage = Coverage(), *, rows_an_hour: float = 0.0, guess: float = 0.0) -> Sizes:  # noqa: B008
    """Return sizes with the same number of rows in every hour of the last year."""
    first = (NOW - 365 * D - EPOCH) // H
    return Sizes(np.full(366 * 24, int(rows_an_hour), np.int64), first, coverage, guess)


def next_piece(state: State, rules: Rules, in_flight: tuple[Slice, ...] = (), now: datetime = NOW) -> Slice | None:
    return slices.next_slice(state, rules, in_flight, sizes(state.coverage), now, live=True, others=True)


def run_dry(state: State, rules: Rules, now: datetime) -> tuple[State, list[Slice]]:
    """Start what is due and read until nothing is left to read; return the state, and the slices in order."""
    state, _ = windows.begin(state, rules, now)
    read: list[Slice] = []
    while piece := next_piece(state, rules, now=now):
        assert len(read) < 10_000
        read.append(piece)
        state, _ = windows.finish(state, [(piece, True)], now, rules)
    assert slices.is_idle(state, rules, now)
    return state, read


def polled(state: State, rules: Rules, start: datetime, end: datetime, step: timedelta = M) -> State:
    now = start
    while now < end:
        state, _ = run_dry(state, rules, now)
        now += step
    return state


def coverage_of(slices: Iterable[Slice]) -> Coverage:
    coverage = Coverage()
    for piece in slices:
        coverage = coverage.add(piece.window, NOW)
    return coverage


def total(read: list[Slice]) -> timedelta:
    return sum((piece.window.end - piece.window.start for piece in read), timedelta(0))


class TestFirstStart:
    def test_first_start_reads_each_second_of_call_time_once(self) -> None:
        state, read = run_dry(windows.first_state(DEFAULT, NOW - 10 * D, NOW), DEFAULT, NOW)
        assert total(read) == 10 * D
        assert state.coverage.missing(Window(NOW - 10 * D, NOW)) == []

    def test_first_start_reads_the_newest_slices_first(self) -> None:
        _, read = run_dry(windows.first_state(DEFAULT, NOW - 10 * D, NOW), DEFAULT, NOW)
        assert read[0].window == Window(NOW - 15 * M, NOW)
        own = [piece for piece in read if piece.priority < 4]
        assert [piece.window.end for piece in own] == sorted((piece.window.end for piece in own), reverse=True)
        assert [piece.priority for piece in own] == sorted(piece.priority for piece in own)

    def test_first_start_reads_nothing_before_start_or_horizon(self) -> None:
        for start in (NOW - 3 * H, NOW - 149 * D, NOW - 1000 * D):
            _, read = run_dry(windows.first_state(DEFAULT, start, NOW), DEFAULT, NOW)
            assert min(piece.window.start for piece in read) == max(start, NOW - 150 * D + H)

    @pytest.mark.parametrize("start", [NOW, NOW + 5 * D, NOW - 20 * S])
    def test_call_time_newer_than_windows_settle_is_read_later(self, start: datetime) -> None:
        rules = DEFAULT._replace(settle=30 * S)
        state, read = run_dry(windows.first_state(rules, start, NOW), rules, NOW)
        assert read == []
        _, read = run_dry(state, rules, NOW + 10 * M)
        assert read[0].window.end == NOW + 10 * M - 30 * S

    def test_reading_does_not_change_the_start_of_a_tenant(self) -> None:
        state = polled(windows.first_state(DEFAULT, NOW - 5 * M, NOW), DEFAULT, NOW, NOW + 5 * M)
        assert state.start == NOW - 5 * M


class TestSlices:
    @given(
        st.integers(1, 10**6),
        st.integers(0, 200_000),
        st.integers(0, 86_400),
        st.floats(0, 1000),
        st.booleans(),
        st.integers(1, 30 * 86_400),
    )
    def test_slice_has_a_bounded_length_in_whole_seconds(
        self,
        length_s: int,
        rows_an_hour: int,
        shift_s: int,
        guess: float,
        newest_first: bool,  # noqa: FBT001
        longest_s: int,
    ) -> None:
        end = NOW - shift_s * S
        window = Window(end - length_s * S, end)
        coverage = Coverage().add(Window(NOW - 3 * H, NOW - H), NOW)
        cut = sizes(coverage, rows_an_hour=rows_an_hour, guess=guess).cut(
            window, longest_s * S, newest_first=newest_first
        )
        assert window.start <= cut.start < cut.end <= window.end
        assert cut.end == window.end if newest_first else cut.start == window.start
        assert cut.end - cut.start <= longest_s * S
        assert cut.start.microsecond == cut.end.microsecond == 0

    @given(st.integers(10, 500_000), st.booleans())
    def test_slice_holds_about_ten_pages(self, rows_an_hour: int, newest_first: bool) -> None:  # noqa: FBT001
        window = Window(NOW - 30 * D, NOW)
        coverage = Coverage().add(window, NOW)
        cut = sizes(coverage, rows_an_hour=rows_an_hour).cut(window, 30 * D, newest_first=newest_first)
        rows = cut.seconds * rows_an_hour / 3600
        assert rows <= ROWS_A_SLICE + 1
        assert rows > 0.9 * ROWS_A_SLICE or cut == window

    def test_slice_of_a_busy_tenant_is_at_least_a_minute(self) -> None:
        coverage = Coverage().add(Window(NOW - D, NOW), NOW)
        cut = sizes(coverage, rows_an_hour=10**8).cut(Window(NOW - H, NOW), D, newest_first=True)
        assert cut == Window(NOW - M, NOW)

    def test_first_slices_of_a_tenant_grow_at_most_fourfold(self) -> None:
        window = Window(NOW - 30 * D, NOW)
        first = sizes(guess=slices.first_guess()).cut(window, 30 * D, newest_first=True)
        assert first.seconds == pytest.approx(3600, abs=60)
        after_nothing = sizes(guess=slices.next_guess(first, 0)).cut(window, 30 * D, newest_first=True)
        assert after_nothing.seconds == pytest.approx(4 * 3600, abs=120)
        after_many = sizes(guess=slices.next_guess(first, 100_000)).cut(window, 30 * D, newest_first=True)
        assert after_many.seconds < 360

    @given(st.integers(1, 100_000))
    def test_halves_of_a_window_are_adjacent_with_whole_seconds(self, length_s: int) -> None:
        window = Window(NOW, NOW + length_s * S)
        parts = windows.halves(window)
        assert parts[0].start == window.start
        assert parts[-1].end == window.end
        assert sum((part.end - part.start for part in parts), timedelta(0)) == length_s * S
        assert len(parts) == (1 if length_s == 1 else 2)

    def test_slices_that_are_being_read_are_not_planned_again(self) -> None:
        state, _ = windows.begin(windows.first_state(DEFAULT, NOW - 10 * D, NOW), DEFAULT, NOW)
        in_flight: tuple[Slice, ...] = ()
        while piece := next_piece(state, DEFAULT, in_flight):
            in_flight += (piece,)
        seconds = Counter(piece.window.start for piece in in_flight)
        assert total(list(in_flight)) == 10 * D
        assert set(seconds.values()) == {1}

    @pytest.mark.parametrize("job", ["", "a backfill"])
    def test_two_page_chains_never_read_the_same_seconds(self, job: str) -> None:
        """An open page chain may belong to an older run or to a job.

        Its responses could arrive after those of a newer chain.
        """
        state, _ = windows.begin(windows.first_state(DEFAULT, NOW - 10 * D, NOW), DEFAULT, NOW)
        state = windows.command(state, Command("j", "backfill", NOW, Window(NOW - 10 * D, NOW)), NOW, NOW - 20 * D)
        in_flight: tuple[Slice, ...] = (Slice(Window(NOW - 10 * M, NOW - 5 * M), 1000, NOW - D, job),)
        while piece := next_piece(state, DEFAULT, in_flight):
            in_flight += (piece,)
        assert total(list(in_flight)) == 10 * D
        assert not coverage_of(in_flight).missing(Window(NOW - 10 * D, NOW))

    def test_one_page_chain_is_reserved_for_the_live_sweep(self) -> None:
        state, _ = windows.begin(windows.first_state(DEFAULT, NOW - 10 * D, NOW), DEFAULT, NOW)
        one = slices.next_slice(state, DEFAULT, (), sizes(), NOW, live=False, others=True)
        two = slices.next_slice(state, DEFAULT, (), sizes(), NOW, live=True, others=False)
        assert one is not None
        assert two is not None
        assert (one.priority, two.priority) == (1, 0)


class TestSweeps:
    def test_sweeps_that_are_due_together_read_each_slice_once(self) -> None:
        """If sweeps are due at the same time, the deepest one reads for all of them."""
        state = polled(windows.first_state(DEFAULT, NOW - 8 * D, NOW), DEFAULT, NOW, NOW + 2 * M)
        later = NOW + D
        state = polled(state, DEFAULT, NOW + 2 * M, later - 20 * M, 10 * M)
        state = state._replace(sweeps=tuple(sweep_state._replace(due=later) for sweep_state in state.sweeps))
        state, read = run_dry(state, DEFAULT, later)
        assert all(sweep_state.run and sweep_state.run.started == later for sweep_state in state.sweeps)
        assert total(read) <= 7 * D + 20 * M + D  # its overlap, and the call time back to the last complete run
        seconds: Counter[datetime] = Counter()
        for piece in read:
            at = piece.window.start
            while at < piece.window.end:
                seconds[at] += 1
                at += 5 * M
        assert set(seconds.values()) == {1}

    def test_sweep_run_reaches_back_to_the_last_complete_run(self) -> None:
        rules = DEFAULT._replace(sweeps=(Sweep(M, 15 * M),))
        state = polled(windows.first_state(rules, NOW - 2 * H, NOW), rules, NOW, NOW + 5 * M)
        _, read = run_dry(state, rules, NOW + 5 * M)
        assert [piece.window for piece in read] == [Window(NOW - 11 * M, NOW + 5 * M)]

    def test_sweep_reads_nothing_before_it_is_due(self) -> None:
        state, _ = run_dry(windows.first_state(DEFAULT, NOW - H, NOW), DEFAULT, NOW)
        assert windows.next_due(state) == NOW + M
        assert run_dry(state, DEFAULT, NOW + M - S)[1] == []
        assert run_dry(state, DEFAULT, NOW + M)[1] != []

    def test_tenant_is_idle_before_its_start_and_while_paused(self) -> None:
        """A tenant whose start lies in the future waits for it, and a paused tenant waits for the command `resume`."""
        rules = DEFAULT._replace(settle=30 * S)
        state = windows.first_state(rules, NOW + 5 * D, NOW)
        turn = windows.next_turn(state, rules, NOW)
        assert turn is not None
        assert turn >= state.start + 30 * S
        assert windows.begin(state, rules, turn - 2 * S)[1] == []
        assert windows.begin(state, rules, turn)[1] == [0, 1, 2, 3]
        paused = windows.command(state, Command("p", "pause", NOW), NOW, NOW - D)
        assert windows.next_turn(paused, rules, NOW) is None

    def test_calls_newer_than_the_settle_setting_are_not_read(self) -> None:
        rules = DEFAULT._replace(settle=90 * S)
        _, read = run_dry(windows.first_state(rules, NOW - H, NOW), rules, NOW)
        assert max(piece.window.end for piece in read) == NOW - 90 * S

    @pytest.mark.parametrize(
        "sweeps",
        [
            (Sweep(M, 15 * M),),
            (Sweep(D, 7 * D),),
            (Sweep(M, 7 * D), Sweep(H, 2 * H)),
            (Sweep(S, S),),
            (Sweep(10 * M, 5 * M), Sweep(H, 30 * M)),
            (Sweep(M, 5 * M), Sweep(2 * M, 5 * M), Sweep(3 * M, 5 * M)),
        ],
    )
    def test_every_set_of_sweeps_completes_its_runs(self, sweeps: tuple[Sweep, ...]) -> None:
        rules = DEFAULT._replace(sweeps=sweeps)
        state = windows.first_state(rules, NOW - 3 * D, NOW)
        now = NOW
        for _ in range(60):
            state, _ = run_dry(state, rules, now)
            for sweep_state in state.sweeps:
                assert not sweep_state.running
                assert windows.overdue_seconds(sweep_state, now) == 0
            now += max(M, sweeps[0].every)
        for sweep_state in state.sweeps:
            assert sweep_state.run is not None
            reach = max(state.start, sweep_state.run.started - sweep_state.sweep.overlap)
            assert sweep_state.through >= reach, "call time that another sweep has read does not count"

    def test_sweep_run_that_does_not_finish_becomes_overdue(self) -> None:
        state, _ = windows.begin(windows.first_state(DEFAULT, NOW - H, NOW), DEFAULT, NOW)
        assert windows.overdue_seconds(state.sweeps[0], NOW + M) == 0
        assert windows.overdue_seconds(state.sweeps[0], NOW + 3 * M) == 120

    def test_sweep_slower_than_its_cadence_still_reads_all_call_time(self) -> None:
        """The budget allows one slice of one hour per hour, but the sweep is to read eight hours every two hours."""
        rules = Rules((Sweep(2 * H, 8 * H),), 0 * S, H, 150 * D)
        state, now, last_read = windows.first_state(rules, NOW - 8 * H, NOW), NOW, {}
        for _ in range(48):
            state, started = windows.begin(state, rules, now)
            assert windows.overtaken(state, started) == ([0] if started and now > NOW else [])
            run = state.sweeps[0].run
            assert run is not None
            assert now - run.started < 2 * H
            piece = next_piece(state, rules, now=now)
            assert piece is not None
            last_read[piece.window.start] = now
            state, _ = windows.finish(state, [(piece, True)], now, rules)
            now += H
        hours = [now - n * H for n in range(3, 8)]
        assert all(now - last_read.get(hour, NOW) <= 16 * H for hour in hours), "the oldest part was never read"

    def test_state_stays_small_while_deep_sweeps_have_no_budget(self) -> None:
        """The live sweep uses the whole budget, so that runs of the deeper sweeps begin but cannot read."""
        state, _ = run_dry(windows.first_state(DEFAULT, NOW - D, NOW), DEFAULT, NOW)
        for minute in range(1, 2 * 1440):
            now = NOW + minute * M
            state, _ = windows.begin(state, DEFAULT, now)
            run = state.sweeps[0].run
            assert run is not None
            for part in state.coverage.missing(run.window, since=run.started):
                state, _ = windows.finish(state, [(Slice(part, 0, run.started), True)], now, DEFAULT)
        assert len(state.coverage.reads) < 20
        assert [NOW + 2 * D - s.run.started < s.sweep.every + H for s in state.sweeps if s.run] == 4 * [True]

    @given(st.lists(st.tuples(st.integers(0, 500), st.integers(1, 200), st.integers(0, 700)), max_size=12))
    def test_merging_coverage_does_not_change_what_a_run_reads(self, reads: list[tuple[int, int, int]]) -> None:
        state = windows.first_state(DEFAULT, NOW - 700 * M, NOW - 700 * M)
        coverage = Coverage()
        for start, length, read_at in reads:
            at = NOW - 700 * M + read_at * M
            coverage = coverage.add(Window(at - (start + length) * M, at - start * M), at)
        state, _ = windows.begin(state._replace(coverage=coverage), DEFAULT, NOW - 300 * M)
        before = windows.finish(state._replace(coverage=coverage), [], NOW, DEFAULT)[0]
        after = windows.finish(state, [], NOW, DEFAULT)[0]
        assert after.sweeps == before.sweeps or coverage.until(NOW - 300 * M) != coverage
        for one in state.sweeps:
            if one.run is not None:
                known = coverage.until(NOW - 300 * M)
                missing = state.coverage.missing(one.run.window, since=one.run.started)
                assert missing == known.missing(one.run.window, since=one.run.started)

    def test_failed_runs_are_due_again_at_once(self) -> None:
        state, started = windows.begin(windows.first_state(DEFAULT, NOW - H, NOW), DEFAULT, NOW)
        state, dropped = windows.drop_runs(state)
        assert started == dropped == [0, 1, 2, 3]
        assert windows.begin(state, DEFAULT, NOW + S)[1] == started

    def test_failed_run_keeps_the_coverage_that_it_has_read(self) -> None:
        state, _ = windows.begin(windows.first_state(DEFAULT, NOW - 30 * D, NOW), DEFAULT, NOW)
        for _ in range(9):
            piece = next_piece(state, DEFAULT)
            assert piece is not None
            state, _ = windows.finish(state, [(piece, True)], NOW, DEFAULT)
        state, _ = windows.drop_runs(state)
        assert state.coverage.through == NOW

    def test_slice_counts_as_read_at_the_start_of_its_run(self) -> None:
        rules = DEFAULT._replace(sweeps=(Sweep(M, 15 * M),))
        state, _ = windows.begin(windows.first_state(rules, NOW - H, NOW), rules, NOW)
        while piece := next_piece(state, rules):
            state, _ = windows.finish(state, [(piece, True)], NOW + 10 * M, rules)
        assert {read.at for read in state.coverage.reads} == {NOW}
        assert state.sweeps[0].through == NOW - 15 * M

    def test_deepest_of_several_due_sweeps_reads_for_all_of_them(self) -> None:
        assert windows.replaced_by([0, 1, 3], DEFAULT) == 3
        assert windows.replaced_by([], DEFAULT) is None


class TestCatchingUp:
    @pytest.mark.parametrize("outage", [30 * S, 10 * M, 4 * H, 3 * D, 20 * D, 100 * D])
    def test_sweeps_due_after_an_outage_read_the_same_range_once(self, outage: timedelta) -> None:
        state = polled(windows.first_state(DEFAULT, NOW - 2 * H, NOW), DEFAULT, NOW, NOW + 5 * M)
        later = NOW + 5 * M + outage
        through = state.coverage.through
        assert through is not None
        state, read = run_dry(state, DEFAULT, later)
        assert state.coverage.missing(Window(through, later)) == []
        assert total(read) <= (later - state.start) + outage + 4 * H
        assert all(piece.window.seconds <= 86_400 for piece in read)

    def test_overlap_is_read_before_the_gap_after_an_outage(self) -> None:
        rules = DEFAULT._replace(sweeps=DEFAULT.sweeps[:2])
        state = polled(windows.first_state(rules, NOW - 2 * H, NOW), rules, NOW, NOW + 5 * M)
        later = NOW + 10 * D
        _, read = run_dry(state, rules, later)
        own, hole = [p for p in read if p.priority < 2], [p for p in read if p.priority >= 2]
        assert read == own + hole
        assert total(own) == 3 * H
        assert hole == sorted(hole, key=lambda piece: (piece.priority, piece.window))
        assert total(hole) == later - 3 * H - min(piece.window.start for piece in hole)

    def test_no_window_starts_before_the_horizon(self) -> None:
        rules = DEFAULT._replace(horizon=20 * D)
        state = polled(windows.first_state(rules, NOW - 2 * H, NOW), rules, NOW, NOW + 5 * M)
        later = NOW + 60 * D
        state, read = run_dry(state, rules, later)
        assert min(piece.window.start for piece in read) == later - 20 * D + H / 2
        assert state.coverage.missing(Window(later - 20 * D + H / 2, later)) == []

    def test_gap_reading_continues_after_a_restart(self) -> None:
        state = polled(windows.first_state(DEFAULT, NOW - 2 * H, NOW), DEFAULT, NOW, NOW + 5 * M)
        later = NOW + 30 * D
        state, _ = windows.begin(state, DEFAULT, later)
        read: list[Slice] = []
        for _ in range(15):
            piece = next_piece(state, DEFAULT)
            assert piece is not None
            read.append(piece)
            state, _ = windows.finish(state, [(piece, True)], later, DEFAULT)
        state = windows.resume(state, DEFAULT, later + 20 * S)
        state, rest = run_dry(state, DEFAULT, later + 20 * S)
        assert total(read) + total(rest) <= 30 * D + 8 * D
        assert state.coverage.missing(Window(NOW - 2 * H, later)) == []


class TestRestarts:
    def test_sweep_run_continues_after_a_restart(self) -> None:
        state, _ = windows.begin(windows.first_state(DEFAULT, NOW - 3 * D, NOW), DEFAULT, NOW)
        first = next_piece(state, DEFAULT)
        assert first is not None
        state, _ = windows.finish(state, [(first, True)], NOW, DEFAULT)
        resumed = windows.resume(state, DEFAULT, NOW + 10 * S)
        assert resumed == state
        second = next_piece(resumed, DEFAULT)
        assert second is not None
        assert second.window.end == first.window.start

    def test_sweep_run_that_is_too_old_is_dropped_at_a_restart(self) -> None:
        state, _ = windows.begin(windows.first_state(DEFAULT, NOW - 3 * D, NOW), DEFAULT, NOW)
        resumed = windows.resume(state, DEFAULT, NOW + 20 * M)
        assert [sweep_state.running for sweep_state in resumed.sweeps] == [False, False, True, True]

    def test_new_sweep_starts_with_the_coverage_of_other_sweeps(self) -> None:
        state = polled(windows.first_state(DEFAULT, NOW - 2 * H, NOW), DEFAULT, NOW, NOW + 30 * M)
        rules = DEFAULT._replace(sweeps=(Sweep(M, 10 * M), *DEFAULT.sweeps[1:]))
        new = windows.resume(state, rules, NOW + 30 * M).sweeps[0]
        assert new.due == NOW + 30 * M
        assert NOW - 2 * H < new.through <= NOW + 20 * M
        later, _ = run_dry(windows.resume(state, rules, NOW + 30 * M), rules, NOW + 30 * M)
        assert later.sweeps[0].through == NOW + 20 * M

    def test_removed_sweep_is_dropped_at_a_restart(self) -> None:
        state, _ = run_dry(windows.first_state(DEFAULT, NOW - 2 * H, NOW), DEFAULT, NOW)
        rules = DEFAULT._replace(sweeps=DEFAULT.sweeps[:1])
        assert [s.sweep for s in windows.resume(state, rules, NOW).sweeps] == list(rules.sweeps)


class TestClocks:
    RULES = DEFAULT._replace(sweeps=(Sweep(2 * M, 2 * H),))

    @pytest.mark.parametrize("step", [S, 30 * S, 2 * M, 10 * M, 3 * H, 5 * D])
    @pytest.mark.parametrize("rules", [RULES, DEFAULT])
    def test_sweeps_continue_after_the_clock_was_set_back(self, rules: Rules, step: timedelta) -> None:
        state = polled(windows.first_state(rules, NOW - 9 * D, NOW), rules, NOW, NOW + 20 * M)
        now = NOW + 19 * M - step
        state, read = run_dry(state, rules, now)
        if step >= 2 * M and rules is self.RULES:
            assert read, "reads in the future keep call time from being read now"
        state = polled(state, rules, now, now + 10 * M)
        live = state.sweeps[0]
        assert live.run is not None
        assert live.run.started >= now + 8 * M
        assert state.coverage.through is not None
        assert state.coverage.through <= now + 10 * M

    def test_progress_moves_back_after_the_clock_was_ahead(self) -> None:
        state = polled(windows.first_state(self.RULES, NOW - 3 * D, NOW), self.RULES, NOW, NOW + 10 * M)
        state, _ = run_dry(state, self.RULES, NOW + 5 * H)
        state = polled(state, self.RULES, NOW + 10 * M, NOW + 20 * M)
        assert state.sweeps[0].through <= NOW + 20 * M - 2 * H
