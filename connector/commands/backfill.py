"""Options of `connector backfill`."""

from typing import Annotated

import typer

from connector.commands.options import ConfigOption, FromOption, TenantOption, ToOption


def backfill(
    *,
    tenant: TenantOption,
    begin: FromOption,
    end: ToOption,
    wait: Annotated[
        bool, typer.Option("--wait", help="Show the progress until the job ends. Ctrl-C leaves the job running.")
    ] = False,
    again: Annotated[
        bool,
        typer.Option(
            "--again",
            help="Also publish rows that were published before, with the same revision, for a topic that lost data.",
        ),
    ] = False,
    config: ConfigOption = None,
) -> None:
    r"""Read a range of call time once more.

    It is read even if it was read before. Prints the job's id. A worker runs the job with the requests that the sweeps
    leave in the budget. The job waits while no worker runs, and it survives any crash. Rows that are already on the
    topic are not published again, except with --again.

    \b
    Exits 0 when the job is submitted, or done with --wait; 1 when it failed or was cancelled; 2 when the range or the
    tenant is wrong.

    \b
    Example:
      connector backfill --tenant contoso --from 2026-03-01T00:00:00Z --to 2026-03-08T00:00:00Z --wait
      connector backfill --tenant contoso --from -30d --to -7d
    """
    from connector.commands import backfill_following

    backfill_following.submit(config, tenant, begin, end, wait=wait, again=again)
