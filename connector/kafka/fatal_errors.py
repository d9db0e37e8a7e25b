"""Fatal errors of librdkafka, which confluent-kafka does not always raise as exceptions."""

from contextlib import AbstractContextManager
from types import TracebackType
from typing import Literal

from confluent_kafka import KafkaError, KafkaException

from connector.errors import ConnectorError


class _FatalErrors(AbstractContextManager[None]):
    """Context manager that `fatal_errors` returns.

    It must be a class: with a generator, an `except` clause would be needed. But confluent-kafka 2.16 raises a
    KafkaError, which is not an exception, so no `except` clause catches it.
    """

    def __exit__(
        self, kind: type[BaseException] | None, error: object, trace: TracebackType | None, /
    ) -> Literal[False]:
        if error is None or isinstance(error, KafkaException | BufferError | ConnectorError):
            return False
        if isinstance(error, KafkaError):
            fatal = KafkaException(error)
            try:
                raise fatal
            finally:
                fatal.__context__ = None  # it is the KafkaError, which has no traceback
        if not isinstance(error, Exception):
            return False
        if isinstance(error.__cause__, KafkaException):
            raise error.__cause__ from None  # its cause must not lead back to itself
        reason = f"the producer has failed, and its log states the reason ({type(error).__name__}: {error})"
        raise KafkaException(KafkaError(KafkaError._FATAL, reason)) from error  # noqa: SLF001


def fatal_errors() -> AbstractContextManager[None]:
    """Convert every error of confluent-kafka to KafkaException, so that no failure is mistaken for success.

    If a fatal error occurs during a callback, confluent-kafka raises something else:

    1. SystemError. Its cause is the fatal error.
    2. AttributeError, because the lookup of the logger's method fails although the method exists. The fatal error is
       lost.
    3. KafkaError, which is not an exception. It would end the thread, and the call would seem never to return.
    """
    return _FatalErrors()
