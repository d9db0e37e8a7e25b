"""Context that all shards of a worker share. It includes the topology, which a reload (SIGHUP) replaces as a whole."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from connector import log
from connector.config import Settings, Tenant
from connector.core.rows import RowSchema
from connector.graph.client import GraphClient
from connector.kafka import control
from connector.kafka.clients import Clients
from connector.kafka.membership import Membership
from connector.kafka.state import StateIdentity
from connector.metrics.worker import Metrics

_logger = log.get(__name__)


class Topology(NamedTuple):
    """Configured tenants, with the partitions and schema ids of their topics.

    A topology is made only after the topics of all its tenants were created or checked.
    """

    tenants: tuple[Tenant, ...]
    cluster: str
    partitions: Mapping[str, int]
    "Number of partitions per topic."
    schema_ids: Mapping[str, int] | None
    "Schema id per topic; None without a registry."
    unusable: Mapping[str, str]
    "Row topics of single tenants that cannot be used, each with the problem and the remedy."

    def succeeding(self, before: "Topology") -> "Topology":
        """Return this topology together with the topics that only the previous topology `before` contains.

        These topics are still needed, because rows of a removed tenant may not be committed yet.
        """
        ids = self.schema_ids if self.schema_ids is None else {**(before.schema_ids or {}), **self.schema_ids}
        return self._replace(partitions={**before.partitions, **self.partitions}, schema_ids=ids)


@dataclass
class WorkerContext:
    """Settings and objects that all shards of a worker share.

    `topology` can be replaced at any time. Read it each time it is needed, and do not store it. It contains the current
    tenants. The tenants in `settings` are those at the start of the worker.
    """

    settings: Settings
    topology: Topology
    identity: StateIdentity
    "Identity of the state: app, cluster and topic at the start of the worker."
    clients: Clients
    membership: Membership
    graph: GraphClient
    metrics: Metrics
    shape: RowSchema
    once: bool
    _lacks_transactions: bool = False

    def warn_of_missing_transactions(self, reason: str) -> None:
        """Log that the brokers do not support transactions, once per worker, however many shards call this."""
        if not self._lacks_transactions:
            _logger.warning("transactions_unsupported", reason=reason)
        self._lacks_transactions = True

    def tenants_of(self, number: int) -> list[Tenant]:
        """Return the configured tenants of a shard."""
        shards = self.settings.kafka.shards
        return [tenant for tenant in self.topology.tenants if control.partition_of(tenant.key, shards) == number]
