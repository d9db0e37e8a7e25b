"""Fixtures that all tests share: a real Kafka broker, unique names, and the count of tests that ran on the broker."""

import os
import re
import signal
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Any

import hypothesis
import pytest

from tests import durations
from tests.brokers import KAFKA_VERSION, Cluster
from tests.registries import RegistryClient
from tests.shared import Shared, ask

# A shared machine may be slow, so the duration of an example is not a reason to fail.
hypothesis.settings.register_profile("default", deadline=None)
hypothesis.settings.register_profile("quick", deadline=None, max_examples=15)
# The checks show that a mutant makes an example fail. They do not need the shortest example.
hypothesis.settings.register_profile(
    "mutants", deadline=None, database=None, phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate]
)
hypothesis.settings.load_profile("default")

OWN_CLUSTERS = frozenset({"secured", "broker_of_its_own", "three_brokers"})
_SHARED = pytest.StashKey[Shared]()
EXISTING_BROKER = os.environ.get("KAFKA_BOOTSTRAP_SERVERS", "")


@dataclass(frozen=True, slots=True)
class SharedBroker:
    """Broker that other tests use at the same time: it has an address only and cannot be stopped."""

    bootstrap: str


@pytest.fixture(scope="session")
def broker(pytestconfig: pytest.Config) -> SharedBroker:
    """Return the real broker that all tests share: KAFKA_BOOTSTRAP_SERVERS if set, else one started for this run."""
    return SharedBroker(EXISTING_BROKER or _address(pytestconfig, "broker"))


@pytest.fixture(scope="session")
def registry(pytestconfig: pytest.Config) -> RegistryClient:
    """Return the real schema registry that all tests share. Each test uses its own subjects."""
    return RegistryClient(int(_address(pytestconfig, "registry")))


@pytest.fixture(scope="session")
def postgres(pytestconfig: pytest.Config) -> str:
    """Return the DSN of the real PostgreSQL server that all tests share. Each test creates its own database."""
    return _address(pytestconfig, "postgres")


def _address(config: pytest.Config, name: str) -> str:
    """Return the address of a process that the whole run shares."""
    if _SHARED in config.stash:
        return config.stash[_SHARED].address(name)
    return ask(config.workerinput["shared"], name)  # type: ignore[attr-defined]


@pytest.fixture
def broker_of_its_own() -> Iterator[Cluster]:
    """Yield a real single broker for this test alone, which it may stop, kill, suspend and restart."""
    with Cluster() as cluster:
        yield cluster


@pytest.fixture(scope="session")
def _clusters_of_three() -> Iterator[list[Cluster]]:
    """Yield the pool of clusters that tests have returned intact; close them at the end."""
    clusters: list[Cluster] = []
    yield clusters
    for cluster in clusters:
        cluster.close()


@pytest.fixture
def three_brokers(_clusters_of_three: list[Cluster]) -> Iterator[Cluster]:
    """Yield a real cluster of three brokers, used by one test at a time; it survives the loss of any one broker."""
    cluster = _clusters_of_three.pop() if _clusters_of_three else Cluster(3)
    with ExitStack() as stack:
        stack.callback(cluster.close)
        cluster.start()
        yield cluster
        with suppress(RuntimeError, TimeoutError):
            cluster.resume()
            cluster.start()
            stack.pop_all()
            _clusters_of_three.append(cluster)


@pytest.fixture
def unique(request: pytest.FixtureRequest) -> str:
    """Return a legal Kafka name that no other test and no other run uses."""
    words = re.sub(r"[^A-Za-z0-9]+", "-", request.node.name.removeprefix("test_")).strip("-")
    return f"{words[:40]}-{uuid.uuid4().hex[:8]}"


@pytest.fixture
def topic(unique: str) -> str:
    """Return the name for `kafka.topic` of this test."""
    return f"calls-{unique}"


@pytest.fixture
def app(unique: str) -> str:
    """Return the name for `kafka.app` of this test."""
    return f"app-{unique}"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option that `make test KEEP_DURATIONS=1` sets."""
    parser.addoption("--keep-durations", action="store_true", help="write tests/durations.json")


def pytest_configure(config: pytest.Config) -> None:
    """Make Ctrl-C work again, and create the owner of the processes that all tests share.

    A script that runs tests in the background starts them, and all processes that they start, with SIGINT ignored.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if not hasattr(config, "workerinput"):
        shared = config.stash[_SHARED] = Shared()
        config.add_cleanup(shared.close)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Pass the address of the shared processes to a test process of pytest-xdist."""
    node.workerinput["shared"] = node.config.stash[_SHARED].listen()


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist looks for groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests that use a real broker, keep groups in one process, and order the longest tests first."""
    tests: list[durations.Test] = []
    for item in items:
        on_broker = not (OWN_CLUSTERS | {"broker"}).isdisjoint(getattr(item, "fixturenames", ()))
        if on_broker:
            item.add_marker("broker")
        if group := _group(item):
            item.add_marker(pytest.mark.xdist_group(group))
        tests.append((item.nodeid, group, on_broker))
    items[:] = [items[position] for position in durations.longest_first(tests, durations.load())]


def _group(item: pytest.Item) -> str:
    """Return the name of the expensive fixture that a test shares with others of one process; "" if there is none."""
    fixtures = getattr(item, "_fixtureinfo", None)
    found = fixtures.name2fixturedefs.values() if fixtures else ()
    if "three_brokers" in getattr(item, "fixturenames", ()):
        return "three_brokers"
    if any(definitions[-1].scope == "module" for definitions in found):
        return item.nodeid.partition("::")[0]
    return ""


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print how many tests ran on a real broker; write the durations if the option is set."""
    if config.getoption("keep_durations"):
        passed = terminalreporter.getreports("passed")
        durations.keep({durations.without_group(report.nodeid): report.duration for report in passed})
    reports = [
        report
        for outcome in ("passed", "failed")
        for report in terminalreporter.getreports(outcome)
        if report.when == "call" and "broker" in report.keywords
    ]
    if reports:
        where = "the broker of KAFKA_BOOTSTRAP_SERVERS" if EXISTING_BROKER else f"a real Kafka {KAFKA_VERSION} broker"
        terminalreporter.write_line(f"{len(reports)} tests ran on {where}")
