"""Source of `connector copy-state`: the committed state of an app whose workers are all stopped.

Nothing is written to the source. If a transaction is open there or has lost records, the copy is refused. A worker of
the source app must repair this first.
"""

import time
from collections import defaultdict
from collections.abc import Collection, Iterable
from typing import NamedTuple

from confluent_kafka import IsolationLevel

from connector.config import Kafka
from connector.errors import BrokersUnavailableError, FatalError
from connector.kafka import hanging, seen, state, topics, visibility
from connector.kafka.clients import Clients
from connector.kafka.control import TenantCommand, partition_of
from connector.kafka.copy_marker import CopyMarker
from connector.kafka.log_reader import Place, named
from connector.kafka.operator_client import OperatorClient, count_workers
from connector.kafka.restore import PartitionContents, read_partition
from connector.kafka.state import Checkpoint
from connector.kafka.topic_admin import TopicAdmin

_GROUP_S = 15.0
"Seconds that a cluster may need to create the coordinator of its first consumer group."
_PAUSE_S = 0.2
_REPAIR = "start a worker of that app, stop it when its shards are restored, and run connector copy-state again"


class CopiedTenant(NamedTuple):
    """State of one tenant in the source: its checkpoint, and the records of its dedup index."""

    checkpoint: Checkpoint | None
    "Checkpoint; None if it was lost, so that only the dedup index is left."
    seen: dict[bytes, bytes]
    "Records of the dedup index."
    rows: int
    digest: str
    "Hash of the restored dedup index."


class CopySource:
    """Reader of the state that is copied. Its methods block."""

    def __init__(self, kafka: Kafka, clients: Clients, row_topics: Collection[str]) -> None:
        """Look up the topics of the app.

        Raises FatalError if the app has no state, and the errors of OperatorClient.
        """
        self.shards = kafka.shards
        self._kafka = kafka
        self._clients = clients
        self._row_topics = row_topics
        self._names = topics.Names(kafka.app)
        self._client = OperatorClient(kafka, clients)
        found = TopicAdmin(clients).look()
        self.cluster = found.cluster
        if self._client.is_new:
            raise FatalError(
                f"no worker has ever run with kafka.app = {kafka.app} on cluster {found.cluster}",
                "set --from to the configuration of the app whose state is to be copied",
            )
        partitions = found.partitions.get(self._names.seen, 0)
        if partitions != kafka.shards:
            raise FatalError(
                f"topic {self._names.seen} has {partitions} partitions instead of {kafka.shards} (kafka.shards)",
                "restore the topic from a backup or, if there is none, start the new app without connector copy-state, "
                "which publishes all rows again",
            )

    def waiting(self) -> list[TenantCommand]:
        """Return the commands that no worker has applied yet.

        Raises FatalError if the state belongs to another topic or cluster.
        """
        views = self._client.read(range(self.shards))
        return [command for view in views.values() for command in view.waiting]

    def marker(self) -> CopyMarker:
        """Return the marker for a copy of the current state. Raises FatalError if a transaction is still open."""
        internal = self._names.control, self._names.state, self._names.seen
        places = [(topic, number) for topic in internal for number in range(self.shards)]
        left_open = visibility.undecided(self._clients, dict.fromkeys(places), self._clients.decided_within_s)
        if left_open:
            raise _left_open(left_open)
        ends = visibility.offsets(self._clients, places, IsolationLevel.READ_UNCOMMITTED)
        known = [end for place in places if (end := ends.get(place)) is not None]
        if len(known) < len(places):
            raise BrokersUnavailableError(
                f"no broker returned the end offsets of the topics of app {self._kafka.app}: run the command again"
            )
        return CopyMarker(self._kafka.app, self.cluster, self._kafka.topic, tuple(known))

    def read(self, shard: int) -> dict[str, CopiedTenant]:
        """Return the state of each tenant of a shard. Raises FatalError if brokers have lost committed records."""
        contents = read_partition(
            self._clients,
            (self._names.state, self._names.seen),
            shard,
            decided_within_s=self._clients.decided_within_s,
        )
        self._check_decided(contents, shard)
        checkpoints = state.restore(contents.values[self._names.state]).checkpoints
        remembered = seen.restore(contents.values[self._names.seen])
        seen.check_complete(self._names.seen, {key: one.remembered for key, one in checkpoints.items()}, remembered)
        records: dict[str, dict[bytes, bytes]] = defaultdict(dict)
        for key, value in contents.values[self._names.seen].items():
            records[seen.tenant_of(key)][key] = value
        return {
            key: CopiedTenant(checkpoints.get(key), records[key], len(remembered[key][0]), remembered[key][0].digest())
            if key in remembered
            else CopiedTenant(checkpoints.get(key), {}, 0, "")
            for key in sorted({*checkpoints, *remembered})
            if partition_of(key, self.shards) == shard
        }

    def _check_decided(self, contents: PartitionContents, shard: int) -> None:
        if contents.undecided:
            raise _left_open((topic, shard) for topic in contents.undecided)
        inspection = hanging.Inspection(self._clients, self._names, shard, contents)
        left_open = hanging.open_places(inspection, self._row_topics, lambda: False)
        if left_open:
            raise _left_open(left_open)
        lost = hanging.find_lost(inspection, (), lambda: False)
        if lost.records or lost.checkpoints:
            raise FatalError(
                f"records of a committed transaction of shard {shard} of app {self._kafka.app} are missing", _REPAIR
            )


def check_stopped(clients: Clients) -> None:
    """Raise FatalError if the consumer group of an app has members, because its workers are not all stopped.

    A running worker would publish rows that the copy does not contain.
    """
    deadline = time.monotonic() + _GROUP_S
    while (workers := count_workers(clients)) is None and time.monotonic() < deadline:
        time.sleep(_PAUSE_S)
    if workers is None:
        raise FatalError(
            f"the brokers do not report whether workers of app {clients.app} run",
            f"grant the user of kafka.properties Describe on group {clients.app}",
        )
    if workers:
        raise FatalError(
            f"consumer group {clients.app} has {workers} members, so workers of app {clients.app} may be running",
            "stop every worker of the source app and of the target app; a killed worker stays a member until "
            "session.timeout.ms has passed",
        )


def _left_open(places: Iterable[Place]) -> FatalError:
    return FatalError(f"a transaction is still open in {named(places)}", _REPAIR)
