"""Builder of topologies. It creates or checks the topics and schemas that a configuration needs."""

import asyncio
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from functools import partial

from connector.config import Settings
from connector.errors import FatalError
from connector.kafka import topics
from connector.kafka.registry import Registry, Subject, subjects
from connector.kafka.state import ShardRecord, StateIdentity, check_identity
from connector.kafka.topic_admin import Found, TopicAdmin
from connector.kafka.topic_problems import wrong_counts
from connector.pipeline.worker_context import Topology


class TopologyBuilder:
    """Builder of a worker's topology (see the glossary), at the start and at each reload."""

    def __init__(self, admin: TopicAdmin, registry: Registry | None, now: Callable[[], datetime]) -> None:
        self._admin = admin
        self._registry = registry
        self._now = now

    async def build(self, settings: Settings) -> Topology:
        """Create or check the topics and schemas that `settings` need, and return them as a topology.

        Raises BrokersUnavailableError or RegistryUnavailableError if brokers or schema registry cannot be reached.
        Raises FatalError for a problem that affects every tenant.
        """
        kafka = settings.kafka
        ensure = partial(self._admin.ensure, create=kafka.create_topics, replication_factor=kafka.replication_factor)
        found = await asyncio.to_thread(ensure, _wanted_topics(settings), shared_topic=kafka.topic)
        await self._warn_of_event_time(settings)
        unusable = dict(found.unusable)
        if self._registry is None:
            return Topology(settings.tenants, found.cluster, found.partitions, None, unusable)
        usable = [topic for topic in settings.topics if topic not in unusable]
        ids, refused = await asyncio.to_thread(self._registry.ensure_each, _subjects(settings, usable))
        unusable |= {
            topic: problem
            for s, problem in refused.items()
            for topic in usable
            if {topic, topics.progress(topic)} & {*s.topics}
        }
        if refused and (kafka.topic in unusable or unusable.keys() >= set(settings.topics)):
            raise FatalError("\n".join(refused.values()))
        return Topology(settings.tenants, found.cluster, found.partitions, ids, unusable)

    async def _warn_of_event_time(self, settings: Settings) -> None:
        if settings.rows.timestamp != "event":
            return
        now, horizon = self._now(), settings.dedup.horizon
        deepest = max(sweep.overlap for sweep in settings.windows.sweeps)
        reaches: dict[str, timedelta] = {}
        for tenant in settings.tenants:
            ago = now - tenant.start if isinstance(tenant.start, datetime) else -tenant.start
            reaches[tenant.topic] = max(reaches.get(tenant.topic, deepest), min(ago, horizon))
        await asyncio.to_thread(self._admin.warn_of_event_time, reaches, horizon)


def check_found(found: Found, settings: Settings, identity: StateIdentity | None) -> None:
    """Raise FatalError if the brokers belong to another cluster, or a topic has a wrong number of partitions.

    `found` is the answer of the brokers. `identity` contains the id of the cluster that holds the worker's state. It is
    None before this id is known.
    """
    if identity is not None and found.cluster != str(None):
        record = ShardRecord(identity.app, identity.cluster, identity.topic, 0)
        check_identity(record, identity._replace(cluster=found.cluster))
    problems = wrong_counts(_wanted_topics(settings), found.partitions)
    if problems:
        raise FatalError("\n".join(str(problem) for _, problem in problems))


def _subjects(settings: Settings, row_topics: Sequence[str]) -> list[Subject]:
    return subjects(row_topics, settings.schema_registry.subject_name_strategy)


def _wanted_topics(settings: Settings) -> list[topics.Topic]:
    kafka = settings.kafka
    return topics.wanted(
        kafka.app, settings.topics, kafka.shards, kafka.partitions, kafka.topic_properties, settings.rows.key
    )
