"""Processes that run a Python module at once, because they are forked from a process that has imported the program.

To start Python and to import the program takes half a second of processor time, and the tests start it hundreds of
times.
"""

import ctypes
import faulthandler
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["connector.cli", "connector.worker.service"])
_PR_SET_PDEATHSIG = 1


class Forked:
    """Process that runs `python -m MODULE ARGUMENTS`, with those methods of subprocess.Popen that the tests use.

    It is killed when the process that created it ends.
    """

    def __init__(
        self, arguments: Sequence[str], environment: Mapping[str, str], folder: Path, output: Path, error: Path
    ) -> None:
        """Start the process in `folder`. Standard output and standard error are appended to files.

        `arguments`: the module's name and what is in `sys.argv` after it.
        """
        self.args = arguments
        values = (list(arguments), dict(environment), str(folder), (str(output), str(error)))
        self._process = _context.Process(target=_run, args=values, daemon=True)
        self._process.start()
        assert self._process.pid is not None
        self.pid: int = self._process.pid

    def poll(self) -> int | None:
        """Return the exit code, -N after signal N, or None while the process runs."""
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """Wait until the process has ended; return its exit code. Raises subprocess.TimeoutExpired."""
        self._process.join(timeout)
        code = self.poll()
        if code is None:
            raise subprocess.TimeoutExpired(self._process.name, timeout or 0.0)
        return code

    def send_signal(self, number: int) -> None:
        """Send a signal, unless the process has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Kill the process (SIGKILL)."""
        self.send_signal(signal.SIGKILL)


def without_settings() -> dict[str, str]:
    """Return the environment of this process without variables that configure the program."""
    return {name: text for name, text in os.environ.items() if not name.upper().startswith(("CONNECTOR_", "AZURE_"))}


def _run(arguments: list[str], environment: dict[str, str], folder: str, files: tuple[str, str]) -> None:
    """Run the module in this process as `python -m` with these arguments would."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    for standard, file in zip((1, 2), files, strict=True):
        opened = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.dup2(opened, standard)
        os.close(opened)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # the fork server ignores SIGINT
    faulthandler.enable()
    sys.argv = arguments
    runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)
