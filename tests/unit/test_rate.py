"""Rows per minute, as the page shows them."""

from connector.metrics.rate import WINDOW_S, Rate


def test_rate_of_a_constant_stream_is_its_rows_per_minute() -> None:
    pace = Rate(0.0)
    for second in range(1200):
        pace.add(2, float(second))

    assert abs(pace.per_minute(1200.0) - 120) < 5


def test_rate_of_a_first_burst_is_averaged_over_a_minute() -> None:
    pace = Rate(0.0)
    pace.add(600, 0.5)

    assert pace.per_minute(0.5) == 600


def test_rate_excludes_events_older_than_its_window() -> None:
    pace = Rate(0.0)
    pace.add(600, 10.0)

    assert pace.per_minute(20.0 + WINDOW_S) == 0
