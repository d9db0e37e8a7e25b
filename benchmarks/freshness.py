"""Benchmark of the delay of rows: from their appearance in Graph until a `read_committed` consumer receives them.

One worker reads 50 tenants with a sweep every 2 s. Simulator, connector and consumer share one clock. Only rows that
appear after all older call time was read are counted. Writes freshness.json and its picture.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from confluent_kafka import Consumer

from benchmarks.rig import Rig, simulator
from connector.kafka import avro
from tests.brokers import Cluster

_RESULTS = Path(__file__).with_name("freshness.json")
_PICTURE = Path(__file__).parents[1] / "docs" / "images" / "freshness.png"
_TOPIC = "freshness"
_CONFIGURATION = """
[graph]
base_url = "{rig.url}"
authority = "{rig.url}"
ca_bundle = "{rig.ca}"
[identity]
client_id = "{rig.client_id}"
client_secret = "{rig.client_secret}"
[[windows.sweeps]]
every = "2s"
overlap = "2m"
[[windows.sweeps]]
every = "5m"
overlap = "1h"
[kafka]
bootstrap_servers = "{rig.bootstrap}"
topic = "freshness"
app = "freshness"
[http]
listen = "127.0.0.1:0"
[log]
level = "warning"
"""
_TENANT = """
[[tenants]]
id = "{}"
start = "-5m"
"""


def _read(bootstrap: str, seconds: float) -> dict[tuple[str, str, int], float]:
    """Read the topic for `seconds`. Return when each version arrived, by tenant, id and revision, as Unix time."""
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": "freshness-reader",
            "isolation.level": "read_committed",
            "auto.offset.reset": "earliest",
            "topic.metadata.refresh.interval.ms": 1000,
            "fetch.wait.max.ms": 10,
        }
    )
    consumer.subscribe([_TOPIC])
    decode = avro.decoder(avro.ROW)
    read: dict[tuple[str, str, int], float] = {}
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        messages = consumer.consume(1000, timeout=0.02)
        now = time.time()
        for message in messages:
            if message.error() is None:
                row = decode(message.value() or b"")
                read[row["tenantId"], row["id"], row["revision"]] = now
    consumer.close()
    return read


def _delays(rig: Rig, read: dict[tuple[str, str, int], float], since: float, until: float) -> tuple[list[float], int]:
    """Return the delays of rows that appeared in Graph from `since` to `until`, and how many of them never arrived."""
    delays, missing = [], 0
    for tenant in rig.tenants:
        for text in rig.lines(f"/simulator/truth?tenant={tenant}"):
            version = msgspec.json.decode(text)
            visible = datetime.fromisoformat(version["visible"]).timestamp()
            if not since <= visible < until:
                continue
            at = read.get((tenant, version["id"], version["version"]))
            if at is None:
                missing += 1
            else:
                delays.append(at - visible)
    return delays, missing


def measure(tenants: int, calls_per_day: int, seconds: float, settle: float) -> dict[str, Any]:
    """Run the service for `settle` + `seconds`, and measure the delays after the first `settle` seconds."""
    options = ["--tenants", str(tenants), "--calls-per-day", str(calls_per_day), "--days", "0.1", "--seed", "1"]
    # There are no revisions, because they appear later than the two minutes that the faster sweep reads.
    options += ["--lateness", "1:0s-30s", "--durations", "short", "--revised", "0"]
    with (
        tempfile.TemporaryDirectory() as name,
        Cluster(fast_run=True, heap_mib=512) as cluster,
        simulator(options, Path(name)) as info,
    ):
        rig = Rig.of(info, cluster.bootstrap)
        path = Path(name) / "connector.toml"
        path.write_text(_CONFIGURATION.format(rig=rig) + "".join(map(_TENANT.format, rig.tenants)), encoding="utf-8")
        with subprocess.Popen([sys.executable, "-m", "connector", "run", "--config", str(path)]) as process:
            try:
                began = time.time()
                read = _read(cluster.bootstrap, settle + seconds)
            finally:
                process.terminate()
        delays, missing = _delays(rig, read, began + settle, began + settle + seconds - 5)
    return {
        "tenants": tenants,
        "calls_per_day": calls_per_day,
        "rows": len(delays),
        "missing": missing,
        "p50_s": round(float(np.quantile(delays, 0.5)), 3),
        "p99_s": round(float(np.quantile(delays, 0.99)), 3),
        "delays_s": sorted(round(delay, 3) for delay in delays),
    }


def main() -> None:
    from benchmarks import plots  # noqa: PLC0415 - matplotlib is there for benchmarks alone

    parser = argparse.ArgumentParser(prog="benchmarks.freshness", description=__doc__)
    parser.add_argument("--tenants", type=int, default=50)
    parser.add_argument("--calls-per-day", type=int, default=5_000, help="of each tenant")
    parser.add_argument("--seconds", type=float, default=90)
    parser.add_argument("--settle", type=float, default=45)
    options = parser.parse_args()
    found = measure(options.tenants, options.calls_per_day, options.seconds, options.settle)
    _RESULTS.write_text(json.dumps(found) + "\n", encoding="utf-8")
    plots.delays(found["delays_s"], _PICTURE)
    print(f"{found['rows']} rows, {found['missing']} not read: p50 {found['p50_s']} s, p99 {found['p99_s']} s")


if __name__ == "__main__":
    main()
