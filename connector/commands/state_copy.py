"""Copy of one app's state into another app. After an interruption at any point, it can be repeated.

The steps are:

1. Check that the source has no open transaction, and that no worker of either app runs.
2. Write a marker into each shard of the target, so that workers refuse to start. Then check again that no worker runs.
3. Write the records that the target lacks, and remove records that an interrupted copy has left behind.
4. Restore each shard and compare it with the source. Check that the source has not changed during the copy.
5. Write into each marker that the copy is complete. Then remove the markers.
"""

import sys
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import msgspec

from connector import brokers, log
from connector.commands import arguments, text
from connector.commands.copy_progress import CopyProgress
from connector.commands.text import Section
from connector.config import Settings
from connector.errors import BrokersUnavailableError, ConfigurationError, FatalError
from connector.kafka import topics
from connector.kafka.clients import Clients
from connector.kafka.control import TenantCommand
from connector.kafka.copy_marker import CopyMarker
from connector.kafka.copy_source import CopiedTenant, CopySource, check_stopped
from connector.kafka.copy_target import CopyTarget
from connector.kafka.row_ends import RowEnds
from connector.kafka.state import Checkpoint
from connector.kafka.topic_admin import TopicAdmin


class _Copied(NamedTuple):
    """Line of the report: what was copied for one tenant. `shards` are the numbers of its old and its new shard."""

    tenant: str
    shards: tuple[int, int]
    rows: int
    jobs: int
    commands: int


class _App(NamedTuple):
    """Settings of one app (the source or the target) and the clients of its brokers."""

    settings: Settings
    clients: Clients


def copy(config: Path | None, origin: Path, *, dry_run: bool) -> None:
    """Copy the state of the app whose configuration file is `origin`, and print a report.

    The target is the app of `config`. Raises ConfigurationError or FatalError if the state cannot be copied.
    """
    new, old = arguments.read_settings(config), arguments.read_settings(origin, overridden=False)
    _check_agreement(old, new, origin)
    log.configure(new.log.format, new.log.level)
    source_app, target_app = _App(old, brokers.clients(old)), _App(new, brokers.clients(new))
    source = CopySource(old.kafka, source_app.clients, old.topics)
    cluster, exists = _prepare(source, source_app, target_app, dry_run=dry_run)
    waiting, marker = source.waiting(), source.marker()
    with closing(CopyTarget(new.kafka, target_app.clients, cluster, exists=exists, dry_run=dry_run)) as target:
        target.look(marker)
        if target.is_complete:
            target.check_unchanged(marker)
            target.finish(marker)
            sys.stderr.write("the copy is complete: an earlier run has copied and compared everything\n")
            return
        copier = _Copier(source, target, _Relocation(old, new, RowEnds(target_app.clients), cluster == source.cluster))
        with CopyProgress(source.shards + (0 if dry_run else new.kafka.shards)) as progress:
            if dry_run:
                copier.write(waiting, progress)
            else:
                target.mark(marker)
                check_stopped(target_app.clients)
                copier.write(waiting, progress)
                target.remove_stale()
                target.verify(copier.indexes, lambda: progress.advance("comparing"))
                _check_untouched(source, marker, source_app, target_app)
                target.finish(marker)
        _report(copier.copied, source_app, target_app, dry_run=dry_run)


class _Relocation(NamedTuple):
    """Translation of checkpoints of the source app into checkpoints of the target app."""

    old: Settings
    new: Settings
    ends: RowEnds
    same_cluster: bool

    def apply(self, tenant: str, before: Checkpoint) -> Checkpoint:
        """Return the checkpoint for the target. `before` is the tenant's checkpoint in the source.

        Offsets are valid only for one topic of one cluster. If the target has another row topic or cluster, the
        checkpoint gets the current ends of its partitions as offsets. All copied rows lie before these ends.
        """
        topic = {one.key: one.topic for one in self.new.tenants}.get(tenant)
        if topic is None:
            topic = self.new.kafka.topic if before.topic == self.old.kafka.topic else before.topic
        if self.same_cluster and topic == before.topic:
            return before
        end = self.ends.of(topic)
        return msgspec.structs.replace(
            before, topic=topic, offsets=end.offsets, topic_id=end.topic_id, stated=(), stated_gaps=()
        )


class _Copier:
    """Copy of the state of all tenants, one after another. It also counts what it copies, for the report."""

    def __init__(self, source: CopySource, target: CopyTarget, relocation: _Relocation) -> None:
        self._source = source
        self._target = target
        self._relocation = relocation
        self.copied: list[_Copied] = []
        self.indexes: dict[str, str] = {}
        "Hash of each tenant's deduplication index, by tenant id."

    def write(self, waiting: list[TenantCommand], progress: CopyProgress) -> None:
        """Write the state of every tenant, and then the record of each shard of the target.

        `waiting` are the commands that no worker has applied yet.
        """
        for shard in range(self._source.shards):
            tenants = self._source.read(shard)
            for key, tenant in tenants.items():
                self._write(shard, key, tenant, sum(command.tenant == key for command in waiting))
            progress.advance("copying", sum(tenant.rows for tenant in tenants.values()))
        self._target.put_shards(waiting)

    def _write(self, shard: int, key: str, tenant: CopiedTenant, commands: int) -> None:
        known = tenant.checkpoint
        checkpoint = None if known is None else self._relocation.apply(key, known)
        self._target.put(key, checkpoint, tenant.seen)
        self.indexes[key] = tenant.digest
        jobs = len(known.state.orders.jobs) if known else 0
        self.copied.append(_Copied(key, (shard, self._target.shard_of(key)), tenant.rows, jobs, commands))


def _check_agreement(old: Settings, new: Settings, origin: Path) -> None:
    """Raise ConfigurationError if the two apps would publish the same row in different forms.

    They must have the same privacy settings, pseudonym key and cloud.
    """
    keys = [one.rows.pseudonym_key and one.rows.pseudonym_key.get() for one in (old, new)]
    problems = [
        f"{origin}: {key}: differs from the configuration of the new app, so that consumers could not match rows "
        "before the copy with rows after it; use the same value in both"
        for key, differs in (
            ("rows.privacy", dict(old.rows.privacy) != dict(new.rows.privacy)),
            ("pseudonyms.key", keys[0] != keys[1]),
            ("graph.cloud", old.graph.cloud != new.graph.cloud),
        )
        if differs
    ]
    if problems:
        raise ConfigurationError(problems)


def _prepare(source: CopySource, old: _App, new: _App, *, dry_run: bool) -> tuple[str, bool]:
    """Create or check the topics of the target. With `dry_run`, create nothing.

    Return the id of the target's cluster, and whether the internal topics of the target exist.
    """
    new.clients.check()
    admin, kafka = TopicAdmin(new.clients), new.settings.kafka
    try:
        found = admin.look()
        if (found.cluster, kafka.app) == (source.cluster, old.settings.kafka.app):
            raise ConfigurationError(
                [f"kafka.app: {kafka.app} is also the app of --from on this cluster; choose another name"]
            )
        check_stopped(old.clients)
        check_stopped(new.clients)
        if not dry_run:
            rows = new.settings.rows
            wanted = topics.wanted(
                kafka.app, new.settings.topics, kafka.shards, kafka.partitions, kafka.topic_properties, rows.key
            )
            found = admin.ensure(
                wanted,
                create=kafka.create_topics,
                replication_factor=kafka.replication_factor,
                shared_topic=kafka.topic,
            )
    except BrokersUnavailableError as error:
        raise FatalError(str(error), error.remedy) from error
    names = topics.Names(kafka.app)
    has = [found.partitions.get(name, 0) for name in (names.state, names.seen)]
    if any(has) and has != [kafka.shards, kafka.shards]:
        raise FatalError(
            f"topic {names.state} has {has[0]} partitions, {names.seen} has {has[1]}, kafka.shards is {kafka.shards}",
            "set kafka.shards to the number of partitions or, if the topics were never used, delete them",
        )
    return found.cluster, all(has)


def _check_untouched(source: CopySource, marker: CopyMarker, *apps: _App) -> None:
    """Raise FatalError if a worker has started or the source has changed since the copy began."""
    for app in apps:
        check_stopped(app.clients)
    if source.marker().ends != marker.ends:
        raise FatalError(
            f"the state of {marker.source} has changed during the copy",
            "stop its workers, send it no commands, and run connector copy-state again",
        )


def _report(copied: list[_Copied], source: _App, target: _App, *, dry_run: bool) -> None:
    labels = {tenant.key: tenant.label for tenant in (*source.settings.tenants, *target.settings.tenants)}
    known = {tenant.key for tenant in target.settings.tenants}
    rows = [
        (
            labels.get(one.tenant, one.tenant),
            " → ".join(map(str, one.shards)),
            text.number(one.rows),
            text.number(one.jobs),
            text.number(one.commands),
            "" if one.tenant in known else "the tenant is not configured: its state is kept for dedup.horizon",
        )
        for one in copied
    ]
    old, new = source.settings.kafka.app, target.settings.kafka.app
    title = f"{old} → {new}"
    text.show([Section(title, ("tenant", "shard", "rows in dedup index>", "jobs>", "commands>", ""), rows)])
    counts = (
        f"{text.number(len(copied))} tenants with {text.number(sum(one.rows for one in copied))} rows "
        "in the dedup index"
    )
    if dry_run:
        sys.stderr.write(f"{counts} would be copied from app {old} to app {new}; nothing was written\n")
    else:
        sys.stderr.write(
            f"{counts} are copied from app {old} to app {new}; each shard was restored and holds the same "
            "deduplication index; never start app "
            f"{old} again once app {new} runs\n"
        )
