"""Submission of a backfill job and, with --wait, display of its progress."""

import sys
import time
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import NoReturn, Self
from uuid import uuid4

from rich.console import Console

from connector.commands import arguments, text
from connector.commands.orders import open_client
from connector.config import Tenant
from connector.core.jobs import ENDED, Command, Job
from connector.errors import FatalError
from connector.kafka.operator_client import OperatorClient
from connector.kafka.state import Restored

_PRINT_EVERY_S = 10.0
_ESTIMATE_OVER_S = 120.0


def submit(config: Path | None, tenant: str, begin: str, end: str, *, wait: bool, again: bool) -> None:
    """Submit a backfill job and print its id. With `wait`, also wait until the job ends.

    Raises FatalError if the job ends in another state than `done`, or if a worker has ignored it.
    """
    settings = arguments.read_settings(config)
    chosen = arguments.find_tenant(settings, tenant)
    now = datetime.now(UTC)
    window = arguments.read_window(begin, end, now, settings.dedup.horizon)
    client = open_client(settings, chosen)
    order = Command(str(uuid4()), "backfill", now.replace(microsecond=0), window, again)
    offset = client.file(chosen.id, order)
    sys.stdout.write(f"{order.id}\n")
    sys.stdout.flush()
    if wait:
        _follow(client, chosen, order, offset)


def _follow(client: OperatorClient, tenant: Tenant, order: Command, offset: int) -> None:
    """Show the progress of the job until it ends.

    `offset` is the offset of the job's command in the control topic. Raises FatalError if the job ends in another state
    than `done`, or if a worker has ignored the command.
    """
    screen = _Screen(order)
    try:
        with closing(client.follow(client.shard_of(tenant.key))) as commits, screen:
            for restored in commits:
                job = _find(restored, tenant, order) if restored else None
                if job is not None:
                    screen.update(job)
                    if job.state in ENDED:
                        break
                elif restored is not None and restored.shard is not None and restored.shard.control > offset:
                    _raise_ignored(tenant, order)
                screen.tick()
            else:  # pragma: no cover - `follow` never ends by itself
                return
    except KeyboardInterrupt:
        sys.stderr.write(f"job {order.id} continues to run; run connector jobs to see its progress\n")
        raise
    spent = text.span((job.ended - job.started).total_seconds()) if job.ended and job.started else "0s"
    outcome = f"{text.number(job.rows)} rows published, {text.number(job.requests)} requests, {spent}"
    if job.state != "done":
        raise FatalError(f"job {job.id} {_ENDED[job.state]}{f' ({job.reason})' if job.reason else ''}: {outcome}")
    sys.stderr.write(f"job {job.id} is done: {outcome}\n")


_ENDED = {"cancelled": "was cancelled", "failed": "has failed"}


def _find(restored: Restored, tenant: Tenant, order: Command) -> Job | None:
    checkpoint = restored.checkpoints.get(tenant.key)
    jobs = checkpoint.state.orders.jobs if checkpoint else ()
    return next((job for job in jobs if job.id == order.id), None)


def _raise_ignored(tenant: Tenant, order: Command) -> NoReturn:
    raise FatalError(
        f"job {order.id} was ignored: the worker's configuration has no tenant {tenant.label}; add the tenant to it, "
        "then submit the job again"
    )


class _Screen:
    """Output of a job's progress on standard error: a bar on a terminal, otherwise one line every 10 s."""

    def __init__(self, order: Command) -> None:
        self._order = order
        self._job: Job | None = None
        self._printed_at = 0.0
        console = Console(stderr=True)
        self._progress = text.progress_bar(console, _ESTIMATE_OVER_S) if console.is_terminal else None
        total = order.window.seconds if order.window else None
        self._task = self._progress.add_task("waiting", total=total, counts="") if self._progress else None

    def __enter__(self) -> Self:
        if self._progress:
            self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._progress:
            self._progress.stop()

    def update(self, job: Job) -> None:
        """Show the progress of `job`, as a worker last committed it."""
        self._job = job
        if self._progress is None or self._task is None:
            return
        total = job.window.seconds
        done = total if job.state == "done" else total - job.remaining_seconds if job.state not in ENDED else None
        self._progress.update(
            self._task, description=job.state, total=total, completed=done, counts=_counts(job, total, done)
        )

    def tick(self) -> None:
        """Write a progress line if standard error is not a terminal, at most every 10 s."""
        if self._progress is not None or time.monotonic() - self._printed_at < _PRINT_EVERY_S:
            return
        self._printed_at = time.monotonic()
        job = self._job
        if job is None:
            sys.stderr.write(f"job {self._order.id} is waiting: no worker has read the command yet\n")
            return
        done = job.window.seconds - job.remaining_seconds
        counts = _counts(job, job.window.seconds, done)
        sys.stderr.write(f"job {job.id} {job.state}: {counts}{_left(job, done)}\n")


def _counts(job: Job, total: float, done: float | None) -> str:
    covered = f"{text.span(done)} of {text.span(total)} call time, " if done is not None else ""
    return f"{covered}{text.number(job.rows)} rows, {text.number(job.requests)} requests"


def _left(job: Job, done: float) -> str:
    if job.started is None or done <= 0 or job.state != "running":
        return ""
    spent = (datetime.now(UTC) - job.started).total_seconds()
    return f", about {text.span(spent * job.remaining_seconds / done)} left"
