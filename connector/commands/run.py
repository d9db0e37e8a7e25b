"""Options of `connector run`."""

import os
from typing import Annotated

import typer

from connector.commands.options import ConfigOption


def run(
    *,
    once: Annotated[
        bool, typer.Option("--once", help="Run each sweep that is due once, then exit, for cron and for tests.")
    ] = False,
    config: ConfigOption = None,
) -> None:
    r"""Read Graph and publish to Kafka until stopped.

    SIGTERM and SIGINT stop it within 10 s. SIGHUP reloads tenants and secrets. While it runs, it serves metrics, status
    and health over HTTP.

    \b
    Exits 0 after a clean stop, 1 for a problem that retrying cannot fix (with
    --once also when a sweep failed), 2 when the configuration is wrong.

    \b
    Example:
      connector run --config connector.toml
      AZURE_TENANT_ID=… AZURE_CLIENT_ID=… AZURE_CLIENT_SECRET=… \
        CONNECTOR_KAFKA__BOOTSTRAP_SERVERS=broker:9092 connector run --once
    """
    from datetime import UTC, datetime

    from connector import log
    from connector.config import Settings, load, suspicious_values

    def read() -> Settings:
        return load(config, os.environ, required=("kafka.bootstrap_servers",))

    settings = read()
    log.configure(settings.log.format, settings.log.level)

    def warn(of: Settings) -> Settings:
        for problem in suspicious_values(of, os.environ, datetime.now(UTC)):
            log.get(__name__).warning("configuration_suspicious", problem=problem)
        return of

    warn(settings)
    from connector.worker import service

    raise typer.Exit(service.run(settings, once=once, reload=lambda: warn(read())))
