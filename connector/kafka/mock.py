"""Mock cluster of librdkafka: a broker inside this process, which only the demo uses.

Unlike real brokers, it shows aborted rows to readers, does not fence producers, and does not answer administration
requests. It needs about 5 MB of memory per partition.
"""

from typing import Final

from confluent_kafka import Producer

PARTITIONS: Final = 4
"Number of partitions of every topic. The mock cluster supports no other number."
_TIMEOUT_S = 5.0


class MockCluster:
    """One broker on a free port of the loopback interface. It runs until this object is deleted."""

    def __init__(self) -> None:
        self._owner = Producer({"bootstrap.servers": "mock:1", "test.mock.num.brokers": 1, "log_level": 0})
        brokers = self._owner.list_topics(timeout=_TIMEOUT_S).brokers.values()
        self.bootstrap_servers = ",".join(f"{broker.host}:{broker.port}" for broker in brokers)
        "Address of the broker for Kafka clients in this process and in others."
