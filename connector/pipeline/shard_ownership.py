"""Ownership of one shard: whether this worker owns the shard, and the group metadata that proves the ownership."""

import asyncio
import time
from functools import partial

from connector.errors import HandedOverError, ShardRestartError
from connector.kafka.membership import Membership
from connector.kafka.publishing import CommitContext

_SNAPSHOT_WAIT_S = 10.0
_PAUSE_S = 0.02
_CONFIRM_PAUSE_S = 0.05


class ShardOwnership:
    """Ownership of one shard, as the last poll of the consumer group reported it. Only the event loop uses it."""

    def __init__(self, membership: Membership, number: int, control_topic: str) -> None:
        self._membership = membership
        self._number = number
        self._control_topic = control_topic
        self.handing_over = asyncio.Event()
        "Set when the worker must release the shard."

    @property
    def is_owned(self) -> bool:
        """Return whether this worker owned the shard at the last poll of the consumer group."""
        return self._number in self._membership.snapshot.partitions

    def open_commands(self, offset: int) -> None:
        """Start the delivery of the operators' commands for the shard, beginning at `offset` of the control topic."""
        self._membership.open(self._number, offset)

    def shut_commands(self) -> None:
        """Stop the delivery of the operators' commands for the shard."""
        self._membership.shut(self._number)

    async def commit_context(self, control_offset: int) -> CommitContext:
        """Return the data with which a transaction commits `control_offset` to the consumer group.

        The data proves the ownership: it contains the group metadata of a poll at which this worker owned the shard.
        Raises HandedOverError if the worker does not own the shard any more. Raises ShardRestartError if the group
        sends no metadata within ten seconds.
        """
        deadline = time.monotonic() + _SNAPSHOT_WAIT_S
        holds = partial(self._membership.holds, self._number)
        while True:
            snapshot = self._membership.snapshot
            if self._number not in snapshot.partitions:
                raise HandedOverError
            if snapshot.metadata is not None:
                return CommitContext(self._control_topic, self._number, control_offset, snapshot.metadata, holds)
            if time.monotonic() > deadline:
                raise ShardRestartError(
                    "the consumer group has returned no metadata within 10 s: check that the brokers answer"
                )
            await self.wait(_PAUSE_S)

    async def confirm(self) -> None:
        """Wait until a poll that starts after this call confirms that the worker still owns the shard.

        Raises HandedOverError if the worker has lost the shard.
        """
        # Two more polls: the first of them may have started earlier and report an older assignment.
        polls = self._membership.snapshot.polls
        while self._membership.snapshot.polls <= polls + 1 and not self.handing_over.is_set():
            await self.wait(_CONFIRM_PAUSE_S)
        if not self.is_owned:
            raise HandedOverError

    async def wait(self, seconds: float) -> None:
        """Wait for `seconds`. Stop waiting as soon as the shard must be released."""
        try:
            async with asyncio.timeout(seconds):
                await self.handing_over.wait()
        except TimeoutError:
            pass

    async def wait_for(self, event: asyncio.Event, seconds: float) -> None:
        """Wait until `event` is set, for at most `seconds`. Stop waiting as soon as the shard must be released."""
        waits = {asyncio.create_task(event.wait()), asyncio.create_task(self.handing_over.wait())}
        try:
            await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
