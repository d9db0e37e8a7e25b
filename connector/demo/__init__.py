"""`connector demo`: everything at once on this machine, with made-up calls."""

from typing import Annotated

import typer

from connector.errors import ConfigurationError

_SHORTEST_S = 5


def demo(
    *,
    duration: Annotated[
        str, typer.Option("--for", metavar="DURATION", help="How long calls are made; at least 5s.")
    ] = "30s",
    bootstrap_servers: Annotated[
        str,
        typer.Option(
            metavar="HOST:PORT,…", help="A Kafka cluster of yours, instead of the mock one inside this process."
        ),
    ] = "",
) -> None:
    r"""Show the whole connector on this machine: nothing to install, no network.

    Three tenants make calls up in a simulated Graph that throttles, fails and cuts answers short; the real service
    reads them and publishes to Kafka; a reader decodes and prints what arrives, numbers masked. At the end Graph's
    clock stops, everything is read once more, and what Graph shows is compared with what the topic holds.

    \b
    The mock cluster is librdkafka's. It can show neither fencing nor that aborted rows stay hidden: it fences nobody
    and hides nothing. --bootstrap-servers shows that too; topics named demo-… are created there and stay.
    CONNECTOR_KAFKA__PROPERTIES__* (for a cluster with a log-in), CONNECTOR_HTTP__LISTEN and CONNECTOR_LOG__LEVEL are
    read, no other setting is.

    \b
    Exits 0 when nothing is missing or duplicated, 1 otherwise; Ctrl-C leaves at once, without comparing: 130.

    \b
    Example:
      connector demo --for 1m
      connector demo --bootstrap-servers localhost:9092
    """
    from connector.config.document import parse_duration  # noqa: PLC0415 - keeps `--help` fast

    try:
        span = parse_duration(duration)
    except ValueError as error:
        raise ConfigurationError([f"--for: {error}"]) from None
    if span.total_seconds() < _SHORTEST_S:
        raise ConfigurationError([f'--for: is "{duration}"; give it at least {_SHORTEST_S}s'])
    from connector.demo.stage import perform  # noqa: PLC0415

    raise typer.Exit(perform(span, bootstrap_servers))
