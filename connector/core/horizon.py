"""Horizon: how far back call time may be read, and when the deduplication index forgets rows.

The index forgets a row when its call started more than `horizon` ago, in whole hours. A row that is read after it was
forgotten would be published again. Therefore only `readable_from` decides how far back call time may be read. No
window, run or job reads earlier call time, and this is checked at every step.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta

from connector.core.coverage import Coverage, Window
from connector.core.instants import EPOCH

MARGIN = timedelta(hours=1)
"Minimum distance from the horizon for configured overlaps, starts of new tenants and ranges of new jobs."
STEP_MARGIN = timedelta(minutes=30)
"""Minimum distance from the horizon for each step of a run or job.

It is the time that a page chain may take from its start to its commit. It is shorter than MARGIN, because a run that
begins late must still be able to read all call time back to where the last run was complete. With MARGIN, the shortest
allowed horizon would cut one second from a run for each second that it begins late.
"""
_HOUR = timedelta(hours=1)
_MOST_MISSED = 200


def readable_from(
    forgotten_before: datetime, horizon: timedelta, now: datetime, margin: timedelta = STEP_MARGIN
) -> datetime:
    """Return the earliest call time that may be read.

    It lies `margin` after `now - horizon`, and never before `forgotten_before`. The deduplication index still contains
    all rows of later calls that were published.
    """
    return max((now - horizon + margin).replace(microsecond=0), forgotten_before)


def forget_before(forgotten_before: datetime, horizon: timedelta, now: datetime) -> datetime:
    """Return the full hour from which on the deduplication index keeps rows.

    The start of a row's call decides: rows of earlier calls are forgotten. The hour never moves back, so the result is
    never earlier than `forgotten_before`, the previous result.
    """
    return max(forgotten_before, EPOCH + (now - horizon - EPOCH) // _HOUR * _HOUR)


def infer_forgotten_before(start: datetime, throughs: Sequence[datetime], coverage: Coverage) -> datetime:
    """Infer `forgotten_before` for a state of an older version of the connector, which did not store it.

    The older version removed old coverage and old index entries together. So rows were forgotten if the coverage begins
    after `start`, although every sweep is complete up to this beginning (`throughs`). Then the result is the beginning
    of the coverage. Otherwise no row was forgotten, and the result is the epoch.
    """
    first = coverage.reads[0].start if coverage.reads else start
    return first if first > start and all(through >= first for through in throughs) else EPOCH


def bounded(missed: Sequence[Window]) -> tuple[Window, ...]:
    """Limit the number of windows to 200, by joining the oldest windows into one.

    The windows are the call time that a sweep could not read in time.
    """
    if len(missed) <= _MOST_MISSED:
        return tuple(missed)
    first = Window(missed[0].start, missed[-_MOST_MISSED].end)
    return (first, *missed[1 - _MOST_MISSED :])
