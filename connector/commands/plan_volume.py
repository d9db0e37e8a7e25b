"""Number of rows that the simulated Graph of `connector plan` has at any time.

Calls repeat every day or week, and their rows may appear late.
"""

import math
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from connector.core.coverage import Window
from connector.core.instants import EPOCH
from connector.core.lateness import Lateness

ROWS_A_PAGE = 1_000
_HOUR = timedelta(hours=1)
_DAY_S = 86_400.0
_SOON_S = 1e-6
_NOISE = 4_096
_ALIKE = 1.2
_FEW_PAGES = 3
_HALVINGS = 8
_SEED = 1


class Calls(Protocol):
    """Number of rows that a simulated Graph shows at any time."""

    def count(self, window: Window, at: datetime) -> int:
        """Return how many rows Graph shows at the time `at` for the calls that began in `window`."""

    def inserted(self, window: Window, pages: int, since: datetime, until: datetime) -> float:
        """Return how many rows are expected to appear on pages that a page chain has already passed.

        Each of these rows shifts another row to the next page. The page chain has `pages` pages, in the order of call
        start. It is read from `since` to `until`.
        """

    def per_hour(self, first: int, end: int, at: datetime) -> NDArray[np.int64]:
        """Return the number of rows that Graph shows at the time `at`, separately for each hour of call start.

        The hours are numbered since the epoch, from `first` up to, not including, `end`.
        """

    def weights(self, moments: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return a weight for each time: a number proportional to the calls per hour. `moments` are epoch seconds."""


class Volume:
    """Model of the calls of a tenant: the number of calls in each hour of a period that repeats forever.

    The first period begins at the epoch.
    """

    def __init__(self, per_hour: Sequence[float], lateness: Lateness | None = None, seed: int | None = None) -> None:
        """Set the number of calls in each hour of the period.

        `lateness` describes how long rows take to appear; without it, they appear at once. With `seed`, calls begin
        independently of each other, so that counts vary randomly. Without `seed`, they begin at even intervals.
        """
        self._seed = seed
        self._cycle = np.asarray(per_hour, np.float64)
        self._sums = np.concatenate([[0.0], np.cumsum(self._cycle)])
        self._lateness = lateness
        self._noise = None if seed is None else np.random.default_rng(seed).standard_normal(_NOISE)
        self._drawn = 0

    def scaled(self, factor: float) -> "Volume":
        """Return a copy with `factor` times as many calls in every hour."""
        return Volume((self._cycle * factor).tolist(), self._lateness, self._seed)

    @property
    def per_day(self) -> float:
        """Return the mean number of calls per day."""
        return float(self._cycle.mean() * 24)

    def count(self, window: Window, at: datetime) -> int:
        """Return how many rows Graph shows at the time `at` for the calls that began in `window`."""
        if self._lateness is None and self._noise is None:
            until, since = math.floor(self._before(_hours(window.end)) + _SOON_S), self._before(_hours(window.start))
            return until - math.floor(since + _SOON_S)
        expected = self._expected(_hours(window.start), _hours(window.end), _hours(at))
        if self._noise is None:
            return round(expected)
        self._drawn = (self._drawn + 1) % _NOISE
        return max(0, round(expected + float(self._noise[self._drawn]) * math.sqrt(expected)))

    def inserted(self, window: Window, pages: int, since: datetime, until: datetime) -> float:
        """Return how many rows are expected to appear on pages that a page chain has already passed.

        The result is a mean over all boundaries between two pages. For each boundary, the rows that appear before it
        are counted.
        """
        if self._lateness is None or pages < 2:
            return 0.0
        start, end, first, last = (_hours(moment) for moment in (*window, since, until))
        # With many pages, on average half of the rows appear before a boundary. With few pages, a binary search finds
        # the call time `low` of each boundary: at the time `first`, the rows of calls before `low` fill `page` pages.
        if pages > _FEW_PAGES:
            return (self._expected(start, end, last) - self._expected(start, end, first)) / 2
        rows = 0.0
        for page in range(1, pages):
            low, high = start, end
            for _ in range(_HALVINGS):
                middle = (low + high) / 2
                full = self._expected(start, middle, first) > page * ROWS_A_PAGE
                low, high = (low, middle) if full else (middle, high)
            rows += self._expected(start, low, last) - self._expected(start, low, first)
        return rows / (pages - 1)

    def per_hour(self, first: int, end: int, at: datetime) -> NDArray[np.int64]:
        """Return the number of rows that Graph shows at the time `at`, separately for each hour of call start.

        The hours are numbered since the epoch, from `first` up to, not including, `end`.
        """
        edges = np.minimum(np.arange(first, end + 1, dtype=np.float64), _hours(at))
        return np.rint(self._shown(edges, self._cycle[np.arange(first, end) % len(self._cycle)], _hours(at))).astype(
            np.int64
        )

    def weights(self, moments: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the number of calls per hour at each time. `moments` are epoch seconds."""
        return np.asarray(self._cycle[(moments // 3_600).astype(np.int64) % len(self._cycle)])

    def _before(self, hours: float) -> float:
        """Return the number of calls from the epoch until `hours` hours after it."""
        cycles, rest = divmod(hours, len(self._cycle))
        whole = int(rest)
        return float(cycles * self._sums[-1] + self._sums[whole] + self._cycle[whole] * (rest - whole))

    def _expected(self, start: float, end: float, at: float) -> float:
        end = min(end, at)
        if self._lateness is None:
            return max(0.0, self._before(end) - self._before(start))
        # All rows of calls before `settled` have appeared.
        settled = min(max(start, at - self._lateness.latest_s / 3_600), end)
        shown = self._before(settled) - self._before(start)
        if settled < end:
            first, last = int(settled), int(np.ceil(end))
            edges = np.clip(np.arange(first, last + 1, dtype=np.float64), settled, end)
            shown += float(self._shown(edges, self._cycle[np.arange(first, last) % len(self._cycle)], at).sum())
        return max(0.0, shown)

    def _shown(self, edges: NDArray[np.float64], calls_an_hour: NDArray[np.float64], at: float) -> NDArray[np.float64]:
        if self._lateness is None:
            return np.asarray(calls_an_hour * np.diff(edges))
        # Integrate, over the call time between two edges, the share of rows that have appeared.
        return np.asarray(calls_an_hour * -np.diff(self._lateness.passed((at - edges) * 3_600)) / 3_600)


def evenly(calls_per_day: float) -> Volume:
    """Return a volume of calls at even intervals. Their rows appear without delay."""
    return Volume([calls_per_day / 24] * 24)


def from_index(
    rows_per_hour: NDArray[np.float64] | NDArray[np.int64], first: int, now: datetime, lateness: Lateness | None
) -> tuple[Volume, float]:
    """Estimate the calls per hour from the deduplication index.

    Return them as a `Volume`, and the number of seconds after which they repeat.

    `rows_per_hour` is the number of rows in each hour of call time. `first` is the first of these hours, counted since
    the epoch.

    If a whole week is known and its days differ, this week repeats. Otherwise the average day repeats. The newest day
    is ignored if there are others, because some of its rows have not appeared yet.
    """
    hours = min(len(rows_per_hour), (now - EPOCH) // _HOUR - first)
    days = min(7, hours // 24 - 1) or min(1, hours // 24)
    if days < 1:
        known = rows_per_hour[:hours]
        return Volume([float(known.mean()) if len(known) else 0.0] * 24, lateness, _SEED), _DAY_S
    end = hours - 24 if hours // 24 > 1 else hours
    by_day = rows_per_hour[end - 24 * days : end].reshape(days, 24)
    totals = by_day.sum(axis=1)
    is_week = days == 7 and float(totals.max()) > _ALIKE * float(totals.min())
    cycle = by_day.ravel() if is_week else by_day.mean(axis=0)
    return Volume(np.roll(cycle, (first + end - 24 * days) % len(cycle)).tolist(), lateness, _SEED), len(
        cycle
    ) * 3_600.0


def _hours(moment: datetime) -> float:
    return (moment - EPOCH).total_seconds() / 3_600
