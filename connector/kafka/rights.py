"""Remedies for requests that brokers refuse, for example the command that grants a missing right."""

from collections.abc import Sequence

from confluent_kafka import KafkaError

_NO_TRANSACTIONS = (
    "use brokers with transactions (Kafka 2.5 and newer), choose a service tier with transactions, "
    'or set kafka.delivery = "at_least_once"'
)


UNSUPPORTED = frozenset({KafkaError._UNSUPPORTED_FEATURE, KafkaError.UNSUPPORTED_VERSION})  # noqa: SLF001
"Error codes for a request that brokers do not support: one of librdkafka, and one of the brokers."


def grant(operations: Sequence[str], resource: str) -> str:
    """Return the command that grants operations to the connector's user.

    `resource` holds the options of kafka-acls.sh that select the topic or group.
    """
    wanted = " ".join(f"--operation {operation}" for operation in operations)
    return f"kafka-acls.sh --bootstrap-server BROKER --add --allow-principal User:NAME {wanted} {resource}"


def remedy(error: KafkaError, app: str, topics: Sequence[str] = ()) -> str | None:
    """Return the remedy for a request that brokers refused; None if no remedy is known.

    `topics` are the topics that the request names.
    """
    match error.code():
        case KafkaError.TOPIC_AUTHORIZATION_FAILED:
            names = " ".join(f"--topic {name}" for name in topics or ("TOPIC",))
            return f"allow it: {grant(('Read', 'Write'), names)}"
        case KafkaError.GROUP_AUTHORIZATION_FAILED:
            return f"allow it: {grant(('Read', 'Describe'), f'--group {app}')}"
        case KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED:
            ids = f"--transactional-id {app}- --resource-pattern-type prefixed"
            return f"allow all ids of the app: {grant(('Write', 'Describe'), ids)}"
        case KafkaError.CLUSTER_AUTHORIZATION_FAILED:
            return f"allow it: {grant(('IdempotentWrite',), '--cluster')}"
        case KafkaError.INVALID_TIMESTAMP:
            return "correct this machine's clock: brokers accept timestamps up to an hour ahead of their own clocks"
        case code if code in UNSUPPORTED:
            return _NO_TRANSACTIONS
    return None


def explained(error: KafkaError, app: str, *topics: str) -> str:
    """Return an error as text: the topics of the request, the broker's message, and the remedy."""
    about = f"{', '.join(topics)}: " if topics else ""
    todo = remedy(error, app, topics)
    return f"{about}{error.str().rstrip('.')}" + (f": {todo}" if todo else "")
