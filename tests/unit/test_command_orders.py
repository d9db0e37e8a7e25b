"""Effect of commands on a tenant's jobs, and the reports on tenants and jobs."""

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from connector import status_json
from connector.commands import backfill_following
from connector.commands.overview import Known, Overview
from connector.config import Identity, Tenant
from connector.core import jobs, windows
from connector.core.coverage import Coverage, Window
from connector.core.jobs import Command, Job, Orders
from connector.core.windows import Rules, Sweep
from connector.errors import FatalError
from connector.kafka.state import Checkpoint, Restored, ShardRecord
from connector.status_json import ReportedTenant

NOW = datetime(2026, 3, 10, 12, tzinfo=UTC)
DAY = timedelta(days=1)
OLDEST = NOW - 150 * DAY
RULES = Rules((Sweep(timedelta(minutes=1), timedelta(minutes=15)),), timedelta(), DAY, 150 * DAY)
TENANT = Tenant("AA", "aa", "contoso", "contoso", Identity(None, None), -DAY, 45, "calls")
SUBJECT = ReportedTenant("aa", TENANT, 3)


def order(number: int, start: datetime = NOW - 2 * DAY, end: datetime = NOW - DAY) -> Command:
    return Command(f"job-{number}", "backfill", NOW, Window(start, end))


def applied(*orders: Command) -> Orders:
    result = Orders()
    for command in orders:
        result = jobs.apply(result, command, NOW, OLDEST)
    return result


def checkpoint(read: Window | None = Window(NOW - DAY, NOW), *, orders: Orders = Orders(), **more: Any) -> Checkpoint:  # noqa: B008
    state = windows.first_state(RULES, NOW - DAY, NOW)
    coverage = Coverage().add(read, NOW) if read else Coverage()
    return Checkpoint("calls", state._replace(coverage=coverage, orders=orders), **more)


def test_repeated_command_takes_effect_once() -> None:
    assert applied(*[order(1)] * 3).jobs == applied(order(1)).jobs


def test_repeated_old_command_adds_no_second_job() -> None:
    orders = applied(order(1), *(Command(f"c{n}", "resume", NOW) for n in range(300)))
    assert "job-1" not in orders.applied
    assert jobs.apply(orders, order(1), NOW, OLDEST).jobs == orders.jobs


def test_job_range_is_cut_to_horizon_and_now() -> None:
    (job,) = applied(order(1, OLDEST - DAY, NOW + DAY)).jobs
    assert job.window == Window(OLDEST + timedelta(hours=1), NOW)
    (job,) = applied(order(1, OLDEST - DAY, NOW + DAY)._replace(again=True)).jobs
    assert job.window == Window(OLDEST, NOW)
    for start, end, reason in ((OLDEST - DAY, OLDEST, "dedup.horizon"), (NOW, NOW + DAY, "future")):
        (job,) = applied(order(1, start, end)).jobs
        assert (job.state, job.ended, job.remaining_seconds) == ("failed", NOW, 0)
        assert reason in (job.reason or "")


def test_tenant_has_at_most_100_open_jobs() -> None:
    orders = applied(*(order(n) for n in range(1_000)))
    states = [job.state for job in orders.jobs]
    assert (states.count("waiting"), states.count("failed")) == (100, 50)
    assert "100 jobs" in (orders.jobs[-1].reason or "")


def test_job_report_names_what_the_job_waits_for() -> None:
    first, second = status_json.jobs("AA", applied(order(1), order(2)), None)
    assert (first["reason"], second["reason"]) == (None, "the job waits for job job-1 to end")
    first, second = status_json.jobs("AA", applied(order(1), order(2)), ("sign_in", "the secret is wrong"))
    assert first["reason"] == second["reason"] == "the secret is wrong"
    (job,) = status_json.jobs("AA", applied(order(1)), None, "no worker is running", {"job-1": "untaken"})
    assert job["reason"] == "no worker is running"
    (job,) = status_json.jobs("AA", applied(order(1), Command("x", "pause", NOW)), None)
    assert "paused" in job["reason"]


def test_job_json_has_the_documented_members() -> None:
    (job,) = status_json.jobs("AA", applied(order(1)), None)
    assert job == {
        "id": "job-1",
        "kind": "backfill",
        "tenant": "AA",
        "from": "2026-03-08T12:00:00.000Z",
        "to": "2026-03-09T12:00:00.000Z",
        "state": "waiting",
        "reason": None,
        "filed": "2026-03-10T12:00:00.000Z",
        "started": None,
        "ended": None,
        "remaining_seconds": 86_400,
        "rows": 0,
        "requests": 0,
        "again": False,
    }


def tenant_json(known: Checkpoint, now: datetime = NOW, **more: Any) -> dict[str, Any]:
    return status_json.tenant(SUBJECT, known, now, failing=known.failing, remembered=0, **more)


def test_tenant_without_failure_has_state_ok_or_catching_up() -> None:
    assert tenant_json(checkpoint())["state"] == "ok"
    assert tenant_json(checkpoint(None))["state"] == "catching_up"
    late = tenant_json(checkpoint(), NOW + timedelta(minutes=4), idle="no worker is running")
    assert (late["state"], late["reason"], late["lag_seconds"]) == ("catching_up", "no worker is running", 240)


def test_unread_seconds_are_gaps_plus_lag_with_an_estimated_end() -> None:
    nothing = tenant_json(checkpoint(None))
    assert (nothing["gap_seconds"], nothing["unread_seconds"]) == (0, 24 * 3600)
    assert nothing["unread_from"] == "2026-03-09T12:00:00.000Z"
    assert nothing["unread_done"] is None
    newest = checkpoint(Window(NOW - timedelta(hours=6), NOW))
    later = tenant_json(newest, NOW + timedelta(minutes=1))
    assert later["unread_seconds"] == 18 * 3600 + 60
    # Six hours of call time were read in one minute.
    assert later["unread_done"] == "2026-03-10T12:04:00.000Z"
    assert tenant_json(newest, NOW + timedelta(hours=1))["unread_done"] is None
    assert tenant_json(newest, NOW + timedelta(minutes=1), idle="no worker is running")["unread_done"] is None
    paused = tenant_json(checkpoint(Window(NOW - DAY / 4, NOW), orders=Orders(paused=True)))
    assert (paused["unread_done"], paused["since"]) == (None, "2026-03-10T12:00:00.000Z")


def test_status_shows_why_and_since_when_a_tenant_fails() -> None:
    failing = tenant_json(checkpoint(failing=("throttled", "Graph says wait")))
    assert (failing["reason_code"], failing["since"]) == ("throttled", "2026-03-10T12:00:00.000Z")
    healthy = tenant_json(checkpoint())
    assert (healthy["reason_code"], healthy["since"]) == (None, None)


def test_each_gap_is_reported_with_its_cause() -> None:
    read = Window(NOW - timedelta(hours=1), NOW)
    assert tenant_json(checkpoint(read))["gap_seconds"] == 23 * 3600
    (gap,) = tenant_json(checkpoint(read))["gaps"]
    assert gap == {"from": "2026-03-09T12:00:00.000Z", "to": "2026-03-10T11:00:00.000Z", "cause": "not read yet"}
    causes = {
        "throttled": tenant_json(checkpoint(read, failing=("throttled", "Graph says wait"))),
        "no worker is running": tenant_json(checkpoint(read), idle="no worker is running"),
        "paused": tenant_json(checkpoint(read, orders=Orders(paused=True))),
    }
    assert {cause: tenant["gaps"][0]["cause"] for cause, tenant in causes.items()} == {c: c for c in causes}
    assert {cause: tenant["state"] for cause, tenant in causes.items()} == {
        "throttled": "failing",
        "no worker is running": "catching_up",
        "paused": "paused",
    }


def test_tenant_that_was_never_read_has_no_lag() -> None:
    overview = Overview([Known(SUBJECT, None, Orders(), frozenset())], 1)
    (tenant,) = overview.describe_tenants("app", NOW, is_new=False)
    assert (tenant["state"], tenant["reason"]) == ("unknown", "no worker has read the tenant yet")
    assert tenant["lag_seconds"] is tenant["covered_through"] is tenant["records"] is None
    (tenant,) = overview.describe_tenants("app", NOW, is_new=True)
    assert tenant["reason"] == "no worker has ever run with kafka.app = app"


class OperatorClient:
    """Client that reports what a test declares as committed by workers."""

    def __init__(self, *commits: Restored | None) -> None:
        self._commits = commits

    def shard_of(self, tenant: str) -> int:
        return len(tenant)

    def follow(self, shard: int) -> Any:
        assert shard == 2
        yield from self._commits


def restored(*of: Job, control: int = 0) -> Restored:
    shard = ShardRecord("app", "cluster", "calls", control)
    return Restored(shard, {"aa": checkpoint(orders=Orders(of))} if of else {})


def follow(*commits: Restored | None) -> None:
    backfill_following._follow(OperatorClient(*commits), TENANT, order(1), 7)  # type: ignore[arg-type]


def test_backfill_wait_succeeds_when_the_job_is_done(capfd: pytest.CaptureFixture[str]) -> None:
    job = Job("job-1", Window(NOW - 2 * DAY, NOW - DAY), NOW)
    half = Window(NOW - 2 * DAY, NOW - 1.5 * DAY)
    running = job._replace(state="running", started=NOW, done=(half,), rows=7_000)
    done = running._replace(state="done", ended=NOW + timedelta(seconds=63), rows=12_345, requests=17)
    follow(None, restored(), restored(job), None, restored(running), restored(done))
    written = capfd.readouterr()
    assert written.out == ""
    assert written.err.splitlines() == [
        "job job-1 is waiting: no worker has read the command yet",
        "job job-1 is done: 12,345 rows published, 17 requests, 1 min 3 s",
    ]


def test_backfill_wait_fails_if_the_job_fails_or_is_cancelled() -> None:
    job = Job("job-1", Window(NOW - 2 * DAY, NOW - DAY), NOW, ended=NOW)
    with pytest.raises(FatalError, match=r"job job-1 was cancelled: 0 rows published"):
        follow(restored(job._replace(state="cancelled")))
    with pytest.raises(FatalError, match=r"job job-1 has failed \(too old\)"):
        follow(restored(job._replace(state="failed", reason="too old")))
    follow(restored(control=7), restored(job._replace(state="done"), control=8))
    with pytest.raises(FatalError, match="was ignored: the worker's configuration has no tenant contoso"):
        follow(restored(control=7), restored(control=8))


def test_tenant_found_only_in_state_shows_as_not_configured() -> None:
    subject = ReportedTenant("aa", None, 3)
    known = msgspec.structs.replace(checkpoint(), records=5)
    tenant = status_json.tenant(subject, known, NOW, failing=None, remembered=4)
    assert (tenant["id"], tenant["name"], tenant["state"], tenant["reason"]) == (
        "aa",
        None,
        "unknown",
        "not configured",
    )
    assert (tenant["records"], tenant["remembered_rows"]) == (5, 4)
