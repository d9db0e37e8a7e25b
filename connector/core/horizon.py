"""Limits of the call time that may still be read, and of what the deduplication index forgets.

The index forgets rows at `now - horizon`, in whole hours of call start. A row that is read after it was forgotten would
be published again. `readable_from` is therefore the only function that decides from where on call time may be read.
Every window, run and job is cut by it at every step.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta

from connector.core.coverage import Coverage, Window
from connector.core.instants import EPOCH

MARGIN = timedelta(hours=1)
"Distance that the configuration, a first start and a new job keep between `now - horizon` and the call time they need."
STEP_MARGIN = timedelta(minutes=30)
"""Part of MARGIN that each step of a run or job keeps: the time that a page chain may take from start to commit.

The rest is for runs that begin late. A run needs the call time back to where the last one was complete: if each step
kept all of MARGIN, the shortest horizon would cut a second from every run that begins a second late.
"""
_HOUR = timedelta(hours=1)
_MOST_MISSED = 200


def readable_from(
    forgotten_before: datetime, horizon: timedelta, now: datetime, margin: timedelta = STEP_MARGIN
) -> datetime:
    """Return the instant from which on call time may be read: no row of a later call was forgotten."""
    return max((now - horizon + margin).replace(microsecond=0), forgotten_before)


def forget_before(forgotten_before: datetime, horizon: timedelta, now: datetime) -> datetime:
    """Return the full hour before which the index forgets rows. It never moves back."""
    return max(forgotten_before, EPOCH + (now - horizon - EPOCH) // _HOUR * _HOUR)


def adopt_cut(start: datetime, throughs: Sequence[datetime], coverage: Coverage) -> datetime:
    """Return the instant before which rows may have been forgotten, for a state that does not record it.

    Such a state was cut at the horizon if every sweep is complete up to the first instant that is covered. If a sweep
    is not, its first run has not come that far yet, and nothing was cut.
    """
    first = coverage.reads[0].start if coverage.reads else start
    return first if first > start and all(through >= first for through in throughs) else EPOCH


def bounded(missed: Sequence[Window]) -> tuple[Window, ...]:
    """Return `missed` with its oldest windows joined into one where there are too many to keep."""
    if len(missed) <= _MOST_MISSED:
        return tuple(missed)
    first = Window(missed[0].start, missed[-_MOST_MISSED].end)
    return (first, *missed[1 - _MOST_MISSED :])
