"""The arguments --tenant, --from and --to: their meaning, and one sentence per mistake."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from connector.commands.arguments import find_tenant, read_window
from connector.config import Settings, load
from connector.errors import ConfigurationError

NOW = datetime(2026, 3, 10, 12, 0, 0, 250_000, tzinfo=UTC)
HORIZON = timedelta(days=150)
FIRST, SECOND = "AAAAAAAA-1111-1111-1111-111111111111", "bbbbbbbb-2222-2222-2222-222222222222"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    file = tmp_path / "connector.toml"
    tenants = [f'{{id = "{FIRST}", name = "Contoso"}}', f'{{id = "{SECOND}", name = "fabrikam"}}', '{id = "%s"}']
    third = "cccccccc-3333-3333-3333-333333333333"
    file.write_text(
        f'tenants = [{", ".join(tenants) % third}]\nidentity = {{client_id = "x", client_secret = "y"}}', "utf-8"
    )
    return load(file, {})


@pytest.mark.parametrize("written", ["Contoso", FIRST, FIRST.lower(), FIRST.upper()])
def test_tenant_argument_matches_name_or_id(settings: Settings, written: str) -> None:
    assert find_tenant(settings, written).id == FIRST


@pytest.mark.parametrize(
    ("written", "nearest"),
    [("contoso", "Contoso"), ("fabricam", "fabrikam"), (SECOND[:-1], SECOND), ("\x1b[1m", "")],
)
def test_unknown_tenant_argument_suggests_the_nearest_name(settings: Settings, written: str, nearest: str) -> None:
    with pytest.raises(ConfigurationError) as wrong:
        find_tenant(settings, written)
    assert len(wrong.value.problems) == 1
    assert wrong.value.problems[0].endswith(nearest)
    assert "\x1b" not in wrong.value.problems[0]


def test_time_range_is_rounded_outwards_to_seconds() -> None:
    window = read_window("2026-03-01T00:00:00.900Z", "2026-03-02T01:00:00.1+01:00", NOW)
    assert window.start == datetime(2026, 3, 1, tzinfo=UTC)
    assert window.end == datetime(2026, 3, 2, 0, 0, 1, tzinfo=UTC)


def test_relative_time_range_has_the_exact_length_that_was_given() -> None:
    window = read_window("-7d", "-1d", NOW, HORIZON)
    assert window.end - window.start == timedelta(days=6)


def test_time_range_may_reach_from_the_horizon_to_now() -> None:
    window = read_window("-150d", NOW.isoformat(), NOW, HORIZON)
    assert window.end == NOW.replace(microsecond=0)
    assert window.start == window.end - HORIZON


@pytest.mark.parametrize(
    ("begin", "end", "says"),
    [
        ("-1d", "-2d", "is not before --to"),
        ("-1d", "-1d", "is not before --to"),
        ("2026-03-10T11:59:59.1Z", "2026-03-10T11:59:59.1Z", "is not before --to"),
        ("-1d", "2026-03-10T12:00:01Z", "--to: 2026-03-10T12:00:01.000Z is in the future"),
        ("2027-01-01T00:00:00Z", "2027-01-02T00:00:00Z", "--from: 2027-01-01T00:00:00.000Z is in the future"),
        ("-151d", "-1d", "is longer ago than dedup.horizon (150d)"),
        ("2025-10-11T11:59:59Z", "-1d", "could be published twice"),
        ("7d", "-1d", "positive duration"),
        ("yesterday", "-1d", "not an instant"),
        ("0001-01-01T00:00:00Z", "-1d", "not an instant"),
        ("-99999999d", "-1d", "--from: "),
        ("-1d", "", "--to: "),
        ("-1d", "2026-03-09", "--to: "),
    ],
)
def test_invalid_time_range_is_explained_in_one_sentence(begin: str, end: str, says: str) -> None:
    with pytest.raises(ConfigurationError) as wrong:
        read_window(begin, end, NOW, HORIZON)
    assert len(wrong.value.problems) == 1
    assert says in wrong.value.problems[0]
    assert "\n" not in wrong.value.problems[0]


def test_time_range_shorter_than_a_second_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="shorter than a second"):
        read_window("2026-03-10T12:00:00Z", "2026-03-10T12:00:00.2Z", NOW)
