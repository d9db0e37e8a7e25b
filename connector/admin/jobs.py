"""`connector jobs`, `cancel`, `pause` and `resume`: the control topic keeps commands until a worker applies them."""

import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Literal
from uuid import UUID, uuid4

import typer

from connector import brokers
from connector.admin import arguments, overview, text
from connector.admin.arguments import ConfigOption, JsonOption, TenantOption
from connector.config.document import shown
from connector.core import jobs as core
from connector.errors import ConfigurationError, FatalError
from connector.kafka.desk import OperatorClient

if TYPE_CHECKING:
    from connector.config import Settings, Tenant


def jobs(*, as_json: JsonOption = False, config: ConfigOption = None) -> None:
    r"""Show the backfill jobs: waiting, running and ended. Needs no running worker.

    \b
    Example:
      connector jobs --config connector.toml
    """
    settings = arguments.read_settings(config)
    found = overview.look(
        OperatorClient(settings.kafka, brokers.clients(settings)), settings, datetime.now(UTC)
    ).describe_jobs()
    if as_json:
        arguments.print_json(found)
    elif found:
        text.show([section(found, settings)])
    else:
        sys.stderr.write("there are no jobs; connector backfill files one\n")


def section(found: list[dict[str, object]], settings: "Settings") -> text.Section:
    """Return a table of jobs, given in the JSON form of docs/interface.md."""
    labels = {tenant.id: tenant.label for tenant in settings.tenants}
    rows = []
    for job in found:
        total = (datetime.fromisoformat(str(job["to"])) - datetime.fromisoformat(str(job["from"]))).total_seconds()
        left = float(str(job["remaining_seconds"]))
        is_cut = job["state"] in ("cancelled", "failed")
        rows.append(
            (
                str(job["id"]),
                labels.get(str(job["tenant"]), str(job["tenant"])),
                str(job["state"]),
                "-" if is_cut else f"{100 * (1 - left / total):.0f} %",
                text.when(str(job["from"])),
                text.when(str(job["to"])),
                text.number(float(str(job["rows"]))),
                text.number(float(str(job["requests"]))),
                str(job["reason"] or ""),
            )
        )
    return text.Section("Jobs", ("job", "tenant", "state", "read>", "from", "to", "rows>", "requests>", "reason"), rows)


def cancel(
    *,
    job: Annotated[str, typer.Argument(metavar="JOB", help="The job's id, as backfill printed it.")],
    config: ConfigOption = None,
) -> None:
    r"""Cancel a backfill. The rows that it has published stay.

    \b
    Exits 0 when the job is or will be cancelled, 1 when it has ended in another state, 2 when there is no such job.

    \b
    Example:
      connector cancel 6f1c0f0e-3c7d-4a36-9d5f-0f2f6f1d9b11 --config connector.toml
    """
    settings = arguments.read_settings(config)
    job_id = _job_id(job)
    desk = OperatorClient(settings.kafka, brokers.clients(settings))
    found = overview.look(desk, settings, datetime.now(UTC)).find_job(job_id)
    if found is None:
        raise ConfigurationError([f"JOB: there is no job {job_id}; connector jobs lists them"])
    known, wanted = found
    if wanted.state == "cancelled":
        sys.stderr.write(f"job {job_id} is cancelled already\n")
        return
    if wanted.state in core.ENDED:
        raise FatalError(f"job {job_id} has ended ({wanted.state}): there is nothing left to cancel")
    order = core.Command(str(uuid4()), "cancel", datetime.now(UTC), job=job_id)
    desk.file(known.subject.id, order)
    sys.stderr.write(f"job {job_id} is to be cancelled\n")


def pause(*, tenant: TenantOption, config: ConfigOption = None) -> None:
    r"""Stop reading a tenant until it is resumed. The pause survives restarts. Other tenants are not affected.

    \b
    Example:
      connector pause --tenant contoso --config connector.toml
    """
    _file(tenant, config, "pause")


def resume(*, tenant: TenantOption, config: ConfigOption = None) -> None:
    r"""Read a paused tenant again, including the call time that was missed during the pause.

    \b
    Example:
      connector resume --tenant contoso --config connector.toml
    """
    _file(tenant, config, "resume")


def open_desk(settings: "Settings", tenant: "Tenant") -> OperatorClient:
    """Return a client for commands to a tenant. Raise FatalError if no worker has ever run that could receive them."""
    desk = OperatorClient(settings.kafka, brokers.clients(settings))
    if desk.is_new:
        raise FatalError(
            f"no worker has ever run with kafka.app = {settings.kafka.app}, so there is no topic for commands: "
            "start connector run, then ask again"
        )
    desk.read([desk.shard_of(tenant.key)])
    return desk


def _file(name: str, config: object, command: Literal["pause", "resume"]) -> None:
    settings = arguments.read_settings(config)  # type: ignore[arg-type]
    tenant = arguments.find_tenant(settings, name)
    open_desk(settings, tenant).file(tenant.id, core.Command(str(uuid4()), command, datetime.now(UTC)))
    sys.stderr.write(f"tenant {tenant.label} is to be {command}d\n")


def _job_id(written: str) -> str:
    try:
        return str(UUID(written))
    except ValueError:
        message = f"JOB: {shown(written)} is no job id; connector jobs lists them"
        raise ConfigurationError([message]) from None
