"""Check whether brokers would refuse anything that a worker needs, before a worker is started.

1. The check commits nothing, creates no topic and joins no group. Its transactional id is `{app}-check`.
2. Some brokers support only a part of the transaction API. Therefore the check begins a transaction, writes a tombstone
   to partition 0 of `{app}.seen`, sends an offset of this partition, and aborts the transaction. It does so only if the
   internal topics exist. A shard that reads this partition at this moment waits some milliseconds longer.
3. If the consumer group does not exist, this offset creates a group without members, which brokers delete later.
4. With at-least-once delivery, the check uses no transaction. If the internal topics exist, it writes a tombstone to
   partition 0 of both, as each start of a shard does. The key of the tombstone is not a key of the state.
5. For everything else, the check asks the brokers which operations they allow. If a broker does not report them, the
   check passes.

All functions block, for seconds at most.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicCollection, TopicPartition
from confluent_kafka.admin import AclOperation, AdminClient

from connector.config import Kafka
from connector.errors import ShardRestartError
from connector.kafka import addresses, rights, topics
from connector.kafka.acknowledgement import Acknowledgements
from connector.kafka.clients import Clients
from connector.kafka.fatal_errors import fatal_errors
from connector.kafka.limits import LEAST, raise_command
from connector.kafka.operator_client import OperatorClient
from connector.kafka.topic_admin import Found, TopicAdmin
from connector.kafka.topic_problems import Problem, absent
from connector.kafka.topics import Topic
from connector.kafka.transaction import is_fenced, send_offset

_LOOK_S = 8.0
_ASK_S = 8.0
_INIT_S = 12.0
_TOMBSTONE_KEY = b"probe"


class TopicFindings(NamedTuple):
    """Result of the check of topics: problems, and missing topics that a worker would create."""

    problems: list[Problem]
    missing: list[str]
    left_out: str = ""
    "Settings that brokers would refuse for new topics, and the consequence. Empty if they accept all."
    limits: Mapping[str, int] = {}
    "By topic: `max.message.bytes`, if it is lower than the default limit of a producer."


class Probe:
    """Check of the brokers that the configuration names.

    The constructor raises ConfigurationError if librdkafka refuses a setting. The methods raise BrokersUnavailableError
    if no broker answers.
    """

    def __init__(self, kafka: Kafka, clients: Clients) -> None:
        self._kafka = kafka
        self._names = topics.Names(kafka.app)
        self._internal = (self._names.state, self._names.seen)
        self._clients = clients
        self._clients.check()
        self._admin = TopicAdmin(self._clients)

    def look(self) -> Found:
        """Return the cluster's id, its topics and its brokers."""
        return self._admin.look(_LOOK_S)

    def unreachable(self, found: Found) -> list[Problem]:
        """Return a problem for each advertised address that cannot be reached."""
        return [Problem(failure, addresses.REMEDY) for failure in addresses.unreachable(found.brokers)]

    def topics(self, wanted: Sequence[Topic], found: Found) -> TopicFindings:
        """Check the topics that a worker would use. Raises FatalError if a worker would refuse the stored state."""
        present = [topic for topic in wanted if topic.name in found.partitions]
        missing = [topic for topic in wanted if topic.name not in found.partitions]
        try:
            problems, left_out = self._admin.problems(present, found), ""
            if self._kafka.create_topics:
                foreseen = self._admin.foresee(missing, self._kafka.replication_factor)
                problems, left_out = [*problems, *foreseen.problems], foreseen.left_out
            else:
                problems += [absent(topic) for topic in missing]
        except KafkaException as error:
            raise self._admin.unanswered(error.args[0]) from error
        problems += self._forbidden([topic.name for topic in present])
        if not problems and {self._names.control, self._names.state} <= found.partitions.keys():
            self._read_state()
        low = self._clients.limits.low(topic.name for topic in present)
        problems += [_too_low(name, limit) for name, limit in low.items() if limit < LEAST and name in self._internal]
        return TopicFindings(problems, [topic.name for topic in missing], left_out, low)

    @property
    def is_idempotent(self) -> bool:
        """Return whether brokers support idempotent producers. True until `transactions` finds out that they do not."""
        return self._clients.idempotence.is_used

    def transactions(self, found: Found) -> list[Problem]:
        """Return the problems with the consumer group and, if a worker needs transactions, with transactions."""
        # This request comes first: brokers that never had a consumer group create their topic of offsets for it.
        of_group = [*self._group_problems()]
        is_exact = self._kafka.delivery == "exactly_once"
        problems = self._transaction_problems(found) if is_exact else self._writing_problems(found)
        return [*problems, *of_group]

    def _transaction_problems(self, found: Found) -> Iterable[Problem]:
        """Check that brokers accept a transaction with a tombstone and an offset, which is then aborted.

        Yield the first problem. If the internal topics do not exist, the transaction is empty.
        """
        name = f"{self._kafka.app}-check"
        failed = "cannot be initialised"
        try:
            producer = Producer(self._clients.producer(name))
            producer.init_transactions(_INIT_S)
            producer.begin_transaction()
            if self._names.seen in found.partitions:
                failed = f"cannot write to {self._names.seen}"
                self._write_tombstone(producer)
                failed = "cannot send offsets"
                self._send_offset(producer)
            failed = "cannot be aborted"
            producer.abort_transaction(_ASK_S)
        except KafkaException as error:
            cause = error.args[0]
            if is_fenced(cause):  # by another check, which runs at the same time and tests the same
                return
            todo = rights.remedy(cause, self._kafka.app, [self._names.seen]) or (
                "check that every partition of topic __transaction_state has a leader"
            )
            yield Problem(f"transactions of {name} {failed}: {cause.str()}", todo)

    def _writing_problems(self, found: Found) -> Iterable[Problem]:
        """Check that brokers accept records without transactions. Yield the problem if they do not.

        The check opens and closes the publisher of shard 0. If the internal topics do not exist, nothing is checked.
        """
        if not found.partitions.keys() >= set(self._internal):
            return
        publisher = Acknowledgements(self._clients, self._names, 0)
        try:
            publisher.open()
        except ShardRestartError as error:
            cause, *refused = getattr(error.__cause__, "args", None) or (KafkaError(KafkaError._TIMED_OUT),)  # noqa: SLF001
            todo = rights.remedy(cause, self._kafka.app, refused)
            wrong = str(error).removesuffix(f": {todo}")
            yield Problem(
                wrong, todo or "check the settings of these topics, and that each of their partitions has a leader"
            )
        finally:
            publisher.release()

    def _write_tombstone(self, producer: Producer) -> None:
        errors: list[KafkaError | None] = []
        producer.produce(
            self._names.seen, None, _TOMBSTONE_KEY, 0, on_delivery=lambda error, _message: errors.append(error)
        )
        with fatal_errors():
            producer.flush(_ASK_S)
        error = errors[0] if errors else KafkaError(KafkaError._TIMED_OUT)  # noqa: SLF001 - librdkafka's own code
        if error is not None:
            raise KafkaException(error)

    def _send_offset(self, producer: Producer) -> None:
        """Send an offset to the transaction, to check that brokers accept it.

        The offset belongs to a partition that the consumer group does not read.
        """
        consumer = Consumer(self._clients.reader())
        try:
            metadata = consumer.consumer_group_metadata()
            if not send_offset(producer, TopicPartition(self._names.seen, 0, 0), metadata):
                raise KafkaException(KafkaError(KafkaError._TIMED_OUT))  # noqa: SLF001 - librdkafka's own code
        finally:
            consumer.close()

    def _group_problems(self) -> Iterable[Problem]:
        group = self._kafka.app
        client = AdminClient(self._clients.admin())
        future = client.describe_consumer_groups([group], include_authorized_operations=True, request_timeout=_ASK_S)[
            group
        ]
        try:
            allowed = future.result(timeout=_ASK_S).authorized_operations
        except KafkaException as error:
            if error.args[0].code() != KafkaError.GROUP_AUTHORIZATION_FAILED:
                return
            allowed = []
        except TimeoutError:
            return
        if allowed is not None and AclOperation.READ not in allowed:
            command = rights.grant(("Read", "Describe"), f"--group {group}")
            yield Problem(f"the connector's user may not join consumer group {group}", f"allow it: {command}")

    def _forbidden(self, names: Sequence[str]) -> list[Problem]:
        """Return a problem for each existing topic on which the connector's user lacks a right."""
        if not names:
            return []
        client = AdminClient(self._clients.admin())
        futures = client.describe_topics(
            TopicCollection(list(names)), include_authorized_operations=True, request_timeout=_ASK_S
        )
        problems = []
        for name in names:
            try:
                allowed = futures[name].result(timeout=_ASK_S).authorized_operations
            except (KafkaException, TimeoutError):
                continue
            if allowed is None:
                continue
            lacking = [what for what in self._needed(name) if AclOperation[what.upper()] not in allowed]
            if lacking:
                wrong = f"the connector's user lacks permission for {' and '.join(lacking)} on topic {name}"
                problems.append(Problem(wrong, f"allow it: {rights.grant(lacking, f'--topic {name}')}"))
        return problems

    def _needed(self, topic: str) -> tuple[str, ...]:
        if topic == self._names.control:
            return ("Read",)
        return ("Read", "Write") if topic in (self._names.state, self._names.seen) else ("Write",)

    def _read_state(self) -> None:
        """Raise FatalError if the state belongs to another topic or cluster, or was written by a newer version."""
        client = OperatorClient(self._kafka, self._clients)
        client.read(range(self._kafka.shards))


def _too_low(topic: str, limit: int) -> Problem:
    wrong = f"topic {topic} accepts at most {limit} bytes (max.message.bytes), but the connector's records are longer"
    return Problem(wrong, f"raise it with: {raise_command(topic)}")
