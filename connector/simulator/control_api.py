"""HTTP interface below /simulator/, with which tests and the demo control the simulator."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from datetime import timedelta
from typing import cast

import msgspec
from aiohttp import web

from connector.simulator.graph import parse_instant
from connector.simulator.options import duration_s
from connector.simulator.world import TruthRow, World

_ROWS_A_WRITE = 500
_REQUESTS = 1000
Refuse = Callable[[float], Awaitable[None]]


async def answer(world: World, request: web.Request, refuse: Refuse) -> web.StreamResponse:
    """Answer a request to the control interface. An invalid request gets status 400 with the reason.

    `refuse` is a function that closes the port for a number of seconds.
    """
    name = request.path.removeprefix("/simulator/")
    reads = {"truth": _truth, "served": _served}
    try:
        if request.method == "GET" and name in reads:
            return await reads[name](world, request)
        if request.method == "GET":
            return _get(world, request, name)
        if request.method == "POST":
            return await _post(world, request, name, refuse)
    except (ValueError, KeyError) as wrong:
        return _json({"error": str(wrong)}, 400)
    return _json({"error": "this path does not exist; see connector simulate --help"}, 404)


def _get(world: World, request: web.Request, name: str) -> web.Response:
    if name == "requests":
        return _json(requests(world, request.query.get("tenant"), int(request.query.get("limit", _REQUESTS))))
    if name == "faults":
        return _json(world.faults.described())
    if name == "clock":
        return _json(_clock(world))
    return _json({"error": f"there is no endpoint {name}; see connector simulate --help"}, 404)


async def _post(world: World, request: web.Request, name: str, refuse: Refuse) -> web.Response:
    body: object = msgspec.json.decode(await request.read() or b"{}")
    if not isinstance(body, dict):
        message = "send a JSON object"
        raise ValueError(message)  # noqa: TRY004
    asked = cast("dict[str, object]", body)
    if name == "faults":
        tenant = asked.pop("tenant", None)
        if asked.pop("clear", False):
            world.faults.clear()
        world.set_faults(asked, None if tenant is None else str(tenant))
        return _json(world.faults.described())
    if name == "freeze":
        world.freeze(on=asked.get("on", True) is True)
        return _json(_clock(world))
    if name == "clock":
        world.set_offset(timedelta(seconds=duration_s(str(asked.get("offset", "0s")))))
        return _json(_clock(world))
    if name == "expire-tokens":
        return _json({"expired": world.sign_in.expire()})
    if name == "refuse":
        await refuse(duration_s(str(asked.get("for", "10s"))))
        return _json({"refused": True})
    return _json({"error": f"there is no endpoint {name}; see connector simulate --help"}, 404)


def _clock(world: World) -> dict[str, object]:
    return {
        "data_now": world.data_now(),
        "now": world.now(),
        "offset_seconds": world.offset.total_seconds(),
        "frozen": world.frozen_at is not None,
        "since": world.since,
    }


def requests(world: World, tenant: str | None = None, limit: int = _REQUESTS) -> dict[str, object]:
    """Return counters of all requests, and the latest `limit` requests. With `tenant`, only those of this tenant."""
    counts: dict[str, dict[str, dict[str, int]]] = {}
    for (kind, of, status), count in sorted(world.visits.counts.items(), key=str):
        counts.setdefault(of or "", {}).setdefault(kind, {})[str(status)] = count
    newest = [note for note in world.visits.requests if tenant is None or note.tenant == tenant.lower()]
    return {
        "total": world.visits.total,
        "tenants": {
            of.id: {
                "graph_requests": of.arrivals.total,
                "max_in_60_s": of.arrivals.most,
                "by_status": counts.get(of.id, {}),
            }
            for of in world.tenants.values()
        },
        "without_tenant": counts.get("", {}),
        "requests": newest[-limit:] if limit else [],
    }


def _json(body: object, status: int = 200) -> web.Response:
    return web.Response(status=status, body=msgspec.json.encode(body), content_type="application/json")


async def _lines(rows: Iterable[TruthRow]) -> AsyncIterator[bytes]:
    lines: list[bytes] = []
    for row in rows:
        lines.append(msgspec.json.encode(row))
        if len(lines) == _ROWS_A_WRITE:
            yield b"\n".join(lines) + b"\n"
            lines.clear()
            await asyncio.sleep(0)
    if lines:
        yield b"\n".join(lines) + b"\n"


async def _stream(request: web.Request, rows: Iterable[TruthRow]) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
    await response.prepare(request)
    async for lines in _lines(rows):
        await response.write(lines)
    await response.write_eof()
    return response


async def _truth(world: World, request: web.Request) -> web.StreamResponse:
    query = request.query
    start, end, at = (parse_instant(query[name]) if name in query else None for name in ("from", "to", "at"))
    rows = world.truth(_tenant(world, request), start, end, at, is_beta=query.get("version") == "beta")
    return await _stream(request, rows)


async def _served(world: World, request: web.Request) -> web.StreamResponse:
    if "tenant" in request.query:
        return await _stream(request, world.served_rows(_tenant(world, request)))
    served = world.served()
    return _json({"versions": sum(of.versions for of in served.values()), "tenants": served})


def _tenant(world: World, request: web.Request) -> str:
    tenant = request.query.get("tenant", "")
    if tenant.lower() in world.tenants:
        return tenant
    if not tenant and len(world.tenants) == 1:
        return next(iter(world.tenants))
    message = f'there is no tenant "{tenant}": add ?tenant= with one of {", ".join(world.tenants)}'
    raise ValueError(message)
