"""Transactions of a shard on a real broker, including calls after which the outcome is unknown."""

import asyncio
import gc
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from connector.errors import FencedError, ShardRestartError
from connector.kafka.clients import Clients
from connector.kafka.publishing import AbortedError, CommitContext, Offsets, Outgoing
from connector.kafka.transaction import Transactions
from tests import oracle
from tests.brokers import Cluster, wait_until
from tests.conftest import SharedBroker
from tests.producing import Contents, interfere, member

if TYPE_CHECKING:
    from collections.abc import Callable


def create(bootstrap: str, *topics: str) -> None:
    admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})
    for future in admin.create_topics([NewTopic(topic, 1) for topic in topics]).values():
        future.result(10)


def values(bootstrap: str, topic: str) -> list[bytes]:
    return [entry.value for entry in oracle.read(bootstrap, topic)]


def thread_names() -> list[str]:
    """Return the names of this process's threads, also of those that Python did not start."""
    return [(task / "comm").read_text().strip() for task in Path("/proc/self/task").iterdir()]


async def commit(transactions: Transactions, topic: str, values: list[bytes], position: CommitContext) -> None:
    contents = Contents({"rows": [Outgoing(topic, None, value, 0) for value in values]})
    await transactions.call(partial(transactions.commit, contents, position))


async def test_timed_out_commit_does_not_affect_later_transactions(
    broker_of_its_own: Cluster, topic: str, app: str
) -> None:
    """A delayed EndTxn request must not end the next transaction, and no row may be published twice (librdkafka 5423).

    The shard does not know whether the commit succeeded, and reads the topic to find out.
    """
    bootstrap = broker_of_its_own.bootstrap
    create(bootstrap, topic, f"{app}.control")
    clients = Clients(bootstrap, {"log_level": 0})
    transactions = Transactions(clients, app)
    with member(bootstrap, app) as position:
        await transactions.call(transactions.open)
        await commit(transactions, topic, [b"before"], position())
        calls: list[Callable[[], None]] = [broker_of_its_own.suspend, broker_of_its_own.resume]

        def happen() -> None:
            calls.pop(0)()

        interfere(transactions, "commit_transaction", happen)
        with pytest.raises(ShardRestartError):
            await commit(transactions, topic, [b"in doubt"], position())
        assert calls == [broker_of_its_own.resume], "commit was called again"
        broker_of_its_own.resume()
        await transactions.close()
    successor = Transactions(clients, app)
    with member(bootstrap, app) as position:
        await successor.call(successor.open)
        if oracle.open_transactions(bootstrap, [topic]):  # the broker was fenced meanwhile, so its markers are lost
            await successor.call(successor.end, [(topic, 0)], position())
        landed = values(bootstrap, topic)[1:]
        assert landed in ([], [b"in doubt"])
        missing = [value for value in [b"in doubt"] if value not in landed]
        await commit(successor, topic, [*missing, b"after"], position())
        await successor.close()
    assert values(bootstrap, topic) == [b"before", b"in doubt", b"after"]
    assert not oracle.open_transactions(bootstrap, [topic, f"{app}.control"])


async def test_new_producer_fences_the_previous_one(broker: SharedBroker, topic: str, app: str) -> None:
    """The open transaction of the previous producer is aborted.

    That producer can neither commit nor begin another one.
    """
    create(broker.bootstrap, topic, f"{app}.control")
    clients = Clients(broker.bootstrap, {"log_level": 0})
    former, latter = Transactions(clients, app), Transactions(clients, app)

    def take_over() -> None:
        latter.open()

    with member(broker.bootstrap, app) as position:
        await former.call(former.open)
        interfere(former, "commit_transaction", take_over)
        with pytest.raises(FencedError):
            await commit(former, topic, [b"of the former"], position())
        await commit(latter, topic, [b"of the latter"], position())
        with pytest.raises(ShardRestartError):
            await commit(former, topic, [b"of the former again"], position())
    await asyncio.gather(former.close(), latter.close())
    assert values(broker.bootstrap, topic) == [b"of the latter"]


async def test_producer_call_that_hangs_ends_only_its_own_transaction(
    broker: SharedBroker, topic: str, app: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sending offsets may hang forever after a restart of a broker. The next owner of the shard continues."""
    create(broker.bootstrap, topic, f"{app}.control")
    monkeypatch.setattr("connector.kafka.transaction._OFFSETS_S", 0.5)
    clients = Clients(broker.bootstrap, {"log_level": 0})
    stuck = asyncio.Event()
    loop = asyncio.get_running_loop()
    hanging = Transactions(clients, app)

    def hang() -> None:
        asyncio.run_coroutine_threadsafe(stuck.wait(), loop).result()

    with member(broker.bootstrap, app) as position:
        await hanging.call(hanging.open)
        interfere(hanging, "send_offsets_to_transaction", hang)
        with pytest.raises(ShardRestartError):
            await commit(hanging, topic, [b"lost"], position())
        await hanging.close()
        successor = Transactions(clients, app)
        await successor.call(successor.open)
        await commit(successor, topic, [b"kept"], position())
        stuck.set()
        await successor.close()
    assert values(broker.bootstrap, topic) == [b"kept"]


async def test_producer_of_an_old_generation_cannot_commit(broker: SharedBroker, topic: str, app: str) -> None:
    """Neither its rows nor its state become visible. This situation occurs at every rebalance during a transaction."""
    state = f"{app}.state"
    create(broker.bootstrap, topic, state, f"{app}.control")
    transactions = Transactions(Clients(broker.bootstrap, {"log_level": 0}), f"{app}-0")
    await transactions.call(transactions.open)

    def write(value: bytes, position: CommitContext) -> Offsets:
        rows = {"rows": [Outgoing(topic, None, value, 0)] * 2}
        contents = Contents(rows, lambda offsets: [Outgoing(state, b"ends", b"%d" % offsets["rows"][0], 0)])
        return transactions.commit(contents, position)

    with member(broker.bootstrap, app) as position:
        assert await transactions.call(write, b"former", position()) == {"rows": {0: 2}}
        stale = position()
    with pytest.raises(AbortedError):
        await transactions.call(write, b"stale", stale)
    assert values(broker.bootstrap, topic) == [b"former"] * 2
    assert values(broker.bootstrap, state) == [b"2"]
    with member(broker.bootstrap, app) as position:
        # The first offsets are those of two rows and two markers, of two transactions.
        assert await transactions.call(write, b"latter", position()) == {"rows": {0: 8}}
    await transactions.close()
    assert values(broker.bootstrap, topic) == [b"former"] * 2 + [b"latter"] * 2
    assert values(broker.bootstrap, state) == [b"2", b"8"]


async def test_abort_without_a_response_does_not_count_as_aborted(
    broker_of_its_own: Cluster, topic: str, app: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only a successful abort proves that nothing was written."""
    monkeypatch.setattr("connector.kafka.transaction._CALL_S", 2.0)
    bootstrap = broker_of_its_own.bootstrap
    create(bootstrap, topic, f"{app}.control")
    transactions = Transactions(Clients(bootstrap, {"log_level": 0}), app)
    await transactions.call(transactions.open)
    with member(bootstrap, app) as position:
        stale = position()
    interfere(transactions, "abort_transaction", broker_of_its_own.suspend)
    with pytest.raises(ShardRestartError, match="cannot be aborted"):
        await commit(transactions, topic, [b"in doubt"], stale)
    broker_of_its_own.resume()
    await transactions.close()
    successor = Transactions(Clients(bootstrap, {"log_level": 0}), app)
    await successor.call(successor.open)
    await successor.close()
    assert not values(bootstrap, topic)
    assert not oracle.open_transactions(bootstrap, [topic, f"{app}.control"])


async def test_fatal_error_masked_by_another_error_restarts_the_shard(
    broker: SharedBroker, topic: str, app: str
) -> None:
    """In random tests, `flush` of a fenced producer raised an AttributeError instead of the fatal error."""
    create(broker.bootstrap, topic, f"{app}.control")
    transactions = Transactions(Clients(broker.bootstrap, {"log_level": 0}), app)

    def lose() -> None:
        raise AttributeError("'Logger' object has no attribute 'log'")

    with member(broker.bootstrap, app) as position:
        await transactions.call(transactions.open)
        interfere(transactions, "flush", lose)
        with pytest.raises(ShardRestartError, match="its log states the reason"):
            await commit(transactions, topic, [b"lost"], position())
    await transactions.close()
    assert not values(broker.bootstrap, topic)


@pytest.mark.parametrize("error", [SystemError, AttributeError, RuntimeError])
async def test_transaction_is_not_committed_if_sending_offsets_failed(
    broker: SharedBroker, topic: str, app: str, error: type[Exception]
) -> None:
    """Without the offsets, no group generation guards the transaction."""
    create(broker.bootstrap, topic, f"{app}.control")
    transactions = Transactions(Clients(broker.bootstrap, {"log_level": 0}), app)

    def fail() -> None:
        raise error("raised during a callback")

    with member(broker.bootstrap, app) as position:
        await transactions.call(transactions.open)
        interfere(transactions, "send_offsets_to_transaction", fail)
        with pytest.raises(ShardRestartError, match="raised during a callback"):
            await commit(transactions, topic, [b"lost"], position())
    await transactions.close()
    assert not values(broker.bootstrap, topic)


@pytest.mark.parametrize("call", ["flush", "send_offsets_to_transaction", "commit_transaction"])
async def test_failed_transaction_ends_the_threads_of_its_producer(
    broker: SharedBroker, topic: str, app: str, call: str
) -> None:
    """The error may stay in memory for hours as part of a reference cycle. It must not keep the producer alive."""
    create(broker.bootstrap, topic, f"{app}.control")
    transactions = Transactions(Clients(broker.bootstrap, {"log_level": 0}), app)

    def fail() -> None:
        raise KafkaException(KafkaError(KafkaError._FATAL, "broken"))

    def others() -> int:
        return sum(name.startswith("rdk:") for name in thread_names()) - of_the_group

    gc.disable()
    try:
        with member(broker.bootstrap, app) as position:
            context = position()
            of_the_group = sum(name.startswith("rdk:") for name in thread_names())
            await transactions.call(transactions.open)
            interfere(transactions, call, fail)
            with pytest.raises(ShardRestartError) as failure:
                await commit(transactions, topic, [b"lost"], context)
            wait_until(lambda: others() <= 0, "the end of the producer's threads", 10)
            assert failure.value.__traceback__ is not None
    finally:
        gc.enable()
        await transactions.close()


@pytest.mark.parametrize("call", ["begin_transaction", "flush", "commit_transaction"])
async def test_non_kafka_exception_of_the_producer_restarts_the_shard(
    broker: SharedBroker, topic: str, app: str, call: str
) -> None:
    create(broker.bootstrap, topic, f"{app}.control")
    transactions = Transactions(Clients(broker.bootstrap, {"log_level": 0}), app)

    def fail() -> None:
        raise SystemError("raised during a callback")

    with member(broker.bootstrap, app) as position:
        await transactions.call(transactions.open)
        interfere(transactions, call, fail)
        with pytest.raises(ShardRestartError, match="raised during a callback"):
            await commit(transactions, topic, [b"lost"], position())
    await transactions.close()
    assert not values(broker.bootstrap, topic)


async def test_refused_record_timestamp_error_points_to_the_clock(broker: SharedBroker, topic: str, app: str) -> None:
    create(broker.bootstrap, topic, f"{app}.control")
    transactions = Transactions(Clients(broker.bootstrap, {"log_level": 0}), app)
    tomorrow = [Outgoing(topic, None, b"row", timestamp_ms=int(1000 * time.time()) + 86_400_000)]
    with member(broker.bootstrap, app) as position:
        await transactions.call(transactions.open)
        with pytest.raises(ShardRestartError, match="correct this machine's clock"):
            await transactions.call(partial(transactions.commit, Contents({"rows": tomorrow}), position()))
    await transactions.close()
    assert not values(broker.bootstrap, topic)
