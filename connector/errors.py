"""Every error that the connector raises on purpose, grouped by what happens next.

A message says what was being done, to what, and what to do; never a token, a secret, a phone number or a row.
"""

from typing import Literal

PermanentReason = Literal["sign_in", "permission", "rejected"]
TransientReason = Literal["throttled", "unreachable"]


class ConnectorError(Exception):
    """Root of the tree: anything that the connector itself decided to raise."""


class ConfigurationError(ConnectorError):
    """Configuration or arguments are wrong and nothing was done: exit 2. `problems`: one sentence each."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class FatalError(ConnectorError):
    """What waiting cannot mend (a topic's settings, state of a newer version or of another topic): exit 1."""

    def __init__(self, wrong: str, remedy: str = "") -> None:
        """`wrong`: a whole sentence where there is no `remedy`."""
        super().__init__(f"{wrong}: {remedy}" if remedy else wrong)
        self.wrong = wrong
        self.remedy = remedy


class SourceError(ConnectorError):
    """Graph or its sign-in did not give what was asked for. Never moves a checkpoint."""

    of_range = False
    "Whether another range of call time may succeed."

    def __init__(self, message: str, told: str = "") -> None:
        """`told`: what is wrong, and after a semicolon what to do (the message itself)."""
        super().__init__(message)
        self.wrong, _, self.remedy = (told or message).partition("; ")


class TransientError(SourceError):
    """It passes by itself: asked again later, within the budget, for ever.

    The client retries on its own; it raises this only when nothing succeeded for its patience (120 s, time that
    Graph asked to wait not counted), so that the sweep is counted as failed and planned anew.
    """

    def __init__(self, reason: TransientReason, message: str, told: str = "") -> None:
        super().__init__(message, told)
        self.reason = reason


class PermanentError(SourceError):
    """The tenant fails, the others go on; tried again slowly. The message says what the owner has to repair."""

    def __init__(self, reason: PermanentReason, message: str, told: str = "") -> None:
        super().__init__(message, told)
        self.reason = reason


class RangeTooLongError(SourceError):
    """Graph refused the length of a range (406), or a chain has no end: the range is to be split."""

    of_range = True


class BrokersUnavailableError(ConnectorError):
    """No broker answered, or not in time: asked again, for ever."""

    def __init__(
        self,
        message: str,
        remedy: str = "check kafka.bootstrap_servers, that the brokers run, and that this machine reaches them",
    ) -> None:
        super().__init__(message)
        self.remedy = remedy


class ForbiddenError(BrokersUnavailableError):
    """Brokers answer, and refuse a right: asked again too, since who grants it does not restart anything."""


class RegistryUnavailableError(ConnectorError):
    """The schema registry did not answer, or not with what it is asked for (401, 403, 5xx, no JSON): asked again."""


class ShardRestartError(ConnectorError):
    """The outcome of a transaction is unknown, or its producer is unusable: the shard starts again as if new."""


class FencedError(ShardRestartError):
    """Somebody else has the transactional id: ownership is confirmed before a new producer is made."""


class HandedOverError(ConnectorError):
    """The partition is not assigned any more: the shard stops."""
