"""Format of a configuration: tables, keys, types, defaults and descriptions."""

from datetime import datetime, timedelta
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    WithJsonSchema,
)

from connector.config.durations import duration_text, parse_duration, to_duration, to_instant
from connector.config.values import (
    Reference,
    to_app,
    to_authority,
    to_base_url,
    to_client_id,
    to_cloud,
    to_identity,
    to_level,
    to_listen,
    to_property,
    to_reference,
    to_registry_urls,
    to_replication,
    to_servers,
    to_tenant_id,
    to_text,
    to_topic,
)

REFUSED_PROPERTIES = {
    "transactional.id": "it is derived from kafka.app and the shard",
    "enable.idempotence": "exactly-once delivery depends on it",
    "acks": "exactly-once delivery depends on it",
    "request.required.acks": "exactly-once delivery depends on it",
    "group.id": "kafka.app sets it",
    "group.instance.id": "workers with the same configuration would fence each other repeatedly",
    "isolation.level": "exactly-once delivery depends on it",
    "enable.auto.commit": "exactly-once delivery depends on it",
    "auto.offset.reset": "exactly-once delivery depends on it",
    "bootstrap.servers": "kafka.bootstrap_servers sets it",
    "metadata.broker.list": "kafka.bootstrap_servers sets it",
}


_TEXT = {"type": "string"}
_DURATION_SCHEMA = {
    "type": "string",
    "pattern": "^[0-9]+(ms|s|m|h|d)$",
    "examples": ["500ms", "15s", "10m", "2h", "7d"],
}
_INSTANT_SCHEMA = {
    "type": "string",
    "anyOf": [{"format": "date-time"}, {"format": "date"}, {"pattern": "^-[0-9]+(ms|s|m|h|d)$"}],
    "examples": ["2026-01-31T00:00:00Z", "-7d"],
}
_REFERENCES = [
    {
        "type": "object",
        "properties": {kind: {"type": "string", "minLength": 1}},
        "required": [kind],
        "additionalProperties": False,
    }
    for kind in ("file", "env")
]
_REFERENCE_SCHEMA = {"anyOf": [_TEXT, *_REFERENCES]}
_PROPERTY_SCHEMA = {"anyOf": [{"type": ["string", "number", "boolean"]}, *_REFERENCES]}

_Span = Annotated[
    timedelta, PlainValidator(to_duration), PlainSerializer(duration_text), WithJsonSchema(_DURATION_SCHEMA)
]
_Instant = Annotated[datetime | timedelta, PlainValidator(to_instant), WithJsonSchema(_INSTANT_SCHEMA)]
_SecretText = Annotated[Reference, PlainValidator(to_reference), WithJsonSchema(_REFERENCE_SCHEMA)]
_Property = Annotated[Reference, PlainValidator(to_property), WithJsonSchema(_PROPERTY_SCHEMA)]
_ManagedIdentity = Annotated[bool | str, PlainValidator(to_identity), WithJsonSchema({"type": ["boolean", "string"]})]
_Rate = Annotated[float, Field(ge=1, allow_inf_nan=False)]
_Text = Annotated[str, AfterValidator(to_text)]
_ClientId = Annotated[str, AfterValidator(to_client_id)]
_Topic = Annotated[str, AfterValidator(to_topic)]
_FilePath = Annotated[str, AfterValidator(to_text)]
_Treatment = Literal["mask", "pseudonymize", "drop"]


class Table(BaseModel):
    """Table of the configuration. Unknown keys are errors, and values are not converted between types."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, hide_input_in_errors=True)


class GraphTable(Table):
    """Table `[graph]`: access to Microsoft Graph."""

    cloud: Annotated[Literal["global", "us-gov-l4", "us-gov-l5"], BeforeValidator(to_cloud)] = Field(
        "global", description="The Microsoft cloud of the tenants."
    )
    base_url: Annotated[str, AfterValidator(to_base_url)] = Field(
        "", description="Root URL of Graph, instead of the cloud's own. The API version is appended to it."
    )
    authority: Annotated[str, AfterValidator(to_authority)] = Field(
        "",
        description="Root URL of sign-in (https), instead of the cloud's own. The tenant id is appended to it.",
    )
    ca_bundle: _FilePath = Field(
        "", description="PEM file with the CA certificates that are trusted for Graph and sign-in."
    )
    tls_strict: bool = Field(
        default=True,
        description="Whether CA certificates must follow RFC 5280 strictly. False also accepts other certificates.",
    )
    api_version: Literal["v1.0", "beta"] = Field("v1.0", description="API version of Graph.")
    requests_per_minute: _Rate = Field(
        45.0, description="The highest number of requests to Graph in any 60 seconds, per tenant."
    )
    timeout: _Span = Field(parse_duration("30s"), description="The longest time that one request may take.")
    concurrency: int = Field(
        4, ge=1, description="The highest number of page chains that are read at the same time, per tenant."
    )


class IdentityTable(Table):
    """Table `[identity]`: credentials for sign-in."""

    client_id: _ClientId | None = Field(None, description="The application (client) id.")
    client_secret: _SecretText | None = Field(None, description="The client secret of the application.")
    client_certificate: _SecretText | None = Field(
        None,
        description="A certificate instead of a secret: a PEM file with an RSA key and its certificate, or a PFX file.",
    )
    client_certificate_password: _SecretText | None = Field(None, description="The password of the certificate file.")
    workload_identity: bool | None = Field(
        None,
        description="With true, the token in the file that AZURE_FEDERATED_TOKEN_FILE names replaces the secret.",
    )
    managed_identity: _ManagedIdentity | None = Field(
        None,
        description="A managed identity instead of a secret: true, or the client id of a user-assigned identity.",
    )


class TenantTable(IdentityTable):
    """Table `[[tenants]]`: one tenant, with values that override other tables."""

    model_config = ConfigDict(json_schema_extra={"required": ["id"]})

    id: Annotated[str, AfterValidator(to_tenant_id)] | None = Field(
        None, description="The directory (tenant) id, or a domain of the tenant."
    )
    name: _Text | None = Field(None, description="A unique name of the tenant, which commands, logs and metrics use.")
    start: _Instant | None = Field(
        None,
        description='The call time at which reading begins: an instant, or a negative duration. The default is "-7d".',
    )
    requests_per_minute: _Rate | None = Field(
        None, description="The request budget of this tenant, instead of graph.requests_per_minute."
    )
    topic: _Topic | None = Field(None, description="The row topic of this tenant, instead of kafka.topic.")


class SweepTable(Table):
    """Table `[[windows.sweeps]]`: one sweep."""

    model_config = ConfigDict(json_schema_extra={"required": ["every", "overlap"]})

    every: _Span | None = Field(
        None, description="The time between two runs of the sweep. No two sweeps may have the same."
    )
    overlap: _Span | None = Field(None, description="How far back from now each run reads.")


def _sweep(every: str, overlap: str) -> SweepTable:
    return SweepTable.model_construct(every=parse_duration(every), overlap=parse_duration(overlap))


class WindowsTable(Table):
    """Table `[windows]`: which call time is read, and how often."""

    settle: _Span = Field(parse_duration("0s"), description="How long before the current time each window ends.")
    slice: _Span = Field(
        parse_duration("1d"), description="The longest range of call time that one page chain requests, at most 30d."
    )
    sweeps: list[SweepTable] = Field(
        [_sweep("1m", "15m"), _sweep("15m", "3h"), _sweep("2h", "48h"), _sweep("24h", "7d")],
        description="The sweeps. Once per `every`, a sweep reads all calls that began within the last `overlap`.",
    )


class DedupTable(Table):
    """Table `[dedup]`: the deduplication index."""

    horizon: _Span = Field(
        parse_duration("150d"),
        description="How long a row stays in the deduplication index: at least the longest overlap + its `every` + 1h.",
    )


class RowsTable(Table):
    """Table `[rows]`: the form of the published rows."""

    key: Literal["id", "correlationId", "userId", "trunkFullyQualifiedDomainName"] = Field(
        "id", description="The field that becomes the record key. If it is null or empty, the key is the id."
    )
    timestamp: Literal["ingest", "event"] = Field(
        "ingest",
        description="The record timestamp: ingest is when the row was first read, event is when the call began.",
    )
    revisions: Literal["publish", "ignore"] = Field(
        "publish", description="Whether a row that Graph changed is published again, as a revision."
    )
    additional_properties: Literal["keep", "drop"] | None = Field(
        None,
        description="Whether to keep members that the schema lacks. With privacy settings, the default is drop.",
    )
    privacy: dict[str, _Treatment] = Field(
        {},
        description="How personal data in a field is protected. Any string field of Graph except id can be listed.",
    )


class PseudonymsTable(Table):
    """Table `[pseudonyms]`: the key of the pseudonyms."""

    key: _SecretText | None = Field(
        None,
        description="The secret key of the pseudonyms, at least 32 bytes. A new key changes all pseudonyms.",
    )


class KafkaTable(Table):
    """Table `[kafka]`: brokers, topics and delivery."""

    bootstrap_servers: Annotated[str, AfterValidator(to_servers)] = Field(
        "",
        description="The addresses of some brokers as host:port, separated by commas. `run` requires this key.",
    )
    topic: _Topic = Field(
        "direct-routing-calls",
        description="The row topic. Topics of dead letters and progress records add .dlq and .progress to its name.",
    )
    app: Annotated[str, AfterValidator(to_app)] = Field(
        "direct-routing",
        description="The name of the consumer group, and the prefix of the transactional ids and the internal topics.",
    )
    shards: int = Field(
        8,
        ge=1,
        le=100_000,
        description="The number of partitions of each internal topic. It cannot be changed once the topics exist.",
    )
    delivery: Literal["exactly_once", "at_least_once"] = Field(
        "exactly_once",
        description="The delivery guarantee. at_least_once is for brokers without transactions and can duplicate rows.",
    )
    create_topics: bool = Field(default=True, description="Whether the connector creates missing topics.")
    partitions: int = Field(
        6, ge=1, le=100_000, description="The number of partitions of the row topic when it is created."
    )
    replication_factor: Annotated[int, AfterValidator(to_replication)] = Field(
        -1,
        description="The replication factor of topics that are created. With -1, the default of the brokers applies.",
    )
    azure_event_hubs: bool = Field(
        default=False,
        description="Whether to sign in to Event Hubs with [identity], in tenant AZURE_TENANT_ID or the first one.",
    )
    topic_properties: dict[str, _Property] = Field({}, description="Settings of the row topic when it is created.")
    properties: dict[str, _Property] = Field(
        {},
        description="Properties of librdkafka. The properties on which exactly-once delivery depends are refused.",
        json_schema_extra={"propertyNames": {"not": {"enum": list(REFUSED_PROPERTIES)}}},
    )


class SchemaRegistryTable(Table):
    """Table `[schema_registry]`: address, credentials and use of the schema registry."""

    url: Annotated[str, AfterValidator(to_registry_urls)] = Field(
        "",
        description="Root URL of the Confluent API. Several URLs, separated by commas, are tried in turn. "
        "Without a URL, values are in Avro's single-object encoding.",
    )
    username: _Text = Field("", description="The user name for the registry.")
    password: _SecretText = Field(Reference("text", ""), description="The password for the registry.")
    token: _SecretText = Field(Reference("text", ""), description="A bearer token, instead of user name and password.")
    ca_bundle: _FilePath = Field("", description="PEM file with the CA certificates that are trusted for the registry.")
    tls_strict: bool = Field(
        default=True,
        description="Whether CA certificates must follow RFC 5280 strictly. False also accepts other certificates.",
    )
    client_certificate: _FilePath = Field(
        "", description="PEM file with the client certificate for mutual TLS. It can also contain the key."
    )
    client_key: _FilePath = Field(
        "", description="PEM file with the key of the client certificate, if the key is in a file of its own."
    )
    subject_name_strategy: Literal["topic", "record", "topic_record"] = Field(
        "topic", description="How the subjects in the registry are named."
    )
    auto_register: bool = Field(default=True, description="Whether the connector registers its schemas at the start.")


class HttpTable(Table):
    """Table `[http]`: address of the HTTP server."""

    listen: Annotated[str, AfterValidator(to_listen)] = Field(
        "0.0.0.0:9464", description="The address of the HTTP server as HOST:PORT. With port 0, it takes a free port."
    )


class LogTable(Table):
    """Table `[log]`: format and level of the log."""

    format: Literal["auto", "json", "console"] = Field(
        "auto", description="The format of the log. With auto, it is JSON unless standard error is a terminal."
    )
    level: Annotated[Literal["debug", "info", "warning", "error", "critical"], BeforeValidator(to_level)] = Field(
        "info", description="The lowest level that is logged."
    )


class Document(Table):
    """Whole configuration, with one member per table."""

    graph: GraphTable = Field(GraphTable.model_construct(), description="How Microsoft Graph is reached.")
    identity: IdentityTable = Field(
        IdentityTable.model_construct(), description="The credentials of every tenant that has none of its own."
    )
    tenants: list[TenantTable] = Field(
        [], description="The tenants. If none is configured, AZURE_TENANT_ID and related variables define one."
    )
    windows: WindowsTable = Field(WindowsTable.model_construct(), description="Which call time is read, and how often.")
    dedup: DedupTable = Field(
        DedupTable.model_construct(),
        description="The deduplication index, which keeps the connector from publishing a version twice.",
    )
    rows: RowsTable = Field(RowsTable.model_construct(), description="How rows are published.")
    pseudonyms: PseudonymsTable = Field(
        PseudonymsTable.model_construct(), description="The key from which pseudonyms are computed."
    )
    kafka: KafkaTable = Field(KafkaTable.model_construct(), description="The brokers and the topics.")
    schema_registry: SchemaRegistryTable = Field(
        SchemaRegistryTable.model_construct(), description="The schema registry."
    )
    http: HttpTable = Field(
        HttpTable.model_construct(), description="The HTTP server for metrics, health checks, status and the page."
    )
    log: LogTable = Field(LogTable.model_construct(), description="The log, which is written to standard error.")
