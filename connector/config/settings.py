"""What passes: every setting frozen and resolved, each tenant with what it inherits."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal

from connector.config.secret import PseudonymKey, Secret, SecretBytes
from connector.core.windows import Sweep


@dataclass(frozen=True, slots=True)
class Graph:
    """Where and how Graph is read. `root` and `authority` have no slash at their end; `scope` is the cloud's own."""

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
    """With what a tenant signs in: client id and one credential, or a managed identity."""

    client_id: str | None
    client_secret: Secret | None = None
    client_certificate: SecretBytes | None = None
    client_certificate_password: Secret | None = None
    federated_token: Secret | None = None
    "What workload identity signs in with."
    managed_identity: bool = False
    "System-assigned without `client_id`, else that one."


@dataclass(frozen=True, slots=True)
class Tenant:
    """One tenant with all that it inherits. `id` as written, `key` in lower case, `label` for people and metrics."""

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
    """Sweeps in order of `every`; `settle` and `slice` as in the contract."""

    settle: timedelta
    slice: timedelta
    sweeps: tuple[Sweep, ...]


@dataclass(frozen=True, slots=True)
class Dedup:
    """How long a row is remembered, by its start."""

    horizon: timedelta


@dataclass(frozen=True, slots=True)
class Rows:
    """What becomes of rows on their way."""

    key: str
    timestamp: str
    revisions: str
    additional_properties: str
    privacy: Mapping[str, str]
    "mask, pseudonymize or drop by field of the schema."
    pseudonym_key: PseudonymKey | None = None

    @property
    def treated(self) -> frozenset[str]:
        """Fields whose values on the topics are not those of Graph."""
        return frozenset(self.privacy)


@dataclass(frozen=True, slots=True)
class EventHubs:
    """Who signs in to Azure Event Hubs, where and for what. `id`: the tenant."""

    id: str
    label: str
    identity: Identity
    scope: str


@dataclass(frozen=True, slots=True)
class Kafka:
    """Brokers, names and promises. `replication_factor` -1 is the broker's default."""

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
    """The registry; an empty `url` means Avro single-object encoding. `url`: one or more, separated by commas.

    No url has a slash at its end.
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
    """Where HTTP is served; port 0 is a free one."""

    host: str
    port: int


@dataclass(frozen=True, slots=True)
class Log:
    """What is logged, and how."""

    format: Literal["auto", "json", "console"]
    level: str


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that is configured, checked and resolved."""

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
        """The row topics that the tenants use, each once, in order of their names."""
        return tuple(sorted({tenant.topic for tenant in self.tenants}))
