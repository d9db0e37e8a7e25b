"""`connector check` names each problem that would stop `connector run`, and its remedy.

It disturbs no running worker.
"""

import json
import ssl
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from confluent_kafka.admin import (
    AclBinding,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
)
from confluent_kafka.cimpl import NewTopic
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests import commands
from tests.brokers import Cluster, free_ports
from tests.registries import Fake, RegistryClient
from tests.simulation import Simulation
from tests.workers import ROOT, Worker, configuration, toml

pytestmark = [pytest.mark.broker, pytest.mark.java]

AUTHORIZED = {
    "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
    "allow.everyone.if.no.acl.found": "true",
}
APP, TOPIC = "app", "calls"
PUNCTUAL: dict[str, Any] = {"durations": "short", "lateness": "none", "revised": 0.0}
"Simulator options without late rows, which a worker would log."
CHECKS = ["token", "role", "graph"]
ALL = ["configuration", *CHECKS, *CHECKS, "brokers", "topics", "transactions", "schema_registry"]
QUIET_SWEEPS = 10
ALL_AT_ONCE_S = 120
NOTHING_AVAILABLE_S = 60  # 25 s of waiting, and the start of a process on a busy machine


class Place(NamedTuple):
    """Running worker, and functions that run `connector check` at the same time."""

    cluster: Cluster
    source: Simulation
    registry: RegistryClient
    worker: Worker
    folder: Path
    admin: AdminClient

    def settings(self, **sections: Any) -> dict[str, Any]:
        """Return the worker's settings with these changes."""
        return configuration(
            self.cluster.bootstrap,
            TOPIC,
            APP,
            self.source,
            **{"tenants": self.tenants[:2], "schema_registry": {"url": self.registry.url}, **sections},
        )

    @property
    def tenants(self) -> list[dict[str, str]]:
        """Return the tenants. The last one has not granted the app role."""
        return [
            {"id": tenant, "name": name, "start": "-2h"}
            for tenant, name in zip(self.source.tenants, ("contoso", "fabrikam", "tailspin"), strict=True)
        ]

    def write(self, settings: Mapping[str, Any]) -> Path:
        path = self.folder / f"{uuid.uuid4().hex}.toml"
        path.write_text(toml(settings), encoding="utf-8")
        return path

    def check(self, **sections: Any) -> tuple[int, list[dict[str, Any]]]:
        """Run a check; return exit code and findings."""
        done = commands.run(self.write(self.settings(**sections)), "check", "--json")
        assert done.error == ""
        return done.code, json.loads(done.output)

    def members(self) -> list[str]:
        found = self.admin.describe_consumer_groups([APP])[APP].result(10)
        return sorted(member.member_id for member in found.members)

    @contextmanager
    def unnoticed(self) -> Iterator[None]:
        """Assert that the worker continues to commit, logs nothing, and neither restores, aborts nor fails."""

        def read_state() -> Any:
            return (
                self.members(),
                self.worker.status()["shards_owned"],
                self.worker.metric("transactions_total", outcome="aborted"),
                self.worker.metric("restore_duration_seconds"),
                self.worker.metric("tenant_failing"),
            )

        before, logged = read_state(), len(self.worker.events)
        yield
        committed = self.worker.metric("transactions_total", outcome="committed")
        self.worker.until(
            lambda: self.worker.metric("transactions_total", outcome="committed") > committed + 1,
            "further transactions",
        )
        assert read_state() == before
        assert self.worker.events[logged:] == []


@pytest.fixture(scope="module")
def place(registry: RegistryClient, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("check")
    with (
        Cluster(properties=AUTHORIZED) as cluster,
        Simulation(tenants=3, without_role=1, days=0.1, calls_per_day=5_000, **PUNCTUAL) as source,
    ):
        admin = AdminClient({"bootstrap.servers": cluster.bootstrap, "log_level": 0})
        place = Place(cluster, source, registry, Worker(folder / "worker", {}), folder, admin)
        place.worker.configure(place.settings())
        place.worker.start()
        try:
            place.worker.until_ready()
            place.worker.until_complete(datetime(2000, 1, 1, tzinfo=UTC))
            yield place
        finally:
            place.worker.kill()


def test_check_command_passes_while_a_worker_runs(place: Place) -> None:
    mine = place.settings(graph={"requests_per_minute": 1})
    last_request = place.source.requests()[-1].at
    with place.unnoticed():
        code, found = place.check(graph=mine["graph"])
    assert [finding for finding in found if not finding["ok"]] == []
    assert (code, [finding["check"] for finding in found]) == (0, ALL)
    assert [finding["tenant"] for finding in found[1:7]] == ["contoso"] * 3 + ["fabrikam"] * 3
    assert all(finding["ok"] and finding["message"] and finding["remedy"] is None for finding in found)
    asked = [request for request in place.source.requests() if request.at > last_request and _seconds(request.url) == 1]
    assert sorted(request.tenant or "" for request in asked) == sorted(place.source.tenants[:2])


def _seconds(url: str) -> float:
    inner = url.partition("(")[2].rstrip(")").replace("fromDateTime=", "").replace("toDateTime=", "")
    start, end = (datetime.fromisoformat(text) for text in inner.split(","))
    return (end - start).total_seconds()


def test_healthy_worker_logs_nothing_while_it_commits_rows(place: Place) -> None:
    worker = place.worker
    sweeps, rows = worker.metric("sweeps_total", outcome="ok"), worker.metric("rows_total")
    with place.unnoticed():
        worker.until(lambda: worker.metric("sweeps_total", outcome="ok") >= sweeps + QUIET_SWEEPS, "sweeps to end")
    assert worker.metric("rows_total") > rows
    started = [event["event"] for event in worker.events]
    assert len(started) < 20, started
    documented = (ROOT / "docs/logs.md").read_text(encoding="utf-8")
    assert all(f"`{event}`" in documented for event in started)


class Fault(NamedTuple):
    """Planted fault, the checks that must show it, and words of the message and of the remedy."""

    plant: Callable[[Place], dict[str, Any]]
    shows: set[str]
    message: str
    remedy: str


def wrong_secret(place: Place) -> dict[str, Any]:
    return {"identity": {**place.source.identity, "client_secret": "guessed"}}


def no_role(place: Place) -> dict[str, Any]:
    return {"tenants": place.tenants[2:]}


def wrong_cloud(_: Place) -> dict[str, Any]:
    return {"graph": {"cloud": "us-gov-l4"}}


def unknown_tenant(_: Place) -> dict[str, Any]:
    return {"tenants": [{"id": str(uuid.uuid4()), "name": "nobody"}]}


def brokers_unavailable(_: Place) -> dict[str, Any]:
    return {"kafka": {"bootstrap_servers": f"127.0.0.1:{free_ports(1)[0]}"}}


def not_compacted(place: Place) -> dict[str, Any]:
    new = NewTopic("loose.seen", 2, config={"cleanup.policy": "delete"})
    place.admin.create_topics([new])["loose.seen"].result(10)
    return {"kafka": {"app": "loose"}}


def deny(place: Place, kind: Any, name: str, operation: Any) -> None:
    binding = AclBinding(
        kind, name, ResourcePatternType.LITERAL, "User:ANONYMOUS", "*", operation, AclPermissionType.DENY
    )
    allow = AclBinding(
        kind, name, ResourcePatternType.LITERAL, "User:ANONYMOUS", "*", AclOperation.ALL, AclPermissionType.ALLOW
    )
    for future in place.admin.create_acls([binding, allow]).values():
        future.result(10)


def no_transactions(place: Place) -> dict[str, Any]:
    deny(place, ResourceType.TRANSACTIONAL_ID, "forbidden-check", AclOperation.WRITE)
    return {"kafka": {"app": "forbidden"}}


def registry_unavailable(_: Place) -> dict[str, Any]:
    return {"schema_registry": {"url": f"http://127.0.0.1:{free_ports(1)[0]}"}}


def incompatible_schema(place: Place) -> dict[str, Any]:
    record = {"type": "record", "name": "other", "fields": [{"name": "id", "type": "long"}]}
    place.registry.put(f"{APP}-taken-value", record)
    return {"kafka": {"topic": f"{APP}-taken", "app": "taken"}}


def expired_certificate(place: Place) -> dict[str, Any]:
    """Return settings for a Graph whose certificate has expired. Sign-in keeps a valid one."""
    fake = Fake(lambda _, __: (200, {"value": []}), _expired(place.folder))
    fake.__enter__()  # it runs in a daemon thread, which ends with the tests
    bundle = place.folder / "both.pem"
    bundle.write_text(Path(place.source.ca).read_text() + (place.folder / "expired.pem").read_text())
    return {"graph": {"base_url": fake.url.replace("127.0.0.1", "localhost"), "ca_bundle": str(bundle)}}


def _expired(folder: Path) -> ssl.SSLContext:
    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Graph")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=90))
        .not_valid_after(now - timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = certificate.public_bytes(serialization.Encoding.PEM)
    (folder / "expired.pem").write_bytes(pem)
    chain = folder / "server.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    chain.write_bytes(private + pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain)
    return context


FAULTS = [
    Fault(wrong_secret, {"token"}, "client secret is wrong", "configure the secret's value"),
    Fault(no_role, {"role", "graph"}, "CallRecords.Read.All", "give admin consent in this tenant"),
    Fault(wrong_cloud, {"token"}, "us-gov-l4", "set graph.cloud"),
    Fault(unknown_tenant, {"token"}, "does not exist in this cloud", "check the tenant's id"),
    Fault(expired_certificate, {"graph"}, "certificate has expired", "renew"),
    Fault(brokers_unavailable, {"brokers"}, "no broker answers at 127.0.0.1", "kafka.bootstrap_servers"),
    Fault(not_compacted, {"topics"}, "loose.seen has cleanup.policy=delete", "kafka-configs.sh --bootstrap-server"),
    Fault(no_transactions, {"transactions"}, "forbidden-check", "--transactional-id forbidden- --resource-pattern"),
    Fault(registry_unavailable, {"schema_registry"}, "cannot be reached", "schema_registry.url"),
    Fault(incompatible_schema, {"schema_registry"}, "not compatible", "set another topic"),
]


@pytest.fixture(scope="module")
def examined(place: Place) -> dict[str, commands.Done]:
    """Check each fault, all at the same time and next to a running worker; return the results."""
    configs = {fault.plant.__name__: place.write(place.settings(**fault.plant(place))) for fault in FAULTS}
    with place.unnoticed():
        running = {name: commands.start(config, "check", "--json") for name, config in configs.items()}
        return {name: commands.ended(process, ALL_AT_ONCE_S) for name, process in running.items()}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.plant.__name__)
def test_check_command_names_each_fault_with_its_remedy(
    place: Place, examined: dict[str, commands.Done], fault: Fault
) -> None:
    done = examined[fault.plant.__name__]
    assert done.error == ""
    code, found = done.code, json.loads(done.output)
    failed = [finding for finding in found if not finding["ok"]]
    assert code == 1, found
    assert {finding["check"] for finding in failed} == fault.shows, failed
    assert fault.message in failed[0]["message"]
    assert fault.remedy in failed[0]["remedy"]
    assert all(finding["remedy"] for finding in failed)
    assert not any(word in json.dumps(found) for word in ("eyJ", "guessed", place.source.identity["client_secret"]))


def test_check_command_names_missing_rights_without_writing(place: Place) -> None:
    kafka = {"app": "narrow", "topic": "narrow-calls", "replication_factor": 3}
    for name in ("narrow-calls", "narrow.state"):
        place.admin.create_topics([NewTopic(name, 2, config={"cleanup.policy": "compact"})])[name].result(10)
    deny(place, ResourceType.TOPIC, "narrow-calls", AclOperation.WRITE)
    deny(place, ResourceType.TOPIC, "narrow.state", AclOperation.READ)
    code, found = place.check(kafka=kafka)
    wrong = [finding for finding in found if not finding["ok"]]
    assert code == 1
    assert {finding["check"] for finding in wrong} == {"topics"}
    output = "\n".join(f"{finding['message']}: {finding['remedy']}" for finding in wrong)
    assert "lacks permission for Write on topic narrow-calls" in output
    assert "--operation Read --topic narrow.state" in output
    assert "topic narrow.seen cannot be created" in output


def test_check_command_creates_no_topic_or_subject_for_a_new_app(place: Place) -> None:
    topics, subjects = place.admin.list_topics(timeout=10).topics.keys(), place.registry.ask("GET", "/subjects")
    code, found = place.check(kafka={"app": "fresh", "topic": "fresh-calls"})
    assert code == 0, found
    messages = {finding["check"]: finding["message"] for finding in found}
    assert "run will create fresh-calls, " in messages["topics"]
    assert "connector run will register 2" in messages["schema_registry"]
    assert place.admin.list_topics(timeout=10).topics.keys() == topics
    assert place.registry.ask("GET", "/subjects") == subjects
    groups = place.admin.list_consumer_groups().result(10).valid
    assert "fresh" not in {group.group_id for group in groups}


def test_check_command_prints_commands_for_missing_topics(place: Place) -> None:
    code, found = place.check(kafka={"app": "absent", "topic": "absent-calls", "create_topics": False})
    wrong = [finding for finding in found if not finding["ok"]]
    assert code == 1
    assert len(wrong) == 6
    assert all("kafka-topics.sh" in finding["remedy"] for finding in wrong)


def test_check_command_reports_state_that_a_worker_would_refuse(place: Place) -> None:
    code, found = place.check(kafka={"topic": "another"})
    wrong = [finding for finding in found if not finding["ok"]]
    assert (code, [finding["check"] for finding in wrong]) == (1, ["topics"])
    assert "was written for topic calls" in wrong[0]["message"]
    assert "set kafka.topic back" in wrong[0]["remedy"]


def test_check_command_prints_one_line_per_check(place: Place) -> None:
    done = commands.run(place.write(place.settings(**no_role(place))), "check")
    assert (done.code, done.error) == (1, "")
    lines = done.output.splitlines()
    assert [line.partition(":")[0] for line in lines] == [
        "ok configuration",
        "ok token of tailspin",
        "FAILED role of tailspin",
        "FAILED graph of tailspin",
        "ok brokers",
        "ok topics",
        "ok transactions",
        "ok schema_registry",
        "2 of 8 checks failed",
    ]
    assert "; to do: grant CallRecords.Read.All" in lines[2]


def test_check_command_exits_2_with_one_line_per_invalid_setting(place: Place) -> None:
    broken = place.settings(kafka={"shards": 0}, windows={"slice": "soon"})
    done = commands.run(place.write(broken), "check", "--json")
    assert (done.code, done.output) == (2, "")
    assert len(done.error.splitlines()) == 2
    assert "kafka.shards" in done.error
    assert "windows.slice" in done.error


def test_check_command_ends_in_time_if_no_service_is_available(place: Place) -> None:
    addresses = [f"127.0.0.1:{port}" for port in free_ports(3)]
    started = time.monotonic()
    code, found = place.check(
        graph={"base_url": f"https://{addresses[0]}", "authority": f"https://{addresses[0]}"},
        kafka={"bootstrap_servers": addresses[1]},
        schema_registry={"url": f"http://{addresses[2]}"},
    )
    assert time.monotonic() - started < NOTHING_AVAILABLE_S
    assert code == 1
    failed = [finding["check"] for finding in found if not finding["ok"]]
    assert failed == ["token", "token", "brokers", "schema_registry"]
