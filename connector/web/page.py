"""The page for people: the JSON of /status in words and strips, as one HTML document without scripts.

1. Tenants that need attention come first, in full. With many tenants, each of the others takes one line.
2. Every color is also given as a word, and every strip also as a sentence.
3. The page reloads itself every 30 seconds, unless `still` is requested.
"""

import base64
import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import timedelta
from html import escape
from importlib.resources import files
from typing import Any

from connector.metrics import Activity
from connector.web import strip

_STYLE = files("connector.web").joinpath("page.css").read_text(encoding="utf-8")
_STYLE_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
CONTENT_SECURITY_POLICY = (
    f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; img-src data:;"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

_STATES = {
    "failing": ("bad", "Failing"),
    "unknown": ("busy", "Not known yet"),
    "catching_up": ("busy", "Catching up"),
    "paused": ("faint", "Paused"),
    "ok": ("good", "Up to date"),
}
_JOB_STATES = {"waiting": "Waiting", "running": "Running", "done": "Done", "cancelled": "Cancelled", "failed": "Failed"}
_OPEN = ("waiting", "running")
_UNITS = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))
_INSTANT = re.compile(r"([0-9-]{10})T([0-9:]{8})(?:\.[0-9]+)?Z")
_DAY = timedelta(days=1)
_STRIPS = (("24 hours", _DAY, 96), ("14 days", 14 * _DAY, 112))
_LEGEND = (
    ("recent", "read in the last hour"),
    ("today", "read in the last day"),
    ("older", "read longer ago"),
    ("due", "to be read, under way"),
    ("gap", "gap: never read, and nobody reads it"),
    ("none", "not wanted: before the start"),
)
_MOST_GAPS = 3
_MOST_PIECES = 12
_MOST_IN_FULL = 20
_NOT_KNOWN = "not known"
REFRESH_S = 30


Activities = Callable[[str], Activity | None]
"By the label of the tenant. None for a tenant that the worker does not own."


def render(
    status: Mapping[str, Any],
    reasons: list[str],
    activities: Activities,
    *,
    ready: bool,
    as_of: str = "",
    still: bool = False,
) -> str:
    """Return the document. `as_of` is the time for people. With `still`, the page does not reload itself."""
    return "".join(_document(status, reasons, activities, ready=ready, as_of=as_of, still=still))


def duration(seconds: float) -> str:
    """Return a duration in words with at most two units, in whole seconds: `3 min 20 s`, `2 d 4 h`, `0 s`."""
    left = round(abs(seconds))
    parts = []
    for size, unit in _UNITS:
        parts.append((left // size, unit))
        left %= size
    first = next((at for at, (count, _) in enumerate(parts) if count), None)
    if first is None:
        return "0 s"
    words = " ".join(f"{count} {unit}" for count, unit in parts[first : first + 2] if count)
    return f"minus {words}" if seconds < 0 else words


def _document(
    status: Mapping[str, Any], reasons: list[str], activities: Activities, *, ready: bool, as_of: str, still: bool
) -> Iterator[str]:
    app = _text(status, "app") or "direct-routing"
    tenants = sorted(status.get("tenants") or (), key=_worst_first)
    jobs = list(status.get("jobs") or ())
    refresh = "" if still else f'<meta http-equiv="refresh" content="{REFRESH_S}">'
    yield (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta name="color-scheme" content="light dark"><meta name="robots" content="noindex">{refresh}'
        f"<title>{_title(tenants, ready=ready)} · {app}</title>"
        f'<link rel="icon" href="data:,"><style>{_STYLE}</style></head><body>'
        "<header><h1>Direct Routing call records to Kafka</h1>"
    )
    facts = (
        ("app", app),
        ("topic", _text(status, "topic")),
        ("worker", _text(status, "instance")),
        ("version", _text(status, "version")),
        ("started", _instant(status, "started")),
    )
    yield f'<p class="faint">{" · ".join(f"{name} {value}" for name, value in facts if value)}</p></header><main>'
    yield from _readiness(status, reasons, ready=ready)
    yield '<h2 id="tenants">Tenants</h2>'
    yield from _tenants(tenants, jobs, activities)
    yield from _jobs(jobs, {str(tenant.get("id")): _name(tenant) for tenant in tenants})
    yield "</main><footer>"
    yield f'<p class="faint">As it was at {escape(as_of)}. ' if as_of else '<p class="faint">'
    yield (
        f'It does not refresh itself. <a href="/">Refresh every {REFRESH_S} s</a>'
        if still
        else f'It refreshes itself every {REFRESH_S} s. <a href="/?still=1">Hold it still</a>'
    )
    yield (
        '. Nothing can be changed here.</p><nav aria-label="For programs"><ul>'
        '<li><a href="/status">Status as JSON</a></li><li><a href="/metrics">Metrics</a></li>'
        '<li><a href="/readyz">Readiness</a></li><li><a href="/livez">Liveness</a></li></ul></nav>'
        "</footer></body></html>\n"
    )


def _title(tenants: list[Mapping[str, Any]], *, ready: bool) -> str:
    failing = sum(tenant.get("state") == "failing" for tenant in tenants)
    if failing:
        return f"{failing} failing"
    return "Ready" if ready else "Not ready"


def _readiness(status: Mapping[str, Any], reasons: list[str], *, ready: bool) -> Iterator[str]:
    owned = status.get("shards_owned")
    shards = status.get("shards")
    share = ""
    if isinstance(owned, list) and shards:
        which = f": {escape(', '.join(map(str, owned)))}" if owned else ""
        share = f" It owns {len(owned)} of {escape(str(shards))} shards{which}."
    if isinstance(owned, list) and not owned and ready:
        share = " It owns no shard: it stands by and takes over when another worker leaves."
    word = '<span class="state good">Ready.</span>' if ready else '<span class="state bad">Not ready.</span>'
    yield f"<p>{word}{share}</p>"
    if reasons:
        items = "".join(f"<li>{escape(reason)}</li>" for reason in reasons)
        yield f'<ul class="reasons">{items}</ul>'


# --- tenants ----------------------------------------------------------------------------------------------------------


def _tenants(tenants: list[Mapping[str, Any]], jobs: list[Mapping[str, Any]], activities: Activities) -> Iterator[str]:
    if not tenants:
        yield "<p>This worker reads no tenant at the moment.</p>"
        return
    yield f"<p>{_summary(tenants)}</p>"
    legend = "".join(f"<li>{_swatch(kind)}{words}</li>" for kind, words in _LEGEND)
    yield f'<ul class="legend" aria-label="What the strips show">{legend}</ul>'
    full = len(tenants)
    if full > _MOST_IN_FULL:
        full = min(_MOST_IN_FULL, sum(tenant.get("state") != "ok" for tenant in tenants))
    mine = {str(tenant.get("id")): tenant for tenant in tenants}
    jobs_of: dict[str, list[Mapping[str, Any]]] = {}
    for job in jobs:
        if job.get("state") in _OPEN and str(job.get("tenant")) in mine:
            jobs_of.setdefault(str(job.get("tenant")), []).append(job)
    for number, tenant in enumerate(tenants[:full]):
        yield from _in_full(number, tenant, jobs_of.get(str(tenant.get("id")), []), activities(_name(tenant)))
    if tenants[full:]:
        yield (
            '<div class="scroll" role="region" aria-labelledby="others" tabindex="0"><table>'
            f'<caption id="others">{"The other" if full else "All"} {len(tenants) - full} tenants</caption>'
            '<thead><tr><th scope="col">Tenant</th><th scope="col">State</th><th scope="col" class="number">Lag</th>'
            '<th scope="col">Gaps</th><th scope="col" class="number">Rows a minute</th>'
            '<th scope="col" class="number">Budget used</th><th scope="col">Last 24 hours</th>'
            "</tr></thead><tbody>"
        )
        for tenant in tenants[full:]:
            yield from _in_short(tenant, jobs_of.get(str(tenant.get("id")), []), activities(_name(tenant)))
        yield "</tbody></table></div>"


def _summary(tenants: list[Mapping[str, Any]]) -> str:
    counts = {state: sum(tenant.get("state") == state for tenant in tenants) for state in _STATES}
    words = ", ".join(f"{count} {_STATES[state][1].lower()}" for state, count in counts.items() if count)
    return f"{len(tenants)} tenant{'s' if len(tenants) != 1 else ''} read by this worker: {words}."


def _worst_first(tenant: Mapping[str, Any]) -> tuple[int, str]:
    order = list(_STATES)
    state = tenant.get("state")
    return order.index(state) if state in order else 1, _name(tenant).casefold()


def _name(tenant: Mapping[str, Any]) -> str:
    return str(tenant.get("name") or tenant.get("id") or "")


def _in_full(
    number: int, tenant: Mapping[str, Any], jobs: list[Mapping[str, Any]], activity: Activity | None
) -> Iterator[str]:
    style, words = _STATES.get(str(tenant.get("state")), _STATES["unknown"])
    yield f'<article class="tenant {style}" aria-labelledby="t{number}">'
    yield f'<h3 id="t{number}">{escape(_name(tenant))}</h3> <p class="state {style}">{words}</p>'
    if tenant.get("reason"):
        yield f'<p class="reason">{escape(str(tenant["reason"]))}</p>'
    yield "<dl>"
    facts = (
        ("Lag", f"{_lag(tenant)}{_detail(_through(tenant))}"),
        ("Gaps", _never(tenant)),
        ("Rows a minute", _rate(activity)),
        ("Budget used", f"{_budget(activity)}{_detail(_requests(activity))}"),
        ("Published", _number(tenant.get("records"))),
        ("Shard", _text(tenant, "shard") or _NOT_KNOWN),
    )
    for name, value in facts:
        yield f"<div><dt>{name}</dt><dd>{value}</dd></div>"
    yield f"</dl>{_gaps(tenant)}"
    known = strip.pieces(tenant, jobs)
    if known is not None:
        yield '<div class="strips">'
        for words, length, cells in _STRIPS:
            yield _strip(known, words, length, cells)
        yield "</div>"
    yield from _details(tenant, known)
    yield "</article>"


def _in_short(tenant: Mapping[str, Any], jobs: list[Mapping[str, Any]], activity: Activity | None) -> Iterator[str]:
    style, words = _STATES.get(str(tenant.get("state")), _STATES["unknown"])
    known = strip.pieces(tenant, jobs)
    reason = f'<span class="detail sentence">{escape(str(tenant["reason"]))}</span>' if tenant.get("reason") else ""
    yield (
        f'<tr><th scope="row">{escape(_name(tenant))}</th><td><span class="state {style}">{words}</span>{reason}</td>'
        f'<td class="number">{_lag(tenant)}</td><td>{_never(tenant)}</td><td class="number">{_rate(activity)}</td>'
        f'<td class="number">{_budget(activity)}</td>'
        f"<td>{_NOT_KNOWN if known is None else _picture(known, *_STRIPS[0])}</td></tr>"
    )


def _strip(known: strip.Pieces, words: str, length: timedelta, cells: int) -> str:
    age = strip.oldest_reading(known, length)
    oldest = "" if age is None else f", the oldest reading {duration(age.total_seconds())} ago"
    return (
        f"<figure><figcaption>Last {words}{oldest}</figcaption>{_picture(known, words, length, cells)}"
        f'<p class="axis" aria-hidden="true"><span>{_minute(known.now - length)} UTC</span>'
        "<span>now</span></p></figure>"
    )


def _picture(known: strip.Pieces, words: str, length: timedelta, cells: int) -> str:
    found = strip.runs(known, length, cells)
    begin, width = known.now - length, length / cells
    parts = []
    for kind, first, last in found:
        name = strip.NAMES[kind]
        if name != "none":
            # Cells of one kind may have been worth a word each: a few are better than a hundred.
            span = f"{_minute(begin + first * width)} to {_minute(begin + last * width)}"
            parts.append(
                f'<rect class="{name}" x="{first}" width="{last - first}" y="{_Y[name]}" height="{10 - _Y[name]}">'
                f"<title>{span}: {dict(_LEGEND)[name]}</title></rect>"
            )
    return (
        f'<svg class="strip" role="img" viewBox="0 0 {cells} 10" preserveAspectRatio="none"'
        f' aria-label="Last {words}: {_told(found, length / cells)}">{"".join(parts)}</svg>'
    )


_Y = {"recent": 0, "today": 0, "older": 0, "due": 5, "gap": 0}
"Heights distinguish kinds of cells without colors."


def _told(found: list[strip.Run], cell: timedelta) -> str:
    """Return a strip as a sentence: each kind and its length, rounded to cells."""
    lengths = dict.fromkeys(strip.NAMES, timedelta())
    for kind, first, last in found:
        lengths[strip.NAMES[kind]] += (last - first) * cell
    return "; ".join(f"{words}, {duration(lengths[name].total_seconds())}" for name, words in _LEGEND if lengths[name])


def _minute(moment: Any) -> str:
    return f"{moment:%Y-%m-%d %H:%M}"


def _swatch(kind: str) -> str:
    y = _Y.get(kind, 0)
    return (
        f'<svg class="swatch" viewBox="0 0 10 10" aria-hidden="true" focusable="false">'
        f'<rect class="{kind}" x="0" y="{y}" width="10" height="{10 - y}"></rect></svg>'
    )


def _details(tenant: Mapping[str, Any], known: strip.Pieces | None) -> Iterator[str]:
    yield f'<details><summary>Sweeps and readings<span class="hidden"> of {escape(_name(tenant))}</span></summary>'
    yield _sweeps(tenant)
    if known is not None and known.read:
        yield "<h4>When call time was last read, newest first</h4><ul>"
        newest = list(reversed(known.read))
        for start, end, at in newest[:_MOST_PIECES]:
            ago = duration((known.now - at).total_seconds())
            yield f"<li>{_minute(start)} to {_minute(end)} UTC: {ago} ago</li>"
        if newest[_MOST_PIECES:]:
            yield f"<li>and {len(newest) - _MOST_PIECES} more, the oldest from {_minute(newest[-1][0])} UTC</li>"
        yield "</ul>"
    yield "</details>"


def _lag(tenant: Mapping[str, Any]) -> str:
    lag = tenant.get("lag_seconds")
    return _NOT_KNOWN if lag is None else duration(lag)


def _through(tenant: Mapping[str, Any]) -> str:
    through = _instant(tenant, "covered_through")
    return f"read to {through}" if through else ""


def _never(tenant: Mapping[str, Any]) -> str:
    seconds = tenant.get("gap_seconds")
    return _NOT_KNOWN if seconds is None else duration(seconds) if seconds else "none"


def _gaps(tenant: Mapping[str, Any]) -> str:
    gaps = tenant.get("gaps") or []
    lines = [f"{_instant(gap, 'from')} to {_instant(gap, 'to')}: {_text(gap, 'cause')}" for gap in gaps[:_MOST_GAPS]]
    if len(gaps) > _MOST_GAPS:
        lines.append(f"{len(gaps) - _MOST_GAPS} more pieces")
    style = "busy" if tenant.get("state") == "catching_up" else "bad"
    items = "".join(f"<li>never read: {line}</li>" for line in lines)
    return f'<ul class="gaps {style}">{items}</ul>' if lines else ""


def _sweeps(tenant: Mapping[str, Any]) -> str:
    lines = []
    for sweep in tenant.get("sweeps") or ():
        overdue = sweep.get("overdue_seconds") or 0
        every, overlap = _text(sweep, "every"), _text(sweep, "overlap")
        if overdue > 0:
            state = f'<span class="bad">overdue for {duration(overdue)}</span>'
        else:
            state = f"on time, last ended {_instant(sweep, 'last_ok')}" if sweep.get("last_ok") else "not ended yet"
        lines.append(f"<li>every {every} over {overlap}: {state}</li>")
    return f"<ul>{''.join(lines)}</ul>" if lines else "<p>no sweeps</p>"


def _rate(activity: Activity | None) -> str:
    return _NOT_KNOWN if activity is None else f"{activity.rows_per_minute:,.0f}"


def _budget(activity: Activity | None) -> str:
    return _NOT_KNOWN if activity is None else f"{activity.budget_used_ratio:.0%}"


def _requests(activity: Activity | None) -> str:
    if activity is None or not activity.requests:
        return ""
    throttled = activity.requests.get("429", 0)
    failed = sum(count for status, count in activity.requests.items() if status not in {"200", "429"})
    count = sum(activity.requests.values())
    words = [f"{count:,} request{'' if count == 1 else 's'}"]
    words += [f"{throttled:,} throttled (429)"] if throttled else []
    words += [f"{failed:,} failed"] if failed else []
    return ", ".join(words)


def _number(value: Any) -> str:
    return _NOT_KNOWN if value is None else f"{value:,}"


# --- jobs -------------------------------------------------------------------------------------------------------------


def _jobs(jobs: Iterable[Mapping[str, Any]], names: Mapping[str, str]) -> Iterator[str]:
    rows = [_job(job, names) for job in sorted(jobs, key=lambda job: job.get("state") not in _OPEN)]
    if rows:
        yield (
            '<h2>Backfills</h2><div class="scroll" role="region" aria-labelledby="jobs" tabindex="0"><table>'
            '<caption id="jobs">Jobs of the tenants that this worker reads, open ones first</caption>'
            '<thead><tr><th scope="col">Tenant</th><th scope="col">Call time</th><th scope="col">State</th>'
            '<th scope="col">Progress</th><th scope="col" class="number">Rows</th><th scope="col">Job</th></tr></thead>'
            f"<tbody>{''.join(rows)}</tbody></table></div>"
        )


def _job(job: Mapping[str, Any], names: Mapping[str, str]) -> str:
    tenant = str(job.get("tenant") or "")
    state = str(job.get("state") or "")
    reason = f'<span class="detail sentence">{escape(str(job["reason"]))}</span>' if job.get("reason") else ""
    return (
        f'<tr><th scope="row">{escape(names.get(tenant, tenant))}</th>'
        f"<td>{_instant(job, 'from')} to {_instant(job, 'to')}</td>"
        f"<td>{escape(_JOB_STATES.get(state, state))}{reason}</td><td>{_progress(job)}</td>"
        f'<td class="number">{_number(job.get("rows"))}</td><td class="id">{_text(job, "id")}</td></tr>'
    )


def _progress(job: Mapping[str, Any]) -> str:
    start, end = strip.moment(job.get("from")), strip.moment(job.get("to"))
    left = job.get("remaining_seconds")
    if start is None or end is None or left is None or end <= start:
        return _NOT_KNOWN
    whole = (end - start).total_seconds()
    share = min(1.0, max(0.0, 1 - left / whole))
    words = f"{int(100 * share)} %" + (f", {duration(left)} of call time left" if left else "")
    return (
        f'<progress max="100" value="{100 * share:.0f}" aria-label="Progress">{words}</progress>'
        f'<span class="detail">{words}</span>'
    )


def _detail(markup: str) -> str:
    return f'<span class="detail faint">{markup}</span>' if markup else ""


def _text(of: Mapping[str, Any], key: str) -> str:
    value = of.get(key)
    return "" if value is None else escape(str(value))


def _instant(of: Mapping[str, Any], key: str) -> str:
    text = _text(of, key)
    parts = _INSTANT.fullmatch(text)
    return f'<time datetime="{text}">{parts[1]} {parts[2]} UTC</time>' if parts else text
