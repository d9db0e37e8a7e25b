"""Processes of tests. Each ends with the process that started it, however that ends (on Linux)."""

import os
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Self

Process = subprocess.Popen[bytes]

# The kernel kills the child when the *thread* that started it ends, so this thread lives as long as the process.
_starter = ThreadPoolExecutor(max_workers=1, thread_name_prefix="process-starter")

_DIE_WITH_PARENT = (
    "import ctypes, os, signal, sys\n"
    "if sys.platform == 'linux': ctypes.CDLL(None).prctl(1, signal.SIGKILL)\n"
    "if os.getppid() != int(sys.argv[1]): sys.exit(1)\n"
    "os.execv(sys.argv[2], sys.argv[2:])\n"
)


def start_process(command: Sequence[str | Path], log: Path, **options: Any) -> Process:
    """Start a program that is killed when this process ends, and return it.

    Its output and its errors are appended to the file `log`. `options` are those of subprocess.Popen.
    """
    trampoline = [sys.executable, "-I", "-S", "-c", _DIE_WITH_PARENT, str(os.getpid()), *map(str, command)]
    with log.open("ab") as output:
        options = {"stdin": subprocess.DEVNULL, "stdout": output, "stderr": output, **options}
        return _starter.submit(lambda: subprocess.Popen(trampoline, **options)).result()


class Startable(ABC):
    """Base of context managers that start processes on entry, and close them on exit or if the start fails."""

    @abstractmethod
    def start(self) -> None:
        """Start, and wait until the processes serve."""

    @abstractmethod
    def close(self) -> None:
        """End what runs, and delete its files. It may be called more than once."""

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
