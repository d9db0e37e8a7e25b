"""The examples for consumers, with a real service, broker and registry: their results match the rows of Graph."""

import io
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import fastavro
import pytest

from connector.kafka import avro
from tests import flink_software, oracle
from tests.conftest import SharedBroker
from tests.kafka_software import find_java
from tests.producing import write_aborted_rows
from tests.registries import RegistryClient
from tests.simulation import Simulation
from tests.workers import ROOT, Worker, configuration

OVERLAP_S = 600
_PATIENCE_S = 600.0

pytestmark = pytest.mark.timeout(2 * _PATIENCE_S)  # Flink takes ten seconds, or minutes on a busy machine


class Total(NamedTuple):
    """Calls and failures."""

    calls: int
    failures: int


Totals = dict[tuple[str, datetime, str | None], Total]
"Totals by tenant, minute and trunk."


@dataclass(frozen=True)
class Published:
    """Topic with all rows of a simulator, and rows of an aborted transaction."""

    bootstrap: str
    registry: str
    topic: str
    truth: Totals
    through: dict[str, datetime]
    "Minute up to which the calls of each tenant are complete."

    @property
    def final(self) -> Totals:
        """Return the true totals of the minutes that are final."""
        return {key: total for key, total in self.truth.items() if key[1] < self.through[key[0]]}


@pytest.fixture(scope="module")
def published(
    broker: SharedBroker, registry: RegistryClient, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Published]:
    topic, app = f"calls-downstream-{os.getpid()}", f"app-downstream-{os.getpid()}"
    with Simulation(tenants=2, days=2, calls_per_day=1_500, revised=0.05, frozen=True, unfit=0.01) as source:
        settings = configuration(broker.bootstrap, topic, app, source, schema_registry={"url": registry.url})
        worker = Worker(tmp_path_factory.mktemp("downstream"), settings)
        try:
            assert worker.run_once() == 0, worker.tail()
        finally:
            worker.kill()
        write_aborted_rows(broker.bootstrap, topic)
        yield Published(
            broker.bootstrap, registry.url, topic, totals(source), complete_through(broker.bootstrap, topic)
        )


def complete_through(bootstrap: str, topic: str) -> dict[str, datetime]:
    """Return the minute up to which progress records declare the calls of each tenant complete."""
    schema = fastavro.parse_schema(avro.load(avro.PROGRESS))
    through: dict[str, datetime] = {}
    for entry in oracle.read(bootstrap, f"{topic}.progress"):
        statement: Any = fastavro.schemaless_reader(io.BytesIO(entry.value[5:]), schema, None)
        if statement["overlapSeconds"] == OVERLAP_S:
            through[statement["tenantId"]] = statement["completeThroughDateTime"].replace(second=0, microsecond=0)
    return through


def totals(source: Simulation) -> Totals:
    """Return the totals over the newest version of each valid row, from the simulator."""
    newest: dict[tuple[str, str], dict[str, Any]] = {}
    for tenant, versions in source.truth().items():
        for version in versions:
            if version.fits:
                assert version.id is not None
                newest[tenant, version.id] = oracle.expected(bytes(version.row))
    calls: Counter[tuple[str, datetime, str | None]] = Counter()
    failures: Counter[tuple[str, datetime, str | None]] = Counter()
    for (tenant, _), row in newest.items():
        if row["startDateTime"] is not None:
            start = datetime.fromtimestamp(row["startDateTime"] // 60_000 * 60, UTC)
            key = tenant, start, row["trunkFullyQualifiedDomainName"]
            calls[key] += 1
            failures[key] += row["successfulCall"] is False
    return {key: Total(calls[key], failures[key]) for key in calls}


def python_reader(published: Published, *arguments: str) -> Totals:
    command = [sys.executable, str(ROOT / "examples" / "final_minutes.py")]
    return results([*command, "--overlap", "10m", "--to-the-end", *arguments], published)


def flink(published: Published, *arguments: str) -> Totals:
    command = [str(flink_software.python()), str(ROOT / "examples" / "flink" / "final_minutes.py")]
    command += ["--overlap-seconds", str(OVERLAP_S), "--to-the-end", *arguments]
    return results([*command, "--jars", *map(str, flink_software.jars())], published)


def results(command: list[str], published: Published) -> Totals:
    """Run a program and return the minutes that it prints, asserting that it prints each only once."""
    where = ["--topic", published.topic, "--bootstrap-servers", published.bootstrap, "--registry", published.registry]
    quick = "-XX:+UseSerialGC -XX:TieredStopAtLevel=1"  # a short run: compiling less takes half of the processor time
    java = {"JAVA_HOME": str(find_java()[0].resolve().parent.parent), "JAVA_TOOL_OPTIONS": quick}
    done = subprocess.run(
        [*command[:2], *where, *command[2:]],
        capture_output=True,
        text=True,
        check=False,
        timeout=_PATIENCE_S,
        env=os.environ | java,
    )
    assert done.returncode == 0, done.stderr[:2000]
    found: Totals = {}
    for line in filter(lambda line: line.startswith("{"), done.stdout.splitlines()):
        result = json.loads(line)
        key = result.get("tenant") or result["tenantId"], minute(result["minute"]), result["trunk"]
        assert key not in found, "a minute is printed twice"
        found[key] = Total(result["calls"], result["failures"])
    return found


def minute(value: str | int) -> datetime:
    """Return the time that a text, or a number of minutes since the epoch, denotes."""
    if isinstance(value, int):
        return datetime.fromtimestamp(0, UTC) + timedelta(minutes=value)
    return datetime.fromisoformat(value).replace(tzinfo=UTC)


def test_python_example_emits_each_minute_once(published: Published) -> None:
    assert len(published.final) > 500
    assert python_reader(published) == published.final


def test_flink_example_emits_each_minute_once(published: Published) -> None:
    assert flink(published) == published.final


def test_read_uncommitted_consumer_counts_aborted_rows(published: Published) -> None:
    found = flink(published, "--as-of-now", "--isolation-level", "read_uncommitted")
    assert sum(total.calls for total in found.values()) > sum(total.calls for total in published.truth.values())


def test_flink_sql_example_counts_calls_per_trunk_and_minute(published: Published) -> None:
    assert flink(published, "--as-of-now") == published.truth
