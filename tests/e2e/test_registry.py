"""The service with a schema registry: wire format, waiting for the registry, refused schemas, commands."""

import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka.schema_registry import SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroDeserializer
from confluent_kafka.serialization import MessageField, SerializationContext

from connector.config import load
from connector.kafka import avro
from connector.worker import service, startup
from tests import oracle
from tests.conftest import SharedBroker
from tests.registries import Answer, Answers, Fake, RegistryClient
from tests.simulation import Simulation
from tests.workers import ROOT, Worker, toml

Simulate = Callable[..., Simulation]
NewWorker = Callable[..., Worker]
Settings = Callable[..., dict[str, Any]]


@pytest.fixture
def fake() -> Iterator[Callable[[Answers], Fake]]:
    with ExitStack() as stack:
        yield lambda answer: stack.enter_context(Fake(answer))


def read(registry: RegistryClient, broker: SharedBroker, topic: str) -> list[dict[str, Any]]:
    """Return the rows of a topic as Confluent's deserializer reads them."""
    context = SerializationContext(topic, MessageField.VALUE)
    with SchemaRegistryClient({"url": registry.url}) as client:
        deserialize = AvroDeserializer(client)
        return [deserialize(entry.value, context) for entry in oracle.read(broker.bootstrap, topic)]


def command(folder: Path, settings: dict[str, Any], *arguments: str) -> subprocess.CompletedProcess[str]:
    config = folder / "command.toml"
    config.write_text(toml(settings), encoding="utf-8")
    line = [sys.executable, "-m", "connector", *arguments, "--config", str(config)]
    return subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("strategy", ["topic", "record", "topic_record"])
def test_confluent_deserializer_reads_rows_and_progress_records(  # noqa: PLR0917 - fixtures
    strategy: str,
    registry: RegistryClient,
    broker: SharedBroker,
    topic: str,
    tmp_path: Path,
    simulate: Simulate,
    new_worker: NewWorker,
    settings: Settings,
) -> None:
    source = simulate(days=1, calls_per_day=200, frozen=True, unknown=0.05)
    section = {"url": registry.url, "subject_name_strategy": strategy}
    configured = settings(source, schema_registry=section, graph={"api_version": "beta"})
    worker = new_worker(configured)
    assert worker.run_once() == 0, worker.tail()
    (tenant,) = source.tenants
    rows = read(registry, broker, topic)
    truth = {row.id for row in source.truth()[tenant]}
    assert {row["id"] for row in rows} == truth
    assert all(row["tenantId"] == tenant and row["observedDateTime"].tzinfo is not None for row in rows)
    assert any(row["userCountryCode"] for row in rows), "members of beta are not fields of the row"
    assert any(row["additionalProperties"] for row in rows)
    progress = read(registry, broker, f"{topic}.progress")
    assert {record["tenantId"] for record in progress} == {tenant}
    record = {
        "row": "microsoft.graph.callRecords.directRoutingLogRow",
        "progress": "microsoft.graph.callRecords.progress",
    }
    subjects = {
        "topic": {f"{topic}-value", f"{topic}.progress-value"},
        "record": set(record.values()),
        "topic_record": {f"{topic}-{record['row']}", f"{topic}.progress-{record['progress']}"},
    }[strategy]
    assert subjects <= set(registry.ask("GET", "/subjects")[1])
    if strategy != "topic":
        return
    options = ("--tenant", tenant, "--from", "-2d", "--to", "-1h", "--requests-per-minute", "6000")
    verified = command(tmp_path, configured, "verify", *options)
    assert verified.returncode == 0, verified.stderr


def test_run_command_names_the_field_of_an_incompatible_schema(
    registry: RegistryClient, topic: str, simulate: Simulate, new_worker: NewWorker, settings: Settings
) -> None:
    schema = avro.load(avro.ROW)
    schema["fields"][2]["type"] = "int"
    del schema["fields"][2]["default"]
    registry.put(f"{topic}-value", schema)
    worker = new_worker(settings(simulate(days=1, calls_per_day=10), schema_registry={"url": registry.url}))
    worker.start()
    assert worker.wait() == 1
    assert f"subject {topic}-value: " in worker.tail()
    assert "field callType is int in the registry and null or string in the connector" in worker.tail()
    assert "Traceback" not in worker.tail()


def test_worker_keeps_running_while_the_registry_is_unavailable(
    broker: SharedBroker,
    topic: str,
    fake: Callable[[Answers], Fake],
    simulate: Simulate,
    new_worker: NewWorker,
    settings: Settings,
) -> None:
    answers: dict[str, Answer] = {"now": (401, {"error_code": 401})}
    server = fake(lambda *_: answers["now"])
    source = simulate(days=1, calls_per_day=2_000)
    worker = new_worker(settings(source, schema_registry={"url": server.url}))
    worker.start()
    reason = f"the schema registry at {server.url} requires credentials (401)"
    worker.until(lambda: reason in worker.get("/readyz")[1], "the reason in /readyz")
    assert worker.get("/readyz")[0] == 503
    assert worker.get("/livez")[0] == 200
    assert worker.until_logged("waiting_for_schema_registry")["reason"].startswith(reason)
    answers["now"] = 503, b"<html>"
    worker.until(lambda: "answers 503" in worker.get("/readyz")[1], "the new reason in /readyz")
    answers["now"] = 200, {"id": 258}
    worker.until_ready()
    answers["now"] = 500, b""
    asked = len(server.requests)
    worker.until_complete(datetime.now(UTC))
    assert worker.get("/readyz")[0] == 200
    assert worker.stop() == 0
    assert len(server.requests) == asked, "a running worker sent a request to the registry"
    values = [entry.value for entry in oracle.read(broker.bootstrap, topic)]
    assert len(values) > 1_000
    assert all(value.startswith(b"\x00\x00\x00\x01\x02") for value in values)


def test_hanging_registry_delays_neither_probes_nor_shutdown(
    fake: Callable[[Answers], Fake], simulate: Simulate, new_worker: NewWorker, settings: Settings
) -> None:
    release = threading.Event()

    def hang(*_: str) -> Answer:
        release.wait(60)
        return 503, {}

    server = fake(hang)
    worker = new_worker(settings(simulate(days=1, calls_per_day=10), schema_registry={"url": server.url}))
    worker.start()
    worker.until(lambda: bool(server.requests), "the registry to be asked")
    assert worker.get("/livez")[0] == 200
    assert worker.get("/readyz")[0] == 503
    assert worker.stop(deadline_s=12.0) == 0
    release.set()


def test_sighup_adds_no_tenant_until_its_schemas_are_registered(
    topic: str, fake: Callable[[Answers], Fake], simulate: Simulate, new_worker: NewWorker, settings: Settings
) -> None:
    answers: dict[str, Answer] = {"now": (200, {"id": 1})}
    server = fake(lambda *_: answers["now"])
    source = simulate(days=1, calls_per_day=100, tenants=2)
    configured = settings(source, schema_registry={"url": server.url})
    first, second = configured["tenants"]
    worker = new_worker(configured | {"tenants": [first]})
    worker.start()
    worker.until_ready()
    answers["now"] = 503, {}
    worker.configure(configured | {"tenants": [first, {**second, "topic": f"{topic}-own"}]})
    worker.signal(signal.SIGHUP)
    problem = worker.until_logged("configuration_reload_failed")["problems"]
    assert problem == f"the schema registry at {server.url} answers 503"
    answers["now"] = 200, {"id": 1}
    worker.signal(signal.SIGHUP)
    worker.until_complete(datetime.now(UTC), tenants=2)
    assert worker.stop() == 0
    asked = {path for _, path, _ in server.requests}
    assert asked == {f"/subjects/{topic}{of}-value" for of in ("", ".progress", "-own", "-own.progress")}


def test_tenant_added_while_waiting_for_the_registry_is_read(
    topic: str, fake: Callable[[Answers], Fake], simulate: Simulate, new_worker: NewWorker, settings: Settings
) -> None:
    """Its topics and schemas are created like those of the first tenants."""
    answers: dict[str, Answer] = {"now": (503, {})}
    server = fake(lambda *_: answers["now"])
    source = simulate(days=1, calls_per_day=100, tenants=2)
    configured = settings(source, schema_registry={"url": server.url})
    first, second = configured["tenants"]
    worker = new_worker(configured | {"tenants": [first]})
    worker.start()
    worker.until_logged("waiting_for_schema_registry")
    worker.configure(configured | {"tenants": [first, {**second, "topic": f"{topic}-own"}]})
    worker.signal(signal.SIGHUP)
    worker.until_logged("configuration_reloaded")
    answers["now"] = 200, {"id": 1}
    worker.until_complete(datetime.now(UTC), tenants=2)
    assert worker.stop() == 0


def test_schema_refused_by_the_registry_rejects_only_its_tenant(
    registry: RegistryClient, topic: str, simulate: Simulate, new_worker: NewWorker, settings: Settings
) -> None:
    source = simulate(days=0.1, calls_per_day=100, tenants=2)
    configured = settings(source, schema_registry={"url": registry.url})
    good, wrong = configured["tenants"]
    registry.put(f"{topic}-own-value", {"type": "record", "name": "order", "fields": []})
    worker = new_worker(configured | {"tenants": [good, {**wrong, "topic": f"{topic}-own"}]})
    worker.start()
    worker.until(lambda: worker.tenant(wrong["id"]).get("state") == "failing", "the tenant to be rejected")
    assert "not compatible" in worker.tenant(wrong["id"])["reason"]
    worker.until(lambda: worker.tenant(good["id"]).get("state") == "ok", "the other tenant to be read")
    assert worker.stop() == 0


async def test_run_once_exits_1_if_the_registry_stays_unavailable(
    fake: Callable[[Answers], Fake],
    tmp_path: Path,
    simulate: Simulate,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(startup, "_UNAVAILABLE_S", 1.0)
    server = fake(lambda *_: (503, {}))
    config = tmp_path / "connector.toml"
    config.write_text(toml(settings(simulate(days=1), schema_registry={"url": server.url})), encoding="utf-8")
    assert await service.Service(load(config, {}), once=True).run() == 1


def test_schema_commands_report_each_subject(
    registry: RegistryClient, topic: str, tmp_path: Path, simulate: Simulate, settings: Settings
) -> None:
    configured = settings(simulate(days=1), schema_registry={"url": registry.url})
    before = command(tmp_path, configured, "schema", "check")
    assert (before.returncode, before.stderr) == (0, "")
    assert before.stdout == f"{topic}-value: no schema yet\n{topic}.progress-value: no schema yet\n"
    done = command(tmp_path, configured, "schema", "register")
    assert (done.returncode, done.stderr) == (0, "")
    number = registry.ask("GET", f"/subjects/{topic}-value/versions/latest")[1]["id"]
    assert done.stdout.splitlines()[0] == f"{topic}-value: id {number}"
    assert command(tmp_path, configured, "schema", "check").stdout == done.stdout


def test_schema_commands_print_one_line_per_error(
    registry: RegistryClient, topic: str, tmp_path: Path, simulate: Simulate, settings: Settings
) -> None:
    source = simulate(days=1)
    registry.put(f"{topic}-value", {"type": "record", "name": "order", "fields": []})
    for name in ("register", "check"):
        refused = command(tmp_path, settings(source, schema_registry={"url": registry.url}), "schema", name)
        assert refused.returncode == 1
        assert f"subject {topic}-value: schema directRoutingLogRow is not compatible" in refused.stderr
        assert refused.stderr.count("\n") == 1
        unavailable = command(tmp_path, settings(source, schema_registry={"url": "http://127.0.0.1:1"}), "schema", name)
        assert (unavailable.returncode, unavailable.stdout) == (1, "")
        assert unavailable.stderr == "the schema registry at http://127.0.0.1:1 cannot be reached: Connection refused\n"
        unset = command(tmp_path, settings(source), "schema", name)
        assert (unset.returncode, unset.stdout) == (2, "")
        assert unset.stderr.endswith("schema_registry.url: is empty; set it\n")
