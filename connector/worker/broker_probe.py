"""Probe of the brokers: whether they answer, and whether they are still those of the start."""

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
    """Knowledge of one worker about whether brokers answer."""

    def __init__(self, metrics: Metrics) -> None:
        self.is_up = False
        self.up_at = time.monotonic()
        "Time of the last answer, or of the start (monotonic seconds)."
        self.why = ""
        "Why brokers do not answer, and what to do; empty while they do."
        self._metrics = metrics

    def heard(self, *, up: bool, **why: str) -> None:
        """Record whether brokers have answered, and log a change."""
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
        """Query the brokers every ten seconds, so that their absence shows even when nothing is committed.

        `check` raises FatalError for an answer with which the worker cannot go on, which is passed to `fail`.
        """
        while True:
            await asyncio.sleep(_PROBE_EVERY_S)
            try:
                found = await asyncio.to_thread(admin.look, _PROBE_S)
                self.heard(up=True)
                check(found)
            except BrokersUnavailableError as error:
                self.heard(up=False, reason=str(error), remedy=error.remedy)
            except FatalError as error:
                fail(error)
