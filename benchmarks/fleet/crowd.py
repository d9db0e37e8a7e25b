"""Benchmarks of one worker with many tenants: its memory and processor time, its start, and the effect of failures."""

import os
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from benchmarks.fleet.moves import FLOWING, SWEEPS, rest
from benchmarks.fleet.yard import Reader, Yard, open_yard
from tests.brokers import Cluster
from tests.workers import Worker

DEFAULT_SWEEPS = (
    {"every": "1m", "overlap": "15m"},
    {"every": "15m", "overlap": "3h"},
    {"every": "2h", "overlap": "48h"},
    {"every": "24h", "overlap": "7d"},
)
QUIET = {"days": 0, "calls_per_day": 0}
SHARDS = 8
_SCRAPE_EVERY_S = 15.0
_TICKS = os.sysconf("SC_CLK_TCK")
_DEADLINE_S = 300.0


class Idle(NamedTuple):
    """Results for a worker whose tenants have no new rows. `cores` is the mean number of processor cores in use."""

    restored_s: float
    memory_mb: float
    peak_mb: float
    cores: float
    held_ms: float
    "The longest response time of /livez while /metrics was scraped, in milliseconds."


def idle(cluster: Cluster, tenants: int, remembered: int, seconds: float) -> Idle:
    """Run tenants without new rows, with the default sweeps, and measure for `seconds`.

    The dedup index has `remembered` rows per tenant. The metrics are scraped every 15 s.
    """
    with open_yard(cluster, tenants=tenants, **QUIET) as yard:
        yard.remember(SHARDS, remembered, DEFAULT_SWEEPS)
        worker = yard.worker(shards=SHARDS)
        started = time.monotonic()
        worker.start()
        worker.until(lambda: len(worker.named("shard_restored")) == SHARDS, "every shard to be restored", _DEADLINE_S)
        restored_s = time.monotonic() - started
        pid = worker.pid or 0
        # The first runs of the sweeps read up to seven days, so they are not part of the measurement.
        worker.until(lambda: _swept(worker, tenants), "the first sweeps", _DEADLINE_S)
        peak_mb = _memory_mb(pid, "VmHWM")
        used, since = _processor_s(pid), time.monotonic()
        with _probing(worker) as held:
            while time.monotonic() - since < seconds:
                rest(_SCRAPE_EVERY_S)
                with held.watched():
                    worker.get("/metrics")
        cores = (_processor_s(pid) - used) / (time.monotonic() - since)
        return Idle(restored_s, _memory_mb(pid, "VmRSS"), peak_mb, cores, 1000 * held.longest_s)


def cold(cluster: Cluster, tenants: int) -> float:
    """Start a worker without state. Return the seconds until every tenant has sent its first request.

    Sign-in takes 200 ms per token.
    """
    with open_yard(cluster, tenants=tenants, **QUIET, faults={"sign_in_slow": 1.0, "slow_s": 0.2}) as yard:
        worker = yard.worker(shards=SHARDS)
        started = time.time()
        worker.start()

        def asked() -> set[str]:
            return {request.tenant for request in yard.source.requests() if request.tenant}

        worker.until(lambda: len(asked()) == tenants, "a request of every tenant", _DEADLINE_S)
        return time.time() - started


STORMS: dict[str, dict[str, object]] = {
    "429 without end": {"throttled": 1.0, "retry_after": "none"},
    "sign-in that never answers": {"sign_in_hang": 1.0},
    "403": {"forbidden": 1.0},
    "endless pages": {"endless": 1.0},
}


def storms(cluster: Cluster, seconds: float) -> dict[str, float]:
    """Return for each kind of failure by how much it delays the rows of other tenants, while one tenant fails.

    The delay of a row is the time from its appearance in Graph until it can be read on the topic. The result is the
    mean delay with the failure, divided by the mean delay without it, minus 1. Periods with and without the failure
    alternate.
    """
    with open_yard(cluster, tenants=20, **FLOWING) as yard:
        worker = yard.worker(shards=1, sweeps=SWEEPS)
        worker.start()
        worker.until_ready()
        worst, *others = yard.source.tenants
        changes = {}
        with yard.reader() as reader:
            rest(10)
            for name, faults in STORMS.items():
                undisturbed, disturbed = [], []
                for _ in range(3):
                    undisturbed.append(_span(seconds / 3))
                    yard.source.set_faults(worst, **faults)
                    if "sign_in_hang" in faults:
                        yard.source.expire_tokens()
                    disturbed.append(_span(seconds / 3))
                    yard.source.clear_faults()
                    rest(2)
                delay = _delays(yard, reader, others)
                changes[name] = delay(disturbed) / delay(undisturbed) - 1
            reader.check()
        return changes


def _span(seconds: float) -> tuple[float, float]:
    since = time.time()
    rest(seconds)
    return since, time.time()


def _delays(yard: Yard, reader: Reader, tenants: list[str]) -> Callable[[list[tuple[float, float]]], float]:
    visible = {
        (tenant, row.id, row.version): row.visible.timestamp()
        for tenant, rows in yard.source.truth(*tenants).items()
        for row in rows
    }
    delays = [(s.at, s.at - visible[s[1:]]) for s in reader.rows_read if s[1:] in visible]

    def mean(spans: list[tuple[float, float]]) -> float:
        return statistics.fmean(delay for at, delay in delays for since, until in spans if since <= at <= until)

    return mean


def _swept(worker: Worker, tenants: int) -> bool:
    ended = [value for _, value in worker.series("sweeps_total", every="24h", outcome="ok")]
    return len(ended) == tenants and all(ended)


class _Held:
    """Longest response time of /livez, measured only inside of the context manager `watched`."""

    def __init__(self) -> None:
        self.longest_s = 0.0
        self._watching = threading.Event()

    @contextmanager
    def watched(self) -> Iterator[None]:
        self._watching.set()
        try:
            yield
        finally:
            self._watching.clear()

    @property
    def is_watching(self) -> bool:
        return self._watching.is_set()

    def heard(self, seconds: float) -> None:
        if self.is_watching:
            self.longest_s = max(self.longest_s, seconds)


@contextmanager
def _probing(worker: Worker) -> Iterator[_Held]:
    held, stop = _Held(), threading.Event()

    def probe() -> None:
        while not stop.wait(0.02 if held.is_watching else 0.2):
            since = time.monotonic()
            worker.get("/livez")
            held.heard(time.monotonic() - since)

    thread = threading.Thread(target=probe, daemon=True)
    thread.start()
    try:
        yield held
    finally:
        stop.set()
        thread.join()


def _processor_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def _memory_mb(pid: int, what: str) -> float:
    lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(what)) / 1024
