"""Options that several commands share. The module `arguments` interprets their values.

`connector --help` imports this module and those of all commands. They therefore import nothing that takes long.
"""

from pathlib import Path
from typing import Annotated

import typer

ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config", metavar="FILE", help="TOML file. Default: the one that CONNECTOR_CONFIG names, else none."
    ),
]
UnreadConfigOption = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE", help="Taken by every command; this one needs nothing from it."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="JSON on standard output, for programs.")]
TenantOption = Annotated[str, typer.Option("--tenant", metavar="TENANT", help="A tenant's name or id.")]
FromOption = Annotated[
    str,
    typer.Option("--from", metavar="INSTANT", help='Call time to begin at: RFC 3339, or "-7d" for a time in the past.'),
]
ToOption = Annotated[
    str,
    typer.Option("--to", metavar="INSTANT", help='Call time to end before: RFC 3339, or "-1h" for a time in the past.'),
]
