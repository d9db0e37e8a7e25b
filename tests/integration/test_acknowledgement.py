"""Batches without transactions on a real broker: no part is written before the parts that it depends on."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import pytest
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from connector.errors import HandedOverError, ShardRestartError
from connector.kafka.acknowledgement import Acknowledgements
from connector.kafka.clients import Clients
from connector.kafka.publishing import CommitContext, Offsets, Outgoing
from connector.kafka.topics import Names
from tests import oracle
from tests.brokers import set_topic
from tests.conftest import SharedBroker
from tests.producing import Contents


@contextmanager
def created(bootstrap: str, topic: str, names: Names) -> Iterator[Callable[[], list[int]]]:
    """Create the topics; yield a function that counts the records of each: rows, seen, state."""
    topics = (topic, names.seen, names.state)
    admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})
    for future in admin.create_topics([NewTopic(name, 1) for name in topics]).values():
        future.result(10)
    yield lambda: [len(oracle.read(bootstrap, name)) for name in topics]


def contents(topic: str, names: Names) -> Contents:
    def interim(offsets: Offsets) -> list[Outgoing]:
        return [Outgoing(names.state, b"checkpoint", str(offsets).encode(), 0)]

    def final(_: Offsets) -> list[Outgoing]:
        checkpoint = Outgoing(names.state, b"checkpoint", b"", 0)
        return [checkpoint, Outgoing(names.seen, b"remembered", os.urandom(500), 0), checkpoint]

    return Contents({"t": [Outgoing(topic, None, b"row", 0)] * 3}, final, interim=interim)


async def commit(publisher: Acknowledgements, topic: str, names: Names, *, holds: bool = True) -> Offsets:
    position = CommitContext(names.control, 0, 0, None, lambda: holds)
    return await publisher.call(partial(publisher.commit, contents(topic, names), position))


async def test_later_parts_of_a_batch_are_not_written_after_a_failure(
    broker: SharedBroker, topic: str, app: str
) -> None:
    """A producer that opens writes a tombstone to each internal topic, to test the brokers."""
    names = Names(app)
    publisher = Acknowledgements(Clients(broker.bootstrap, {"log_level": 0}), names, 0)
    with created(broker.bootstrap, topic, names) as counts:
        await publisher.call(publisher.open)
        assert counts() == [0, 1, 1]
        assert await commit(publisher, topic, names) == {"t": {0: 3}}
        assert counts() == [3, 2, 4]
        set_topic(broker.bootstrap, names.seen, "max.message.bytes", "200")
        with pytest.raises(ShardRestartError, match=r"a batch of shard 0 .* cannot be written"):
            await commit(publisher, topic, names)
        assert counts() == [6, 2, 5]
        with pytest.raises(ShardRestartError, match="is not open"):
            await commit(publisher, topic, names)
        set_topic(broker.bootstrap, names.seen, "max.message.bytes", "10")
        with pytest.raises(ShardRestartError, match=r"producer of shard 0 .* cannot be opened"):
            await publisher.call(publisher.open)
        await publisher.close()
        assert counts() == [6, 2, 6]


async def test_delayed_worker_writes_nothing_for_a_shard_that_it_lost(
    broker: SharedBroker, topic: str, app: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("connector.kafka.acknowledgement._FRESH_S", 0.0)
    names = Names(app)
    publisher = Acknowledgements(Clients(broker.bootstrap, {"log_level": 0}), names, 0)
    with created(broker.bootstrap, topic, names) as counts:
        await publisher.call(publisher.open)
        with pytest.raises(HandedOverError):
            await commit(publisher, topic, names, holds=False)
        assert counts() == [3, 1, 1]
        await commit(publisher, topic, names)
        assert counts() == [6, 2, 4]
        await publisher.close()
