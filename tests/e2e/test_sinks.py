"""The recipes for sinks with a real topic: the tables contain the newest version of each row of Graph."""

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import ModuleType
from typing import Any

import fastavro
import psycopg
import pytest
from psycopg.rows import dict_row

from connector.kafka import avro
from tests import environments, oracle
from tests.conftest import SharedBroker
from tests.modules import load_module
from tests.postgres import create_database
from tests.producing import write_aborted_rows
from tests.registries import RegistryClient
from tests.simulation import Simulation
from tests.workers import ROOT, Worker, configuration

SQL = ROOT / "examples" / "postgresql" / "calls.sql"
WRITER = SQL.with_name("calls_to_postgresql.py")
PARTITIONS = 3
FIELDS = [field["name"] for field in avro.load(avro.ROW)["fields"]]
TIMES = [name for name in FIELDS if name.endswith("DateTime")]

Database = psycopg.Connection[dict[str, Any]]
Rows = dict[tuple[str, str], dict[str, Any]]
"Rows by tenant and id, with times in ms since the epoch."


@dataclass(frozen=True)
class Published:
    """Topic with all rows of a simulator, some in several versions, and with rows of an aborted transaction."""

    bootstrap: str
    registry: str
    topic: str
    truth: Rows
    "Newest version of each valid row, as the simulator shows it."

    @property
    def options(self) -> list[str]:
        """Return the options with which a program of `examples` finds the topic."""
        return ["--topic", self.topic, "--bootstrap-servers", self.bootstrap, "--registry", self.registry]

    def values(self) -> list[bytes]:
        """Return the values of the records, by partition and offset."""
        return [entry.value for entry in oracle.read(self.bootstrap, self.topic)]

    def records(self) -> list[dict[str, Any]]:
        """Return the decoded records, by partition and offset."""
        schema = fastavro.parse_schema(avro.load(avro.ROW))
        return [fastavro.schemaless_reader(io.BytesIO(value[5:]), schema, None) for value in self.values()]  # type: ignore[misc]


@pytest.fixture(scope="module")
def published(
    broker: SharedBroker, registry: RegistryClient, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Published]:
    topic, app = f"calls-sinks-{os.getpid()}", f"app-sinks-{os.getpid()}"
    with Simulation(tenants=2, days=1, calls_per_day=400, revised=0.2, frozen=True, unfit=0.01, unknown=0.1) as source:
        settings = configuration(
            broker.bootstrap,
            topic,
            app,
            source,
            schema_registry={"url": registry.url},
            windows={"sweeps": [{"every": "1s", "overlap": "3d"}]},
            kafka={"partitions": PARTITIONS},
        )
        worker = Worker(tmp_path_factory.mktemp("sinks"), settings)
        try:
            for offset in (timedelta(hours=-12), timedelta()):
                source.set_clock_offset(offset)
                assert worker.run_once() == 0, worker.tail()
        finally:
            worker.kill()
        write_aborted_rows(broker.bootstrap, topic)
        yield Published(broker.bootstrap, registry.url, topic, newest(source))


def newest(source: Simulation) -> Rows:
    """Return the newest version of each valid row, from the simulator."""
    found: Rows = {}
    for tenant, versions in source.truth().items():
        for version in versions:
            if version.fits:
                assert version.id is not None
                found[tenant, version.id] = oracle.expected(bytes(version.row))
    return found


def run(*command: str | Path) -> str:
    """Run a program and return its standard output, asserting that it succeeds."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def rows(found: Iterable[dict[str, Any]]) -> Rows:
    """Return stored lines in the form of the truth, asserting that there is one line per row with all fields."""
    result: Rows = {}
    for line in found:
        assert sorted(line) == sorted(FIELDS)
        key = line["tenantId"], line["id"]
        assert key not in result, "a row is stored twice"
        own = {"tenantId", "observedDateTime", "revision"}
        result[key] = {name: value for name, value in line.items() if name not in own}
        result[key] |= {name: milliseconds(line[name]) for name in TIMES if name not in own}
        result[key]["administrativeUnitInfos"] = line["administrativeUnitInfos"] or None
        result[key]["additionalProperties"] = {n: json.loads(text) for n, text in line["additionalProperties"].items()}
    return result


def milliseconds(value: Any) -> int | None:
    """Return the ms since the epoch of a time, or of its ISO text, or of a text with seconds since the epoch."""
    if value is None:
        return None
    if isinstance(value, str):
        value = datetime.fromisoformat(value) if ":" in value else datetime.fromtimestamp(float(value), UTC)
    moment: datetime = value
    return round(moment.timestamp() * 1000)


def test_topic_of_these_tests_has_revised_rows(published: Published) -> None:
    records = published.records()
    assert len(published.truth) > 500
    assert len(records) - len(published.truth) > 20
    assert any(row["additionalProperties"] for row in published.truth.values())


@pytest.fixture
def database(postgres: str) -> Iterator[Database]:
    """Yield a connection to a database that has the table of the recipe."""
    with psycopg.connect(create_database(postgres), autocommit=True, row_factory=dict_row) as connection:
        connection.execute(SQL.read_bytes())
        yield connection


def stored(database: Database) -> list[dict[str, Any]]:
    return database.execute("SELECT * FROM calls").fetchall()


@pytest.fixture(scope="module")
def writer() -> ModuleType:
    """Return the module of the program that writes to PostgreSQL."""
    return load_module(WRITER)


def test_postgresql_writer_stores_the_newest_versions(
    published: Published, database: Database, writer: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = [*published.options, "--to-the-end", "--dsn", database.info.dsn]
    run(sys.executable, WRITER, *options)
    assert rows(stored(database)) == published.truth
    place = "SELECT ctid, xmin FROM calls ORDER BY ctid"
    written = database.execute(place).fetchall()
    monkeypatch.setattr(sys, "argv", [str(WRITER), *options, "--group", f"second-{published.topic}"])
    writer.main()
    assert database.execute(place).fetchall() == written, "the second group has changed the table"


def test_postgresql_writer_accepts_rows_in_any_order(
    published: Published, database: Database, writer: ModuleType
) -> None:
    """The table has no trigger here. It lacks a column, and it has one that is not a field."""
    database.execute("ALTER TABLE calls DISABLE TRIGGER USER")
    database.execute('ALTER TABLE calls DROP COLUMN "userDisplayName", ADD COLUMN stored boolean DEFAULT true')
    with psycopg.connect(database.info.dsn, autocommit=True) as connection:
        writer.Table(connection).write(published.records()[::-1])
    found = stored(database)
    assert all(line.pop("stored") for line in found)
    without = {"userDisplayName": None}
    assert rows(line | without for line in found) == {key: row | without for key, row in published.truth.items()}


def test_postgresql_trigger_ignores_older_versions(published: Published, database: Database) -> None:
    """The statement is that of the JDBC sinks of Kafka Connect."""
    upsert = (
        'INSERT INTO calls ("tenantId", id, revision, duration) VALUES (%s, %s, %s, %s) ON CONFLICT ("tenantId", id) '
        "DO UPDATE SET revision = EXCLUDED.revision, duration = EXCLUDED.duration"
    )
    lines = [[row[name] for name in ("tenantId", "id", "revision", "duration")] for row in published.records()]
    for order in (lines, lines[::-1]):
        database.cursor().executemany(upsert, order)
    assert {(line["tenantId"], line["id"]): line["duration"] for line in stored(database)} == {
        key: row["duration"] for key, row in published.truth.items()
    }


def test_parquet_writer_stores_the_newest_versions(published: Published, tmp_path: Path) -> None:
    program = ROOT / "tests" / "running_parquet_example.py"
    files, *found = run(environments.python("sinks"), program, tmp_path, *published.options).splitlines()
    assert int(files) == PARTITIONS, "the second run has written files"
    assert rows(map(json.loads, found)) == published.truth


def test_clickhouse_view_shows_the_newest_versions(published: Published, tmp_path: Path) -> None:
    """Each record is inserted twice, and the oldest versions last."""
    values = published.values()
    backward, forward = tmp_path / "backward", tmp_path / "forward"
    backward.write_bytes(b"".join(values[::-1]))
    forward.write_bytes(b"".join(values))
    program = ROOT / "tests" / "running_clickhouse_example.py"
    output = run(environments.python("sinks"), program, published.registry, forward, backward)
    count, *found = map(json.loads, output.splitlines())
    assert count["count()"] > len(published.truth), "FINAL had nothing to leave out"
    assert rows(found) == published.truth
