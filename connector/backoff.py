"""Exponential back-off between retries. Requests to Graph do not use it: their request budget has its own back-off."""

from collections.abc import Iterator


def doubling(first_s: float, longest_s: float) -> Iterator[float]:
    """Yield the pauses between retries in seconds, without end.

    The first pause is `first_s`. Each later pause is twice as long as the one before it, up to `longest_s`.
    """
    pause_s = first_s
    while True:
        yield pause_s
        pause_s = min(longest_s, 2 * pause_s)
