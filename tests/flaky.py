"""Pytest plugin that runs the tests that failed last again, alone: `pytest -p tests.flaky`.

A test that passes then is not hidden: it is printed as `flaky: NAME` and appended to tests/flaky.txt with the date. A
test that is in that file twice fails the run until it is repaired and its lines are deleted.
"""

from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.durations import without_group

FILE = Path("tests", "flaky.txt")
_COMPLETE = "tests/complete"
"Key in pytest's cache: whether each test of the last run was run to its end."
_INCOMPLETE = "Some tests did not run, because a test process died or the run was interrupted: run all of them."


def twice(file: Path) -> list[str]:
    """Return the tests that the file contains more than once."""
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    names = Counter(line.split(maxsplit=1)[1] for line in lines if line and not line.startswith("#"))
    return sorted(name for name, count in names.items() if count > 1)


def note(config: pytest.Config, *, is_complete: bool) -> None:
    """Note whether each test was run. Otherwise it is not enough to run the failed tests again.

    A run of this plugin itself is not noted.
    """
    cache = getattr(config, "cache", None)  # pytest -p no:cacheprovider has none
    if cache is not None and not config.pluginmanager.has_plugin(__name__):
        cache.set(_COMPLETE, is_complete)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Select the tests that failed last. With pytest-xdist their names have the group appended."""
    assert config.cache is not None
    if not config.cache.get(_COMPLETE, default=True):
        pytest.exit(_INCOMPLETE, pytest.ExitCode.TESTS_FAILED)
    failed = {without_group(name) for name in config.cache.get("cache/lastfailed", {})}
    config.hook.pytest_deselected(items=[item for item in items if not _is_of(item, failed)])
    items[:] = [item for item in items if _is_of(item, failed)]


def _is_of(item: pytest.Item, names: set[str]) -> bool:
    """Return whether a test failed, or its file could not be collected."""
    return item.nodeid in names or item.nodeid.partition("::")[0] in names


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Append the flaky tests to the file; fail the run if the file contains a test twice."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    assert reporter is not None
    broken = {report.nodeid for outcome in ("failed", "error") for report in reporter.getreports(outcome)}
    passed = {report.nodeid for report in reporter.getreports("passed") if report.when == "call"}
    session.config.stash[_FLAKY] = sorted(passed - broken)
    file = session.config.rootpath / FILE
    today = datetime.now(UTC).date()
    with file.open("a", encoding="utf-8") as notes:
        notes.writelines(f"{today} {name}\n" for name in session.config.stash[_FLAKY])
    if twice(file) and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


_FLAKY = pytest.StashKey[list[str]]()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print the flaky tests."""
    flaky = config.stash.get(_FLAKY, [])
    for name in flaky:
        terminalreporter.write_line(f"flaky: {name}")
    terminalreporter.write_line(f"{len(flaky)} flaky tests, appended to {FILE}")
    for name in twice(config.rootpath / FILE):
        terminalreporter.write_line(f"flaky for the second time, which fails the run: {name}")
