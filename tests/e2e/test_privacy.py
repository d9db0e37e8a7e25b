"""No clear phone number or name leaves the process, whatever goes wrong, and no row is lost or repeated."""

import hashlib
import hmac
import json
import signal
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import msgspec
from confluent_kafka import Consumer, TopicPartition

from connector.simulator import TruthRow
from tests import oracle
from tests.conftest import SharedBroker
from tests.simulation import Simulation
from tests.watch import Watch
from tests.workers import Worker

Simulate = Callable[..., Simulation]
NewWorker = Callable[..., Worker]
Settings = Callable[..., dict[str, Any]]

FIRST_KEY, SECOND_KEY = bytes(range(255, 215, -1)), b"another key, as long as one should be"
PRIVACY = {
    "callerNumber": "mask",
    "calleeNumber": "pseudonymize",
    "userId": "pseudonymize",
    "userPrincipalName": "drop",
    "userDisplayName": "mask",
}
GRAPH_FAULTS = {
    "throttled": 0.05,
    "retry_after": "mixed",
    "retry_after_s": 0.3,
    "server_error": 0.05,
    "cut": 0.05,
    "garbage": 0.03,
    "not_a_page": 0.03,
    "unauthorized": 0.03,
    "repeat_once": 0.1,
}
SHORTEST = 7
"Length below which a mask leaves a value unchanged, or a value may occur anywhere by chance."


def treated(name: str, value: Any, key: bytes) -> Any:
    """Return a value as privacy settings change it, computed from the documentation without code of the connector."""
    if value is None or value == "":
        return value
    if PRIVACY[name] == "drop" or not isinstance(value, str):
        return None
    if PRIVACY[name] == "pseudonymize":
        kid = hashlib.sha256(key).hexdigest()[:8]
        return f"{kid}:{hmac.new(key, value.encode(), hashlib.sha256).hexdigest()}"
    clear = 6 if value[0] in "+0123456789" else 0
    stars = ("*" if unicodedata.category(character)[0] in "LN" else character for character in value[clear:])
    return value[:clear] + "".join(stars)


def expected_row(version: TruthRow, key: bytes) -> TruthRow:
    """Return a row as topics may contain it: privacy settings are applied, and only members of the schema remain."""
    members = msgspec.json.decode(version.row, type=dict[str, msgspec.Raw])
    fields = {field["name"] for field in oracle._schema()["fields"]}
    for name in [name for name in members if version.fits and name not in fields]:
        del members[name]
    for name in PRIVACY.keys() & members.keys():
        value = msgspec.json.decode(members[name])
        if value != treated(name, value, key):
            members[name] = msgspec.Raw(msgspec.json.encode(treated(name, value, key)))
    return msgspec.structs.replace(version, row=msgspec.Raw(msgspec.json.encode(members)))


def is_object(version: TruthRow) -> bool:
    return bytes(version.row).startswith(b"{")


def personal(truth: oracle.Truth) -> set[str]:
    """Return every value that must not appear anywhere."""
    values: set[str] = set()
    for versions in truth.values():
        for version in filter(is_object, versions):
            members = json.loads(bytes(version.row))
            for name in PRIVACY.keys() & members.keys():
                value = members[name] if isinstance(members[name], str) else json.dumps(members[name])
                if len(value) >= SHORTEST and treated(name, value, FIRST_KEY) != value:
                    values.add(value)
    return values


def everything(bootstrap: str, topics: Iterable[str]) -> dict[str, bytes]:
    """Return all keys, values and headers of the topics, including those of aborted transactions."""
    config = {"bootstrap.servers": bootstrap, "group.id": "-", "isolation.level": "read_uncommitted"}
    consumer = Consumer({**config, "enable.auto.commit": False, "enable.partition.eof": True})
    contents = {}
    for topic in topics:
        partitions = [
            TopicPartition(topic, number, 0) for number in consumer.list_topics(topic).topics[topic].partitions
        ]
        consumer.assign(partitions)
        content: list[bytes] = []
        open_ = len(partitions)
        while open_:
            message = consumer.poll(10)
            assert message is not None, f"{topic} does not answer"
            if message.error():
                open_ -= 1
                continue
            content += [message.key() or b"", message.value() or b""]
            headers = cast("list[tuple[str, bytes]]", message.headers() or [])
            content += [part for name, value in headers for part in (name.encode(), value)]
        contents[topic] = b"\n".join(content)
    consumer.close()
    return contents


def test_search_for_personal_data_finds_planted_values() -> None:
    watch = Watch({"+493012345678", "Chloé Dvořák"})
    assert watch.find("\x00Chloé Dvořák +49301234567".encode()) == {"Chloé Dvořák".encode()}
    assert watch.find(json.dumps({"a": "Chloé Dvořák"}).encode())


def test_protected_personal_data_never_leaves_the_process(  # noqa: PLR0915
    broker: SharedBroker,
    topic: str,
    app: str,
    simulate: Simulate,
    new_worker: NewWorker,
    settings: Settings,
    tmp_path: Path,
) -> None:
    """Topics with aborted records, logs, metrics, status and the page are searched byte by byte.

    Revisions are recognized by received values: a row that appears or changes after a change of the pseudonym key is
    published once, with the new key.
    """
    source = simulate(
        days=1, calls_per_day=3_000, page_size=100, clock_offset_s=-21_600, unfit=0.03, unknown=0.1, revised=0.1,
        lateness="0.9:1s-10s,0.1:10m-2h", faults=GRAPH_FAULTS,
    )  # fmt: skip
    key_file, secret_file = tmp_path / "key", tmp_path / "secret"
    key_file.write_bytes(FIRST_KEY + b"\n")
    secret_file.write_text("not the right one")
    right = source.identity["client_secret"]
    identity = {**source.identity, "client_secret": {"file": str(secret_file)}}
    configured = settings(
        source,
        identity=identity,
        rows={"privacy": PRIVACY},
        pseudonyms={"key": {"file": str(key_file)}},
        log={"format": "json", "level": "debug"},
    )
    worker = new_worker(configured)
    responses: list[bytes] = []

    def listen() -> None:
        responses.extend(worker.get(path)[1].encode() for path in ("/status", "/metrics", "/", "/readyz", "/livez"))

    worker.start()
    worker.until_logged("sign_in_failed")
    listen()
    secret_file.write_text(right + "\n")
    worker.signal(signal.SIGHUP)
    worker.until(lambda: worker.metric("rows_total", outcome="published") > 500, "the first rows")
    listen()
    worker.kill()
    worker.start()
    worker.until(lambda: worker.metric("rows_total", outcome="published") > 500, "rows after the restart")
    source.clear_faults()
    worker.until_complete(source.freeze())
    listen()
    before = source.truth()
    known = {bytes(version.row) for versions in before.values() for version in versions}
    published = worker.metric("rows_total", outcome="published") + worker.metric("rows_total", outcome="revised")

    key_file.write_bytes(SECOND_KEY)
    worker.until_complete(datetime.now(UTC))
    published_later = worker.metric("rows_total", outcome="published") + worker.metric("rows_total", outcome="revised")
    assert published_later == published, "a new key published known rows again"
    source.set_clock_offset(timedelta())
    worker.until_complete(source.freeze())
    listen()
    assert worker.stop() == 0

    truth = source.truth()
    expected = {
        tenant: [
            expected_row(version, FIRST_KEY if bytes(version.row) in known else SECOND_KEY)
            for version in versions
            if version.fits or is_object(version)
        ]
        for tenant, versions in truth.items()
    }
    found = oracle.committed(broker.bootstrap, topic, app)
    empty = [letter for letter in found.dead_letters if not letter.value]
    found.dead_letters = [letter for letter in found.dead_letters if letter.value]
    problems = oracle.differences(found, expected, claims=False)
    assert not problems, "\n".join(problems)
    bare = [version for versions in truth.values() for version in versions if not (version.fits or is_object(version))]
    never_replaced = [version for version in bare if version.until is None]
    assert 0 < len(never_replaced) <= len(empty) <= len(bare)
    assert len(found.dead_letters) > 50
    assert any(row.revision for row in found.rows)
    assert not any(row.fields["additionalProperties"] for row in found.rows)
    key_ids = Counter(row.fields["calleeNumber"][:8] for row in found.rows if row.fields["calleeNumber"])
    assert set(key_ids) == {hashlib.sha256(key).hexdigest()[:8] for key in (FIRST_KEY, SECOND_KEY)}

    watch = Watch(personal(truth))
    assert watch.find(next(bytes(v.row) for v in truth[source.tenants[0]] if v.fits and b"@contoso" in bytes(v.row)))
    internal = [f"{app}.{name}" for name in ("control", "state", "seen")]
    seen = everything(broker.bootstrap, [topic, f"{topic}.dlq", f"{topic}.progress", *internal])
    seen["http"] = b"\n".join(responses)
    seen["log"] = b"\n".join(log.read_bytes() for log in worker.config.parent.glob("log-*"))
    assert all(len(content) > 100 for name, content in seen.items() if name != f"{app}.control")
    assert {name: watch.find(content) for name, content in seen.items()} == {name: set() for name in seen}
    assert right.encode() not in seen["log"] + seen["http"]
    assert FIRST_KEY not in seen["log"]
    assert SECOND_KEY not in seen["log"]

    verify = new_worker(configured, "-m", "connector", "verify")
    begin = (datetime.now(UTC) - timedelta(days=3)).isoformat()
    end = (datetime.now(UTC) + timedelta(0)).isoformat()
    verify.start(
        "--tenant", source.tenants[0], "--from", begin, "--to", end, "--json", "--requests-per-minute", "60000"
    )
    assert verify.wait() == 0, verify.tail()
    assert not watch.find(verify.log.read_bytes())


def test_pseudonymized_key_maps_each_user_to_one_partition(
    broker: SharedBroker, topic: str, app: str, simulate: Simulate, new_worker: NewWorker, settings: Settings
) -> None:
    """The pseudonym is the key of the record. The key of a row without a user is the row id."""
    source = simulate(days=1, calls_per_day=600, frozen=True, users=5)
    rows = {"key": "userId", "privacy": {name: PRIVACY[name] for name in ("userId", "callerNumber")}}
    worker = new_worker(settings(source, rows=rows, pseudonyms={"key": SECOND_KEY.decode()}))
    assert worker.run_once() == 0
    found = oracle.committed(broker.bootstrap, topic, app)
    assert len(found.rows) > 400
    partitions: dict[bytes | None, set[int]] = defaultdict(set)
    for row in found.rows:
        partitions[row.entry.key].add(row.entry.partition)
        assert row.entry.key == (row.fields["userId"] or row.id).encode()
    kid = hashlib.sha256(SECOND_KEY).hexdigest()[:8].encode()
    of_users = {key: where for key, where in partitions.items() if key and key.startswith(kid + b":")}
    assert len(of_users) == 5
    assert all(len(where) == 1 for where in partitions.values())
    nobody = [row for row in found.rows if not row.fields["userId"]]
    assert nobody
    clear = {
        json.loads(bytes(v.row))["userId"] for v in source.truth()[source.tenants[0]] if b'"userId"' in bytes(v.row)
    }
    assert not clear & {row.fields["userId"] for row in found.rows if row.fields["userId"]}


def test_record_key_is_the_row_id_if_privacy_drops_the_key_field(
    broker: SharedBroker, topic: str, app: str, simulate: Simulate, new_worker: NewWorker, settings: Settings
) -> None:
    source = simulate(days=0.2, calls_per_day=600, frozen=True)
    worker = new_worker(settings(source, rows={"key": "userId", "privacy": {"userId": "drop"}}))
    assert worker.run_once() == 0
    found = oracle.committed(broker.bootstrap, topic, app)
    assert found.rows
    assert all(row.entry.key == row.id.encode() and not row.fields["userId"] for row in found.rows)
