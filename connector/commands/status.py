"""`connector status`."""

from connector.commands.options import ConfigOption, JsonOption


def status(*, as_json: JsonOption = False, config: ConfigOption = None) -> None:
    r"""Show tenants, coverage, lag, gaps and jobs. Needs no running worker.

    \b
    Example:
      connector status --config connector.toml
      connector status --json | jq '.tenants[] | {name, state, lag_seconds}'
    """
    from connector.commands import status_report

    status_report.report(config, as_json=as_json)
