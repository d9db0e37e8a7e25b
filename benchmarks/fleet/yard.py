"""Environment of these benchmarks: a real broker, the simulator, workers as processes, and a consumer."""

import contextlib
import tempfile
import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from confluent_kafka import OFFSET_END, Consumer, TopicPartition

from benchmarks.fleet import memory
from connector.config.durations import parse_duration
from connector.core.windows import Rules, Sweep
from connector.kafka import avro, control
from tests.brokers import Cluster
from tests.simulation import Simulation
from tests.workers import Worker, configuration

PARTITIONS = 3


class ReadRow(NamedTuple):
    """Committed record of the row topic. `at` is the Unix time at which a `read_committed` consumer received it."""

    at: float
    tenant: str
    id: str
    revision: int


class Reader:
    """Consumer that receives every new record of a topic, in a thread of its own."""

    def __init__(self, bootstrap: str, topic: str) -> None:
        self.rows_read: list[ReadRow] = []
        self._decode = avro.decoder(avro.ROW)
        self._stop = threading.Event()
        self._consumer = Consumer(
            {
                "bootstrap.servers": bootstrap,
                "group.id": f"reader-{uuid.uuid4()}",
                "isolation.level": "read_committed",
                "enable.auto.commit": False,
                "fetch.wait.max.ms": 20,
            }
        )
        self._consumer.assign([TopicPartition(topic, number, OFFSET_END) for number in range(PARTITIONS)])
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        self._consumer.close()

    def _run(self) -> None:
        while not self._stop.is_set():
            messages = self._consumer.consume(1000, timeout=0.02)
            at = time.time()
            for message in messages:
                value = message.value()
                if message.error() is None and isinstance(value, bytes):
                    row = self._decode(value)
                    self.rows_read.append(ReadRow(at, row["tenantId"], row["id"], row["revision"]))

    def times(self, since: float, until: float) -> dict[str, list[float]]:
        """Return the arrival times of records between `since` and `until`, by tenant. All are Unix times in seconds."""
        found: dict[str, list[float]] = defaultdict(list)
        for row_read in self.rows_read:
            if since <= row_read.at <= until:
                found[row_read.tenant].append(row_read.at)
        return found

    def check(self) -> None:
        """Raise an error if a version of a row arrived twice."""
        versions = [row_read[1:] for row_read in self.rows_read]
        if len(versions) != len(set(versions)):
            raise RuntimeError(f"{len(versions) - len(set(versions))} of {len(versions)} records were published twice")


class Yard:
    """One broker, one simulator, one app and its workers."""

    def __init__(self, cluster: Cluster, source: Simulation, folder: Path) -> None:
        self.bootstrap = cluster.bootstrap
        self.source = source
        self.topic = f"calls-{folder.name}"
        self.app = f"app-{folder.name}"
        self._folder = folder
        self._workers: list[Worker] = []

    def worker(self, *, shards: int, sweeps: Sequence[dict[str, str]] = (), **sections: Any) -> Worker:
        """Create a worker, which the caller has to start. `sections` are tables of its configuration.

        Without `sweeps`, the worker has the default sweeps and the default budget.
        """
        settings = configuration(self.bootstrap, self.topic, self.app, self.source)
        settings["kafka"] |= {"shards": shards, "partitions": PARTITIONS, "properties": {}}
        settings["windows"] = {"sweeps": list(sweeps)} if sweeps else {}
        settings["graph"] |= {"requests_per_minute": 600 if sweeps else 45, "timeout": "30s"}
        for name, section in sections.items():
            settings[name] = section if isinstance(section, list) else settings.get(name, {}) | section
        worker = Worker(self._folder / f"worker-{len(self._workers)}", settings)
        self._workers.append(worker)
        return worker

    def remember(self, shards: int, rows_each: int, sweeps: Sequence[dict[str, str]]) -> None:
        """Write state as if every tenant had been read for 150 days. `rows_each` is the number of rows per tenant."""
        memory.create_topics(self.bootstrap, self.app, self.topic, shards)
        every = [Sweep(parse_duration(sweep["every"]), parse_duration(sweep["overlap"])) for sweep in sweeps]
        rules = Rules(tuple(every), timedelta(), timedelta(days=1), timedelta(days=150))
        tenants = self.source.tenants
        memory.write(self.bootstrap, self.app, self.topic, tenants, shards=shards, rows_each=rows_each, rules=rules)

    def reader(self) -> Reader:
        """Return a consumer of the row topic. The topic must exist."""
        return Reader(self.bootstrap, self.topic)

    def tenants_of(self, shards: Sequence[int], of: int) -> list[str]:
        """Return the tenants that belong to `shards`. `of` is the number of all shards."""
        return [tenant for tenant in self.source.tenants if control.partition_of(tenant.lower(), of) in set(shards)]

    def end(self) -> None:
        """Kill all workers."""
        for worker in self._workers:
            worker.kill()


@contextlib.contextmanager
def open_yard(cluster: Cluster, **options: Any) -> Iterator[Yard]:
    """Yield an environment, whose simulator has the options `options`. At the end, kill its workers."""
    with tempfile.TemporaryDirectory(prefix="fleet-") as folder, Simulation(**options) as source:
        yard = Yard(cluster, source, Path(folder))
        try:
            yield yard
        finally:
            yard.end()
