"""Errors that the connector raises on purpose. Each class stands for a different reaction of the connector.

A message states where the problem is, what is wrong and what to do. It never holds a token, a secret, a phone number or
a row.
"""

from typing import Literal

PermanentReason = Literal["sign_in", "permission", "rejected"]
TransientReason = Literal["throttled", "unreachable"]


class ConnectorError(Exception):
    """Base class of all errors that the connector raises on purpose."""


class ConfigurationError(ConnectorError):
    """Invalid configuration or arguments. The process exits with code 2, before it has changed anything.

    `problems` holds one sentence per problem.
    """

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class FatalError(ConnectorError):
    """Problem that retrying cannot fix, such as wrong topic settings, or state that a newer version has written.

    The process exits with code 1.
    """

    def __init__(self, wrong: str, remedy: str = "") -> None:
        """Build the message `wrong: remedy`. If there is no remedy, `wrong` is the whole message."""
        super().__init__(f"{wrong}: {remedy}" if remedy else wrong)
        self.wrong = wrong
        self.remedy = remedy


class SourceError(ConnectorError):
    """Failure of Graph or of its sign-in. The requested call time is not recorded as read."""

    of_range = False
    "True if the failure concerns only the requested range of call time, so that another range may succeed."

    def __init__(self, message: str, explanation: str = "") -> None:
        """Set `wrong` and `remedy` from `explanation`, which has the form `what is wrong; what to do`.

        By default `explanation` is the message itself.
        """
        super().__init__(message)
        self.wrong, _, self.remedy = (explanation or message).partition("; ")


class TransientError(SourceError):
    """Transient failure, retried forever within the request budget.

    The Graph client retries each request itself. It raises this error only if no request has succeeded for 120 s. The
    time for which Graph told it to wait does not count. The run of the sweep then counts as failed and is scheduled
    again.
    """

    def __init__(self, reason: TransientReason, message: str, explanation: str = "") -> None:
        super().__init__(message, explanation)
        self.reason = reason


class PermanentError(SourceError):
    """Failure that an operator has to repair, as the message states.

    The tenant counts as failing and is retried at long intervals. Other tenants are not affected.
    """

    def __init__(self, reason: PermanentReason, message: str, explanation: str = "") -> None:
        super().__init__(message, explanation)
        self.reason = reason


class RangeTooLongError(SourceError):
    """Failure to read a range of call time that is too long: Graph refused it (406), or its page chain did not end.

    The range must be split.
    """

    of_range = True


class BrokersUnavailableError(ConnectorError):
    """Failure to reach the Kafka brokers: none of them answered in time. The connector retries forever."""

    def __init__(
        self,
        message: str,
        remedy: str = "check kafka.bootstrap_servers, that the brokers run, and that this machine reaches them",
    ) -> None:
        super().__init__(message)
        self.remedy = remedy


class ForbiddenError(BrokersUnavailableError):
    """Failure of an operation that the brokers deny, because the connector lacks a right (ACL).

    The connector retries it. After the right was granted, no restart is needed.
    """


class RegistryUnavailableError(ConnectorError):
    """Failure to reach the schema registry: it gave no answer, status 401, 403 or 5xx, or invalid JSON.

    The connector retries the request.
    """


class ShardRestartError(ConnectorError):
    """Failure after which a shard must restart: a transaction has an unknown outcome, or its producer is unusable.

    The shard discards its state in memory and restores it from its topics.
    """


class FencedError(ShardRestartError):
    """Failure of a producer that was fenced, because another producer has opened the same transactional id.

    Before it opens a new producer, the worker confirms that it still owns the shard.
    """


class UnsupportedError(ShardRestartError):
    """Failure of a transaction, because the brokers lack the transaction API or a part of it.

    The shard restarts at intervals, because the brokers may be upgraded. The worker logs one warning.
    """


class HandedOverError(ConnectorError):
    """Signal that a shard must stop, because its partition is not assigned to this worker any more."""
