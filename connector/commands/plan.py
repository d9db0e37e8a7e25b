"""Options of `connector plan`."""

from typing import Annotated

import typer

from connector.commands.options import ConfigOption, JsonOption

_DOES_NOT_FIT = 1


def plan(
    *,
    tenant: Annotated[
        str | None,
        typer.Option(
            "--tenant",
            metavar="TENANT",
            help="Name or id of a tenant. Default: the tenant whose sweeps need the largest share of its budget.",
        ),
    ] = None,
    calls_per_day: Annotated[
        float | None,
        typer.Option("--calls-per-day", help="Calls per day, spread evenly over the day. [default: 10000]"),
    ] = None,
    from_state: Annotated[
        bool,
        typer.Option(
            "--from-state",
            help="Use the number and lateness of the calls that workers have read, instead of assumptions.",
        ),
    ] = False,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    r"""Show what the sweeps cost, and how soon they read a late row.

    Requests per hour are the mean of a day. The command uses the network only with --from-state, which reads the state
    of the workers from Kafka. With --from-state, --calls-per-day scales the calls in the state to another number.

    \b
    Exits 0 when the plan fits: every sweep ends before it is due again. 1 when it does not fit.

    \b
    Example:
      connector plan --calls-per-day 50000
      connector plan --tenant contoso --from-state
    """
    from connector.commands import plan_report

    if not plan_report.report(config, tenant, calls_per_day, from_state=from_state, as_json=as_json):
        raise typer.Exit(_DOES_NOT_FIT)
