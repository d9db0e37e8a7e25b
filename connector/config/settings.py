"""Frozen settings of a process, with all values computed. Each tenant has the values that it inherits."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal

from connector.config.secret import PseudonymKey, Secret, SecretBytes
from connector.core.windows import Sweep


@dataclass(frozen=True, slots=True)
class Graph:
    """Settings for Graph.

    `root` is the URL of Graph and `authority` is the URL of sign-in. Neither has a trailing slash. `scope` is the OAuth
    scope of the cloud, even if `root` is the URL of another server.
    """

    cloud: str
    root: str
    authority: str
    scope: str
    ca_bundle: Path | None
    api_version: str
    requests_per_minute: float
    timeout: timedelta
    concurrency: int
    tls_strict: bool = True


@dataclass(frozen=True, slots=True)
class Identity:
    """Identity for sign-in: a client id with one credential, or a managed identity of Azure."""

    client_id: str | None
    client_secret: Secret | None = None
    client_certificate: SecretBytes | None = None
    client_certificate_password: Secret | None = None
    federated_token: Secret | None = None
    "Token of another identity provider, for workload identity."
    managed_identity: bool = False
    "True for a managed identity: user-assigned if `client_id` is set, otherwise system-assigned."


@dataclass(frozen=True, slots=True)
class Tenant:
    """Tenant with the values that it inherits from other tables.

    `id` is the id as configured, and `key` is the id in lower case. `label` is the name, or the id if there is no name.
    """

    id: str
    key: str
    name: str | None
    label: str
    identity: Identity
    start: datetime | timedelta
    requests_per_minute: float
    topic: str


@dataclass(frozen=True, slots=True)
class Windows:
    """Settings of the table [windows], which docs/interface.md describes. `sweeps` is ordered by cadence."""

    settle: timedelta
    slice: timedelta
    sweeps: tuple[Sweep, ...]


@dataclass(frozen=True, slots=True)
class Dedup:
    """Settings of the deduplication index.

    `horizon` is how long a row stays in it, counted from the start of the row's call.
    """

    horizon: timedelta


@dataclass(frozen=True, slots=True)
class Rows:
    """Settings of the published rows: the keys of the table [rows], and the pseudonym key."""

    key: str
    timestamp: str
    revisions: str
    additional_properties: str
    privacy: Mapping[str, str]
    "Privacy setting by field name: mask, pseudonymize or drop."
    pseudonym_key: PseudonymKey | None = None

    @property
    def treated(self) -> frozenset[str]:
        """Names of the fields whose values the privacy settings change before they are published."""
        return frozenset(self.privacy)


@dataclass(frozen=True, slots=True)
class EventHubs:
    """Settings for sign-in to Azure Event Hubs.

    `id` is the id of the Entra tenant to sign in to. `label` is the name of the brokers in messages.
    """

    id: str
    label: str
    identity: Identity
    scope: str


@dataclass(frozen=True, slots=True)
class Kafka:
    """Settings of brokers, topics and delivery. A `replication_factor` of -1 means that the broker chooses it."""

    bootstrap_servers: str
    topic: str
    app: str
    shards: int
    delivery: str
    create_topics: bool
    partitions: int
    replication_factor: int
    event_hubs: EventHubs | None
    topic_properties: dict[str, str]
    properties: dict[str, str | Secret] = field(repr=False)


@dataclass(frozen=True, slots=True)
class SchemaRegistry:
    """Settings of the schema registry.

    `url` holds one or more addresses without trailing slashes, separated by commas. If it is empty, there is no
    registry, and record values are in Avro single-object encoding.
    """

    url: str
    username: str
    password: Secret | None
    token: Secret | None
    ca_bundle: Path | None
    subject_name_strategy: str
    auto_register: bool
    tls_strict: bool = True
    client_certificate: Path | None = None
    client_key: Path | None = None

    @property
    def urls(self) -> tuple[str, ...]:
        """The addresses of the registry, in the order in which they are tried."""
        return tuple(self.url.split(","))


@dataclass(frozen=True, slots=True)
class Http:
    """Address of the HTTP server. Port 0 means any free port."""

    host: str
    port: int


@dataclass(frozen=True, slots=True)
class Log:
    """Format and level of the log."""

    format: Literal["auto", "json", "console"]
    level: str


@dataclass(frozen=True, slots=True)
class Settings:
    """All settings of a process, checked and with all values computed."""

    graph: Graph
    tenants: tuple[Tenant, ...]
    windows: Windows
    dedup: Dedup
    rows: Rows
    kafka: Kafka
    schema_registry: SchemaRegistry
    http: Http
    log: Log

    @property
    def topics(self) -> tuple[str, ...]:
        """The row topics of all tenants, without duplicates, sorted by name."""
        return tuple(sorted({tenant.topic for tenant in self.tenants}))
