"""Options of `connector jobs`."""

from connector.commands.options import ConfigOption, JsonOption


def jobs(*, as_json: JsonOption = False, config: ConfigOption = None) -> None:
    r"""Show the backfill jobs: waiting, running and ended. Needs no running worker.

    \b
    Example:
      connector jobs --config connector.toml
    """
    from connector.commands import job_table

    job_table.report(config, as_json=as_json)
