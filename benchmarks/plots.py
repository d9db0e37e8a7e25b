"""Pictures of the results, for docs/images."""

from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt

_COLOURS = {"engine": "#1b6ca8", "shards": "#1b6ca8", "at_least_once": "#7fb2d9"}


def throughput(found: dict[str, Any], target: Path) -> None:
    """Draw the processor time per row of each benchmark: median, lowest and highest value."""
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


def memory(found: list[dict[str, Any]], target: Path) -> None:
    """Draw the resident memory by the number of rows in the dedup index, and a line for 28 bytes per row."""
    figure, axes = plt.subplots(figsize=(6, 3.2), layout="constrained")
    single_tenant = [shape for shape in found if shape["tenants"] == 1]
    many = [shape for shape in found if shape["tenants"] != 1]
    for shapes, mark, label in ((single_tenant, "o-", "one tenant"), (many, "s", "500 tenants")):
        rows, mib = [s["rows"] / 1e6 for s in shapes], [s["resident_bytes"] / 2**20 for s in shapes]
        axes.plot(rows, mib, mark, label=label)
    most = max(shape["rows"] for shape in found)
    axes.plot([0, most / 1e6], [0, 28 * most / 2**20], ":", color="#9a9a9a", label="28 bytes a row")
    axes.set_xlabel("remembered rows, millions")
    axes.set_ylabel("resident, MiB")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    _save(figure, target)


def delays(found: list[float], target: Path) -> None:
    """Draw a histogram of the delays in seconds, from the appearance of a row in Graph until a consumer receives it."""
    figure, axes = plt.subplots(figsize=(6, 3), layout="constrained")
    axes.hist(found, bins=40, color="#1b6ca8")
    axes.set_xlabel("seconds from visible at Graph to readable with read_committed")
    axes.set_ylabel("rows")
    axes.spines[["top", "right"]].set_visible(False)
    _save(figure, target)
