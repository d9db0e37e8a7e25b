"""Shards that a worker owns.

A shard starts when the consumer group assigns its control partition to the worker, and stops when the group takes the
partition away.
"""

import asyncio
import threading
import time

from connector import log
from connector.kafka.membership import ControlRecord
from connector.kafka.publishing import LONGEST_CALL_S
from connector.metrics.worker import Metrics
from connector.pipeline.shard import Shard
from connector.pipeline.worker_context import WorkerContext
from connector.worker.last_known import LastKnown
from connector.worker.shutdown import Shutdown

_logger = log.get(__name__)
_HAND_OVER_S = 4.0
_TOUCH_EVERY_S = 5.0
_LOOK_EVERY_S = 0.5


class OwnedShards:
    """Shards of one worker.

    `assigned`, `revoked`, `lost` and `commanded` are the callbacks of the consumer group membership.
    """

    def __init__(self, metrics: Metrics, shutdown: Shutdown, last_known: LastKnown) -> None:
        self.running: dict[int, Shard] = {}
        "Shards that this worker owns and is not handing over."
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self.last_known = last_known
        "State of the tenants of lost shards, until the consumer group assigns shards again."
        self._forgetting: asyncio.Task[None] | None = None
        self._metrics = metrics
        self._shutdown = shutdown
        self.worker: WorkerContext | None = None
        "Context in which shards run. It is None before the worker's topics are ready."
        self._loop: asyncio.AbstractEventLoop | None = None

    def begin(self, worker: WorkerContext) -> None:
        """Store the context in which the shards run. Shards can start only after this call."""
        self.worker = worker
        self._loop = asyncio.get_running_loop()

    @property
    def unfinished(self) -> list[asyncio.Task[None]]:
        """Return the tasks of shards that are still running."""
        return [task for task in self._tasks.values() if not task.done()]

    # The next four methods run in the membership's thread. They only pass the call on to the event loop.

    def assigned(self, shards: frozenset[int]) -> None:
        """Start the shards that were assigned to this worker."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._start, shards)

    def revoked(self, shards: frozenset[int]) -> threading.Event:
        """Hand over shards whose partitions are revoked. The returned event is set once all of them have stopped."""
        stopped = threading.Event()
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._release, shards, stopped)
        return stopped

    def lost(self, shards: frozenset[int]) -> None:
        """Stop shards whose partitions were lost. Another worker may own them already."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._stop_lost, shards)

    def commanded(self, shard: int, command: ControlRecord) -> None:
        """Pass an operator's command to the shard for which it was sent."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._command, shard, command)

    # All methods below run in the event loop.

    def reconfigured(self) -> None:
        """Tell all shards that the worker's topology has changed."""
        for shard in self.running.values():
            shard.reconfigured()

    async def leave(self) -> None:
        """Hand over all shards, and wait up to 4 s until they have stopped."""
        self._hand_over(set(self.running))
        if self._tasks:
            await asyncio.wait(self._tasks.values(), timeout=_HAND_OVER_S)

    async def abandon(self) -> None:
        """Cancel the tasks of shards that have not stopped, and wait up to 4 s for their end."""
        left = self.unfinished
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left, timeout=_HAND_OVER_S)

    def _start(self, numbers: frozenset[int]) -> None:
        if self._shutdown.stopping.is_set() or self.worker is None:
            return
        _logger.info("shards_assigned", shards=sorted(numbers))
        for number in sorted(numbers):
            former = self._tasks.get(number)
            shard = self.running[number] = Shard(number, self.worker)
            running = self._run(shard, former, is_kept=self.worker.once)
            self._tasks[number] = asyncio.get_running_loop().create_task(running, name=f"shard {number}")
        self._update_metric()

    async def _run(self, shard: Shard, former: asyncio.Task[None] | None, *, is_kept: bool) -> None:
        """Run a shard until it ends.

        `former` is the task that ran the same shard number in this worker before, or None. The shard starts after the
        end of that task. With `is_kept` (for `run --once`), the shard counts as owned even after it has ended.
        """
        try:
            if former is not None:
                await _wait_for_former(shard, former)
            await shard.run()
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # noqa: BLE001 - the top level: FatalError ends the worker, and so does a bug
            self._shutdown.fail(error)
        finally:
            self._shutdown.failed = self._shutdown.failed or (is_kept and shard.failed)
            if self.running.get(shard.number) is shard and not is_kept:
                del self.running[shard.number]
            self._update_metric()

    def _stop_lost(self, numbers: frozenset[int]) -> None:
        """Stop lost shards. Keep the last known state of their tenants until the worker is in the group again."""
        lost = [shard for number, shard in self.running.items() if number in numbers]
        self._release(numbers, threading.Event())
        if self._shutdown.stopping.is_set():
            return
        for shard in lost:
            self.last_known.keep(shard)
        if lost and (self._forgetting is None or self._forgetting.done()):
            self._forgetting = asyncio.get_running_loop().create_task(self._forget(), name="last known")

    async def _forget(self) -> None:
        while self.worker is not None and not self.worker.membership.is_member:  # noqa: ASYNC110 - set by a thread
            await asyncio.sleep(_LOOK_EVERY_S)
        self.last_known.forget()

    def _release(self, numbers: frozenset[int], stopped: threading.Event) -> None:
        tasks = self._hand_over(set(numbers))
        if not tasks:
            stopped.set()
            return
        _logger.info("shards_revoked", shards=sorted(numbers))
        waiting = asyncio.get_running_loop().create_task(_wait_all(tasks))
        waiting.add_done_callback(lambda _: stopped.set())

    def _hand_over(self, numbers: set[int]) -> list[asyncio.Task[None]]:
        tasks = []
        for number in numbers:
            shard = self.running.pop(number, None)
            if shard is not None:
                shard.hand_over()
            task = self._tasks.get(number)
            if task is not None and not task.done():
                tasks.append(task)
        self._update_metric()
        return tasks

    def _command(self, number: int, command: ControlRecord) -> None:
        shard = self.running.get(number)
        if shard is not None:
            shard.commanded(command)

    def _update_metric(self) -> None:
        self._metrics.shards_owned(len(self.running))


async def _wait_for_former(shard: Shard, former: asyncio.Task[None]) -> None:
    """Wait until `former`, which ran the same shard number in this worker before, has ended.

    A blocking request to the brokers may delay the end of `former`. While such a request can still be running, `shard`
    is marked as making progress, so that /livez does not fail.
    """
    deadline = time.monotonic() + LONGEST_CALL_S
    while not former.done():
        await asyncio.wait([former], timeout=_TOUCH_EVERY_S)
        if time.monotonic() < deadline:
            shard.touch()


async def _wait_all(tasks: list[asyncio.Task[None]]) -> None:
    await asyncio.wait(tasks)
