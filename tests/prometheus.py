"""A real Prometheus that scrapes workers every second, in a process of its own."""

import http.client
import json
import urllib.parse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.brokers import HOST, free_ports, wait_until
from tests.processes import Process, Startable, start_process
from tests.system_software import program

JOB = "direct-routing-connector"
SCRAPE_S = 1


class Prometheus(Startable):
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
        self._process: Process | None = None

    def start(self) -> None:
        """Start the process, and wait until it serves."""
        (self.port,) = free_ports(1)
        command = [
            str(program("prometheus")),
            f"--config.file={self.folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={self.folder / 'data'}",
            f"--web.listen-address={HOST}:{self.port}",
            "--log.level=warn",
        ]
        self._process = start_process(command, self._log)
        wait_until(self._serves, "Prometheus to serve", 60)

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

    def close(self) -> None:
        """Kill the process. Its files stay."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
