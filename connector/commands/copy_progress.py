"""Progress of `connector copy-state` on standard error: a bar on a terminal, otherwise a line every 10 s."""

import sys
import time
from typing import Self

from rich.console import Console

from connector.commands import text

_TELL_EVERY_S = 10.0
_ESTIMATE_OVER_S = 30.0


class CopyProgress:
    """Output of the progress of a copy, as a context manager.

    `steps` is the number of steps of the whole copy. In each step, one shard is copied or compared.
    """

    def __init__(self, steps: int) -> None:
        console = Console(stderr=True)
        self._shows = console.is_terminal
        self._progress = text.progress_bar(console, _ESTIMATE_OVER_S)
        self._steps, self._done, self._rows = steps, 0, 0
        self._task = self._progress.add_task("copying", total=steps, counts="")
        self._told_at = time.monotonic()

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def advance(self, doing: str, rows: int = 0) -> None:
        """Count one finished step. `doing` describes the step. `rows` counts the dedup index rows that it copied."""
        self._done, self._rows = self._done + 1, self._rows + rows
        counts = f"{text.number(self._rows)} rows"
        self._progress.update(self._task, description=doing, completed=self._done, counts=counts)
        if not self._shows and time.monotonic() - self._told_at >= _TELL_EVERY_S:
            self._told_at = time.monotonic()
            sys.stderr.write(f"{doing}: {counts}, step {self._done} of {self._steps}\n")
