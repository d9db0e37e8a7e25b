"""Runtime of one tenant that is being read: its sweeper, its metrics, and the results of its sweeps."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from functools import partial

from connector import log
from connector.config import duration_text
from connector.core import instants, jobs, windows
from connector.graph.source import Source
from connector.metrics.gauges import TenantView
from connector.metrics.tenant import TenantMetrics
from connector.pipeline.change import Change
from connector.pipeline.sweeper import Sweeper
from connector.pipeline.tenant_state import TenantState

_logger = log.get(__name__)
_WARN_AGAIN_S = 3600.0


class TenantRuntime:
    """State, sweeper and metrics of one tenant.

    It exists from the start of the sweeper until the sweeper is stopped.
    """

    def __init__(
        self,
        tenant_state: TenantState,
        sweeper: Sweeper,
        task: asyncio.Task[None],
        series: TenantMetrics,
        now: Callable[[], datetime],
    ) -> None:
        """Create the runtime. `task` is the task in which the sweeper runs."""
        self.tenant_state = tenant_state
        self.sweeper = sweeper
        self.task = task
        self._series = series
        self._now = now
        self._replaced: dict[int, list[int]] = {}
        self._warned_at = -_WARN_AGAIN_S
        series.watch(self.view)

    @property
    def source(self) -> Source:
        """Return the client with which the tenant's sweeper reads from Graph."""
        return self.sweeper.source

    def stop(self) -> None:
        """Stop the sweeper, so that no further requests are sent to Graph, without waiting for its end."""
        self.task.cancel()

    async def end(self) -> None:
        """Stop the sweeper, wait for its end, and close its Graph client."""
        self.task.cancel()
        await asyncio.wait([self.task])
        await self.source.close()

    def view(self) -> TenantView:
        """Return the current values for the tenant's gauges."""
        failure = self.source.failing()
        return replace(
            committed_view(self.tenant_state.checkpoint.state, len(self.tenant_state.remembered), self._now),
            budget_used_ratio=self.source.budget_used_ratio(),
            up=self.source.up,
            failing=failure.reason if failure else None,
        )

    def freeze_gauges(self) -> None:
        """Let the gauges show the last committed state, because the shard is being restored and no sweeper runs.

        Ages in the gauges still grow.
        """
        state, remembered = self.tenant_state.checkpoint.state, len(self.tenant_state.remembered)
        self._series.watch(partial(committed_view, state, remembered, self._now))

    def committed(self, change: Change, now: datetime) -> None:
        """Update the metrics after the commit of `change`."""
        self._series.rows_committed(
            published=change.published,
            revised=change.revised,
            duplicate=change.duplicate,
            dead_letter=len(change.dead_letters),
        )
        self._series.rows_first_read(change.lateness_s)
        if change.unknown_count:
            self._series.unknown_properties_seen(change.unknown_count)
        if change.oldest_received_at is not None and change.has_rows:
            self._series.batch_committed(max(0.0, (now - change.oldest_received_at).total_seconds()))
        self._warn_of_late_rows(change)
        for rows, window in change.withdrawn:
            self._series.rows_withdrawn(rows)
            times = [instants.text(moment) for moment in window]
            _logger.warning("rows_withdrawn", tenant=self.tenant_state.tenant.label, rows=rows, window=times)
        for begun, overtaken in zip(change.begun, change.overtaken, strict=True):
            self._failed(overtaken)
            deepest = windows.replaced_by(begun, self.tenant_state.rules)
            if deepest is not None:
                self._replaced[deepest] = [index for index in begun if index != deepest]
        # Sweeps that start together are read as one, by the deepest of them. The others end when that one ends.
        waiting = {index for replaced in self._replaced.values() for index in replaced}
        for index in change.ended:
            if index not in waiting:
                self._ended(index, "ok")
            if index in self._replaced:
                for replaced in self._replaced.pop(index):
                    self._ended(replaced, "ok")
                waiting = {i for replaced in self._replaced.values() for i in replaced}
        self._failed(change.dropped)

    def _failed(self, sweeps: list[int]) -> None:
        """Count the runs of `sweeps` as failed.

        Sweeps that start together are read as one run, the run with the longest overlap. If that run has failed, the
        runs of the other sweeps count as failed too.
        """
        failed = {*sweeps, *(i for index in sweeps for i in self._replaced.pop(index, []))}
        for index in sorted(failed):
            self._ended(index, "failed")

    def _warn_of_late_rows(self, change: Change) -> None:
        """Count and log the rows that appeared so late that only the sweep with the longest overlap can find them.

        They show that even later rows may exist, which no sweep finds.
        """
        *others, deepest = sorted(sweep.overlap for sweep in self.tenant_state.rules.sweeps)
        if not others:
            return
        # The age of a row decides, not the sweep that read it: the deepest sweep is sometimes the first to read call
        # time that another sweep would have read next.
        rows = sum(age_s > others[-1].total_seconds() for age_s in change.ages_s)
        self._series.found_by_deepest_sweep(rows)
        if rows and time.monotonic() - self._warned_at >= _WARN_AGAIN_S:
            self._warned_at = time.monotonic()
            overlap = duration_text(deepest)
            remedy = "extend the longest overlap of windows.sweeps to find rows that appear even later"
            label = self.tenant_state.tenant.label
            _logger.info("very_late_rows_found", tenant=label, rows=rows, overlap=overlap, remedy=remedy)

    def _ended(self, index: int, outcome: str) -> None:
        self._series.sweep_ended(duration_text(self.tenant_state.rules.sweeps[index].every), outcome)


def committed_view(state: windows.State, remembered: int, now: Callable[[], datetime]) -> TenantView:
    """Return the values of a tenant's gauges that its committed state determines.

    `remembered` is the number of rows in the tenant's deduplication index.
    """
    through = state.coverage.through or state.start
    found_gaps = windows.gaps(state)
    return TenantView(
        covered_through=through.timestamp(),
        gap_seconds=sum(gap.seconds for gap in found_gaps),
        gaps=len(found_gaps),
        sweep_overdue={duration_text(s.sweep.every): windows.overdue_seconds(s, now()) for s in state.sweeps},
        paused=state.orders.paused,
        remembered_rows=remembered,
        backfill_remaining_seconds=jobs.remaining_seconds(state.orders),
    )


def rejected_view(tenant_state: TenantState | None, now: Callable[[], datetime]) -> TenantView:
    """Return the values for the gauges of a tenant that cannot be read because of its configuration.

    `tenant_state` is None if the tenant was never read.
    """
    if tenant_state is None:
        return TenantView(failing="rejected")
    known = committed_view(tenant_state.checkpoint.state, len(tenant_state.remembered), now)
    return replace(known, failing="rejected")
