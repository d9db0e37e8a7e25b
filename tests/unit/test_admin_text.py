"""Output of the commands in human-readable form."""

import io
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from connector.admin import text
from connector.admin.text import Section
from connector.core import instants

NOW = datetime(2026, 3, 10, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (None, "-"),
        (-5, "0s"),
        (0, "0s"),
        (59.9, "59s"),
        (60, "1m"),
        (200, "3m 20s"),
        (3_600, "1h"),
        (7_500, "2h 5m"),
        (86_400, "1d"),
        (86_401, "1d"),
        (273_600, "3d 4h"),
    ],
)
def test_a_length_of_time_has_two_units_at_most(seconds: float | None, words: str) -> None:
    assert text.span(seconds) == words


def tenant(coverage: list[tuple[datetime, datetime]], gaps: list[tuple[datetime, datetime]]) -> dict[str, Any]:
    def pieces(of: list[tuple[datetime, datetime]]) -> list[dict[str, str]]:
        return [{"from": instants.text(start), "to": instants.text(end)} for start, end in of]

    return {"coverage": pieces(coverage), "gaps": pieces(gaps)}


def test_a_bar_shows_what_was_read_what_was_not_and_what_nobody_expects() -> None:
    known = tenant([(NOW - 5 * HOUR, NOW - 3 * HOUR), (NOW - 1.5 * HOUR, NOW)], [(NOW - 3 * HOUR, NOW - 1.5 * HOUR)])
    assert text.bar(known, NOW, 6 * HOUR, 6) == " ██·▒█"


def test_a_bar_of_a_tenant_that_was_not_read_for_long_has_a_hole_at_its_end() -> None:
    assert text.bar(tenant([(NOW - 6 * HOUR, NOW - 2 * HOUR)], []), NOW, 6 * HOUR, 6) == "████··"


def test_the_newest_moments_are_no_hole() -> None:
    assert text.bar(tenant([(NOW - 6 * HOUR, NOW - timedelta(seconds=50))], []), NOW, 6 * HOUR, 6) == "██████"


def test_without_a_terminal_there_are_neither_colours_nor_frames_nor_wrapped_lines() -> None:
    stream = io.StringIO()
    text.show(
        [Section("Jobs", ("job", "rows>"), [("a" * 200, "7"), ("b", "1,000")]), Section("None", ("x",), [])], stream
    )
    assert stream.getvalue().splitlines() == [
        "Jobs",
        f"{'job':<200}   rows",
        f"{'a' * 200}      7",
        f"{'b':<200}  1,000",
    ]
    assert "\x1b" not in stream.getvalue()


def test_on_a_terminal_a_state_has_its_colour_and_markup_is_not_obeyed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    stream = Terminal()
    text.show([Section("Tenants", ("tenant", "state"), [("[red]x[/red]", "failing")])], stream)
    assert "[red]x[/red]" in stream.getvalue()
    assert "\x1b[1;31mfailing" in stream.getvalue()
