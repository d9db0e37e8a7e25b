"""Broker and registry that all processes of a test run share."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.registries import RegistryClient
from tests.shared import Shared, ask
from tests.workers import ROOT


@pytest.mark.java
def test_parallel_test_processes_share_one_registry() -> None:
    program = "import sys; from tests.shared import ask; print(ask(sys.argv[1], 'registry'))"
    shared = Shared()
    try:
        command = [sys.executable, "-c", program, shared.listen()]
        with ThreadPoolExecutor() as pool:
            answers = set(pool.map(lambda _: subprocess.check_output(command, cwd=ROOT, text=True), range(3)))
        (port,) = answers
        assert shared.address("registry") == port.strip()
        assert RegistryClient(int(port)).ask("GET", "/subjects") == (200, [])
    finally:
        shared.close()
    with pytest.raises(OSError, match="refused"):
        RegistryClient(int(port)).ask("GET", "/subjects")


def test_failed_broker_start_is_reported_to_every_test_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DRC_CACHE", "/dev/null/nowhere")
    shared = Shared()
    try:
        path = shared.listen()
        for _ in range(2):
            with pytest.raises(RuntimeError, match="NotADirectoryError"):
                ask(path, "broker")
    finally:
        shared.close()


def test_tests_of_one_xdist_group_run_in_one_process(tmp_path: Path) -> None:
    """Otherwise each process would repeat expensive fixtures. pytest-xdist 3.8 ignores groups with pytest 9.2."""
    (tmp_path / "test_group.py").write_text(
        "import os, pathlib, pytest\n"
        "@pytest.mark.xdist_group('one')\n"
        "@pytest.mark.parametrize('number', range(6))\n"
        "def test_it(number):\n"
        "    pathlib.Path(f'process-{os.getpid()}').touch()\n",
        encoding="utf-8",
    )
    command = [sys.executable, "-m", "pytest", "--quiet", "--numprocesses=3", "--dist=loadgroup", "test_group.py"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, timeout=60)
    assert len(list(tmp_path.glob("process-*"))) == 1
