"""JSON objects TENANT and JOB of docs/interface.md, for /status and for the commands.

1. They are computed from committed state. A worker and a command therefore show the same values.
2. Values that only a running worker has are passed as arguments: the current failure, and the number of rows in the
   deduplication index.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from connector.config import Tenant, duration_text
from connector.core import failing_ranges, instants, windows
from connector.core.coverage import Read, Window, subtract
from connector.core.jobs import ENDED, Job, Orders
from connector.core.windows import State, SweepState
from connector.kafka.state import Checkpoint

BEYOND_HORIZON = (
    "this call time became older than dedup.horizon before it was read: run connector backfill --again to read it"
)
NOT_CONFIGURED = "not configured"
PAUSED = "an operator has paused the tenant: run connector resume to continue"
_CATCHING_UP = "call time that was not read yet is being read"
_UNREADABLE = "Graph does not serve some call time (see gaps): the connector requests it again at least every half hour"
_NOT_READ_YET = "not read yet"
_LATE = timedelta(minutes=1)
_RATE_OVER = timedelta(minutes=10)
_LEAST_SPAN_S = 30.0
_EVER_S = 1e8


@dataclass(frozen=True)
class ReportedTenant:
    """Tenant that a JSON object describes.

    `key` is its id in lower case. `configured` is its configuration, or None if it is not configured any more.
    """

    key: str
    configured: Tenant | None
    shard: int

    @property
    def id(self) -> str:
        """Return the tenant's id as spelled in the configuration, or in lower case if it is not configured."""
        return self.configured.id if self.configured else self.key


def unknown(subject: ReportedTenant, reason: str) -> dict[str, Any]:
    """Return the JSON object TENANT of a tenant whose state is not known: members that depend on the state are null.

    `reason` says why the state is not known.
    """
    return {
        "id": subject.id,
        "name": subject.configured.name if subject.configured else None,
        "shard": subject.shard,
        "state": "unknown",
        "reason": reason,
        "reason_code": None,
        "since": None,
        "covered_through": None,
        "lag_seconds": None,
        "gap_seconds": None,
        "unread_seconds": None,
        "unread_from": None,
        "unread_done": None,
        "gaps": [],
        "unreadable": [],
        "coverage": [],
        "sweeps": [],
        "remembered_rows": None,
        "records": None,
        "dead_letters": None,
    }


def tenant(
    subject: ReportedTenant,
    checkpoint: Checkpoint,
    now: datetime,
    *,
    failing: tuple[str, str] | None,
    remembered: int | None,
    idle: str = "",
) -> dict[str, Any]:
    """Return the JSON object TENANT for a tenant whose state is in `checkpoint`.

    `failing` is the reason and the message of the tenant's current failure. `remembered` is the number of its rows in
    the deduplication index. `idle` says why the tenant is not being read; it is empty if no reason is known.
    """
    state = checkpoint.state
    through = state.coverage.through
    gaps = windows.gaps(state)
    condition, reason = _condition(state, now, failing, idle)
    if subject.configured is None:
        condition, reason = "unknown", NOT_CONFIGURED
    return unknown(subject, "") | {
        "state": condition,
        "reason": reason,
        "reason_code": failing[0] if failing and condition == "failing" else None,
        "since": _last_read(state) if idle or condition in ("failing", "paused") else None,
        "covered_through": instants.text(through) if through else None,
        "lag_seconds": round((now - (through or state.start)).total_seconds(), 3),
        "gap_seconds": sum(gap.seconds for gap in gaps),
        **_unread(state, gaps, now, is_read=condition in ("ok", "catching_up") and not idle),
        "gaps": [_range(window, cause) for window, cause in _gaps(state, _cause(subject, state, failing, idle))],
        "unreadable": [
            _range(window, cause)
            for window, cause in failing_ranges.causes(
                state.failing_ranges, failing_ranges.isolated(state.failing_ranges), ""
            )
        ],
        "coverage": [_coverage(read) for read in state.coverage.reads],
        "sweeps": [_sweep(sweep_state, now) for sweep_state in state.sweeps],
        "remembered_rows": remembered,
        "records": checkpoint.records,
        "dead_letters": checkpoint.dead_letters,
    }


def job(tenant_id: str, one: Job, waits_for: str | None = None) -> dict[str, Any]:
    """Return the JSON object JOB for a job. `waits_for` says why the job makes no progress, if this is the case."""
    return {
        "id": one.id,
        "kind": "backfill",
        "tenant": tenant_id,
        "from": instants.text(one.window.start),
        "to": instants.text(one.window.end),
        "state": one.state,
        "reason": one.reason if one.state in ENDED else waits_for,
        "filed": _second(one.filed),
        "started": _second(one.started),
        "ended": _second(one.ended),
        "remaining_seconds": one.remaining_seconds,
        "rows": one.rows,
        "requests": one.requests,
        "again": one.again,
    }


def jobs(
    tenant_id: str,
    orders: Orders,
    failing: tuple[str, str] | None,
    idle: str = "",
    untaken: Mapping[str, str] | None = None,
) -> list[dict[str, Any]]:
    """Return a tenant's jobs as JSON objects (JOB), in the order in which a worker executes them.

    `failing` and `idle` have the same meaning as in `tenant`. `untaken` contains the jobs that no worker has accepted
    yet: the id of each, and the reason.
    """
    result = []
    ahead = ""
    for one in orders.jobs:
        waits_for = idle or (untaken or {}).get(one.id) or None
        if not waits_for and orders.paused:
            waits_for = "the tenant is paused: run connector resume to continue"
        if not waits_for and failing:
            waits_for = failing[1]
        if not waits_for and ahead and one.state == "waiting":
            waits_for = f"the job waits for job {ahead} to end"
        if not ahead and one.state not in ENDED:
            ahead = one.id
        result.append(job(tenant_id, one, waits_for))
    return result


def by_age(found: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Sort jobs in JSON form (JOB) by the time at which an operator ordered them, oldest first."""
    return sorted(found, key=lambda one: (one["filed"], one["id"]))


def _unread(state: State, gaps: Sequence[Window], now: datetime, *, is_read: bool) -> dict[str, Any]:
    """Return the members `unread_*` of TENANT, which describe the call time that was not read yet.

    `unread_done` is the time at which all of it will probably have been read. It is estimated from the last ten
    minutes. It is null if `is_read` is false, which means that the tenant is not being read.
    """
    through = state.coverage.through or state.start
    seconds = sum(gap.seconds for gap in gaps) + max(0.0, (now - through).total_seconds())
    recent = [read for read in state.coverage.reads if now - read.at <= _RATE_OVER]
    done = None
    if is_read and recent and seconds > _LATE.total_seconds():
        spent_s = max(_LEAST_SPAN_S, *((now - read.at).total_seconds() for read in recent))
        left_s = seconds * spent_s / max(1.0, sum((read.end - read.start).total_seconds() for read in recent))
        done = instants.text(now + timedelta(seconds=round(left_s))) if left_s < _EVER_S else None
    return {
        "unread_seconds": round(seconds, 3),
        "unread_from": instants.text(gaps[0].start if gaps else through) if seconds else None,
        "unread_done": done,
    }


def _last_read(state: State) -> str | None:
    """Return the time of the tenant's last committed read, or None if it was never read."""
    reads = state.coverage.reads
    return instants.text(max(read.at for read in reads)) if reads else None


def _gaps(state: State, otherwise: str) -> list[tuple[Window, str]]:
    """Return each gap with its cause. `otherwise` is the text for a gap whose cause is not known."""
    gaps = windows.gaps(state)
    lost = [gap for gap in gaps if gap.end <= state.forgotten_before]
    left = gaps[len(lost) :]
    return [*((gap, BEYOND_HORIZON) for gap in lost), *failing_ranges.causes(state.failing_ranges, left, otherwise)]


def _condition(state: State, now: datetime, failing: tuple[str, str] | None, idle: str) -> tuple[str, str | None]:
    if state.orders.paused:
        return "paused", PAUSED
    if failing:
        return "failing", failing[1]
    through = state.coverage.through
    late = _overdue(state, now)
    gaps = [gap for gap in windows.gaps(state) if gap.end > state.forgotten_before]
    if through is None or gaps or late > _LATE:
        is_unreadable = gaps and not subtract(gaps, failing_ranges.isolated(state.failing_ranges)) and late <= _LATE
        return "catching_up", idle or (_UNREADABLE if is_unreadable else _CATCHING_UP)
    return "ok", None


def _overdue(state: State, now: datetime) -> timedelta:
    """Return by how much the live sweep is later than one cadence. A delay of up to one cadence is normal."""
    if not state.sweeps:
        return timedelta()
    live = state.sweeps[0]
    return timedelta(seconds=windows.overdue_seconds(live, now)) - live.sweep.every


def _cause(subject: ReportedTenant, state: State, failing: tuple[str, str] | None, idle: str) -> str:
    if subject.configured is None:
        return NOT_CONFIGURED
    if state.orders.paused:
        return "paused"
    return failing[0] if failing else idle or _NOT_READ_YET


def _second(moment: datetime | None) -> str | None:
    """Return `moment` as text in whole seconds, or None for None.

    A restart of the worker must not change the text: the state topic stores whole seconds, while the memory of a worker
    also has the fraction.
    """
    return instants.text(moment.replace(microsecond=0)) if moment else None


def _range(window: Window, cause: str) -> dict[str, Any]:
    return {"from": instants.text(window.start), "to": instants.text(window.end), "cause": cause}


def _coverage(read: Read) -> dict[str, Any]:
    piece = {"from": instants.text(read.start), "to": instants.text(read.end), "last_read": instants.text(read.at)}
    return piece if read.steady else piece | {"unsteady": True}


def _sweep(sweep_state: SweepState, now: datetime) -> dict[str, Any]:
    return {
        "every": duration_text(sweep_state.sweep.every),
        "overlap": duration_text(sweep_state.sweep.overlap),
        "last_ok": instants.text(sweep_state.last_ok) if sweep_state.last_ok else None,
        "overdue_seconds": windows.overdue_seconds(sweep_state, now),
    }
