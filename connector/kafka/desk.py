"""Client for operators: reads what workers have committed and the commands that wait, and writes new commands.

It needs no running worker and does not disturb one: it joins no group and has no transactional id.
"""

import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Self

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from msgspec import structs

from connector.config import Kafka
from connector.core import jobs
from connector.errors import BrokersUnavailableError, FatalError
from connector.kafka import addresses, control, recreation, rights, state, topics
from connector.kafka.clients import Clients
from connector.kafka.control import Heard
from connector.kafka.ownership import Command
from connector.kafka.state import Restored, StateIdentity

_LOOK_S = 8.0
_SILENCE_S = 15.0
_FILING_S = 20.0
_PAUSE_S = 0.1
_BATCH = 1_000


class ShardView(NamedTuple):
    """Committed state of a shard, and the commands that no worker has applied yet, oldest first."""

    restored: Restored
    waiting: list[Heard]


class OperatorClient:
    """Reader of committed state and writer of commands. Its calls block."""

    def __init__(self, kafka: Kafka, clients: Clients) -> None:
        """Look up the topics.

        Raises BrokersUnavailableError when no broker answers, and FatalError when the internal topics do not have
        `kafka.shards` partitions.
        """
        self._kafka = kafka
        self._clients = clients
        self._clients.check()
        self._names = topics.Names(kafka.app)
        self._brokers: Mapping[int, addresses.Address] = {}
        try:
            found = topics.Admin(self._clients).look(_LOOK_S)
        except BrokersUnavailableError as error:
            raise self._away(str(error)) from error
        self._brokers = found.brokers
        self._home = StateIdentity(kafka.app, found.cluster, kafka.topic)
        self._shards = [found.partitions.get(name, 0) for name in (self._names.control, self._names.state)]
        self.is_new = not any(self._shards)
        "True if the internal topics do not exist, so that no worker has ever run."
        self._control_id = ""
        if not self.is_new:
            self._check()
            self._control_id = recreation.topic_id(self._clients, self._names.control)

    def _check(self) -> None:
        for name, partitions in zip((self._names.control, self._names.state), self._shards, strict=True):
            if not partitions:
                raise FatalError(f"topic {name} does not exist: connector run makes it again")
            if partitions != self._kafka.shards:
                raise FatalError(
                    f"topic {name} has {partitions} partitions, kafka.shards is {self._kafka.shards}: "
                    f"set kafka.shards = {partitions}"
                )

    def shard_of(self, tenant: str) -> int:
        """Return the shard of a tenant."""
        return control.partition_of(tenant, self._kafka.shards)

    def read(self, shards: Sequence[int]) -> dict[int, ShardView]:
        """Return the state and the waiting commands of each of these shards.

        Raises FatalError when the state belongs to another topic or cluster, or was written by a newer version.
        """
        if self.is_new:
            return {number: ShardView(Restored(None, {}), []) for number in shards}
        with _Reader(self._clients, self._away) as reader:
            values: dict[int, dict[bytes, bytes]] = {number: {} for number in shards}
            for number, record in reader.read(self._names.state, dict.fromkeys(shards, OFFSET_BEGINNING)):
                _apply(values[number], record)
            restored = {number: self._restore(values[number]) for number in shards}
            waiting: dict[int, list[Heard]] = {number: [] for number in shards}
            for number, record in reader.read(self._names.control, {n: _next(r) for n, r in restored.items()}):
                heard = _heard(record)
                is_ours = heard is not None and self.shard_of(heard.tenant) == number
                if heard is not None and is_ours and (record.offset() or 0) >= _next(restored[number]):
                    waiting[number].append(heard)
        return {number: ShardView(restored[number], waiting[number]) for number in shards}

    def follow(self, shard: int) -> Generator[Restored | None, None, None]:
        """Yield the state of a shard whenever its worker has committed, without end; None when nothing came for 0.1 s.

        Waits for brokers that are unavailable. Raises FatalError when a right is withdrawn or the topic was deleted.
        """
        consumer = Consumer(self._clients.reader())
        values: dict[bytes, bytes] = {}
        reached = False
        try:
            consumer.assign([TopicPartition(self._names.state, shard, OFFSET_BEGINNING)])
            while True:
                changed = False
                for record in consumer.consume(_BATCH, timeout=_PAUSE_S):
                    error = record.error()
                    if error is None:
                        _apply(values, record)
                        changed = True
                    elif error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001
                        changed = changed or not reached
                        reached = True
                    elif error.code() in _LASTING:
                        reason = rights.explained(error, self._kafka.app, self._names.state)
                        raise FatalError(f"reading {self._names.state}: {reason}")
                yield self._restore(values) if changed and reached else None
        finally:
            consumer.close()

    def file(self, tenant: str, order: jobs.Command) -> int:
        """Write a command and return its offset. `tenant`: the id, spelled as in the configuration.

        Raises FatalError when a broker refuses the command, and BrokersUnavailableError when none has acknowledged it
        in time.
        """
        outcome: list[tuple[KafkaError | None, int]] = []

        def delivered(error: KafkaError | None, message: Message) -> None:
            outcome.append((error, message.offset() or 0))

        deadline = time.monotonic() + _FILING_S
        try:
            producer = Producer(self._clients.commander())
            producer.produce(
                self._names.control,
                control.encode(tenant, order),
                tenant.encode(),
                self.shard_of(tenant),
                on_delivery=delivered,
            )
            while not outcome and time.monotonic() < deadline:
                producer.poll(_PAUSE_S)
        except KafkaException as error:
            raise FatalError(f"filing a command in {self._names.control}: {error.args[0].str()}") from error
        if not outcome or (outcome[0][0] is not None and outcome[0][0].code() in _IN_DOUBT):
            raise self._away("the command may have been filed all the same: see connector jobs")
        problem, offset = outcome[0]
        if problem is not None:
            raise FatalError(f"filing a command in {self._names.control}: {problem.str()}")
        return offset

    def workers(self) -> int | None:
        """Return the number of workers in the group; None when the brokers do not report it."""
        try:
            admin = AdminClient(self._clients.admin())
            future = admin.describe_consumer_groups([self._kafka.app], request_timeout=_LOOK_S)[self._kafka.app]
            return len(future.result(timeout=_LOOK_S).members)
        except KafkaException as error:
            return 0 if error.args[0].code() == KafkaError.GROUP_ID_NOT_FOUND else None
        except TimeoutError:
            return None

    def _restore(self, values: dict[bytes, bytes]) -> Restored:
        restored = state.restore(values)
        shard = restored.shard
        state.check_identity(shard, self._home)
        if shard is not None and shard.control_id and self._control_id not in ("", shard.control_id):
            # The control topic was created again, so no worker has applied any of its commands yet.
            return restored._replace(shard=structs.replace(shard, control=0))
        return restored

    def _away(self, why: str) -> BrokersUnavailableError:
        failures = addresses.unreachable(self._brokers)
        if failures:
            return BrokersUnavailableError(f"{'; '.join(failures)}: {addresses.REMEDY}")
        return BrokersUnavailableError(
            f"no broker answers at {self._kafka.bootstrap_servers} ({why}): check "
            "kafka.bootstrap_servers, and that the brokers run"
        )


class _Reader:
    """Consumer that reads partitions to their last stable offset."""

    def __init__(self, clients: Clients, away: Any) -> None:
        self._consumer = Consumer(clients.reader())
        self._away = away

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._consumer.close()

    def read(self, topic: str, offsets: dict[int, int]) -> Iterator[tuple[int, Message]]:
        """Yield partition and record. `offsets`: where to start in each partition."""
        left = set(offsets)
        self._consumer.assign([TopicPartition(topic, number, offset) for number, offset in offsets.items()])
        heard = time.monotonic()
        while left:
            records = self._consumer.consume(_BATCH, timeout=0.05)
            if records:
                heard = time.monotonic()
            elif time.monotonic() - heard > _SILENCE_S:
                raise self._away(f"reading {topic}")
            for record in records:
                error, number = record.error(), record.partition()
                if error is None and number is not None and record.topic() == topic:
                    yield number, record
                elif error is not None and error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001
                    if number is not None and record.topic() == topic:
                        left.discard(number)
                elif error is not None and error.code() == KafkaError._RESOLVE:  # noqa: SLF001
                    raise self._away(error.str())
                elif error is not None and not error.retriable():
                    raise FatalError(f"reading {topic}: {error.str()}")


_LASTING = frozenset(
    {
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.GROUP_AUTHORIZATION_FAILED,
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError._UNKNOWN_TOPIC,  # noqa: SLF001 - librdkafka's own codes have such names
        KafkaError._UNKNOWN_PARTITION,  # noqa: SLF001
    }
)
"Errors of a reader that retrying does not fix."
_IN_DOUBT = frozenset({KafkaError._MSG_TIMED_OUT, KafkaError._TIMED_OUT, KafkaError._TRANSPORT})  # noqa: SLF001


def _next(restored: Restored) -> int:
    return restored.shard.control if restored.shard else 0


def _heard(record: Message) -> Heard | None:
    key, value = record.key(), record.value()
    return control.parse(
        Command(
            record.offset() or 0,
            key if isinstance(key, bytes) else None,
            value if isinstance(value, bytes) else None,
        )
    )


def _apply(values: dict[bytes, bytes], record: Message) -> None:
    key, value = record.key(), record.value()
    if not isinstance(key, bytes):
        return
    if isinstance(value, bytes):
        values[key] = value
    else:
        values.pop(key, None)
