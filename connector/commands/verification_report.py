"""Report of `connector verify`, as JSON and for people."""

from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import Any, NamedTuple

from connector.commands import text
from connector.commands.comparison import SHOWN
from connector.config import Settings, duration_text


class Report(NamedTuple):
    """Result of `connector verify`. `content` is the JSON object that docs/interface.md describes.

    If `failed` is true, the command exits with 1.
    """

    content: dict[str, Any]
    failed: bool

    def describe(self, label: str) -> str:
        """Return the report as text: ids, counts and names of fields, but no values of rows.

        `label` is the name or id of the tenant.
        """
        found = self.content
        lines = [
            f"{label}, calls from {text.when(found['from'])} to {text.when(found['to'])} (UTC)",
            f"Graph returned {text.number(found['graph_rows'])} rows",
            f"the topic has {text.number(found['topic_records'])} records of these rows",
            "",
            f"  {'identical':<14}{text.number(found['identical']):>12}",
        ]
        lines += [f"  {name.replace('_', '-'):<14}{text.number(found[name]['count']):>12}" for name in LISTED]
        for name, what in LISTED.items():
            # Most unexpected rows are withdrawn. They are listed once.
            if name != "unexpected" or found[name] != found["withdrawn"]:
                lines += _list(found[name], what)
        lines += ["", *found["notes"]] if found["notes"] else []
        but = ", except for the pending rows" if found["pending"]["count"] else ""
        lines += ["", "not identical" if self.failed else f"identical{but}"]
        return "\n".join(lines) + "\n"


LISTED = {
    "missing": "missing on the topic",
    "duplicated": "on the topic more than once",
    "differing": "differing",
    "pending": "not on the topic yet; a later sweep will read them",
    "unexpected": "on the topic, but no longer in Graph",
    "withdrawn": "withdrawn by Graph; these rows are on the topic, and two readings of Graph did not return them",
    "dead_lettered": "dead-lettered",
}


def _list(found: dict[str, Any], what: str) -> list[str]:
    """Return the lines that list the entries of one kind, with a heading; none if there are no entries."""
    if not found["count"]:
        return []
    more = found["count"] - len(found["ids"])
    lines = ["", f"{what}:", *(f"  {_line(entry)}" for entry in found["ids"])]
    return [*lines, f"  and {text.number(more)} more"] if more else lines


def _line(entry: Any) -> str:
    if isinstance(entry, dict) and "fields" in entry:
        return f"{entry['id']}  {', '.join(entry['fields'])}"
    if isinstance(entry, dict):
        return f"{entry['id']}  revision {entry['revision']}, {entry['times']} times"
    return str(entry) if entry is not None else "(a row without an id)"


def listed(count: int, ids: Sequence[Any]) -> dict[str, Any]:
    """Return the JSON object for a list in the report: the number of all entries, and the first `SHOWN` entries."""
    return {"count": count, "ids": list(ids[:SHOWN])}


def notes(
    settings: Settings, everys: Iterable[timedelta | None], *, differing: int, pending: int, foreign: int
) -> list[str]:
    """Return the notes of the report, which explain its counts.

    `everys` has one value per row that is missing or differs on the topic. It is the shortest cadence of the sweeps
    that still read the row, or None if no sweep reads it any more. `differing` and `pending` are numbers of rows.
    `foreign` is the number of records that are not rows of this connector.
    """
    found = []
    counts = Counter(everys)
    if counts[None]:
        found.append(
            f"No sweep will read {text.number(counts.pop(None))} of the missing rows: run connector backfill to read "
            "them."
        )
    slowest = max((every for every in counts if every is not None), default=None)
    if pending and slowest is not None:
        found.append(
            f"{text.number(pending)} rows are pending: slower sweeps will read them, and this command does not wait "
            f"for these sweeps. The slowest runs every {duration_text(slowest)}. A row that is still pending after the "
            "next run of that sweep is missing."
        )
    if differing and settings.rows.revisions == "ignore":
        found.append('Rows may differ, because rows.revisions is "ignore". This does not count as a failure.')
    if settings.rows.privacy:
        found.append(f"Not compared, because rows.privacy changes them: {', '.join(sorted(settings.rows.privacy))}.")
    if foreign:
        found.append(f"{text.number(foreign)} records of the topic are not rows of this connector.")
    return found
