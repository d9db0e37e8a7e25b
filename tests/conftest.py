"""Fixtures that all tests share: a real Kafka broker, unique names, and the count of tests that ran on the broker."""

import os
import re
import signal
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from typing import Any

import hypothesis
import pytest

from tests import durations, flaky
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

JAVA_LANES = 2
"Number of test processes whose tests start Java processes of their own: one at a time, or two in containers."
SEVERAL = "several_java"
"Group of the tests that start up to three Java processes at a time: they run in one test process."
_WITH_ONE = "secured", "broker_of_its_own"
_WITH_SEVERAL = "two_brokers", "three_brokers"
"Fixtures that start brokers of the test's own."
_DIED = pytest.StashKey[bool]()
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


class Pool:
    """Clusters that the tests of a module use one after the other. A cluster that a test leaves broken is replaced.

    A pool is closed at the end of its module, because an idle broker uses a tenth of a core.
    """

    def __init__(self, brokers: int, properties: Mapping[str, str] | None = None) -> None:
        self._brokers = brokers
        self._properties = properties
        self._idle: Cluster | None = None

    @contextmanager
    def lend(self) -> Iterator[Cluster]:
        """Yield a cluster that runs. The test may stop, kill, suspend and restart its brokers."""
        cluster, self._idle = self._idle or Cluster(self._brokers, self._properties), None
        try:
            cluster.start()
            yield cluster
            with suppress(RuntimeError, TimeoutError):
                cluster.resume()
                cluster.start()
                self._idle = cluster
        finally:
            if self._idle is None:
                cluster.close()

    def close(self) -> None:
        """Kill the brokers of the idle cluster."""
        if self._idle is not None:
            self._idle.close()


@pytest.fixture(scope="module")
def single_brokers() -> Iterator[Pool]:
    """Yield the pool of `broker_of_its_own`. A test file may replace it with brokers that have other settings."""
    with closing(Pool(1)) as pool:
        yield pool


@pytest.fixture
def broker_of_its_own(single_brokers: Pool) -> Iterator[Cluster]:
    """Yield a real single broker for this test alone, which it may stop, kill, suspend and restart."""
    with single_brokers.lend() as cluster:
        yield cluster


@pytest.fixture(scope="module")
def _pool_of() -> Iterator[Callable[[int], Pool]]:
    """Yield a function that returns the pool of the clusters with a number of brokers."""
    with ExitStack() as stack:
        yield cache(lambda brokers: stack.enter_context(closing(Pool(brokers))))


@pytest.fixture
def two_brokers(_pool_of: Callable[[int], Pool]) -> Iterator[Cluster]:
    """Yield a real cluster of two brokers, used by one test at a time; it survives the loss of the second one."""
    with _pool_of(2).lend() as cluster:
        yield cluster


@pytest.fixture
def three_brokers(_pool_of: Callable[[int], Pool]) -> Iterator[Cluster]:
    """Yield a real cluster of three brokers, used by one test at a time; it survives the loss of any one broker."""
    with _pool_of(3).lend() as cluster:
        yield cluster


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
        flaky.note(config, is_complete=False)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Pass the address of the shared processes to a test process of pytest-xdist."""
    node.workerinput["shared"] = node.config.stash[_SHARED].listen()


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    """Remember that a test process of pytest-xdist died."""
    if error:
        node.config.stash[_DIED] = True


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Note whether each test was run to its end."""
    config = session.config
    if not hasattr(config, "workerinput"):
        has_ended = exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED)
        flaky.note(config, is_complete=has_ended and not config.stash.get(_DIED, default=False))


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist looks for groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests that use a real broker, keep groups in one process, and order the longest tests first.

    Tests that start Java processes form few groups, so that at most eight run at once: broker and registry that all
    tests share, three of the group `several_java`, and three of the groups `java-0` and `java-1`.
    """
    known = durations.load()
    with_one = [(item.nodeid, _file(item), True) for item in items if _starts_one(item)]
    lanes = durations.balanced(durations.sums(with_one, known), JAVA_LANES)
    tests: list[durations.Test] = []
    for item in items:
        on_broker = _uses(item, *_WITH_ONE, *_WITH_SEVERAL, "broker")
        if on_broker:
            item.add_marker("broker")
        group = f"java-{lanes[_file(item)]}" if _starts_one(item) else _group(item)
        if group:
            item.add_marker(pytest.mark.xdist_group(group))
        tests.append((item.nodeid, group, on_broker))
    items[:] = [items[position] for position in durations.longest_first(tests, known)]


def _starts_one(item: pytest.Item) -> bool:
    """Return whether a test starts one Java process of its own, which ends before the tests of the next file."""
    return not _starts_several(item) and (item.get_closest_marker("java") is not None or _uses(item, *_WITH_ONE))


def _starts_several(item: pytest.Item) -> bool:
    return item.get_closest_marker(SEVERAL) is not None or _uses(item, *_WITH_SEVERAL)


def _uses(item: pytest.Item, *fixtures: str) -> bool:
    """Return whether a test uses one of these fixtures."""
    return not set(fixtures).isdisjoint(getattr(item, "fixturenames", ()))


def _group(item: pytest.Item) -> str:
    """Return the name of what a test shares with others of one process; "" if there is nothing."""
    fixtures = getattr(item, "_fixtureinfo", None)
    found = fixtures.name2fixturedefs.values() if fixtures else ()
    if _starts_several(item):
        return SEVERAL
    if any(definitions[-1].scope == "module" for definitions in found):
        return _file(item)
    return ""


def _file(item: pytest.Item) -> str:
    return item.nodeid.partition("::")[0]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print how many tests ran on a real broker; write the durations if the option is set."""
    if config.getoption("keep_durations") and not hasattr(config, "workerinput"):
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
