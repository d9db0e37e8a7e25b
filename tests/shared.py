"""Broker, registry and PostgreSQL server that all test processes of a run share, started when a test first needs them.

They belong to the process that was started first; pytest-xdist's test processes ask it for addresses over a socket.
"""

import tempfile
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path

from tests.brokers import Cluster
from tests.postgres import Postgres
from tests.registries import Registry


class Shared:
    """Owner of the shared processes. `close` ends them."""

    def __init__(self) -> None:
        self._starts = {
            "broker": self._start_broker,
            "postgres": self._start_postgres,
            "registry": self._start_registry,
        }
        self._started: dict[str, Future[str]] = {}
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(len(self._starts), thread_name_prefix="shared")
        self._processes = ExitStack()
        self._socket = ExitStack()
        self._listener: Listener | None = None

    def address(self, name: str) -> str:
        """Return the address of "broker", "postgres" or "registry"; the first call for each starts it."""
        with self._lock:
            if name not in self._started:
                self._started[name] = self._pool.submit(self._starts[name])
        return self._started[name].result()

    def listen(self) -> str:
        """Return the path of the socket at which other processes ask for addresses."""
        if self._listener is None:
            folder = self._socket.enter_context(tempfile.TemporaryDirectory(prefix="drc-shared-"))
            self._listener = self._socket.enter_context(Listener(str(Path(folder) / "socket"), "AF_UNIX", backlog=64))
            threading.Thread(target=self._serve, args=(self._listener,), name="shared", daemon=True).start()
        return str(self._listener.address)

    def close(self) -> None:
        """End the processes that were started."""
        self._socket.close()
        self._pool.shutdown()
        self._processes.close()

    def _start_broker(self) -> str:
        return self._processes.enter_context(Cluster(heap_mib=512)).bootstrap

    def _start_postgres(self) -> str:
        return self._processes.enter_context(Postgres()).dsn

    def _start_registry(self) -> str:
        return str(self._processes.enter_context(Registry()).port)

    def _serve(self, listener: Listener) -> None:
        with suppress(OSError):  # the run has ended
            while True:
                connection = listener.accept()
                threading.Thread(target=self._answer, args=(connection,), name="shared", daemon=True).start()

    def _answer(self, connection: Connection) -> None:
        with connection, suppress(OSError, EOFError):
            try:
                connection.send((self.address(connection.recv()), ""))
            except Exception as error:  # noqa: BLE001 - any error is passed to the test that asked, which fails
                connection.send(("", f"{type(error).__name__}: {error}"))


def ask(path: str, name: str) -> str:
    """Return the address of a shared process from its owner; raise RuntimeError if it did not start."""
    with Client(path, "AF_UNIX") as connection:
        connection.send(name)
        address, problem = connection.recv()
    if problem:
        raise RuntimeError(problem)
    return str(address)
