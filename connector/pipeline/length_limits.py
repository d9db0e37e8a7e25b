"""Length limits of a shard's topics, and the wait for a larger limit after a record was too long for its topic."""

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
    """Length limits of the topics of one shard. They are read from the brokers again after a record was too long."""

    def __init__(self, clients: Clients, shard: int, internal: Sequence[str]) -> None:
        """Store which topics to check. `internal` are the internal topics: every batch writes records to them."""
        self._clients = clients
        self._shard = shard
        self._internal = internal
        self._admin: TopicAdmin | None = None

    def check(self) -> None:
        """Raise RecordTooLongError if an internal topic does not even accept the shortest records of a batch."""
        for topic in self._internal:
            limit = self._clients.limits.of(topic)
            if limit < LEAST:
                raise RecordTooLongError(TooLong(topic, LEAST), limit)

    async def wait_until_accepted(self, error: Exception, pause: Callable[[float], Awaitable[bool]]) -> None:
        """Wait until the shard can write again after `error`, if a record was too long for its topic.

        1. After a RecordTooLongError, wait until an operator has raised the limit of the topic.
        2. If brokers refused a record that seemed short enough, read the limits again. If a limit is unchanged, assume
           a lower one.
        3. After any other error, return at once.

        `pause` waits for the given number of seconds. If it returns True, the shard must be released, and the waiting
        ends.
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
