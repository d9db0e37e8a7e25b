"""Tests that failed in a run of all tests run again alone, and are reported as flaky if they pass."""

import os
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests import flaky
from tests.workers import ROOT

RACE = """
from pathlib import Path

import pytest

@pytest.mark.xdist_group("tests/test_race.py")
def test_race():
    runs = Path("runs")
    runs.write_text((runs.read_text() if runs.exists() else "") + ".")
    assert len(runs.read_text()) % 3 != 1

def test_sound():
    pass
"""
DEATH = """
import os
from pathlib import Path

def test_race():
    if not Path("runs").exists():
        Path("runs").touch()
        os._exit(1)

def test_sound():
    pass
"""
NAME = "tests/test_race.py::test_race"


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: text for name, text in os.environ.items() if not name.startswith("PYTEST_")}
    return subprocess.run(
        [sys.executable, "-m", "pytest", "--quiet", *arguments],
        cwd=folder,
        env={**environment, "PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def closing_line(run: subprocess.CompletedProcess[str]) -> str:
    return run.stdout.strip().splitlines()[-1]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Return a project with a test that fails in the first run and passes in the second."""
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_race.py").write_text(RACE, encoding="utf-8")
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = xdist_group\n", encoding="utf-8")
    return tmp_path


def test_flaky_test_is_accepted_once_and_fails_make_test_later(project: Path) -> None:
    today = datetime.now(UTC).date()
    for time, code in ((1, 0), (2, 1)):
        (project / "runs").unlink(missing_ok=True)
        # In the second turn, the test has the name that pytest-xdist gives it.
        parallel = ("-p", "xdist", "--numprocesses=1", "--dist=loadgroup") if time == 2 else ()
        assert run(project, *parallel).returncode == 1
        second_run = run(project, "-p", "tests.flaky")
        assert second_run.returncode == code
        assert f"flaky: {NAME}" in second_run.stdout
        assert "1 flaky tests" in second_run.stdout
        assert (f"fails the run: {NAME}" in second_run.stdout) is (time == 2)
        assert re.fullmatch(r"1 passed, 1 deselected in .*", closing_line(second_run))
        assert (project / flaky.FILE).read_text(encoding="utf-8").splitlines() == [f"{today} {NAME}"] * time


def test_failure_that_recurs_when_run_alone_is_not_flaky(project: Path) -> None:
    assert run(project).returncode == 1
    (project / "runs").unlink()
    second_run = run(project, "-p", "tests.flaky")
    assert second_run.returncode == 1
    assert "0 flaky tests" in second_run.stdout
    assert (project / flaky.FILE).read_text(encoding="utf-8") == ""


def test_rerun_that_selects_no_test_is_not_a_success(project: Path) -> None:
    """The second run starts only because the run of all tests failed, so an empty second run is not a success."""
    assert run(project, "-p", "tests.flaky").returncode == pytest.ExitCode.NO_TESTS_COLLECTED


def test_no_rerun_follows_the_death_of_a_test_process(project: Path) -> None:
    """The other tests of the process did not run, so the failed test alone could make the run green."""
    (project / "tests" / "test_race.py").write_text(DEATH, encoding="utf-8")
    parallel = ("-p", "xdist", "--numprocesses=2", "--dist=loadgroup", "--max-worker-restart=0")
    first_run = run(project, "-p", "tests.conftest", *parallel)
    assert first_run.returncode == 1
    assert f"crashed while running '{NAME}" in first_run.stdout
    second_run = run(project, "-p", "tests.conftest", "-p", "tests.flaky")
    assert second_run.returncode == 1
    assert "Some tests did not run, because a test process died" in second_run.stdout
    assert run(project, "-p", "tests.conftest").returncode == 0
    assert run(project, "-p", "tests.conftest", "-p", "tests.flaky").returncode == pytest.ExitCode.NO_TESTS_COLLECTED


def test_flaky_tests_file_lists_no_test_twice() -> None:
    assert flaky.twice(ROOT / flaky.FILE) == []
