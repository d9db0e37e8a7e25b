"""The examples for consumers, with a real service, broker and registry: their results match the rows of Graph."""

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import psycopg
import pytest
from psycopg.rows import dict_row

from tests import flink_software, oracle
from tests import postgres as databases
from tests.conftest import SharedBroker
from tests.kafka_software import find_java
from tests.producing import write_aborted_rows
from tests.registries import RegistryClient
from tests.simulation import Simulation
from tests.trunk_truth import Figures, Lines, figures
from tests.workers import ROOT, Worker, configuration

OVERLAP_S = 600
_PATIENCE_S = 600.0

pytestmark = [
    pytest.mark.java,
    pytest.mark.timeout(2 * _PATIENCE_S),
]  # Flink takes ten seconds, or minutes on a busy machine


class Total(NamedTuple):
    """Calls and failures."""

    calls: int
    failures: int


Totals = dict[tuple[str, datetime, str | None], Total]
"Totals by tenant, minute and trunk."


@dataclass(frozen=True)
class Published:
    """Topic with all rows of a simulator, of which many were late or revised, and rows of an aborted transaction."""

    bootstrap: str
    registry: str
    topic: str
    truth: Totals
    final: Figures


@pytest.fixture(scope="module")
def published(
    broker: SharedBroker, registry: RegistryClient, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Published]:
    """Publish what Graph showed four hours ago, two hours ago, and now, by a worker with the clock of that time.

    Progress is stated at most once per minute: the statements of a run are about the run before.
    """
    topic, app = f"calls-downstream-{os.getpid()}", f"app-downstream-{os.getpid()}"
    folder = tmp_path_factory.mktemp("downstream")
    with Simulation(tenants=2, days=1, calls_per_day=2_500, revised=0.1, unfit=0.01) as source:
        settings = configuration(broker.bootstrap, topic, app, source, schema_registry={"url": registry.url})
        for hours in (4, 2, 0):
            source.set_clock_offset(timedelta(hours=-hours))
            source.freeze()
            worker = Worker(folder / f"{hours}h", settings, "-m", "tests.shifted_worker", f"-{hours}h")
            try:
                assert worker.run_once() == 0, worker.tail()
            finally:
                worker.kill()
        write_aborted_rows(broker.bootstrap, topic)
        found = oracle.committed(broker.bootstrap, topic, app)
        assert oracle.differences(found, source.truth(), claims=False) == []
        final = figures(found, timedelta(seconds=OVERLAP_S))
        yield Published(broker.bootstrap, registry.url, topic, totals(source), final)


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


class Run(NamedTuple):
    """Results of a program, one per line of JSON, and its standard error."""

    lines: list[dict[str, Any]]
    errors: str


def flink(published: Published, *arguments: str) -> Run:
    command = [str(flink_software.python()), str(ROOT / "examples" / "flink" / "final_minutes.py")]
    command += ["--overlap-seconds", str(OVERLAP_S), "--to-the-end", *arguments]
    return run([*command, "--jars", *map(str, flink_software.jars())], published)


def run(command: list[str], published: Published) -> Run:
    """Run a program on the topic to its end."""
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
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return Run(lines, done.stderr)


def by_minute(lines: list[dict[str, Any]]) -> Lines:
    """Return lines by tenant, minute and trunk. Assert that there is one line for each."""
    found: Lines = {}
    for line in lines:
        key = line["tenant_id"], line["minute"], line["trunk"]
        assert key not in found, "a minute is printed twice"
        failures = {(f["final_sip_code"], f["call_end_sub_reason"], f["calls"]) for f in line["failures"]}
        assert len(failures) == len(line["failures"])
        found[key] = line | {"failures": failures}
    return found


def sums(lines: list[dict[str, Any]]) -> Totals:
    """Return the totals that calls_per_minute.sql gives."""
    found: Totals = {}
    for line in lines:
        key = line["tenantId"], datetime.fromisoformat(line["minute"]).replace(tzinfo=UTC), line["trunk"]
        assert key not in found, "a minute is printed twice"
        found[key] = Total(line["calls"], line["failures"])
    return found


@dataclass(frozen=True)
class Example:
    """Run of the Python example, and the database that it wrote to."""

    run: Run
    dsn: str


@pytest.fixture(scope="module")
def example(published: Published, postgres: str) -> Example:
    dsn = databases.create_database(postgres)
    command = [sys.executable, str(ROOT / "examples" / "final_minutes.py"), "--overlap", "10m", "--to-the-end"]
    return Example(run([*command, "--postgres", dsn], published), dsn)


def test_simulated_calls_are_late_revised_and_long(published: Published) -> None:
    lines = published.final.lines.values()
    assert published.final.late > 50
    assert sum(line["attempts"] > 0 for line in lines) > 1_000
    assert sum(line["attempts"] == 0 for line in lines) > 1_000, "calls last for several minutes"
    assert max(line["concurrent_calls"] for line in lines) > 3
    assert any(line["answered"] < line["effective"] < line["attempts"] for line in lines)
    assert any(line["short_calls"] for line in lines)


def test_python_example_emits_each_minute_once(published: Published, example: Example) -> None:
    assert by_minute(example.run.lines) == published.final.lines
    assert f"{published.final.late} rows came after their minute was final" in example.run.errors


def test_python_example_writes_its_minutes_to_postgres(example: Example) -> None:
    with psycopg.connect(example.dsn, row_factory=dict_row) as connection:
        rows = connection.execute("SELECT * FROM trunk_minutes").fetchall()
    stored = [
        row | {"minute": f"{row['minute'].astimezone(UTC):%FT%TZ}", "trunk": row["trunk"] or None} for row in rows
    ]
    assert by_minute(stored) == by_minute(example.run.lines)


def test_every_query_of_the_trunks_dashboard_returns_rows(example: Example) -> None:
    content = json.loads((ROOT / "examples/postgresql/trunks.json").read_text(encoding="utf-8"))
    with psycopg.connect(example.dsn, row_factory=dict_row) as connection:
        chosen: dict[str, str] = {}
        for choice in content["templating"]["list"][1:]:
            values = [value for row in connection.execute(filled(choice["query"], chosen)) for value in row.values()]
            chosen[f"${choice['name']}"] = ", ".join(f"'{value}'" for value in values)
        assert [values.count("'") for values in chosen.values()] == [2 * 2, 2 * 4], "two tenants, four trunks"
        results = {
            panel["title"]: connection.execute(filled(panel["targets"][0]["rawSql"], chosen)).fetchall()
            for panel in content["panels"]
            if panel["type"] != "row"
        }
    # An interval without an answered call has no average.
    filled_in = {
        title: {name for row in rows for name in row if row[name] is not None} for title, rows in results.items()
    }
    assert [title for title, rows in results.items() if not rows or filled_in[title] != rows[0].keys()] == []
    lines = example.run.lines
    (attempts,), (busiest,) = (results[title][0].values() for title in ("Attempts", "Most concurrent calls"))
    assert attempts == sum(line["attempts"] for line in lines)
    assert busiest == max(line["concurrent_calls"] for line in lines)
    (ratio,) = results["Answer seizure ratio (ASR)"][0].values()
    assert float(ratio) == pytest.approx(100 * sum(line["answered"] for line in lines) / attempts)
    causes = Counter({(row["SIP code"], row["Sub-code"], row["Outcome"]): row["Calls"] for row in results["Causes"]})
    assert causes.total() == sum(line["attempts"] - line["answered"] for line in lines)
    assert {outcome for _, _, outcome in causes} == {"user_busy", "no_answer", "rejected", "failed"}


def filled(query: str, chosen: dict[str, str]) -> str:
    """Return a query with the variables and macros of Grafana replaced as its PostgreSQL data source replaces them."""
    query = query.replace("$__timeGroupAlias(minute, $__interval)", 'floor(extract(epoch from minute)/60)*60 AS "time"')
    query = query.replace("$__timeFilter(minute)", "minute BETWEEN '2000-01-01T00:00:00Z' AND '2100-01-01T00:00:00Z'")
    for variable, values in chosen.items():
        query = query.replace(variable, values)
    assert "$" not in query, query
    return query


def test_flink_example_emits_each_minute_once(published: Published) -> None:
    assert by_minute(flink(published).lines) == published.final.lines


def test_read_uncommitted_consumer_counts_aborted_rows(published: Published) -> None:
    levels = "read_committed", "read_uncommitted"
    committed, uncommitted = (oracle.read(published.bootstrap, published.topic, level) for level in levels)
    assert len(uncommitted) > len(committed)


def test_flink_sql_example_counts_calls_per_trunk_and_minute(published: Published) -> None:
    assert sums(flink(published, "--as-of-now").lines) == published.truth
