"""`connector run` that halts where a test wants: `python -m tests.halting_worker FOLDER --config FILE`.

A file `freeze-NAME` in FOLDER makes the process stop itself (SIGSTOP) once, just before the producer's next call of
NAME; the process replaces the file with `frozen-NAME`. A file `hold-NAME` makes such calls wait while it exists;
`held-NAME` shows that a call waits.
"""

import argparse
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

from confluent_kafka import Producer

from connector import log
from connector.config import load
from connector.kafka import transaction
from connector.worker import service

_EVERY_S = 0.02


class _Halting(Producer):
    folder = Path()

    def init_transactions(self, *arguments: Any) -> Any:
        _halt(self.folder, "init")
        return super().init_transactions(*arguments)

    def send_offsets_to_transaction(self, *arguments: Any) -> Any:
        _halt(self.folder, "send-offsets")
        return super().send_offsets_to_transaction(*arguments)

    def commit_transaction(self, *arguments: Any) -> Any:
        _halt(self.folder, "commit")
        return super().commit_transaction(*arguments)


def _halt(folder: Path, name: str) -> None:
    if (folder / f"freeze-{name}").exists():
        (folder / f"freeze-{name}").rename(folder / f"frozen-{name}")
        # To this thread: a signal to the process may stop another thread first, and this one would continue its call.
        signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)
    idle = threading.Event()
    while (folder / f"hold-{name}").exists():
        (folder / f"held-{name}").touch()
        idle.wait(_EVERY_S)


def work() -> int:
    """Run the service; return the exit code."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--config", type=Path, required=True)
    options = parser.parse_args()
    _Halting.folder = options.folder
    transaction.Producer = _Halting  # type: ignore[attr-defined]
    settings = load(options.config, os.environ)
    log.configure(settings.log.format, settings.log.level)
    return service.run(settings, once=False)


if __name__ == "__main__":
    sys.exit(work())
