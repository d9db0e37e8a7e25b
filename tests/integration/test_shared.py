"""Broker and registry that all processes of a test run share."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.registries import RegistryClient
from tests.shared import Shared, ask
from tests.workers import ROOT


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
