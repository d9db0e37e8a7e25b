"""Restoration of a shard from its topics.

Before the topics are read, the previous owner of the shard is fenced, and hanging transactions are ended.
"""

import time
from collections.abc import Mapping
from functools import partial
from typing import NamedTuple

import msgspec

from connector import log
from connector.errors import ShardRestartError
from connector.kafka import recreation, seen, state
from connector.kafka.publishing import Publisher
from connector.kafka.restore import PartitionContents, read_partition, trim_heap
from connector.kafka.state import Checkpoint
from connector.pipeline.shard_context import ShardContext
from connector.pipeline.tenant_state import IndexMemory, TenantState, retired_state, rules_of

_logger = log.get(__name__)
_NOWHERE = recreation.Place(0, "")
_DECIDED_S = 10.0
"Longest time, in seconds, that brokers need to write a transaction's markers after they have reported its end."


class RestoredShard(NamedTuple):
    """State of a shard as it was read from the shard's topics."""

    states: dict[str, TenantState]
    """State of each tenant in the topics. Each is marked as retired at first; the mark is removed when a configured
    tenant is read.
    """
    orphans: dict[str, IndexMemory]
    "Deduplication indexes of tenants whose checkpoint was lost."
    control: recreation.Place
    "Offset of the next command, and the id that brokers have given to the control topic."
    kept: tuple[str, ...] = ()
    "Commands that wait until their tenant is read, as JSON."


class Restoration:
    """Restoration of one shard: it reads the state of the shard from its topics."""

    def __init__(self, shard: ShardContext, publisher: Publisher) -> None:
        self._shard = shard
        self._worker = shard.worker
        self._publisher = publisher

    async def run(self) -> RestoredShard:
        """Open the producer, then read the state of the shard from its topics.

        The producer must be opened first. It fences all older producers of the shard, so that they cannot write during
        the reading.
        """
        shard, worker, call = self._shard, self._worker, self._publisher.call
        begun = time.monotonic()
        await call(self._publisher.open)
        values = (await self._read()).values
        restored = state.restore(values[shard.names.state])
        state.check_identity(restored.shard, worker.identity)
        remembered = await call(seen.restore, values[shard.names.seen])
        seen.check_complete(
            shard.names.seen, {key: known.remembered for key, known in restored.checkpoints.items()}, remembered
        )
        orphans = {key: known for key, known in remembered.items() if key not in restored.checkpoints}
        known = recreation.Place(restored.shard.control, restored.shard.control_id) if restored.shard else _NOWHERE
        control = await call(recreation.locate, worker.clients, shard.names.control, shard.number, known)
        checkpoints = await call(self._without_stale_offsets, restored.checkpoints)
        now, rules = worker.graph.clock.now(), rules_of(worker.settings)
        states = {
            key: retired_state(key, rules, checkpoint, remembered.get(key), now)
            for key, checkpoint in checkpoints.items()
        }
        # The records are about as large as the state that was made from them. Free them before the heap is trimmed.
        del values, remembered
        await call(trim_heap)
        self._report(states, time.monotonic() - begun)
        return RestoredShard(states, orphans, control, restored.shard.kept if restored.shard else ())

    def _report(self, states: Mapping[str, TenantState], seconds: float) -> None:
        number = self._shard.number
        self._shard.series.restored(seconds)
        rows = sum(len(restored.remembered) for restored in states.values())
        tenants = sum(tenant.key in states for tenant in self._worker.tenants_of(number))
        _logger.info("shard_restored", shard=number, tenants=tenants, rows=rows, seconds=round(seconds, 2))

    async def _read(self) -> PartitionContents:
        """Repair the internal topics, then read them.

        Hanging transactions of the shard are aborted, and lost records of committed transactions are written again.
        Raises ShardRestartError if a transaction stays open.
        """
        shard, worker, publisher = self._shard, self._worker, self._publisher
        read = partial(
            read_partition,
            worker.clients,
            (shard.names.state, shard.names.seen),
            shard.number,
            is_stopped=self._is_stopped,
            decided_within_s=_DECIDED_S,
        )
        found = await publisher.call(read)
        # Checked before anything is aborted or written: the topics may hold the state of another cluster or topic.
        state.check_identity(state.restore(found.values[shard.names.state]).shard, worker.identity)
        topics_now = {tenant.topic for tenant in worker.tenants_of(shard.number)}
        is_stopped, context = shard.ownership.handing_over.is_set, await shard.ownership.commit_context(0)
        ended = await publisher.call(publisher.end_open, found, topics_now, context, is_stopped)
        if ended:
            found = await publisher.call(read)
        # Aborting can have taken long, so ownership is checked again before records are written.
        context = await shard.ownership.commit_context(0)
        written = await publisher.call(publisher.write_lost, found, ended, context, is_stopped)
        if written:
            found = await publisher.call(read)
        if ended or written:
            _logger.warning(
                "hanging_transaction_resolved",
                shard=shard.number,
                outcome="committed" if written else "aborted",
                partitions=sorted(f"{topic}-{number}" for topic, number in ended),
                records_written_again=written,
            )
        if found.undecided:
            where = " and ".join(f"{topic}-{shard.number}" for topic in sorted(found.undecided))
            raise ShardRestartError(
                f"a transaction in {where} stays open: end it with kafka-transactions.sh (find-hanging, then abort)"
            )
        return found

    def _is_stopped(self) -> bool:
        """Return whether the reading must stop, because the shard must be released.

        The reading of the topics calls this often. Each call also records that the shard makes progress.
        """
        self._publisher.touch()
        return self._shard.ownership.handing_over.is_set()

    def _without_stale_offsets(self, checkpoints: Mapping[str, Checkpoint]) -> dict[str, Checkpoint]:
        """Remove from checkpoints the offsets of topics that were deleted and created again.

        A topic was created again if it ends before the offsets of a checkpoint. A checkpoint with a topic id is left
        unchanged, because the id is compared later.
        """
        created_again = recreation.topics_that_end_before(self._worker.clients, checkpoints.values())
        for topic in created_again:
            _logger.warning("topic_recreated", topic=topic, shard=self._shard.number)
        return {
            key: msgspec.structs.replace(checkpoint, offsets=(), stated=())
            if checkpoint.topic in created_again and not checkpoint.topic_id
            else checkpoint
            for key, checkpoint in checkpoints.items()
        }
