"""Options of `connector support-case`."""

from pathlib import Path
from typing import Annotated

import typer

from connector.commands.options import ConfigOption, FromOption, TenantOption, ToOption


def support_case(
    *,
    tenant: TenantOption,
    begin: FromOption,
    end: ToOption,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", metavar="FILE", help="File to create. The default is support-case-TENANT-START.json here."
        ),
    ] = None,
    requests_per_minute: Annotated[
        float,
        typer.Option("--requests-per-minute", help="Request budget of this command, in addition to that of a worker."),
    ] = 5,
    config: ConfigOption = None,
) -> None:
    r"""Read a range of Graph once, and write a file for a support case at Microsoft.

    Use it when rows are missing in Graph or appear late. The file holds each request with its response: status, Graph's
    request ids, time and rows. It contains no secrets, and pseudonyms in place of numbers, names and addresses. It can
    be read by its owner only, and an existing file is never overwritten. Kafka is not contacted.

    \b
    Exits 0 when the range was read completely, 1 when it was not (the file then
    holds the requests up to the error), 2 when the arguments are wrong or the file exists.

    \b
    Example:
      connector support-case --tenant contoso --from -3h --to -2h --output case.json
    """
    from connector.commands import case_reading

    case_reading.write(config, tenant, begin, end, output, requests_per_minute)
