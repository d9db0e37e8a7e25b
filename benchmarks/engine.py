"""Benchmark of the connector: the real service, from its first request to Graph until its last commit. Prints JSON.

The clocks of service and simulator stand still, and show the same time. Each run therefore requests the same windows,
whose pages the simulator keeps in memory.
"""

import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from benchmarks.rig import PARTITIONS, Rig, rig_from_arguments
from connector import config, log
from connector.core.rows import InvalidRow
from connector.metrics.tenant import TenantMetrics
from connector.pipeline.row_encoder import EncodedRow, FoundRow, RowEncoder
from connector.worker import service

SLOWDOWN = "BENCH_SLOWDOWN_US"

_TENANT = """
[[tenants]]
id = "{tenant}"
start = "{since}"
"""
_CONFIGURATION = """
[graph]
base_url = "{rig.url}"
authority = "{rig.url}"
ca_bundle = "{rig.ca}"
requests_per_minute = 1000000
[identity]
client_id = "{rig.client_id}"
client_secret = "{rig.client_secret}"
[windows]
slice = "4h"
[kafka]
bootstrap_servers = "{rig.bootstrap}"
topic = "{topic}"
app = "{topic}"
partitions = {partitions}
shards = {shards}
delivery = "{delivery}"
[http]
listen = "127.0.0.1:0"
[log]
level = "warning"
"""


class _Marks:
    """Times of the first request and of the last commit with rows."""

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


def _slow_down(us_a_row: float) -> None:
    """Make the encoding of each row use more processor time, to test that `make bench-check` detects this."""
    encode = RowEncoder.encode

    def slow(encoder: RowEncoder, rows: Sequence[FoundRow], *arguments: Any) -> list[EncodedRow | InvalidRow]:
        until = time.thread_time() + len(rows) * us_a_row / 1e6
        while time.thread_time() < until:
            pass
        return encode(encoder, rows, *arguments)

    RowEncoder.encode = slow  # type: ignore[method-assign,assignment]


def main(rig: Rig, topic: str, shards: int, delivery: str) -> dict[str, Any]:
    """Run the service, and return the number of rows, the seconds and the processor seconds."""
    text = _CONFIGURATION.format(rig=rig, topic=topic, partitions=PARTITIONS, shards=shards, delivery=delivery)
    text += "".join(_TENANT.format(tenant=tenant, since=rig.since) for tenant in rig.tenants)
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "connector.toml"
        path.write_text(text, encoding="utf-8")
        settings = config.load(path, {})
    if SLOWDOWN in os.environ:
        _slow_down(float(os.environ[SLOWDOWN]))
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
    print(json.dumps(main(rig_from_arguments(), sys.argv[2], int(sys.argv[3]), sys.argv[4])))
