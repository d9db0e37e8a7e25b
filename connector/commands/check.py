"""Options of `connector check`."""

import typer

from connector.commands.options import ConfigOption, JsonOption

_FAILED = 1


def check(*, as_json: JsonOption = False, config: ConfigOption = None) -> None:
    r"""Test everything that `connector run` needs.

    This includes the configuration, sign-in, Graph, the brokers and the schema registry. Publishes nothing and does not
    affect a running worker. Prints one line per check, with what to do if it fails. A check that depends on a failed
    one is skipped.

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
