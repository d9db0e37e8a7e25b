"""Recovery from a record that was too long for its topic: read the limits again and wait until the record fits."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

from connector import log
from connector.errors import BrokersUnavailableError
from connector.kafka.clients import Clients
from connector.kafka.limits import LEAST, RecordTooLongError, TooLong, raise_command, refusing_topics
from connector.kafka.topic_admin import TopicAdmin

_logger = log.get(__name__)
_ASK_EVERY_S = 5.0


class LengthLimits:
    """Length limits of a shard's topics, which are read again when a record exceeds one."""

    def __init__(self, clients: Clients, shard: int, internal: Sequence[str]) -> None:
        """Create the limits of one shard. Nothing may be published without the topics in `internal`."""
        self._clients = clients
        self._shard = shard
        self._internal = internal
        self._admin: TopicAdmin | None = None

    def check(self) -> None:
        """Raise RecordTooLongError when an internal topic does not even accept the shortest records."""
        for topic in self._internal:
            limit = self._clients.limits.of(topic)
            if limit < LEAST:
                raise RecordTooLongError(TooLong(topic, LEAST), limit)

    async def heed(self, error: Exception, pause: Callable[[float], Awaitable[bool]]) -> None:
        """Return once the record that was too long may be tried again; return at once for any other error.

        `pause` waits for a number of seconds and returns whether to give up.
        """
        limits = self._clients.limits
        if not isinstance(error, RecordTooLongError):
            refused = refusing_topics(error)
            before = {topic: limits.of(topic) for topic in refused}
            if refused:
                await self._read(refused)
                (self._admin or TopicAdmin(self._clients)).warn_of_limits(refused)
            for topic, limit in before.items():
                if limits.of(topic) == limit:
                    limits.lower(topic)
            return
        topic, needed = error.record
        _logger.warning(
            "record_too_long",
            shard=self._shard,
            topic=topic,
            reason=str(error),
            remedy=raise_command(topic, needed),
        )
        while not await pause(_ASK_EVERY_S):
            await self._read([topic])
            limits.forget_guess(topic)
            if limits.of(topic) >= needed or not limits.is_known(topic):
                return

    async def _read(self, names: Sequence[str]) -> None:
        admin = self._admin = self._admin or TopicAdmin(self._clients)
        with suppress(BrokersUnavailableError):
            await asyncio.to_thread(admin.read_limits, names)
