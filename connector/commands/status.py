"""Options of `connector status`."""

from typing import Annotated

import typer

from connector.commands.options import ConfigOption, JsonOption


def status(
    *,
    tenant: Annotated[
        str | None, typer.Option("--tenant", metavar="TENANT", help="Name or id of a tenant. Default: all tenants.")
    ] = None,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    r"""Show tenants, coverage, lag, gaps, dead letters and jobs.

    Needs no running worker.

    \b
    Example:
      connector status --config connector.toml
      connector status --tenant contoso
      connector status --json | jq '.tenants[] | {name, state, lag_seconds}'
    """
    from connector.commands import status_report

    status_report.report(config, tenant, as_json=as_json)
