"""Records over the length limit of a topic: a long row never stops a shard.

A long state record stops it before it writes rows.
"""

import json
from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from confluent_kafka.admin import AdminClient, NewTopic

from connector.kafka import topics
from tests import oracle
from tests.brokers import set_topic
from tests.conftest import SharedBroker
from tests.hostile import HostileGraph, send
from tests.simulation import Simulation
from tests.workers import Worker

Simulate = Callable[..., Simulation]
NewWorker = Callable[..., Worker]
Settings = Callable[..., dict[str, Any]]

DELIVERIES = ["exactly_once", "at_least_once"]
SMALL = {"days": 1, "calls_per_day": 2_000, "page_size": 200, "unfit": 0.01, "frozen": True}
START = f"{datetime.now(UTC) - timedelta(minutes=5):%Y-%m-%dT%H:%M:%SZ}"
LONG_ID = "x" * 600_000
LONG_ROWS: dict[str, tuple[dict[str, Any], bytes | None]] = {
    "a long id": ({"id": LONG_ID}, None),
    "a long id of a row that does not fit": ({"id": LONG_ID, "duration": "x"}, None),
    "a value that pseudonyms make long": ({"id": "a", "legs": [{"callerNumber": "1"}] * 16_000}, b"a"),
    "many small members": ({"id": "b", **{f"m{n}": None for n in range(65_000)}, "long": "y" * 200_000}, b"b"),
    "a row longer than any": ({"id": "c", "long": "y" * 1_200_000}, b"c"),
}


class Place(NamedTuple):
    """Broker and the names of the topics of one test."""

    broker: SharedBroker
    topic: str
    app: str
    new_worker: NewWorker
    settings: Settings

    def named(self, pattern: str) -> str:
        return pattern.format(topic=self.topic, app=self.app)

    def worker(self, source: Simulation, delivery: str, **sections: Any) -> Worker:
        return self.new_worker(self.settings(source, kafka={"delivery": delivery}, **sections))

    def check(self, source: Simulation, *, repeats: bool = False) -> oracle.Committed:
        return oracle.check(self.broker.bootstrap, self.topic, self.app, source.truth(), repeats=repeats)


@pytest.fixture
def place(broker: SharedBroker, topic: str, app: str, new_worker: NewWorker, settings: Settings) -> Place:
    return Place(broker, topic, app, new_worker, settings)


def create(place: Place, limited: list[str], limit: int) -> None:
    """Create the topics of an app, some of them with a small max.message.bytes."""
    broker, topic, app, *_ = place
    admin = AdminClient({"bootstrap.servers": broker.bootstrap, "log_level": 0})
    required = topics.wanted(app, [topic], 2, 3, {})
    new = [
        NewTopic(
            definition.name,
            num_partitions=definition.partitions,
            config={**definition.settings, **({"max.message.bytes": str(limit)} if definition.name in limited else {})},
        )
        for definition in required
    ]
    for future in admin.create_topics(new).values():
        future.result(30)


def answer(rows: list[dict[str, Any]]) -> Callable[[HostileGraph, BaseHTTPRequestHandler], None]:
    """Return the response to any request: a page with the long rows between normal rows."""

    def page(_: HostileGraph, handler: BaseHTTPRequestHandler) -> None:
        ordinary = [{"id": f"row-{number}", "startDateTime": START} for number in range(10)]
        long = [{"startDateTime": START, **row} for row in rows]
        send(handler, json.dumps({"value": [*ordinary[:5], *long, *ordinary[5:]]}).encode())

    return page


@pytest.mark.parametrize("delivery", DELIVERIES)
def test_row_over_the_record_limit_is_dead_lettered_once(
    place: Place,
    simulate: Simulate,
    tmp_path: Path,
    delivery: str,
) -> None:
    rows, keys = [row for row, _ in LONG_ROWS.values()], [key for _, key in LONG_ROWS.values()]
    source = simulate(days=0, calls_per_day=0)
    (tmp_path / "key").write_text("k" * 32, encoding="utf-8")
    trusted = tmp_path / "authorities.pem"
    with ExitStack() as stack:
        graph = stack.enter_context(HostileGraph({}, answer(rows)))
        trusted.write_bytes(graph.authority + Path(source.ca).read_bytes())
        worker = place.worker(
            source,
            delivery,
            tenants=[{"id": source.tenants[0], "start": "-1h"}],
            graph={"base_url": graph.url, "ca_bundle": str(trusted)},
            windows={"sweeps": [{"every": "1s", "overlap": "10m"}]},
            rows={"privacy": {"callerNumber": "pseudonymize"}, "additional_properties": "keep"},
            pseudonyms={"key": {"file": str(tmp_path / "key")}},
        )
        assert worker.run_once() == 0
        assert worker.run_once() == 0
        assert not worker.named("shard_restarting")
    assert {entry.key for entry in oracle.read(place.broker.bootstrap, place.topic)} == {
        b"row-%d" % n for n in range(10)
    }
    letters = oracle.read(place.broker.bootstrap, f"{place.topic}.dlq")
    assert len(letters) == len(keys)
    assert {(letter.key, letter.value) for letter in letters} == {(key, b"") for key in keys}
    for letter in letters:
        message = dict(letter.headers)["__connect.errors.exception.message"].decode()
        assert "longer than" in message or f"{place.topic}.dlq accepts" in message


@pytest.mark.parametrize("delivery", DELIVERIES)
@pytest.mark.parametrize("limit", [20_000, 2_000])
def test_batches_fit_topics_with_small_record_limits(
    place: Place,
    simulate: Simulate,
    limit: int,
    delivery: str,
) -> None:
    """Each row is published once in both delivery modes, and nothing again after a restart."""
    create(place, [one.name for one in topics.wanted(place.app, [place.topic], 2, 3, {})], limit)
    source = simulate(**SMALL)
    worker = place.worker(source, delivery)
    assert worker.run_once() == 0
    assert not worker.named("shard_restarting")
    warned = {entry["topic"]: entry["remedy"] for entry in worker.named("topic_record_limit_low")}
    assert f"--entity-name {place.topic} --add-config max.message.bytes=1048588" in warned[place.topic]
    found = place.check(source)
    assert found.dead_letters
    assert worker.run_once() == 0
    second_check = place.check(source)
    assert len(second_check.rows) == len(found.rows)


@pytest.mark.parametrize(
    ("limited", "limit", "delivery"),
    [
        ("{app}.state", 520, "exactly_once"),
        ("{app}.state", 520, "at_least_once"),
        ("{app}.seen", 100, "at_least_once"),
        ("{topic}.dlq", 80, "exactly_once"),
    ],
)
def test_worker_writes_no_rows_if_their_state_is_too_long(
    place: Place,
    simulate: Simulate,
    limited: str,
    limit: int,
    delivery: str,
) -> None:
    limited = place.named(limited)
    create(place, [limited], limit)
    source = simulate(**SMALL)
    worker = place.worker(source, delivery)
    worker.start()
    problem = worker.until_logged("record_too_long")
    assert problem["topic"] == limited
    assert f"--entity-name {limited} --add-config max.message.bytes=1048588" in problem["remedy"]
    worker.until(lambda: worker.metric("transactions_total", outcome="aborted") >= 2, "the limit to be read again")
    assert len(worker.named("record_too_long")) <= 2
    assert not worker.named("shard_restarting")
    assert worker.get("/livez")[0] == 200
    assert limited in worker.get("/readyz")[1]
    written = oracle.read(place.broker.bootstrap, place.topic)
    set_topic(place.broker.bootstrap, limited, "max.message.bytes", "1048588")
    worker.until_complete(datetime.now(UTC))
    assert worker.stop() == 0
    found = place.check(source)
    assert len(found.rows) >= len(written)


@pytest.mark.parametrize(("limited", "delivery"), [("{topic}", "exactly_once"), ("{app}.seen", "at_least_once")])
def test_worker_obeys_a_record_limit_that_is_lowered_at_run_time(
    place: Place,
    simulate: Simulate,
    limited: str,
    delivery: str,
) -> None:
    source = simulate(days=1, calls_per_day=2_000, page_size=80, faults={"slow": 1.0, "slow_s": 0.2}, frozen=True)
    worker = place.worker(source, delivery)
    worker.start()
    worker.until(lambda: worker.metric("rows_total", outcome="published") > 0, "the first rows")
    set_topic(place.broker.bootstrap, place.named(limited), "max.message.bytes", "2000")
    worker.until_complete(datetime.now(UTC))
    assert len(worker.named("shard_restarting")) <= 2
    assert worker.stop() == 0
    place.check(source, repeats=delivery == "at_least_once")
