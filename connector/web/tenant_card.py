"""One tenant of the web page, as text and coverage strips."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any, NamedTuple

from connector.metrics.worker import Activity
from connector.web import strip
from connector.words import duration

Object = Mapping[str, Any]

STATES = {
    "failing": ("bad", "Failing"),
    "unknown": ("busy", "Not being read"),
    "catching_up": ("busy", "Catching up"),
    "paused": ("faint", "Paused"),
    "ok": ("good", "Up to date"),
}
_DAY = timedelta(days=1)
_STRIPS = (("24 hours", _DAY, 96), ("14 days", 14 * _DAY, 112))
LEGEND = {
    "recent": "read in the last hour",
    "today": "read in the last day",
    "older": "read longer ago",
    "due": "not read yet, reading continues",
    "gap": "not read yet, and reading has stopped",
    "none": "before the start of the tenant",
}
_MOST_GAPS = 3
_MOST_PIECES = 12
NOT_KNOWN = "not known"


class Bar(NamedTuple):
    """Adjacent cells of a strip that look the same, from `first` up to but not including `last`."""

    kind: str
    first: int
    last: int
    words: str


class Strip(NamedTuple):
    """Coverage of the last day or the last two weeks as a picture. `label` says the same in a sentence."""

    words: str
    start: str
    oldest: str
    cells: int
    bars: list[Bar]
    label: str


class TenantCard(NamedTuple):
    """Content that the page shows of one tenant, as text."""

    name: str
    style: str
    state: str
    reason: str
    since: str
    lag: str
    through: str
    unread: str
    unread_details: list[tuple[str, str | None]]
    rate: str
    budget: str
    requests: str
    records: str
    dead_letters: str
    shard: str
    gaps: list["Gap"]
    more_gaps: int
    is_catching_up: bool
    strips: list[Strip]
    sweeps: list[dict[str, str]]
    readings: list[str]


class Gap(NamedTuple):
    """Gap in a tenant's coverage, as text."""

    start: str
    end: str
    cause: str


def worst_first(tenant: Object) -> tuple[int, str]:
    """Return a sort key that puts tenants that need attention first on the page."""
    order = list(STATES)
    state = tenant.get("state")
    return order.index(state) if state in order else 1, label(tenant).casefold()


def label(tenant: Object) -> str:
    """Return the name of a tenant, or its id if it has no name."""
    return text(tenant, "name") or text(tenant, "id")


def describe(tenant: Object, jobs: list[Object], activity: Activity | None, *, is_full: bool) -> TenantCard:
    """Return the content that the page shows for a tenant.

    `jobs` are the tenant's waiting and running jobs. If `is_full` is false, only details that fit into one line are
    included.
    """
    style, state = STATES.get(text(tenant, "state"), STATES["unknown"])
    known = strip.pieces(tenant, jobs)
    gaps = tenant.get("gaps") or []
    lag, records, dead_letters = tenant.get("lag_seconds"), tenant.get("records"), tenant.get("dead_letters")
    return TenantCard(
        name=label(tenant),
        style=style,
        state=state,
        reason=text(tenant, "reason"),
        since=text(tenant, "since"),
        lag=NOT_KNOWN if lag is None else duration(lag),
        through=text(tenant, "covered_through"),
        unread=_unread(tenant),
        unread_details=_unread_details(tenant),
        rate=NOT_KNOWN if activity is None else f"{activity.rows_per_minute:,.0f}",
        budget=NOT_KNOWN if activity is None else f"{activity.budget_used_ratio:.0%}",
        requests=_requests(activity),
        records=NOT_KNOWN if records is None else f"{records:,}",
        dead_letters=NOT_KNOWN if dead_letters is None else f"{dead_letters:,}",
        shard=text(tenant, "shard") or NOT_KNOWN,
        gaps=[Gap(text(gap, "from"), text(gap, "to"), text(gap, "cause")) for gap in gaps[:_MOST_GAPS]],
        more_gaps=max(0, len(gaps) - _MOST_GAPS),
        is_catching_up=tenant.get("state") == "catching_up",
        strips=[] if known is None else [_strip(known, *one) for one in _STRIPS[: None if is_full else 1]],
        sweeps=[_sweep(sweep) for sweep in tenant.get("sweeps") or ()] if is_full else [],
        readings=_readings(known) if is_full else [],
    )


def _unread(tenant: Object) -> str:
    """Return as text how much call time was not read yet.

    The newest call time is always unread, which is normal. If nothing else is unread, the text says so.
    """
    seconds = tenant.get("unread_seconds")
    if seconds is None:
        return NOT_KNOWN
    is_newest = tenant.get("state") == "ok" and not tenant.get("gap_seconds")
    return f"only the newest {duration(seconds)}" if is_newest else duration(seconds)


def _unread_details(tenant: Object) -> list[tuple[str, str | None]]:
    if not tenant.get("unread_seconds") or (tenant.get("state") == "ok" and not tenant.get("gap_seconds")):
        return []
    details: list[tuple[str, str | None]] = []
    if tenant.get("unread_from"):
        details.append(("from", text(tenant, "unread_from")))
    if tenant.get("unread_done"):
        details.append(("at this rate, all is read by", text(tenant, "unread_done")))
    return details


def _requests(activity: Activity | None) -> str:
    if activity is None or not activity.requests:
        return ""
    throttled = activity.requests.get("429", 0)
    failed = sum(count for status, count in activity.requests.items() if status not in {"200", "429"})
    words = [count(sum(activity.requests.values()), "request")]
    words += [f"{throttled:,} throttled (429)"] if throttled else []
    words += [f"{failed:,} failed"] if failed else []
    return ", ".join(words)


def _sweep(sweep: Object) -> dict[str, str]:
    overdue = sweep.get("overdue_seconds") or 0
    return {
        "every": text(sweep, "every"),
        "overlap": text(sweep, "overlap"),
        "overdue": duration(overdue) if overdue > 0 else "",
        "last_ok": text(sweep, "last_ok"),
    }


def _strip(known: strip.Pieces, words: str, length: timedelta, cells: int) -> Strip:
    found = strip.runs(known, length, cells)
    start, width = known.now - length, length / cells
    age = strip.oldest_reading(known, length)
    bars = []
    for kind, first, last in found:
        name = strip.NAMES[kind]
        if name != "none":
            # Adjacent cells with the same state share one bar and its title. Single cells would need many titles.
            span = f"{_minute(start + first * width)} to {_minute(start + last * width)}"
            bars.append(Bar(name, first, last, f"{span}: {LEGEND[name]}"))
    return Strip(
        words=words,
        start=_minute(start),
        oldest="" if age is None else f", the oldest reading {duration(age.total_seconds())} ago",
        cells=cells,
        bars=bars,
        label=f"Last {words}: {_sentence(found, width)}",
    )


def _sentence(found: list[strip.CellRange], cell: timedelta) -> str:
    """Describe a strip as a sentence: for each state, how much call time is in this state, rounded to whole cells.

    `cell` is the length of call time for which one cell stands.
    """
    lengths = dict.fromkeys(strip.NAMES, timedelta())
    for kind, first, last in found:
        lengths[strip.NAMES[kind]] += (last - first) * cell
    return "; ".join(f"{words}, {duration(lengths[k].total_seconds())}" for k, words in LEGEND.items() if lengths[k])


def _readings(known: strip.Pieces | None) -> list[str]:
    newest = list(reversed(known.read)) if known is not None else []
    lines = [
        f"{_minute(start)} to {_minute(end)} UTC: {duration((known.now - at).total_seconds())} ago"
        for start, end, at in newest[:_MOST_PIECES]
        if known is not None
    ]
    if newest[_MOST_PIECES:]:
        lines.append(f"and {len(newest) - _MOST_PIECES} more, the oldest from {_minute(newest[-1][0])} UTC")
    return lines


def _minute(moment: Any) -> str:
    return f"{moment:%Y-%m-%d %H:%M}"


def text(of: Object, key: str) -> str:
    """Return the member `key` of a JSON object as text. The text is empty if the member is null or absent."""
    value = of.get(key)
    return "" if value is None else str(value)


def count(number: int, noun: str) -> str:
    """Return a number with its noun. The noun gets a plural ending unless the number is 1."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
