"""Client for operators: it reads committed state and waiting commands, and writes new commands.

It needs no running worker and does not disturb one, because it joins no group and has no transactional id.
"""

import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from typing import NamedTuple

from confluent_kafka import KafkaError, KafkaException, Message, Producer
from confluent_kafka.admin import AdminClient
from msgspec import structs

from connector.config import Kafka
from connector.core import jobs
from connector.errors import BrokersUnavailableError, FatalError, ForbiddenError
from connector.kafka import addresses, control, kept_commands, recreation, rights, state, topics
from connector.kafka.clients import Clients
from connector.kafka.control import TenantCommand
from connector.kafka.fatal_errors import fatal_errors
from connector.kafka.log_reader import LogReader, Place, apply, from_beginning
from connector.kafka.membership import ControlRecord
from connector.kafka.state import Restored, StateIdentity
from connector.kafka.topic_admin import TopicAdmin

_LOOK_S = 8.0
_FILING_S = 20.0
_PAUSE_S = 0.1


class ShardView(NamedTuple):
    """Committed state of a shard, and the commands that no worker has applied yet, oldest first."""

    restored: Restored
    waiting: list[TenantCommand]


class OperatorClient:
    """Reader of committed state and writer of operators' commands. Its methods block."""

    def __init__(self, kafka: Kafka, clients: Clients) -> None:
        """Look up the internal topics.

        Raises BrokersUnavailableError if no broker answers, and FatalError if the number of their partitions is not
        `kafka.shards`.
        """
        self._kafka = kafka
        self._clients = clients
        self._clients.check()
        self._names = topics.Names(kafka.app)
        self._brokers: Mapping[int, addresses.Address] = {}
        try:
            found = TopicAdmin(self._clients).look(_LOOK_S)
        except BrokersUnavailableError as error:
            raise self._unavailable(str(error)) from error
        self._brokers = found.brokers
        self._identity = StateIdentity(kafka.app, found.cluster, kafka.topic)
        self._shards = [found.partitions.get(name, 0) for name in (self._names.control, self._names.state)]
        self.is_new = not any(self._shards)
        "True if the internal topics do not exist, because no worker has run yet."
        self._control_id = ""
        if not self.is_new:
            self._check()
            self._control_id = recreation.topic_id(self._clients, self._names.control)

    def _check(self) -> None:
        for name, partitions in zip((self._names.control, self._names.state), self._shards, strict=True):
            if not partitions:
                raise FatalError(f"topic {name} does not exist: start connector run, which creates it")
            if partitions != self._kafka.shards:
                raise FatalError(
                    f"topic {name} has {partitions} partitions, but kafka.shards is {self._kafka.shards}: "
                    f"set kafka.shards = {partitions}; to change the number, use connector copy-state"
                )

    def shard_of(self, tenant: str) -> int:
        """Return the shard of a tenant."""
        return control.partition_of(tenant, self._kafka.shards)

    def read(self, shards: Sequence[int]) -> dict[int, ShardView]:
        """Read the committed state and the waiting commands of the given shards.

        Raises FatalError if the state belongs to another topic or cluster, or was written by a newer version.
        """
        if self.is_new:
            return {number: ShardView(Restored(None, {}), []) for number in shards}
        with LogReader(self._clients) as reader:
            values: dict[int, dict[bytes, bytes]] = {number: {} for number in shards}
            for record in self._read(reader, from_beginning((self._names.state, number) for number in shards)):
                apply(values[record.partition() or 0], record)
            restored = {number: self._restore(values[number]) for number in shards}
            waiting = {number: _kept(restored[number]) for number in shards}
            for record in self._read(reader, {(self._names.control, n): _next(r) for n, r in restored.items()}):
                received, number = _parse_command(record), record.partition() or 0
                is_ours = received is not None and self.shard_of(received.tenant) == number
                if received is not None and is_ours and (record.offset() or 0) >= _next(restored[number]):
                    waiting[number].append(received)
        return {number: ShardView(restored[number], waiting[number]) for number in shards}

    def _read(self, reader: LogReader, starts: Mapping[Place, int]) -> Iterator[Message]:
        try:
            for records in reader.read_to_end(starts):
                yield from records
        except ForbiddenError as error:
            raise FatalError(f"records cannot be read: {error}") from error
        except BrokersUnavailableError as error:
            raise self._unavailable(str(error)) from error

    def follow(self, shard: int) -> Generator[Restored | None, None, None]:
        """Yield the state of a shard after each commit, without end. Yield None if nothing was committed for 0.1 s.

        Waits while brokers are unavailable. Raises FatalError if a right is withdrawn or the topic is deleted.
        """
        values: dict[bytes, bytes] = {}
        shown = False
        with LogReader(self._clients) as reader:
            try:
                for records, at_end in reader.follow(from_beginning([(self._names.state, shard)])):
                    for record in records:
                        apply(values, record)
                    changed = at_end and (bool(records) or not shown)
                    shown = shown or at_end
                    yield self._restore(values) if changed else None
            except ForbiddenError as error:
                raise FatalError(f"records cannot be read: {error}") from error

    def file(self, tenant: str, order: jobs.Command) -> int:
        """Write the command `order` to the control topic and return its offset.

        `tenant` is the id as spelled in the configuration. Raises FatalError if a broker refuses the command, and
        BrokersUnavailableError if no broker acknowledges it in time.
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
            with fatal_errors():
                while not outcome and time.monotonic() < deadline:
                    producer.poll(_PAUSE_S)
        except KafkaException as error:
            raise FatalError(f"the command cannot be written to {self._explained(error.args[0])}") from error
        if not outcome or (outcome[0][0] is not None and outcome[0][0].code() in _IN_DOUBT):
            raise self._unavailable(
                "no broker has acknowledged the command, but it may have been written: run connector jobs to find out"
            )
        problem, offset = outcome[0]
        if problem is not None:
            raise FatalError(f"the command cannot be written to {self._explained(problem)}")
        return offset

    def workers(self) -> int | None:
        """Return the number of workers in the consumer group; None if the brokers do not report it."""
        return count_workers(self._clients)

    def _restore(self, values: dict[bytes, bytes]) -> Restored:
        restored = state.restore(values)
        shard = restored.shard
        state.check_identity(shard, self._identity)
        if shard is not None and shard.control_id and self._control_id not in ("", shard.control_id):
            # The control topic was created again, so no worker has applied any of its commands yet.
            return restored._replace(shard=structs.replace(shard, control=0))
        return restored

    def _explained(self, error: KafkaError) -> str:
        return rights.explained(error, self._kafka.app, self._names.control)

    def _unavailable(self, why: str) -> BrokersUnavailableError:
        failures = addresses.unreachable(self._brokers)
        if failures:
            return BrokersUnavailableError(f"{'; '.join(failures)}: {addresses.REMEDY}")
        return BrokersUnavailableError(
            f"no broker answers at {self._kafka.bootstrap_servers} ({why}): check "
            "kafka.bootstrap_servers, and that the brokers run"
        )


def count_workers(clients: Clients) -> int | None:
    """Return the number of workers of the app that `clients` is configured for.

    Return None if the brokers do not report it.
    """
    try:
        admin = AdminClient(clients.admin())
        future = admin.describe_consumer_groups([clients.app], request_timeout=_LOOK_S)[clients.app]
        return len(future.result(timeout=_LOOK_S).members)
    except KafkaException as error:
        return 0 if error.args[0].code() == KafkaError.GROUP_ID_NOT_FOUND else None
    except TimeoutError:
        return None


_IN_DOUBT = frozenset({KafkaError._MSG_TIMED_OUT, KafkaError._TIMED_OUT, KafkaError._TRANSPORT})  # noqa: SLF001


def _next(restored: Restored) -> int:
    return restored.shard.control if restored.shard else 0


def _kept(restored: Restored) -> list[TenantCommand]:
    """Return the commands that the shard's record stores, because their tenant is not read yet."""
    return kept_commands.parse(restored.shard.kept) if restored.shard else []


def _parse_command(record: Message) -> TenantCommand | None:
    key, value = record.key(), record.value()
    return control.parse(
        ControlRecord(
            record.offset() or 0,
            key if isinstance(key, bytes) else None,
            value if isinstance(value, bytes) else None,
        )
    )
