"""Web page of a worker: the JSON of /status as text and coverage strips, in one HTML document without scripts.

1. Tenants that need attention come first, with all details. With many tenants, each of the others takes one line.
2. The meaning of every color is also shown as a word, and every strip also as a sentence.
3. The page reloads itself every 30 seconds, unless `still` is requested.

The markup is in `templates`, which escape every value. This module selects the values and puts them into words.
"""

import base64
import hashlib
import re
from collections.abc import Callable, Mapping
from importlib.resources import files
from typing import NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from connector.metrics.worker import Activity
from connector.web import strip
from connector.web.tenant_card import (
    LEGEND,
    NOT_KNOWN,
    STATES,
    Object,
    TenantCard,
    count,
    describe,
    label,
    text,
    worst_first,
)
from connector.words import duration

_FOLDER = files("connector.web")
_STYLE = _FOLDER.joinpath("page.css").read_text(encoding="utf-8")
_STYLE_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
CONTENT_SECURITY_POLICY = (
    f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; img-src data:;"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

_JOB_STATES = {"waiting": "Waiting", "running": "Running", "done": "Done", "cancelled": "Cancelled", "failed": "Failed"}
_OPEN = ("waiting", "running")
_INSTANT = re.compile(r"([0-9-]{10})T([0-9:]{8})(?:\.[0-9]+)?Z")
_HEIGHTS = {"recent": 0, "today": 0, "older": 0, "due": 5, "gap": 0}
"Distance of a cell from the top of its strip, which is 10 high. With it, kinds of cells differ not only in color."
_MOST_IN_FULL = 20
REFRESH_S = 30

Activities = Callable[[str], Activity | None]
"Function that returns a tenant's load by its label, or None if the worker does not own the tenant."


class PageView(NamedTuple):
    """Content of the page, as text.

    `facts` are pairs of a name and a value that describe the worker. The first `full` tenants are shown with all
    details.
    """

    app: str
    title: str
    facts: list[tuple[str, str]]
    ready: bool
    share: str
    reasons: list[str]
    summary: str
    legend: list[tuple[str, str]]
    tenants: list[TenantCard]
    full: int
    jobs: list["JobRow"]
    as_of: str
    still: bool
    refresh_s: int = REFRESH_S


class JobRow(NamedTuple):
    """Content that the page shows of one job, as text. `percent` is None if the job's progress is not known."""

    id: str
    tenant: str
    start: str
    end: str
    state: str
    reason: str
    percent: int | None
    progress: str
    rows: str


def render(
    status: Object,
    reasons: list[str],
    activities: Activities,
    *,
    ready: bool,
    as_of: str = "",
    still: bool = False,
) -> str:
    """Return the page as HTML.

    `status` is the JSON of /status. `reasons` states why the worker is not ready. `as_of` is the current time as text.
    If `still` is true, the page does not reload itself.
    """
    tenants = sorted(status.get("tenants") or (), key=worst_first)
    full = len(tenants)
    if full > _MOST_IN_FULL:
        full = min(_MOST_IN_FULL, sum(tenant.get("state") != "ok" for tenant in tenants))
    jobs = sorted(status.get("jobs") or (), key=lambda job: job.get("state") not in _OPEN)
    open_jobs: dict[str, list[Object]] = {}
    for job in jobs:
        if job.get("state") in _OPEN:
            open_jobs.setdefault(text(job, "tenant"), []).append(job)
    names = {text(tenant, "id"): label(tenant) for tenant in tenants}
    view = PageView(
        app=text(status, "app") or "direct-routing",
        title=_title(tenants, ready=ready),
        facts=[
            (name, text(status, key))
            for name, key in (
                ("app", "app"),
                ("topic", "topic"),
                ("worker", "instance"),
                ("version", "version"),
                ("started", "started"),
            )
        ],
        ready=ready,
        share=_share(status, ready=ready),
        reasons=reasons,
        summary=_summary(tenants, status.get("tenants_elsewhere") or 0, status.get("tenants_unread") or []),
        legend=list(LEGEND.items()),
        tenants=[
            describe(tenant, open_jobs.get(text(tenant, "id"), []), activities(label(tenant)), is_full=number < full)
            for number, tenant in enumerate(tenants)
        ],
        full=full,
        jobs=[_job(job, names) for job in jobs],
        as_of=as_of,
        still=still,
    )
    return _TEMPLATE.render(view=view)


def _title(tenants: list[Object], *, ready: bool) -> str:
    failing = sum(tenant.get("state") == "failing" for tenant in tenants)
    if failing:
        return f"{failing} failing"
    return "Ready" if ready else "Not ready"


def _share(status: Object, *, ready: bool) -> str:
    owned, shards = status.get("shards_owned"), status.get("shards")
    if not isinstance(owned, list):
        return ""
    if not owned and ready:
        return "This worker owns no shard: it is a standby and takes over when another worker leaves."
    return (
        f"This worker owns {len(owned)} of {shards} shards{': ' if owned else ''}{', '.join(map(str, owned))}."
        if shards
        else ""
    )


def _summary(tenants: list[Object], elsewhere: int, unread: list[Object]) -> str:
    sentences = []
    if tenants:
        counts = {state: sum(tenant.get("state") == state for tenant in tenants) for state in STATES}
        words = ", ".join(f"{count} {STATES[state][1].lower()}" for state, count in counts.items() if count)
        sentences.append(f"This worker has {count(len(tenants), 'tenant')}: {words}.")
    if elsewhere:
        sentences.append(
            f"{count(elsewhere, 'tenant')} of this app {'is' if elsewhere == 1 else 'are'} not in the shards of this"
            " worker: run connector status to list all tenants."
        )
    sentences += [
        f"{one.get('name') or one.get('id')} is not read by any worker: {one.get('reason')}." for one in unread
    ]
    return " ".join(sentences)


def _job(job: Object, names: Mapping[str, str]) -> JobRow:
    tenant, state, rows = text(job, "tenant"), text(job, "state"), job.get("rows")
    percent, progress = _progress(job)
    return JobRow(
        id=text(job, "id"),
        tenant=names.get(tenant, tenant),
        start=text(job, "from"),
        end=text(job, "to"),
        state=_JOB_STATES.get(state, state),
        reason=text(job, "reason"),
        percent=percent,
        progress=progress,
        rows=NOT_KNOWN if rows is None else f"{rows:,}",
    )


def _progress(job: Object) -> tuple[int | None, str]:
    start, end = strip.moment(job.get("from")), strip.moment(job.get("to"))
    left = job.get("remaining_seconds")
    if start is None or end is None or left is None or end <= start:
        return None, NOT_KNOWN
    share = min(1.0, max(0.0, 1 - left / (end - start).total_seconds()))
    return round(100 * share), f"{int(100 * share)} %" + (f", {duration(left)} of call time left" if left else "")


def _instant(words: str) -> str | Markup:
    """Return `words` as an HTML element with a time if it is a JSON timestamp; otherwise return it unchanged."""
    parts = _INSTANT.fullmatch(words)
    return Markup('<time datetime="{}">{} {} UTC</time>').format(words, parts[1], parts[2]) if parts else words


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(str(_FOLDER.joinpath("templates"))),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["instant"] = _instant
    environment.globals |= {"heights": _HEIGHTS, "style": Markup(_STYLE)}  # noqa: S704 - a file of this package
    return environment


_TEMPLATE = _environment().get_template("page.html")
