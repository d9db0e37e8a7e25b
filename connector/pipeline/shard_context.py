"""Parts of one shard that survive its restarts. The restoration and the commit loop of the shard share them."""

import time

from connector.kafka import recreation, topics
from connector.pipeline.batch import Batches
from connector.pipeline.length_limits import LengthLimits
from connector.pipeline.row_warnings import RowWarnings
from connector.pipeline.shard_ownership import ShardOwnership
from connector.pipeline.worker_context import WorkerContext


class Liveness:
    """Time at which a shard last made progress. The health check of the worker uses it."""

    def __init__(self) -> None:
        self.is_calling = _no_call
        "Function that returns whether a request to brokers is running within its time limit. This counts as progress."
        self._turned_at = time.monotonic()

    @property
    def turned_at(self) -> float:
        """Return the time of the last progress, in monotonic seconds."""
        return time.monotonic() if self.is_calling() else self._turned_at

    def touch(self) -> None:
        """Record that the shard makes progress."""
        self._turned_at = time.monotonic()


def _no_call() -> bool:
    return False


class ShardContext:
    """Parts of one shard that survive its restarts. None of them contains committed state."""

    def __init__(self, number: int, worker: WorkerContext) -> None:
        self.number = number
        self.worker = worker
        self.names = topics.Names(worker.settings.kafka.app)
        self.series = worker.metrics.shard(number)
        self.ownership = ShardOwnership(worker.membership, number, self.names.control)
        self.liveness = Liveness()
        self.lengths = LengthLimits(worker.clients, number, (self.names.state, self.names.seen))
        self.warnings = RowWarnings()
        self.commit_problem: str | None = None
        "Reason why brokers refuse every commit until an operator acts; None since the last successful commit."
        self._topology = worker.topology
        self._batches = self._new_batches()

    @property
    def batches(self) -> Batches:
        """Return the builder of batches. It is replaced when the worker has a new topology."""
        if self._topology is not self.worker.topology:
            self._topology = self.worker.topology
            self._batches = self._new_batches()
        return self._batches

    def _new_batches(self) -> Batches:
        worker, topology = self.worker, self._topology
        return Batches(
            worker.settings,
            worker.shape,
            topology.partitions,
            topology.schema_ids,
            worker.clients.limits,
            recreation.TopicIds(worker.clients).of,
        )
