"""Regular check that the brokers answer, and that they still belong to the cluster with which the worker started."""

import asyncio
import time
from collections.abc import Callable

from connector import log
from connector.errors import BrokersUnavailableError, FatalError
from connector.kafka.topic_admin import Found, TopicAdmin
from connector.metrics.worker import Metrics

_logger = log.get(__name__)
_PROBE_EVERY_S = 10.0
_PROBE_S = 5.0


class BrokerProbe:
    """Regular check whether the brokers answer, with the last result."""

    def __init__(self, metrics: Metrics) -> None:
        self.is_up = False
        self.up_at = time.monotonic()
        "Time of the last answer in monotonic seconds. Before the first answer, it is the time of the start."
        self.why = ""
        "Reason why the brokers do not answer, and what to do. It is empty while they answer."
        self._metrics = metrics

    def record(self, *, up: bool, **why: str) -> None:
        """Store whether the brokers have answered (`up`). Log a line if the previous check had another result.

        `why` holds the fields `reason` and `remedy` of the log event, if the brokers have not answered.
        """
        self.why = "" if up else "; ".join(part for part in why.values() if part)
        if up:
            self.up_at = time.monotonic()
        if up and not self.is_up:
            _logger.info("brokers_available")
        elif self.is_up and not up:
            _logger.warning("brokers_unavailable", **why)
        self.is_up = up
        self._metrics.kafka_answered(up)

    async def run(self, admin: TopicAdmin, check: Callable[[Found], None], fail: Callable[[FatalError], None]) -> None:
        """Contact the brokers every ten seconds, so that an outage is noticed even when nothing is committed.

        Each answer is passed to `check`, which raises FatalError if the worker must stop. The error is passed to
        `fail`.
        """
        while True:
            await asyncio.sleep(_PROBE_EVERY_S)
            try:
                found = await asyncio.to_thread(admin.look, _PROBE_S)
                self.record(up=True)
                check(found)
            except BrokersUnavailableError as error:
                self.record(up=False, reason=str(error), remedy=error.remedy)
            except FatalError as error:
                fail(error)
