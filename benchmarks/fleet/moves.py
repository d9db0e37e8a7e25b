"""Benchmarks of pauses: how long no rows of a tenant arrive after a worker crashes, stops or is restarted.

The rows are received by a `read_committed` consumer.
"""

import itertools
import signal
import time
from collections.abc import Iterable

from benchmarks.fleet.yard import Reader, open_yard
from tests.brokers import Cluster, wait_until
from tests.workers import Worker

SWEEPS = ({"every": "1s", "overlap": "30s"}, {"every": "1m", "overlap": "10m"})
# Each tenant has eight calls per second, which last a second or two. Their rows appear at once, so that every run of a
# sweep finds new rows.
FLOWING = {"days": 0, "calls_per_day": 700_000, "lateness": "1:0s-0s", "durations": "1:1s-2s", "revised": 0.0}
NEWER_PROTOCOL = {"properties": {"group.protocol": "consumer"}}
_WARM_S = 5.0
_DEADLINE_S = 120.0


def owned(worker: Worker) -> list[int]:
    """Return the shards that a worker owns."""
    return list(worker.status()["shards_owned"])


def rest(seconds: float) -> None:
    """Wait for `seconds` while workers and simulator run."""
    end = time.monotonic() + seconds
    wait_until(lambda: time.monotonic() >= end, "the time to pass", seconds + 10)


def takeover(cluster: Cluster, repetitions: int, *, remembered: int, how: signal.Signals, newer: bool) -> list[float]:
    """Stop one of two workers with the signal `how`. Return how long rows of its tenants did not arrive, in seconds.

    The time ends when rows of all its tenants arrive again. There is one value per repetition. `remembered` is the
    number of rows in the dedup index per shard. `newer` selects the newer group protocol of Kafka (KIP-848).
    """
    shards, tenants = 2, 8
    with open_yard(cluster, tenants=tenants, **FLOWING) as yard:
        yard.remember(shards, shards * remembered // tenants, SWEEPS)
        workers = [yard.worker(shards=shards, sweeps=SWEEPS, kafka=NEWER_PROTOCOL if newer else {}) for _ in range(2)]
        for worker in workers:
            worker.start()
        seconds = []
        with yard.reader() as reader:
            for number in range(repetitions):
                _balance(workers, shards)
                going, staying = workers if number % 2 else reversed(workers)
                moved = yard.tenants_of(owned(going), shards)
                _flow(reader, moved)
                rest(_WARM_S)
                at = time.time()
                going.signal(how)
                wait_until(lambda s=staying: len(owned(s)) == shards, "the other worker to own all", _DEADLINE_S)  # type: ignore[misc]
                _flow(reader, moved)
                seconds.append(max(end for _, end in _pauses(reader, moved, at, time.time())) - at)
                going.wait(30)
                going.start()
            reader.check()
        return seconds


def rolling_restart(cluster: Cluster, repetitions: int) -> list[float]:
    """Restart three workers one after the other. Return the longest pause of any tenant in seconds, per repetition."""
    shards, tenants = 6, 12
    with open_yard(cluster, tenants=tenants, **FLOWING) as yard:
        yard.remember(shards, 10_000, SWEEPS)
        workers = [yard.worker(shards=shards, sweeps=SWEEPS) for _ in range(3)]
        for worker in workers:
            worker.start()
        seconds = []
        with yard.reader() as reader:
            for _ in range(repetitions):
                _balance(workers, shards)
                _flow(reader, yard.source.tenants)
                rest(_WARM_S)
                at = time.time()
                for worker in workers:
                    worker.signal(signal.SIGTERM)
                    worker.wait(30)
                    worker.start()
                    _balance(workers, shards)
                _flow(reader, yard.source.tenants)
                seconds.append(max(end - begin for begin, end in _pauses(reader, yard.source.tenants, at, time.time())))
            reader.check()
        return seconds


def _balance(workers: Iterable[Worker], shards: int) -> None:
    """Wait until every worker is ready and owns an equal share of the shards."""
    running = list(workers)

    def is_shared() -> bool:
        return all(
            worker.get("/readyz")[0] == 200 and len(owned(worker)) * len(running) == shards for worker in running
        )

    wait_until(is_shared, "every worker to own its share of the shards", _DEADLINE_S, every_s=0.1)


def _flow(reader: Reader, tenants: Iterable[str]) -> None:
    """Wait until new rows of all tenants have arrived."""
    since, expected = time.time(), set(tenants)
    wait_until(
        lambda: expected <= reader.times(since, time.time()).keys(),
        "rows of every tenant",
        _DEADLINE_S,
        every_s=0.1,
    )


def _pauses(reader: Reader, tenants: Iterable[str], since: float, until: float) -> list[tuple[float, float]]:
    """Return the begin and the end of the longest pause of each tenant, as Unix times in seconds."""
    found = reader.times(since, until)
    pauses = []
    for tenant in tenants:
        times = [since, *found[tenant]]
        pauses.append(max(itertools.pairwise(times), key=lambda pause: pause[1] - pause[0]))
    return pauses
