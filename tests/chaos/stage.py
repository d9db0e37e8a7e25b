"""Brokers, network proxies, source and workers of a chaos run, its faults, and the checks at its end."""

import shutil
import signal
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from connector.kafka import topics
from tests import oracle
from tests.brokers import Cluster, wait_until
from tests.chaos.acts import BROKERS, WORKERS, Act, Step
from tests.simulation import Simulation
from tests.wire import END_TXN, Wires
from tests.workers import Worker, _is_read, configuration

Heal = Callable[[], None]

TOPIC, APP = "calls", "chaos"
TENANTS, SHARDS, PARTITIONS = 6, 4, 3
SESSION_S = 3
_LIVE_OVERLAP = timedelta(seconds=30)
HISTORY_S = 150
_END_S = 300.0
_BACK_S = 120.0
_STOP_S = 30.0
_COMMITS_S = 3.0
_KNOWN_S = 10.0
# Not the row topic: rows of a hanging commit are published again, beyond the offsets that progress records state.
_WITH_ONE_REPLICA = ((f"{APP}.seen",), (f"{APP}.state", f"{APP}.seen"))
"Topics whose partitions have one replica, by seed: only there does the death of a broker leave a commit open."
_GRAPH_ERRORS: dict[str, Any] = {
    "throttled": 0.1,
    "retry_after_s": 1.0,
    "server_error": 0.1,
    "cut": 0.1,
    "garbage": 0.05,
    "slow": 0.1,
}
_ALWAYS = {"repeat_once": 0.05, "upper_link": 0.5, "empty_page": 0.02, "slow_s": 0.5}
_CALLS: dict[str, Any] = {
    "durations": "short",
    "lateness": "0.9:0s-5s,0.1:5s-50s",
    "moved": 0.0,  # a call whose start moves into the future is read only when that time is reached
    "revised": 0.1,
    "revised_after": "1:1s-50s",
    "unknown": 0.01,
    "unfit": 0.005,
    "startless": 0.002,
}


class Outcome(NamedTuple):
    """Result of a seed."""

    seed: int
    acts: int
    seconds: float
    "Seconds from the first act to the end of the last one."
    strikes: int
    "Number of transaction ends that were lost, held or delayed on the wire."
    tally: oracle.Tally
    problems: list[str]


class Stage:
    """Everything that a chaos run needs, as a context manager.

    `calls_per_day`: calls of each tenant. New calls appear until the end of the run.
    """

    def __init__(self, seed: int, folder: Path, calls_per_day: int, minutes: float) -> None:
        self.seed = seed
        self.folder = folder
        self.played: list[str] = []
        "Acts so far, one line each."
        self._calls_per_day = calls_per_day
        self._deepest_min = 15 + 3 * minutes
        self._created_at = self._began_at = time.monotonic()
        self._stack = ExitStack()
        self._pause = threading.Event()
        self.workers: list[Worker] = []

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self.wires = stack.enter_context(Wires(BROKERS))
            self.cluster = stack.enter_context(Cluster(BROKERS, proxies=self.wires.ports))
            self.wires.lead_to([broker.proxied_port for broker in self.cluster.brokers])
            self._create_topics()
            self.source = stack.enter_context(
                Simulation(
                    seed=self.seed,
                    tenants=TENANTS,
                    days=HISTORY_S / 86_400,
                    calls_per_day=self._calls_per_day,
                    page_size=500,
                    faults=_ALWAYS,
                    **_CALLS,
                )
            )
            settings = self._settings()
            for number in range(WORKERS):
                worker = Worker(self.folder / f"worker-{number}", settings)
                self.workers.append(worker)
                stack.callback(worker.kill)
                worker.start()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is not None:
            self.tell("statuses: " + "; ".join(f"{w.get('/livez')} {w.get('/readyz')}" for w in self.workers))
        for worker in self.workers:
            worker.kill() if kind is None else worker.abort()
        if kind is not None:
            self.keep_logs()
        self._stack.close()

    def _create_topics(self) -> None:
        """Create the topics as workers would, but some of them with one replica per partition."""
        single = _WITH_ONE_REPLICA[self.seed % len(_WITH_ONE_REPLICA)]
        numbers = [broker.number for broker in self.cluster.brokers]
        new_topics = []
        for topic in topics.wanted(APP, [TOPIC], SHARDS, PARTITIONS, {}):
            count = 1 if topic.name in single else BROKERS
            replicas = [[numbers[(p + n) % BROKERS] for n in range(count)] for p in range(topic.partitions)]
            new_topics.append(
                NewTopic(topic.name, topic.partitions, replica_assignment=replicas, config=dict(topic.settings))
            )
        admin = self._admin()
        for future in admin.create_topics(new_topics).values():
            future.result(_STOP_S)

    def _admin(self) -> AdminClient:
        return AdminClient({"bootstrap.servers": self.cluster.bootstrap, "log_level": 0})

    def _settings(self) -> dict[str, Any]:
        tenants = [{"id": tenant, "start": "-5m"} for tenant in self.source.tenants]
        sweeps = [
            {"every": "1s", "overlap": f"{_LIVE_OVERLAP.total_seconds():.0f}s"},
            {"every": "5s", "overlap": "3m"},
            {"every": "15s", "overlap": f"{self._deepest_min * 60:.0f}s"},
        ]
        properties = {"session.timeout.ms": str(SESSION_S * 1000), "heartbeat.interval.ms": "300"}
        kafka = {"shards": SHARDS, "partitions": PARTITIONS, "properties": properties}
        return configuration(
            self.wires.bootstrap, TOPIC, APP, self.source, tenants=tenants, windows={"sweeps": sweeps}, kafka=kafka
        )

    # --- faults: each method returns a function that ends the fault ---------------------------------------------------

    def kill_worker(self, act: Act) -> Heal:
        self.workers[act.target].kill()
        return self.workers[act.target].start

    def stop_worker(self, act: Act) -> Heal:
        worker = self.workers[act.target]
        code = worker.stop(_STOP_S)
        if worker.events:  # otherwise the worker may not handle signals yet
            assert code == 0, f"worker {act.target} was stopped cleanly and ended with {code}"
        return worker.start

    def freeze_worker(self, act: Act) -> Heal:
        self.workers[act.target].signal(signal.SIGSTOP)
        return lambda: self.workers[act.target].signal(signal.SIGCONT)

    def kill_broker(self, act: Act) -> Heal:
        self.cluster.brokers[act.target].kill()
        return lambda: self._bring_back(act.target)

    def bounce_broker(self, act: Act) -> Heal:
        self.cluster.brokers[act.target].stop()
        return lambda: self._bring_back(act.target)

    def freeze_broker(self, act: Act) -> Heal:
        self.cluster.brokers[act.target].suspend()
        return self.cluster.brokers[act.target].resume

    def kill_only_replicas_during_commits(self, act: Act) -> Heal:
        """Kill a broker after the last records of transactions and before their commits (KAFKA-20734).

        The commits continue when the cluster knows that the broker is dead.
        """
        self.wires.lose(END_TXN, "delay")
        before = self.wires.struck
        with suppress(TimeoutError):  # other acts may keep workers from committing
            wait_until(lambda: self.wires.struck >= before + SHARDS, "commits", _COMMITS_S)
        self.cluster.brokers[act.target].kill()
        with suppress(TimeoutError):
            wait_until(lambda: not self._leads(act.target), "a broker to lead no partition", _KNOWN_S)
        self.wires.heal()
        return lambda: self._bring_back(act.target)

    def _leads(self, number: int) -> bool:
        """Return whether the cluster regards a broker as the leader of a partition."""
        admin = self._admin()
        try:
            known = admin.list_topics(timeout=_KNOWN_S).topics.values()
        except KafkaException:  # the brokers elect a controller
            return True
        leader = self.cluster.brokers[number].number
        return any(partition.leader == leader for topic in known for partition in topic.partitions.values())

    def cut_wire(self, act: Act) -> Heal:
        self.wires.cut(act.target)
        return self.wires.heal

    def delay_wire(self, act: Act) -> Heal:
        self.wires.delay(act.target, 0.3)
        return self.wires.heal

    def hold_wire(self, act: Act) -> Heal:
        self.wires.hold(act.target)
        return self.wires.heal

    def lose_ends_of_transactions(self, _act: Act) -> Heal:
        self.wires.lose(END_TXN, "request")
        return self.wires.heal

    def lose_answers_to_ends_of_transactions(self, _act: Act) -> Heal:
        self.wires.lose(END_TXN, "answer")
        return self.wires.heal

    def hold_answers_to_ends_of_transactions(self, _act: Act) -> Heal:
        self.wires.lose(END_TXN, "hold")
        return self.wires.heal

    def expire_tokens(self, _act: Act) -> Heal:
        self.source.expire_tokens()
        return lambda: None

    def graph_down(self, _act: Act) -> Heal:
        self.source.set_faults(down=True)
        return lambda: self.source.set_faults(down=False)

    def sign_in_down(self, _act: Act) -> Heal:
        self.source.set_faults(sign_in_down=True)
        self.source.expire_tokens()
        return lambda: self.source.set_faults(sign_in_down=False)

    def graph_errors(self, _act: Act) -> Heal:
        self.source.set_faults(**_GRAPH_ERRORS)
        return lambda: self.source.set_faults(**dict.fromkeys(_GRAPH_ERRORS, 0))  # type: ignore[arg-type]

    def fail_ranges_with_an_instant(self, _act: Act) -> Heal:
        return self._cannot_serve(500)

    def refuse_ranges_with_an_instant(self, _act: Act) -> Heal:
        return self._cannot_serve(400)

    def _cannot_serve(self, status: int) -> Heal:
        """Let Graph fail every request whose range contains one instant within the overlap of the live sweep."""
        instant = datetime.now(UTC) - _LIVE_OVERLAP / 3
        self.source.set_faults(unservable=1, unservable_at=instant.isoformat(), unservable_status=status)
        return lambda: self.source.set_faults(unservable=0)

    def _bring_back(self, number: int) -> None:
        self.cluster.brokers[number].launch()
        self.cluster.brokers[number].wait(BROKERS, _BACK_S)

    # --- the run ------------------------------------------------------------------------------------------------------

    def until_rows_flow(self) -> None:
        """Wait until every worker owns a shard and rows were committed."""
        for worker in self.workers:
            worker.until_logged("shards_assigned")
        wait_until(
            lambda: any(worker.metric("rows_total", outcome="published") for worker in self.workers), "rows", _BACK_S
        )

    def play(self, steps: Sequence[Step]) -> None:
        """Cause the faults of all steps in turn, and end every fault."""
        self._began_at = time.monotonic()
        for step in steps:
            started = time.monotonic()
            healing: list[tuple[float, Heal]] = []
            for act in step.acts:
                self.tell(str(act))
                healing.append((started + act.seconds, getattr(self, act.name)(act)))
            for due, heal in sorted(healing, key=lambda entry: entry[0]):
                self._pause.wait(max(0.0, due - time.monotonic()))
                heal()
            self._pause.wait(step.pause_s)
            self.look()

    def tell(self, what: str) -> None:
        """Record an act with its time."""
        line = f"{time.monotonic() - self._created_at:7.1f} s  {what}"
        self.played.append(line)
        with (self.folder / "acts.log").open("a", encoding="utf-8") as log:
            log.write(f"{line}\n")

    def look(self) -> None:
        """Assert that no worker process has ended by itself."""
        for number, worker in enumerate(self.workers):
            assert worker.running, f"worker {number} ended by itself with {worker.exit_code}; {worker.tail()}"

    def finish(self) -> Outcome:
        """Wait until everything is read and committed; return how the topics differ from what the source has shown."""
        self.tell("end of faults")
        seconds = time.monotonic() - self._began_at
        frozen_at = self.source.freeze()
        self.source.clear_faults()
        wait_until(lambda: self._is_complete(frozen_at), f"the end of reading, {self._standing()}", _END_S, every_s=0.3)
        problems = self._settled()
        statuses = {tenant["id"]: tenant for tenant in self._owned()}
        for number, worker in enumerate(self.workers):
            if (code := worker.stop(_STOP_S)) != 0:
                problems.append(f"worker {number} ended with {code}")
        # The dedup index equals the topics: a worker that starts again publishes nothing.
        if (code := self.workers[0].run_once()) != 0:
            problems.append(f"a worker of the last pass ended with {code}")
        found = oracle.committed(self.cluster.bootstrap, TOPIC, APP)
        truth = self.source.truth()
        problems += oracle.differences(found, truth)
        for tenant in self.source.tenants:
            records = sum(row.tenant == tenant for row in found.rows)
            if statuses.get(tenant, {}).get("records") != records:
                problems.append(f"/status says {statuses.get(tenant, {}).get('records')} records, there are {records}")
        acts = len(self.played) - 1
        return Outcome(self.seed, acts, seconds, self.wires.struck, oracle.tally(found, truth), problems)

    def _owned(self) -> list[dict[str, Any]]:
        return [tenant for worker in self.workers for tenant in worker.status()["tenants"]]

    def _is_complete(self, since: datetime) -> bool:
        self.look()
        owned = self._owned()
        whole = sorted(tenant["id"] for tenant in owned) == sorted(self.source.tenants)
        return whole and all("coverage" in tenant and _is_read(tenant, since) for tenant in owned)

    def _standing(self) -> str:
        return f"seed {self.seed}, logs in {self.folder}"

    def _settled(self) -> list[str]:
        """Wait until workers report nothing unexpected, and return what they still report after the deadline."""
        oddities: list[str] = []

        def is_settled() -> bool:
            oddities[:] = self._oddities()
            return not oddities

        with suppress(TimeoutError):  # the caller reports what is left together with all other problems
            wait_until(is_settled, "workers without unexpected reports", _BACK_S, every_s=0.3)
        return oddities

    def _oddities(self) -> list[str]:
        """Return the unexpected reports of workers while no fault is present."""
        problems = []
        shards: list[int] = []
        for number, worker in enumerate(self.workers):
            status = worker.status()
            shards += status["shards_owned"]
            for path in ("/livez", "/readyz"):
                code, body = worker.get(path)
                if code != 200:
                    problems.append(f"worker {number}: {path} says {code} {body.strip()}")
            for name, expected in (("kafka_up", 1), ("shards", SHARDS), ("shards_owned", len(status["shards_owned"]))):
                if (value := worker.metric(name)) != expected:
                    problems.append(f"worker {number}: {name} is {value:g}, not {expected}")
            for name in ("tenant_failing", "tenant_paused", "gap_seconds", "gaps"):
                value = worker.metric(name)
                problems += [f"worker {number}: {name} is {value:g} without faults"] if value else []
            exported = sorted(labels["tenant"] for labels, _ in worker.series("tenant_up"))
            if exported != sorted(tenant["id"] for tenant in status["tenants"]):
                problems.append(f"worker {number}: series of {len(exported)} tenants, not of those that it owns")
        if sorted(shards) != list(range(SHARDS)):
            problems.append(f"shards are owned as {sorted(shards)}")
        return problems

    def keep_logs(self) -> None:
        """Copy the brokers' logs into the folder of the workers' logs before the brokers' disks are deleted."""
        for broker in self.cluster.brokers:
            if broker.log.is_file():
                shutil.copy(broker.log, self.folder / f"broker-{broker.number}.log")

    def report(self) -> str:
        """Return what is needed to reproduce the run: seed, time, log folder and acts."""
        return "\n".join([f"seed {self.seed} at {datetime.now(UTC):%H:%M:%S}, logs in {self.folder}", *self.played])
