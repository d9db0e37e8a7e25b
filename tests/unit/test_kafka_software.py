"""Download of Kafka for the tests, and the errors if it is impossible."""

import stat
from pathlib import Path

import pytest

from tests import kafka_software


def executable(path: Path, script: str) -> None:
    path.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def test_error_names_maven_and_docker_if_both_are_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        kafka_software.MissingSoftwareError, match=r"Install Maven .* or Docker, or set KAFKA_BOOTSTRAP"
    ):
        kafka_software.fetch_jars(tmp_path)


def test_maven_failure_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    executable(tmp_path / "mvn", "echo 'no route to the repository'; exit 1")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(kafka_software.MissingSoftwareError, match="`mvn` failed: no route to the repository"):
        kafka_software.fetch_jars(tmp_path)


def test_java_version_that_is_too_old_is_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bin").mkdir()
    executable(tmp_path / "bin" / "java", """echo 'openjdk version "11.0.1"' >&2""")
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    java, version = kafka_software.find_java()
    assert java != tmp_path / "bin" / "java"
    assert int(version.split(".")[0]) >= kafka_software.OLDEST_JAVA


def test_kafka_cache_path_is_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    monkeypatch.delenv("DRC_CACHE", raising=False)
    assert kafka_software.cache_directory() == Path("/caches/direct-routing-connector")
    monkeypatch.setenv("DRC_CACHE", "/elsewhere")
    assert kafka_software.cache_directory() == Path("/elsewhere")
