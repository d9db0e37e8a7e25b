"""HTTP endpoints of the simulated sign-in, with faults."""

import asyncio
import re
from base64 import b64decode
from binascii import Error as Base64Error
from urllib.parse import unquote_plus
from uuid import uuid4

import msgspec
from aiohttp import web

from connector.simulator.arrivals import ReceivedRequest
from connector.simulator.responses import drop, html, never, retry_after, root_of
from connector.simulator.sign_in import Answer
from connector.simulator.world import World

DISCOVERY = re.compile(r"/([^/]+)/v2\.0/\.well-known/openid-configuration", re.IGNORECASE)
KEYS = re.compile(r"/([^/]+)/discovery/v2\.0/keys", re.IGNORECASE)
TOKEN = re.compile(r"/([^/]+)/oauth2/v2\.0/token", re.IGNORECASE)


async def answer(world: World, request: web.Request) -> web.StreamResponse:
    """Answer a request to the sign-in, and record the request."""
    token = TOKEN.fullmatch(request.path)
    found = token or DISCOVERY.fullmatch(request.path)
    name = found[1].lower() if found else ""
    tenant = name if name in world.tenants else None
    note = ReceivedRequest(
        at=world.now(),
        kind="token" if token else "discovery",
        tenant=tenant,
        url=request.raw_path,
        client_request_id=request.headers.get("client-request-id"),
        request_id=str(uuid4()),
    )
    try:
        response = await _answer(world, request, note, found[1] if found else "")
    except ConnectionError:
        world.visits.note(note)
        raise
    closed = request.transport is None or request.transport.is_closing()
    note.status = 0 if closed else response.status
    note.complete = not closed
    note.retry_after = response.headers.get("Retry-After")
    world.visits.note(note)
    return response


async def _answer(world: World, request: web.Request, note: ReceivedRequest, tenant: str) -> web.StreamResponse:
    faults = world.faults
    if faults.setting("sign_in_down", note.tenant):
        note.fault = "sign_in_down"
        return drop(request)
    if faults.strikes("sign_in_hang", note.tenant):
        note.fault = "sign_in_hang"
        await never(request)
    if faults.strikes("sign_in_slow", note.tenant):
        note.fault = "sign_in_slow"
        await asyncio.sleep(faults.number("slow_s", note.tenant))
    if faults.strikes("sign_in_error", note.tenant):
        note.fault = "sign_in_error"
        return html(faults.random.choice((500, 502, 503)))
    if faults.strikes("sign_in_throttled", note.tenant):
        note.fault = "sign_in_throttled"
        body = Answer(429, {"error": "temporarily_unavailable", "error_description": "AADSTS90055: Too many requests."})
        return _json(body, retry_after(world, note.tenant))
    if note.kind == "discovery":
        return _json(world.sign_in.discovery(tenant, root_of(request), world.epoch_s()))
    if request.method != "POST":
        return web.Response(status=405)
    endpoint = f"{root_of(request)}{request.path}"
    form = {name: value for name, value in (await request.post()).items() if isinstance(value, str)}
    form = _basic_credentials(request.headers.get("Authorization", "")) | form
    return _json(world.sign_in.token(tenant, form, endpoint, world.epoch_s()))


def _basic_credentials(authorization: str) -> dict[str, str]:
    """Return the `client_id` and the `client_secret` that an Authorization header holds.

    The header must use the method client_secret_basic (RFC 6749, section 2.3.1). For any other header, the result is
    empty.
    """
    scheme, _, encoded = authorization.partition(" ")
    if scheme.lower() != "basic":
        return {}
    try:
        client, _, secret = b64decode(encoded, validate=True).decode().partition(":")
    except (Base64Error, UnicodeDecodeError):
        return {}
    return {"client_id": unquote_plus(client), "client_secret": unquote_plus(secret)}


def keys(world: World) -> web.Response:
    """Answer with the public keys for checking the signature of tokens."""
    return _json(world.sign_in.keys())


def _json(found: Answer, headers: dict[str, str] | None = None) -> web.Response:
    return web.Response(
        status=found.status,
        body=msgspec.json.encode(found.body),
        content_type="application/json",
        headers={"Cache-Control": "no-store, no-cache", "Pragma": "no-cache", **(headers or {})},
    )
