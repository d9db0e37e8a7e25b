"""Choice whether producers without transactions are idempotent. Not all brokers support idempotent producers."""

import threading
from collections.abc import Mapping
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Producer

from connector import log
from connector.kafka.fatal_errors import fatal_errors
from connector.kafka.rights import UNSUPPORTED

_logger = log.get(__name__)
_REPLACED = ("max.in.flight", "max.in.flight.requests.per.connection", "enable.gapless.guarantee")
"Settings that conflict with those of a producer without idempotence. The first two are names of one setting."
_IN_ORDER = {"enable.idempotence": False, "max.in.flight": 1}
"Settings of a producer without idempotence. With one request in flight, a retry does not change the order of records."


class Idempotence:
    """Choice for all producers without transactions: they are idempotent, unless the brokers do not support this."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._is_used = True

    @property
    def is_used(self) -> bool:
        """Return whether producers without transactions are idempotent."""
        return self._is_used

    def applied(self, properties: Mapping[str, Any]) -> dict[str, Any]:
        """Return the settings of a producer: `properties`, and the settings that turn idempotence on or off."""
        if self._is_used:
            return {**properties, "enable.idempotence": True}
        return {name: value for name, value in properties.items() if name not in _REPLACED} | _IN_ORDER

    def give_up(self, producer: Producer, error: KafkaException) -> bool:
        """Turn idempotence off if `producer` has failed because the brokers lack it. Return whether they lack it.

        The first time, a warning is logged. From then on, `applied` returns settings without idempotence.
        """
        if _cause(producer, error).code() not in UNSUPPORTED:
            return False
        with self._lock:
            if self._is_used:
                _logger.warning(
                    "idempotence_unsupported",
                    reason="the brokers have no idempotent producers (they lack InitProducerId)",
                    effect="if a request must be repeated, its records can be written twice; their order is kept",
                    remedy="none is needed; to avoid duplicates, use other brokers and restart the worker",
                )
            self._is_used = False
        return True


def _cause(producer: Producer, error: KafkaException) -> KafkaError:
    """Return the error that really made a producer fail.

    `error` may only state that the producer has failed. Then another call of librdkafka reports the cause.
    """
    cause: KafkaError = error.args[0]
    if cause.code() == KafkaError._FATAL:  # noqa: SLF001 - librdkafka's own code
        try:
            with fatal_errors():
                producer.poll(0)
        except KafkaException as second:
            return second.args[0]  # type: ignore[no-any-return]
    return cause
