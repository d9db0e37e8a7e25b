"""The registry client and registries that misbehave. tests/integration has the tests with a real registry."""

import json
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from connector.config import SchemaRegistry, Secret
from connector.errors import ConfigurationError, FatalError, RegistryUnavailableError
from connector.kafka import avro, registry
from connector.kafka.registry import Registry, Subject, subjects
from connector.simulator import certificates
from tests.registries import Answer, Answers, Fake

ROW = Subject("calls-value", avro.ROW, ("calls",))
SCHEMA = json.dumps(avro.load(avro.ROW))
UNKNOWN_SUBJECT = (404, {"error_code": 40401, "message": "Subject not found."})
UNKNOWN_SCHEMA = (404, {"error_code": 40403, "message": "Schema not found"})


@pytest.fixture
def fake() -> Iterator[Callable[[Answers], Fake]]:
    with ExitStack() as stack:
        yield lambda answer: stack.enter_context(Fake(answer))


def settings(url: str, **members: Any) -> SchemaRegistry:
    return SchemaRegistry(
        **{
            "url": url,
            "username": "",
            "password": None,
            "token": None,
            "ca_bundle": None,
            "subject_name_strategy": "topic",
            "auto_register": True,
            **members,
        }
    )


@pytest.mark.parametrize(
    ("status", "content", "expected"),
    [
        (401, {"error_code": 401}, r"requires credentials \(401\)"),
        (403, b"<html>", r"requires credentials \(403\)"),
        (500, {"error_code": 50001}, "answers 500"),
        (502, b"<html>bad gateway</html>", "answers 502"),
        (429, {}, "answers 429"),
        (302, b"", r"redirects to another address \(302\)"),
        (404, b"<html>", r"answers 404; check that schema_registry.url is the root of its Confluent API"),
        (404, {"error": "HTTP 404 Not Found"}, "answers 404"),
        (200, b"<html>a page to sign in</html>", "not a JSON object"),
        (200, b"{", "not a JSON object"),
        (200, b"\xff\xfe", "not a JSON object"),
        (200, [1, 2], "without the id"),
        (200, {"subject": "calls-value"}, "without the id"),
        (200, {"id": "1"}, "without the id"),
        (200, {"id": True}, "without the id"),
        (200, b"[" * 100_000, "not a JSON object"),
    ],
)
def test_transient_registry_error_is_reported_as_unavailable(
    fake: Callable[[Answers], Fake], status: int, content: Any, expected: str
) -> None:
    server = fake(lambda *_: (status, content))
    with pytest.raises(RegistryUnavailableError, match=expected):
        Registry(settings(server.url)).ensure([ROW])


def test_registry_client_presents_its_tls_certificate(tmp_path: Path) -> None:
    """Mutual TLS, with the key in the certificate file or in a separate file."""
    authority = certificates.Authority("CA of a registry")
    files = {"ca": authority.pem, "server": authority.issue("registry", ("127.0.0.1",))}
    client = authority.issue("connector")
    key, certificate = client.split(b"-----BEGIN CERTIFICATE-----", 1)
    files |= {"both": client, "key": key, "certificate": b"-----BEGIN CERTIFICATE-----" + certificate}
    paths = {name: tmp_path / f"{name}.pem" for name in files}
    for name, content in files.items():
        paths[name].write_bytes(content)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(paths["server"])
    context.load_verify_locations(paths["ca"])
    context.verify_mode = ssl.CERT_REQUIRED
    with Fake(lambda *_: (200, {"id": 7}), context) as server:
        for members in (
            {"client_certificate": paths["both"]},
            {"client_certificate": paths["certificate"], "client_key": paths["key"]},
        ):
            registry_client = Registry(settings(server.url, ca_bundle=paths["ca"], **members))
            assert registry_client.ensure([ROW]) == {"calls": 7}
        with pytest.raises(RegistryUnavailableError):
            Registry(settings(server.url, ca_bundle=paths["ca"])).ensure([ROW])
    with pytest.raises(ConfigurationError, match=r"registry\.client_certificate: .* without a password"):
        Registry(settings("https://127.0.0.1:1", client_certificate=paths["certificate"]))


def test_registry_client_tries_all_addresses_in_turn(fake: Callable[[Answers], Fake]) -> None:
    broken, right = fake(lambda *_: (503, {})), fake(lambda *_: (200, {"id": 7}))
    nobody = "http://127.0.0.1:1"
    registry_client = Registry(settings(f"{nobody},{broken.url},{right.url}"))
    assert registry_client.ensure([ROW]) == {"calls": 7}
    tried = len(broken.requests)
    assert registry_client.ensure([ROW]) == {"calls": 7}
    assert len(broken.requests) == tried, "the address that responded is used first"
    with pytest.raises(RegistryUnavailableError) as caught:
        Registry(settings(f"{nobody},{broken.url}")).ensure([ROW])
    assert nobody in str(caught.value)
    assert f"{broken.url} answers 503" in str(caught.value)


def test_unreachable_registry_is_reported_as_unavailable() -> None:
    with pytest.raises(RegistryUnavailableError, match=r"http://127\.0\.0\.1:1 cannot be reached: Connection refused"):
        Registry(settings("http://127.0.0.1:1")).ensure([ROW])


def test_request_to_a_hanging_registry_times_out(
    fake: Callable[[Answers], Fake], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "_TIMEOUT_S", 0.2)
    release = threading.Event()

    def hang(*_: str) -> Answer:
        release.wait(30)
        return 200, {}

    server = fake(hang)
    with pytest.raises(RegistryUnavailableError, match="timed out"):
        Registry(settings(server.url)).ensure([ROW])
    release.set()
    monkeypatch.setattr(registry, "_WHOLE_ANSWER_S", -1.0)
    server = fake(lambda *_: (200, {"id": 1}))
    with pytest.raises(RegistryUnavailableError, match="timed out"):
        Registry(settings(server.url)).ensure([ROW])


def test_oversized_registry_response_is_not_read_to_its_end(
    fake: Callable[[Answers], Fake], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "_ANSWER_MAX_BYTES", 1000)
    server = fake(lambda *_: (200, b" " * 2000))
    with pytest.raises(RegistryUnavailableError, match="longer than"):
        Registry(settings(server.url)).ensure([ROW])


def empty(registering: Answer) -> Answers:
    """Return a function with the responses of a registry without the subject. Registration gets `registering`."""

    def answer(method: str, path: str) -> Answer:
        return registering if method == "POST" and path.endswith("/versions") else UNKNOWN_SUBJECT

    return answer


@pytest.mark.parametrize("status", [409, 422])
def test_schema_refusal_quotes_the_registry_message(fake: Callable[[Answers], Fake], status: int) -> None:
    server = fake(empty((status, {"error_code": 42201, "message": "no\nsuch\x1b[31m schema"})))
    with pytest.raises(FatalError, match=rf"calls-value: .*\({status}\): no such \[31m schema: remove the reason"):
        Registry(settings(server.url)).ensure([ROW])


def test_registration_by_another_worker_is_not_a_conflict(fake: Callable[[Answers], Fake]) -> None:
    registered = threading.Event()

    def answer(method: str, path: str) -> Answer:
        if method == "POST" and path.endswith("/versions"):
            registered.set()
            return 409, {"error_code": 409, "message": "already exists"}
        if registered.is_set():
            return 200, {"id": 7, "version": 1, "subject": "calls-value", "schema": SCHEMA}
        return UNKNOWN_SUBJECT

    assert Registry(settings(fake(answer).url)).ensure([ROW]) == {"calls": 7}


def compatibility_answers(answer: Answer, latest: Any) -> Answers:
    """Return a function with the responses of a registry whose subject has another schema."""

    def answered(method: str, path: str) -> Answer:
        if path.startswith("/compatibility/"):
            return answer
        if method == "GET" and path.endswith("/versions"):
            return 200, [1]
        if method == "GET":
            return 200, {"subject": "calls-value", "version": 1, "id": 3, **latest}
        return UNKNOWN_SCHEMA

    return answered


@pytest.mark.parametrize(
    ("latest", "words"),
    [
        ({"schema": '"string"'}, "version 1: the schema itself is string in the registry"),
        ({"schema": "{}", "schemaType": "PROTOBUF"}, "version 1 is not an Avro schema, but has the type PROTOBUF"),
        ({"schema": "{"}, "version 1"),
        ({"schema": '{"type": "record"}'}, "version 1"),
        ({}, "version 1"),
    ],
)
def test_subject_with_an_unrelated_schema_is_refused(fake: Callable[[Answers], Fake], latest: Any, words: str) -> None:
    server = fake(compatibility_answers((200, {"is_compatible": True}), latest))
    with pytest.raises(FatalError, match=words):
        Registry(settings(server.url)).ensure([ROW])
    assert not [
        path for method, path, _ in server.requests if method == "POST" and path == "/subjects/calls-value/versions"
    ]


def test_error_shows_why_the_registry_finds_schemas_incompatible(fake: Callable[[Answers], Fake]) -> None:
    older = {**avro.load(avro.ROW), "doc": "another"}
    response = (200, {"is_compatible": False, "messages": ["{oldSchemaVersion: 1}", "because\nof that"]})
    server = fake(compatibility_answers(response, {"schema": json.dumps(older)}))
    with pytest.raises(FatalError, match=r"by the registry's rules, \{oldSchemaVersion: 1\}; because of that"):
        Registry(settings(server.url)).ensure([ROW])


def test_registry_client_uses_rotated_credentials(fake: Callable[[Answers], Fake], tmp_path: Path) -> None:
    server = fake(lambda *_: (200, {"id": 5}))
    Registry(settings(server.url, username="user", password=Secret("päss"))).ensure([ROW])
    assert server.requests[-1][2]["Authorization"] == "Basic dXNlcjpww6Rzcw=="
    file = tmp_path / "token"
    file.write_text("first\n", encoding="utf-8")
    client = Registry(settings(server.url, token=Secret.from_file(file)))
    client.ensure([ROW])
    assert server.requests[-1][2]["Authorization"] == "Bearer first"
    file.write_text("second\n", encoding="utf-8")
    client.ensure([ROW])
    assert server.requests[-1][2]["Authorization"] == "Bearer second"


def test_registry_certificate_is_verified_with_the_ca_bundle(tmp_path: Path) -> None:
    pem, context = certificates.make(["127.0.0.1"])
    bundle = tmp_path / "ca.pem"
    bundle.write_bytes(pem)
    with Fake(lambda *_: (200, {"id": 2}), context) as server:
        assert Registry(settings(server.url, ca_bundle=bundle)).ensure([ROW]) == {"calls": 2}
        with pytest.raises(RegistryUnavailableError, match=r"cannot be reached.*certificate is not trusted"):
            Registry(settings(server.url)).ensure([ROW])
        assert len(server.requests) == 1


def test_registry_errors_and_redirects_reveal_no_secret(fake: Callable[[Answers], Fake]) -> None:
    server = fake(lambda *_: (307, b""))
    for token in ("hunter2", "hunter2\nX: y", "hünter2"):
        with pytest.raises(RegistryUnavailableError) as caught:
            Registry(settings(server.url, token=Secret(token))).ensure([ROW])
        assert "nter2" not in str(caught.value)
    assert len(server.requests) == 1


def test_registry_client_honours_http_proxy_and_no_proxy(
    fake: Callable[[Answers], Fake], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    proxy = fake(lambda *_: (200, {"id": 9}))
    monkeypatch.setenv("http_proxy", proxy.url)
    assert Registry(settings("http://registry.invalid:8081")).ensure([ROW]) == {"calls": 9}
    assert proxy.requests[-1][1] == "http://registry.invalid:8081/subjects/calls-value"
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = fake(lambda *_: (200, {"id": 4}))
    assert Registry(settings(server.url)).ensure([ROW]) == {"calls": 4}


def test_subject_names_follow_the_configured_strategy() -> None:
    row, progress = "microsoft.graph.callRecords.directRoutingLogRow", "microsoft.graph.callRecords.progress"
    assert [(s.name, s.topics) for s in subjects(["a", "b"], "topic")] == [
        ("a-value", ("a",)),
        ("a.progress-value", ("a.progress",)),
        ("b-value", ("b",)),
        ("b.progress-value", ("b.progress",)),
    ]
    assert [(s.name, s.topics) for s in subjects(["a", "b"], "record")] == [
        (row, ("a", "b")),
        (progress, ("a.progress", "b.progress")),
    ]
    assert [s.name for s in subjects(["a"], "topic_record")] == [f"a-{row}", f"a.progress-{progress}"]
