"""Days of a busy tenant in simulated time, with the real sweeper, budget and dedup index.

Only Graph and Kafka are models: rows are numbers, and what is handed over is committed at once. Set DAYS=30 in the
environment for the whole month; the tests run a few days, which are enough because the week before them has late rows.
"""

import asyncio
import os
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any, NamedTuple, cast

import numpy as np
import pytest
from numpy.typing import NDArray

from connector.commands import plan_forecast, plan_volume
from connector.core import dedup, instants, lateness, windows
from connector.core.budget import Budget
from connector.core.coverage import Window
from connector.core.dedup import DedupIndex
from connector.core.fingerprints import ENTRY, LAYOUT
from connector.core.rows import PageRows, RowSchema
from connector.core.windows import Rules, Sweep
from connector.graph.page_memory import PageMemory
from connector.graph.request_queue import RequestQueue
from connector.graph.source import ReadPage, Source
from connector.kafka.seen import SeenLog
from connector.kafka.state import Checkpoint
from connector.pipeline.buffer import Buffer
from connector.pipeline.messages import Item, PageRead
from connector.pipeline.sweeper import Sweeper
from connector.pipeline.tenant_state import TenantState
from connector.simulator.calls import CallSequence, tenant_key
from connector.simulator.options import Recipe
from tests.simulated_time import SimulatedTime

DAYS = int(os.environ.get("DAYS", "3"))
CALLS_PER_DAY = 100_000
REQUESTS_PER_MINUTE = 45
CONCURRENCY = 4
ANSWER_S = 0.3
PAGE_ROWS = 1_000
COMMITTED_ROWS = 10_000
BEGIN = datetime(2026, 3, 2, 7, 41, 13, tzinfo=UTC)
DAY_MS = 86_400_000


def sweep(every_m: int, overlap_m: int) -> Sweep:
    return Sweep(timedelta(minutes=every_m), timedelta(minutes=overlap_m))


RULES = Rules(
    (sweep(1, 15), sweep(15, 180), sweep(120, 48 * 60), sweep(24 * 60, 7 * 24 * 60)),
    settle=timedelta(),
    slice=timedelta(days=1),
    horizon=timedelta(days=150),
)


class Graph:
    """Rows of one tenant by call start, and the times of requests for them. Times are epoch milliseconds."""

    def __init__(self, loop: SimulatedTime, start_ms: NDArray[np.int64], visible_ms: NDArray[np.int64]) -> None:
        self.start_ms = start_ms
        self.visible_ms = visible_ms
        self.requests: list[float] = []
        self.served_at: datetime | None = None
        self.requests_by_priority: Counter[int] = Counter()
        self.budget = Budget(REQUESTS_PER_MINUTE, loop.time())
        self._queue = RequestQueue(self.budget, PageMemory(), loop.time, lambda _: None)
        self._loop = loop

    def now(self) -> datetime:
        return BEGIN + timedelta(seconds=self._loop.time())

    def failing(self) -> None:
        return None

    async def pages(self, window: Window, priority: int, attempts: int) -> AsyncIterator[ReadPage]:
        assert attempts
        low, high = np.searchsorted(self.start_ms, [instants.to_ms(moment) for moment in window])
        offset, last = 0, False
        while not last:
            slot, room = await self._queue.enter(priority)
            room.release()
            self.requests.append(self._loop.time())
            self.requests_by_priority[priority] += 1
            self.budget.sent(slot, self._loop.time())
            await asyncio.sleep(ANSWER_S)
            now = self.now()
            shown = low + np.flatnonzero(self.visible_ms[low:high] <= instants.to_ms(now))
            rows = shown[offset : offset + PAGE_ROWS]
            offset += PAGE_ROWS
            last = offset >= len(shown)
            yield ReadPage(cast("Any", rows), now, 0, last)


class NumberedRows:
    """Replacement for RowSchema: a row is its number, which is its id too."""

    @staticmethod
    def read(rows: Sequence[int]) -> PageRows:
        entries = np.zeros(len(rows), ENTRY)
        entries["hi"] = rows
        entries["meta"] = LAYOUT
        return PageRows(cast("Any", rows), entries)


class Topic(Buffer):
    """Replacement for a shard: rows that are handed over are compared with the dedup index and published at once."""

    def __init__(self, remembered: DedupIndex, graph: Graph) -> None:
        super().__init__()
        self.published_ms = np.zeros(len(graph.start_ms), np.int64)
        self.times_published = np.zeros(len(graph.start_ms), np.int64)
        self._remembered = remembered
        self._graph = graph
        self.ages: tuple[int, ...] = ()
        self._open: list[PageRead] = []
        self._open_rows = 0

    def put(self, item: Item) -> None:
        """Ignore messages other than pages, because the scheduler itself tracks sweeps and slices."""

    async def put_page(self, page: PageRead) -> None:
        self._open.append(page)
        self._open_rows += len(page.raws)
        if self._open_rows >= COMMITTED_ROWS:
            self.commit()

    def commit(self) -> None:
        """Classify rows of several pages at once, as a transaction does. Of rows with one id, the first is used."""
        if not self._open:
            return
        entries = np.concatenate([page.reading.entries for page in self._open])
        lengths = [len(page.raws) for page in self._open]
        received_ms = np.repeat([instants.to_ms(page.received_at) for page in self._open], lengths)
        is_counted = np.repeat([not page.uncounted for page in self._open], lengths)
        self._open, self._open_rows = [], 0
        _, first = np.unique(entries["hi"], return_index=True)
        entries, received_ms, is_counted = entries[first], received_ms[first], is_counted[first]
        new = dedup.classify(entries, (self._remembered,)).new
        numbers = entries["hi"][new].astype(np.int64)
        self.times_published[numbers] += 1
        self.published_ms[numbers] = received_ms[new]
        ages_s = (received_ms[new] - self._graph.start_ms[numbers]) / 1_000
        self.ages = lateness.counted(self.ages, ages_s[is_counted[new]].tolist())
        hours = self._graph.start_ms[numbers] // dedup.HOUR_MS
        self._remembered.put(entries[new], hours.astype(np.uint32))


class Month(NamedTuple):
    """Results of thirty simulated days."""

    graph: Graph
    topic: Topic
    remembered: DedupIndex

    def requests_by_day(self) -> NDArray[np.int64]:
        return np.bincount((np.array(self.graph.requests) // 86_400).astype(np.int64), minlength=DAYS)[:DAYS]


def make_rows() -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return rows: 90 % in ten hours of the day. They appear within 10 min (90 %), 1 day (9 %) or 6 days (1 %)."""
    recipe = Recipe(
        calls_per_day=CALLS_PER_DAY, shape="busy-hours", lateness="mixed", durations="1:0s-0s", failed=0.0, revised=0.0
    )
    since, until = BEGIN - timedelta(days=8), BEGIN + timedelta(days=DAYS)
    calls = CallSequence(recipe, tenant_key(20_260_302, 0), instants.to_ms(since))
    blocks = list(calls.blocks(instants.to_ms(since), instants.to_ms(until)))
    start = np.concatenate([block.start for block in blocks])
    visible = np.concatenate([block.visible for block in blocks])
    order = np.argsort(start, kind="stable")
    return start[order], visible[order]


def live_through(start_ms: NDArray[np.int64], visible_ms: NDArray[np.int64]) -> Month:
    loop = SimulatedTime()
    graph = Graph(loop, start_ms, visible_ms)
    remembered = DedupIndex()
    topic = Topic(remembered, graph)
    first = windows.first_state(RULES, BEGIN - timedelta(days=7), BEGIN)
    tenant = SimpleNamespace(key="tenant", label="tenant")
    tenant_state = TenantState(cast("Any", tenant), RULES, Checkpoint("calls", first), remembered, SeenLog("tenant"))
    sweeper = Sweeper(
        tenant_state,
        cast("Source", graph),
        topic,
        cast("RowSchema", NumberedRows()),
        concurrency=CONCURRENCY,
        once=False,
        now=graph.now,
    )

    async def live() -> None:
        try:
            async with asyncio.timeout(DAYS * 86_400):
                await sweeper.run()
        except TimeoutError:
            return

    try:
        loop.run_until_complete(live())
    finally:
        loop.close()
    topic.commit()
    return Month(graph, topic, remembered)


@pytest.fixture(scope="module")
def month() -> Month:
    return live_through(*make_rows())


def test_simulated_days_publish_every_row_once(month: Month) -> None:
    """Rows of the last 25 hours are left out, because the slowest sweep runs only once a day."""
    end_ms = instants.to_ms(BEGIN + timedelta(days=DAYS))
    due = (month.graph.visible_ms <= end_ms - DAY_MS - DAY_MS // 24) & (
        month.graph.start_ms >= instants.to_ms(BEGIN - timedelta(days=7))
    )
    assert due.sum() > (DAYS - 2) * CALLS_PER_DAY
    assert (month.topic.times_published[due] == 1).all()
    assert month.topic.times_published.max() == 1


def test_row_is_published_within_a_cadence_plus_one_minute(month: Month) -> None:
    graph, topic = month.graph, month.topic
    appeared = graph.visible_ms > instants.to_ms(BEGIN + timedelta(days=1))
    appeared &= graph.visible_ms <= instants.to_ms(BEGIN + timedelta(days=DAYS)) - DAY_MS - DAY_MS // 24
    age_ms = (graph.visible_ms - graph.start_ms)[appeared]
    delay_ms = (topic.published_ms - graph.visible_ms)[appeared]
    overlaps_ms = [s.overlap // timedelta(milliseconds=1) for s in RULES.sweeps]
    everys_ms = np.array([s.every // timedelta(milliseconds=1) for s in RULES.sweeps])
    cadence_ms = everys_ms[np.searchsorted(overlaps_ms, age_ms)]
    in_time = np.mean(delay_ms <= cadence_ms + 60_000)
    print(f"{in_time:.4%} of {len(age_ms)} rows in time")  # noqa: T201 - the figures, shown with -s
    assert in_time >= 0.99


def test_busy_tenant_needs_at_most_8000_requests_a_day(month: Month) -> None:
    by_day = month.requests_by_day()
    print("requests by day", by_day.tolist())  # noqa: T201 - the figures, shown with -s
    assert by_day[1:].max() <= 8_000


def test_plan_predicts_the_request_count_within_five_percent(month: Month) -> None:
    """The forecast uses the stored state, which has the number of calls per hour and the lateness of their rows."""
    now = BEGIN + timedelta(days=DAYS)
    first = (BEGIN - instants.EPOCH) // timedelta(hours=1) - 7 * 24
    counts = month.remembered.per_hour(first, (now - instants.EPOCH) // timedelta(hours=1) + 1)
    cadences = [lateness.Sweeping(s.every.total_seconds(), s.overlap.total_seconds()) for s in RULES.sweeps]
    calls, cycle_s = plan_volume.from_index(counts, first, now, lateness.learn(month.topic.ages, cadences))
    predicted = plan_forecast.predict(RULES, calls, REQUESTS_PER_MINUTE, CONCURRENCY, now, cycle_s=cycle_s)
    counted = month.requests_by_day()[1:].mean() / 24
    print(f"predicted {predicted.total:.1f} an hour, counted {counted:.1f}; {calls.per_day:.0f} calls a day")  # noqa: T201 - the figures, shown with -s
    assert predicted.fits
    assert abs(predicted.total / counted - 1) < 0.05
