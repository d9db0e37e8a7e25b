"""Options of `connector simulate`, which runs the simulator as a process."""

import asyncio
import json
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from connector.commands.options import UnreadConfigOption
from connector.errors import ConfigurationError, FatalError
from connector.simulator.faults import SETTINGS_HELP, STRIKES, Faults
from connector.simulator.options import Federation, Options, duration_s

_FAULTS = "; ".join(f"{name}: {text}" for name, text in {**STRIKES, **SETTINGS_HELP}.items())


def _address(listen: str) -> tuple[str, int]:
    host, colon, port = listen.rpartition(":")
    if not colon or not port.isdigit() or int(port) > 65535:
        message = (
            f'--listen: "{listen}" is not an address; write HOST:PORT, such as 127.0.0.1:8443 (port 0: a free port)'
        )
        raise ConfigurationError([message])
    return host.strip("[]"), int(port)


def _duration(option: str, text: str) -> float:
    try:
        return duration_s(text)
    except ValueError as wrong:
        raise ConfigurationError([f"{option}: {wrong}"]) from None


def _read(option: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        message = f"{option}: {path} cannot be read ({error.strerror}); specify a PEM file"
        raise ConfigurationError([message]) from None


def _option(field: str) -> str:
    return field.removesuffix("_s").replace("_", "-")


def _faults(texts: list[str]) -> dict[str, object]:
    faults: dict[str, object] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            message = f'--fault: "{text}" has no value; write NAME=SHARE or NAME=SHARExTIMES, such as throttled=0.05'
            raise ConfigurationError([message])
        faults[name.strip()] = value.strip()
    return faults


def simulate(  # noqa: PLR0913
    *,
    listen: Annotated[
        str,
        typer.Option(
            metavar="HOST:PORT", help="Address on which the simulator listens. With port 0, it takes a free port."
        ),
    ] = "127.0.0.1:0",
    ca_out: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH", help="File for the certificate of the throw-away CA, as PEM. Default: a temporary file."
        ),
    ] = None,
    config_out: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            help="File for a configuration with which `connector run` reads this simulator. Default: none is written.",
        ),
    ] = None,
    bootstrap_servers: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="The broker in the --config-out file. `make broker` starts one.")
    ] = "localhost:9092",
    name: Annotated[
        list[str] | None,
        typer.Option(metavar="HOST", help="Another host name in the server certificate. May be repeated."),
    ] = None,
    tenants: Annotated[int, typer.Option(metavar="N", help="Number of tenants.")] = 1,
    seed: Annotated[
        int, typer.Option(metavar="S", help="Random seed. The same seed gives the same tenants and rows.")
    ] = 1,
    days: Annotated[float, typer.Option(metavar="D", help="Days of calls before the start of the simulator.")] = 7.0,
    calls_per_day: Annotated[int, typer.Option(metavar="N", help="Number of calls per tenant and day.")] = 10_000,
    shape: Annotated[
        str,
        typer.Option(
            help="Distribution of calls over a day: flat, or busy-hours with 90 % of them from 8:00 to 18:00 UTC."
        ),
    ] = "flat",
    durations: Annotated[
        str, typer.Option(help='Duration of calls: short, mixed, long, or "SHARE:FROM-TO,…", such as "1:5s-30s".')
    ] = "mixed",
    lateness: Annotated[
        str,
        typer.Option(
            help="Time from the end of a call until its row appears: none, mixed (90 % within 10 min, 9 % within 24 h, "
            '1 % within 6 days), or "SHARE:FROM-TO,…".'
        ),
    ] = "mixed",
    failed: Annotated[float, typer.Option(help="Share of calls that fail.")] = 0.12,
    revised: Annotated[float, typer.Option(help="Share of rows that change after they appeared.")] = 0.02,
    revised_after: Annotated[
        str, typer.Option(help="Time from the appearance of a row until it changes.")
    ] = "1:1m-24h",
    moved: Annotated[float, typer.Option(help="Share of the changed rows whose startDateTime also changes.")] = 0.05,
    masked: Annotated[float, typer.Option(help="Share of phone numbers that are masked.")] = 0.5,
    unknown: Annotated[float, typer.Option(help="Share of rows with members that are not in the schema.")] = 0.0,
    unfit: Annotated[float, typer.Option(help="Share of rows that do not match the schema.")] = 0.0,
    startless: Annotated[float, typer.Option(help="Share of rows whose startDateTime is null.")] = 0.0,
    page_size: Annotated[int, typer.Option(metavar="N", help="Number of rows per page.")] = 1000,
    order: Annotated[
        str,
        typer.Option(
            help="Order of rows: start, newest (first) or id. With newest and id, new rows shift rows that were read."
        ),
    ] = "start",
    requests_per_minute: Annotated[
        int, typer.Option(metavar="N", help="Limit of requests per tenant in 60 s. 0 means no limit.")
    ] = 50,
    token_lifetime: Annotated[str, typer.Option(help="Lifetime of tokens.")] = "1h",  # noqa: S107
    without_role: Annotated[
        int, typer.Option(metavar="N", help="In the last N tenants, the application lacks its role.")
    ] = 0,
    cloud: Annotated[
        str,
        typer.Option(
            help="The cloud whose tokens Graph accepts: global, us-gov-l4 or us-gov-l5. Default: all of them."
        ),
    ] = "",
    certificate: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="PATH",
            help="Certificate (PEM) with which the application signs assertions. May be repeated.",
        ),
    ] = None,
    federated_key: Annotated[
        Path | None,
        typer.Option(metavar="PATH", help="Public key (PEM) of the issuer of federated tokens for the application."),
    ] = None,
    federated_issuer: Annotated[
        str, typer.Option(metavar="URL", help="Issuer of the federated tokens.")
    ] = "https://issuer.example",
    federated_subject: Annotated[str, typer.Option(metavar="TEXT", help="Subject of the federated tokens.")] = (
        "system:serviceaccount:default:connector"
    ),
    imds: Annotated[
        bool,
        typer.Option(
            "--imds",
            help="Also serve the token endpoint of Azure's managed identities. Set "
            "AZURE_POD_IDENTITY_AUTHORITY_HOST to its address, which is `imds` in the JSON line.",
        ),
    ] = False,
    clock_offset: Annotated[
        str, typer.Option(help='Difference between the clock of the data and the real time, such as "-3d".')
    ] = "0s",
    frozen: Annotated[
        bool, typer.Option("--frozen", help="Stop the clock of the data, so that no new calls appear.")
    ] = False,
    prebuilt: Annotated[
        bool,
        typer.Option(
            "--prebuilt", help="For benchmarks: --frozen, no throttling, and all rows and pages kept in memory."
        ),
    ] = False,
    compress: Annotated[
        bool, typer.Option("--compress", help="Compress responses with gzip for clients that accept it.")
    ] = False,
    fault: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE",
            help="VALUE is the share of requests with the fault, SHARExTIMES for at most TIMES faults, or a setting. "
            f"May be repeated. {_FAULTS}.",
        ),
    ] = None,
    config: UnreadConfigOption = None,  # noqa: ARG001
) -> None:
    r"""Simulate Microsoft Graph and its sign-in over HTTPS.

    It invents calls until it is stopped with Ctrl-C. Prints one JSON line with url, ca, tenants, client_id and
    client_secret when ready. While it runs, GET /simulator/truth, /served, /requests, /faults and /clock return its
    state, and POST /simulator/faults, /freeze, /clock, /expire-tokens and /refuse change it.

    \b
    Example:
      connector simulate --config-out connector.toml
      connector simulate --listen 127.0.0.1:8443 --ca-out ca.pem --tenants 2 --seed 7 --days 2 \
        --calls-per-day 5000 --fault throttled=0.05 --fault cut=1x3
    """
    host, port = _address(listen)
    options = Options(
        host=host,
        port=port,
        ca_out=ca_out,
        names=tuple(name or ()),
        tenants=tenants,
        seed=seed,
        days=days,
        calls_per_day=calls_per_day,
        shape=shape,  # type: ignore[arg-type]  # checked by check() below
        durations=durations,
        lateness=lateness,
        failed=failed,
        revised=revised,
        revised_after=revised_after,
        moved=moved,
        masked=masked,
        unknown=unknown,
        unfit=unfit,
        startless=startless,
        page_size=page_size,
        order=order,  # type: ignore[arg-type]  # checked by check() below
        requests_per_minute=requests_per_minute,
        token_lifetime_s=int(_duration("--token-lifetime", token_lifetime)),
        without_role=without_role,
        cloud=cloud,
        certificates=tuple(_read("--certificate", path) for path in certificate or ()),
        federation=(
            Federation(federated_issuer, federated_subject, _read("--federated-key", federated_key))
            if federated_key
            else None
        ),
        imds=imds,
        clock_offset_s=_duration("--clock-offset", clock_offset),
        frozen=frozen,
        prebuilt=prebuilt,
        compress=compress,
        faults=_faults(fault or []),
    )
    problems = options.check()
    try:
        Faults(seed, options.faults)
    except ValueError as wrong:
        problems.append(f"fault: {wrong}")
    if problems:
        named = [problem.partition(":") for problem in problems]
        raise ConfigurationError([f"--{_option(field)}:{text}" for field, _, text in named])
    asyncio.run(_serve(options, config_out, bootstrap_servers))


async def _serve(options: Options, config_out: Path | None, bootstrap_servers: str) -> None:
    from connector.simulator.http_server import Simulator

    try:
        simulator = Simulator(options)
    except ValueError:
        message = "--certificate, --federated-key: a file does not hold a certificate or key as PEM; use another file"
        raise ConfigurationError([message]) from None
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopping.set)
    try:
        await simulator.start()
    except OSError as error:
        message = f"the simulator cannot start: {error}; choose another --listen or --ca-out"
        raise FatalError(message) from None
    try:
        if config_out is not None:
            _write_configuration(config_out, simulator.announcement, bootstrap_servers)
            sys.stderr.write(f"Next, while the simulator runs: connector run --config {config_out}\n")
        sys.stdout.write(json.dumps(simulator.announcement) + "\n")
        sys.stdout.flush()
        await stopping.wait()
    finally:
        await simulator.stop()


def _write_configuration(path: Path, announcement: Mapping[str, Any], bootstrap_servers: str) -> None:
    """Write a configuration file for the simulator that printed `announcement`.

    Raises ConfigurationError if the file cannot be written.
    """
    names = [f"simulated-{number + 1}" for number in range(len(announcement["tenants"]))]
    tenants = [
        f"[[tenants]]\nid = {json.dumps(tenant)}\nname = {json.dumps(name)}\n"
        for name, tenant in zip(names, announcement["tenants"], strict=True)
    ]
    tables = "\n".join(tenants)
    text = f"""\
# Reads the simulator that wrote this file, while it runs: connector run --config {path}

[graph]
base_url = {json.dumps(announcement["url"])}
authority = {json.dumps(announcement["url"])}
ca_bundle = {json.dumps(str(Path(announcement["ca"]).absolute()))}

[identity]
client_id = {json.dumps(announcement["client_id"])}
client_secret = {json.dumps(announcement["client_secret"])}

{tables}
[kafka]
bootstrap_servers = {json.dumps(bootstrap_servers)}
"""
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        message = f"--config-out: {path} cannot be written ({error.strerror}); use another file"
        raise ConfigurationError([message]) from None
