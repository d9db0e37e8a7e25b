"""Options of `connector verify`."""

from typing import Annotated

import typer

from connector.commands.options import ConfigOption, FromOption, JsonOption, TenantOption, ToOption

_NOT_IDENTICAL = 1


def verify(
    *,
    tenant: TenantOption,
    begin: FromOption,
    end: ToOption,
    requests_per_minute: Annotated[
        float,
        typer.Option("--requests-per-minute", help="Request budget of this command, in addition to that of a worker."),
    ] = 5,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    r"""Compare Graph with the topic, row by row and field by field.

    If rows seem to be missing, the command waits for the next run of the sweep that covers them, but at most two
    minutes. Then it searches once more. Rows that only a slower sweep reads are pending: run the command again after
    that sweep.

    Rows that are on the topic but that Graph does not return any more are listed, and are no failure.

    \b
    Exits 0 when they are identical, 1 when rows are missing, duplicated or differ, 2 when the arguments are wrong or
    the topic's retention has started to delete the range.

    \b
    Example:
      connector verify --tenant contoso --from -2d --to -1h
      connector verify --tenant contoso --from 2026-03-01T00:00:00Z --to 2026-03-02T00:00:00Z --json
    """
    from connector.commands import verification

    if not verification.compare(config, tenant, begin, end, requests_per_minute, as_json=as_json):
        raise typer.Exit(_NOT_IDENTICAL)
