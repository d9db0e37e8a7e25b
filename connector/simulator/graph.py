"""Simulated responses of Graph to getDirectRoutingCalls, with faults."""

import asyncio
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from urllib.parse import unquote
from uuid import uuid4

import msgspec
from aiohttp import web

from connector.simulator.arrivals import ReceivedRequest
from connector.simulator.faults import instants
from connector.simulator.pages import ServedPage
from connector.simulator.responses import JSON_TYPE, drop, error, finish, html, never, retry_after, root_of, too_many
from connector.simulator.world import SimulatedTenant, World, to_ms

LONGEST_RANGE = timedelta(days=90)
CHALLENGE = (
    'Bearer realm="", authorization_uri="https://login.microsoftonline.com/common/oauth2/authorize", '
    'client_id="00000003-0000-0000-c000-000000000000"'
)

_CALL = re.compile(
    r"/(v1\.0|beta)/communications/callRecords/(?:microsoft\.graph\.callRecords\.)?"
    r"getDirectRoutingCalls\(([^()]*)\)/?",
    re.IGNORECASE,
)
_ARGUMENTS = re.compile(r"\s*fromDateTime=([^,]*),\s*toDateTime=([^,]*)", re.IGNORECASE)
_INSTANT = re.compile(
    r"(\d{4}-\d{2}-\d{2})(?:T(\d{2}:\d{2})(:\d{2})?(?:\.(\d{1,7}))?(Z|[+-]\d{2}:\d{2}))?", re.IGNORECASE
)
_STATUSES = (500, 502, 503, 504, 509)
_GARBAGE = (
    b"\x1f\x8b\x08\x00garbage\xff\xfe",
    b'{"@odata.context":"x","value":[{"id":"\xff\xfe"}]}',
    b"<!DOCTYPE html><html><body><h1>Our services aren't available right now</h1></body></html>",
    b"",
    b"null}",
)
_NOT_PAGES = (
    b"[]",
    b"{}",
    b"null",
    b"42",
    b'"page"',
    b'{"value":null}',
    b'{"value":{}}',
    b'{"value":"none"}',
    b'{"error":{"code":"UnknownError","message":"","innerError":{}}}',
)


class _Ended(Exception):  # noqa: N818
    """Exception that ends the processing of a request early, and holds the response to send."""

    def __init__(self, response: web.StreamResponse, fault: str | None = None) -> None:
        super().__init__()
        self.response = response
        self.fault = fault


@dataclass(slots=True)
class _Question:
    request: web.Request
    note: ReceivedRequest
    tenant: SimulatedTenant
    is_beta: bool = False
    arguments: str = ""
    skip: int = 0
    marker: str = ""
    bounds: tuple[int, int] = (0, 0)

    @property
    def address(self) -> str:
        """Requested URL without its query."""
        return f"{root_of(self.request)}{self.request.raw_path.partition('?')[0]}"


def parse_instant(text: str) -> datetime:
    """Parse the time in an argument of a request.

    The text is a date, or a date and time with Z or an offset from UTC. Raises ValueError for any other text.
    """
    found = _INSTANT.fullmatch(text.strip())
    if not found:
        message = f"Invalid date time: {text}"
        raise ValueError(message)
    date, minute, second, fraction, zone = found.groups()
    if minute is None:
        return datetime.fromisoformat(f"{date}T00:00:00+00:00")
    zone = "+00:00" if zone.upper() == "Z" else zone
    return datetime.fromisoformat(f"{date}T{minute}{second or ':00'}.{(fraction or '0')[:6]:0<6}{zone}").astimezone(UTC)


async def answer(world: World, request: web.Request) -> web.StreamResponse:
    """Answer a request to Graph, and record the request."""
    note = ReceivedRequest(
        at=world.now(),
        kind="graph",
        tenant=None,
        url=request.raw_path,
        client_request_id=request.headers.get("client-request-id"),
        request_id=str(uuid4()),
    )
    try:
        response = await _answer(world, request, note)
    except _Ended as ended:
        response = ended.response
        note.fault = ended.fault
    except ConnectionError:
        world.visits.note(note)
        raise
    note.retry_after = response.headers.get("Retry-After")
    closed = request.transport is None or request.transport.is_closing()
    note.status = 0 if closed and not response.prepared else response.status
    world.visits.note(note)
    if not response.prepared:
        finish(world, note, response)
    return response


async def _answer(world: World, request: web.Request, note: ReceivedRequest) -> web.StreamResponse:
    now_s = world.monotonic_s()
    holder = world.sign_in.holder(request.headers.get("Authorization"), world.epoch_s())
    tenant = None if isinstance(holder, str) else world.tenants[holder.tenant]
    note.tenant = tenant.id if tenant else None
    faults = world.faults
    wait_s = tenant.arrivals.arrive(now_s) if tenant else None
    if faults.setting("down", note.tenant):
        raise _Ended(drop(request), "down")
    if faults.strikes("hang", note.tenant):
        note.fault = "hang"
        await never(request)
    if faults.strikes("slow", note.tenant):
        note.fault = "slow"
        await asyncio.sleep(faults.number("slow_s", note.tenant))
    if tenant is None or isinstance(holder, str) or faults.strikes("unauthorized", note.tenant):
        refused = isinstance(holder, str)
        text = holder if isinstance(holder, str) else "Access token has been revoked."
        response = error(world, note, 401, "InvalidAuthenticationToken", text, WWW_Authenticate=CHALLENGE)
        raise _Ended(response, None if refused else "unauthorized")
    if wait_s is not None:
        raise _Ended(too_many(world, note, retry_after(world, tenant.id, wait_s)), "limit")
    _end_if_fault_happens(world, request, note)
    question = _Question(request, note, tenant)
    _read(world, question, has_role=holder.has_role)
    return await _page(world, question)


def _end_if_fault_happens(world: World, request: web.Request, note: ReceivedRequest) -> None:
    """End the request with the response of the first fault that happens. Faults happen at random.

    If none happens, return, so that the request is answered normally.
    """
    faults, tenant = world.faults, note.tenant
    if faults.strikes("throttled", tenant):
        raise _Ended(too_many(world, note, retry_after(world, tenant)), "throttled")
    if faults.strikes("server_error", tenant):
        status = int(faults.number("status", tenant)) or faults.random.choice(_STATUSES)
        headers = retry_after(world, tenant) if faults.setting("error_retry_after", tenant) else {}
        raise _Ended(html(status, headers), "server_error")
    if faults.strikes("forbidden", tenant):
        raise _Ended(error(world, note, 403, "Forbidden", ""), "forbidden")
    if faults.strikes("bad_request", tenant):
        raise _Ended(error(world, note, 400, "BadRequest", "Invalid request."), "bad_request")
    if faults.strikes("not_found", tenant):
        raise _Ended(error(world, note, 404, "ResourceNotFound", "Resource not found."), "not_found")
    if faults.strikes("too_long", tenant):
        raise _Ended(error(world, note, 406, "NotAcceptable", "The range is too long."), "too_long")
    if faults.strikes("redirect", tenant):
        location = f"{faults.setting('foreign_url', tenant)}{request.raw_path}"
        status = faults.random.choice((302, 307, 308))
        raise _Ended(web.Response(status=status, headers={"Location": location}), "redirect")
    for name, bodies in (("garbage", _GARBAGE), ("not_a_page", _NOT_PAGES)):
        if faults.strikes(name, tenant):
            body = faults.random.choice(bodies)
            raise _Ended(web.Response(body=body, headers={"Content-Type": JSON_TYPE}), name)


def _read(world: World, question: _Question, *, has_role: bool) -> None:
    """Parse the URL of a request into `question`. If it is invalid, end the request as Graph would, with an error."""
    note = question.note
    # Graph reads an unencoded "+" as a blank, so the "+" in raw_path is replaced before decoding.
    path, _, query = question.request.raw_path.partition("?")
    found = _CALL.fullmatch(unquote(path.replace("+", " ")))
    if not found:
        if "getdirectroutingcalls" in path.lower():
            raise _Ended(error(world, note, 400, "BadRequest", "Resource not found for the segment or bad arguments."))
        raise _Ended(error(world, note, 404, "ResourceNotFound", "Resource not found for the segment."))
    if question.request.method != "GET":
        raise _Ended(error(world, note, 405, "Request_BadRequest", "Specified HTTP method is not allowed."))
    if not has_role:
        raise _Ended(error(world, note, 403, "Forbidden", ""))
    arguments = _ARGUMENTS.fullmatch(found[2])
    try:
        if arguments is None:
            message = "Expected fromDateTime and toDateTime."
            raise ValueError(message)  # noqa: TRY301
        start, end = parse_instant(arguments[1]), parse_instant(arguments[2])
        if start > end:
            message = "fromDateTime is after toDateTime."
            raise ValueError(message)  # noqa: TRY301
        question.skip, question.marker = _paging(query)
    except ValueError as wrong:
        raise _Ended(error(world, note, 400, "BadRequest", str(wrong))) from None
    if end - start > LONGEST_RANGE:
        text = "The requested range is too long; the longest is 90 days."
        raise _Ended(error(world, note, 406, "NotAcceptable", text))
    first, last = world.bounds(start, end)
    oldest = to_ms(world.data_now() - timedelta(days=world.options.retention_days))
    question.is_beta = found[1].lower() == "beta"
    question.bounds = max(first, oldest), last
    _end_if_unservable(world, question)


def _end_if_unservable(world: World, question: _Question) -> None:
    """End the request with an error if the fault `unservable` happens.

    This fault affects requests whose range contains one of the times in the setting `unservable_at`.
    """
    faults, tenant, note = world.faults, question.tenant.id, question.note
    first, last = question.bounds
    held = [t for t in instants(str(faults.setting("unservable_at", tenant))) if first <= to_ms(t) < last]
    if held and faults.strikes("unservable", tenant):
        status = int(faults.number("unservable_status", tenant))
        response = html(status) if status >= 500 else error(world, note, status, "BadRequest", "Invalid request.")
        raise _Ended(response, "unservable")


def _paging(query: str) -> tuple[int, str]:
    skip, marker = 0, ""
    for part in query.split("&"):
        name, _, value = unquote(part).partition("=")
        if name.lower() == "$skip":
            if not value.isdigit():
                message = "Invalid $skip."
                raise ValueError(message)
            skip = int(value)
        elif name.lower() == "$skiptoken":
            marker = value
    return skip, marker


async def _page(world: World, question: _Question) -> web.StreamResponse:
    options, note, tenant = world.options, question.note, question.tenant
    key = (tenant.id, f"{question.request.host}{note.url}")
    kept = world.bodies.get(key) if options.prebuilt else None
    if kept:
        body, page = kept
    elif question.marker.startswith("endless") or _begins_endless(world, question):
        number = int(question.marker.partition("-")[2] or 0) + 1
        note.fault = "endless"
        body, page = _empty(question, f"endless-{number}")
    elif not question.marker and world.faults.strikes("empty_page", tenant.id):
        note.fault = "empty_page"
        body, page = _empty(question, f"empty-{uuid4().hex[:8]}")
    else:
        ids = str(world.faults.setting("withdrawn", tenant.id)).split(",")
        tenant.log.withdrawn = frozenset(one.strip().encode() for one in ids if one)
        page = tenant.log.page(
            question.bounds,
            to_ms(world.data_now()),
            question.skip,
            options.page_size,
            options.order,
            is_beta=question.is_beta,
        )
        body = _body(question, page.rows, *_link(world, question, page))
        if options.prebuilt:
            world.bodies.put(key, (body, page), len(body))
    return await _send(world, question, body, page)


def _begins_endless(world: World, question: _Question) -> bool:
    return world.faults.strikes("endless", question.tenant.id)


def _empty(question: _Question, marker: str) -> tuple[bytes, ServedPage]:
    link = f"{question.address}?$skip={question.skip}&$skiptoken={marker}"
    return _body(question, [], link, "@odata.nextLink"), ServedPage([], more=True, picks=[])


def _link(world: World, question: _Question, page: ServedPage) -> tuple[str | None, str]:
    """Return the link to the next page, and the name of the JSON member that holds it. Faults may change both.

    On the last page, the link is None.
    """
    faults, tenant, note = world.faults, question.tenant, question.note
    name = "@odata.NextLink" if faults.strikes("upper_link", tenant.id) else "@odata.nextLink"
    if faults.strikes("self_link", tenant.id):
        note.fault = "self_link"
        return f"{root_of(question.request)}{note.url}", name
    end = question.skip + len(page.rows)
    if faults.strikes("foreign_link", tenant.id):
        note.fault = "foreign_link"
        foreign = faults.setting("foreign_url", tenant.id)
        return f"{foreign}{note.url.partition('?')[0]}?$skip={end}", name
    if not page.more:
        return None, name
    repeated = min(int(faults.number("repeat_rows", tenant.id)), len(page.rows) - 1)
    # The offset of a boundary depends on the rows that were repeated before it, so the page number identifies it.
    seam = (note.url.partition("?")[0], -(-end // world.options.page_size))
    if faults.strikes("repeat", tenant.id):
        note.fault = "repeat"
        end -= repeated
    elif faults.strikes("repeat_once", tenant.id) and tenant.seam_is_first(seam):
        note.fault = "repeat_once"
        end -= repeated
    return f"{question.address}?$skip={end}", name


def _body(question: _Question, rows: list[bytes], link: str | None, name: str) -> bytes:
    version = "beta" if question.is_beta else "v1.0"
    head = (
        f'{{"@odata.context":"https://graph.microsoft.com/{version}/'
        f'$metadata#Collection(microsoft.graph.callRecords.directRoutingLogRow)","@odata.count":{len(rows)},"value":['
    )
    tail = b"]}" if link is None else b'],"%b":%b}' % (name.encode(), msgspec.json.encode(link))
    return b"".join((head.encode(), b",".join(rows), tail))


async def _send(world: World, question: _Question, body: bytes, page: ServedPage) -> web.StreamResponse:
    note, request = question.note, question.request
    note.rows = len(page.rows)
    headers = {"Content-Type": JSON_TYPE, "OData-Version": "4.0", "Cache-Control": "no-cache"}
    if world.faults.strikes("cut", note.tenant):
        note.fault = "cut"
        return await _send_cut(world, question, body, headers)
    response = web.Response(body=body, headers=headers)
    if world.options.compress:
        response.enable_compression()
    finish(world, note, response)
    writer = await response.prepare(request)
    await response.write_eof()
    if writer is not None:
        await writer.drain()
    note.complete = True
    question.tenant.delivered(page)
    return response


async def _send_cut(world: World, question: _Question, body: bytes, headers: dict[str, str]) -> web.StreamResponse:
    """Send only the first part of the body, and close the connection.

    At random, in half of the cases, also discard the data that is still in the send buffer.
    """
    response = web.StreamResponse(headers={**headers, "Content-Length": str(len(body))})
    finish(world, question.note, response)
    await response.prepare(question.request)
    await response.write(body[: int(len(body) * world.faults.random.random())])
    transport = question.request.transport
    if transport is not None:
        if world.faults.random.random() < 0.5:
            transport.abort()
        else:
            transport.close()
    return response
