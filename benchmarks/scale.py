"""Simulation of 1,000 tenants on 8 workers with 64 shards. It writes the tables of docs/scale.md.

1. Requests are computed for each size of tenant by the forecast of `connector plan`, which uses the real scheduler.
2. Commits are counted over an hour of sweeps. As in a shard, rows are committed at once, coverage within five seconds.
3. State is what a tenant of a size has written after 150 days. The real code writes it.
4. The time to restore the rows is computed from the rate in benchmarks/memory.json.
"""

import heapq
import json
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.gate import between
from benchmarks.memory import records
from connector.commands import plan_forecast, plan_volume
from connector.config.document import WindowsTable
from connector.core.windows import Rules, Sweep
from connector.kafka.control import partition_of

TENANTS, WORKERS, SHARDS = 1_000, 8, 64
_SIZES = (100, 300, 1_000, 3_000, 10_000, 30_000)
_SHARES = (0.30, 0.28, 0.22, 0.13, 0.06, 0.01)
_REQUESTS_PER_MINUTE, _CONCURRENCY = 45, 4
_DAYS = 150
_COVERAGE_S = 5.0
_HOUR_S = 3600.0
_BEGIN = datetime(2026, 3, 2, 10, 0, tzinfo=UTC)
_HERE = Path(__file__).parent
_PAGE = _HERE.parent / "docs" / "scale.md"
_MEMORY = _HERE / "memory.json"


class Size(NamedTuple):
    """Cost of one tenant of a size: requests to Graph, and records, bytes and rows of its dedup index."""

    calls_per_day: int
    requests_per_hour: float
    fits: bool
    seen_records: int
    seen_bytes: int
    rows: int


def size_of(calls_per_day: int, rules: Rules) -> Size:
    """Simulate one tenant, and return its cost after 150 days."""
    predicted = plan_forecast.predict(
        rules, plan_volume.evenly(calls_per_day), _REQUESTS_PER_MINUTE, _CONCURRENCY, _BEGIN, cycle_s=0.0
    )
    rows = calls_per_day * _DAYS
    newest = {record.key: len(record.value or b"") for record in records(1, rows, 1)}
    return Size(calls_per_day, predicted.total, predicted.fits, len(newest), sum(newest.values()), rows)


def commits(sizes: list[Size], every_s: float, random: np.random.Generator) -> int:
    """Simulate an hour of one shard with tenants of these sizes, and return its number of transactions.

    `every_s` is the cadence of the live sweep. Each of its runs finds new rows, or only adds coverage.
    """
    events: list[tuple[float, bool]] = []
    for size in sizes:
        chance = 1 - np.exp(-size.calls_per_day / 86_400 * every_s)
        for time_s in np.arange(random.uniform(0, every_s), _HOUR_S, every_s):
            heapq.heappush(events, (float(time_s), bool(random.random() < chance)))
    count, since_s = 0, None
    while events:
        time_s, has_rows = heapq.heappop(events)
        if since_s is not None and time_s > since_s + _COVERAGE_S:
            count, since_s = count + 1, None
        since_s = time_s if since_s is None else since_s
        if has_rows:
            count, since_s = count + 1, None
    return count + (since_s is not None)


def measured(seed: int) -> dict[str, Any]:
    """Distribute the tenants over the workers at random, and return the load of each worker."""
    random = np.random.default_rng(seed)
    sweeps = tuple(
        Sweep(table.every or timedelta(), table.overlap or timedelta())
        for table in WindowsTable.model_validate({}).sweeps
    )
    rules = Rules(sweeps, timedelta(), timedelta(days=1), timedelta(days=_DAYS))
    sizes = [size_of(calls, rules) for calls in _SIZES]
    every_s = min(sweep.every.total_seconds() for sweep in rules.sweeps)
    shards: list[list[Size]] = [[] for _ in range(SHARDS)]
    for _ in range(TENANTS):
        tenant = str(uuid.UUID(bytes=random.bytes(16)))
        shards[partition_of(tenant, SHARDS)].append(sizes[int(random.choice(len(sizes), p=_SHARES))])
    memory = json.loads(_MEMORY.read_text(encoding="utf-8"))
    biggest = max(memory, key=lambda shape: shape["rows"])
    bytes_a_row = max(shape["resident_bytes"] / shape["rows"] for shape in memory if shape["tenants"] > 1)
    workers = []
    for number in range(WORKERS):
        own = shards[number::WORKERS]
        tenants = [size for shard in own for size in shard]
        rows = sum(size.rows for size in tenants)
        workers.append(
            {
                "shards": len(own),
                "tenants": len(tenants),
                "calls_per_day": sum(size.calls_per_day for size in tenants),
                "requests_per_second": sum(size.requests_per_hour for size in tenants) / _HOUR_S,
                "commits_per_second": sum(commits(shard, every_s, random) for shard in own) / _HOUR_S,
                "remembered_rows": rows,
                "memory_mib": rows * bytes_a_row / 2**20,
                "seen_mib": sum(size.seen_bytes for size in tenants) / 2**20,
                "restore_s": rows / (biggest["rows"] / biggest["seconds"]),
            }
        )
    return {"seed": seed, "sizes": [size._asdict() for size in sizes], "workers": workers}


def tables(found: dict[str, Any]) -> str:
    """Return the tables of docs/scale.md."""
    lines = _header(
        "calls a day", "share", "requests/h", "of the budget", "remembered rows", "`seen` records", "in time"
    )
    for size, share in zip(found["sizes"], _SHARES, strict=True):
        used = size["requests_per_hour"] / (_REQUESTS_PER_MINUTE * 60)
        cells = [
            f"{size['calls_per_day']:,}",
            f"{share:.0%}",
            f"{size['requests_per_hour']:.0f}",
            f"{used:.0%}",
            f"{size['rows']:,}",
            f"{size['seen_records']:,} ({size['seen_bytes'] / 2**20:.1f} MiB)",
            "yes" if size["fits"] else "no",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", *_header("worker", "tenants", "calls a day", "requests/s", "commits/s", "rows", "memory", "restore")]
    for number, worker in enumerate(found["workers"]):
        cells = [
            str(number),
            str(worker["tenants"]),
            f"{worker['calls_per_day']:,}",
            f"{worker['requests_per_second']:.1f}",
            f"{worker['commits_per_second']:.1f}",
            f"{worker['remembered_rows']:,}",
            f"{worker['memory_mib']:,.0f} MiB",
            f"{worker['restore_s']:.0f} s",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _header(*names: str) -> list[str]:
    return [f"| {' | '.join(names)} |", f"| {' | '.join('---' for _ in names)} |"]


def main() -> None:
    found = measured(1)
    (_HERE / "scale.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    text = _PAGE.read_text(encoding="utf-8")
    _PAGE.write_text(between(text, "scale", tables(found)), encoding="utf-8")
    print(tables(found))


if __name__ == "__main__":
    main()
