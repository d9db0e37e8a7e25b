"""Settings of librdkafka for each kind of client.

They contain `kafka.properties`. Settings that the exactly-once guarantee needs take precedence.
"""

import ssl
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from connector import log
from connector.errors import ConfigurationError
from connector.kafka.idempotence import Idempotence
from connector.kafka.limits import Limits

Properties = dict[str, Any]

# Settings of librdkafka (CONFIGURATION.md, columns C and P). A setting in neither list is given to every client.
_CONSUMER_ONLY = frozenset(
    {
        "auto.commit.enable",
        "auto.commit.interval.ms",
        "check.crcs",
        "coordinator.query.interval.ms",
        "enable.auto.offset.store",
        "enable.partition.eof",
        "fetch.error.backoff.ms",
        "fetch.max.bytes",
        "fetch.message.max.bytes",
        "fetch.min.bytes",
        "fetch.queue.backoff.ms",
        "fetch.wait.max.ms",
        "group.instance.id",
        "group.protocol",
        "group.protocol.type",
        "group.remote.assignor",
        "heartbeat.interval.ms",
        "max.partition.fetch.bytes",
        "max.poll.interval.ms",
        "partition.assignment.strategy",
        "queued.max.messages.kbytes",
        "queued.min.messages",
        "session.timeout.ms",
    }
)
_PRODUCER_ONLY = frozenset(
    {
        "batch.num.messages",
        "batch.size",
        "compression.codec",
        "compression.level",
        "compression.type",
        "delivery.report.only.error",
        "delivery.timeout.ms",
        "enable.gapless.guarantee",
        "linger.ms",
        "message.send.max.retries",
        "message.timeout.ms",
        "partitioner",
        "queue.buffering.backpressure.threshold",
        "queue.buffering.max.kbytes",
        "queue.buffering.max.messages",
        "queue.buffering.max.ms",
        "queuing.strategy",
        "request.timeout.ms",
        "retries",
        "retry.backoff.max.ms",
        "retry.backoff.ms",
        "sticky.partitioning.linger.ms",
        "transaction.timeout.ms",
    }
)
_SYSTEM_BUNDLES = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem")
_ABORTED_WITHIN_S = 10.0
_CLASSIC_GROUP = ("session.timeout.ms", "heartbeat.interval.ms", "partition.assignment.strategy")


def resolve(properties: Mapping[str, Any]) -> Properties:
    """Return kafka.properties with the secrets in plain text.

    The result is for clients only and must never be logged.
    """
    return {name: value.get() if hasattr(value, "get") else value for name, value in properties.items()}


class Clients:
    """Builder of the librdkafka settings for each kind of Kafka client: producers, consumers and the admin client."""

    def __init__(
        self,
        bootstrap_servers: str,
        owner: Mapping[str, Any],
        app: str = "direct-routing",
        bearer: Callable[[str | None], tuple[str, float]] | None = None,
    ) -> None:
        """Store the settings that all clients share.

        `owner` is kafka.properties with the secrets in plain text. `bearer` is needed only for brokers that accept
        OAUTHBEARER: it returns a token and the time at which the token expires. Since confluent-kafka 2.13, each client
        calls it in a thread of its own and waits for the first token.
        """
        self.app = app
        self._owner = dict(owner)
        self.limits = Limits(owner)
        "Length limits of the topics. All producers with these settings share them."
        self.idempotence = Idempotence()
        "Choice that all producers without transactions share: whether they are idempotent."
        self._common: Properties = {
            "bootstrap.servers": bootstrap_servers,
            "client.id": "direct-routing-connector",
            "logger": log.kafka_logger(),
            "reconnect.backoff.max.ms": 2_000,
            "allow.auto.create.topics": False,
        }
        if str(self._owner.get("sasl.oauthbearer.method")).lower() == "oidc" and "https.ca.pem" not in self._owner:
            self._common |= _system_bundle()
        if bearer is not None:
            self._common |= {"security.protocol": "SASL_SSL", "sasl.mechanisms": "OAUTHBEARER", "oauth_cb": bearer}

    @cached_property
    def asking(self) -> AdminClient:
        """Return the admin client that all shards of the process share for their queries about offsets and topics."""
        return AdminClient(self.admin())

    @property
    def decided_within_s(self) -> float:
        """Return the number of seconds after which brokers have aborted the transaction of a producer that has stopped.

        It is the transaction's time-out plus 10 s, because brokers look for such transactions every 10 s.
        """
        return int(self.producer("")["transaction.timeout.ms"]) / 1000 + _ABORTED_WITHIN_S

    def admin(self) -> Properties:
        """Return the settings of a client that administers topics."""
        shared = {k: v for k, v in self._owner.items() if k not in _CONSUMER_ONLY | _PRODUCER_ONLY}
        return {k: v for k, v in (self._common | shared).items() if k != "allow.auto.create.topics"}

    def producer(self, transactional_id: str | None) -> Properties:
        """Return the settings of a shard's producer. If `transactional_id` is None, the producer uses no transactions.

        Delivery of a record fails if it takes longer than 10 s. The retry back-off is shorter than the default. With
        the default, each transaction with offsets takes 100 ms longer (measured on Kafka 4.3).
        """
        own = {k: v for k, v in self._common.items() if k != "allow.auto.create.topics"}
        own |= {
            "partitioner": "murmur2_random",
            "linger.ms": 5,
            "retry.backoff.ms": 5,
            "transaction.timeout.ms": 10_000,
            "socket.timeout.ms": 6_000,
            "compression.type": "lz4",
        }
        if transactional_id is None:
            own["message.timeout.ms"] = own.pop("transaction.timeout.ms")
        own |= {k: v for k, v in self._owner.items() if k not in _CONSUMER_ONLY}
        own |= {"acks": "all"} | self.limits.producer()
        if transactional_id is not None:
            return own | {"enable.idempotence": True, "transactional.id": transactional_id}
        return self.idempotence.applied({k: v for k, v in own.items() if k != "transaction.timeout.ms"})

    def commander(self) -> Properties:
        """Return the settings of the producer that writes operators' commands.

        It uses no transaction, and is not idempotent: each command has an id and takes effect once, even if a retry
        writes it twice. All in-sync replicas acknowledge it.
        """
        own = {k: v for k, v in self._common.items() if k != "allow.auto.create.topics"}
        own |= {"message.timeout.ms": 15_000, "retry.backoff.ms": 50}
        unused = _CONSUMER_ONLY | {"transaction.timeout.ms", "enable.gapless.guarantee"}
        own |= {k: v for k, v in self._owner.items() if k not in unused}
        return own | {"enable.idempotence": False, "acks": "all"}

    def member(self, group: str) -> Properties:
        """Return the settings of the consumer that joins the group and reads the control topic.

        The worker owns the shards whose control partitions are assigned to this consumer.
        """
        own = self._common | {
            "session.timeout.ms": 6_000,
            "heartbeat.interval.ms": 500,
            "partition.assignment.strategy": "cooperative-sticky",
            "fetch.wait.max.ms": 100,
            "socket.timeout.ms": 6_000,
        }
        own |= {k: v for k, v in self._owner.items() if k not in _PRODUCER_ONLY}
        if str(own.get("group.protocol", "classic")).lower() == "consumer":
            own = {k: v for k, v in own.items() if k not in _CLASSIC_GROUP}
        return own | {"group.id": group, "enable.auto.commit": False, "auto.offset.reset": "earliest"}

    def reader(self, isolation: str = "read_committed") -> Properties:
        """Return the settings of a consumer that joins no group.

        It reads partitions up to the last stable offset or, with the isolation level `read_uncommitted`, up to their
        end.
        """
        own = self._common | {"fetch.wait.max.ms": 20, "queued.min.messages": 100_000}
        own |= {k: v for k, v in self._owner.items() if k not in _PRODUCER_ONLY | {"group.protocol", *_CLASSIC_GROUP}}
        return own | {
            # librdkafka looks up the coordinator of this group, so the connector's user needs the right to describe it.
            # The reader neither joins the group nor commits.
            "group.id": self.app,
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            "isolation.level": isolation,
            "enable.partition.eof": True,
        }

    def check(self) -> None:
        """Raise ConfigurationError if librdkafka refuses a setting. Nothing is sent to a broker."""
        try:
            AdminClient(_tokenless(self.admin()))
            from confluent_kafka import Consumer, Producer  # noqa: PLC0415 - only to check the settings

            Producer(_tokenless(self.producer("check")))
            Producer(_tokenless(self.producer(None)))
            Consumer(_tokenless(self.member("check"))).close()
        except KafkaException as error:
            raise ConfigurationError(
                [f"kafka.properties: librdkafka refuses a property ({error.args[0].str()}); correct or remove it"]
            ) from error


def _system_bundle() -> Properties:
    """Return the setting for the CA bundle of the operating system; empty if no bundle is found.

    Without the setting, librdkafka finds a bundle only on Red Hat's systems: its wheels contain a curl that looks
    nowhere else.
    """
    paths = (ssl.get_default_verify_paths().cafile, *_SYSTEM_BUNDLES)
    return next(({"https.ca.location": path} for path in paths if path and Path(path).is_file()), {})


def _tokenless(properties: Properties) -> Properties:
    """Return the settings without the token callback.

    A client that has the callback waits for a token when it is created.
    """
    return {name: value for name, value in properties.items() if name != "oauth_cb"}
