"""`python -m tests.chaos.soak [--minutes 30]`: checks that nothing grows in a worker that runs for long with faults.

One worker is measured each second. A second one joins and leaves the group, the configuration is reloaded with and
without a tenant, tokens expire, and Graph and sign-in fail all the time. The exit code is 1 if the worker's memory,
threads or open files grew, if `/livez` did not answer 200, or if a row is missing or doubled.
"""

import argparse
import csv
import http.client
import os
import shutil
import signal
import statistics
import sys
import threading
import time
from contextlib import ExitStack
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

from tests import oracle
from tests.brokers import Cluster, wait_until
from tests.simulation import Simulation
from tests.workers import Worker, _is_read, configuration

OUT = Path(__file__).parent.parent.parent / "out" / "soak"
TOPIC, APP = "calls", "soak"
TENANTS, SHARDS, CALLS_PER_DAY = 200, 8, 5_000
_DEEPEST_OVERLAP_S = 600
_WARM_UP_S = _DEEPEST_OVERLAP_S + 120.0  # before that, each run of the deepest sweep has more rows than the last one
_EVERY_S = 45.0
_END_S = 600.0
_FAULTS: dict[str, Any] = {
    "throttled": 0.03,
    "retry_after_s": 1.0,
    "server_error": 0.03,
    "cut": 0.02,
    "garbage": 0.01,
    "slow": 0.03,
    "slow_s": 2.0,
    "sign_in_error": 0.1,
    "sign_in_throttled": 0.1,
    "repeat_once": 0.05,
}
_CALLS: dict[str, Any] = {
    "durations": "short",
    "lateness": "0.9:0s-5s,0.1:5s-50s",
    "moved": 0.0,
    "revised": 0.1,
    "revised_after": "1:1s-50s",
    "unfit": 0.005,
}


class Sample(NamedTuple):
    """State of the measured worker at one moment. `livez` is the HTTP status, 0 without a response within 5 s."""

    second: float
    rss_mib: float
    threads: int
    files: int
    livez: int


_GROWTH = {"rss_mib": (1.10, 10.0), "threads": (1.0, 2.0), "files": (1.10, 10.0)}
"Permitted growth: the median of the last quarter may be that of the first one times the factor, plus the summand."


def sample(worker: Worker, port: int, started: float) -> Sample:
    """Measure the worker."""
    process = Path(f"/proc/{worker.pid}")
    pages = int((process / "statm").read_text(encoding="utf-8").split()[1])
    rss_mib = pages * os.sysconf("SC_PAGE_SIZE") / 2**20
    second = time.monotonic() - started
    threads, files = (sum(1 for _ in (process / name).iterdir()) for name in ("task", "fd"))
    return Sample(second, rss_mib, threads, files, livez(port))


def report(line: str) -> None:
    """Print a line at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def livez(port: int) -> int:
    """Return the status of /livez, or 0 without a response."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/livez")
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return 0
    finally:
        connection.close()


def compare(samples: list[Sample]) -> list[str]:
    """Print the medians of the first and the last quarter, and return what grew."""
    warmed_up = [sample for sample in samples if sample.second >= _WARM_UP_S] or samples
    quarter = max(1, len(warmed_up) // 4)
    problems = []
    report(f"{'':10} {'first quarter':>14} {'last quarter':>14} {'most':>10}")
    for name, (factor, summand) in _GROWTH.items():
        values = [float(getattr(sample, name)) for sample in warmed_up]
        first, last = statistics.median(values[:quarter]), statistics.median(values[-quarter:])
        report(f"{name:10} {first:14.1f} {last:14.1f} {max(values):10.1f}")
        if last > first * factor + summand:
            problems.append(f"{name} grew from {first:.1f} to {last:.1f}")
    for status, what in ((http.client.SERVICE_UNAVAILABLE, "answered 503"), (0, "did not answer within 5 s")):
        count = sum(sample.livez == status for sample in samples)
        if count:
            problems.append(f"/livez {what} {count} times of {len(samples)}")
    return problems


def settings_of(bootstrap: str, source: Simulation) -> dict[str, Any]:
    """Return the configuration of both workers. Every row appears and changes within the deepest sweep's overlap.

    Tenants start before the first call, however long the start of the brokers takes.
    """
    sweeps = [
        {"every": "30s", "overlap": "2m"},
        {"every": "2m", "overlap": "5m"},
        {"every": "5m", "overlap": f"{_DEEPEST_OVERLAP_S}s"},
    ]
    return configuration(
        bootstrap,
        TOPIC,
        APP,
        source,
        tenants=[{"id": tenant, "start": "-9m"} for tenant in source.tenants],
        windows={"sweeps": sweeps},
        kafka={"shards": SHARDS, "properties": {}},
        graph={"timeout": "30s"},
    )


class Disturber:
    """Cause of rebalances, reloads and expired tokens: one of them every 45 s, in turn."""

    def __init__(self, source: Simulation, measured: Worker, other: Worker) -> None:
        self._source, self._measured, self._other = source, measured, other
        self._settings = dict(measured.settings)
        self._turns = (self._join, self._remove_tenant, source.expire_tokens, self._leave, self._add_tenant)
        self.count = 0

    def next(self) -> None:
        """Cause the next disturbance."""
        self._turns[self.count % len(self._turns)]()
        self.count += 1

    def settle(self) -> None:
        """Return to one worker that reads all tenants."""
        if self._other.running:
            self._leave()
        self._add_tenant()

    def _join(self) -> None:
        self._other.start()

    def _leave(self) -> None:
        self._other.stop(60)

    def _remove_tenant(self) -> None:
        self._reload(self._settings["tenants"][:-1])

    def _add_tenant(self) -> None:
        self._reload(self._settings["tenants"])

    def _reload(self, tenants: list[dict[str, Any]]) -> None:
        for worker in (self._measured, self._other):
            worker.configure({**self._settings, "tenants": tenants})
            if worker.running and worker.port is not None:
                worker.signal(signal.SIGHUP)


def observe(worker: Worker, disturber: Disturber, seconds: float) -> list[Sample]:
    """Measure a worker each second, and disturb it. Write the samples to a file as they come."""
    samples: list[Sample] = []
    port = worker.port or 0
    started, pause = time.monotonic(), threading.Event()
    done = threading.Event()

    def disturb() -> None:
        while not done.wait(_EVERY_S):
            disturber.next()

    thread = threading.Thread(target=disturb, name="disturber", daemon=True)
    thread.start()
    with (OUT / "samples.csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(Sample._fields)
        while time.monotonic() - started < seconds:
            assert worker.running, f"the worker ended with {worker.exit_code}; {worker.tail()}"
            samples.append(sample(worker, port, started))
            table.writerow(samples[-1])
            file.flush()
            pause.wait(1.0)
    done.set()
    thread.join(90)
    return samples


def soak(minutes: float) -> list[str]:
    """Run the soak. Print its figures and return what is wrong."""
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir(parents=True)
    with ExitStack() as stack:
        cluster = stack.enter_context(Cluster(fast_run=True, heap_mib=512))
        source = stack.enter_context(
            Simulation(tenants=TENANTS, days=300 / 86_400, calls_per_day=CALLS_PER_DAY, faults=_FAULTS, **_CALLS)
        )
        settings = settings_of(cluster.bootstrap, source)
        measured, other = Worker(OUT / "measured", settings), Worker(OUT / "other", settings)
        stack.callback(other.kill)
        stack.callback(measured.kill)
        measured.start()
        measured.until_ready()
        disturber = Disturber(source, measured, other)
        samples = observe(measured, disturber, 60 * minutes)
        problems = compare(samples)
        disturber.settle()
        problems += differences(cluster, source, measured)
        report(f"{len(samples)} samples, {disturber.count} disturbances")
        return problems


def _is_read_since(tenant: dict[str, Any], frozen_at: datetime) -> bool:
    """Return whether all call time whose rows may have changed shortly before `frozen_at` was read after it."""
    changeable = frozen_at - timedelta(seconds=_DEEPEST_OVERLAP_S / 2)
    pieces = [piece for piece in tenant.get("coverage", ()) if datetime.fromisoformat(piece["to"]) > changeable]
    return _is_read({**tenant, "coverage": pieces}, frozen_at)


def differences(cluster: Cluster, source: Simulation, worker: Worker) -> list[str]:
    """Wait until all is read and committed, and return how the topic differs from what Graph has shown."""
    frozen_at = source.freeze() + timedelta(seconds=1)
    source.clear_faults()

    def is_complete() -> bool:
        tenants = worker.status()["tenants"]
        return len(tenants) == TENANTS and all(_is_read_since(each, frozen_at) for each in tenants)

    wait_until(is_complete, "all call time to be read", _END_S, every_s=1.0)
    problems = [] if worker.stop(30) == 0 else [f"the worker ended with {worker.exit_code}"]
    found, truth = oracle.committed(cluster.bootstrap, TOPIC, APP), source.truth()
    tally = oracle.tally(found, truth)
    report(f"{tally.rows} rows published, {tally.missing} missing, {tally.doubled} doubled")
    return problems + oracle.differences(found, truth)


def main() -> int:
    """Run the soak; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0, help="duration (default 30)")
    problems = soak(parser.parse_args().minutes)
    report("\n".join(problems) or "nothing grew")
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main())
