"""Options of `connector copy-state`."""

from pathlib import Path
from typing import Annotated

import typer

from connector.commands.options import ConfigOption


def copy_state(
    *,
    source: Annotated[
        Path,
        typer.Option(
            "--from", metavar="FILE", help="Configuration of the old app. CONNECTOR_* variables do not change it."
        ),
    ],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything and show what would be copied; write nothing.")
    ] = False,
    config: ConfigOption = None,
) -> None:
    r"""Copy the state of another app into the app of the configuration.

    Use it to change the number of shards, the cluster or the row topic. It copies checkpoints, coverage, jobs, the
    deduplication index, and commands that no worker has applied. Rows that the old app has published are not published
    again, and no row is missed. The old app is not changed.

    No worker of either app may run, and the new app must not have state. After an interruption, run the same command
    again: until it has succeeded, workers of the new app refuse to start.

    \b
    Exits 0 when the copy is complete and was compared with the old app; 1 when it was refused or failed; 2 when the
    configurations do not match.

    \b
    Example:
      connector copy-state --from old.toml --config new.toml --dry-run
      connector copy-state --from old.toml --config new.toml
    """
    from connector.commands import state_copy

    state_copy.copy(config, source, dry_run=dry_run)
