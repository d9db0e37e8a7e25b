"""Shutdown of a worker: the error that caused it, the end of the process, and the exit code."""

import asyncio
import os
import sys
import threading

from connector import log

_logger = log.get(__name__)
_STOP_S = 9.0


class Shutdown:
    """Shutdown of one worker. It begins when `stopping` is set, and happens at most once."""

    def __init__(self) -> None:
        self.stopping = asyncio.Event()
        "Event that makes the worker stop when it is set."
        self.failed = False
        "True if the exit code must be 1 although no error stopped the worker."
        self.is_process = False
        "True if the worker handles the signals of the process. It may then also end the process."
        self.error: BaseException | None = None
        "First error that stopped the worker."
        self._signalled = False

    @property
    def exit_code(self) -> int:
        """Return the exit code of the process: 1 after a failure, otherwise 0."""
        return 1 if self.failed or self.error is not None else 0

    def signalled(self) -> None:
        """Stop the worker because of SIGTERM or SIGINT. At the second signal, end the process at once."""
        if self._signalled:
            self._exit()
        self._signalled = True
        self.stop()

    def fail(self, error: BaseException) -> None:
        """Stop the worker because of an error. Only the first error is kept and logged."""
        if self.error is None:
            self.error = error
            _logger.error("service_failed", reason=str(error) or type(error).__name__)
        self.stop()

    def stop(self) -> None:
        """Stop the worker. If it does not stop within 9 s and `is_process` is true, end the process."""
        if self.is_process and not self.stopping.is_set():
            # A blocking request to unavailable brokers cannot be interrupted. The next owner of the shard aborts its
            # transaction.
            timer = threading.Timer(_STOP_S, self._exit)
            timer.daemon = True
            timer.start()
        self.stopping.set()

    def _exit(self) -> None:
        """End the process at once, with the exit code of this shutdown."""
        if self.error is not None:
            sys.stderr.write(f"{self.error}\n")
        sys.stderr.flush()
        os._exit(self.exit_code)
