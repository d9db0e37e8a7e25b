"""Options of `connector schema` and its subcommands."""

import json
import sys
from typing import Annotated

import typer

from connector.commands.options import ConfigOption, UnreadConfigOption
from connector.errors import ConfigurationError
from connector.schema_files import NAMES, schema_text

schema = typer.Typer(name="schema", rich_markup_mode=None)


@schema.callback()
def schemas() -> None:
    r"""Show, check and register the schemas.

    These are the Avro schemas of rows and progress records, and the JSON Schema of the configuration.

    \b
    Example:
      connector schema show
    """


@schema.command("show")
def show(
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
    if name not in NAMES:
        raise ConfigurationError([f'schema show: there is no schema "{name}"; write {" or ".join(NAMES)}'])
    sys.stdout.write(schema_text(name).rstrip("\n") + "\n")


@schema.command("register")
def register(*, config: ConfigOption = None) -> None:
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
    from connector.commands import schema_registration

    schema_registration.register(config)


@schema.command("check")
def check(*, config: ConfigOption = None) -> None:
    r"""Check whether the registry would accept the schemas.

    Nothing is changed. Prints each subject with the id of its schema, or that it would be registered.

    \b
    Exits 1 when the registry does not answer or a schema is incompatible; the
    message names the field.

    \b
    Example:
      connector schema check --config connector.toml
    """
    from connector.commands import schema_registration

    schema_registration.check(config)


@schema.command("config")
def print_config_schema(*, config: UnreadConfigOption = None) -> None:  # noqa: ARG001
    r"""Print the JSON Schema of the configuration.

    Editors use it to complete and check a TOML file.

    \b
    Example:
      connector schema config > connector.schema.json
    """
    from connector.config.json_schema import json_schema

    sys.stdout.write(json.dumps(json_schema(), indent=2) + "\n")
