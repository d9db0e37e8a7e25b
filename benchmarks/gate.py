"""Compares ratios within one run to detect a loss of speed. Ratios of processor time depend least on other load."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

LOSS = 0.2
"Ratios that are lower by more than this share count as a loss."
RATIOS = {
    "connector ÷ plain recipe": ("engine", "plain"),
    "connector ÷ limit": ("engine", "limit"),
    "exactly once ÷ at least once": ("engine", "at_least_once"),
}
_MOST = {"exactly once ÷ at least once": 1.0}  # a higher ratio is noise, so later results need not reach it

Spread = dict[str, float]


def spread(values: Sequence[float], digits: int) -> Spread:
    """Return median, minimum and maximum."""
    found = {"median": statistics.median(values), "least": min(values), "most": max(values)}
    return {name: round(value, digits) for name, value in found.items()}


def ratios(measured: Sequence[Mapping[str, Mapping[str, Any]]], seconds: str = "cpu_seconds") -> dict[str, Spread]:
    """Return how many times as fast the first benchmark is as the second, repetition by repetition."""
    return {
        name: spread([runs[denominator][seconds] / runs[numerator][seconds] for runs in measured], 3)
        for name, (numerator, denominator) in RATIOS.items()
    }


def losses(found: Mapping[str, Spread], committed: Mapping[str, Spread]) -> list[str]:
    """Return the ratios that are more than LOSS below the committed ones."""
    expected = {name: min(ratio["median"], _MOST.get(name, ratio["median"])) for name, ratio in committed.items()}
    return [name for name, ratio in found.items() if ratio["median"] < (1 - LOSS) * expected[name]]


def between(text: str, name: str, content: str) -> str:
    """Return a page with new text between the two marks of that name."""
    begin, end = f"<!-- {name}: made by benchmarks, not by hand -->", f"<!-- /{name} -->"
    before, found, rest = text.partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise SystemExit(f"the page has no place for {name}; add these two lines to it:\n{begin}\n{end}")
    return f"{before}{begin}\n\n{content}\n\n{end}{after}"
