"""Parser and formatter of instants in RFC 3339. Graph uses any offset and any number of fraction digits."""

import re
from collections.abc import Iterable
from datetime import UTC, date, datetime, timedelta

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_EPOCH_DAY = EPOCH.toordinal()
_EMPTY_MS = (date(1, 1, 1).toordinal() - _EPOCH_DAY) * 86_400_000
_INSTANT = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})[Tt ]([0-9]{2}):([0-9]{2}):([0-9]{2})(?:\.([0-9]+))?"
    r"(?:([Zz])|([+-])([0-9]{2}):([0-9]{2}))"
)
_EMPTY_WITHOUT_OFFSET = re.compile(r"0001-01-01(?:[Tt ]00:00(?::00(?:\.0+)?)?)?")

# Most instants of a page lie in the same few minutes, so this cache saves parsing dates. _parse_any bounds its size.
_minutes: dict[str, int] = {}
_MINUTES_MAX = 50_000
_EMPTY = "0001-01-01T00:00:00Z"
_SECONDS = {f"{second:02d}": second * 1000 for second in range(60)}
_FRACTIONS: dict[str, int] = {"Z": 0} | {
    f".{fraction:0{digits}d}Z": fraction * 10 ** (3 - digits) for digits in (1, 2, 3) for fraction in range(10**digits)
}
_REST = re.compile("[0-9]+Z")  # what follows the milliseconds of a fraction


def parse_ms(text: str) -> int | None:
    """Parse an instant and return its epoch milliseconds, rounded down. Return None for the empty date.

    The empty date is 0001-01-01T00:00:00 in any spelling. Raises ValueError if `text` is not an instant.
    """
    if text == _EMPTY:
        return None
    base, second, fraction = _minutes.get(text[:17]), _SECONDS.get(text[17:19]), _FRACTIONS.get(text[19:])
    if fraction is None and _REST.fullmatch(text, 23):
        fraction = _FRACTIONS.get(text[19:23] + "Z")
    if base is None or second is None or fraction is None:
        return _parse_any(text)
    return base + second + fraction


def parse_column(column: Iterable[str | None]) -> list[int | None]:
    """Parse many instants in the same way as `parse_ms`. An element that is None stays None."""
    minutes, seconds, fractions = _minutes, _SECONDS, _FRACTIONS
    parsed: list[int | None] = []
    for text in column:
        if text is None or text == _EMPTY:
            parsed.append(None)
            continue
        try:
            parsed.append(minutes[text[:17]] + seconds[text[17:19]] + fractions[text[19:]])
        except KeyError:
            parsed.append(parse_ms(text))
    return parsed


def _parse_any(text: str) -> int | None:
    match = _INSTANT.fullmatch(text)
    if match is None:
        if _EMPTY_WITHOUT_OFFSET.fullmatch(text):
            return None
        raise ValueError("the text is not an instant in RFC 3339")
    year, month, day, hour, minute, second = (int(part) for part in match.group(1, 2, 3, 4, 5, 6))
    if hour > 23 or minute > 59 or second > 59:
        raise ValueError("the text is not an instant: its time of day is out of range")
    minute_ms = (date(year, month, day).toordinal() - _EPOCH_DAY) * 86_400_000 + hour * 3_600_000 + minute * 60_000
    fraction = match.group(7)
    milliseconds = minute_ms + second * 1000 + (int(fraction[:3].ljust(3, "0")) if fraction else 0)
    if match.group(8):
        if milliseconds == _EMPTY_MS:
            return None
        if len(_minutes) >= _MINUTES_MAX:
            _minutes.clear()
        if minute_ms != _EMPTY_MS:
            _minutes[text[:17]] = minute_ms
        return milliseconds
    if milliseconds == _EMPTY_MS:  # the empty date with an offset is empty as well
        return None
    sign = 1 if match.group(9) == "+" else -1
    offset_minutes = int(match.group(10)) * 60 + int(match.group(11))
    if offset_minutes >= 24 * 60 or int(match.group(11)) > 59:
        raise ValueError("the text is not an instant: its offset from UTC is out of range")
    milliseconds -= sign * offset_minutes * 60_000
    return None if milliseconds == _EMPTY_MS else milliseconds


def to_ms(moment: datetime) -> int:
    """Convert an aware datetime to epoch milliseconds, rounded down."""
    return (moment - EPOCH) // timedelta(milliseconds=1)


def from_ms(milliseconds: int) -> datetime:
    """Convert epoch milliseconds to an aware UTC datetime."""
    return EPOCH + timedelta(milliseconds=milliseconds)


def text(moment: datetime) -> str:
    """Return an instant as RFC 3339 in UTC with milliseconds, which is its form in all JSON of the connector."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
