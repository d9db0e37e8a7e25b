"""Environment of the benchmarks: a real broker, and a simulator as a process, which keeps rows and pages in memory."""

import contextlib
import json
import ssl
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

from confluent_kafka import Consumer, KafkaError
from confluent_kafka.admin import AdminClient, NewTopic

from tests.brokers import Cluster

PARTITIONS = 6
TENANTS = 4
_STOP_S = 10
_READ_S = 60
_RUN_S = 300
_Json = dict[str, Any]


class Rig(NamedTuple):
    """Addresses and credentials for a measured process. The history of calls begins at `since` and ends at `until`.

    The clock of the simulator stands still at `until`.
    """

    url: str
    ca: str
    tenants: list[str]
    client_id: str
    client_secret: str
    bootstrap: str
    since: str = ""
    until: str = ""

    @classmethod
    def of(cls, info: _Json, bootstrap: str) -> "Rig":
        """Return the rig of a simulator, from what it prints at its start, and of brokers."""
        return cls(info["url"], info["ca"], info["tenants"], info["client_id"], info["client_secret"], bootstrap)

    def ask(self, path: str) -> Any:
        """Send a GET request for `path` to the simulator, and return the JSON of the response."""
        return json.loads(b"".join(self.lines(path)))

    def lines(self, path: str) -> list[bytes]:
        """Send a GET request for `path` to the simulator, and return the lines of the response."""
        context = ssl.create_default_context(cafile=self.ca)
        with urllib.request.urlopen(f"{self.url}{path}", context=context, timeout=60) as answer:  # noqa: S310 - https
            return list(answer.read().splitlines())

    def create_topic(self, topic: str) -> None:
        """Create a row topic with the number of partitions that all benchmarks use."""
        topic_of(self.bootstrap, topic, PARTITIONS)

    def keys(self, topic: str) -> list[bytes]:
        """Return the key of every committed record of a topic."""
        consumer = Consumer(
            {
                "bootstrap.servers": self.bootstrap,
                "group.id": f"{topic}-count",
                "isolation.level": "read_committed",
                "auto.offset.reset": "earliest",
                "enable.auto.commit": False,
                "enable.partition.eof": True,
            }
        )
        keys: list[bytes] = []
        ended: set[int | None] = set()
        consumer.subscribe([topic])
        try:
            deadline = time.monotonic() + _READ_S
            while len(ended) < PARTITIONS:
                messages = consumer.consume(10_000, timeout=0.1)
                if time.monotonic() > deadline:
                    raise TimeoutError(f"{topic} could not be read to its end")
                for message in messages:
                    error = message.error()
                    if error is None:
                        keys.append(message.key() or b"")
                    elif error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001
                        ended.add(message.partition())
                    else:
                        raise RuntimeError(error.str())
        finally:
            consumer.close()
        return keys

    def measure(self, module: str, *arguments: str, python: str = sys.executable) -> _Json:
        """Run a module of this package as a process, and return the JSON that it prints."""
        command = [python, "-m", f"benchmarks.{module}", json.dumps(self._asdict()), *arguments]
        run = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_RUN_S)
        if run.returncode:
            raise RuntimeError(f"benchmarks.{module} ended with {run.returncode}:\n{run.stderr[-4000:]}")
        result: _Json = json.loads(run.stdout.splitlines()[-1])
        return result


def topic_of(bootstrap: str, topic: str, partitions: int) -> str:
    """Create a topic and return its name."""
    admin = AdminClient({"bootstrap.servers": bootstrap})
    for future in admin.create_topics([NewTopic(topic, partitions, 1)]).values():
        future.result()
    return topic


@contextlib.contextmanager
def open_rig(rows: int, seed: int, directory: Path) -> Iterator[Rig]:
    """Start broker and simulator, yield their addresses, and stop them at the end.

    The simulator has calls of one day: `rows` calls of all tenants together.
    """
    options = ["--prebuilt", "--days", "1", "--seed", str(seed)]
    options += ["--tenants", str(TENANTS), "--calls-per-day", str(rows // TENANTS)]
    with Cluster(fast_run=True, heap_mib=512) as cluster, simulator(options, directory) as info:
        rig = Rig.of(info, cluster.bootstrap)
        until = datetime.fromisoformat(rig.ask("/simulator/clock")["now"]).astimezone(UTC).replace(microsecond=0)
        yield rig._replace(since=(until - timedelta(days=1)).isoformat(), until=until.isoformat())


@contextlib.contextmanager
def simulator(options: list[str], directory: Path) -> Iterator[_Json]:
    """Run a simulator as a process. Yield the JSON that it prints when it is ready: addresses and credentials."""
    command = [sys.executable, "-m", "connector", "simulate", *options, "--ca-out", str(directory / "ca.pem")]
    with (
        (directory / "simulator.log").open("wb") as log,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log) as process,
    ):
        try:
            line = process.stdout.readline() if process.stdout else b""
            if not line:
                raise RuntimeError(f"the simulator did not start: {(directory / 'simulator.log').read_text()[-2000:]}")
            yield json.loads(line)
        finally:
            process.terminate()
            try:
                process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()


def rig_from_arguments() -> Rig:
    """Return the environment that `Rig.measure` has passed to this process as its first argument."""
    return Rig(**json.loads(sys.argv[1]))
