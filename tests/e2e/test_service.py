"""The service as an operator sees it: exit codes, health, shutdown, and tenants that fail."""

import json
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests import oracle
from tests.conftest import SharedBroker
from tests.simulation import Simulation
from tests.workers import ROOT, Worker

Simulate = Callable[..., Simulation]
NewWorker = Callable[..., Worker]
Settings = Callable[..., dict[str, Any]]

TINY = {"days": 0.1, "calls_per_day": 1_000, "frozen": True}
UNKNOWN_TENANT = "99999999-9999-4999-8999-999999999999"


def test_run_once_exits_1_if_a_sweep_failed(simulate: Simulate, new_worker: NewWorker, settings: Settings) -> None:
    source = simulate(**TINY, tenants=2)
    right = settings(source)
    assert new_worker(right).run_once() == 0
    wrong = {**source.identity, "client_secret": "wrong"}
    first, second = right["tenants"]
    assert new_worker({**right, "tenants": [first, {**second, **wrong}]}).run_once() == 1
    assert new_worker({**right, "kafka": {"topic": "x"}}).run_once() == 2


def test_failing_tenant_shows_a_remedy_while_others_are_read(
    broker: SharedBroker,
    topic: str,
    app: str,
    simulate: Simulate,
    new_worker: NewWorker,
    settings: Settings,
    tmp_path: Path,
) -> None:
    """A wrong secret, a missing role or an unknown tenant fails only its tenant. SIGHUP reloads a fixed secret."""
    source = simulate(**TINY, tenants=3, without_role=1)
    good, secretless, roleless = source.tenants
    secret = tmp_path / "secret"
    secret.write_text("wrong\n", encoding="utf-8")
    configured = settings(
        source,
        tenants=[
            {"id": good, "name": "good"},
            {"id": secretless, "name": "secretless", "client_secret": {"file": str(secret)}},
            {"id": roleless, "name": "roleless"},
            {"id": UNKNOWN_TENANT, "name": "stranger"},
        ],
    )
    worker = new_worker(configured)
    worker.start()
    expected = {"secretless": "sign_in", "roleless": "permission", "stranger": "sign_in"}
    worker.until(
        lambda: all(worker.metric("tenant_failing", tenant=t, reason=r) == 1 for t, r in expected.items()),
        "three tenants to fail",
    )
    since = datetime.now(UTC)
    worker.until(lambda: _is_fresh(worker, good, since), "the valid tenant to be read")
    assert worker.metric("tenant_up", tenant="good") == 1
    assert worker.metric("tenant_failing", tenant="good") == 0
    assert worker.get("/readyz")[0] == worker.get("/livez")[0] == 200
    states = {tenant["name"]: tenant for tenant in worker.status()["tenants"]}
    for name in expected:
        assert worker.metric("tenant_up", tenant=name) == 0
        assert states[name]["state"] == "failing"
        assert len(states[name]["reason"].split()) > 5
    assert "CallRecords.Read.All" in states["roleless"]["reason"]
    # msal repeats a cached refusal as long as the request is the same. A new secret makes it a different request.
    secret.write_text(f"{source.identity['client_secret']}\n", encoding="utf-8")
    worker.signal(signal.SIGHUP)
    worker.until(lambda: _is_fresh(worker, secretless, since), "the repaired tenant to be read", 15)
    worker.until(lambda: worker.metric("tenant_failing", tenant="secretless") == 0, "the end of the failure")
    assert worker.stop() == 0
    text = worker.log.read_text(encoding="utf-8")
    assert source.identity["client_secret"] not in text
    oracle.check(broker.bootstrap, topic, app, source.truth(good, secretless))


def test_worker_becomes_unready_only_if_every_tenant_fails(
    simulate: Simulate, new_worker: NewWorker, settings: Settings
) -> None:
    source = simulate(**TINY, without_role=1)
    worker = new_worker(settings(source))
    worker.start()
    worker.until_logged("shard_restored")
    worker.until(lambda: "every tenant fails" in worker.get("/readyz")[1], "/readyz to state that every tenant fails")
    code, body = worker.get("/readyz")
    assert (code, json.loads(body)["ready"]) == (503, False)
    assert worker.get("/livez")[0] == 200
    assert worker.stop() == 0


@pytest.mark.parametrize("faults", [{"hang": 1.0}, {"sign_in_hang": 1.0}, {"down": True}], ids=lambda f: next(iter(f)))
def test_worker_stops_within_10_s_if_graph_or_sign_in_hangs(
    simulate: Simulate, new_worker: NewWorker, settings: Settings, faults: dict[str, Any]
) -> None:
    source = simulate(**TINY, faults=faults)
    worker = new_worker(settings(source, graph={"timeout": "30s"}))
    worker.start()
    worker.until_ready()
    assert worker.stop(10.5) == 0


def test_hanging_sign_in_delays_no_other_tenant(simulate: Simulate, new_worker: NewWorker, settings: Settings) -> None:
    source = simulate(**TINY, tenants=3)
    source.set_faults(source.tenants[0], sign_in_hang=1.0)
    worker = new_worker(settings(source, kafka={"shards": 1}))
    worker.start()
    since = datetime.now(UTC)
    for tenant in source.tenants[1:]:
        worker.until(lambda t=tenant: _is_fresh(worker, t, since), "the other tenants to be read", 30)  # type: ignore[misc]
    assert worker.metric("tenant_up", tenant=source.tenants[0]) == 0
    assert worker.stop() == 0


def test_metrics_of_a_tenant_exist_before_its_first_event(
    simulate: Simulate, new_worker: NewWorker, settings: Settings
) -> None:
    """Known defect of Redpanda Connect, PR 4664."""
    source = simulate(**TINY, faults={"sign_in_hang": 1.0})
    worker = new_worker(settings(source))
    worker.start()
    worker.until_ready()
    tenant = source.tenants[0]
    for outcome in ("published", "revised", "duplicate", "dead_letter"):
        assert [value for _, value in worker.series("rows_total", tenant=tenant, outcome=outcome)] == [0]
    for name in (
        *("lag_seconds", "covered_through_timestamp_seconds", "gap_seconds", "gaps", "commit_delay_seconds_count"),
        *("row_lateness_seconds_count", "graph_throttled_seconds_total", "graph_budget_used_ratio", "tenant_up"),
        *("tenant_paused", "remembered_rows", "unknown_properties_total", "backfill_remaining_seconds"),
    ):
        assert len(worker.series(name, tenant=tenant)) == 1, name
    assert worker.stop() == 0


def test_run_command_exits_1_with_a_reason_if_its_port_is_taken(
    simulate: Simulate, new_worker: NewWorker, settings: Settings
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        worker = new_worker(settings(simulate(**TINY), http={"listen": listen}))
        worker.start()
        assert worker.wait() == 1
    log_text = worker.log.read_text(encoding="utf-8")
    assert listen in log_text
    assert "http.listen" in log_text
    assert "Traceback" not in log_text


_WRITING_NOTHING = (
    "import resource, runpy\n"
    "resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))\n"
    "runpy.run_module('connector', run_name='__main__')\n"
)


def test_worker_runs_without_writing_any_file(
    broker: SharedBroker, topic: str, app: str, simulate: Simulate, new_worker: NewWorker, settings: Settings
) -> None:
    """The kernel refuses every write to a file, as in a container with a read-only root and no home directory."""
    source = simulate(**TINY)
    worker = new_worker(settings(source), "-c", _WRITING_NOTHING, "run")
    nowhere = {"HOME": "/nonexistent", "TMPDIR": "/nonexistent", "PATH": "", "PYTHONPATH": str(ROOT)}
    worker.options = {"env": nowhere, "cwd": "/", "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    assert worker.run_once() == 0
    oracle.check(broker.bootstrap, topic, app, source.truth())


def _is_fresh(worker: Worker, tenant: str, since: datetime) -> bool:
    coverage = worker.tenant(tenant).get("coverage") or []
    return bool(coverage) and all(datetime.fromisoformat(piece["last_read"]) >= since for piece in coverage)


def test_example_prints_each_published_row(
    simulate: Simulate, new_worker: NewWorker, settings: Settings, topic: str, broker: SharedBroker
) -> None:
    source = simulate(**TINY, lateness="none", revised=0.0)
    assert new_worker(settings(source)).run_once() == 0
    rows = {row.id for row in source.truth()[source.tenants[0]]}
    command = [sys.executable, str(ROOT / "examples" / "print_rows.py"), broker.bootstrap, topic]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        printed = {program.stdout.readline().split()[1] for _ in rows}
        program.terminate()
    assert printed == rows
