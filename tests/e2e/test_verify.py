"""`connector verify` finds every error on a topic, and reports none on a correct one."""

import json
import uuid
from collections import defaultdict
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from confluent_kafka import OFFSET_END, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from connector.kafka import avro
from connector.kafka.records import row_decoder
from tests import commands, oracle
from tests.brokers import set_topic
from tests.conftest import SharedBroker
from tests.oracle import Entry
from tests.simulation import Simulation
from tests.workers import Worker, configuration, toml

DEADLINE_S = 30
ROWS_PER_DAY = 3_000

Settings = dict[str, Any]


class Published(NamedTuple):
    """Topic with all rows of a frozen source, and the settings of the worker that filled it."""

    bootstrap: str
    settings: Settings
    tenant: str
    rows: list[Entry]
    dead_letters: list[Entry]
    folder: Path

    def copy(self, topic: str, rows: Sequence[Entry]) -> Path:
        """Fill a topic of another name with these rows and the same dead letters; return its configuration."""
        admin = AdminClient({"bootstrap.servers": self.bootstrap})
        for name in (topic, f"{topic}.dlq"):
            admin.create_topics([NewTopic(name, 3)])[name].result(DEADLINE_S)
        producer = Producer(
            {"bootstrap.servers": self.bootstrap, "enable.idempotence": True, "partitioner": "murmur2_random"}
        )
        for name, entries in ((topic, rows), (f"{topic}.dlq", self.dead_letters)):
            for entry in entries:
                headers: list[tuple[str, str | bytes | None]] = [*entry.headers]
                producer.produce(name, entry.value, entry.key, timestamp=entry.timestamp_ms, headers=headers)
        assert producer.flush(DEADLINE_S) == 0
        return self.configure(topic)

    def configure(self, topic: str, **sections: Any) -> Path:
        """Write a configuration file for a topic; return its path."""
        settings = self.settings | {"kafka": self.settings["kafka"] | {"topic": topic}} | sections
        path = self.folder / f"{topic}.toml"
        path.write_text(toml(settings))
        return path

    def versions(self) -> dict[str, list[tuple[int, Entry, dict[str, Any]]]]:
        """Return the versions of the tenant's rows by id: revision, record and content."""
        decode = row_decoder()
        found = defaultdict(list)
        for entry in self.rows:
            record = decode(entry.value)
            if record["tenantId"] == self.tenant:
                found[record["id"]].append((record["revision"], entry, record))
        return found


@pytest.fixture(scope="module")
def published(broker: SharedBroker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Published]:
    name, folder = f"verify-{uuid.uuid4().hex[:8]}", tmp_path_factory.mktemp("verify")
    with Simulation(tenants=2, days=2, calls_per_day=ROWS_PER_DAY, revised=0.05, unfit=0.01, unknown=0.05) as source:
        settings = configuration(broker.bootstrap, name, f"app-{name}", source)
        worker = Worker(folder / "worker", settings)
        source.set_clock_offset(timedelta(hours=-12))
        assert worker.run_once() == 0
        source.set_clock_offset(timedelta())
        source.freeze()
        assert worker.run_once() == 0
        rows, letters = (oracle.read(broker.bootstrap, topic) for topic in (name, f"{name}.dlq"))
        yield Published(broker.bootstrap, settings, source.tenants[0], rows, letters, folder)


@pytest.fixture
def topic(published: Published, unique: str) -> str:
    """Return the name for a copy of the topic."""
    return f"{published.settings['kafka']['topic']}-{unique[-8:]}"


def verify(config: Path, tenant: str, *options: str) -> tuple[int, dict[str, Any], str]:
    arguments = ("verify", "--tenant", tenant, "--from", "-3d", "--to", "-1s", "--requests-per-minute", "60000")
    done = commands.run(config, *arguments, "--json", *options)
    return done.code, json.loads(done.output) if done.output else {}, done.error


def test_verify_command_passes_for_a_complete_topic(published: Published) -> None:
    config = published.configure(published.settings["kafka"]["topic"])
    code, report, error = verify(config, published.tenant)
    assert code == 0, (report, error)
    assert report["identical"] == len(published.versions()) > ROWS_PER_DAY
    assert report["topic_records"] == sum(map(len, published.versions().values())) > report["identical"]
    assert report["dead_lettered"]["count"] > 0
    assert report["graph_rows"] == report["identical"] + report["dead_lettered"]["count"]
    for name in ("missing", "duplicated", "differing", "unexpected", "withdrawn"):
        assert report[name] == {"count": 0, "ids": []}
    text = commands.succeed(config, "verify", "--tenant", published.tenant, "--from", "-1h", "--to", "-1s")
    assert text.endswith("identical")


def test_verify_command_reports_each_kind_of_difference(published: Published, topic: str) -> None:
    """The faults: a row removed, a row repeated, a field changed, and a dead letter removed."""
    versions = published.versions()
    removed, repeated, changed = list(versions)[:3]
    newest = max(versions[changed])
    values = {**newest[2], "finalSipCode": (newest[2]["finalSipCode"] or 0) + 1}
    rows = [entry for entry in published.rows if entry not in [gone for _, gone, _ in versions[removed]]]
    rows.append(versions[repeated][0][1])
    rows[rows.index(newest[1])] = newest[1]._replace(value=avro.encoder(avro.ROW)(values))
    letters = [e for e in published.dead_letters if dict(e.headers)["tenant"].decode() == published.tenant]
    keys = [letter.key for letter in letters]
    # Of a row that was revised, another version may be published or dead-lettered.
    letter = next(e for e in letters if e.key and keys.count(e.key) == 1 and e.key.decode() not in versions)
    faulty = published._replace(dead_letters=[e for e in published.dead_letters if e is not letter])

    code, report, error = verify(faulty.copy(topic, rows), published.tenant)
    assert code == 1, error
    assert letter.key is not None
    assert report["missing"]["count"] == 2
    assert set(report["missing"]["ids"]) == {removed, letter.key.decode()}
    assert report["duplicated"] == {
        "count": 1,
        "ids": [{"id": repeated, "revision": versions[repeated][0][0], "times": 2}],
    }
    assert report["differing"] == {"count": 1, "ids": [{"id": changed, "fields": ["finalSipCode"]}]}
    assert report["unexpected"]["count"] == 0
    assert report["identical"] == len(versions) - 2


def test_verify_command_passes_if_graph_lacks_a_published_row(published: Published, topic: str) -> None:
    versions = published.versions()
    known = next(iter(versions.values()))[0]
    values = {**known[2], "id": "00000000-0000-0000-0000-000000000000", "revision": 0}
    rows = [*published.rows, known[1]._replace(value=avro.encoder(avro.ROW)(values))]
    code, report, error = verify(published.copy(topic, rows), published.tenant)
    assert code == 0, error
    assert report["unexpected"] == report["withdrawn"] == {"count": 1, "ids": [values["id"]]}


def test_verify_command_refuses_a_range_that_retention_deleted(published: Published, topic: str) -> None:
    config = published.copy(topic, published.rows)
    admin = AdminClient({"bootstrap.servers": published.bootstrap})
    for deleted in admin.delete_records([TopicPartition(topic, number, OFFSET_END) for number in range(3)]).values():
        deleted.result(DEADLINE_S)
    code, report, error = verify(config, published.tenant)
    assert (code, report) == (2, {})
    assert "has begun to delete" in error

    set_topic(published.bootstrap, topic, "retention.ms", "86400000")
    code, report, error = verify(config, published.tenant)
    assert (code, report) == (2, {})


@pytest.mark.parametrize(
    "options",
    [
        ("--from", "-1h", "--to", "-2h"),
        ("--from", "-1h", "--to", "2100-01-01T00:00:00Z"),
        ("--from", "-2h", "--to", "-1h", "--requests-per-minute", "0"),
        ("--from", "yesterday", "--to", "-1h"),
    ],
)
def test_verify_command_exits_2_if_arguments_are_invalid(tmp_path: Path, options: tuple[str, ...]) -> None:
    path = tmp_path / "connector.toml"
    tenant = "11111111-1111-1111-1111-111111111111"
    identity = {"client_id": "a", "client_secret": "b"}
    path.write_text(
        toml({"kafka": {"bootstrap_servers": "127.0.0.1:1"}, "identity": identity, "tenants": [{"id": tenant}]})
    )
    done = commands.run(path, "verify", "--tenant", tenant, *options)
    assert (done.code, done.output) == (2, "")
    assert len(done.error.splitlines()) == 1
