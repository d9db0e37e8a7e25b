"""Fixtures of workers and simulators that end with the test that started them."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import SharedBroker
from tests.simulation import Simulation
from tests.workers import Worker, configuration


@pytest.fixture
def simulate() -> Iterator[Callable[..., Simulation]]:
    """Yield a function that starts simulators with options."""
    with ExitStack() as stack:
        yield lambda **options: stack.enter_context(Simulation(**options))


@pytest.fixture
def new_worker(tmp_path: Path) -> Iterator[Callable[..., Worker]]:
    """Yield a function that returns workers with settings, not started yet."""
    workers: list[Worker] = []

    def make(settings: dict[str, Any], *program: str) -> Worker:
        worker = Worker(tmp_path / f"worker-{len(workers)}", settings, *program)
        workers.append(worker)
        return worker

    yield make
    for worker in workers:
        worker.kill()


@pytest.fixture
def settings(broker: SharedBroker, topic: str, app: str) -> Callable[..., dict[str, Any]]:
    """Return a function that makes configurations for the shared broker and for topics of this test's own."""

    def make(source: Simulation, **sections: Any) -> dict[str, Any]:
        return configuration(broker.bootstrap, topic, app, source, **sections)

    return make
