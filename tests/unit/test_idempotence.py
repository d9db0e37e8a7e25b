"""Producers without transactions: idempotent where possible, otherwise with one request in flight."""

import logging
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException
from structlog.testing import capture_logs

from connector import log
from connector.kafka.clients import Clients
from connector.kafka.fatal_errors import fatal_errors

UNSUPPORTED = KafkaError._UNSUPPORTED_FEATURE
FATAL = KafkaError._FATAL
IN_FLIGHT = ("max.in.flight", "max.in.flight.requests.per.connection")


class Failed:
    """Producer that has failed. The first call of `poll` reports the reason."""

    def __init__(self, reason: int | None = None) -> None:
        self._reason = reason

    def poll(self, _timeout_s: float) -> None:
        if self._reason is not None:
            raise KafkaException(KafkaError(self._reason))


def new_clients(**properties: str) -> Clients:
    return Clients("broker:9092", {name.replace("_", "."): value for name, value in properties.items()})


def give_up(clients: Clients, code: int, reason: int | None = None) -> bool:
    producer: Any = Failed(reason)
    return clients.idempotence.give_up(producer, KafkaException(KafkaError(code)))


def test_producer_is_idempotent_by_default() -> None:
    settings = new_clients(max_in_flight="5").producer(None)
    assert (settings["enable.idempotence"], settings["max.in.flight"]) == (True, "5")


@pytest.mark.parametrize("name", IN_FLIGHT)
def test_producer_without_idempotence_has_one_request_in_flight(name: str) -> None:
    clients = new_clients(**{name: "5", "enable.gapless.guarantee": "true"})
    assert give_up(clients, UNSUPPORTED)
    settings = clients.producer(None)
    assert [settings[name] for name in IN_FLIGHT if name in settings] == [1]
    assert (settings["enable.idempotence"], settings["acks"]) == (False, "all")
    assert "enable.gapless.guarantee" not in settings
    assert clients.producer("app-0")["enable.idempotence"]
    clients.check()


def test_missing_idempotence_causes_one_warning() -> None:
    clients = new_clients()
    with capture_logs() as logged:
        assert give_up(clients, UNSUPPORTED)
        assert give_up(clients, KafkaError.UNSUPPORTED_VERSION)
    (warning,) = logged
    assert (warning["event"], warning["log_level"]) == ("idempotence_unsupported", "warning")
    assert "can be written twice" in warning["effect"]


def test_fatal_error_from_missing_idempotence_turns_idempotence_off() -> None:
    assert give_up(new_clients(), FATAL, UNSUPPORTED)


@pytest.mark.parametrize("reason", [None, KafkaError.CLUSTER_AUTHORIZATION_FAILED])
def test_unrelated_fatal_error_keeps_producers_idempotent(reason: int | None) -> None:
    clients = new_clients()
    assert not give_up(clients, FATAL, reason)
    assert clients.producer(None)["enable.idempotence"]


def test_commands_are_written_without_an_idempotent_producer() -> None:
    settings = new_clients().commander()
    assert (settings["enable.idempotence"], settings["acks"]) == (False, "all")


def test_kafka_error_object_is_raised_as_a_kafka_exception() -> None:
    """confluent-kafka 2.16 raises a KafkaError, which no `except` clause catches. Python code cannot raise it."""
    error: Any = KafkaError(UNSUPPORTED)
    with pytest.raises(KafkaException) as raised:
        fatal_errors().__exit__(None, error, None)
    assert raised.value.args[0] is error
    assert raised.value.__context__ is None


def test_librdkafka_text_about_missing_transactions_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    logger = log.kafka_logger()
    with caplog.at_level(logging.WARNING, logger.name):
        logger.critical("Fatal error: Transactions not supported by any of the 3 connected broker(s)")
        logger.warning("a broker is down")
    assert caplog.messages == ["a broker is down"]
