"""Lengths of time in words."""

import pytest

from connector.words import duration


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0 s"),
        (0.4, "0 s"),
        (-0.4, "0 s"),
        (59.6, "1 min"),
        (61, "1 min 1 s"),
        (3600, "1 h"),
        (3601, "1 h"),
        (3660.2, "1 h 1 min"),
        (86400 * 3 + 7200 + 59, "3 d 2 h"),
        (-90, "minus 1 min 30 s"),
    ],
)
def test_duration_in_words_has_at_most_two_units(seconds: float, words: str) -> None:
    assert duration(seconds) == words
