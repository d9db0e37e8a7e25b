"""Life cycle of one shard: restore, run, restart, release.

1. If the outcome of a transaction is unknown, the shard restarts in the same way as it starts: it restores its state
   from its topics.
2. Before a restarted shard opens another producer, it waits until a new poll of the consumer group confirms that this
   worker still owns the shard. Otherwise two workers could fence each other again and again.
"""

import asyncio
import time

from connector import log
from connector.backoff import doubling
from connector.errors import FencedError, HandedOverError, ShardRestartError, UnsupportedError
from connector.kafka.acknowledgement import Acknowledgements
from connector.kafka.limits import RecordTooLongError
from connector.kafka.membership import ControlRecord
from connector.kafka.publishing import Publisher
from connector.kafka.transaction import Transactions
from connector.pipeline.buffer import Buffer
from connector.pipeline.commit_loop import CommitLoop
from connector.pipeline.owned_tenants import OwnedTenants
from connector.pipeline.restoration import Restoration, RestoredShard
from connector.pipeline.shard_context import ShardContext
from connector.pipeline.worker_context import WorkerContext

_logger = log.get(__name__)
_FIRST_PAUSE_S = 0.2
_LONGEST_PAUSE_S = 5.0


class Shard:
    """One shard of a worker, with its life cycle.

    `run` ends after a hand-over. It raises FatalError for a problem that retrying cannot fix.
    """

    def __init__(self, number: int, worker: WorkerContext) -> None:
        self.number = number
        self.restored = False
        self._problem: str | None = None
        self._worker = worker
        self._context = ShardContext(number, worker)
        self._ownership = self._context.ownership
        self.tenants = OwnedTenants(self._context)

    @property
    def failed(self) -> bool:
        """Return whether a sweep has failed or a configured tenant could not be read."""
        return self.tenants.failed

    @property
    def problem(self) -> str | None:
        """Return the reason why nothing is published until an operator acts; None if there is no such problem."""
        return self._problem or self._context.commit_problem

    @property
    def turned_at(self) -> float:
        """Return the time of the shard's last progress, in monotonic seconds."""
        return self._context.liveness.turned_at

    def touch(self) -> None:
        """Record that the shard makes progress."""
        self._context.liveness.touch()

    def hand_over(self) -> None:
        """Begin the release of the shard: stop the requests to Graph at once, and let the open transaction finish.

        The next owner has a request budget of its own. If this worker sent requests during a slow commit, both workers
        together could exceed the limit.
        """
        self._ownership.handing_over.set()
        self.tenants.stop_reading()

    def reconfigured(self) -> None:
        """Adapt to the worker's new configuration. Sweepers of unchanged tenants continue to run."""
        self.tenants.reconfigured()

    def commanded(self, command: ControlRecord) -> None:
        """Execute the command in a record of the control topic.

        A record that arrives before the shard is restored is ignored, because it is delivered again afterwards.
        """
        if self.restored:
            self.tenants.commanded(command)

    async def run(self) -> None:
        """Run the shard until the hand-over, and restart it whenever the outcome of a transaction is unknown."""
        pauses_s = doubling(_FIRST_PAUSE_S, _LONGEST_PAUSE_S)
        pause_s = next(pauses_s)
        try:
            while not self._ownership.handing_over.is_set():
                self.tenants.update_metrics()
                begun = time.monotonic()
                try:
                    await self._live()
                except ShardRestartError as error:
                    self._log_restart(error, pause_s)
                    # This is not limited to FencedError: the producer may report a fence as another fatal error.
                    # Opening a producer without confirmed ownership would fence the new owner, which would fence back.
                    await self._ownership.confirm()
                    await self._wait_for_limits(error)
                else:
                    return
                self.touch()
                if time.monotonic() - begun > 4 * _LONGEST_PAUSE_S:
                    pauses_s = doubling(_FIRST_PAUSE_S, _LONGEST_PAUSE_S)
                    pause_s = next(pauses_s)
                await self._ownership.wait(pause_s)
                pause_s = next(pauses_s)
        except HandedOverError:
            _logger.info("shard_lost", shard=self.number)
        finally:
            self._context.series.closed()
            self.tenants.close()

    def _log_restart(self, error: ShardRestartError, pause_s: float) -> None:
        if isinstance(error, UnsupportedError):
            self._worker.warn_of_missing_transactions(str(error))
        elif not isinstance(error, RecordTooLongError):
            event = "shard_fenced" if isinstance(error, FencedError) else "shard_restarting"
            _logger.warning(event, shard=self.number, reason=str(error), again_in_s=pause_s)

    async def _wait_for_limits(self, error: ShardRestartError) -> None:
        """After a RecordTooLongError, wait until an operator has raised the maximum record length of the topic.

        Return at once after any other error. The waiting ends early if the shard must be released.
        """
        self._problem = str(error) if isinstance(error, RecordTooLongError) else None

        async def pause(seconds: float) -> bool:
            self.touch()
            self._context.series.transaction_aborted()
            await self._ownership.wait(seconds)
            return self._ownership.handing_over.is_set()

        await self._context.lengths.wait_until_accepted(error, pause)
        self._problem = str(error) if isinstance(error, UnsupportedError) else None

    async def _live(self) -> None:
        """Restore the shard, then run it until the hand-over. Raises ShardRestartError if it must restart."""
        if self._worker.settings.kafka.delivery == "at_least_once":
            self._context.lengths.check()  # opening the publisher writes to these topics
        publisher = self._new_publisher()
        self._context.liveness.is_calling = lambda: publisher.is_within_bounds
        restoring = asyncio.create_task(Restoration(self._context, publisher).run(), name=f"open shard {self.number}")
        try:
            handing_over = asyncio.create_task(self._ownership.handing_over.wait())
            await asyncio.wait({restoring, handing_over}, return_when=asyncio.FIRST_COMPLETED)
            handing_over.cancel()
            if not restoring.done():
                restoring.cancel()
                return
            await self._work(restoring.result(), publisher)
        finally:
            self._ownership.shut_commands()
            self.restored = False
            await publisher.close()

    def _new_publisher(self) -> Publisher:
        clients, names = self._worker.clients, self._context.names
        if self._worker.settings.kafka.delivery == "at_least_once":
            return Acknowledgements(clients, names, self.number)
        return Transactions(clients, names.transactional_id(self.number))

    async def _work(self, restored: RestoredShard, publisher: Publisher) -> None:
        """Read and commit until the hand-over, beginning with the restored state."""
        buffer = Buffer()
        self.tenants.load(restored, buffer)
        loop = CommitLoop(self._context, publisher, self.tenants, buffer, restored.control, restored.kept)
        try:
            async with asyncio.TaskGroup() as group:
                await self.tenants.follow(group)
                self.restored, self._problem = True, None
                # Commands are requested only now, because `commanded` ignores them before the shard is restored.
                self._ownership.open_commands(restored.control.offset)
                sweepers = group.create_task(self._sweepers_ended(buffer), name="sweepers done")
                await loop.run(group, sweepers)
                self.tenants.stop_reading()
                sweepers.cancel()
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from errors
        finally:
            buffer.discard()
            await self.tenants.discard()

    async def _sweepers_ended(self, buffer: Buffer) -> None:
        """Wait until every sweeper has ended.

        Sweepers end by themselves only with `once`. Without `once`, the wait has no end and must be cancelled.
        """
        if not self._worker.once:
            await asyncio.Event().wait()
        await self.tenants.sweepers_ended()
        buffer.filled.set()
