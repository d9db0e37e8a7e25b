"""Errors that the connector raises on purpose, grouped by what happens next.

A message states what was being done, what is wrong and what to do. It never holds a token, a secret, a phone number or
a row.
"""

from typing import Literal

PermanentReason = Literal["sign_in", "permission", "rejected"]
TransientReason = Literal["throttled", "unreachable"]


class ConnectorError(Exception):
    """Base class of all errors that the connector raises on purpose."""


class ConfigurationError(ConnectorError):
    """Invalid configuration or arguments. Nothing was done; the process exits with 2. `problems`: one sentence each."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class FatalError(ConnectorError):
    """Problem that retrying cannot fix (topic settings, state of a newer version or of another topic): exit 1."""

    def __init__(self, wrong: str, remedy: str = "") -> None:
        """`wrong` must be a whole sentence if there is no `remedy`."""
        super().__init__(f"{wrong}: {remedy}" if remedy else wrong)
        self.wrong = wrong
        self.remedy = remedy


class SourceError(ConnectorError):
    """Failure of Graph or of its sign-in. It never moves a checkpoint."""

    of_range = False
    "True if another range of call time may succeed."

    def __init__(self, message: str, told: str = "") -> None:
        """`told`: what is wrong and, after a semicolon, what to do. By default it is the message itself."""
        super().__init__(message)
        self.wrong, _, self.remedy = (told or message).partition("; ")


class TransientError(SourceError):
    """Transient failure, retried forever within the request budget.

    The client retries on its own. It raises this error only when no request succeeded for 120 s, not counting the time
    that Graph asked it to wait. The sweep then counts as failed and is planned again.
    """

    def __init__(self, reason: TransientReason, message: str, told: str = "") -> None:
        super().__init__(message, told)
        self.reason = reason


class PermanentError(SourceError):
    """Failure that needs operator action. The tenant fails and is retried slowly; other tenants are not affected.

    The message states what has to be repaired.
    """

    def __init__(self, reason: PermanentReason, message: str, told: str = "") -> None:
        super().__init__(message, told)
        self.reason = reason


class RangeTooLongError(SourceError):
    """Refusal of a range because of its length (406), or a page chain without end: the range must be split."""

    of_range = True


class BrokersUnavailableError(ConnectorError):
    """Failure to reach the brokers: none answered, or not in time. Retried forever."""

    def __init__(
        self,
        message: str,
        remedy: str = "check kafka.bootstrap_servers, that the brokers run, and that this machine reaches them",
    ) -> None:
        super().__init__(message)
        self.remedy = remedy


class ForbiddenError(BrokersUnavailableError):
    """Refusal of a right by brokers that answer. Retried as well: granting the right must not require a restart."""


class RegistryUnavailableError(ConnectorError):
    """Failure of the schema registry to answer as expected (no answer, 401, 403, 5xx, invalid JSON). Retried."""


class ShardRestartError(ConnectorError):
    """Unknown outcome of a transaction, or an unusable producer: the shard starts again as if it were new."""


class FencedError(ShardRestartError):
    """Takeover of the transactional id by another producer. Ownership is confirmed before a new producer is opened."""


class HandedOverError(ConnectorError):
    """Loss of the partition, which is not assigned to this worker any more: the shard stops."""
