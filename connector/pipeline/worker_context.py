"""Context that all shards of a worker share, with the topology that is replaced as a whole on SIGHUP."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from connector.config import Settings, Tenant
from connector.core.rows import RowSchema
from connector.graph.client import GraphClient
from connector.kafka import control
from connector.kafka.clients import Clients
from connector.kafka.membership import Membership
from connector.kafka.state import StateIdentity
from connector.metrics.worker import Metrics


class Topology(NamedTuple):
    """Tenants of a configuration, with the topics and schemas that brokers and registry hold for them.

    It exists only once the topics of all of its tenants were created or checked.
    """

    tenants: tuple[Tenant, ...]
    cluster: str
    partitions: Mapping[str, int]
    "Number of partitions per topic."
    schema_ids: Mapping[str, int] | None
    "Schema id per topic; None without a registry."
    unusable: Mapping[str, str]
    "Row topics of single tenants that cannot be used, with what is wrong and what to do."

    def succeeding(self, before: "Topology") -> "Topology":
        """Return this topology, with the topics of `before` that it lacks.

        What was read for a tenant that is not configured any more may not be committed yet.
        """
        ids = self.schema_ids if self.schema_ids is None else {**(before.schema_ids or {}), **self.schema_ids}
        return self._replace(partitions={**before.partitions, **self.partitions}, schema_ids=ids)


@dataclass
class WorkerContext:
    """Settings and objects that all shards of a worker share.

    `topology` can be replaced at any time. It must be read at use and never be copied. The tenants in `settings` are
    those of the start, so only the topology says which tenants there are.
    """

    settings: Settings
    topology: Topology
    identity: StateIdentity
    "Identity of the state, which is that of the cluster at the start."
    clients: Clients
    membership: Membership
    graph: GraphClient
    metrics: Metrics
    shape: RowSchema
    once: bool

    def tenants_of(self, number: int) -> list[Tenant]:
        """Return the configured tenants of a shard."""
        shards = self.settings.kafka.shards
        return [tenant for tenant in self.topology.tenants if control.partition_of(tenant.key, shards) == number]
