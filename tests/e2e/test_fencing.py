"""A worker that freezes at a critical moment of a commit and wakes when another worker owns its shard.

Brokers check two things: the group generation when offsets are sent, and the epoch of the transactional id, which the
new owner raises when it opens its producer. Each test creates a situation in which only one of them helps.
"""

import signal
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests import oracle
from tests.brokers import wait_until
from tests.conftest import SharedBroker
from tests.simulation import Simulation
from tests.workers import Worker

Simulate = Callable[..., Simulation]
NewWorker = Callable[..., Worker]
Settings = Callable[..., dict[str, Any]]

_DEADLINE_S = 90.0
TIMED_OUT = ("shard_restarting",)
"Events of a worker that was frozen for longer than its timeouts, so that the outcome is unknown."


class Pair:
    """Two workers of one shard that can be halted, and the topics that they write."""

    def __init__(self, bootstrap: str, topic: str, app: str, source: Simulation, workers: list[Worker]) -> None:
        self.bootstrap, self.topic, self.app, self.source = bootstrap, topic, app, source
        self.old, self.new = workers
        self.places = [Path(worker.program[-1]) for worker in workers]

    @property
    def rows(self) -> int:
        return len(oracle.read(self.bootstrap, self.topic))

    def freeze_old_before(self, call: str) -> None:
        """Start the old worker and freeze it within a transaction with rows, after some rows were committed."""
        self.old.start()
        self.old.until(lambda: self.old.metric("rows_total", outcome="published") > 200, "the first rows")
        (self.places[0] / f"freeze-{call}").touch()
        frozen = self.places[0] / f"frozen-{call}"
        wait_until(frozen.exists, f"the old worker to stop before {call}", _DEADLINE_S)
        wait_until(lambda: _is_stopped(self.old), "the old worker to be frozen", _DEADLINE_S)

    def start_new(self, held: str = "") -> None:
        """Start the new worker, which takes over the shard.

        `held`: call of the producer before which the new worker waits until `unblock`.
        """
        if held:
            (self.places[1] / f"hold-{held}").touch()
        self.new.start()
        if held:
            self.new.until((self.places[1] / f"held-{held}").exists, f"the new worker to stop before {held}")
        else:
            self.new.until(
                lambda: self.new.metric("restore_duration_seconds") > 0, "the new worker to restore its shard"
            )

    def unblock(self, held: str) -> None:
        (self.places[1] / f"hold-{held}").unlink()

    def wake_old(self, *events: str) -> None:
        """Wake the old worker and wait until it has logged one of the events."""
        self.old.signal(signal.SIGCONT)
        self.old.until(lambda: any(self.old.named(event) for event in events), " or ".join(events))

    def finish(self) -> None:
        """Assert that the topics contain exactly what the source shows, once the new worker has read all of it."""
        self.source.clear_faults()
        self.old.kill()
        self.new.until_complete(datetime.now(UTC))
        assert self.new.stop() == 0
        oracle.check(self.bootstrap, self.topic, self.app, self.source.truth())


def _is_stopped(worker: Worker) -> bool:
    stat = Path(f"/proc/{worker.pid}/stat").read_text(encoding="utf-8")
    return stat.rpartition(")")[2].split()[0] == "T"


@pytest.fixture
def pair(
    broker: SharedBroker,
    topic: str,
    app: str,
    simulate: Simulate,
    new_worker: NewWorker,
    settings: Settings,
    tmp_path: Path,
) -> Pair:
    source = simulate(days=1, calls_per_day=2_000, page_size=50, frozen=True, faults={"slow": 1.0, "slow_s": 0.1})
    # Otherwise, on a slow machine, the coordinator could abort the old transaction and fence its producer.
    properties = {"session.timeout.ms": "2000", "heartbeat.interval.ms": "200", "transaction.timeout.ms": "120000"}
    configured = settings(source, kafka={"shards": 1, "properties": properties})
    workers = []
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
        workers.append(new_worker(configured, "-m", "tests.halting_worker", str(tmp_path / name)))
    return Pair(broker.bootstrap, topic, app, source, workers)


def test_group_generation_stops_an_old_owner_not_yet_fenced(pair: Pair) -> None:
    """The old owner freezes before it sends offsets and wakes before the new owner calls `init_transactions`."""
    pair.freeze_old_before("send-offsets")
    pair.start_new(held="init")
    rows = pair.rows
    pair.wake_old("transaction_aborted", *TIMED_OUT)
    assert pair.rows == rows
    pair.unblock("init")
    pair.finish()


def test_producer_epoch_stops_an_old_owner_that_sent_offsets(pair: Pair) -> None:
    """The old owner freezes after brokers accepted its offsets and wakes after the new owner opened its producer."""
    pair.freeze_old_before("commit")
    pair.start_new(held="commit")
    rows = pair.rows
    pair.wake_old("shard_fenced", *TIMED_OUT)
    assert pair.rows == rows
    pair.unblock("commit")
    pair.finish()
    assert not pair.new.named("shard_fenced"), "the old worker opened a producer before it knew the owner of the shard"


def test_new_owner_restores_the_last_commit_of_the_old_owner(pair: Pair) -> None:
    """This late commit is valid: the new owner reads the dedup index only after it has fenced the old owner."""
    pair.freeze_old_before("commit")
    pair.start_new(held="init")
    rows = pair.rows
    pair.wake_old("shards_revoked")
    wait_until(lambda: pair.rows > rows, "the requests in flight to arrive", _DEADLINE_S)
    pair.unblock("init")
    pair.finish()


def test_released_shard_sends_no_request_while_its_commit_blocks(pair: Pair) -> None:
    """The next owner counts requests on its own. Both owners together must stay within the budget of the tenant."""
    old = pair.places[0]
    pair.old.start()
    pair.old.until(lambda: pair.old.metric("rows_total", outcome="published") > 200, "the first rows")
    (old / "hold-commit").touch()
    pair.old.until((old / "held-commit").exists, "the old worker's commit to block")
    pair.old.signal(signal.SIGTERM)
    pair.old.until(lambda: not pair.old.status()["shards_owned"], "the old worker to release the shard")
    released_at = datetime.now(UTC)
    deadline = time.monotonic() + 2.0
    wait_until(lambda: time.monotonic() > deadline, "time in which requests would have been made", _DEADLINE_S)
    # The simulator lists a request after its response. `at` is its arrival, so requests in flight do not count.
    assert [request for request in pair.source.requests() if request.at > released_at] == []
    (old / "hold-commit").unlink()
    pair.start_new()
    pair.finish()
