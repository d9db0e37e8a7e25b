"""Simulated errors of Graph and its gateways: JSON errors, HTML, Retry-After headers, and closed connections."""

import asyncio
import math
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import NoReturn

import msgspec
from aiohttp import web

from connector.simulator.arrivals import ReceivedRequest
from connector.simulator.world import World

JSON_TYPE = "application/json;odata.metadata=minimal;odata.streaming=true;IEEE754Compatible=false;charset=utf-8"


def root_of(request: web.Request) -> str:
    """Return scheme and host of a request's URL, as the client wrote them."""
    return f"https://{request.host}"


def error(world: World, note: ReceivedRequest, status: int, code: str, text: str, **headers: str) -> web.Response:
    """Return an error response with a JSON body in the format of Graph."""
    body = {
        "error": {
            "code": code,
            "message": text,
            "innerError": {
                "date": f"{world.now():%Y-%m-%dT%H:%M:%S}",
                "request-id": note.request_id,
                "client-request-id": note.client_request_id or note.request_id,
            },
        }
    }
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return web.Response(status=status, body=msgspec.json.encode(body), headers={"Content-Type": JSON_TYPE, **named})


def html(status: int, headers: Mapping[str, str] | None = None) -> web.Response:
    """Return a response with an HTML body, as gateways send it."""
    text = f"<html><head><title>{status}</title></head><body><h1>{status} Service error</h1></body></html>"
    return web.Response(status=status, text=text, content_type="text/html", headers=headers)


def retry_after(world: World, tenant: str | None, seconds: float | None = None) -> dict[str, str]:
    """Return a Retry-After header for `seconds`, rounded down.

    Without `seconds`, the setting `retry_after` determines the form of the header, and whether there is one.
    """
    if seconds is not None:
        return {"Retry-After": str(int(seconds))}
    form = world.faults.setting("retry_after", tenant)
    if form == "mixed":
        form = world.faults.random.choice(("seconds", "date", "none"))
    wait_s = world.faults.number("retry_after_s", tenant)
    if form == "none":
        return {}
    if form == "date":
        moment = world.now() + timedelta(seconds=wait_s + 0.999)
        return {"Retry-After": format_datetime(moment.astimezone(UTC), usegmt=True)}
    return {"Retry-After": str(math.ceil(wait_s))}


async def never(request: web.Request) -> NoReturn:
    """Wait until the client closes the connection, and never send a response."""
    # asyncio has no event for a client that closes the connection, so the state is polled.
    while request.transport is not None and not request.transport.is_closing():  # noqa: ASYNC110
        await asyncio.sleep(0.05)
    raise ConnectionResetError


def drop(request: web.Request) -> web.Response:
    """Close the connection without sending a response. aiohttp requires the returned response, but cannot send it."""
    if request.transport is not None:
        request.transport.abort()
    return web.Response(status=503)


def finish(world: World, note: ReceivedRequest, response: web.StreamResponse) -> None:
    """Add the request ids that every response of Graph has. If `date_skew_s` is set, also add a wrong Date header."""
    response.headers["request-id"] = note.request_id
    response.headers["client-request-id"] = note.client_request_id or note.request_id
    skew_s = world.faults.number("date_skew_s", note.tenant)
    if skew_s:
        moment = datetime.now(UTC) + timedelta(seconds=skew_s)
        response.headers["Date"] = format_datetime(moment, usegmt=True)


def too_many(world: World, note: ReceivedRequest, headers: dict[str, str]) -> web.Response:
    """Return a response with status 429."""
    response = error(world, note, 429, "TooManyRequests", "Too many requests have been sent. Please try again later.")
    response.headers.update(headers)
    return response
