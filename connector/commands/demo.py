"""Options of `connector demo`, which runs simulator, broker, service and consumer in one process."""

from typing import Annotated

import typer

from connector.commands.options import UnreadConfigOption
from connector.errors import ConfigurationError

_SHORTEST_S = 5


def demo(
    *,
    duration: Annotated[
        str, typer.Option("--for", metavar="DURATION", help="How long new calls appear. At least 5s.")
    ] = "30s",
    bootstrap_servers: Annotated[
        str,
        typer.Option(
            metavar="HOST:PORT,…", help="Your own Kafka cluster, instead of the mock cluster inside this process."
        ),
    ] = "",
    config: UnreadConfigOption = None,  # noqa: ARG001
) -> None:
    r"""Run the whole connector on this machine.

    It needs no network and no other software.

    A simulated Graph shows invented calls of three tenants. It throttles and fails requests, and truncates responses.
    The real service reads the rows and publishes them to Kafka. A consumer decodes the records and prints them, with
    masked numbers. At the end no more calls appear, everything is read once more, and the rows of Graph are compared
    with the topic.

    \b
    The embedded broker is the mock cluster of librdkafka. It does not fence producers and does not hide aborted rows,
    so that the demo shows neither. --bootstrap-servers runs the demo on a real cluster: topics named demo-… are created
    there and stay. The only settings that are read are CONNECTOR_KAFKA__PROPERTIES__* (for a cluster that requires
    sign-in), CONNECTOR_HTTP__LISTEN and CONNECTOR_LOG__LEVEL.

    \b
    Exits with 0 if no row is missing or duplicated, otherwise with 1. Ctrl-C exits at once with 130, without the
    comparison.

    \b
    Example:
      connector demo --for 1m
      connector demo --bootstrap-servers localhost:9092
    """
    from connector.config.durations import parse_duration

    try:
        span = parse_duration(duration)
    except ValueError as error:
        raise ConfigurationError([f"--for: {error}"]) from None
    if span.total_seconds() < _SHORTEST_S:
        raise ConfigurationError([f'--for: is "{duration}"; write at least {_SHORTEST_S}s'])
    from connector.demo.stage import perform

    raise typer.Exit(perform(span, bootstrap_servers))
