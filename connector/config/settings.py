"""The settings of a process: frozen and resolved, each tenant with the values that it inherits."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal

from connector.config.secret import PseudonymKey, Secret, SecretBytes
from connector.core.windows import Sweep


@dataclass(frozen=True, slots=True)
class Graph:
    """Settings of Graph. `root` and `authority` have no trailing slash; `scope` is always that of the cloud."""

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
    """The identity of a tenant: client id and one credential, or a managed identity."""

    client_id: str | None
    client_secret: Secret | None = None
    client_certificate: SecretBytes | None = None
    client_certificate_password: Secret | None = None
    federated_token: Secret | None = None
    "The token of another identity provider, for workload identity."
    managed_identity: bool = False
    "System-assigned without `client_id`, otherwise the user-assigned identity of that id."


@dataclass(frozen=True, slots=True)
class Tenant:
    """One tenant with the values that it inherits.

    `id` is as written, `key` is the id in lower case, `label` is for people and metrics.
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
    """Sweeps in order of `every`, with `settle` and `slice` as docs/interface.md defines them."""

    settle: timedelta
    slice: timedelta
    sweeps: tuple[Sweep, ...]


@dataclass(frozen=True, slots=True)
class Dedup:
    """The dedup index. `horizon` is the time for which a row stays in it, counted from the start of its call."""

    horizon: timedelta


@dataclass(frozen=True, slots=True)
class Rows:
    """Form and treatment of the published rows."""

    key: str
    timestamp: str
    revisions: str
    additional_properties: str
    privacy: Mapping[str, str]
    "Treatment by field of the schema: mask, pseudonymize or drop."
    pseudonym_key: PseudonymKey | None = None

    @property
    def treated(self) -> frozenset[str]:
        """Fields whose published values differ from those of Graph."""
        return frozenset(self.privacy)


@dataclass(frozen=True, slots=True)
class EventHubs:
    """Sign-in to Azure Event Hubs. `id` is the tenant."""

    id: str
    label: str
    identity: Identity
    scope: str


@dataclass(frozen=True, slots=True)
class Kafka:
    """Brokers, topic names and delivery. A `replication_factor` of -1 means the broker's default."""

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
    """The schema registry.

    `url` holds one or more addresses without trailing slashes, separated by commas. If it is empty, values are in Avro
    single-object encoding.
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
        """The registry's addresses, tried in turn."""
        return tuple(self.url.split(","))


@dataclass(frozen=True, slots=True)
class Http:
    """The address of the HTTP server. Port 0 means any free port."""

    host: str
    port: int


@dataclass(frozen=True, slots=True)
class Log:
    """Format and level of the log."""

    format: Literal["auto", "json", "console"]
    level: str


@dataclass(frozen=True, slots=True)
class Settings:
    """All settings, checked and resolved."""

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
        """The topics of rows that the tenants use, each once, in order of name."""
        return tuple(sorted({tenant.topic for tenant in self.tenants}))
