"""Options of `connector check`."""

import typer

from connector.commands.options import ConfigOption, JsonOption

_FAILED = 1


def check(*, as_json: JsonOption = False, config: ConfigOption = None) -> None:
    r"""Try everything that `connector run` needs.

    This reaches from the configuration to the schema registry. Publishes nothing and disturbs no
    running worker. Prints one line per check, with what to do if it fails. A check
    that depends on a failed one is skipped.

    \b
    Exits 0 when all checks pass, 1 when some fail, 2 when the configuration is wrong.

    \b
    Example:
      connector check --config connector.toml
      connector check --json | jq '.[] | select(.ok | not)'
    """
    from connector.commands import examination

    if not examination.examine(config, as_json=as_json):
        raise typer.Exit(_FAILED)
