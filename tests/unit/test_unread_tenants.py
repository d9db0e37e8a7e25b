"""Search for configured tenants that no worker reads: which tenants count, and how the result is reported."""

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
from structlog.testing import capture_logs

from connector.config import Settings, load
from connector.core import windows
from connector.core.coverage import Coverage, Read
from connector.kafka.operator_client import ShardView
from connector.kafka.state import NOT_CONFIGURED, Checkpoint, Restored
from connector.metrics.worker import Metrics
from connector.pipeline.tenant_state import rules_of
from connector.worker import unread_tenants
from connector.worker.unread_tenants import UnreadTenant, UnreadTenants

NOW = datetime(2026, 2, 1, 12, tzinfo=UTC)
TENANT = "00000000-0000-4000-8000-000000000001"
CONFIG = f"""
kafka = {{ bootstrap_servers = "127.0.0.1:1", shards = 1 }}
identity = {{ client_id = "11111111-1111-4111-8111-111111111111", client_secret = "x" }}
tenants = [{{ id = "{TENANT}", name = "contoso" }}]
"""


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Return settings with one tenant."""
    file = tmp_path / "connector.toml"
    file.write_text(CONFIG, encoding="utf-8")
    return load(file, {})


def checkpoint(settings: Settings, read_ago: timedelta, **more: Any) -> Checkpoint:
    """Return the checkpoint of a tenant that was last read `read_ago` before now."""
    at = NOW - read_ago
    state = windows.first_state(rules_of(settings), at - timedelta(hours=1), at)
    coverage = Coverage((Read(at - timedelta(hours=1), at, at, True),))  # noqa: FBT003 - a named tuple of the core
    return Checkpoint("calls", state._replace(coverage=coverage), **more)


def reasons(settings: Settings, found: Checkpoint | None, owned: tuple[int, ...] = ()) -> list[str]:
    views = {0: ShardView(Restored(None, {} if found is None else {TENANT: found}), [])}
    return [unread.reason for unread in unread_tenants.find(settings, owned, views, NOW)]


@pytest.mark.parametrize(
    ("ago", "failing", "words"),
    [
        (1, (NOT_CONFIGURED, "the owner lacks it"), "the owner lacks it: give all workers"),
        (16, None, "no worker has read the tenant since 2026-02-01T11:44:00.000Z: give all workers"),
        (14, None, ""),
        (60, ("sign_in", "the secret has expired"), ""),
    ],
    ids=["not configured", "stale", "read", "failing"],
)
def test_committed_state_decides_if_a_tenant_counts_as_unread(
    settings: Settings, ago: int, failing: tuple[str, str] | None, words: str
) -> None:
    found = reasons(settings, checkpoint(settings, timedelta(minutes=ago), failing=failing))
    assert len(found) == bool(words)
    assert all(reason.startswith(words) for reason in found)


def test_tenant_that_was_never_read_counts_as_unread(settings: Settings) -> None:
    assert reasons(settings, None)[0].startswith("no worker has read the tenant yet")


def test_tenant_of_a_shard_owned_by_the_worker_is_not_unread(settings: Settings) -> None:
    assert not reasons(settings, None, owned=(0,))


def test_paused_tenant_is_not_unread(settings: Settings) -> None:
    known = checkpoint(settings, timedelta(days=1))
    paused = known.state._replace(orders=known.state.orders._replace(paused=True))
    assert not reasons(settings, msgspec.structs.replace(known, state=paused))


def test_unread_tenant_is_reported_once_after_two_searches(settings: Settings) -> None:
    """One search may also find a tenant whose shard is just moving to another worker."""
    metrics = Metrics("1", 1)
    search = UnreadTenants(*cast("tuple[Any, Any]", (None, None)), metrics, cast("Any", None))
    (tenant,) = settings.tenants
    with capture_logs() as events:
        for suspects, found in ((True, 0), (True, 1), (True, 1), (False, 0), (True, 0)):
            search.record([UnreadTenant(tenant, "why")] if suspects else [])
            assert len(search.found) == found
            assert f"direct_routing_tenants_unread {found}.0" in metrics.render()[0].decode()
    assert events == [{"event": "tenant_unread", "tenant": "contoso", "reason": "why", "log_level": "error"}]


async def test_search_for_unread_tenants_continues_after_an_exception(monkeypatch: pytest.MonkeyPatch) -> None:
    search = UnreadTenants(*cast("tuple[Any, Any]", (None, None)), Metrics("1", 1), cast("Any", None))
    outcomes: list[Exception] = [ValueError("a bug"), asyncio.CancelledError()]  # type: ignore[list-item]

    async def fail(_now: object) -> list[UnreadTenant]:
        raise outcomes.pop(0)

    monkeypatch.setattr(search, "_search", fail)
    monkeypatch.setattr(unread_tenants, "FIRST_LOOK_S", 0)
    with capture_logs() as events, pytest.raises(asyncio.CancelledError):
        await search.run(lambda: NOW)
    assert not outcomes
    assert [(event["event"], event["log_level"]) for event in events] == [("unread_tenants_failed", "error")]
