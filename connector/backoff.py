"""Exponential back-off of everything but requests to Graph, whose budget has its own."""

from collections.abc import Iterator


def doubling(first_s: float, longest_s: float) -> Iterator[float]:
    """Yield pauses without end: `first_s`, and each twice as long as the one before, up to `longest_s`."""
    pause_s = first_s
    while True:
        yield pause_s
        pause_s = min(longest_s, 2 * pause_s)
