"""Reader that follows topics from their beginning with `read_committed` and joins no group."""

import time
from collections.abc import Sequence
from typing import NamedTuple, cast

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message, TopicPartition

from connector.errors import BrokersUnavailableError
from connector.kafka.clients import Clients

_BATCH = 2_000
_TIMEOUT_S = 10.0
_SILENCE_S = 20.0


class Entry(NamedTuple):
    """Committed record. Its headers are keyed by name."""

    topic: str
    key: bytes | None
    value: bytes
    headers: dict[str, bytes]


class Follower:
    """Follower of several topics.

    Its calls block, may come from one thread at a time, and raise BrokersUnavailableError.
    """

    def __init__(self, clients: Clients, topics: Sequence[str]) -> None:
        """Start before the first record of every partition of `topics`, which must exist."""
        self._consumer = Consumer(clients.reader())
        self._next: dict[tuple[str, int], int] = {}
        try:
            known = self._consumer.list_topics(timeout=_TIMEOUT_S).topics
        except KafkaException as error:
            self._consumer.close()
            raise BrokersUnavailableError(error.args[0].str()) from error
        for topic in topics:
            self._next |= dict.fromkeys(((topic, number) for number in known[topic].partitions), OFFSET_BEGINNING)
        self._assign()

    def poll(self, timeout_s: float) -> list[Entry]:
        """Return the records that arrive within the time."""
        return [entry for message in self._consume(timeout_s) if (entry := self._entry(message)) is not None]

    def rest(self) -> list[Entry]:
        """Return all remaining records up to the present end of each partition."""
        self._assign()
        unread, entries = set(self._next), list[Entry]()
        heard = time.monotonic()
        while unread:
            messages = self._consume(0.05)
            if messages:
                heard = time.monotonic()
            elif time.monotonic() - heard > _SILENCE_S:
                raise BrokersUnavailableError(f"no broker answered for {_SILENCE_S:g} s while the topics were read")
            for message in messages:
                entry = self._entry(message)
                if entry is not None:
                    entries.append(entry)
                elif _is_end(message):
                    unread.discard((str(message.topic()), cast("int", message.partition())))
        return entries

    def close(self) -> None:
        """Close the connections."""
        self._consumer.close()

    def _assign(self) -> None:
        # A new assignment makes librdkafka report the end of each partition again.
        self._consumer.assign([TopicPartition(topic, number, at) for (topic, number), at in self._next.items()])

    def _consume(self, timeout_s: float) -> list[Message]:
        try:
            return self._consumer.consume(_BATCH, timeout=timeout_s)
        except KafkaException as error:
            raise BrokersUnavailableError(error.args[0].str()) from error

    def _entry(self, message: Message) -> Entry | None:
        if message.error() is not None:
            return None
        topic = str(message.topic())
        self._next[topic, cast("int", message.partition())] = cast("int", message.offset()) + 1
        headers = cast("list[tuple[str, bytes]]", message.headers() or [])
        return Entry(topic, message.key(), message.value() or b"", dict(headers))


def _is_end(message: Message) -> bool:
    error = message.error()
    return error is not None and error.code() == KafkaError._PARTITION_EOF  # noqa: SLF001
