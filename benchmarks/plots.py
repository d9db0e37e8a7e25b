"""Pictures of results, for docs/images."""

from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt

_COLOURS = {"engine": "#1b6ca8", "shards": "#1b6ca8", "at_least_once": "#7fb2d9"}


def throughput(found: dict[str, Any], target: Path) -> None:
    """Processor time a row, with ranges."""
    names = list(found["cpu_us_per_row"])[::-1]
    spreads = [found["cpu_us_per_row"][name] for name in names]
    medians = [spread["median"] for spread in spreads]
    ranges = [
        [median - spread["least"] for median, spread in zip(medians, spreads, strict=True)],
        [spread["most"] - median for median, spread in zip(medians, spreads, strict=True)],
    ]
    figure, axes = plt.subplots(figsize=(8, 3.2), layout="constrained")
    axes.barh(names, medians, xerr=ranges, color=[_COLOURS.get(name, "#9a9a9a") for name in names], capsize=3)
    axes.set_xlabel("µs of processor time a row, all threads of the process (median and range)")
    axes.spines[["top", "right"]].set_visible(False)
    _save(figure, target)


def _save(figure: Any, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(target, dpi=110, metadata={"Software": None})
    plt.close(figure)
