"""`connector copy-state` that dies before one of its records: `python -m tests.dying_copy NUMBER …`.

Records are written one by one. If NUMBER is beyond the last record, the copy completes.
"""

import os
import signal
import sys
from collections.abc import Sequence
from itertools import count

from connector import cli
from connector.kafka import copy_target
from connector.kafka.acknowledgement import Acknowledgements
from connector.kafka.publishing import Outgoing

_records = count(1)


class Dying(Acknowledgements):
    """Publisher that ends the process before a record."""

    def _write(self, records: Sequence[Outgoing]) -> None:
        for record in records:
            if next(_records) == int(sys.argv[1]):
                os.kill(os.getpid(), signal.SIGKILL)
            super()._write([record])


if __name__ == "__main__":
    copy_target.Acknowledgements = Dying  # type: ignore[attr-defined]
    cli.main(["copy-state", *sys.argv[2:]])
