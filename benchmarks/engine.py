"""The connector: the real service as a process, from its first request to Graph to its last commit. Prints JSON.

Its wall clock stands still with the simulator's, so that each run asks for the same windows and gets pre-built pages.
"""

import json
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path
from typing import Any

from benchmarks.rig import PARTITIONS, Rig, told
from connector import config, log, service
from connector.metrics import TenantMetrics

_CONFIGURATION = """
[graph]
base_url = "{rig.url}"
authority = "{rig.url}"
ca_bundle = "{rig.ca}"
requests_per_minute = 1000000
[identity]
client_id = "{rig.client_id}"
client_secret = "{rig.client_secret}"
[[tenants]]
id = "{rig.tenant}"
start = "{rig.since}"
[windows]
slice = "1h"
[kafka]
bootstrap_servers = "{rig.bootstrap}"
topic = "{topic}"
app = "{topic}"
partitions = {partitions}
[http]
listen = "127.0.0.1:0"
[log]
level = "warning"
"""


class _Marks:
    """When the first request left, and when the last rows were committed."""

    def __init__(self) -> None:
        self.began: tuple[float, float] | None = None
        self.ended = (0.0, 0.0)
        self.rows = 0
        finished, committed = TenantMetrics.request_finished, TenantMetrics.rows_committed

        def request_finished(metrics: TenantMetrics, lane: str, status: str, seconds: float) -> None:
            if self.began is None:
                self.began = (time.monotonic() - seconds, time.process_time())
            finished(metrics, lane, status, seconds)

        def rows_committed(metrics: TenantMetrics, **counts: int) -> None:
            if counts["published"]:
                self.ended = (time.monotonic(), time.process_time())
                self.rows += counts["published"]
            committed(metrics, **counts)

        TenantMetrics.request_finished = request_finished  # type: ignore[method-assign,assignment]
        TenantMetrics.rows_committed = rows_committed  # type: ignore[method-assign,assignment]


def main(rig: Rig, topic: str) -> dict[str, Any]:
    """Rows, seconds and seconds of processor time."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "connector.toml"
        path.write_text(_CONFIGURATION.format(rig=rig, topic=topic, partitions=PARTITIONS), encoding="utf-8")
        settings = config.load(path, {})
    log.configure(settings.log.format, settings.log.level)
    marks = _Marks()
    until = datetime.fromisoformat(rig.until)
    code = service.run(settings, once=True, now=lambda: until)
    if code or marks.began is None:
        raise SystemExit(f"the service ended with {code}")
    return {
        "rows": marks.rows,
        "seconds": marks.ended[0] - marks.began[0],
        "cpu_seconds": marks.ended[1] - marks.began[1],
    }


if __name__ == "__main__":
    print(json.dumps(main(told(), sys.argv[2])))
