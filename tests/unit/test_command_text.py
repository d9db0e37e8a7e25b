"""Output of the commands in human-readable form."""

import io
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from connector.commands import text
from connector.commands.text import Section
from connector.core import instants

NOW = datetime(2026, 3, 10, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("seconds", "words"), [(None, "-"), (-5, "0 s"), (200, "3 min 20 s")])
def test_duration_is_shown_in_words_or_as_a_dash(seconds: float | None, words: str) -> None:
    assert text.span(seconds) == words


def tenant(coverage: list[tuple[datetime, datetime]], gaps: list[tuple[datetime, datetime]]) -> dict[str, Any]:
    def pieces(of: list[tuple[datetime, datetime]]) -> list[dict[str, str]]:
        return [{"from": instants.text(start), "to": instants.text(end)} for start, end in of]

    return {"coverage": pieces(coverage), "gaps": pieces(gaps)}


def test_coverage_bar_is_blank_where_no_rows_are_expected() -> None:
    known = tenant([(NOW - 5 * HOUR, NOW - 3 * HOUR), (NOW - 1.5 * HOUR, NOW)], [(NOW - 3 * HOUR, NOW - 1.5 * HOUR)])
    assert text.bar(known, NOW, 6 * HOUR, 6) == " ██·▒█"


def test_coverage_bar_of_a_stale_tenant_ends_in_a_gap() -> None:
    assert text.bar(tenant([(NOW - 6 * HOUR, NOW - 2 * HOUR)], []), NOW, 6 * HOUR, 6) == "████··"


def test_coverage_bar_shows_no_gap_for_the_last_minute() -> None:
    assert text.bar(tenant([(NOW - 6 * HOUR, NOW - timedelta(seconds=50))], []), NOW, 6 * HOUR, 6) == "██████"


def test_command_output_without_a_terminal_is_plain_text() -> None:
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


def test_command_output_on_a_terminal_escapes_markup(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    stream = Terminal()
    text.show([Section("Tenants", ("tenant", "state"), [("[red]x[/red]", "failing")])], stream)
    assert "[red]x[/red]" in stream.getvalue()
    assert "\x1b[1;31mfailing" in stream.getvalue()
