"""Command line: commands, exit codes and one-sentence errors. Only this module calls `sys.exit`.

1. Exit code 2 means that configuration or arguments are wrong and nothing was done. Exit code 130 means that the user
   pressed Ctrl-C. `run` and `simulate` exit with 0 in this case.
2. A mistake of the user is reported in one line per problem on standard error, never with a traceback. A bug is logged
   with its traceback.
3. No core file is written: it would hold tokens, secrets and rows.
4. The module of a command declares only the options. It imports all other modules when the command is called. Importing
   them at the start would make `--help` take 0.8 s instead of 0.1 s.
"""

import errno
import os
import resource
import sys
from collections.abc import Sequence
from io import TextIOWrapper
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from connector import __version__
from connector.commands.backfill import backfill
from connector.commands.cancel import cancel
from connector.commands.check import check
from connector.commands.copy_state import copy_state
from connector.commands.demo import demo
from connector.commands.jobs import jobs
from connector.commands.pause import pause
from connector.commands.plan import plan
from connector.commands.resume import resume
from connector.commands.run import run
from connector.commands.schema import schema
from connector.commands.simulate import simulate
from connector.commands.status import status
from connector.commands.support_case import support_case
from connector.commands.verify import verify
from connector.errors import ConfigurationError, ConnectorError

OK, FAILED, WRONG, INTERRUPTED = 0, 1, 2, 130
_STOPPED_BY_CTRL_C = ("run", "simulate")

# Base class of usage errors. typer below 0.20 depends on click, later versions contain a copy of it.
_UsageError: type[Exception] = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")

app = typer.Typer(
    name="connector",
    add_completion=False,
    pretty_exceptions_enable=False,  # they would show local variables, which may hold secrets
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
_COMMANDS = (
    run, check, status, plan, backfill, jobs, cancel, pause, resume, verify, support_case, copy_state, simulate, demo,
)  # fmt: skip
for _function in _COMMANDS:
    app.command()(_function)
app.add_typer(schema)


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
        sys.stdout.write(f"connector {__version__}\n")
        raise typer.Exit
    if context.invoked_subcommand is None:
        sys.stderr.write(context.get_help() + "\n")
        raise typer.Exit(WRONG)


def _formatted(group: Any) -> Any:
    r"""Make Click keep the line breaks of examples in the help of `group` and of its commands. Return the group.

    Click does so for a paragraph that starts with a backspace character. The docstrings are raw strings, so they
    contain a backslash and a "b" instead, which this function replaces.
    """
    group.help = (group.help or "").replace("\\b\n", "\b\n")
    for inner in getattr(group, "commands", {}).values():
        _formatted(inner)
    return group


def command() -> TyperGroup:
    """Return the click group that holds all commands."""
    group = typer.main.get_command(app)
    if not isinstance(group, TyperGroup):
        raise TypeError(f"typer returned {type(group).__name__}, not TyperGroup")
    _formatted(group)
    return group


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command in `arguments` and exit with the code that docs/interface.md names.

    By default `arguments` are the arguments of the process.
    """
    _write_in_any_locale()
    given = list(sys.argv[1:] if arguments is None else arguments)
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    code = _exit_code(given)
    if code == INTERRUPTED and given[0] in _STOPPED_BY_CTRL_C:
        code = OK
    sys.exit(code)


def _write_in_any_locale() -> None:
    """Prevent errors when a character cannot be written in the encoding of the locale: replace the character.

    This applies to standard output and standard error.
    """
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
        if isinstance(error, OSError) and error.errno == errno.EPIPE:  # for example `connector schema show | head`
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
