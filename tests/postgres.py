"""Real PostgreSQL server for tests: loopback only, in a temporary folder, as an unprivileged user.

It starts in about a second and ends together with the process that started it. Rules 1 and 2 of tests/brokers.py hold
here too.
"""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import uuid
from pathlib import Path

import psycopg
from psycopg import conninfo, sql

from tests.brokers import HOST, free_ports, wait_until
from tests.processes import Process, Startable, start_process
from tests.system_software import program

USER = "postgres"
"Superuser of the server. It needs no password."
_UNPRIVILEGED = "nobody"
_SETTINGS = {
    "autovacuum": "off",
    "dynamic_shared_memory_type": "mmap",
    "fsync": "off",
    "full_page_writes": "off",
    "jit": "off",
    "listen_addresses": HOST,
    "max_wal_senders": "0",
    "shared_buffers": "16MB",
    "synchronous_commit": "off",
    "unix_socket_directories": "",
    "wal_level": "minimal",
}


class Postgres(Startable):
    """PostgreSQL server process with an empty cluster of databases, as a context manager."""

    def __init__(self) -> None:
        """Choose a port and a folder without starting the server."""
        self.port = free_ports(1)[0]
        self._folder = Path(tempfile.mkdtemp(prefix="drc-postgres-"))
        self._process: Process | None = None

    @property
    def dsn(self) -> str:
        """Return the connection string of the database `postgres`."""
        return f"postgresql://{USER}@{HOST}:{self.port}/postgres"

    def start(self) -> None:
        """Make an empty cluster, start the server, and wait until it serves."""
        self._make_cluster()
        self._launch()
        wait_until(self._serves, "PostgreSQL to serve", 60.0, every_s=0.05)

    def close(self) -> None:
        """Stop the server without a checkpoint and delete its files."""
        if self._process is not None and self._process.poll() is None:
            # Unlike SIGKILL, SIGQUIT also ends the server's child processes and frees its shared memory.
            self._process.send_signal(signal.SIGQUIT)
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait(20)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _make_cluster(self) -> None:
        if os.geteuid() == 0:
            user = pwd.getpwnam(_UNPRIVILEGED)
            os.chown(self._folder, user.pw_uid, user.pw_gid)
        options = ["--no-sync", "--auth=trust", f"--username={USER}", "--encoding=UTF8", "--locale=C"]
        command = [*_as_unprivileged(), str(program("initdb")), *options, f"--pgdata={self._data}"]
        done = subprocess.run(command, cwd=self._folder, check=False, capture_output=True, text=True, timeout=120)
        if done.returncode:
            raise RuntimeError(f"initdb failed:\n{done.stderr}")

    def _launch(self) -> None:
        settings = [f"-c{name}={value}" for name, value in {**_SETTINGS, "port": str(self.port)}.items()]
        command = [*_as_unprivileged(), str(program("postgres")), "-D", str(self._data), *settings]
        self._process = start_process(command, self._log, cwd=self._folder, start_new_session=True)

    def _serves(self) -> bool:
        if self._process is None or self._process.poll() is not None:
            raise RuntimeError(f"PostgreSQL ended while it started:\n{self._log.read_text(encoding='utf-8')}")
        try:
            psycopg.connect(self.dsn, connect_timeout=5).close()
        except psycopg.OperationalError:
            return False
        return True

    @property
    def _data(self) -> Path:
        return self._folder / "data"

    @property
    def _log(self) -> Path:
        return self._folder / "log"


def create_database(dsn: str) -> str:
    """Create a database that no other test uses on the server of `dsn`, and return its connection string."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    return conninfo.make_conninfo(dsn, dbname=name)


def _as_unprivileged() -> list[str]:
    """Return the words before a command that run it without root, which PostgreSQL refuses, and end it with its parent.

    The change of the user clears the signal that tests.processes asks for, so that it is asked for again.
    """
    words = [str(program("setpriv")), "--pdeathsig=QUIT"]
    if os.geteuid() == 0:
        user = pwd.getpwnam(_UNPRIVILEGED)
        words += [f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
    return words
