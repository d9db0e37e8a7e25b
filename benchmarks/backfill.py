"""Benchmark of a backfill: `python -m benchmarks.backfill budget | memory`.

`budget` measures which share of `requests_per_minute` (48; the simulator allows 50) the backfill uses: in its first
minute, and before and after a restart of the worker. It takes about six minutes. `memory` measures the resident memory
of the worker while a backfill reads a million rows.
"""

import json
import statistics
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from tests import commands
from tests.brokers import Cluster, wait_until
from tests.simulation import Simulation
from tests.workers import Worker, configuration

PER_MINUTE = 48
ENFORCED = 50
RESTART_AFTER = 90
"Number of requests to Graph after which the worker is restarted."


@contextmanager
def scene(name: str, source_options: dict[str, Any], **sections: Any) -> Iterator[tuple[Simulation, Worker]]:
    """Start a broker and a simulator. Yield the simulator and a worker, which the caller has to start.

    `source_options` are those of the simulator, `sections` are tables of the worker's configuration.
    """
    with (
        tempfile.TemporaryDirectory() as folder,
        Cluster() as cluster,
        Simulation(**source_options) as source,
    ):
        settings = configuration(cluster.bootstrap, f"calls-{name}", f"app-{name}", source, **sections)
        settings["tenants"] = [{"id": source.tenants[0], "name": "contoso", "start": "-1h"}]
        worker = Worker(Path(folder) / "worker", settings)
        try:
            yield source, worker
        finally:
            worker.kill()


def job_of(worker: Worker, job: str) -> dict[str, Any]:
    return next((entry for entry in worker.status().get("jobs", ()) if entry["id"] == job), {})


def budget() -> dict[str, Any]:
    options = {"requests_per_minute": ENFORCED, "days": 22, "calls_per_day": 10_000, "lateness": "none", "revised": 0.0}
    sweeps = [{"every": "30s", "overlap": "10m"}, {"every": "5m", "overlap": "30m"}]
    graph = {"requests_per_minute": PER_MINUTE}
    with scene("budget", options, windows={"sweeps": sweeps}, graph=graph) as (source, worker):
        worker.start()
        worker.until_ready()
        worker.until(lambda: worker.metric("sweeps_total", outcome="ok") >= 2, "the first sweeps")
        job = commands.succeed(worker.config, "backfill", "--tenant", "contoso", "--from", "-20d", "--to", "-2h")
        worker.until(lambda: bool(job_of(worker, job).get("started")), "the backfill to begin")
        started_at = datetime.now(UTC)
        worker.until(lambda: since(source, started_at) >= RESTART_AFTER, "half of the backfill", 300)
        stopped = datetime.now(UTC)
        worker.stop()
        worker.start()
        worker.until_ready()
        resumed = datetime.now(UTC)
        worker.until(lambda: job_of(worker, job).get("state") == "done", "the backfill to end", 600)
        ended = datetime.now(UTC)
        requests = source.requests()
    spans = {
        "before": (started_at, stopped),
        "after": (resumed, ended),
        "first minute": (started_at, started_at + timedelta(minutes=1)),
    }
    return {
        "refused with 429": sum(request.status == 429 for request in requests),
        "most requests in any 60 s": most_in_a_minute([request.at for request in requests]),
        "standing still for the restart, s": round((resumed - stopped).total_seconds(), 1),
    } | {
        f"used of {PER_MINUTE} a minute, {name}": round(
            sum(a <= request.at < b for request in requests) / (b - a).total_seconds() * 60 / PER_MINUTE, 3
        )
        for name, (a, b) in spans.items()
    }


def since(source: Simulation, started_at: datetime) -> int:
    return sum(request.at >= started_at for request in source.requests())


def most_in_a_minute(moments: list[datetime]) -> int:
    moments = sorted(moments)
    return max(sum(a <= b < a + timedelta(minutes=1) for b in moments) for a in moments)


def memory() -> dict[str, Any]:
    options = {"days": 21, "calls_per_day": 53_000, "lateness": "none", "revised": 0.0, "frozen": True}
    with scene("memory", options) as (_, worker):
        worker.start()
        worker.until_ready()
        before = resident_mib(worker)
        job = commands.succeed(worker.config, "backfill", "--tenant", "contoso", "--from", "-20d", "--to", "-2h")
        samples: list[int] = []

        def is_done() -> bool:
            samples.append(resident_mib(worker))
            return job_of(worker, job).get("state") == "done"

        wait_until(is_done, "the backfill to end", 1_500, every_s=0.5)
        return {
            "rows": job_of(worker, job)["rows"],
            "resident before, MiB": before,
            "median, MiB": round(statistics.median(samples)),
            "most, MiB": max(samples),
        }


def resident_mib(worker: Worker) -> int:
    status = Path(f"/proc/{worker.pid}/status").read_text(encoding="utf-8")
    return int(status.split("VmRSS:")[1].split()[0]) >> 10


if __name__ == "__main__":
    print(json.dumps({"budget": budget, "memory": memory}[sys.argv[1]](), indent=2))
