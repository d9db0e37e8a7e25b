"""End of `connector run --once`: the worker is done when all sweeps of all its shards have ended."""

import asyncio
import time

from connector import log
from connector.pipeline.worker_context import WorkerContext
from connector.worker.broker_probe import BrokerProbe
from connector.worker.owned_shards import OwnedShards

_logger = log.get(__name__)
_UNAVAILABLE_S = 120.0


async def wait_until_done(worker: WorkerContext, shards: OwnedShards, probe: BrokerProbe) -> bool:
    """Wait until all sweeps of all shards of this worker have ended.

    The worker's shards are known when their assignment has not changed for two heartbeats. Return False if the consumer
    group or the brokers were unavailable for two minutes, otherwise True.
    """
    membership = worker.membership
    begun = time.monotonic()
    settings = worker.clients.member(worker.settings.kafka.app)
    calm_s = 2 * float(settings.get("heartbeat.interval.ms", 3000)) / 1000
    while not membership.joined or time.monotonic() - membership.changed_at < calm_s:
        if not membership.joined and time.monotonic() - begun > _UNAVAILABLE_S:
            _logger.warning("group_not_joined", waited_s=_UNAVAILABLE_S)
            return False
        await asyncio.sleep(0.05)
    while running := shards.unfinished:
        await asyncio.wait(running, timeout=1.0)
        if time.monotonic() - probe.up_at > _UNAVAILABLE_S:
            _logger.warning("gave_up_on_brokers", waited_s=_UNAVAILABLE_S)
            return False
    return True
