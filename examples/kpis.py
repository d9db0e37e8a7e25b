"""Key figures of telephony per trunk and minute, and the rule that decides when a minute is final.

Both examples use this module: final_minutes.py and flink/final_minutes.py. It needs only the standard library.
docs/downstream.md defines each figure and names its source. Times are milliseconds since 1970, in UTC.
"""

import csv
import math
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

SHORT_CALL_S = 10
"An answered call is short if it lasted less than this. No standard defines the limit: choose your own."
EFFECTIVE = frozenset({"user_busy", "no_answer", "rejected"})
"Outcomes in sip_codes.csv of calls that reached the called party but were not answered."
SIP_CODES = Path(__file__).with_name("sip_codes.csv")

Outcomes = dict[tuple[int, int | None], str]
"Outcome of a call by (finalSipCode, callEndSubReason). The sub-code None stands for all that are not listed."

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MINUTE_MS = 60_000
_NEVER = -math.inf


class Call(NamedTuple):
    """One version of a row: the fields that the figures need."""

    revision: int
    trunk: str | None
    start_ms: int | None
    end_ms: int | None
    duration_s: int | None
    answered: bool
    sip_code: int | None
    sub_reason: int | None


class Minute(NamedTuple):
    """Key figures of one trunk in a final minute. `minute` is the start of the minute as text."""

    tenant_id: str
    trunk: str | None
    minute: str
    attempts: int
    answered: int
    effective: int
    duration_seconds: int
    asr: float | None
    ner: float | None
    acd_seconds: float | None
    short_calls: int
    concurrent_calls: int
    failures: list[dict[str, int | None]]


def read_outcomes(path: Path = SIP_CODES) -> Outcomes:
    """Return the outcomes that a file in the form of sip_codes.csv lists."""
    with path.open(encoding="utf-8", newline="") as file:
        return {
            (int(line["final_sip_code"]), int(line["call_end_sub_reason"]) if line["call_end_sub_reason"] else None): (
                line["outcome"]
            )
            for line in csv.DictReader(file)
        }


def call_of(row: Mapping[str, Any]) -> Call:
    """Return the call that a record of the row topic describes."""
    return Call(
        revision=row["revision"],
        trunk=row["trunkFullyQualifiedDomainName"],
        start_ms=milliseconds(row["startDateTime"]),
        end_ms=milliseconds(row["endDateTime"]),
        duration_s=row["duration"],
        answered=row["successfulCall"] is True,
        sip_code=row["finalSipCode"],
        sub_reason=row["callEndSubReason"],
    )


def milliseconds(moment: datetime | None) -> int | None:
    """Return the number of milliseconds from 1970 to `moment`, or None without a moment."""
    return None if moment is None else (moment - _EPOCH) // timedelta(milliseconds=1)


class TenantMinutes:
    """Calls of one tenant, from the reading of their rows until their minutes are final.

    Kafka keeps no order between topics and partitions. The results depend only on offsets, never on the order in which
    records are read. A restart from the beginning of the topics therefore gives the same results.
    """

    def __init__(self, tenant_id: str) -> None:
        self.late = 0
        "Number of rows that were published after their minute was final. A longer overlap would count them."
        self.waiting: defaultdict[int, deque[tuple[int, str, Call]]] = defaultdict(deque)
        "By partition: offset, id and call of the rows that lie behind the offsets of the last statement."
        self._tenant_id = tenant_id
        self._calls: dict[str, Call] = {}
        "The newest version of each call that a coming minute needs, by id."
        self._final_before: float = _NEVER

    def add(self, partition: int, offset: int, row_id: str, call: Call) -> None:
        """Store a row. The rows of one partition must be added in the order of their offsets."""
        self.waiting[partition].append((offset, row_id, call))

    def close(self, through_ms: int, offsets: Sequence[int], outcomes: Outcomes) -> list[Minute]:
        """Return the minutes before `through_ms` that were not final yet, computed from the rows before `offsets`.

        Call it once per statement, in the order of the statements, when all partitions were read up to the offsets.
        """
        for partition, end in enumerate(offsets):
            rows = self.waiting[partition]
            while rows and rows[0][0] < end:
                self._apply(*rows.popleft()[1:])
        since, self._final_before = self._final_before, max(self._final_before, through_ms - through_ms % _MINUTE_MS)
        found = minutes(self._tenant_id, self._calls.values(), since, self._final_before, outcomes)
        self._calls = {row_id: call for row_id, call in self._calls.items() if self._is_needed(call)}
        return found

    def _apply(self, row_id: str, call: Call) -> None:
        self.late += call.start_ms is not None and call.start_ms < self._final_before
        known = self._calls.get(row_id)
        if known is None or call.revision >= known.revision:
            self._calls[row_id] = call

    def _is_needed(self, call: Call) -> bool:
        return call.start_ms is not None and max(call.start_ms, call.end_ms or 0) >= self._final_before


def minutes(
    tenant_id: str, calls: Iterable[Call], since_ms: float, through_ms: float, outcomes: Outcomes
) -> list[Minute]:
    """Return the key figures of each trunk and minute in [since_ms, through_ms).

    A minute without attempts appears if calls were connected during it.
    """
    attempts: defaultdict[tuple[int, str | None], list[Call]] = defaultdict(list)
    connected: defaultdict[str | None, list[tuple[int, int]]] = defaultdict(list)
    for call in calls:
        if call.start_ms is None:
            continue
        if since_ms <= call.start_ms < through_ms:
            attempts[call.start_ms // _MINUTE_MS, call.trunk].append(call)
        if call.answered and call.end_ms is not None:
            connected[call.trunk].append((max(call.start_ms, since_ms), min(call.end_ms, through_ms)))
    peaks = {(minute, trunk): n for trunk, spans in connected.items() for minute, n in _peaks(spans).items()}
    keys = sorted(attempts.keys() | peaks.keys(), key=lambda key: (key[0], key[1] or ""))
    return [_minute(tenant_id, *key, attempts.get(key, []), peaks.get(key, 0), outcomes) for key in keys]


def _minute(
    tenant_id: str, number: int, trunk: str | None, calls: list[Call], concurrent: int, outcomes: Outcomes
) -> Minute:
    durations = [call.duration_s or 0 for call in calls if call.answered]
    effective = sum(call.answered or _outcome(call, outcomes) in EFFECTIVE for call in calls)
    failures = Counter((call.sip_code, call.sub_reason) for call in calls if not call.answered)
    return Minute(
        tenant_id=tenant_id,
        trunk=trunk,
        minute=f"{_EPOCH + timedelta(minutes=number):%Y-%m-%dT%H:%M:00Z}",
        attempts=len(calls),
        answered=len(durations),
        effective=effective,
        duration_seconds=sum(durations),
        asr=100 * len(durations) / len(calls) if calls else None,
        ner=100 * effective / len(calls) if calls else None,
        acd_seconds=sum(durations) / len(durations) if durations else None,
        short_calls=sum(duration < SHORT_CALL_S for duration in durations),
        concurrent_calls=concurrent,
        failures=[
            {"final_sip_code": code, "call_end_sub_reason": sub_reason, "calls": count}
            for (code, sub_reason), count in sorted(failures.items(), key=lambda item: (-item[1], str(item[0])))
        ],
    )


def _outcome(call: Call, outcomes: Outcomes) -> str | None:
    if call.sip_code is None:
        return None
    return outcomes.get((call.sip_code, call.sub_reason), outcomes.get((call.sip_code, None)))


def _peaks(spans: Iterable[tuple[float, float]]) -> dict[int, int]:
    """Return, by minute, how many of the spans [from, to) contain the same instant at most."""
    changes: Counter[float] = Counter()
    for start, end in spans:
        if start < end:
            changes[start] += 1
            changes[end] -= 1
    peaks: dict[int, int] = {}
    count = 0
    for (instant, change), (following, _) in pairwise(sorted(changes.items())):
        count += change
        if count:  # between `instant` and `following`
            for minute in range(int(instant // _MINUTE_MS), int((following - 1) // _MINUTE_MS) + 1):
                peaks[minute] = max(count, peaks.get(minute, 0))
    return peaks
