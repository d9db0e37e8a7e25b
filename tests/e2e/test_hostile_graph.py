"""Responses that are meant to do harm: the tenant fails, memory stays bounded, other tenants are not affected."""

import gzip
import json
from collections.abc import Callable
from functools import cache
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

from tests import oracle
from tests.hostile import HostileGraph, send
from tests.simulation import Simulation
from tests.workers import Worker

MAX_MIB = 512
"Pages take 384 MiB at most, see docs/scale.md, and everything else much less than 128 MiB."
PIECE = b" " * 65_536
IMPATIENT = (
    "-c",
    (
        "from connector.graph import health, source; health.PATIENCE_S, source.MAX_PAGES = 1.0, 200\n"
        "from connector.__main__ import main; main()"
    ),
    "run",
)
"`connector run` in which a tenant fails after one second of errors or 200 empty pages, not two minutes or 1,000 pages."


def normal_response(_: HostileGraph, handler: BaseHTTPRequestHandler) -> None:
    start = handler.path.split("fromDateTime=")[1].split(",")[0]
    send(handler, json.dumps({"value": [{"id": f"row-{n}", "startDateTime": start} for n in range(10)]}).encode())


def two_gigabytes(_: HostileGraph, handler: BaseHTTPRequestHandler) -> None:
    send(handler, b'{"value":[', length=2 << 30)
    for _piece in range((2 << 30) // len(PIECE)):
        handler.wfile.write(PIECE)


def endless_depth(_: HostileGraph, handler: BaseHTTPRequestHandler) -> None:
    send(handler, b'{"value":[' + b"[" * (30 << 20))


def compressed_bomb(_: HostileGraph, handler: BaseHTTPRequestHandler) -> None:
    send(handler, bomb(), encoding="gzip")


@cache
def bomb() -> bytes:
    """Return 512 MiB of zeros, compressed."""
    return gzip.compress(bytes(1 << 29), compresslevel=1)


def a_million_links(hostile: HostileGraph, handler: BaseHTTPRequestHandler) -> None:
    page = {"value": [], "@odata.nextLink": f"{hostile.url}/v1.0/next?{sum(hostile.asked.values())}"}
    send(handler, json.dumps(page).encode())


def an_endless_link(hostile: HostileGraph, handler: BaseHTTPRequestHandler) -> None:
    number = sum(hostile.asked.values())
    page = {"value": [], "@odata.nextLink": f"{hostile.url}/v1.0/next?{number}{'x' * (8 << 20)}"}
    send(handler, json.dumps(page).encode())


ATTACKS = (two_gigabytes, endless_depth, compressed_bomb, a_million_links, an_endless_link)


def most_mib(worker: Worker) -> int:
    """Return the peak resident memory of a worker in MiB."""
    assert worker.pid is not None
    status = Path(f"/proc/{worker.pid}/status").read_text(encoding="utf-8")
    return int(status.split("VmHWM:")[1].split()[0]) >> 10


def test_hostile_responses_fail_only_their_tenant(
    tmp_path: Path,
    simulate: Callable[..., Simulation],
    new_worker: Callable[..., Worker],
    settings: Callable[..., dict[str, Any]],
    broker: Any,
    topic: str,
) -> None:
    source = simulate(tenants=len(ATTACKS) + 1, days=1, calls_per_day=1)
    *hostile, other = source.tenants
    trusted = tmp_path / "authorities.pem"
    with HostileGraph(dict(zip(hostile, ATTACKS, strict=True)), normal_response) as graph:
        trusted.write_bytes(graph.authority + Path(source.ca).read_bytes())
        configured = settings(source, graph={"base_url": graph.url, "ca_bundle": str(trusted), "timeout": "20s"})
        worker = new_worker(configured, *IMPATIENT)
        worker.start()
        worker.until_ready()
        for tenant, attack in zip(hostile, ATTACKS, strict=True):
            reason = "rejected" if attack is a_million_links else "unreachable"
            worker.until(
                lambda tenant=tenant: worker.tenant(tenant).get("state") == "failing",  # type: ignore[misc]
                f"the tenant of {attack.__name__} to fail",
            )
            assert worker.metric("tenant_failing", tenant=tenant, reason=reason) == 1, attack.__name__
        before = graph.asked[other]
        worker.until(lambda: graph.asked[other] >= before + 5, "more requests for the other tenant")
        assert worker.tenant(other)["state"] == "ok"
        assert most_mib(worker) < MAX_MIB
        assert worker.stop() == 0
    assert {entry.key for entry in oracle.read(broker.bootstrap, topic)} == {f"row-{n}".encode() for n in range(10)}
