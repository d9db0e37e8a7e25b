"""Command line: commands, exit codes and one-sentence errors. Only this module calls `sys.exit`.

1. Exit code 2 means that configuration or arguments are wrong and nothing was done. 130 is Ctrl-C, except for `run` and
   `simulate`, which Ctrl-C stops with 0.
2. A mistake of the user is reported in one line per problem on standard error, never with a traceback. A bug is logged
   with its traceback.
3. No core file is written: it would hold tokens, secrets and rows.
4. Heavy modules are imported only by the command that needs them, so that `--help` and `--version` are quick.
"""

import errno
import inspect
import json
import os
import resource
import sys
from collections.abc import Callable, Sequence
from functools import wraps
from importlib import import_module
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperCommand, TyperGroup

from connector.admin.arguments import ConfigOption
from connector.errors import ConfigurationError, ConnectorError

OK, FAILED, WRONG, INTERRUPTED = 0, 1, 2, 130
_STOPPED_BY_CTRL_C = ("run", "simulate")

# typer below 0.20 depends on click, later versions contain a copy of it. This is the base of usage errors in both.
_UsageError: type[Exception] = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")

UnreadConfigOption = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE", help="Taken by every command; this one needs nothing from it."),
]

app = typer.Typer(
    name="connector",
    add_completion=False,
    pretty_exceptions_enable=False,  # they would show local variables, which may hold secrets
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
schema = typer.Typer(name="schema", rich_markup_mode=None)
app.add_typer(schema)


@schema.callback()
def schemas() -> None:
    r"""Show, check and register the schemas.

    These are the Avro schemas of rows and progress records, and the JSON Schema of the configuration.

    \b
    Example:
      connector schema show
    """


@app.callback(invoke_without_command=True)
def connector(
    context: typer.Context,
    *,
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False,
) -> None:
    r"""Read every Direct Routing call record from Microsoft Graph and publish it to Kafka, exactly once.

    \b
    Example:
      connector run --config connector.toml
    """
    if version:
        from connector import __version__  # noqa: PLC0415

        _print(f"connector {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        sys.stderr.write(context.get_help() + "\n")
        raise typer.Exit(WRONG)


@app.command()
def run(
    *,
    once: Annotated[
        bool, typer.Option("--once", help="Run every sweep that is due once, then stop: for cron and for tests.")
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
    from connector import log  # noqa: PLC0415
    from connector.config import Settings, load  # noqa: PLC0415

    def read() -> Settings:
        return load(config, os.environ, required=("kafka.bootstrap_servers",))

    settings = read()
    log.configure(settings.log.format, settings.log.level)
    from connector import service  # noqa: PLC0415

    raise typer.Exit(service.run(settings, once=once, reload=read))


@schema.command("show")
def schema_show(
    name: Annotated[
        str, typer.Argument(metavar="[NAME]", help="directRoutingLogRow (the rows) or progress.", show_default=False)
    ] = "directRoutingLogRow",
    *,
    config: UnreadConfigOption = None,  # noqa: ARG001
) -> None:
    r"""Print the Avro schema of the rows, or of the progress records.

    \b
    Example:
      connector schema show > directRoutingLogRow.avsc
    """
    from connector.schemata import NAMES, schema_text  # noqa: PLC0415

    if name not in NAMES:
        raise ConfigurationError([f'schema show: there is no schema "{name}"; write {" or ".join(NAMES)}'])
    _print(schema_text(name).rstrip("\n"))


@schema.command("register")
def schema_register(*, config: ConfigOption = None) -> None:
    r"""Register the schemas in the schema registry.

    They are registered under the subjects of every topic. Prints each subject with the id of its schema. A schema that
    is registered already is not changed.

    \b
    Exits 1 when the registry does not answer or a schema is incompatible; the
    message names the field.

    \b
    Example:
      connector schema register --config connector.toml
    """
    from connector.admin import schema as commands  # noqa: PLC0415

    commands.register(config)


@schema.command("check")
def schema_check(*, config: ConfigOption = None) -> None:
    r"""Check whether the registry would accept the schemas.

    Nothing is changed. Prints each subject with the id of its schema, or that it would be registered.

    \b
    Exits 1 when the registry does not answer or a schema is incompatible; the
    message names the field.

    \b
    Example:
      connector schema check --config connector.toml
    """
    from connector.admin import schema as commands  # noqa: PLC0415

    commands.check(config)


@schema.command("config")
def schema_config(*, config: UnreadConfigOption = None) -> None:  # noqa: ARG001
    r"""Print the JSON Schema of the configuration.

    Editors use it to complete and check a TOML file.

    \b
    Example:
      connector schema config > connector.schema.json
    """
    from connector.config.document import json_schema  # noqa: PLC0415

    _print(json.dumps(json_schema(), indent=2))


class _Deferred(TyperCommand):
    """Command whose module is imported when the command is called, not when commands are listed."""

    def __init__(self, name: str, module: str, short_help: str) -> None:
        super().__init__(name, help=short_help)
        self._module = module

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        function = getattr(import_module(self._module), str(self.name))
        one = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
        one.command(self.name)(_taking_config(function))
        return _formatted(typer.main.get_command(one)).make_context(info_name, args, parent, **extra)


def _taking_config(function: Callable[..., Any]) -> Callable[..., Any]:
    signature = inspect.signature(function)
    if "config" in signature.parameters:
        return function

    @wraps(function)
    def wrapped(config: Path | None = None, **arguments: Any) -> Any:  # noqa: ARG001
        return function(**arguments)

    option = inspect.Parameter("config", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=UnreadConfigOption)
    wrapped.__signature__ = signature.replace(parameters=[*signature.parameters.values(), option])  # type: ignore[attr-defined]
    wrapped.__annotations__ = {**function.__annotations__, "config": UnreadConfigOption}
    return wrapped


def _formatted(group: Any) -> Any:
    r"""Return the command with its examples on separate lines.

    Click keeps the lines of a paragraph that starts with the character "\b". Raw docstrings spell it in two characters.
    """
    group.help = (group.help or "").replace("\\b\n", "\b\n")
    for inner in getattr(group, "commands", {}).values():
        _formatted(inner)
    return group


def command() -> TyperGroup:
    """Return the group of all commands. Modules of other packages are imported when their command is called."""
    group = typer.main.get_command(app)
    if not isinstance(group, TyperGroup):
        raise TypeError("the application has commands")
    for deferred in (
        _Deferred("demo", "connector.demo", "Everything at once on this machine, with made-up calls."),
        _Deferred("simulate", "connector.simulator.cli", "A realistic Graph with made-up calls, over HTTPS."),
        _Deferred("check", "connector.admin.check", "Try everything that run needs; disturbs no worker."),
        _Deferred("status", "connector.admin.status", "Tenants, coverage, lag, gaps and jobs; needs no worker."),
        _Deferred("backfill", "connector.admin.backfill", "Have a range of call time read, whatever was read of it."),
        _Deferred("jobs", "connector.admin.jobs", "Backfills: what waits, runs and has ended."),
        _Deferred("cancel", "connector.admin.jobs", "End a backfill."),
        _Deferred("pause", "connector.admin.jobs", "Read nothing of a tenant until it is resumed."),
        _Deferred("resume", "connector.admin.jobs", "Read a paused tenant again."),
        _Deferred("plan", "connector.admin.plan", "What the sweeps cost and promise."),
        _Deferred("verify", "connector.admin.verify", "Compare what Graph shows with the topic."),
    ):
        group.add_command(deferred)
    _formatted(group)
    return group


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command in `arguments` and exit with the code that docs/interface.md names.

    By default `arguments` are those of the process.
    """
    _write_in_any_locale()
    given = list(sys.argv[1:] if arguments is None else arguments)
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    code = _exit_code(given)
    if code == INTERRUPTED and given[0] in _STOPPED_BY_CTRL_C:
        code = OK
    sys.exit(code)


def _write_in_any_locale() -> None:
    """Replace characters that the locale's encoding does not have, instead of failing at them."""
    for stream, errors in ((sys.stdout, "replace"), (sys.stderr, "backslashreplace")):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors=errors)


def _exit_code(arguments: list[str]) -> int:
    try:
        code = command().main(arguments, prog_name="connector", standalone_mode=False)
        sys.stdout.flush()
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    except ConfigurationError as error:
        _complain(error.problems)
        return WRONG
    except ConnectorError as error:
        _complain([str(error)])
        return FAILED
    except _UsageError as error:
        _complain([_usage(error)])
        return WRONG
    except Exception as error:  # noqa: BLE001  # the top level: a bug is logged here or nowhere
        if isinstance(error, OSError) and error.errno == errno.EPIPE:  # `connector schema show | head`
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return FAILED
        from connector import log  # noqa: PLC0415

        if not log.is_configured():
            log.configure()
        log.get("connector.cli").critical("crashed", exc_info=True)
        return FAILED
    return int(code or OK)


def _usage(error: Exception) -> str:
    message = error.format_message() if hasattr(error, "format_message") else str(error)
    context = getattr(error, "ctx", None)
    path = getattr(context, "command_path", None) or "connector"
    return f"{path}: {' '.join(message.split()).rstrip('.')}; see {path} --help"


def _complain(problems: Sequence[str]) -> None:
    for problem in problems:
        sys.stderr.write(f"{problem}\n")


def _print(text: str) -> None:
    sys.stdout.write(f"{text}\n")
