"""The clock that Graph confirms."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any, cast
from unittest.mock import MagicMock

import pytest

from connector.errors import PermanentError
from connector.graph.client import GraphClient
from connector.graph.clock import TrustedClock

TRUE = datetime(2026, 3, 1, 12, tzinfo=UTC)
S = timedelta(seconds=1)


class Machine:
    """A machine whose clock may be set, and a monotonic clock."""

    def __init__(self, ahead: timedelta = timedelta()) -> None:
        self.ahead = ahead
        self.elapsed_s = 1000.0
        self.clock = TrustedClock(lambda: self.true + self.ahead, lambda: self.elapsed_s)

    @property
    def true(self) -> datetime:
        return TRUE + timedelta(seconds=self.elapsed_s - 1000)


def test_clock_is_not_trusted_before_the_first_response() -> None:
    machine = Machine(timedelta(hours=30))
    assert machine.clock.trusted() is None
    machine.clock.answered(TRUE)
    assert machine.clock.trusted() == TRUE + S


def test_local_clock_is_trusted_if_graph_sends_no_date() -> None:
    machine = Machine(timedelta(hours=30))
    machine.clock.answered(None)
    assert machine.clock.trusted() == TRUE + timedelta(hours=30)


def test_clock_that_jumps_ahead_is_corrected_at_once() -> None:
    machine = Machine()
    machine.clock.answered(TRUE)
    machine.elapsed_s += 600
    machine.ahead = timedelta(days=2)
    assert machine.clock.now() == TRUE + 601 * S


@pytest.mark.parametrize("behind", [timedelta(hours=3), timedelta(seconds=30)])
def test_clock_that_is_behind_graph_is_not_corrected(behind: timedelta) -> None:
    machine = Machine(-behind)
    machine.clock.answered(TRUE)
    assert machine.clock.now() == TRUE - behind


def test_delayed_response_does_not_set_the_clock_back() -> None:
    machine = Machine()
    machine.clock.answered(TRUE)
    machine.elapsed_s += 60
    machine.clock.answered(TRUE + 30 * S)
    assert machine.clock.now() == TRUE + 60 * S


def test_clock_follows_a_server_that_corrects_its_date() -> None:
    machine = Machine(timedelta(days=1))
    machine.clock.answered(TRUE + timedelta(hours=5))
    machine.clock.answered(TRUE)
    assert machine.clock.now() == TRUE + S


def test_first_response_after_a_suspend_sets_the_clock_forward() -> None:
    machine = Machine()
    machine.clock.answered(TRUE)
    machine.ahead = timedelta(hours=8)
    machine.clock.answered(TRUE + timedelta(hours=8))
    assert machine.clock.now() == TRUE + timedelta(hours=8)


class Tenant:
    """Tenant whose only request gets a response when the test allows it."""

    def __init__(self, clock: TrustedClock, error: Exception | None = None) -> None:
        self.clock = clock
        self.error = error
        self.asked = 0
        self.answering = asyncio.Event()

    async def ask_date(self) -> None:
        self.asked += 1
        await self.answering.wait()
        if self.error:
            raise self.error
        self.clock.answered(TRUE)


def client() -> GraphClient:
    settings = MagicMock(timeout=timedelta(seconds=30), ca_bundle=None, root="https://graph", authority="https://login")
    return GraphClient(settings)


async def test_one_tenant_requests_the_time_for_all_tenants() -> None:
    graph = client()
    first, second = Tenant(graph.clock), Tenant(graph.clock)
    learning = [asyncio.create_task(graph.learn_time(cast("Any", tenant))) for tenant in (first, second)]
    while not first.asked:  # noqa: ASYNC110 - the condition sets no event
        await asyncio.sleep(0)
    first.answering.set()
    await asyncio.gather(*learning)
    assert (first.asked, second.asked) == (1, 0)
    await graph.learn_time(cast("Any", second))
    assert second.asked == 0


async def test_next_tenant_requests_the_time_if_the_first_one_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("connector.graph.client._OTHERS_ANSWER_S", 0.01)
    graph = client()
    broken, sound = Tenant(graph.clock, PermanentError("sign_in", "the secret is wrong")), Tenant(graph.clock)
    learning = asyncio.create_task(graph.learn_time(cast("Any", broken)))
    sound.answering.set()
    while not broken.asked:  # noqa: ASYNC110 - the condition sets no event
        await asyncio.sleep(0)
    await graph.learn_time(cast("Any", sound))
    await learning
    assert graph.clock.known.is_set(), "the response to one tenant serves both"
    alone = client()
    broken = Tenant(alone.clock, PermanentError("sign_in", "the secret is wrong"))
    broken.answering.set()
    with pytest.raises(PermanentError):
        await alone.learn_time(cast("Any", broken))
