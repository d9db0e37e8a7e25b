"""Worker that dies before a part of its first batch with rows: `python -m tests.dying_worker PART --config FILE`.

PART, in the order in which at-least-once delivery writes: noted, remembered, checkpoint.
"""

import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from connector import log
from connector.config import load
from connector.kafka.acknowledgement import Acknowledgements
from connector.kafka.publishing import CommitContext, Offsets, Outgoing, TransactionContents
from connector.pipeline import shard
from connector.worker import service

PARTS = ("noted", "remembered", "checkpoint")


class Dying(Acknowledgements):
    """At-least-once delivery that ends the process before one part of a batch."""

    _left: list[str] | None = None
    "Parts of the batch that were not started; None for a batch without rows."

    def commit(self, contents: TransactionContents, position: CommitContext) -> Offsets:
        self._left = list(PARTS) if any(contents.rows.values()) else None
        return super().commit(contents, position)

    def _write(self, records: Sequence[Outgoing]) -> None:
        if self._left is not None and self._left.pop(0) == sys.argv[1]:
            os.kill(os.getpid(), signal.SIGKILL)
        super()._write(records)


def work() -> int:
    """Run the service; return the exit code if the process survives."""
    settings = load(Path(sys.argv[-1]), os.environ)
    log.configure(settings.log.format, settings.log.level)
    shard.Acknowledgements = Dying  # type: ignore[attr-defined]
    return service.run(settings)


if __name__ == "__main__":
    sys.exit(work())
