"""A real Prometheus that scrapes workers every second, in a process of its own."""

import http.client
import json
import os
import subprocess
import sys
import urllib.parse
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.brokers import _DIE_WITH_PARENT, HOST, _starter, free_ports, wait_until
from tests.system_software import program

JOB = "direct-routing-connector"
SCRAPE_S = 1


class Prometheus:
    """Prometheus process as a context manager.

    It scrapes `targets` (addresses) and evaluates the rules of a file once per second.
    """

    def __init__(self, folder: Path, targets: Sequence[str], rules: str) -> None:
        """Write the configuration. `rules`: the text of a rule file."""
        self.folder = folder
        self.port = 0
        folder.mkdir(parents=True)
        (folder / "rules.yml").write_text(rules, encoding="utf-8")
        settings = {
            "global": {
                "scrape_interval": f"{SCRAPE_S}s",
                "scrape_timeout": f"{SCRAPE_S}s",
                "evaluation_interval": f"{SCRAPE_S}s",
            },
            "rule_files": ["rules.yml"],
            "scrape_configs": [{"job_name": JOB, "static_configs": [{"targets": list(targets)}]}],
        }
        (folder / "prometheus.yml").write_text(json.dumps(settings), encoding="utf-8")
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        (self.port,) = free_ports(1)
        command = [
            str(program("prometheus")),
            f"--config.file={self.folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={self.folder / 'data'}",
            f"--web.listen-address={HOST}:{self.port}",
            "--log.level=warn",
        ]
        trampoline = [sys.executable, "-I", "-S", "-c", _DIE_WITH_PARENT, str(os.getpid()), *command]
        with self._log.open("wb") as log:
            options: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log}
            self._process = _starter.submit(lambda: subprocess.Popen(trampoline, **options)).result()
        try:
            wait_until(self._serves, "Prometheus to serve", 60)
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._end()

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Return the series of an instant query at the current time.

        Raises RuntimeError with Prometheus' message when it refuses the query.
        """
        return self._result("/api/v1/query", query=expression)

    def query_range(self, expression: str, start: float, end: float, step_s: float = 1) -> list[dict[str, Any]]:
        """Return the series of a range query; times are epoch seconds."""
        return self._result("/api/v1/query_range", query=expression, start=start, end=end, step=step_s)

    def firing(self) -> set[str]:
        """Return the names of the alerts that fire."""
        return {alert["labels"]["alertname"] for alert in self.alerts() if alert["state"] == "firing"}

    def alerts(self) -> list[dict[str, Any]]:
        """Return every alert that is pending or fires."""
        found: list[dict[str, Any]] = self._ask("/api/v1/alerts")["alerts"]
        return found

    def rules(self) -> list[dict[str, Any]]:
        """Return every rule with its latest evaluation."""
        return [rule for group in self._ask("/api/v1/rules")["groups"] for rule in group["rules"]]

    @property
    def _log(self) -> Path:
        return self.folder / "log"

    def _result(self, path: str, **parameters: Any) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self._ask(path, **parameters)["result"]
        return found

    def _ask(self, path: str, **parameters: Any) -> dict[str, Any]:
        connection = http.client.HTTPConnection(HOST, self.port, timeout=30)
        try:
            connection.request("GET", f"{path}?{urllib.parse.urlencode(parameters)}")
            content = json.loads(connection.getresponse().read())
        finally:
            connection.close()
        if content["status"] != "success" or content.get("warnings"):
            raise RuntimeError(f"{parameters}: {content.get('error')} {content.get('warnings', '')}")
        answer: dict[str, Any] = content["data"]
        return answer

    def _serves(self) -> bool:
        if self._process is not None and self._process.poll() is not None:
            raise RuntimeError(f"Prometheus ended while it started:\n{self._log.read_text(encoding='utf-8')}")
        connection = http.client.HTTPConnection(HOST, self.port, timeout=5)
        try:
            connection.request("GET", "/-/ready")
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()

    def _end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
