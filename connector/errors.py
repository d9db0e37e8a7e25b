"""Errors that the connector raises on purpose, grouped by the reaction to them.

A message states what failed, what is wrong and what to do. It never contains a token, a secret, a phone number or a
row.
"""

from typing import Literal

PermanentReason = Literal["sign_in", "permission", "rejected"]
TransientReason = Literal["throttled", "unreachable"]


class ConnectorError(Exception):
    """Base class of all errors that the connector raises on purpose."""


class ConfigurationError(ConnectorError):
    """Invalid configuration or arguments. The process exits with code 2 without having done anything.

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
        """Build the message `wrong: remedy`. Without a remedy, `wrong` must be a whole sentence."""
        super().__init__(f"{wrong}: {remedy}" if remedy else wrong)
        self.wrong = wrong
        self.remedy = remedy


class SourceError(ConnectorError):
    """Failure of Graph or of sign-in to it. It never moves a checkpoint."""

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

    The Graph client retries a request on its own. It raises this error only when no request succeeded for 120 s, not
    counting the time that Graph asked it to wait. The run of the sweep then counts as failed and is scheduled again.
    """

    def __init__(self, reason: TransientReason, message: str, explanation: str = "") -> None:
        super().__init__(message, explanation)
        self.reason = reason


class PermanentError(SourceError):
    """Failure of Graph or of sign-in to it that needs operator action.

    The tenant fails and is retried at long intervals. Other tenants are not affected. The message states what the
    operator has to repair.
    """

    def __init__(self, reason: PermanentReason, message: str, explanation: str = "") -> None:
        super().__init__(message, explanation)
        self.reason = reason


class RangeTooLongError(SourceError):
    """Range of call time that is too long: Graph refused it (406), or its page chain has too many pages.

    The range must be split.
    """

    of_range = True


class BrokersUnavailableError(ConnectorError):
    """Failure to reach the Kafka brokers: none answered, or none in time. The connector retries forever."""

    def __init__(
        self,
        message: str,
        remedy: str = "check kafka.bootstrap_servers, that the brokers run, and that this machine reaches them",
    ) -> None:
        super().__init__(message)
        self.remedy = remedy


class ForbiddenError(BrokersUnavailableError):
    """Operation that the brokers deny because the connector lacks a right.

    The connector retries it. After the right was granted, no restart is needed.
    """


class RegistryUnavailableError(ConnectorError):
    """Schema registry that is not available: no answer, status 401, 403 or 5xx, or an answer that is not JSON.

    The connector retries.
    """


class ShardRestartError(ConnectorError):
    """Restart of a shard, because the outcome of a transaction is unknown or its producer cannot be used any more.

    The shard discards its state in memory and starts again from its topics.
    """


class FencedError(ShardRestartError):
    """Producer that was fenced, because another producer opened the same transactional id.

    The worker confirms that it still owns the shard before it opens a new producer.
    """


class HandedOverError(ConnectorError):
    """Hand-over of the shard: its partition is no longer assigned to this worker, so the worker stops the shard."""
