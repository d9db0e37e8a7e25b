"""The page for people: the JSON of /status in words, as one HTML document without scripts."""

import base64
import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from html import escape
from importlib.resources import files
from typing import Any

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
_UNITS = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))
_INSTANT = re.compile(r"([0-9-]{10})T([0-9:]{8})(?:\.[0-9]+)?Z")
_MOST_GAPS = 3
_NOT_KNOWN = "not known"


def render(
    status: Mapping[str, Any], reasons: list[str], requests: Callable[[str], Mapping[str, int]], *, ready: bool
) -> str:
    """The document. `requests`: how many requests ended with each status, by the tenant's label."""
    return "".join(_document(status, reasons, requests, ready=ready))


def duration(seconds: float) -> str:
    """In words, at most two units: `3 min 20 s`, `2 d 4 h`, `0 s`; in whole seconds."""
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
    status: Mapping[str, Any], reasons: list[str], requests: Callable[[str], Mapping[str, int]], *, ready: bool
) -> Iterator[str]:
    app = _text(status, "app") or "direct-routing"
    tenants = sorted(status.get("tenants") or (), key=_worst_first)
    yield (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark"><meta name="robots" content="noindex">'
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
    yield "<h2>Tenants</h2>"
    if tenants:
        yield (
            '<div class="scroll" role="region" aria-labelledby="tenants" tabindex="0"><table>'
            f'<caption id="tenants">{_summary(tenants)}</caption>'
            '<thead><tr><th scope="col">Tenant</th><th scope="col">State</th><th scope="col" class="number">Lag</th>'
            '<th scope="col">Never read</th><th scope="col">Sweeps</th>'
            '<th scope="col" class="number">Published</th>'
            '<th scope="col" class="number">Requests</th></tr></thead><tbody>'
        )
        for tenant in tenants:
            yield _tenant_row(tenant, requests)
        yield "</tbody></table></div>"
    else:
        yield "<p>This worker reads no tenant at the moment.</p>"
    yield from _jobs(status.get("jobs") or ())
    yield (
        '</main><footer><nav aria-label="For programs"><ul>'
        '<li><a href="/status">Status as JSON</a></li><li><a href="/metrics">Metrics</a></li>'
        '<li><a href="/readyz">Readiness</a></li><li><a href="/livez">Liveness</a></li></ul></nav>'
        '<p class="faint">As it was when the page was asked for. Nothing can be changed here.</p>'
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
    share = f" It owns {len(owned)} of {escape(str(shards))} shards." if isinstance(owned, list) and shards else ""
    if isinstance(owned, list) and not owned and ready:
        share = " It owns no shard: it stands by and takes over when another worker leaves."
    word = '<span class="state good">Ready.</span>' if ready else '<span class="state bad">Not ready.</span>'
    yield f"<p>{word}{share}</p>"
    if reasons:
        items = "".join(f"<li>{escape(reason)}</li>" for reason in reasons)
        yield f'<ul class="reasons">{items}</ul>'


def _summary(tenants: list[Mapping[str, Any]]) -> str:
    counts = {state: sum(tenant.get("state") == state for tenant in tenants) for state in _STATES}
    words = ", ".join(f"{count} {_STATES[state][1].lower()}" for state, count in counts.items() if count)
    return f"{len(tenants)} tenant{'s' if len(tenants) != 1 else ''} read by this worker: {words}"


def _worst_first(tenant: Mapping[str, Any]) -> tuple[int, str]:
    order = list(_STATES)
    state = tenant.get("state")
    return order.index(state) if state in order else 1, str(tenant.get("name") or tenant.get("id") or "").casefold()


def _tenant_row(tenant: Mapping[str, Any], requests: Callable[[str], Mapping[str, int]]) -> str:
    name = str(tenant.get("name") or tenant.get("id") or "")
    style, words = _STATES.get(str(tenant.get("state")), _STATES["unknown"])
    reason = tenant.get("reason")
    lag = tenant.get("lag_seconds")
    records = tenant.get("records")
    return (
        f'<tr><th scope="row">{escape(name)}</th>'
        f'<td><span class="state {style}">{words}</span>{_detail(reason)}</td>'
        f'<td class="number">{_NOT_KNOWN if lag is None else duration(lag)}{_through(tenant)}</td>'
        f"<td>{_gaps(tenant)}</td><td>{_sweeps(tenant)}</td>"
        f'<td class="number">{_NOT_KNOWN if records is None else f"{records:,}"}</td>'
        f'<td class="number">{_requests(requests(name))}</td></tr>'
    )


def _through(tenant: Mapping[str, Any]) -> str:
    through = _instant(tenant, "covered_through")
    return f'<span class="detail faint">read to {through}</span>' if through else ""


def _gaps(tenant: Mapping[str, Any]) -> str:
    seconds = tenant.get("gap_seconds")
    if seconds is None:
        return _NOT_KNOWN
    if not seconds:
        return "nothing"
    gaps = tenant.get("gaps") or []
    lines = [f"{_instant(gap, 'from')} to {_instant(gap, 'to')}: {_text(gap, 'cause')}" for gap in gaps[:_MOST_GAPS]]
    if len(gaps) > _MOST_GAPS:
        lines.append(f"and {len(gaps) - _MOST_GAPS} more")
    return duration(seconds) + "".join(f'<span class="detail faint">{line}</span>' for line in lines)


def _sweeps(tenant: Mapping[str, Any]) -> str:
    lines = []
    for sweep in tenant.get("sweeps") or ():
        overdue = sweep.get("overdue_seconds") or 0
        every, overlap = _text(sweep, "every"), _text(sweep, "overlap")
        if overdue > 0:
            state = f'<span class="bad">overdue for {duration(overdue)}</span>'
        else:
            state = "on time" if sweep.get("last_ok") else "not ended yet"
        lines.append(f"<li>every {every} over {overlap}: {state}</li>")
    return f"<ul>{''.join(lines)}</ul>" if lines else "none"


def _requests(counts: Mapping[str, int]) -> str:
    if not counts:
        return "none"
    throttled = counts.get("429", 0)
    failed = sum(count for status, count in counts.items() if status not in {"200", "429"})
    lines = [f"{sum(counts.values()):,}"]
    if throttled:
        lines.append(f'<span class="detail">{throttled:,} throttled (429)</span>')
    if failed:
        lines.append(f'<span class="detail">{failed:,} failed</span>')
    return "".join(lines)


def _jobs(jobs: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    rows = [
        f'<tr><th scope="row">{_text(job, "id")}</th><td>{_text(job, "tenant")}</td>'
        f"<td>{_instant(job, 'from')} to {_instant(job, 'to')}</td>"
        f"<td>{_text(job, 'state')}{_detail(job.get('reason'))}</td>"
        f'<td class="number">{duration(job.get("remaining_seconds") or 0)}</td></tr>'
        for job in jobs
    ]
    if rows:
        yield (
            '<h2>Jobs</h2><div class="scroll" role="region" aria-labelledby="jobs" tabindex="0"><table>'
            '<caption id="jobs">Backfill jobs; remaining is call time still to be read</caption>'
            '<thead><tr><th scope="col">Job</th><th scope="col">Tenant</th><th scope="col">Call time</th>'
            '<th scope="col">State</th><th scope="col" class="number">Remaining</th></tr></thead>'
            f"<tbody>{''.join(rows)}</tbody></table></div>"
        )


def _detail(text: object) -> str:
    return f'<span class="detail sentence">{escape(str(text))}</span>' if text else ""


def _text(of: Mapping[str, Any], key: str) -> str:
    value = of.get(key)
    return "" if value is None else escape(str(value))


def _instant(of: Mapping[str, Any], key: str) -> str:
    text = _text(of, key)
    parts = _INSTANT.fullmatch(text)
    return f'<time datetime="{text}">{parts[1]} {parts[2]} UTC</time>' if parts else text
