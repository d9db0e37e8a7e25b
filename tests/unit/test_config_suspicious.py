"""Warnings about valid values that were probably not meant, and spellings that are accepted."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from connector.config import Settings, load, suspicious_values
from connector.errors import ConfigurationError

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
TENANT = """
[[tenants]]
id = "00000000-0000-0000-0000-000000000001"
name = "contoso"
client_id = "app"
client_secret = "secret"
"""


def settings(folder: Path, text: str, environ: dict[str, str] | None = None) -> Settings:
    path = folder / "connector.toml"
    path.write_text(text, encoding="utf-8")
    return load(path, environ or {})


def warnings(folder: Path, text: str, environ: dict[str, str] | None = None) -> list[str]:
    return suspicious_values(settings(folder, text, environ), environ or {}, NOW)


def test_default_configuration_causes_no_warning(tmp_path: Path) -> None:
    assert warnings(tmp_path, TENANT) == []


def test_variable_with_one_underscore_causes_a_warning(tmp_path: Path) -> None:
    service = {"CONNECTOR_KAFKA_SERVICE_HOST": "10.0.0.1", "CONNECTOR_KAFKA_PORT": "tcp://10.0.0.1:80"}
    assert warnings(tmp_path, TENANT, service | {"connector_kafka_topic": "calls"}) == [
        "connector_kafka_topic: is ignored, because two underscores separate table and key; set CONNECTOR_KAFKA__TOPIC"
    ]


def test_overlap_not_longer_than_the_cadence_causes_a_warning(tmp_path: Path) -> None:
    sweep = '[[windows.sweeps]]\nevery = "{}"\noverlap = "1h"\n'
    (found,) = warnings(tmp_path, TENANT + sweep.format("59m") + sweep.format("1h"))
    assert 'every = "1h" has the overlap "1h"' in found
    assert found.endswith("set an overlap that is longer than every")


@pytest.mark.parametrize(
    ("start", "words"),
    [
        ("2026-03-02", "2026-03-02T00:00:00.000Z is in the future"),
        ("-151d", 'is before the horizon (dedup.horizon = "150d")'),
    ],
)
def test_start_outside_of_the_readable_time_causes_a_warning(tmp_path: Path, start: str, words: str) -> None:
    (found,) = warnings(tmp_path, f'{TENANT}start = "{start}"')
    assert found.startswith("tenant contoso: start: ")
    assert words in found
    assert "; set a " in found


def test_budget_above_the_limit_of_graph_causes_a_warning(tmp_path: Path) -> None:
    (found,) = warnings(tmp_path, f"{TENANT}requests_per_minute = 51")
    assert found.startswith("tenant contoso: requests_per_minute: 51 is more than Graph allows")
    assert found.endswith("set 50 or less")
    simulated = '[graph]\nbase_url = "http://localhost:8080"\nrequests_per_minute = 6000\n'
    assert warnings(tmp_path, simulated + TENANT) == []
    assert warnings(tmp_path, f"{TENANT}requests_per_minute = 50") == []


@pytest.mark.parametrize("start", ['"2026-02-01"', "2026-02-01", '"2026-02-01T00:00:00Z"'])
def test_date_without_time_means_midnight_utc(tmp_path: Path, start: str) -> None:
    read = settings(tmp_path, f"{TENANT}start = {start}")
    assert read.tenants[0].start == NOW.replace(month=2, hour=0)


def test_log_level_warn_means_warning(tmp_path: Path) -> None:
    assert settings(tmp_path, f'{TENANT}\n[log]\nlevel = "WARN"').log.level == "warning"


def test_broker_address_with_kafka_scheme_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match='write "broker:9092"'):
        settings(tmp_path, f'{TENANT}\n[kafka]\nbootstrap_servers = "kafka://broker:9092"')
    servers = "SASL_SSL://broker:9092"
    assert settings(tmp_path, f'{TENANT}\n[kafka]\nbootstrap_servers = "{servers}"').kafka.bootstrap_servers == servers


def test_toml_syntax_error_names_its_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="line 2"):
        settings(tmp_path, '[kafka]\ntopic = "calls\n')
