"""Options of `connector cancel`."""

from typing import Annotated

import typer

from connector.commands.options import ConfigOption


def cancel(
    *,
    job: Annotated[str, typer.Argument(metavar="JOB", help="Id of the job, as connector backfill printed it.")],
    config: ConfigOption = None,
) -> None:
    r"""Cancel a backfill. Rows that it has already published stay on the topic.

    \b
    Exits 0 when the job is or will be cancelled, 1 when it has ended in another state, 2 when there is no such job.

    \b
    Example:
      connector cancel 6f1c0f0e-3c7d-4a36-9d5f-0f2f6f1d9b11 --config connector.toml
    """
    from connector.commands import orders

    orders.cancel(config, job)
