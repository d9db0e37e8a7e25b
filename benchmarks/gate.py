"""Detection of a loss of speed. It compares ratios between benchmarks of one run, which other load changes little."""

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
_MOST = {"exactly once ÷ at least once": 1.0}  # a higher ratio is measurement noise, so it is not the standard

Spread = dict[str, float]


def spread(values: Sequence[float], digits: int) -> Spread:
    """Return median, minimum and maximum of the values, rounded to `digits` digits."""
    found = {"median": statistics.median(values), "least": min(values), "most": max(values)}
    return {name: round(value, digits) for name, value in found.items()}


def ratios(measured: Sequence[Mapping[str, Mapping[str, Any]]], seconds: str = "cpu_seconds") -> dict[str, Spread]:
    """Return for some pairs of benchmarks how many times as fast the first is as the second.

    Each ratio is computed per repetition. `seconds` is the name of the time in the results that is compared.
    """
    return {
        name: spread([runs[denominator][seconds] / runs[numerator][seconds] for runs in measured], 3)
        for name, (numerator, denominator) in RATIOS.items()
    }


def losses(found: Mapping[str, Spread], committed: Mapping[str, Spread]) -> list[str]:
    """Return the names of ratios in `found` that are lower than in `committed` by more than LOSS."""
    expected = {name: min(ratio["median"], _MOST.get(name, ratio["median"])) for name, ratio in committed.items()}
    return [name for name, ratio in found.items() if ratio["median"] < (1 - LOSS) * expected[name]]


def between(text: str, name: str, content: str) -> str:
    """Return the Markdown page `text`, in which `content` replaces the text between the two marks with this name."""
    begin, end = f"<!-- {name}: made by benchmarks, not by hand -->", f"<!-- /{name} -->"
    before, found, rest = text.partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise SystemExit(f"the page has no place for {name}; add these two lines to it:\n{begin}\n{end}")
    return f"{before}{begin}\n\n{content}\n\n{end}{after}"
