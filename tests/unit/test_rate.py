"""Rows per minute, as the page shows them."""

from connector.metrics.rate import WINDOW_S, Rate


def test_steady_stream_has_its_rate() -> None:
    pace = Rate(0.0)
    for second in range(1200):
        pace.add(2, float(second))

    assert abs(pace.per_minute(1200.0) - 120) < 5


def test_burst_at_the_start_counts_over_a_minute() -> None:
    pace = Rate(0.0)
    pace.add(600, 0.5)

    assert pace.per_minute(0.5) == 600


def test_old_events_do_not_count() -> None:
    pace = Rate(0.0)
    pace.add(600, 10.0)

    assert pace.per_minute(20.0 + WINDOW_S) == 0
