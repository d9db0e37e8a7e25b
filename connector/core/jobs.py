"""Backfills: ranges of call time that an operator has ordered to be read, oldest call time first.

A job survives restarts, because it is part of the tenant's state. Its progress is the list of windows that were read. A
command has an id and takes effect once, even if it arrives several times.
"""

from collections.abc import Collection
from datetime import datetime
from typing import Literal, NamedTuple

from connector.core import horizon, instants
from connector.core.coverage import Window, clip, subtract
from connector.core.instants import EPOCH

JobState = Literal["waiting", "running", "done", "cancelled", "failed"]
ENDED: frozenset[JobState] = frozenset({"done", "cancelled", "failed"})
PRIORITY = 1000
_KEPT_JOBS = 50
_OPEN_JOBS = 100  # the state record of a tenant must fit into one message
_KEPT_IDS = 200
_NAMED_PARTS = 3
_REMEDY = "run connector backfill --again to read them; rows that the topic already has are then published twice"


class Job(NamedTuple):
    """One backfill with its progress. Times are aware UTC."""

    id: str
    window: Window
    filed: datetime
    again: bool = False
    """True if the job also publishes rows that are already in the deduplication index, with the revision that they have
    there.
    """
    state: JobState = "waiting"
    reason: str | None = None
    started: datetime | None = None
    ended: datetime | None = None
    done: tuple[Window, ...] = ()
    rows: int = 0
    "Number of rows that the job has published."
    requests: int = 0

    @property
    def left(self) -> list[Window]:
        """Return the parts of the range that the job still has to read, oldest first."""
        return [] if self.state in ENDED else subtract([self.window], self.done)

    @property
    def remaining_seconds(self) -> float:
        """Return how many seconds of call time the job still has to read."""
        return sum(window.seconds for window in self.left)


class Command(NamedTuple):
    """Command of an operator. `job` is the id of the job to end; only a `cancel` command has it."""

    id: str
    command: Literal["backfill", "cancel", "pause", "resume"]
    filed: datetime
    window: Window | None = None
    again: bool = False
    job: str = ""


class Orders(NamedTuple):
    """Part of a tenant's state that operators control: its jobs, and whether it is paused."""

    jobs: tuple[Job, ...] = ()
    paused: bool = False
    applied: tuple[str, ...] = ()
    "Ids of the last commands, oldest first. Another command with one of these ids is ignored."


def apply(
    orders: Orders, command: Command, now: datetime, oldest: datetime, forgotten_before: datetime = EPOCH
) -> Orders:
    """Apply an operator's command and return the new orders.

    A backfill reads only the part of its range between `oldest` (the horizon) and `now`. Without `again`, the part
    begins at least `horizon.MARGIN` after `oldest`, and call time before `forgotten_before` is not read. If nothing of
    the range may be read, the job is stored as failed, with the reason.
    """
    if command.id in orders.applied or any(job.id == command.id for job in orders.jobs):
        return orders
    orders = orders._replace(applied=(*orders.applied, command.id)[-_KEPT_IDS:])
    if command.command == "backfill" and command.window is not None:
        # The range is cut at `begin`. The job is refused if all of it lies before `floor`, where the index may have
        # forgotten rows.
        begin = oldest if command.again else oldest + horizon.MARGIN
        floor = begin if command.again else max(begin, forgotten_before)
        window = Window(max(command.window.start, begin), min(command.window.end, now))
        job = Job(command.id, window, command.filed, command.again)
        refusal = _refusal(orders, command.window, oldest, floor, now)
        if refusal:
            job = job._replace(window=command.window, state="failed", ended=now, reason=refusal)
        return orders._replace(jobs=_kept((*orders.jobs, job)))
    if command.command == "cancel":
        return orders._replace(
            jobs=tuple(_cancelled(job, now) if job.id == command.job else job for job in orders.jobs)
        )
    return orders._replace(paused=command.command == "pause")


def next_piece(
    orders: Orders, in_flight: Collection[Window], floor: datetime = EPOCH, oldest: datetime = EPOCH
) -> tuple[Job, Window] | None:
    """Return the first job that has call time to read, together with the oldest part of this call time.

    Call time in `in_flight` is left out. A job without `again` reads from `floor` on, because the deduplication index
    may have forgotten rows of earlier calls. A job with `again` reads from `oldest` on. Return None if no job has
    anything to read.
    """
    for job in orders.jobs:
        pieces = subtract(_readable(job, floor, oldest), in_flight)
        if pieces:
            return job, pieces[0]
    return None


def progressed(orders: Orders, job_id: str, window: Window, now: datetime) -> Orders:
    """Record that `window` of a job was read, and return the new orders. The job ends when its whole range was read."""
    return orders._replace(jobs=tuple(_advanced(j, window, now) if j.id == job_id else j for j in orders.jobs))


def expired(orders: Orders, now: datetime, floor: datetime, oldest: datetime) -> Orders:
    """Mark a job as failed if none of its unread call time may be read any more. Return the new orders.

    A job without `again` may read from `floor` on, and a job with `again` from `oldest` on.
    """
    return orders._replace(jobs=tuple(_expired(job, now, floor, oldest) for job in orders.jobs))


def counted(orders: Orders, job_id: str, rows: int, requests: int, now: datetime) -> Orders:
    """Add published rows and requests to the counters of a job. A waiting job becomes a running job."""
    return orders._replace(
        jobs=tuple(
            job._replace(
                rows=job.rows + rows,
                requests=job.requests + requests,
                started=job.started or now,
                state="running" if job.state == "waiting" else job.state,
            )
            if job.id == job_id
            else job
            for job in orders.jobs
        )
    )


def is_open(orders: Orders, job_id: str) -> bool:
    """Return whether a job with this id exists and has not ended."""
    return any(job.id == job_id and job.state not in ENDED for job in orders.jobs)


def remaining_seconds(orders: Orders) -> float:
    """Return how many seconds of call time all jobs together still have to read."""
    return sum(job.remaining_seconds for job in orders.jobs)


def _refusal(orders: Orders, window: Window, oldest: datetime, floor: datetime, now: datetime) -> str:
    if window.end <= oldest:
        return "the whole range is older than dedup.horizon: choose a later range"
    if window.end <= floor:
        return f"the deduplication index may have forgotten the rows of the whole range; {_REMEDY}"
    if window.start >= now:
        return "the whole range lies in the future: choose an earlier range"
    if sum(job.state not in ENDED for job in orders.jobs) >= _OPEN_JOBS:
        return f"{_OPEN_JOBS} jobs of this tenant have not ended yet: wait for them, or cancel some"
    return ""


def _readable(job: Job, floor: datetime, oldest: datetime) -> list[Window]:
    """Return the unread parts of a job's range that it may still read.

    A job without `again` may read from `floor` on, and a job with `again` from `oldest` on.
    """
    begin = oldest if job.again else floor
    return clip(job.left, Window(begin, max(begin, job.window.end)))


def _expired(job: Job, now: datetime, floor: datetime, oldest: datetime) -> Job:
    left = job.left
    if not left or _readable(job, floor, oldest):
        return job
    parts = [f"{instants.text(part.start)} to {instants.text(part.end)}" for part in left[:_NAMED_PARTS]]
    more = f" and {len(left) - _NAMED_PARTS} more" if len(left) > _NAMED_PARTS else ""
    remedy = "they are now older than dedup.horizon and cannot be read any more" if job.again else _REMEDY
    reason = (
        f"these ranges were not read, because the deduplication index may have forgotten their rows: "
        f"{', '.join(parts)}{more}; {remedy}"
    )
    return job._replace(state="failed", ended=now, reason=reason)


def _advanced(job: Job, window: Window, now: datetime) -> Job:
    if job.state in ENDED:
        return job
    further = job._replace(state="running", started=job.started or now, done=_joined((*job.done, window)))
    return further if further.left else further._replace(state="done", ended=now)


def _cancelled(job: Job, now: datetime) -> Job:
    return job if job.state in ENDED else job._replace(state="cancelled", ended=now)


def _kept(jobs: tuple[Job, ...]) -> tuple[Job, ...]:
    """Return all open jobs and the last `_KEPT_JOBS` jobs that have ended."""
    ended = [job for job in jobs if job.state in ENDED]
    forgotten = {job.id for job in ended[:-_KEPT_JOBS]}
    return tuple(job for job in jobs if job.id not in forgotten)


def _joined(windows: tuple[Window, ...]) -> tuple[Window, ...]:
    joined: list[Window] = []
    for window in sorted(windows):
        if joined and window.start <= joined[-1].end:
            joined[-1] = Window(joined[-1].start, max(joined[-1].end, window.end))
        else:
            joined.append(window)
    return tuple(joined)
