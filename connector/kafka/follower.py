"""Follows topics from their beginning as a `read_committed` reader that joins no group."""

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
    """A committed record; headers by name."""

    topic: str
    key: bytes | None
    value: bytes
    headers: dict[str, bytes]


class Follower:
    """Blocking calls, for one thread at a time. They raise BrokersUnavailableError."""

    def __init__(self, clients: Clients, topics: Sequence[str]) -> None:
        """The topics exist."""
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
        """What came within the time."""
        return [entry for message in self._consume(timeout_s) if (entry := self._entry(message)) is not None]

    def rest(self) -> list[Entry]:
        """Everything up to where each partition ends now."""
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
        """Forgets the connections."""
        self._consumer.close()

    def _assign(self) -> None:
        # Assigned anew, each partition tells its end again.
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
