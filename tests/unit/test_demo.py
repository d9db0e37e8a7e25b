"""The result of the demo counts missing and repeated rows, and its output shows no phone number."""

import io
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest

from connector.config import load
from connector.demo.screen import masked
from connector.demo.tally import Tally, Verdict
from connector.kafka import avro
from connector.kafka.log_reader import Entry
from connector.simulator import TruthRow

TENANT = "11111111-1111-1111-1111-111111111111"
BEGAN = datetime(2026, 3, 1, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
ENCODE = avro.encoder(avro.ROW)
FIELDS = [field["name"] for field in avro.load(avro.ROW)["fields"]]


def shown(duration: int, version: int = 0, *, is_newest: bool = True) -> TruthRow:
    text = f'{{"id":"a","startDateTime":"2026-03-01T12:00:00.1239Z","endDateTime":null,"duration":{duration},"x":1}}'
    return TruthRow("a", version, BEGAN, None if is_newest else BEGAN + MINUTE, BEGAN, True, msgspec.Raw(text.encode()))  # noqa: FBT003


def unfit(*, is_newest: bool = True) -> TruthRow:
    until = None if is_newest else BEGAN + MINUTE
    return TruthRow("b", 0, BEGAN, until, BEGAN, False, msgspec.Raw(b'{"id":"b","duration":"1"}'))  # noqa: FBT003


def record(duration: int, revision: int = 0) -> Entry:
    row = dict.fromkeys(FIELDS) | {
        "id": "a",
        "startDateTime": int(BEGAN.timestamp()) * 1000 + 123,
        "duration": duration,
        "tenantId": TENANT,
        "observedDateTime": int((BEGAN + MINUTE).timestamp()) * 1000,
        "revision": revision,
        "additionalProperties": {"x": "1"},
    }
    return Entry("calls", b"a", ENCODE(row), {})


def dead_letter(value: bytes = b'{"id":"b","duration":"1"}') -> Entry:
    return Entry("calls.dlq", b"b", value, {"tenant": TENANT.encode()})


def judged(records: list[Entry], truth: list[TruthRow]) -> Verdict:
    tally = Tally("calls")
    tally.add(records)
    return tally.verdict(TENANT, truth)


def test_demo_counts_no_row_as_missing_if_its_newest_version_exists() -> None:
    assert judged([record(3)], [shown(3)]) == Verdict(1, 1, 0, 0, 0, 0)
    both = [shown(3, is_newest=False), shown(4, 1)]
    assert judged([record(3), record(4, 1)], both) == Verdict(1, 1, 1, 0, 0, 0)
    assert judged([record(4)], both) == Verdict(1, 1, 0, 0, 0, 0)


def test_demo_counts_an_absent_or_outdated_row_as_missing() -> None:
    assert judged([], [shown(3)]).missing == 1
    assert judged([record(3)], [shown(3, is_newest=False), shown(4, 1)]).missing == 1
    assert judged([record(9)], [shown(3)]).missing == 1


def test_demo_counts_a_repeated_version_as_duplicated() -> None:
    assert judged([record(3), record(3)], [shown(3)]).duplicated == 1
    assert judged([record(3), record(3, 1)], [shown(3)]).duplicated == 1
    assert judged([record(3)], []).duplicated == 1


@pytest.mark.parametrize(
    ("records", "truth", "missing", "duplicated"),
    [
        ([dead_letter()], [unfit()], 0, 0),
        ([], [unfit()], 1, 0),
        ([], [unfit(is_newest=False)], 0, 0),
        ([dead_letter(), dead_letter()], [unfit()], 0, 1),
        ([dead_letter(b"{}")], [], 0, 1),
    ],
)
def test_demo_expects_one_dead_letter_per_invalid_row(
    records: list[Entry], truth: list[TruthRow], missing: int, duplicated: int
) -> None:
    result = judged(records, truth)
    assert (result.missing, result.duplicated) == (missing, duplicated)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("+14255550123", "+14255******"),
        ("+12345678***", "+12345******"),
        ("0049 89 12345", "0049 8* *****"),
        ("+1001", "+****"),
        ("4711", "****"),
        ("Conference Room 4", "********** **** *"),
        ("", ""),
        (None, ""),
    ],
)
def test_demo_masks_phone_numbers(value: str | None, text: str) -> None:
    assert masked(value) == text


def test_example_configuration_is_valid() -> None:
    path = Path(__file__).parents[2] / "examples" / "connector.toml"
    load(path, {"AZURE_CLIENT_SECRET": "x"}, required=("kafka.bootstrap_servers",))


@pytest.fixture
def uncommented(tmp_path: Path) -> Callable[[str], Path]:
    def write(text: str) -> Path:
        path = tmp_path / "connector.toml"
        path.write_text(text)
        return path

    return write


def test_commented_settings_of_the_example_file_are_valid(uncommented: Callable[[str], Path]) -> None:
    source = (Path(__file__).parents[2] / "examples" / "connector.toml").read_text()
    out = io.StringIO()
    for line in source.splitlines():
        bare = line.removeprefix("# ")
        is_setting = line.startswith("# ") and ("= " in bare or bare.startswith("[")) and not bare.startswith("Every")
        out.write((bare if is_setting else line) + "\n")
    settings = load(uncommented(out.getvalue()), {"AZURE_CLIENT_SECRET": "x", "KAFKA_PASSWORD": "y"})
    assert [tenant.label for tenant in settings.tenants] == ["contoso", "fabrikam"]
    assert settings.kafka.properties.keys() >= {"sasl.password", "sasl.username"}
    default = load(None, {"AZURE_TENANT_ID": TENANT, "AZURE_CLIENT_ID": TENANT, "AZURE_CLIENT_SECRET": "x"})
    assert settings.windows == default.windows
    assert settings.dedup == default.dedup
    assert settings.http == default.http
    assert settings.kafka.shards == default.kafka.shards
