"""Rows per minute, as the page shows them."""

from connector.core.pace import WINDOW_S, Rate


def test_a_steady_stream_has_its_rate() -> None:
    pace = Rate(0.0)
    for second in range(1200):
        pace.add(2, float(second))

    assert abs(pace.per_minute(1200.0) - 120) < 5


def test_what_came_at_once_at_the_start_is_of_a_minute_and_not_of_an_instant() -> None:
    pace = Rate(0.0)
    pace.add(600, 0.5)

    assert pace.per_minute(0.5) == 600


def test_what_is_long_past_does_not_count() -> None:
    pace = Rate(0.0)
    pace.add(600, 10.0)

    assert pace.per_minute(20.0 + WINDOW_S) == 0
