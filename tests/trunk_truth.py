"""Figures of trunks per minute, computed from what a topic holds. It shares no code with the examples.

The rows are those of tests/oracle.py, which are compared with the source. Slow and simple: each figure is counted again
for each minute.
"""

from collections import Counter, defaultdict
from datetime import datetime, timedelta
from fractions import Fraction
from typing import Any, NamedTuple

from tests.oracle import Committed, Published

_MINUTE = 60_000
_SHORT = 10
_BUSY, _NO_ANSWER, _REJECTED = {486, 600}, {480, 487}, {603}
"SIP codes of the simulator that reached the called party. 408 does so only if the SBC reports it (560408)."

Lines = dict[tuple[str, str, str | None], dict[str, Any]]
"Lines of the examples by tenant, minute and trunk."


class Figures(NamedTuple):
    """Lines that the examples must give, and how many rows were published after their minute was final."""

    lines: Lines
    late: int


def figures(found: Committed, overlap: timedelta) -> Figures:
    """Return the figures of all minutes that the progress records of a sweep declare final."""
    lines: Lines = {}
    late = 0
    for tenant in {statement.tenant for statement in found.progress}:
        final, seen = 0, [0] * 99
        for statement in found.progress:
            if (statement.tenant, statement.overlap) != (tenant, overlap):
                continue
            newest: dict[str, Published] = {}
            for row in found.rows:
                place = row.entry.partition, row.entry.offset
                if row.tenant != tenant or place[1] >= statement.offsets[place[0]]:
                    continue
                if row.id not in newest or row.revision > newest[row.id].revision:
                    newest[row.id] = row
                start = row.fields["startDateTime"]
                late += place[1] >= seen[place[0]] and start is not None and start < final
            through = _minute_of(statement.complete_through)
            for trunk in {row.fields["trunkFullyQualifiedDomainName"] for row in newest.values()}:
                rows = [r.fields for r in newest.values() if r.fields["trunkFullyQualifiedDomainName"] == trunk]
                for start, line in _of_trunk(rows, final, through).items():
                    minute = f"{datetime.fromtimestamp(start / 1000, statement.complete_through.tzinfo):%FT%TZ}"
                    assert (tenant, minute, trunk) not in lines
                    lines[tenant, minute, trunk] = {"tenant_id": tenant, "trunk": trunk, "minute": minute, **line}
            final, seen = max(final, through), list(statement.offsets)
    return Figures(lines, late)


def _minute_of(moment: datetime) -> int:
    return int(moment.timestamp()) // 60 * _MINUTE


def _of_trunk(rows: list[dict[str, Any]], final: int, through: int) -> dict[int, dict[str, Any]]:
    began: defaultdict[int, list[dict[str, Any]]] = defaultdict(list)
    busy: defaultdict[int, list[tuple[int, int]]] = defaultdict(list)
    for row in rows:
        start, end = row["startDateTime"], row["endDateTime"]
        if start is None:
            continue
        if final <= start < through:
            began[start // _MINUTE * _MINUTE].append(row)
        if row["successfulCall"] and end is not None:
            for minute in range(start // _MINUTE * _MINUTE, end, _MINUTE):
                if final <= minute < through:
                    busy[minute].append((start, end))
    lines = {}
    for minute in began.keys() | busy.keys():
        instants = [minute, *(start for start, _ in busy[minute] if start >= minute)]
        most = max(sum(start <= instant < end for start, end in busy[minute]) for instant in instants)
        if began[minute] or most:
            lines[minute] = _line(began[minute], most)
    return lines


def _line(rows: list[dict[str, Any]], most: int) -> dict[str, Any]:
    lengths = [row["duration"] for row in rows if row["successfulCall"]]
    failed = [row for row in rows if not row["successfulCall"]]
    reached = sum(_reached(row) for row in failed)
    counts = Counter((row["finalSipCode"], row["callEndSubReason"]) for row in failed)
    return {
        "attempts": len(rows),
        "answered": len(lengths),
        "effective": len(lengths) + reached,
        "duration_seconds": sum(lengths),
        "asr": _share(len(lengths), len(rows)),
        "ner": _share(len(lengths) + reached, len(rows)),
        "acd_seconds": float(Fraction(sum(lengths), len(lengths))) if lengths else None,
        "short_calls": len([length for length in lengths if length < _SHORT]),
        "concurrent_calls": most,
        "failures": {(code, reason, count) for (code, reason), count in counts.items()},
    }


def _reached(row: dict[str, Any]) -> bool:
    code = row["finalSipCode"]
    return code in _BUSY | _NO_ANSWER | _REJECTED or (code == 408 and row["callEndSubReason"] == 560408)


def _share(part: int, whole: int) -> float | None:
    return float(Fraction(100 * part, whole)) if whole else None
