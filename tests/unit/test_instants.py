"""Times as Graph spells them, as epoch milliseconds."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connector.core import instants

_MOMENTS = st.datetimes(datetime(2, 1, 2), datetime(9998, 12, 30), timezones=st.just(UTC))  # noqa: DTZ001


@given(_MOMENTS, st.integers(-23 * 60 - 59, 23 * 60 + 59), st.integers(0, 9), st.sampled_from(["T", "t", " "]))
def test_timestamp_is_parsed_in_any_valid_form(moment: datetime, offset: int, digits: int, letter: str) -> None:
    local = moment.astimezone(timezone(timedelta(minutes=offset)))
    fraction = f"{moment.microsecond:06d}000"[:digits]
    cut = timedelta(microseconds=int(fraction[:3].ljust(3, "0")) * 1000) if fraction else timedelta(0)
    expected = instants.to_ms(moment.replace(microsecond=0) + cut)
    sign, minutes = ("-" if offset < 0 else "+"), abs(offset)
    text = f"{local:%m-%d}{letter}{local:%H:%M:%S}{'.' if fraction else ''}{fraction}"
    text = f"{local.year:04d}-{text}{sign}{minutes // 60:02d}:{minutes % 60:02d}"
    assert instants.parse_ms(text) == expected
    if not offset:
        for _ in range(2):  # the second result comes from the cache
            assert instants.parse_ms(text[:-6] + "Z") == expected
            assert instants.parse_ms(text[:-6] + "z") == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Z",
        "2026-01-01",
        "2026-01-01T00:00Z",
        "2026-01-01T00:00:00",
        "2026-01-01T00:00:00.Z",
        "2026-01-01T00:00:60Z",
        "2026-01-01T24:00:00Z",
        "2026-00-01T00:00:00Z",
        "2026-02-30T00:00:00Z",
        "2026-01-01T00:00:00+24:00",
        "2026-01-01T00:00:00+01:60",
        "2026-01-01T00:00:00+0100",
        "2026-01-01T00:00:00Z ",
        " 2026-01-01T00:00:00Z",
        "2026-01-01T00:00:00,5Z",
        "2026-01-01T00:00:0٣Z",
        "2026-01-01T00:00:00.00٣Z",
        "٢٠٢٦-01-01T00:00:00Z",
        "12026-01-01T00:00:00Z",
        "0000-01-01T00:00:00Z",
        "1767225600",
        "/Date(1767225600000)/",
    ],
)
def test_invalid_graph_timestamp_is_refused(text: str) -> None:
    instants.parse_ms("2026-01-01T00:00:00Z")  # so that the minute is in the cache
    with pytest.raises(ValueError, match=r"."):
        instants.parse_ms(text)


def test_timestamps_are_parsed_equally_as_column_and_one_by_one() -> None:
    column = [
        "2026-01-01T00:00:00Z",
        None,
        "0001-01-01T00:00:00Z",
        "2026-01-01T00:00:07.1234567Z",
        "2026-01-01T01:00:00+01:00",
    ]
    expected = [None if text is None else instants.parse_ms(text) for text in column]
    assert instants.parse_column(column) == instants.parse_column(column) == expected
    with pytest.raises(ValueError, match="not an instant"):
        instants.parse_column([*column, "2026-01-01T00:00:07.12x4Z"])


def test_cache_of_parsed_timestamps_stays_small() -> None:
    for minute in range(60_000):
        instants.parse_ms(instants.text(instants.from_ms(minute * 60_000)))
    assert len(instants._minutes) <= instants._MINUTES_MAX
    assert instants.parse_ms("1970-01-01T00:00:01.5Z") == 1500


@given(st.integers(-(10**13), 10**14))
def test_milliseconds_and_datetimes_convert_to_each_other(milliseconds: int) -> None:
    moment = instants.from_ms(milliseconds)
    assert instants.to_ms(moment) == milliseconds
    assert instants.to_ms(moment + timedelta(microseconds=999)) == milliseconds
    assert instants.parse_ms(instants.text(moment)) == milliseconds


def test_timestamp_text_is_utc_with_milliseconds() -> None:
    moment = datetime(2026, 3, 1, 1, 2, 3, 456_789, timezone(timedelta(hours=2)))
    assert instants.text(moment) == "2026-02-28T23:02:03.456Z"
