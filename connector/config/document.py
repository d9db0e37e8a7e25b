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
    to_listen,
    to_property,
    to_reference,
    to_registry_urls,
    to_replication,
    to_servers,
    to_tenant_id,
    to_text,
    to_topic,
    to_word,
)

REFUSED_PROPERTIES = {
    "transactional.id": "it is derived from kafka.app and the shard",
    "enable.idempotence": "exactly-once delivery depends on it",
    "acks": "exactly-once delivery depends on it",
    "request.required.acks": "exactly-once delivery depends on it",
    "group.id": "it is kafka.app",
    "group.instance.id": "replicas that share one configuration would fence each other in turns",
    "isolation.level": "exactly-once delivery depends on it",
    "enable.auto.commit": "exactly-once delivery depends on it",
    "auto.offset.reset": "exactly-once delivery depends on it",
    "bootstrap.servers": "it is kafka.bootstrap_servers",
    "metadata.broker.list": "it is kafka.bootstrap_servers",
}


_TEXT = {"type": "string"}
_DURATION_SCHEMA = {
    "type": "string",
    "pattern": "^[0-9]+(ms|s|m|h|d)$",
    "examples": ["500ms", "15s", "10m", "2h", "7d"],
}
_INSTANT_SCHEMA = {
    "type": "string",
    "anyOf": [{"format": "date-time"}, {"pattern": "^-[0-9]+(ms|s|m|h|d)$"}],
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
        "global", description="Microsoft cloud that the tenants are in."
    )
    base_url: Annotated[str, AfterValidator(to_base_url)] = Field(
        "", description="Overrides the cloud's Graph root; the version is appended."
    )
    authority: Annotated[str, AfterValidator(to_authority)] = Field(
        "", description="Overrides the cloud's sign-in root; the tenant id is appended. https only."
    )
    ca_bundle: _FilePath = Field("", description="PEM file of certificates to trust; also used for sign-in.")
    tls_strict: bool = Field(
        default=True,
        description="Whether CA certificates must follow RFC 5280 strictly; false accepts one that does not.",
    )
    api_version: Literal["v1.0", "beta"] = Field("v1.0", description="Version of Graph.")
    requests_per_minute: _Rate = Field(45.0, description="Requests to Graph in any 60 seconds, per tenant.")
    timeout: _Span = Field(parse_duration("30s"), description="How long one request may take.")
    concurrency: int = Field(4, ge=1, description="Concurrent page chains per tenant.")


class IdentityTable(Table):
    """Table `[identity]`: credentials for sign-in."""

    client_id: _ClientId | None = Field(None, description="Application (client) id.")
    client_secret: _SecretText | None = Field(None, description="Secret of the application.")
    client_certificate: _SecretText | None = Field(
        None, description="Instead of a secret: PEM with an RSA key and its certificate, or PFX."
    )
    client_certificate_password: _SecretText | None = Field(None, description="Password of the certificate.")
    workload_identity: bool | None = Field(
        None, description="Instead of a secret: the token in the file that AZURE_FEDERATED_TOKEN_FILE names."
    )
    managed_identity: _ManagedIdentity | None = Field(
        None, description="Instead of a secret: true, or the client id of a user-assigned managed identity of Azure."
    )


class TenantTable(IdentityTable):
    """Table `[[tenants]]`: one tenant, with values that override other tables."""

    model_config = ConfigDict(json_schema_extra={"required": ["id"]})

    id: Annotated[str, AfterValidator(to_tenant_id)] | None = Field(
        None, description="Directory (tenant) id, or a domain of it."
    )
    name: _Text | None = Field(None, description="Unique name for people and metrics.")
    start: _Instant | None = Field(
        None, description='How far back the first run reads; an instant, or a negative duration. "-7d" when absent.'
    )
    requests_per_minute: _Rate | None = Field(None, description="Overrides graph.requests_per_minute.")
    topic: _Topic | None = Field(None, description="Overrides kafka.topic.")


class SweepTable(Table):
    """Table `[[windows.sweeps]]`: one sweep."""

    model_config = ConfigDict(json_schema_extra={"required": ["every", "overlap"]})

    every: _Span | None = Field(None, description="Cadence; unique among the sweeps.")
    overlap: _Span | None = Field(None, description="How far back every run reads again.")


def _sweep(every: str, overlap: str) -> SweepTable:
    return SweepTable.model_construct(every=parse_duration(every), overlap=parse_duration(overlap))


class WindowsTable(Table):
    """Table `[windows]`: which call time is read, and how often."""

    settle: _Span = Field(parse_duration("0s"), description="The newest call time that a sweep reads is now - settle.")
    slice: _Span = Field(parse_duration("1d"), description="Longest range that one page chain requests, at most 30d.")
    sweeps: list[SweepTable] = Field(
        [_sweep("1m", "15m"), _sweep("15m", "3h"), _sweep("2h", "48h"), _sweep("24h", "7d")],
        description="Every `every`, all calls that began in the last `overlap` are read again.",
    )


class DedupTable(Table):
    """Table `[dedup]`: the deduplication index."""

    horizon: _Span = Field(
        parse_duration("150d"),
        description="How long the deduplication index keeps a row; at least the deepest overlap, its `every` and 1h.",
    )


class RowsTable(Table):
    """Table `[rows]`: the form of the published rows."""

    key: Literal["id", "correlationId", "userId", "trunkFullyQualifiedDomainName"] = Field(
        "id", description="Field that becomes the record's key; id if it is null or empty."
    )
    timestamp: Literal["ingest", "event"] = Field("ingest", description="Timestamp of the record.")
    revisions: Literal["publish", "ignore"] = Field("publish", description="Handling of a row that Graph changed.")
    additional_properties: Literal["keep", "drop"] | None = Field(
        None,
        description="Handling of members that the schema lacks; keep, or drop if any privacy setting is used.",
    )
    privacy: dict[str, _Treatment] = Field(
        {}, description="Treatment by field, for any string field of Graph's but id."
    )


class PseudonymsTable(Table):
    """Table `[pseudonyms]`: the key of the pseudonyms."""

    key: _SecretText | None = Field(None, description="At least 32 bytes; pseudonyms change with it.")


class KafkaTable(Table):
    """Table `[kafka]`: brokers, topics and delivery."""

    bootstrap_servers: Annotated[str, AfterValidator(to_servers)] = Field(
        "", description="host:port of some brokers, separated by commas; required for run."
    )
    topic: _Topic = Field(
        "direct-routing-calls",
        description="Topic of the rows; those of dead letters and progress end in .dlq and .progress.",
    )
    app: Annotated[str, AfterValidator(to_app)] = Field(
        "direct-routing", description="Prefix of the group, the transactional ids and the internal topics."
    )
    shards: int = Field(8, ge=1, le=100_000, description="Partitions of the internal topics; fixed once created.")
    delivery: Literal["exactly_once", "at_least_once"] = Field(
        "exactly_once",
        description="at_least_once is for brokers without transactions; rows can come twice.",
    )
    create_topics: bool = Field(default=True, description="Whether missing topics are created.")
    partitions: int = Field(6, ge=1, le=100_000, description="For the row topic, when it is created.")
    replication_factor: Annotated[int, AfterValidator(to_replication)] = Field(
        -1, description="-1: the broker's default."
    )
    azure_event_hubs: bool = Field(
        default=False, description="OAUTHBEARER with [identity] in AZURE_TENANT_ID, else in the first tenant."
    )
    topic_properties: dict[str, _Property] = Field({}, description="For the row topic, when it is created.")
    properties: dict[str, _Property] = Field(
        {},
        description="Any librdkafka property except those that exactly-once delivery depends on.",
        json_schema_extra={"propertyNames": {"not": {"enum": list(REFUSED_PROPERTIES)}}},
    )


class SchemaRegistryTable(Table):
    """Table `[schema_registry]`: address, credentials and use of the schema registry."""

    url: Annotated[str, AfterValidator(to_registry_urls)] = Field(
        "",
        description="Root of the Confluent API, or several separated by commas, tried in turn; "
        "empty: Avro single-object encoding.",
    )
    username: _Text = Field("", description="User name for the registry.")
    password: _SecretText = Field(Reference("text", ""), description="Password for the registry.")
    token: _SecretText = Field(Reference("text", ""), description="Bearer token, instead of username and password.")
    ca_bundle: _FilePath = Field("", description="PEM file of certificates to trust.")
    tls_strict: bool = Field(
        default=True,
        description="Whether CA certificates must follow RFC 5280 strictly; false accepts one that does not.",
    )
    client_certificate: _FilePath = Field(
        "", description="PEM file with the client certificate for mutual TLS, optionally with its key."
    )
    client_key: _FilePath = Field("", description="PEM file with the key of client_certificate, if it is separate.")
    subject_name_strategy: Literal["topic", "record", "topic_record"] = Field(
        "topic", description="How subjects are named."
    )
    auto_register: bool = Field(default=True, description="Whether schemas are registered at the start.")


class HttpTable(Table):
    """Table `[http]`: address of the HTTP server."""

    listen: Annotated[str, AfterValidator(to_listen)] = Field(
        "0.0.0.0:9464", description="HOST:PORT; port 0 picks a free port."
    )


class LogTable(Table):
    """Table `[log]`: format and level of the log."""

    format: Literal["auto", "json", "console"] = Field("auto", description="auto: JSON unless on a terminal.")
    level: Annotated[Literal["debug", "info", "warning", "error", "critical"], BeforeValidator(to_word)] = Field(
        "info", description="Minimum level that is logged."
    )


class Document(Table):
    """Whole configuration, with one member per table."""

    graph: GraphTable = Field(GraphTable.model_construct(), description="Microsoft Graph.")
    identity: IdentityTable = Field(
        IdentityTable.model_construct(), description="Credentials of every tenant that has none of its own."
    )
    tenants: list[TenantTable] = Field([], description="Without any, AZURE_TENANT_ID and related variables define one.")
    windows: WindowsTable = Field(WindowsTable.model_construct(), description="What is read again, and how often.")
    dedup: DedupTable = Field(DedupTable.model_construct(), description="Deduplication index.")
    rows: RowsTable = Field(RowsTable.model_construct(), description="Form of the published rows.")
    pseudonyms: PseudonymsTable = Field(PseudonymsTable.model_construct(), description="Key of the pseudonyms.")
    kafka: KafkaTable = Field(KafkaTable.model_construct(), description="Kafka.")
    schema_registry: SchemaRegistryTable = Field(SchemaRegistryTable.model_construct(), description="Schema registry.")
    http: HttpTable = Field(HttpTable.model_construct(), description="Metrics, health, status.")
    log: LogTable = Field(LogTable.model_construct(), description="Logs, on standard error.")
