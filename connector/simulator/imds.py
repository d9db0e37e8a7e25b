"""Token endpoint for managed identities: a simulation of Azure's instance metadata service (IMDS).

It uses plain HTTP, as in Azure.
"""

from uuid import uuid4

import msgspec
from aiohttp import web

from connector.simulator.arrivals import ReceivedRequest
from connector.simulator.world import World

PATH = "/metadata/identity/oauth2/token"


async def answer(world: World, request: web.Request) -> web.StreamResponse:
    """Answer a token request, and record the request."""
    status, body = _answer(world, request)
    world.visits.note(
        ReceivedRequest(
            at=world.now(),
            kind="managed_token",
            tenant=next(iter(world.tenants)),
            url=request.raw_path,
            status=status,
            complete=True,
            client_request_id=request.headers.get("x-ms-client-request-id"),
            request_id=str(uuid4()),
        )
    )
    return web.Response(status=status, body=msgspec.json.encode(body), content_type="application/json")


def _answer(world: World, request: web.Request) -> tuple[int, dict[str, object]]:
    if request.path != PATH or request.method != "GET":
        return 404, _error("not_found", "This path does not exist.")
    if world.faults.setting("sign_in_down", None):
        return 503, _error("temporarily_unavailable", "The service is being updated.")
    if request.headers.get("Metadata", "").lower() != "true":
        return 400, _error("invalid_request", "Required metadata header not specified")
    if "X-Forwarded-For" in request.headers or "Via" in request.headers:
        return 400, _error("invalid_request", "Requests through a proxy are not answered")
    resource = request.query.get("resource", "").rstrip("/")
    if request.query.get("api-version", "") < "2018-02-01":
        return 400, _error("invalid_request", "Required query variable 'api-version' is missing or too old")
    if not resource.startswith("https://") or resource.endswith("/.default"):
        return 400, _error("invalid_resource", f"AADSTS500011: The resource principal named {resource} was not found")
    client = request.query.get("client_id")
    token = world.sign_in.managed(resource, client, world.epoch_s())
    if token is None:
        return 400, _error("invalid_request", "Identity not found")
    expires = int(world.epoch_s()) + world.sign_in.lifetime_s
    return 200, {
        "access_token": token,
        "client_id": client or world.sign_in.machine,
        "expires_in": str(world.sign_in.lifetime_s),
        "expires_on": str(expires),
        "ext_expires_in": str(world.sign_in.lifetime_s),
        "not_before": str(int(world.epoch_s())),
        "resource": resource,
        "token_type": "Bearer",
    }


def _error(error: str, text: str) -> dict[str, object]:
    return {"error": error, "error_description": text}
