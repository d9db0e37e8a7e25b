"""Search for configured tenants that no worker reads.

All workers of an app should have the same tenants in their configurations. Otherwise it can happen that no worker reads
a tenant, because the owner of its shard does not have the tenant in its configuration. If such a tenant was read
before, the owner commits the reason NOT_CONFIGURED for it. To find such tenants, each worker reads the committed state
of its configured tenants in the shards of other workers.
"""

import asyncio
import threading
from collections.abc import Callable, Collection, Mapping
from datetime import datetime, timedelta
from typing import NamedTuple

from connector import log
from connector.config import Settings, Tenant
from connector.core import instants
from connector.errors import ConnectorError
from connector.kafka import control
from connector.kafka.clients import Clients
from connector.kafka.operator_client import OperatorClient, ShardView
from connector.kafka.state import NOT_CONFIGURED, Checkpoint
from connector.metrics.worker import Metrics
from connector.worker.owned_shards import OwnedShards
from connector.worker.reload import Configuration

_logger = log.get(__name__)
_REMEDY = "give all workers with this kafka.app the same tenants, then send SIGHUP to them"
_NEVER_READ = "no worker has read the tenant yet; the owner of its shard may not have the tenant in its configuration"
_LEAST_AGE = timedelta(minutes=15)
FIRST_LOOK_S = 30.0
LOOK_EVERY_S = 300.0


class UnreadTenant(NamedTuple):
    """Configured tenant that no worker reads, with the reason and what to do."""

    tenant: Tenant
    reason: str


def find(
    settings: Settings, owned: Collection[int], views: Mapping[int, ShardView], now: datetime
) -> list[UnreadTenant]:
    """Return the configured tenants that no worker reads.

    The tenants of `owned`, the shards of this worker, are read by this worker itself. `views` holds the committed state
    of the other shards. Failing and paused tenants are not returned, because the owners of their shards report them.
    """
    limit = max(_LEAST_AGE, 3 * min(sweep.every for sweep in settings.windows.sweeps))
    found = []
    for tenant in settings.tenants:
        shard = control.partition_of(tenant.key, settings.kafka.shards)
        if shard in owned or shard not in views:
            continue
        reason = _reason(views[shard].restored.checkpoints.get(tenant.key), limit, now)
        if reason:
            found.append(UnreadTenant(tenant, f"{reason}: {_REMEDY}"))
    return found


def _reason(checkpoint: Checkpoint | None, limit: timedelta, now: datetime) -> str:
    """Return why a tenant counts as unread, or an empty text if it does not count as unread.

    It is unread if it has no checkpoint, if the owner of its shard does not have it in the configuration, or if its
    last committed reading is longer ago than `limit`. A tenant that is paused or fails for another reason is not
    unread.
    """
    if checkpoint is None:
        return _NEVER_READ
    if checkpoint.failing and checkpoint.failing[0] == NOT_CONFIGURED:
        return checkpoint.failing[1]
    if checkpoint.failing or checkpoint.state.orders.paused:
        return ""
    last = max((read.at for read in checkpoint.state.coverage.reads), default=checkpoint.state.start)
    return f"no worker has read the tenant since {instants.text(last)}" if now - last > limit else ""


class UnreadTenants:
    """Regular search for configured tenants that no worker reads, with the result of the last search."""

    def __init__(self, configuration: Configuration, shards: OwnedShards, metrics: Metrics, clients: Clients) -> None:
        self.found: list[UnreadTenant] = []
        "Tenants that the last two searches have both found. A single search may be wrong during a hand-over."
        self._suspects: list[UnreadTenant] = []
        self._configuration = configuration
        self._shards = shards
        self._metrics = metrics
        self._clients = clients

    async def run(self, now: Callable[[], datetime]) -> None:
        """Search for unread tenants every five minutes, but every 30 seconds while the result changes."""
        pause_s = FIRST_LOOK_S
        while True:
            await asyncio.sleep(pause_s)
            try:
                is_steady = self.record(await self._search(now))
                pause_s = LOOK_EVERY_S if is_steady else FIRST_LOOK_S
            except ConnectorError as error:
                _logger.info("unread_tenants_unknown", reason=str(error))
            except Exception as error:
                _logger.exception("unread_tenants_failed", reason=repr(error))

    def record(self, suspects: list[UnreadTenant]) -> bool:
        """Store `suspects`, the unread tenants of this search. Report those that the previous search has also found.

        Return whether both searches have found the same tenants.
        """
        keys, before = {one.tenant.key for one in suspects}, {one.tenant.key for one in self._suspects}
        known = {one.tenant.key for one in self.found}
        self.found = [one for one in suspects if one.tenant.key in before]
        self._suspects = suspects
        for one in self.found:
            if one.tenant.key not in known:
                _logger.error("tenant_unread", tenant=one.tenant.label, reason=one.reason)
        self._metrics.tenants_unread(len(self.found))
        return keys == before

    async def _search(self, now: Callable[[], datetime]) -> list[UnreadTenant]:
        settings, worker = self._configuration.settings, self._shards.worker
        elsewhere = {control.partition_of(tenant.key, settings.kafka.shards) for tenant in settings.tenants}
        elsewhere -= self._shards.running.keys()
        if worker is None or not worker.membership.is_member or not elsewhere:
            return []
        views = await _read(lambda: OperatorClient(settings.kafka, self._clients).read(sorted(elsewhere)))
        return find(settings, self._shards.running.keys(), views, now())


async def _read(read: Callable[[], dict[int, ShardView]]) -> dict[int, ShardView]:
    """Call `read` in a daemon thread and return its result. A daemon thread does not delay the end of the process."""
    loop = asyncio.get_running_loop()
    result: asyncio.Future[dict[int, ShardView]] = loop.create_future()

    def settle(views: dict[int, ShardView] | None, error: Exception | None) -> None:
        if result.done():
            return
        if error is not None:
            result.set_exception(error)
        else:
            result.set_result(views or {})

    def call() -> None:
        views, problem = None, None
        try:
            views = read()
        except Exception as error:  # noqa: BLE001 - the top of the thread: the caller gets the error
            problem = error
        if not loop.is_closed():
            loop.call_soon_threadsafe(settle, views, problem)

    threading.Thread(target=call, name="unread tenants", daemon=True).start()
    return await result
