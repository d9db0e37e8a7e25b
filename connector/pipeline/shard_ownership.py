"""Ownership of one shard: its hand-over, and the snapshot of the consumer group that each transaction needs."""

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
    """Ownership of one shard as its worker knows it. Used in the event loop only."""

    def __init__(self, membership: Membership, number: int, control_topic: str) -> None:
        self._membership = membership
        self._number = number
        self._control_topic = control_topic
        self.handing_over = asyncio.Event()
        "Set once the shard must be released."

    @property
    def is_owned(self) -> bool:
        """Return whether the newest snapshot of the group holds the shard."""
        return self._number in self._membership.snapshot.partitions

    def open_commands(self, offset: int) -> None:
        """Deliver the commands of the shard, starting at `offset`."""
        self._membership.open(self._number, offset)

    def shut_commands(self) -> None:
        """Deliver no more commands until they are opened again."""
        self._membership.shut(self._number)

    async def commit_context(self, control_offset: int) -> CommitContext:
        """Return the control offset with the group metadata of a poll in which this worker owned the shard.

        Raise HandedOverError if the shard is not owned any more, and ShardRestartError if the group does not answer
        within ten seconds.
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
                raise ShardRestartError("the consumer group does not answer")
            await self.wait(_PAUSE_S)

    async def confirm(self) -> None:
        """Wait for a poll that began after this call. Raise HandedOverError if the shard is not owned any more."""
        # Two more polls: the first of them may have started before this call and report an older assignment.
        polls = self._membership.snapshot.polls
        while self._membership.snapshot.polls <= polls + 1 and not self.handing_over.is_set():
            await self.wait(_CONFIRM_PAUSE_S)
        if not self.is_owned:
            raise HandedOverError

    async def wait(self, seconds: float) -> None:
        """Wait for a time, or until the shard must be released."""
        try:
            async with asyncio.timeout(seconds):
                await self.handing_over.wait()
        except TimeoutError:
            pass

    async def wait_for(self, event: asyncio.Event, seconds: float) -> None:
        """Wait for a time, until `event` is set, or until the shard must be released."""
        waits = {asyncio.create_task(event.wait()), asyncio.create_task(self.handing_over.wait())}
        try:
            await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
