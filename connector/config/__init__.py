"""Loading of the settings from a TOML file and from CONNECTOR_* variables. The variables take precedence.

1. Every problem is reported at once, one line each: file or variable, key, what is wrong, what to do.
2. No message shows a value that may be a secret.
3. The settings are frozen and resolved: durations, paths and root URLs are computed, and each tenant has the values
   that it inherits.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path

from connector.config.durations import duration_text
from connector.config.identities import is_credential
from connector.config.references import check_proxies
from connector.config.resolution import resolve
from connector.config.secret import PseudonymKey, Secret, SecretBytes
from connector.config.settings import EventHubs, Identity, Kafka, SchemaRegistry, Settings, Tenant
from connector.config.source import ConfigSource
from connector.config.suspicious import suspicious_values
from connector.config.validation import check
from connector.errors import ConfigurationError

__all__ = [
    "EventHubs",
    "Identity",
    "Kafka",
    "PseudonymKey",
    "SchemaRegistry",
    "Secret",
    "SecretBytes",
    "Settings",
    "Tenant",
    "duration_text",
    "load",
    "no_tenants",
    "suspicious_values",
]


def no_tenants() -> ConfigurationError:
    """Return the error for a configuration without a tenant, in a program that needs one."""
    return ConfigurationError(
        ["tenants: no tenant is configured; add [[tenants]] or set AZURE_TENANT_ID and AZURE_CLIENT_ID"]
    )


def load(
    path: Path | None,
    environ: Mapping[str, str],
    *,
    required: Iterable[str] = (),
    contacts_graph: bool = True,
    overridden: bool = True,
) -> Settings:
    """Return the settings from the configuration file and the environment.

    The file is `path`. If `path` is not given, it is the file that CONNECTOR_CONFIG names. There may be no file.
    `required` names keys that must not be empty, such as "kafka.bootstrap_servers". If `contacts_graph` is false, no
    credentials are needed: problems with them are ignored, and the identities in the settings may be empty. If
    `overridden` is false, the CONNECTOR_* variables are ignored, because they belong to another configuration file.

    Raises ConfigurationError with all problems. Each is a line "FILE-or-VARIABLE: key: what is wrong; what to do".
    """
    source = ConfigSource(path, environ)
    source.read_file()
    if overridden:
        source.read_variables()
    checked = check(source)
    if source.unreadable:
        raise ConfigurationError(source.problems)
    signs_in = contacts_graph or checked.kafka.azure_event_hubs
    if not signs_in:
        source.ignores = is_credential
    settings = resolve(source, checked, required)
    check_proxies(
        source, (settings.graph.root, settings.graph.authority) if signs_in else (), settings.schema_registry.url
    )
    if source.problems:
        raise ConfigurationError(source.problems)
    return settings
