"""Table of jobs for `connector jobs` and `connector status`."""

import sys
from datetime import UTC, datetime
from pathlib import Path

from connector import brokers
from connector.commands import arguments, overview, text
from connector.config import Settings
from connector.kafka.operator_client import OperatorClient


def report(config: Path | None, *, as_json: bool) -> None:
    """Print all jobs, as JSON or as a table."""
    settings = arguments.read_settings(config)
    found = overview.read_state(
        OperatorClient(settings.kafka, brokers.clients(settings)), settings, datetime.now(UTC)
    ).describe_jobs()
    if as_json:
        arguments.print_json(found)
    elif found:
        text.show([section(found, settings)])
    else:
        sys.stderr.write("there are no jobs; run connector backfill to submit one\n")


def section(found: list[dict[str, object]], settings: Settings) -> text.Section:
    """Return the table of jobs. `found` holds the jobs as JSON objects (JOB in docs/interface.md)."""
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
