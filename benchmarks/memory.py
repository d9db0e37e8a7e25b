"""Benchmark of the dedup index: its resident bytes per row, and how many rows per second are restored from a broker.

`python -m benchmarks.memory` measures several shapes, each in a process of its own. A shape is a number of tenants and
a number of rows per tenant. The results are written to memory.json, and drawn as a picture.
"""

import argparse
import gc
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from confluent_kafka import Producer

from benchmarks.rig import topic_of
from connector.core.fingerprints import ENTRY, LAYOUT
from connector.kafka import seen
from connector.kafka.clients import Clients
from connector.kafka.restore import read_compacted, trim_heap
from connector.kafka.seen import SeenLog
from tests.brokers import Cluster

_RESULTS = Path(__file__).with_name("memory.json")
_PICTURE = Path(__file__).parents[1] / "docs" / "images" / "memory.png"
_HORIZON_HOURS = 150 * 24
_FIRST_HOUR = 490_000
_COMMIT_ROWS = 5_000
SHAPES = ((1, 1_000_000), (1, 5_000_000), (1, 10_000_000), (500, 10_000))


def resident_bytes() -> int:
    """Return the resident memory of this process, in bytes."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGESIZE")


def records(tenants: int, rows: int, seed: int) -> Any:
    """Yield the records that commits of 5,000 rows each write to the seen topic. The calls are spread over 150 days."""
    random = np.random.default_rng(seed)
    for number in range(tenants):
        log = SeenLog(f"{number:08d}-1111-1111-1111-111111111111")
        log.fit_width(rows, _HORIZON_HOURS)
        for first in range(0, rows, _COMMIT_ROWS):
            count = min(_COMMIT_ROWS, rows - first)
            entries = np.zeros(count, ENTRY)
            for name, bits in (("hi", 64), ("lo", 32), ("fp", 64)):
                entries[name] = random.integers(0, 2**bits, count, np.uint64)
            entries["meta"] = LAYOUT
            began = _FIRST_HOUR + np.sort(random.integers(first, first + count, count)) * _HORIZON_HOURS // rows
            written = log.write(entries, began.astype(np.uint32))
            log.apply(written)
            yield from written.records


def fill(bootstrap: str, topic: str, tenants: int, rows: int, seed: int) -> None:
    """Write to the topic what remains after compaction: the newest record of each key."""
    newest = {record.key: record.value for record in records(tenants, rows, seed)}
    producer = Producer({"bootstrap.servers": bootstrap, "linger.ms": 20, "queue.buffering.max.kbytes": 1_000_000})
    for key, value in newest.items():
        while True:
            try:
                producer.produce(topic, value, key, 0)
                break
            except BufferError:
                producer.poll(0.1)
    producer.flush()


def restore(bootstrap: str, topic: str) -> dict[str, Any]:
    """Restore the dedup index in the same way as a shard, and return the time and memory that this takes."""
    for _ in range(2):  # memory that the process needs only once is thus allocated before the measurement
        seen.restore({record.key: record.value for record in records(2, 20_000, 2) if record.value})
    clients = Clients(bootstrap, {})
    gc.collect()
    before, began, cpu_began = resident_bytes(), time.monotonic(), time.process_time()
    values = read_compacted(clients, (topic,), 0)[topic]
    count, read_s = len(values), time.monotonic() - began
    restored = seen.restore(values)
    del values
    trim_heap()
    seconds, cpu_seconds = time.monotonic() - began, time.process_time() - cpu_began
    gc.collect()
    rows = sum(len(remembered) for remembered, _ in restored.values())
    return {
        "rows": rows,
        "records": count,
        "seconds": seconds,
        "read_seconds": read_s,
        "cpu_seconds": cpu_seconds,
        "resident_bytes": resident_bytes() - before,
        "array_bytes": sum(remembered.nbytes for remembered, _ in restored.values()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.memory", description=__doc__)
    parser.add_argument("--restore", nargs=2, metavar=("BOOTSTRAP", "TOPIC"), help="in a process of its own")
    shapes = [f"{tenants}x{rows}" for tenants, rows in SHAPES]
    parser.add_argument("--shapes", nargs="+", default=shapes, metavar="TENANTSxROWS", help="rows are of each tenant")
    options = parser.parse_args()
    if options.restore:
        print(json.dumps(restore(*options.restore)))
        return
    from benchmarks import plots  # noqa: PLC0415 - matplotlib is there for benchmarks alone

    measured = []
    with Cluster(fast_run=True, heap_mib=512) as cluster:
        for tenants, rows in (map(int, shape.split("x")) for shape in options.shapes):
            topic = topic_of(cluster.bootstrap, f"seen-{tenants}-{rows}", 1)
            fill(cluster.bootstrap, topic, tenants, rows, 1)
            command = [sys.executable, "-m", "benchmarks.memory", "--restore", cluster.bootstrap, topic]
            run = subprocess.run(command, capture_output=True, text=True, check=True)
            found = {"tenants": tenants, **json.loads(run.stdout.splitlines()[-1])}
            measured.append(found)
            print(line(found), flush=True)
            _RESULTS.write_text(json.dumps(measured, indent=2) + "\n", encoding="utf-8")
            plots.memory(measured, _PICTURE)


def line(found: dict[str, Any]) -> str:
    """Return the results for one shape as a line of text."""
    rows = found["rows"]
    return (
        f"{found['tenants']} tenants, {rows:,} rows in {found['records']:,} records: "
        f"{found['resident_bytes'] / rows:.1f} bytes a row, {rows / found['seconds']:,.0f} rows/s, "
        f"{rows / found['cpu_seconds']:,.0f} rows a second of processor time"
    )


if __name__ == "__main__":
    main()
