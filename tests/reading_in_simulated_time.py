"""One tenant, read in simulated time by the real sweeper, client, request queue and budget.

Only HTTP, sign-in and Kafka are models. What the sweeper hands over goes through the steps that a shard makes.
"""

import asyncio
import random
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast
from unittest import mock

import msgspec
from yarl import URL

from connector.core import windows
from connector.core.budget import Budget
from connector.core.coverage import Window
from connector.core.dedup import DedupIndex
from connector.core.rows import RowSchema
from connector.core.windows import Rules, State, Sweep
from connector.graph import exchange, source
from connector.graph.health import Health
from connector.graph.page_memory import PageMemory
from connector.graph.source import Source
from connector.graph.source_events import NoEvents
from connector.graph.transport import BrokenAnswerError, Response
from connector.kafka import avro
from connector.kafka.seen import SeenLog
from connector.kafka.state import Checkpoint
from connector.pipeline.batch import Batches
from connector.pipeline.buffer import Buffer
from connector.pipeline.messages import Item, PageRead
from connector.pipeline.sweeper import Sweeper
from connector.pipeline.tenant_state import TenantState
from tests.property.model import TOPIC, Setting
from tests.simulated_time import SimulatedTime

if TYPE_CHECKING:
    from connector.pipeline.change import Change

BEGIN = datetime(2026, 3, 2, 7, 41, 13, tzinfo=UTC)
M = timedelta(minutes=1)
RULES = Rules(
    (Sweep(M, 15 * M), Sweep(15 * M, 180 * M), Sweep(120 * M, 48 * 60 * M), Sweep(24 * 60 * M, 7 * 24 * 60 * M)),
    settle=timedelta(),
    slice=timedelta(days=1),
    horizon=timedelta(days=150),
)
_INSTANT = re.compile(r"fromDateTime=([^,]+),toDateTime=([^)]+)\)")
_SHAPE = RowSchema(avro.load(avro.ROW), "v1.0")

Fault = Callable[[Window, float], Response | None]
"Function from the window and time of a request to the response that replaces its rows, or None."


def at(time_s: float) -> datetime:
    return BEGIN + timedelta(seconds=time_s)


def error(status: int) -> Response:
    return Response(status, {}, b"<html>Service error</html>")


def too_large() -> Response:
    raise BrokenAnswerError("the response is longer than 16 MiB")


class Graph:
    """Model of Graph in place of the transport.

    One call begins every `step_s` seconds, and its row appears two seconds later.
    """

    def __init__(self, loop: SimulatedTime, fault: Fault, *, step_s: int = 20, answer_s: float = 0.2) -> None:
        self.fault = fault
        self.requests: list[tuple[float, Window]] = []
        self._loop, self._step_s, self._answer_s = loop, step_s, answer_s

    async def ask(self, _method: str, url: URL, *, departure: Any, **_: Any) -> Response:
        departure.budget.sent(departure.slot, self._loop.time())
        await asyncio.sleep(self._answer_s)
        found = _INSTANT.search(str(url))
        assert found is not None
        window = Window(*(datetime.fromisoformat(text) for text in found.groups()))
        self.requests.append((self._loop.time(), window))
        fault = self.fault(window, self._loop.time())
        return fault or Response(200, {}, msgspec.json.encode({"value": list(self._rows(window))}))

    def _rows(self, window: Window) -> Iterator[dict[str, Any]]:
        first = -int((BEGIN - window.start).total_seconds() // self._step_s)
        end_s = min((window.end - BEGIN).total_seconds(), self._loop.time() - 2)
        for number in range(first, int(end_s // self._step_s) + 1):
            start_s = number * self._step_s
            if at(start_s) < window.end and start_s <= end_s:
                yield {"id": str(start_s), "startDateTime": f"{at(start_s):%Y-%m-%dT%H:%M:%SZ}"}


class Handed(Buffer):
    """Buffer that does the work of a shard, and records when the row of each call was first handed over."""

    def __init__(self, tenant_state: TenantState, loop: SimulatedTime) -> None:
        super().__init__()
        self.found_at: dict[int, float] = {}
        self.changes: dict[str, Change] = {}
        self._loop, self._tenant_states = loop, {"t": tenant_state}
        self._batches = Batches(cast("Any", Setting(RULES.sweeps)).settings, _SHAPE, {TOPIC: 3})

    def put(self, item: Item) -> None:
        if isinstance(item, PageRead):
            for row in item.raws:
                self.found_at.setdefault(int(msgspec.json.decode(row)["id"]), self._loop.time())
        self.changes = self._batches.prepare([item], self._tenant_states, self.changes)

    async def put_page(self, page: PageRead) -> None:
        self.put(page)


class Tenant:
    """One tenant whose call time is read from `history` before `BEGIN` on."""

    def __init__(self, loop: SimulatedTime, fault: Fault, *, history: timedelta, rpm: float, **graph: Any) -> None:
        self.loop = loop
        self.graph = Graph(loop, fault, **graph)
        tenant = cast("Any", SimpleNamespace(id="t", key="t", label="t", topic=TOPIC, requests_per_minute=rpm))
        tenant.identity = SimpleNamespace(client_id="app")
        sign_in = SimpleNamespace(token=mock.AsyncMock(return_value="x.x.x"), asked_s=lambda _: 0.0, graph_host="")
        self.source = Source(
            transport=cast("Any", self.graph),
            root=URL("https://graph/v1.0"),
            tenant=tenant,
            budget=Budget(rpm, loop.time()),
            memory=PageMemory(),
            sign_in=cast("Any", sign_in),
            health=Health(),
            events=NoEvents(),
            now=lambda: at(loop.time()),
            patience_s=120.0,
            dated=lambda *_: None,
        )
        first = windows.first_state(RULES, BEGIN - history, BEGIN)
        tenant_state = TenantState(tenant, RULES, Checkpoint(TOPIC, first), DedupIndex(), SeenLog("t"))
        self.handed = Handed(tenant_state, loop)
        self.sweeper = Sweeper(
            tenant_state, self.source, self.handed, _SHAPE, concurrency=4, once=False, now=lambda: at(loop.time())
        )
        self._task = loop.create_task(self.sweeper.run())

    @property
    def plan(self) -> State:
        """Return the sweeper's state; assert that it equals the state that the shard would commit."""
        plan = self.sweeper.plan
        assert self.handed.changes["t"].state == plan
        return plan

    def run(self, until_s: float, watch: Callable[[], None] = lambda: None) -> None:
        """Let time pass; `watch` is called every second."""

        async def wait() -> None:
            while self.loop.time() < until_s and not self._task.done():
                await asyncio.sleep(1.0)
                watch()

        self.loop.run_until_complete(wait())
        if self._task.done():
            self._task.result()

    def close(self) -> None:
        self._task.cancel()
        self.loop.run_until_complete(asyncio.wait([self._task]))

    def worst_delay_s(self, since_s: float, until_s: float, *, without: tuple[int, ...] = ()) -> float:
        """Return the longest time from the appearance of a call's row until it was read."""
        delays = [
            self.handed.found_at.get(start_s, float("inf")) - start_s - 2
            for start_s in range(-(-int(since_s) // 20) * 20, int(until_s), 20)
            if start_s not in without
        ]
        return max(delays)


@contextmanager
def reading(
    fault: Fault, *, history: timedelta = timedelta(hours=2), rpm: float = 45, seed: int = 1, **graph: Any
) -> Iterator[Tenant]:
    """Yield a tenant that is read in simulated time. `seed`: seed of the jitter of pauses."""
    loop = SimulatedTime()
    clock = SimpleNamespace(monotonic=loop.time)
    with (
        mock.patch.object(source, "time", clock),
        mock.patch.object(exchange, "time", clock),
        mock.patch.object(source, "random", random.Random(seed)),
    ):
        tenant = Tenant(loop, fault, history=history, rpm=rpm, **graph)
        try:
            yield tenant
        finally:
            tenant.close()
            loop.close()
