"""Shutdown of a worker: what asked for it, how the process ends, and with which exit code."""

import asyncio
import os
import sys
import threading

from connector import log

_logger = log.get(__name__)
_STOP_S = 9.0


class Shutdown:
    """Shutdown of one worker, which is asked for at most once and begins with `stopping`."""

    def __init__(self) -> None:
        self.stopping = asyncio.Event()
        "Event that stops the worker when it is set."
        self.failed = False
        "True if the exit code is 1 although no error ended the worker."
        self.is_process = False
        "True if the worker may end the process because it handles the process's signals."
        self.error: BaseException | None = None
        "The first error that stopped the worker."
        self._signalled = False

    @property
    def exit_code(self) -> int:
        """Return the exit code of the process."""
        return 1 if self.failed or self.error is not None else 0

    def signalled(self) -> None:
        """Stop because of SIGTERM or SIGINT. The second signal does not wait."""
        if self._signalled:
            self._exit()
        self._signalled = True
        self.stop()

    def fail(self, error: BaseException) -> None:
        """Stop because of an error. The process ends with the first such error."""
        if self.error is None:
            self.error = error
            _logger.error("service_failed", reason=str(error) or type(error).__name__)
        self.stop()

    def stop(self) -> None:
        """Stop the worker. The process ends with the right exit code even if a call does not return."""
        if self.is_process and not self.stopping.is_set():
            # A blocking call to unavailable brokers cannot be interrupted. The next owner of the shard aborts its
            # transaction.
            timer = threading.Timer(_STOP_S, self._exit)
            timer.daemon = True
            timer.start()
        self.stopping.set()

    def _exit(self) -> None:
        """End the process at once."""
        if self.error is not None:
            sys.stderr.write(f"{self.error}\n")
        sys.stderr.flush()
        os._exit(self.exit_code)
