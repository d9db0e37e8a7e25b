"""Command `python -m benchmarks.fleet [NAME…]`, which runs the named benchmarks, or all, and prints the results."""

import argparse
import os
import signal
import statistics
from collections.abc import Callable

from benchmarks.fleet import crowd, moves
from tests.brokers import Cluster

_AS_SHIPPED = {"group.consumer.heartbeat.interval.ms": "5000"}
"Kafka's default settings, for which the brokers of the tests have other values."
_MILLION = 1_000_000
_TENANTS = 500


def _times(what: str, limit_s: float, seconds: list[float], *, of: str = "median") -> None:
    value = statistics.median(seconds) if of == "median" else max(seconds)
    spread = f"{min(seconds):.1f} to {max(seconds):.1f} of {len(seconds)}"
    _line(what, f"{of} {value:.1f} s ({spread})", f"{limit_s:g} s", holds=value <= limit_s)


def _line(what: str, figure: str, limit: str, *, holds: bool) -> None:
    print(f"{what:58} {figure:34} at most {limit:9} {'holds' if holds else 'DOES NOT HOLD'}", flush=True)


def _takeover(cluster: Cluster, repetitions: int) -> None:
    seconds = moves.takeover(cluster, repetitions, remembered=_MILLION, how=signal.SIGKILL, newer=False)
    _times("takeover after kill -9, 1 M remembered rows a shard", 10, seconds)


def _stop(cluster: Cluster, repetitions: int) -> None:
    seconds = moves.takeover(cluster, repetitions, remembered=10_000, how=signal.SIGTERM, newer=False)
    _times("planned stop, classic protocol", 3, seconds)


def _stop_newer(cluster: Cluster, repetitions: int) -> None:
    seconds = moves.takeover(cluster, repetitions, remembered=10_000, how=signal.SIGTERM, newer=True)
    _times("planned stop, KIP-848", 8, seconds)


def _rolling(cluster: Cluster, repetitions: int) -> None:
    seconds = moves.rolling_restart(cluster, max(1, repetitions // 3))
    _times("rolling restart of three: longest pause of a tenant", 4, seconds, of="most")


def _idle(cluster: Cluster, _repetitions: int) -> None:
    found = crowd.idle(cluster, _TENANTS, 10_000, 120)
    print(f"{_TENANTS} idle tenants: restored after {found.restored_s:.1f} s, peak {found.peak_mb:.0f} MB")
    _line(f"{_TENANTS} idle tenants: memory", f"{found.memory_mb:.0f} MB", "400 MB", holds=found.memory_mb <= 400)
    _line(f"{_TENANTS} idle tenants: processor", f"{found.cores:.1%} of a core", "20 %", holds=found.cores <= 0.2)
    _line(
        f"{_TENANTS} tenants: a scrape holds up others", f"{found.held_ms:.0f} ms", "250 ms", holds=found.held_ms < 250
    )


def _cold(cluster: Cluster, _repetitions: int) -> None:
    seconds = crowd.cold(cluster, _TENANTS)
    _times(f"{_TENANTS} tenants, cold: the last one's first request", 60, [seconds])


def _storms(cluster: Cluster, _repetitions: int) -> None:
    for name, change in crowd.storms(cluster, 60).items():
        _line(f"delay of 19 others, one tenant's {name}", f"{change:+.1%}", "10 %", holds=change < 0.1)


_FIGURES: dict[str, Callable[[Cluster, int], None]] = {
    "takeover": _takeover,
    "stop": _stop,
    "stop-newer": _stop_newer,
    "rolling": _rolling,
    "idle": _idle,
    "cold": _cold,
    "storms": _storms,
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fleet", description=__doc__)
    parser.add_argument("what", nargs="*", choices=[*_FIGURES, []], help="all unless named")
    parser.add_argument("--repetitions", type=int, default=10)
    options = parser.parse_args()
    print(f"load before: {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors", flush=True)
    for what in options.what or _FIGURES:
        with Cluster(fast_run=True, heap_mib=512, properties=_AS_SHIPPED) as cluster:
            _FIGURES[what](cluster, options.repetitions)


if __name__ == "__main__":
    main()
