"""Backfills and the other commands, with the real service as a process on a real broker."""

import json
import random
import threading
import uuid
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer

from connector.kafka.control import partition_of
from tests import commands, oracle
from tests.conftest import SharedBroker
from tests.simulation import Simulation
from tests.workers import Worker

Simulate = Callable[..., Simulation]
NewWorker = Callable[..., Worker]
Settings = Callable[..., dict[str, Any]]

KILLS = 5
NAMES = ("contoso", "fabrikam")
# Rows change at most 6 h after the start of the call. Older calls are read only by the backfill.
SOON = {
    "durations": "mixed",
    "lateness": "0.8:0s-1m,0.2:1m-30m",
    "revised": 0.02,
    "revised_after": "1:1m-2h",
    "moved": 0.0,
}
SHORT = {"durations": "short", "lateness": "none", "revised": 0.0}


def tenants(source: Simulation, start: str) -> list[dict[str, str]]:
    return [{"id": tenant, "name": name, "start": start} for tenant, name in zip(source.tenants, NAMES, strict=False)]


def remaining_seconds(bootstrap: str, app: str) -> dict[str, list[float]]:
    """Return the remaining seconds of each job at each commit, read from the state topic."""
    left: dict[str, list[float]] = defaultdict(list)
    for entry in oracle.read(bootstrap, f"{app}.state"):
        record = json.loads(entry.value)
        for job in record.get("jobs", ()):
            start, end = job["window"]
            done = sum(b - a for a, b in job.get("done", ()))
            left[job["id"]].append(0 if job.get("state") == "done" else end - start - done)
    return left


def rows_of(worker: Worker, job: str) -> int:
    return next((int(found["rows"]) for found in worker.status().get("jobs", ()) if found["id"] == job), 0)


def until_job(worker: Worker, job: str, *states: str) -> dict[str, Any]:
    """Wait until a job is in one of these states; return the job as the running worker reports it."""

    def found() -> dict[str, Any]:
        return next((one for one in worker.status().get("jobs", ()) if one["id"] == job), {})

    worker.until(lambda: found().get("state") in states, f"job {job} to be {' or '.join(states)}")
    return found()


def wait_a_moment(seconds: float) -> None:
    """Let real time pass, so that SIGKILL is sent at a random moment."""
    threading.Event().wait(seconds)


def until_swept(worker: Worker, source: Simulation, recent: timedelta) -> None:
    """Freeze the source, then wait until the sweeps have read the last `recent` of call time once more."""
    frozen_at = source.freeze()

    def is_swept(tenant: dict[str, Any]) -> bool:
        pieces = [p for p in tenant["coverage"] if datetime.fromisoformat(p["to"]) > frozen_at - recent]
        return bool(pieces) and all(datetime.fromisoformat(piece["last_read"]) >= frozen_at for piece in pieces)

    def are_swept() -> bool:
        known = worker.status()["tenants"]
        return len(known) == len(source.tenants) and all(map(is_swept, known))

    worker.until(are_swept, "the newest calls to be read")


@pytest.mark.timeout(600)
def test_backfill_stays_exactly_once_across_five_kills(
    broker: SharedBroker, topic: str, app: str, simulate: Simulate, new_worker: NewWorker, settings: Settings
) -> None:
    """The job is submitted before a worker runs.

    New calls arrive meanwhile, but the job's remaining call time never grows.
    """
    moments = random.Random(5)
    source = simulate(days=4, calls_per_day=2_000, page_size=100, **SOON)
    configured = settings(source, tenants=tenants(source, "-6h"), graph={"requests_per_minute": 600})
    worker = new_worker(configured)
    assert worker.run_once() == 0
    job = commands.succeed(worker.config, "backfill", "--tenant", "contoso", "--from", "-5d", "--to", "-5h")
    assert str(uuid.UUID(job)) == job
    waiting = commands.jobs(worker.config)[job]
    assert (waiting["state"], waiting["reason"], waiting["rows"]) == ("waiting", "no worker is running", 0)
    rows = 0
    for _ in range(KILLS):
        worker.start()
        worker.until(lambda least=rows: rows_of(worker, job) > least, "progress of the backfill")  # type: ignore[misc]
        wait_a_moment(moments.uniform(0, 0.6))
        rows = max(rows, rows_of(worker, job))
        worker.kill()
    assert commands.jobs(worker.config)[job]["state"] == "running", "the job ended before the last kill"
    worker.start()
    done = until_job(worker, job, "done", "failed")
    assert (done["state"], done["remaining_seconds"]) == ("done", 0)
    until_swept(worker, source, timedelta(hours=5, minutes=59))
    assert worker.stop() == 0
    found = oracle.check(broker.bootstrap, topic, app, source.truth(), claims=False)
    assert len(found.newest) > 7_000
    assert done["rows"] > 7_000
    left = remaining_seconds(broker.bootstrap, app)[job]
    assert left == sorted(left, reverse=True)
    assert len(set(left)) > KILLS


def test_republished_rows_keep_their_revision_numbers(
    broker: SharedBroker, topic: str, app: str, simulate: Simulate, new_worker: NewWorker, settings: Settings
) -> None:
    """Rows outside of the range are not published again, even if the worker is killed during the job."""
    source = simulate(days=4, calls_per_day=2_000, page_size=200, **{**SOON, "revised": 0.1}, clock_offset_s=-43_200)
    configured = settings(source, tenants=tenants(source, "-5d"))
    worker = new_worker(configured)
    worker.start()
    worker.until(lambda: worker.metric("rows_total", outcome="published") > 6_000, "the history")
    source.set_clock_offset(timedelta())
    worker.until_complete(source.freeze())
    assert worker.stop() == 0
    before = oracle.check(broker.bootstrap, topic, app, source.truth(), claims=False)
    # Slow enough that the worker can be killed during the job. No new rows appear, so sweeps leave it the budget.
    graph = {**configured["graph"], "requests_per_minute": 600}
    slow = new_worker({**configured, "graph": graph, "windows": {"sweeps": [{"every": "2s", "overlap": "10m"}]}})
    end = datetime.now(UTC).replace(microsecond=0) - timedelta(hours=12)
    start = end - timedelta(days=3)
    bounds = ("--from", start.isoformat(), "--to", end.isoformat())
    job = commands.succeed(slow.config, "backfill", "--tenant", source.tenants[0].upper(), *bounds, "--again")
    for share in (0, 2_500):
        slow.start()
        slow.until(lambda least=share: rows_of(slow, job) > least, "rows to be published again")  # type: ignore[misc]
        slow.kill()
    slow.start()
    done = until_job(slow, job, "done", "failed")
    assert slow.stop() == 0
    after = oracle.committed(broker.bootstrap, topic, app)
    came = Counter((row.id, row.revision) for row in after.rows) - Counter(
        (row.id, row.revision) for row in before.rows
    )
    first_ms, last_ms = (int(moment.timestamp() * 1000) for moment in (start, end))
    expected = Counter(
        (row.id, row.revision)
        for row in before.newest.values()
        if first_ms <= (row.fields["startDateTime"] or 0) < last_ms
    )
    assert came == expected
    assert any(revision for _, revision in expected)
    assert done["rows"] == expected.total() > 5_000
    assert {key: row.fields for key, row in after.newest.items()} == {
        key: row.fields for key, row in before.newest.items()
    }


class Scene:
    """Worker with two tenants whose sweeps read only the newest hour."""

    def __init__(self, worker: Worker, source: Simulation, bootstrap: str, app: str) -> None:
        self.worker = worker
        self.source = source
        self.config = worker.config
        self._control = f"{app}.control"
        self._producer = Producer(
            {"bootstrap.servers": bootstrap, "enable.idempotence": True, "linger.ms": 0, "log_level": 0}
        )

    def backfill(self, *arguments: str, tenant: str = "contoso") -> str:
        return commands.succeed(self.config, "backfill", "--tenant", tenant, *arguments)

    def write(self, value: bytes | None, partition: int = 0, key: bytes | None = None) -> None:
        """Write a record to the control topic."""
        self._producer.produce(self._control, value, key, partition)
        assert self._producer.flush(10) == 0

    def order(self, tenant: str, **members: Any) -> bytes:
        """Write a command into the partition of its tenant; return its value."""
        record = {"id": str(uuid.uuid4()), "tenant": tenant, "filed": "2026-01-01T00:00:00Z", **members}
        value = json.dumps(record).encode()
        self.write(value, partition_of(tenant, 2), tenant.encode())
        return value


@pytest.fixture
def scene(broker: SharedBroker, app: str, simulate: Simulate, new_worker: NewWorker, settings: Settings) -> Scene:
    source = simulate(tenants=2, days=3, calls_per_day=4_000, **SHORT)
    worker = new_worker(settings(source, tenants=tenants(source, "-1h"), graph={"requests_per_minute": 1_200}))
    assert worker.run_once() == 0
    return Scene(worker, source, broker.bootstrap, app)


def test_overlapping_backfills_publish_each_row_once(scene: Scene, broker: SharedBroker, topic: str, app: str) -> None:
    """The second job waits for the first one. With --wait, the command prints only the job id and exits with 0."""
    first = scene.backfill("--from", "-4d", "--to", "-10h")
    scene.worker.start()
    waiting = commands.start(
        scene.config, "backfill", "--tenant", scene.source.tenants[0], "--from", "-2d", "--to", "-30m", "--wait"
    )
    other = scene.backfill("--from", "-4d", "--to", "-30m", tenant="fabrikam")
    done = commands.ended(waiting)
    assert done.code == 0, done
    second = done.output.removesuffix("\n")
    assert str(uuid.UUID(second)) == second
    assert f"job {second} is done: " in done.error
    until_job(scene.worker, other, "done")
    found = commands.jobs(scene.config)
    assert [found[job]["state"] for job in (first, second, other)] == ["done", "done", "done"]
    assert {job["id"]: job for job in scene.worker.status()["jobs"]} == found
    assert found.keys() == {first, second, other}
    assert 0 < found[second]["rows"] < 2_000 < found[first]["rows"]
    until_swept(scene.worker, scene.source, timedelta(minutes=59))
    status = commands.status(scene.config)
    assert scene.worker.stop() == 0
    rows = oracle.check(broker.bootstrap, topic, app, scene.source.truth(), claims=False).rows
    of_tenants = Counter(row.tenant for row in rows)
    assert {tenant["id"]: tenant["records"] for tenant in status["tenants"]} == of_tenants
    assert {tenant["id"]: tenant["remembered_rows"] for tenant in status["tenants"]} == of_tenants


def test_pause_and_cancel_commands_survive_a_worker_restart(scene: Scene) -> None:
    """A paused tenant sends no requests, while another tenant is read.

    `--wait` exits with 1 if its job is cancelled.
    """
    paused, other = scene.source.tenants
    commands.succeed(scene.config, "pause", "--tenant", "contoso")
    job = scene.backfill("--from", "-3d", "--to", "-2h")
    tenants_now = {tenant["id"]: tenant for tenant in commands.status(scene.config)["tenants"]}
    assert (tenants_now[paused]["state"], tenants_now[other]["state"]) == ("paused", "ok")
    scene.worker.start()
    scene.worker.until(lambda: scene.worker.metric("tenant_paused", tenant="contoso") == 1, "the tenant to be paused")
    before = len(_asked(scene, paused))
    others = len(_asked(scene, other))
    scene.worker.until(lambda: len(_asked(scene, other)) > others + 3, "more requests for the other tenant")
    found = commands.jobs(scene.config)[job]
    assert (found["state"], found["reason"]) == ("waiting", "the tenant is paused: run connector resume to continue")
    scene.worker.kill()
    scene.worker.start()
    scene.worker.until_ready()
    scene.worker.until(lambda: len(_asked(scene, other)) > others + 6, "more requests for the other tenant")
    assert len(_asked(scene, paused)) == before
    waiting = commands.start(scene.config, "backfill", "--tenant", "contoso", "--from", "-2d", "--to", "-1h", "--wait")
    second = commands.first_line(waiting.output)
    commands.succeed(scene.config, "cancel", second)
    done = commands.ended(waiting)
    assert (done.code, f"job {second} was cancelled" in done.error) == (1, True), done
    second_cancel = commands.run(scene.config, "cancel", second)
    assert (second_cancel.code, second_cancel.error) == (0, f"job {second} is already cancelled\n")
    commands.succeed(scene.config, "resume", "--tenant", "contoso")
    until_job(scene.worker, job, "done")
    ended = commands.run(scene.config, "cancel", job)
    assert (ended.code, ended.error) == (1, f"job {job} has already ended (done), so it cannot be cancelled\n")
    scene.worker.until(lambda: scene.worker.tenant(paused).get("state") == "ok", "the tenant to be read again")
    assert commands.jobs(scene.config)[second]["rows"] == 0
    assert scene.worker.stop() == 0


def _asked(scene: Scene, tenant: str) -> list[Any]:
    return [request for request in scene.source.requests() if request.tenant == tenant]


def test_backfill_continues_after_ctrl_c_during_wait(scene: Scene) -> None:
    waiting = commands.start(scene.config, "backfill", "--tenant", "contoso", "--from", "-3d", "--to", "-2h", "--wait")
    job = commands.first_line(waiting.output)
    assert commands.first_line(waiting.error) == f"job {job} is waiting: no worker has read the command yet"
    done = commands.interrupt(waiting)
    last = done.error.splitlines()[-1]
    assert (done.code, last) == (130, f"job {job} continues to run; run connector jobs to see its progress")
    scene.worker.start()
    until_job(scene.worker, job, "done")
    assert scene.worker.stop() == 0


def test_worker_ignores_invalid_records_on_the_control_topic(
    scene: Scene, broker: SharedBroker, topic: str, app: str
) -> None:
    """Garbage, oversized values, wrong types and unknown tenants are ignored. A repeated command takes effect once."""
    tenant = scene.source.tenants[0]
    shard = partition_of(tenant, 2)
    now = datetime.now(UTC)
    valid = {"from": (now - timedelta(days=2)).isoformat(), "to": (now - timedelta(days=1)).isoformat()}
    for value in (
        None,
        b"",
        b"\x00\xff\xfe garbage",
        b"{",
        b"[]",
        b"null",
        b"7",
        b'"text"',
        b"x" * 900_000,
        b"[" * 4_000,
    ):
        scene.write(value, shard, tenant.encode())
    scene.write(json.dumps({"id": str(uuid.uuid4()), "command": "pause"}).encode(), shard)
    hostile: list[Mapping[str, Any]] = [
        {"command": "explode"},
        {"command": "pause", "id": "no uuid"},
        {"command": "pause", "id": 7},
        {"command": "pause", "tenant": ["a"]},
        {"command": "pause", "filed": "yesterday"},
        {"command": "pause", "filed": {}},
        {"command": "backfill"},
        {"command": "backfill", "from": valid["to"], "to": valid["from"]},
        {"command": "backfill", "from": 1, "to": 2},
        {"command": "backfill", "from": "0001-01-01T00:00:00Z", "to": valid["to"]},
        {"command": "backfill", **valid, "again": "yes"},
        {"command": "cancel"},
        {"command": "cancel", "job": "*"},
        {"command": "cancel", "job": str(uuid.uuid4())},
    ]
    for members in hostile:
        record = {"id": str(uuid.uuid4()), "tenant": tenant, "filed": "2026-01-01T00:00:00Z", **members}
        scene.write(json.dumps(record).encode(), shard, tenant.encode())
    scene.order("00000000-0000-0000-0000-000000000000", command="pause")
    repeated = scene.order(tenant, command="backfill", **{"from": valid["from"], "to": "9999-12-31T23:59:59Z"})
    for _ in range(3):
        scene.write(repeated, shard)
    for _ in range(150):
        scene.order(tenant, command="backfill", **valid)
    future = scene.order(tenant, command="backfill", **{"from": "2200-01-01T00:00:00Z", "to": "9999-12-31T00:00:00Z"})
    expected = Counter({"waiting": 100, "failed": 50})
    assert Counter(job["state"] for job in commands.jobs(scene.config).values()) == expected
    scene.worker.start()
    scene.worker.until(lambda: len(scene.worker.status().get("jobs", ())) == 150, "the commands to be applied")
    jobs = commands.jobs(scene.config)
    assert jobs[json.loads(future)["id"]]["state"] == "failed"
    assert "in the future" in jobs[json.loads(future)["id"]]["reason"]
    cut = jobs[json.loads(repeated)["id"]]
    assert datetime.fromisoformat(cut["to"]) < datetime.now(UTC)
    assert scene.worker.tenant(tenant)["state"] != "paused"
    until_job(scene.worker, cut["id"], "done")
    for job in jobs:
        scene.order(tenant, command="cancel", job=job)
    last = scene.backfill("--from", "-4d", "--to", "-30m")
    until_job(scene.worker, last, "done")
    scene.backfill("--from", "-4d", "--to", "-30m", "--wait", tenant="fabrikam")
    until_swept(scene.worker, scene.source, timedelta(minutes=59))
    assert len(scene.worker.named("shard_restored")) == 2, "a shard restarted"
    assert len(scene.worker.named("command_ignored")) > 20
    assert scene.worker.stop() == 0
    oracle.check(broker.bootstrap, topic, app, scene.source.truth(), claims=False)


def test_status_command_lists_tenants_while_no_worker_runs(scene: Scene) -> None:
    known, gone = scene.source.tenants
    unknown = "99999999-9999-9999-9999-999999999999"
    listed = [tenant for tenant in scene.worker.settings["tenants"] if tenant["id"] == known]
    scene.worker.configure(
        {**scene.worker.settings, "tenants": [*listed, {"id": unknown, "name": "stranger", "start": "-1h"}]}
    )
    status = commands.status(scene.config)
    assert {"app", "topic", "version", "shards", "tenants", "jobs"} <= status.keys()
    assert (status["shards"], status["workers"]) == (2, 0)
    first, new, left = status["tenants"]
    assert (first["id"], first["name"], first["state"], first["reason"]) == (known, "contoso", "ok", None)
    assert first["shard"] == partition_of(known, 2)
    assert 0 < first["lag_seconds"] < 60
    assert first["records"] == first["remembered_rows"] > 100
    assert (first["gap_seconds"], first["gaps"]) == (0, [])
    assert first["coverage"][-1]["to"] == first["covered_through"]
    assert [sweep["every"] for sweep in first["sweeps"]] == ["2s", "5s"]
    assert all(sweep["last_ok"] for sweep in first["sweeps"])
    assert (new["name"], new["state"], new["reason"]) == ("stranger", "unknown", "no worker has read the tenant yet")
    assert (left["id"], left["name"], left["state"], left["reason"]) == (gone, None, "unknown", "not configured")
    assert left["records"] > 100
    text = commands.succeed(scene.config, "status")
    assert "Call time that was read" in text
    assert "\x1b" not in text
    scene.worker.configure({**scene.worker.settings, "kafka": {**scene.worker.settings["kafka"], "shards": 3}})
    refused = commands.run(scene.config, "jobs")
    assert (refused.code, refused.output) == (1, "")
    assert refused.error.endswith(": set kafka.shards = 2; to change the number, use connector copy-state\n")
    wrong = commands.run(scene.config, "backfill", "--tenant", gone, "--from", "-2d", "--to", "-1d")
    assert (wrong.code, wrong.output) == (2, "")


def test_cancel_command_exits_2_for_an_unknown_job(scene: Scene) -> None:
    for job in (str(uuid.uuid4()), "nonsense"):
        done = commands.run(scene.config, "cancel", job)
        assert (done.code, done.output, done.error.count("\n")) == (2, "", 1)
        assert job in done.error


def test_commands_report_that_no_worker_has_ever_run(
    simulate: Simulate, new_worker: NewWorker, settings: Settings, app: str
) -> None:
    source = simulate(days=1, calls_per_day=10)
    config = new_worker(settings(source)).config
    status = commands.status(config)
    reason = f"no worker has ever run with kafka.app = {app}"
    assert [(tenant["state"], tenant["reason"]) for tenant in status["tenants"]] == [("unknown", reason)]
    assert commands.jobs(config) == {}
    filed = commands.run(config, "pause", "--tenant", source.tenants[0])
    assert (filed.code, filed.output, filed.error.count("\n")) == (1, "", 1)
    assert filed.error.startswith(reason)


@pytest.mark.parametrize("name", ["status", "backfill", "jobs", "cancel", "pause", "resume"])
def test_help_of_operator_commands_shows_example_and_config(name: str, tmp_path: Path) -> None:
    done = commands.ended(commands.start(tmp_path / "none.toml", name, "--help"))
    assert (done.code, done.error) == (0, "")
    assert f"connector {name}" in done.output.partition("Example:\n")[2]
    assert "--config" in done.output


def test_operator_commands_exit_1_if_brokers_are_unavailable(tmp_path: Path) -> None:
    config = tmp_path / "connector.toml"
    config.write_text(
        'identity = {client_id = "x", client_secret = "y"}\n'
        'tenants = [{id = "11111111-1111-1111-1111-111111111111", name = "contoso"}]\n'
        'kafka = {bootstrap_servers = "127.0.0.1:1"}\n',
        encoding="utf-8",
    )
    of_tenant = ("--tenant", "contoso")
    calls = [("status",), ("jobs", "--json"), ("cancel", str(uuid.uuid4())), ("pause", *of_tenant)]
    calls.append(("backfill", *of_tenant, "--from", "-2d", "--to", "-1d"))
    for process in [commands.start(config, *call) for call in calls]:
        done = commands.ended(process)
        assert (done.code, done.output) == (1, ""), done
        assert done.error.startswith("no broker answers at 127.0.0.1:1 (")
        assert done.error.count("\n") == 1
