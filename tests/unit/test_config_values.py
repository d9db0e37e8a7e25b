"""Durations and instants as they are written, and the JSON Schema of the configuration."""

import copy
import json
import pickle
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connector.config import load
from connector.config.document import Document
from connector.config.durations import duration_text, parse_duration, parse_instant
from connector.config.json_schema import json_schema
from connector.config.quoting import shown
from connector.errors import ConfigurationError

MILLISECONDS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}


@given(st.integers(0, 36_525), st.sampled_from(sorted(MILLISECONDS)))
def test_duration_is_parsed_and_shown_as_written(number: int, unit: str) -> None:
    duration = parse_duration(f"{number}{unit}")
    assert duration == timedelta(milliseconds=number * MILLISECONDS[unit])
    assert duration_text(duration) == f"{number}{unit}"
    assert duration_text(pickle.loads(pickle.dumps(duration))) == f"{number}{unit}"  # noqa: S301
    assert duration_text(copy.copy(duration)) == f"{number}{unit}"


@given(st.integers(0, 3_000_000_000_000))
def test_duration_text_has_the_largest_unit_that_divides_it(milliseconds: int) -> None:
    duration = timedelta(milliseconds=milliseconds)
    text = duration_text(duration)
    assert parse_duration(text) == duration
    unit = text.lstrip("0123456789")
    assert all(milliseconds % size or size <= MILLISECONDS[unit] for size in MILLISECONDS.values() if milliseconds)


@pytest.mark.parametrize(("seconds", "text"), [(900, "15m"), (86_400, "1d"), (90, "90s"), (0, "0s"), (0.25, "250ms")])
def test_duration_text_has_exactly_one_unit(seconds: float, text: str) -> None:
    assert duration_text(timedelta(seconds=seconds)) == text


@given(st.text(max_size=8))
def test_arbitrary_text_as_duration_gives_a_one_line_error(text: str) -> None:
    try:
        duration = parse_duration(text)
    except ValueError as error:
        sentence = str(error)
    else:
        sentence = f"is {duration_text(duration)}"
        assert duration_text(duration) == text
    assert sentence.startswith("is ")


@pytest.mark.parametrize(
    "text", ["", "15", "m", "1.5h", "1h30m", " 15m", "15m ", "15 m", "-7d", "+7d", "PT15M", "1w", "٣m", "15M"]
)
def test_invalid_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a duration"):
        parse_duration(text)


@pytest.mark.parametrize("text", ["36526d", "9" * 18 + "d", "9" * 5000 + "ms"])
def test_duration_is_limited_to_a_hundred_years(text: str) -> None:
    with pytest.raises(ValueError, match="longer than 100 years") as caught:
        parse_duration(text)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    ("text", "instant"),
    [
        ("2026-01-31T00:00:00Z", datetime(2026, 1, 31, tzinfo=UTC)),
        ("2026-01-31t01:30:00.5+01:00", datetime(2026, 1, 31, 0, 30, 0, 500_000, tzinfo=UTC)),
        ("-7d", timedelta(days=-7)),
        ("-0s", timedelta(0)),
    ],
)
def test_time_setting_accepts_a_timestamp_or_a_negative_duration(text: str, instant: datetime | timedelta) -> None:
    assert parse_instant(text) == instant


@pytest.mark.parametrize("text", ["", "7d", "now", "2026-01-31", "2026-01-31T00:00:00", "0001-01-01T00:00:00Z", "--7d"])
def test_invalid_time_setting_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"not an instant|positive duration"):
        parse_instant(text)


@given(st.text(max_size=200))
def test_invalid_value_is_quoted_on_one_short_line(text: str) -> None:
    assert len(shown(text)) <= 80
    assert shown(text).isprintable()


KEYS = [variable for section in Document.model_fields for variable in (section, f"{section}__x", f"{section}__key")]
KEYS += ["kafka__properties__a", "kafka__topic", "graph__base_url", "tenants__0", "identity__client_secret__file"]
VALUES = [
    "",
    "x",
    "0",
    "é\n",
    "[1]",
    "[{}]",
    "{}",
    "null",
    '{"id": 3}',
    '{"a": {"b": 1}}',
    '{"file": "/"}',
    "https://[",
    "1m",
]


@given(st.dictionaries(st.sampled_from(KEYS).map("CONNECTOR_{}".format), st.sampled_from(VALUES) | st.text(max_size=9)))
def test_each_configuration_problem_is_one_printable_line(environ: dict[str, str]) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load(None, environ)
    assert caught.value.problems
    assert all(problem.isprintable() for problem in caught.value.problems)


class TestJsonSchema:
    def test_json_schema_has_every_key_and_refuses_others(self) -> None:
        schema = json_schema()
        assert set(schema["properties"]) == set(Document.model_fields)
        assert schema["additionalProperties"] is False
        assert all(table["additionalProperties"] is False for table in schema["$defs"].values())
        assert schema["$defs"]["TenantTable"]["required"] == ["id"]
        assert schema["$defs"]["SweepTable"]["required"] == ["every", "overlap"]

    def test_json_schema_describes_every_key(self) -> None:
        for table in json_schema()["$defs"].values():
            for key, value in table["properties"].items():
                assert value.get("description"), key

    def test_json_schema_shows_defaults_as_written_in_a_file(self) -> None:
        schema = json_schema()
        windows = schema["$defs"]["WindowsTable"]["properties"]
        assert windows["slice"]["default"] == "1d"
        assert windows["sweeps"]["default"][3] == {"every": "24h", "overlap": "7d"}
        assert not re.search(r'"null"|: null', json.dumps(schema))

    def test_json_schema_defaults_are_valid_in_a_file(self) -> None:
        schema = json_schema()
        tree: dict[str, Any] = {}
        for section, value in schema["properties"].items():
            reference = value.get("$ref")
            if reference:
                properties = schema["$defs"][reference.rpartition("/")[2]]["properties"]
                tree[section] = {key: inner["default"] for key, inner in properties.items() if "default" in inner}
        assert Document.model_validate(tree) == Document.model_validate({})
