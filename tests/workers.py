"""The installed program as a process: started with a configuration file, watched over HTTP and its log, killed at will.

1. Only processes that this module started are signalled, by process id.
2. No worker outlives the tests, however they end.
"""

import http.client
import json
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.brokers import wait_until
from tests.forked import Forked, without_settings
from tests.processes import Process, start_process

ROOT = Path(__file__).parent.parent
DEADLINE_S = 120.0
EVERY_S = 0.2
"Time between two looks at a worker. Each look costs the worker and the test several milliseconds."
FAST = ({"every": "2s", "overlap": "10m"}, {"every": "5s", "overlap": "30d"})
"Sweeps of seconds; the second one covers all data of a simulator of tests, and more than the tenants' start."

_SAMPLE = re.compile(r"direct_routing_(\w+)(?:\{(.*)\})? (\S+)")


def configuration(bootstrap: str, topic: str, app: str, source: Any, **sections: Any) -> dict[str, Any]:
    """Return a configuration that reads all tenants of a simulator fast; `sections` override it member by member."""
    settings: dict[str, Any] = {
        "graph": {
            "base_url": source.url,
            "authority": source.url,
            "ca_bundle": source.ca,
            "requests_per_minute": 60_000,
            "timeout": "5s",
        },
        "identity": source.identity,
        "tenants": [{"id": tenant, "start": "-19d"} for tenant in source.tenants],
        "windows": {"sweeps": list(FAST)},
        "kafka": {
            "bootstrap_servers": bootstrap,
            "topic": topic,
            "app": app,
            "shards": 2,
            "partitions": 3,
            # Brokers notice a dead or a new worker within a second instead of six.
            "properties": {"session.timeout.ms": "2000", "heartbeat.interval.ms": "200"},
        },
        "http": {"listen": "127.0.0.1:0"},
        "log": {"format": "json"},
    }
    for name, section in sections.items():
        settings[name] = section if isinstance(section, list) else {**settings.get(name, {}), **section}
    return settings


def toml(settings: Mapping[str, Any]) -> str:
    """Return the text of a configuration file, one section per line."""
    return "".join(f"{name} = {_literal(value)}\n" for name, value in settings.items())


def _literal(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{json.dumps(name)} = {_literal(v)}" for name, v in value.items()) + " }"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "[" + ", ".join(map(_literal, value)) + "]"
    return json.dumps(value)


class Worker:
    """`connector run` with a configuration: one process at a time, which can be started again any number of times."""

    def __init__(self, folder: Path, settings: Mapping[str, Any], *program: str) -> None:
        """Write the configuration.

        `program`: what to run instead of `-m connector run`; `--config FILE` is appended.
        """
        self.config = folder / "connector.toml"
        self.program = list(program or ("-m", "connector", "run"))
        self.starts = 0
        self.options: dict[str, Any] = {}
        "Options of subprocess.Popen for a process that is started by Python itself instead of forked."
        self._folder = folder
        self._process: Process | Forked | None = None
        self._due = 0.0
        self._address: tuple[str, int] | None = None
        "Host and port of the newest process's HTTP server; None until they were read from its log."
        folder.mkdir(parents=True, exist_ok=True)
        self.configure(settings)

    def configure(self, settings: Mapping[str, Any]) -> None:
        """Replace the configuration file. A process reads it at its start and on SIGHUP."""
        self.settings = settings
        self.config.write_text(toml(settings), encoding="utf-8")

    @property
    def log(self) -> Path:
        """Return the file with the standard error of the newest process."""
        return self._folder / f"log-{self.starts}"

    @property
    def events(self) -> list[dict[str, Any]]:
        """Return the events that the newest process has logged."""
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines() if self.log.is_file() else []
        return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]

    def named(self, event: str) -> list[dict[str, Any]]:
        """Return the events of one name."""
        return [entry for entry in self.events if entry.get("event") == event]

    @property
    def running(self) -> bool:
        """Return whether the process runs."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int | None:
        """Return the process id of the newest process."""
        return self._process.pid if self._process is not None else None

    @property
    def exit_code(self) -> int | None:
        """Return the exit code of the newest process; None while it runs."""
        return self._process.poll() if self._process is not None else None

    def start(self, *arguments: str) -> None:
        """Start a process without waiting for it to do anything."""
        assert not self.running
        self.starts += 1
        self._address = None
        environment = without_settings() | {"PYTHONPATH": str(ROOT), "PYTHONFAULTHANDLER": "1"}
        command = [*self.program, *arguments, "--config", str(self.config)]
        if command[0] == "-m" and not self.options:
            self._process = Forked(command[1:], environment, ROOT, self.log, self.log)
            return
        options = {"cwd": ROOT, "env": environment} | self.options
        self._process = start_process([sys.executable, *command], self.log, **options)

    def run_once(self, deadline_s: float = DEADLINE_S) -> int:
        """Run with `--once`; return the exit code. Wait first until sweeps with a cadence of seconds are due again."""
        threading.Event().wait(max(0.0, self._due - time.monotonic()))
        self.start("--once")
        code = self.wait(deadline_s)
        self._due = time.monotonic() + max(map(_short_s, self.settings.get("windows", {}).get("sweeps", ())), default=0)
        return code

    def wait(self, deadline_s: float = DEADLINE_S) -> int:
        """Wait until the process has ended; return the exit code. Raises TimeoutError."""
        assert self._process is not None
        try:
            return self._process.wait(deadline_s)
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"the worker did not end within {deadline_s:g} s; {self.tail()}") from None

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the newest process; do nothing if it has ended."""
        if self._process is not None:
            self._process.send_signal(number)

    def stop(self, deadline_s: float = 15.0) -> int:
        """Stop the worker (SIGTERM); return the exit code."""
        self.signal(signal.SIGTERM)
        return self.wait(deadline_s)

    def abort(self) -> None:
        """End the worker with SIGABRT, at which it writes the stacks of its threads to its log."""
        if self.running:
            self.signal(signal.SIGCONT)
            self.signal(signal.SIGABRT)
            self.wait()

    def kill(self) -> None:
        """Kill the worker (SIGKILL), even if it is frozen."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def until(self, condition: Callable[[], bool], what: str, deadline_s: float = DEADLINE_S) -> None:
        """Wait until `condition()` holds.

        Raises an error with the end of the log if the worker ends first or it takes too long.
        """

        def holds() -> bool:
            if condition():
                return True
            assert self.running, f"the worker ended with {self.exit_code} before: {what}; {self.tail()}"
            return False

        try:
            wait_until(holds, what, deadline_s, every_s=EVERY_S)
        except TimeoutError as error:
            raise TimeoutError(f"{error}; {self.tail()}") from None

    def until_logged(self, event: str, deadline_s: float = DEADLINE_S) -> dict[str, Any]:
        """Wait for the first event of a name and return it."""
        self.until(lambda: bool(self.named(event)), f"event {event}", deadline_s)
        return self.named(event)[0]

    def until_ready(self, deadline_s: float = DEADLINE_S) -> None:
        """Wait until /readyz returns 200 and the worker owns a shard."""
        self.until(lambda: self.get("/readyz")[0] == 200 and bool(self.status()["shards_owned"]), "ready", deadline_s)

    def until_complete(self, since: datetime, tenants: int | None = None, deadline_s: float = DEADLINE_S) -> None:
        """Wait until all call time of its tenants was read and committed in runs that began after `since`.

        `since`: aware UTC, by the worker's own clock.
        """
        count = len(self.settings["tenants"]) if tenants is None else tenants

        def is_complete() -> bool:
            known = self.status()["tenants"]
            return len(known) == count and all(_is_read(tenant, since) for tenant in known)

        self.until(is_complete, f"all call time of {count} tenants read after {since:%H:%M:%S}", deadline_s)

    @property
    def port(self) -> int | None:
        """Return the port of the HTTP server; None while it is not listening."""
        address = self._listening()
        return address[1] if address else None

    def _listening(self) -> tuple[str, int] | None:
        """Return host and port of the HTTP server of the newest process, read from its log once."""
        if self._address is None and (events := self.named("http_listening")):
            self._address = events[0]["host"] or "localhost", int(events[0]["port"])
        return self._address

    def get(self, path: str) -> tuple[int, str]:
        """Return status and body of a GET request; status 0 while the server is unavailable."""
        address = self._listening()
        if address is None:
            return 0, ""
        connection = http.client.HTTPConnection(*address, timeout=5)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read().decode()
        except (OSError, http.client.HTTPException):
            return 0, ""
        finally:
            connection.close()

    def status(self) -> dict[str, Any]:
        """Return the JSON of /status; without tenants and shards while the server is unavailable."""
        code, body = self.get("/status")
        content: dict[str, Any] = json.loads(body) if code == 200 else {"tenants": [], "shards_owned": []}
        return content

    def tenant(self, tenant: str) -> dict[str, Any]:
        """Return a tenant of /status; empty while it is absent."""
        found: dict[str, Any] = next((t for t in self.status()["tenants"] if t["id"] == tenant), {})
        return found

    def metric(self, name: str, **labels: str) -> float:
        """Return the sum of a metric's series with these labels; 0 if there are none."""
        return sum(value for _, value in self.series(name, **labels))

    def series(self, name: str, **labels: str) -> list[tuple[dict[str, str], float]]:
        """Return the series of a metric (name without its prefix) with these labels."""
        found = []
        for line in self.get("/metrics")[1].splitlines():
            match = _SAMPLE.fullmatch(line)
            if match is None or match[1] != name:
                continue
            has = dict(re.findall(r'(\w+)="([^"]*)"', match[2] or ""))
            if labels.items() <= has.items():
                found.append((has, float(match[3])))
        return found

    def tail(self, lines: int = 15) -> str:
        """Return the last lines of the log."""
        text = self.log.read_text(encoding="utf-8", errors="replace") if self.log.is_file() else ""
        return "its log ends:\n" + "\n".join(text.splitlines()[-lines:])


def _short_s(sweep: Mapping[str, str]) -> int:
    """Return the cadence of a sweep in seconds; 0 for a cadence of minutes or more."""
    match = re.fullmatch(r"(\d+)s", sweep["every"])
    return int(match[1]) if match else 0


def _is_read(tenant: Mapping[str, Any], since: datetime) -> bool:
    coverage = tenant["coverage"]
    return (
        bool(coverage)
        and tenant["gap_seconds"] == 0
        and all(datetime.fromisoformat(piece["last_read"]) >= since.astimezone(UTC) for piece in coverage)
    )
