"""What all tests share: a real Kafka broker, names that no other test has, and the count of tests that ran on it."""

import os
import re
import signal
import uuid
from collections.abc import Iterator
from dataclasses import dataclass

import hypothesis
import pytest

from tests.brokers import KAFKA_VERSION, Cluster
from tests.registries import Registry

# A shared machine is slow at times: how long an example takes says nothing.
hypothesis.settings.register_profile("default", deadline=None)
hypothesis.settings.register_profile("quick", deadline=None, max_examples=15)
# To see that an example fails, not to tell the shortest one.
hypothesis.settings.register_profile(
    "mutants", deadline=None, database=None, phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate]
)
hypothesis.settings.load_profile("default")

OWN_CLUSTERS = frozenset({"secured", "broker_of_its_own", "three_brokers"})
EXISTING_BROKER = os.environ.get("KAFKA_BOOTSTRAP_SERVERS", "")


@dataclass(frozen=True, slots=True)
class SharedBroker:
    """A broker that other tests use at the same time: only its address, nothing to stop it with."""

    bootstrap: str


@pytest.fixture(scope="session")
def broker() -> Iterator[SharedBroker]:
    """A real single broker, shared: KAFKA_BOOTSTRAP_SERVERS if set, else one of this session's own."""
    if EXISTING_BROKER:
        yield SharedBroker(EXISTING_BROKER)
        return
    with Cluster() as cluster:
        yield SharedBroker(cluster.bootstrap)


@pytest.fixture(scope="session")
def registry() -> Iterator[Registry]:
    """A real schema registry, shared: tests take subjects of their own."""
    with Registry() as registry:
        yield registry


@pytest.fixture
def broker_of_its_own() -> Iterator[Cluster]:
    """A real single broker for this test alone: to stop, kill, suspend and restart."""
    with Cluster() as cluster:
        yield cluster


@pytest.fixture
def three_brokers() -> Iterator[Cluster]:
    """A real cluster of three for this test alone; it survives the loss of any one."""
    with Cluster(3) as cluster:
        yield cluster


@pytest.fixture
def unique(request: pytest.FixtureRequest) -> str:
    """A legal Kafka name that no other test and no other run has."""
    words = re.sub(r"[^A-Za-z0-9]+", "-", request.node.name.removeprefix("test_")).strip("-")
    return f"{words[:40]}-{uuid.uuid4().hex[:8]}"


@pytest.fixture
def topic(unique: str) -> str:
    """Name for `kafka.topic` of this test."""
    return f"calls-{unique}"


@pytest.fixture
def app(unique: str) -> str:
    """Name for `kafka.app` of this test."""
    return f"app-{unique}"


def pytest_configure() -> None:
    """Whoever starts tests in the background of a script starts them, and all that they start, deaf to Ctrl-C."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test that uses a real broker with `broker`."""
    for item in items:
        if not (OWN_CLUSTERS | {"broker"}).isdisjoint(getattr(item, "fixturenames", ())):
            item.add_marker("broker")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how many tests ran on a real broker."""
    reports = [
        report
        for outcome in ("passed", "failed")
        for report in terminalreporter.getreports(outcome)
        if report.when == "call" and "broker" in report.keywords
    ]
    if reports:
        where = "the broker of KAFKA_BOOTSTRAP_SERVERS" if EXISTING_BROKER else f"a real Kafka {KAFKA_VERSION} broker"
        terminalreporter.write_line(f"{len(reports)} tests ran on {where}")
