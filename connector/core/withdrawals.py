"""Search for withdrawn rows: rows that Graph has returned, and does not return any more.

1. Each row that Graph returns again is marked in the deduplication index, together with the exact hour of its call. The
   marks are not stored in topics. A row is therefore watched only after this process has read it once more.
2. Whenever a run of the deepest sweep begins, all marks are lowered by one step. A row has the lowest mark if Graph has
   not returned it since the run before the last one began.
3. When such a run ends, the rows with the lowest mark are withdrawn if both runs have read the hours around their calls
   completely and with stable paging. Two runs are needed, because a row that Graph withdraws during a page chain can
   hide another row from this chain.
4. A row is counted once. It is watched again if Graph returns it again.
"""

from datetime import timedelta
from typing import NamedTuple

from connector.core.coverage import Coverage, Window, clip, subtract
from connector.core.dedup import DedupIndex
from connector.core.instants import EPOCH
from connector.core.windows import Rules, Run, State

_HOUR = timedelta(hours=1)
MARGIN = _HOUR
"""Minimum distance of a withdrawn row from call time that was not read completely.

A revision can move the start of a call. If it moved the start by less than this, the row would have been read.
"""


class Withdrawn(NamedTuple):
    """Withdrawn rows that the end of one run has revealed."""

    rows: int
    window: Window
    "Range in full hours that contains the calls of these rows."


class Withdrawals:
    """Search for the withdrawn rows of one tenant."""

    def __init__(self) -> None:
        self._complete: list[Window] = []
        "Call time that the last run of the deepest sweep to end has read completely."
        self._has_ended = False
        "True if a run of the deepest sweep has ended since the marks were lowered."

    def begun(self, sweeps: list[int], rules: Rules, index: DedupIndex) -> None:
        """Record that runs of `sweeps` have begun."""
        if self._has_ended and _deepest(rules) in sweeps:
            index.age_marks()
            self._has_ended = False

    def ended(self, sweeps: list[int], state: State, rules: Rules, index: DedupIndex) -> Withdrawn | None:
        """Record that runs of `sweeps` have ended. Return the withdrawn rows that this reveals; None if there are none.

        `state` is the state of the tenant after the end of the runs.
        """
        deepest = _deepest(rules)
        run = state.sweeps[deepest].run
        if deepest not in sweeps or run is None:
            return None
        complete = _read_completely(state.coverage, run)
        in_both = [part for window in complete for part in clip(self._complete, window)]
        self._complete, self._has_ended = complete, True
        hours = index.take_absent([hours for window in in_both if (hours := _inner_hours(window))])
        if not len(hours):
            return None
        first, last = int(hours.min()), int(hours.max())
        return Withdrawn(len(hours), Window(EPOCH + first * _HOUR, EPOCH + (last + 1) * _HOUR))


def _deepest(rules: Rules) -> int:
    return max(range(len(rules.sweeps)), key=lambda index: rules.sweeps[index].overlap)


def _read_completely(coverage: Coverage, run: Run) -> list[Window]:
    """Return the parts of a run's window that were read since the run started, and last with stable paging."""
    unstable = [Window(read.start, read.end) for read in coverage.reads if not read.steady]
    return subtract([run.window], [*coverage.missing(run.window, run.started), *unstable])


def _inner_hours(window: Window) -> tuple[int, int] | None:
    """Return the full hours of a window without its margins: the first, and the one after the last. None if empty."""
    first = -((EPOCH - window.start - MARGIN) // _HOUR)
    end = (window.end - MARGIN - EPOCH) // _HOUR
    return (first, end) if first < end else None
