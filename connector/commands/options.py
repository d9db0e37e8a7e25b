"""Options that several commands share. The module `arguments` interprets their values.

`connector --help` imports this module and those of all commands. They therefore import only what loads quickly.
"""

from pathlib import Path
from typing import Annotated

import typer

ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config", metavar="FILE", help="TOML file. The default is the file that CONNECTOR_CONFIG names, if any."
    ),
]
UnreadConfigOption = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE", help="Accepted by every command. This command does not read the file."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON on standard output, for programs.")]
TenantOption = Annotated[str, typer.Option("--tenant", metavar="TENANT", help="The name or id of a tenant.")]
FromOption = Annotated[
    str,
    typer.Option(
        "--from", metavar="INSTANT", help='Start of the range of call time: RFC 3339, or "-7d" for 7 days ago.'
    ),
]
ToOption = Annotated[
    str,
    typer.Option("--to", metavar="INSTANT", help='End of the range of call time, exclusive: RFC 3339, or "-1h".'),
]
