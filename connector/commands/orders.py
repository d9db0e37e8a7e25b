"""Submission of commands to cancel a job, or to pause or resume a tenant.

A submitted command is a record in the control topic, which a worker applies later.
"""

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal
from uuid import UUID, uuid4

from connector import brokers
from connector.commands import arguments, overview
from connector.config import Settings, Tenant
from connector.config.quoting import shown
from connector.core import jobs as core
from connector.errors import ConfigurationError, FatalError
from connector.kafka.operator_client import OperatorClient


def cancel(config: Path | None, job: str) -> None:
    """Submit a command that cancels a job.

    Raises ConfigurationError if there is no such job, and FatalError if it has already ended as done or failed.
    """
    settings = arguments.read_settings(config)
    job_id = _job_id(job)
    client = OperatorClient(settings.kafka, brokers.clients(settings))
    found = overview.read_state(client, settings, datetime.now(UTC)).find_job(job_id)
    if found is None:
        raise ConfigurationError([f"JOB: there is no job {job_id}; run connector jobs to list all jobs"])
    known, wanted = found
    if wanted.state == "cancelled":
        sys.stderr.write(f"job {job_id} is already cancelled\n")
        return
    if wanted.state in core.ENDED:
        raise FatalError(f"job {job_id} has already ended ({wanted.state}), so it cannot be cancelled")
    order = core.Command(str(uuid4()), "cancel", datetime.now(UTC), job=job_id)
    client.file(known.subject.id, order)
    sys.stderr.write(f"job {job_id} will be cancelled as soon as a worker reads the command\n")


def submit(config: Path | None, name: str, command: Literal["pause", "resume"]) -> None:
    """Submit a command that pauses or resumes a tenant. `name` is the tenant's name or id."""
    settings = arguments.read_settings(config)
    tenant = arguments.find_tenant(settings, name)
    open_client(settings, tenant).file(tenant.id, core.Command(str(uuid4()), command, datetime.now(UTC)))
    sys.stderr.write(f"tenant {tenant.label} will be {command}d as soon as a worker reads the command\n")


def open_client(settings: Settings, tenant: Tenant) -> OperatorClient:
    """Return a client that can submit commands to a tenant.

    Raises FatalError if the control topic does not exist, because no worker has run with this kafka.app yet.
    """
    client = OperatorClient(settings.kafka, brokers.clients(settings))
    if client.is_new:
        raise FatalError(
            f"no worker has ever run with kafka.app = {settings.kafka.app}, so there is no topic for commands: "
            "start connector run, then repeat the command"
        )
    client.read([client.shard_of(tenant.key)])
    return client


def _job_id(written: str) -> str:
    try:
        return str(UUID(written))
    except ValueError:
        message = f"JOB: {shown(written)} is not a job id; run connector jobs to list the ids"
        raise ConfigurationError([message]) from None
