"""Age at which rows appear: the time from the start of a call until its row can be read, as measured by sweeps.

Each row is counted once, when it is first read.
"""

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

AGES_S = (
    *(60, 120, 180, 240, 300, 360, 420, 480, 540, 600, 720, 900),
    *(1_200, 1_800, 3_600, 7_200, 10_800, 21_600, 43_200, 86_400, 129_600, 172_800, 259_200, 432_000, 604_800),
)
"Upper limits of the age classes, in seconds. One more class counts all older rows."

_FINE = 65
_ENOUGH = 200


class Sweeping(NamedTuple):
    """Schedule of a sweep: at the cadence `every_s` (seconds), it reads calls that are up to `overlap_s` old."""

    every_s: float
    overlap_s: float


class Lateness:
    """Distribution of the age at which rows appear.

    The distribution is given for some ages, and is interpolated linearly between them.
    """

    def __init__(self, ages_s: Sequence[float], shares: Sequence[float]) -> None:
        """Create the distribution. `shares[i]` is the share of rows that have appeared by the age `ages_s[i]`.

        The shares rise to 1. At age 0 the share is 0.
        """
        self.latest_s = float(ages_s[-1])
        knots = np.array([0.0, *ages_s])
        fine = np.unique(np.concatenate([np.linspace(a, b, _FINE) for a, b in pairwise(knots)]))
        known = np.interp(fine, knots, [0.0, *shares])
        self._ages = fine
        # Trapezoid rule: the share is linear between two neighboring ages.
        self._passed = np.concatenate([[0.0], np.cumsum((known[1:] + known[:-1]) / 2 * np.diff(fine))])

    def passed(self, age_s: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the integral of the distribution from age 0 to each age in `age_s`, in seconds.

        The caller computes mean values with it. The mean share of rows that have appeared between two ages is the
        difference of the two integrals, divided by the difference of the ages.
        """
        inside = np.interp(age_s, self._ages, self._passed)
        return np.asarray(inside + np.maximum(0.0, age_s - self.latest_s))


def counted(before: Sequence[int], ages_s: Iterable[float]) -> tuple[int, ...]:
    """Count rows by age class. Return the counts `before`, increased by the rows with the ages `ages_s` (seconds).

    `before` may be empty.
    """
    counts = np.zeros(len(AGES_S) + 1, np.int64)
    counts[: len(before)] = before
    np.add.at(counts, np.searchsorted(AGES_S, np.fromiter(ages_s, np.float64)), 1)
    return tuple(counts.tolist())


def learn(counts: Sequence[int], sweeps: Sequence[Sweeping]) -> Lateness | None:
    """Estimate the distribution of the age at which rows appear.

    `counts` is the number of rows per age class that `sweeps` have found (see `counted`). Return None if there are too
    few rows.

    A sweep finds a row only at its next run: on average, half a cadence after the row has appeared. The estimate
    subtracts this delay.
    """
    total = sum(counts)
    if total < _ENOUGH:
        return None
    shares = np.cumsum(counts[: len(AGES_S)]) / sum(counts[: len(AGES_S)])
    ages = [age_s - _cadence_s(age_s, sweeps) / 2 for age_s in AGES_S]
    knots: list[tuple[float, float]] = []
    for age_s, share in zip(ages, shares.tolist(), strict=True):
        least = knots[-1][0] + 1 if knots else 1.0
        knots.append((max(least, age_s), share))
        if share >= 1:
            break
    return Lateness([age_s for age_s, _ in knots], [share for _, share in knots])


def _cadence_s(age_s: float, sweeps: Sequence[Sweeping]) -> float:
    return min((s.every_s for s in sweeps if s.overlap_s >= age_s), default=0.0)
