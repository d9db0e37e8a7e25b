"""Registration of the schemas for `connector schema register` and `connector schema check`, without a worker."""

import sys
from collections.abc import Callable
from pathlib import Path

from connector.commands import arguments
from connector.errors import FatalError
from connector.kafka.registry import Registry, Subject, subjects


def register(config: Path | None) -> None:
    """Register the schemas that the registry does not have, and print the id of each.

    Raises FatalError if a schema is incompatible, and RegistryUnavailableError if the registry does not answer.
    """
    _each(config, lambda registry, subject: f"id {registry.register(subject)}")


def check(config: Path | None) -> None:
    """Check whether the registry has or would accept each schema, without changing anything, and print the result.

    Raises FatalError if a schema is incompatible, and RegistryUnavailableError if the registry does not answer.
    """
    _each(config, _describe)


def _describe(registry: Registry, subject: Subject) -> str:
    standing = registry.check(subject)
    if standing.id is not None:
        return f"id {standing.id}"
    return "no schema yet" if standing.is_first else "compatible, not registered yet"


def _each(config: Path | None, describe: Callable[[Registry, Subject], str]) -> None:
    settings = arguments.read_settings(config, required=("schema_registry.url",))
    registry = Registry(settings.schema_registry)
    problems = []
    for subject in subjects(settings.topics, settings.schema_registry.subject_name_strategy):
        try:
            sys.stdout.write(f"{subject.name}: {describe(registry, subject)}\n")
        except FatalError as error:
            problems.append(str(error))
    if problems:
        raise FatalError("\n".join(problems))
