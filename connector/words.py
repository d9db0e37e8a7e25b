"""Durations as text for people, for the web page, the commands and the demo."""

_UNITS = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))


def duration(seconds: float) -> str:
    """Return a duration as text with at most two units, in whole seconds: `3 min 20 s`, `2 d 4 h`, `0 s`."""
    left = round(abs(seconds))
    parts = []
    for size, unit in _UNITS:
        parts.append((left // size, unit))
        left %= size
    first = next((at for at, (count, _) in enumerate(parts) if count), None)
    if first is None:
        return "0 s"
    words = " ".join(f"{count} {unit}" for count, unit in parts[first : first + 2] if count)
    return f"minus {words}" if seconds < 0 else words
