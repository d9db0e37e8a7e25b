"""The broker that the tests start is a real one and obeys the tests."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from tests.brokers import Cluster, wait_until
from tests.conftest import SharedBroker


def create(bootstrap: str, topic: str, partitions: int = 1) -> None:
    admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})
    for future in admin.create_topics([NewTopic(topic, partitions)]).values():
        future.result(10)


def publish(producer: Producer, topic: str, value: bytes) -> None:
    failures: list[object] = []
    producer.produce(topic, value, on_delivery=lambda error, _: failures.append(error) if error else None)
    assert producer.flush(20) == 0
    assert not failures


def values(bootstrap: str, topic: str, count: int) -> list[bytes]:
    """Return the first `count` committed values of partition 0; fewer if no more come within 20 s."""
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": "unused",
            "isolation.level": "read_committed",
            "enable.auto.commit": False,
            "log_level": 0,
        }
    )
    found: list[bytes] = []
    try:
        consumer.assign([TopicPartition(topic, 0, 0)])

        def read() -> bool:
            message = consumer.poll(0.1)
            if message is not None and message.error() is None:
                found.append(message.value() or b"")
            return len(found) >= count

        wait_until(read, f"{count} records", 20)
    finally:
        consumer.close()
    return found


def producer_to(bootstrap: str, **properties: str | int) -> Producer:
    return Producer({"bootstrap.servers": bootstrap, "log_level": 0, "acks": "all"} | properties)


def test_read_committed_hides_aborted_records_on_the_test_broker(broker: SharedBroker, topic: str, app: str) -> None:
    create(broker.bootstrap, topic)
    producer = producer_to(broker.bootstrap, **{"transactional.id": app})
    producer.init_transactions(20)
    producer.begin_transaction()
    publish(producer, topic, b"aborted")
    producer.abort_transaction(20)
    producer.begin_transaction()
    publish(producer, topic, b"committed")
    producer.commit_transaction(20)
    assert values(broker.bootstrap, topic, 1) == [b"committed"]


def test_killed_broker_restarts_with_its_data(broker_of_its_own: Cluster, topic: str) -> None:
    address = broker_of_its_own.bootstrap
    create(address, topic)
    publish(producer_to(address), topic, b"before")
    broker_of_its_own.kill()
    assert not broker_of_its_own.brokers[0].running
    broker_of_its_own.start()
    assert broker_of_its_own.bootstrap == address
    publish(producer_to(address), topic, b"after")
    assert values(address, topic, 2) == [b"before", b"after"]


def test_suspended_broker_does_not_answer(broker_of_its_own: Cluster) -> None:
    admin = AdminClient({"bootstrap.servers": broker_of_its_own.bootstrap, "log_level": 0})
    broker_of_its_own.suspend()
    try:
        admin.list_topics(timeout=0.5)
    except KafkaException:
        pass
    else:
        raise AssertionError("a suspended broker answered")
    broker_of_its_own.resume()
    assert admin.list_topics(timeout=10).brokers


def test_cluster_of_three_brokers_survives_the_loss_of_one(three_brokers: Cluster, topic: str) -> None:
    create(three_brokers.bootstrap, topic)
    three_brokers.brokers[0].kill()
    producer = producer_to(three_brokers.bootstrap)
    publish(producer, topic, b"with two")
    three_brokers.brokers[0].start()
    publish(producer, topic, b"with three")
    assert values(three_brokers.bootstrap, topic, 2) == [b"with two", b"with three"]


@pytest.mark.java
def test_broker_ends_with_its_parent_process(tmp_path: Path) -> None:
    program = (
        "import sys, signal\n"
        "from tests.brokers import Cluster\n"
        "cluster = Cluster()\n"
        "cluster.brokers[0].launch()\n"
        "print(cluster.brokers[0].pid, flush=True)\n"
        "signal.pause()\n"
    )
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, env=environment) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert alive(pid)
        parent.kill()
    wait_until(lambda: not alive(pid), "the broker to end with its parent", 10)


def alive(pid: int) -> bool:
    """Return whether a process runs; a zombie does not."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except OSError:
        return False


def test_broker_command_refuses_a_port_that_is_in_use(broker: SharedBroker) -> None:
    port = broker.bootstrap.rpartition(":")[2]
    command = [sys.executable, "-m", "tests.brokers", "--port", port]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (1, "")
    assert f"port {port} is in use" in done.stderr
