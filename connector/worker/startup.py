"""Start-up of a worker. It waits for brokers and schema registry until the topics of the tenants are ready."""

import asyncio
import time

from connector import log
from connector.backoff import doubling
from connector.errors import BrokersUnavailableError, ForbiddenError, RegistryUnavailableError
from connector.pipeline.worker_context import Topology
from connector.worker.broker_probe import BrokerProbe
from connector.worker.reload import Configuration
from connector.worker.topology_builder import TopologyBuilder

_logger = log.get(__name__)
_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 10.0
_UNAVAILABLE_S = 120.0


class Startup:
    """Start-up of one worker: it waits until the topics and schemas are ready."""

    def __init__(self, configuration: Configuration, probe: BrokerProbe) -> None:
        self.registry_unavailable: str | None = None
        "Reason why the schema registry is unavailable, or None while it is available."
        self._configuration = configuration
        self._probe = probe

    async def wait(self, builder: TopologyBuilder, *, once: bool) -> Topology | None:
        """Wait until the topics and schemas that the settings need are ready. Return the topology (see the glossary).

        If the settings are reloaded (SIGHUP) during the wait, the topology is built again from the new settings. With
        `once`, return None if brokers or schema registry were unavailable for two minutes.
        """
        begun, pauses_s = time.monotonic(), doubling(_FIRST_PAUSE_S, _LONGEST_PAUSE_S)
        pause_s = next(pauses_s)
        while True:
            settings = self._configuration.settings
            topology = await self._attempt(builder, pause_s)
            if topology is not None:
                if self._configuration.settings is settings:
                    return topology
                continue
            if once and time.monotonic() - begun > _UNAVAILABLE_S:
                return None
            await asyncio.sleep(pause_s)
            pause_s = next(pauses_s)

    async def _attempt(self, builder: TopologyBuilder, pause_s: float) -> Topology | None:
        """Try once to prepare topics and schemas. Return None if brokers or schema registry are unavailable.

        `pause_s`, the time until the next attempt in seconds, is only logged.
        """
        try:
            topology = await builder.build(self._configuration.settings)
        except BrokersUnavailableError as error:
            refused = isinstance(error, ForbiddenError)
            self._probe.record(up=refused, reason=str(error), remedy=error.remedy)
            event = "permission_missing" if refused else "waiting_for_brokers"
            _logger.warning(event, reason=str(error), remedy=error.remedy, again_in_s=pause_s)
            return None
        except RegistryUnavailableError as error:
            self._probe.record(up=True)
            self.registry_unavailable = str(error)
            _logger.warning("waiting_for_schema_registry", reason=str(error), again_in_s=pause_s)
            return None
        self._probe.record(up=True)
        self.registry_unavailable = None
        if topology.schema_ids is not None:
            _logger.info("schemas_found", ids=topology.schema_ids)
        return topology
