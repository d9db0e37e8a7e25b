"""Parsing and formatting of durations such as "15m", and of times, for the configuration and the command line."""

import re
from datetime import UTC, date, datetime, time, timedelta

from connector.config.quoting import shown
from connector.core import instants

_UNITS_MS = {"d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1000, "ms": 1}
_DURATION = re.compile(r"([0-9]+)(ms|s|m|h|d)")
_INSTANT_HINT = 'write for example "2026-01-31T00:00:00Z", or "-7d" for seven days ago'
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_DURATION_MAX = timedelta(days=36_525)


class Duration(timedelta):
    """Duration that also stores the text from which it was parsed. Metrics and JSON show this text."""

    text: str = ""

    def __reduce__(self) -> tuple[type["Duration"], tuple[int, int, int], dict[str, str]]:
        return Duration, (self.days, self.seconds, self.microseconds), {"text": self.text}


def parse_duration(text: str) -> Duration:
    """Parse a duration such as "500ms", "15s", "10m", "2h" or "7d".

    Raises ValueError if `text` is not a duration. The caller puts the configuration key in front of the error message.
    """
    match = _DURATION.fullmatch(text)
    if match is None:
        raise ValueError(
            f'is {shown(text)}, which is not a duration; write for example "500ms", "15s", "10m", "2h" or "7d"'
        )
    digits, unit = match.groups()
    if len(digits) > 18 or int(digits) * _UNITS_MS[unit] > _DURATION_MAX / timedelta(milliseconds=1):
        raise ValueError(f"is {shown(text)}, which is longer than 100 years; write a shorter duration")
    duration = Duration(milliseconds=int(digits) * _UNITS_MS[unit])
    duration.text = text
    return duration


def duration_text(duration: timedelta) -> str:
    """Return a duration as text: as it was configured or, if it was not configured, in the form "15m" or "1d".

    This form uses the largest unit that gives a whole number. A fraction of a millisecond is dropped.
    """
    if isinstance(duration, Duration) and duration.text:
        return duration.text
    milliseconds = duration // timedelta(milliseconds=1)
    unit = next(unit for unit, size in _UNITS_MS.items() if milliseconds % size == 0 and (milliseconds or unit == "s"))
    return f"{milliseconds // _UNITS_MS[unit]}{unit}"


def parse_instant(text: str) -> datetime | timedelta:
    """Parse an RFC 3339 time to a UTC datetime, or text such as "-7d" to a negative timedelta.

    Raises ValueError if `text` is neither. The caller puts the configuration key in front of the error message.
    """
    if _DURATION.fullmatch(text):
        raise ValueError(f'is {shown(text)}, a positive duration; write "-{text}" for a time in the past')
    if text.startswith("-") and _DURATION.fullmatch(text[1:]):
        return -parse_duration(text[1:])
    try:
        milliseconds = instants.parse_ms(text)
        moment = instants.from_ms(milliseconds) if milliseconds is not None else None
    except (ValueError, OverflowError):
        moment = None
    if moment is None:
        raise ValueError(f"is {shown(text)}, which is not an instant; {_INSTANT_HINT}")
    return moment


def to_duration(value: object) -> timedelta:
    """Convert a configuration value to a duration. Raises ValueError if it is not text such as "15m"."""
    if not isinstance(value, str):
        raise ValueError('is not a duration; write text with a unit, for example "30s"')  # noqa: TRY004 (pydantic collects ValueError)
    return parse_duration(value)


def to_instant(value: object) -> datetime | timedelta:
    """Convert a configuration value to a UTC datetime, or to a negative timedelta, which is relative to now.

    A date without a time means midnight UTC of that date. Raises ValueError if the value cannot be converted.
    """
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise ValueError('has no offset from UTC; write for example "2026-01-31T00:00:00Z"')
        try:
            return value.astimezone(UTC)
        except OverflowError:
            raise ValueError('is not an instant; write for example "2026-01-31T00:00:00Z"') from None
    if isinstance(value, date):
        return datetime.combine(value, time(), UTC)
    if not isinstance(value, str):
        raise ValueError(f"is not an instant; {_INSTANT_HINT}")  # noqa: TRY004
    return parse_instant(f"{value}T00:00:00Z" if _DATE.fullmatch(value) else value)
