"""Flame graph of a raw recording of py-spy. The arguments are the recording, the root function and the PNG to write."""

import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt

_DEEPEST = 14
_NARROWEST = 0.004


def _tree(text: str, root: str) -> dict[tuple[str, ...], int]:
    """Return the number of samples of each call path that begins at the function `root`."""
    found: dict[tuple[str, ...], int] = defaultdict(int)
    for line in text.splitlines():
        stack, _, count = line.rpartition(" ")
        frames = [frame.partition(":")[0] for frame in stack.split(";")]
        names = [frame.split(" (")[0] for frame in frames]
        if root not in names:
            continue
        path = [frame.replace(" (", "\n(") for frame in frames[names.index(root) :]]
        for depth in range(1, min(len(path), _DEEPEST) + 1):
            found[tuple(path[:depth])] += int(count)
    return found


def draw(text: str, root: str, target: Path) -> None:
    """Draw the flame graph. The width of a function is its time, and a function is drawn above its caller."""
    tree = _tree(text, root)
    total = max(tree.values())
    figure, axes = plt.subplots(figsize=(12, 4.5), layout="constrained")
    _row(axes, tree, (), 0.0, total)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, max(map(len, tree)))
    axes.axis("off")
    figure.savefig(target, dpi=100, metadata={"Software": None})


def _row(axes: Any, tree: dict[tuple[str, ...], int], below: tuple[str, ...], left: float, total: int) -> None:
    children = sorted(path for path in tree if len(path) == len(below) + 1 and path[:-1] == below)
    for path in children:
        width = tree[path] / total
        if width >= _NARROWEST:
            colour = mpl.colormaps["YlOrRd"](0.2 + 0.5 * (sum(map(ord, path[-1])) % 97) / 97)
            axes.barh(len(below), width, left=left, height=1, align="edge", color=colour, edgecolor="white", lw=0.4)
            name = path[-1].split("\n")[0]
            shown = name if len(name) < width * 150 else name[: max(0, int(width * 150) - 1)]
            if width > 0.015:
                label = f"{shown}\n{width:.0%}" if width > 0.04 else shown
                axes.text(left + width / 2, len(below) + 0.5, label, ha="center", va="center", fontsize=7, clip_on=True)
            _row(axes, tree, path, left, total)
        left += width


if __name__ == "__main__":
    draw(Path(sys.argv[1]).read_text(encoding="utf-8"), sys.argv[2], Path(sys.argv[3]))
