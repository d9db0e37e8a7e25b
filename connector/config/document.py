"""The format of a configuration: tables, keys, values, defaults, and the messages for invalid values.

Validators raise ValueError with the rest of a sentence that begins with the key, for example `is "x", which is …; …`.
No message shows a value that may be a secret.
"""

import json
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from typing import Annotated, Any, Literal
from urllib.parse import SplitResult, urlsplit

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
from pydantic.json_schema import GenerateJsonSchema

from connector.core import instants

_CHINA = "Microsoft does not offer these records in its cloud in China"
_CHINA_HOSTS = ("chinacloudapi.cn", "partner.microsoftonline.cn", "azure.cn")
REFUSED_PROPERTIES = {
    "transactional.id": "it is made of kafka.app and the shard",
    "enable.idempotence": "exactly once rests on it",
    "acks": "exactly once rests on it",
    "request.required.acks": "exactly once rests on it",
    "group.id": "it is kafka.app",
    "group.instance.id": "replicas that share one configuration would fence each other in turns",
    "isolation.level": "exactly once rests on it",
    "enable.auto.commit": "exactly once rests on it",
    "auto.offset.reset": "exactly once rests on it",
    "bootstrap.servers": "it is kafka.bootstrap_servers",
    "metadata.broker.list": "it is kafka.bootstrap_servers",
}


def shown(value: object) -> str:
    """Return a value for a message: as JSON on one line, cut if it is longer than 80 characters."""
    text = json.dumps(value, ensure_ascii=True, default=str)
    return text if len(text) <= 80 else f"{text[:76]}…{text[-1]}"


_UNITS_MS = {"d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1000, "ms": 1}
_DURATION = re.compile(r"([0-9]+)(ms|s|m|h|d)")
_INSTANT_HINT = 'write for instance "2026-01-31T00:00:00Z", or "-7d" for seven days ago'
_DURATION_MAX = timedelta(days=36_525)


class Duration(timedelta):
    """A timedelta that keeps the text of the configuration, so that metrics and JSON show a cadence as configured."""

    text: str = ""

    def __reduce__(self) -> tuple[type["Duration"], tuple[int, int, int], dict[str, str]]:
        return Duration, (self.days, self.seconds, self.microseconds), {"text": self.text}


def parse_duration(text: str) -> Duration:
    """Return the duration that `text` states, such as "500ms", "15s", "10m", "2h" or "7d".

    Raise ValueError with the rest of a sentence.
    """
    match = _DURATION.fullmatch(text)
    if match is None:
        raise ValueError(
            f'is {shown(text)}, which is no duration; write for instance "500ms", "15s", "10m", "2h" or "7d"'
        )
    digits, unit = match.groups()
    if len(digits) > 18 or int(digits) * _UNITS_MS[unit] > _DURATION_MAX / timedelta(milliseconds=1):
        raise ValueError(f"is {shown(text)}, longer than 100 years; write a shorter one")
    duration = Duration(milliseconds=int(digits) * _UNITS_MS[unit])
    duration.text = text
    return duration


def duration_text(duration: timedelta) -> str:
    """Return a duration as configured, else in the largest unit that states it exactly ("15m", "1d").

    A fraction of a millisecond is dropped.
    """
    if isinstance(duration, Duration) and duration.text:
        return duration.text
    milliseconds = duration // timedelta(milliseconds=1)
    unit = next(unit for unit, size in _UNITS_MS.items() if milliseconds % size == 0 and (milliseconds or unit == "s"))
    return f"{milliseconds // _UNITS_MS[unit]}{unit}"


def parse_instant(text: str) -> datetime | timedelta:
    """Return an RFC 3339 instant as an aware UTC datetime, or a negative duration as a timedelta.

    Raise ValueError with the rest of a sentence.
    """
    if _DURATION.fullmatch(text):
        raise ValueError(f'is {shown(text)}, a positive duration; write "-{text}" for that long ago')
    if text.startswith("-") and _DURATION.fullmatch(text[1:]):
        return -parse_duration(text[1:])
    try:
        milliseconds = instants.parse_ms(text)
        moment = instants.from_ms(milliseconds) if milliseconds is not None else None
    except (ValueError, OverflowError):
        moment = None
    if moment is None:
        raise ValueError(f"is {shown(text)}, which is no instant; {_INSTANT_HINT}")
    return moment


@dataclass(frozen=True, slots=True)
class Reference:
    """A configured secret: its text, or the file or environment variable that holds it."""

    kind: Literal["text", "file", "env"]
    value: str = field(repr=False)


def _to_duration(value: object) -> timedelta:
    if not isinstance(value, str):
        raise ValueError('is no duration; write text with a unit, for instance "30s"')  # noqa: TRY004 (pydantic collects ValueError)
    return parse_duration(value)


def _to_instant(value: object) -> datetime | timedelta:
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise ValueError('has no offset from UTC; write for instance "2026-01-31T00:00:00Z"')
        try:
            return value.astimezone(UTC)
        except OverflowError:
            raise ValueError('is no instant; write for instance "2026-01-31T00:00:00Z"') from None
    if not isinstance(value, str):
        raise ValueError(f"is no instant; {_INSTANT_HINT}")  # noqa: TRY004
    return parse_instant(value)


def _to_reference(value: object) -> Reference:
    if isinstance(value, str):
        return Reference("text", value)
    if isinstance(value, dict) and len(value) == 1:
        kind, target = next(iter(value.items()))
        if kind in ("file", "env") and isinstance(target, str) and target and "\0" not in target:
            return Reference(kind, target)
    raise ValueError('must be text, { file = "PATH" } or { env = "NAME" }')


def _to_property(value: object) -> Reference:
    if isinstance(value, bool):
        return Reference("text", str(value).lower())
    if isinstance(value, (int, float)):
        return Reference("text", str(value))
    if isinstance(value, dict) and not value.keys() <= {"file", "env"}:  # TOML makes tables of names with unquoted dots
        raise ValueError('is a table where a value belongs; quote the whole name, as in "sasl.password" = "…"')
    return _to_reference(value)


def _to_identity(value: object) -> bool | str:
    if isinstance(value, bool) or (isinstance(value, str) and re.fullmatch(r"[!-~]{0,256}", value)):
        return value
    raise ValueError("must be true, false or the client id of a user-assigned identity")


def _to_cloud(value: object) -> object:
    if isinstance(value, str) and re.search(r"china|21vianet|mooncake|gallatin", value.lower()):
        raise ValueError(f"is {shown(value)}, but {_CHINA}; only global, us-gov-l4 and us-gov-l5 can be read")
    return value


def _split_url(value: str) -> SplitResult:
    try:
        parts = urlsplit(value)
        port = parts.port
    except ValueError:
        parts, port = None, None
    if parts is None or not parts.hostname or port == 0 or not re.fullmatch(r"[!-~]+", value):
        raise ValueError('is no address; write for instance "https://localhost:8443"')
    if parts.username is not None or parts.password is not None:
        raise ValueError("has a user name in it; leave that out")
    if parts.query or parts.fragment or "?" in value or "#" in value:
        raise ValueError("has a query or a fragment; give scheme, host and port only")
    if any(parts.hostname == host or parts.hostname.endswith(f".{host}") for host in _CHINA_HOSTS):
        raise ValueError(f"is {shown(value)}, but {_CHINA}")
    return parts


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _to_base_url(value: str) -> str:
    if not value:
        return value
    parts = _split_url(value)
    if parts.scheme != "https" and not (parts.scheme == "http" and _is_loopback(parts.hostname or "")):
        raise ValueError(
            f"is {shown(value)}, where the token would be sent unprotected; write https:// (http:// only for localhost)"
        )
    if parts.path.rstrip("/").endswith(("/v1.0", "/beta")):
        raise ValueError(f"is {shown(value)}, but the version is appended; leave it out and set graph.api_version")
    return value.rstrip("/")


def _to_registry_urls(value: str) -> str:
    urls = [url.strip() for url in value.split(",")] if value else []
    for url in urls:
        if _split_url(url).scheme not in ("http", "https"):
            raise ValueError(f'is {shown(url)}, which is no address; write for instance "https://registry:8081"')
    return ",".join(url.rstrip("/") for url in urls)


def is_protected(url: str) -> bool:
    """Return whether a secret may be sent to a URL: over TLS, or within this machine."""
    parts = urlsplit(url)
    return parts.scheme == "https" or _is_loopback(parts.hostname or "")


def to_authority(value: str) -> str:
    """Return the root URL of sign-in without a trailing slash. Raise ValueError with the rest of a sentence."""
    if not value:
        return value
    if _split_url(value).scheme != "https":
        raise ValueError(f"is {shown(value)}, but secrets are sent there; write https://")
    return value.rstrip("/")


def _to_topic(value: str) -> str:
    return _kafka_name(value, len(".progress"))


def _to_app(value: str) -> str:
    return _kafka_name(value, len(".control"))


def _kafka_name(value: str, suffix: int) -> str:
    longest = 249 - suffix
    if not re.fullmatch(r"[a-zA-Z0-9._-]+", value) or value in (".", ".."):
        raise ValueError(f"is {shown(value)}, which Kafka does not allow; use letters, digits, '.', '_' and '-'")
    if len(value) > longest:
        raise ValueError(f"is {len(value)} characters long; use at most {longest}")
    if value in ("__consumer_offsets", "__transaction_state"):
        raise ValueError(f"is {shown(value)}, which belongs to Kafka; choose another name")
    return value


def _to_servers(value: str) -> str:
    servers = [server.strip() for server in value.split(",")] if value.strip() else []
    for server in servers:
        match = re.fullmatch(r"(?:[A-Za-z_]+://)?(?:\[[0-9A-Fa-f:.%]+\]|[^\s:/\[\]@]+)(?::([0-9]{1,5}))?", server)
        if match is None or not 1 <= int(match.group(1) or 9092) <= 65_535:
            raise ValueError('is no list of brokers; write for instance "broker-1:9092,broker-2:9092"')
    return ",".join(servers)


def _to_listen(value: str) -> str:
    split_listen(value)
    return value


def split_listen(value: str) -> tuple[str, int]:
    """Return the host and port of HOST:PORT. Raise ValueError with the rest of a sentence."""
    match = re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[^\s:/\[\]@]*):([0-9]{1,5})", value)
    if match is None or int(match.group(2)) > 65_535:
        raise ValueError(f'is {shown(value)}, which is no address; write HOST:PORT, for instance "0.0.0.0:9464"')
    return match.group(1).strip("[]") or "0.0.0.0", int(match.group(2))  # noqa: S104 (what an empty host means everywhere)


def _to_replication(value: int) -> int:
    if value != -1 and not 1 <= value <= 32_767:
        raise ValueError(f"is {value}; write -1 for the broker's default, or at least 1")
    return value


def _to_word(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


def _to_text(value: str) -> str:
    if not value.isprintable():
        raise ValueError("contains a control character; leave it out")
    return value


def _to_tenant_id(value: str) -> str:
    guid = re.fullmatch(r"[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}", value)
    label = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
    if not guid and not (len(value) <= 253 and re.fullmatch(rf"{label}(?:\.{label})+", value)):
        todo = "write the directory (tenant) id that Microsoft Entra shows, or a domain of it"
        raise ValueError(f"is {shown(value)}, which is no tenant id; {todo}")
    return value


def _to_client_id(value: str) -> str:
    if not re.fullmatch(r"[!-~]{0,256}", value):
        raise ValueError("is no client id; write the application (client) id that Microsoft Entra shows")
    return value


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
    timedelta, PlainValidator(_to_duration), PlainSerializer(duration_text), WithJsonSchema(_DURATION_SCHEMA)
]
_Instant = Annotated[datetime | timedelta, PlainValidator(_to_instant), WithJsonSchema(_INSTANT_SCHEMA)]
_SecretText = Annotated[Reference, PlainValidator(_to_reference), WithJsonSchema(_REFERENCE_SCHEMA)]
_Property = Annotated[Reference, PlainValidator(_to_property), WithJsonSchema(_PROPERTY_SCHEMA)]
_ManagedIdentity = Annotated[bool | str, PlainValidator(_to_identity), WithJsonSchema({"type": ["boolean", "string"]})]
_Rate = Annotated[float, Field(ge=1, allow_inf_nan=False)]
_Text = Annotated[str, AfterValidator(_to_text)]
_ClientId = Annotated[str, AfterValidator(_to_client_id)]
_Topic = Annotated[str, AfterValidator(_to_topic)]
_FilePath = Annotated[str, AfterValidator(_to_text)]
_Treatment = Literal["mask", "pseudonymize", "drop"]


class Table(BaseModel):
    """A table of the configuration. Unknown keys are errors, and values are not converted between types."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, hide_input_in_errors=True)


class GraphTable(Table):
    """`[graph]`."""

    cloud: Annotated[Literal["global", "us-gov-l4", "us-gov-l5"], BeforeValidator(_to_cloud)] = Field(
        "global", description="Microsoft cloud that the tenants are in."
    )
    base_url: Annotated[str, AfterValidator(_to_base_url)] = Field(
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
    concurrency: int = Field(4, ge=1, description="Page chains at once, per tenant.")


class IdentityTable(Table):
    """`[identity]`."""

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
    """One of `[[tenants]]`."""

    model_config = ConfigDict(json_schema_extra={"required": ["id"]})

    id: Annotated[str, AfterValidator(_to_tenant_id)] | None = Field(
        None, description="Directory (tenant) id, or a domain of it."
    )
    name: _Text | None = Field(None, description="Unique name for people and metrics.")
    start: _Instant | None = Field(
        None, description='How far back the first run reads; an instant, or a negative duration. "-7d" when absent.'
    )
    requests_per_minute: _Rate | None = Field(None, description="Overrides graph.requests_per_minute.")
    topic: _Topic | None = Field(None, description="Overrides kafka.topic.")


class SweepTable(Table):
    """One of `[[windows.sweeps]]`."""

    model_config = ConfigDict(json_schema_extra={"required": ["every", "overlap"]})

    every: _Span | None = Field(None, description="Cadence; unique among the sweeps.")
    overlap: _Span | None = Field(None, description="How far back every run reads again.")


def _sweep(every: str, overlap: str) -> SweepTable:
    return SweepTable.model_construct(every=parse_duration(every), overlap=parse_duration(overlap))


class WindowsTable(Table):
    """`[windows]`."""

    settle: _Span = Field(parse_duration("0s"), description="The newest call time that a sweep reads is now - settle.")
    slice: _Span = Field(parse_duration("1d"), description="Longest range asked in one page chain, at most 30d.")
    sweeps: list[SweepTable] = Field(
        [_sweep("1m", "15m"), _sweep("15m", "3h"), _sweep("2h", "48h"), _sweep("24h", "7d")],
        description="Every `every`, all calls that began in the last `overlap` are read again.",
    )


class DedupTable(Table):
    """`[dedup]`."""

    horizon: _Span = Field(
        parse_duration("150d"),
        description="How long a row is remembered, by its start; at least the deepest overlap, its `every` and 1h.",
    )


class RowsTable(Table):
    """`[rows]`."""

    key: Literal["id", "correlationId", "userId", "trunkFullyQualifiedDomainName"] = Field(
        "id", description="Field that becomes the record's key; id where it is null or empty."
    )
    timestamp: Literal["ingest", "event"] = Field("ingest", description="Timestamp of the record.")
    revisions: Literal["publish", "ignore"] = Field("publish", description="What becomes of a row that Graph changed.")
    additional_properties: Literal["keep", "drop"] | None = Field(
        None,
        description="What becomes of members that the schema does not know; keep, or drop with any privacy setting.",
    )
    privacy: dict[str, _Treatment] = Field(
        {}, description="Treatment by field, for any string field of Graph's but id."
    )


class PseudonymsTable(Table):
    """`[pseudonyms]`."""

    key: _SecretText | None = Field(None, description="At least 32 bytes; pseudonyms change with it.")


class KafkaTable(Table):
    """`[kafka]`."""

    bootstrap_servers: Annotated[str, AfterValidator(_to_servers)] = Field(
        "", description="host:port of some brokers, separated by commas; required for run."
    )
    topic: _Topic = Field("direct-routing-calls", description="Topic of the rows; .dlq and .progress are beside it.")
    app: Annotated[str, AfterValidator(_to_app)] = Field(
        "direct-routing", description="Prefix of the group, the transactional ids and the internal topics."
    )
    shards: int = Field(8, ge=1, le=100_000, description="Partitions of the internal topics; fixed once created.")
    delivery: Literal["exactly_once", "at_least_once"] = Field(
        "exactly_once", description="at_least_once is for brokers without transactions: rows may come again."
    )
    create_topics: bool = Field(default=True, description="Whether missing topics are created.")
    partitions: int = Field(6, ge=1, le=100_000, description="Of the row topic, when it has to be created.")
    replication_factor: Annotated[int, AfterValidator(_to_replication)] = Field(
        -1, description="-1: the broker's default."
    )
    azure_event_hubs: bool = Field(
        default=False, description="OAUTHBEARER with [identity] in AZURE_TENANT_ID, else in the first tenant."
    )
    topic_properties: dict[str, _Property] = Field({}, description="Of the row topic, when it has to be created.")
    properties: dict[str, _Property] = Field(
        {},
        description="Any librdkafka property but those that exactly once rests on.",
        json_schema_extra={"propertyNames": {"not": {"enum": list(REFUSED_PROPERTIES)}}},
    )


class SchemaRegistryTable(Table):
    """`[schema_registry]`."""

    url: Annotated[str, AfterValidator(_to_registry_urls)] = Field(
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
        "", description="PEM file with the certificate, and maybe the key, that the registry wants (mutual TLS)."
    )
    client_key: _FilePath = Field("", description="PEM file with the key of client_certificate, where it is apart.")
    subject_name_strategy: Literal["topic", "record", "topic_record"] = Field(
        "topic", description="How subjects are named."
    )
    auto_register: bool = Field(default=True, description="Whether schemas are registered at the start.")


class HttpTable(Table):
    """`[http]`."""

    listen: Annotated[str, AfterValidator(_to_listen)] = Field(
        "0.0.0.0:9464", description="HOST:PORT; port 0 is a free one."
    )


class LogTable(Table):
    """`[log]`."""

    format: Literal["auto", "json", "console"] = Field("auto", description="auto: JSON unless on a terminal.")
    level: Annotated[Literal["debug", "info", "warning", "error", "critical"], BeforeValidator(_to_word)] = Field(
        "info", description="The least that is logged."
    )


class Document(Table):
    """The whole configuration."""

    graph: GraphTable = Field(GraphTable.model_construct(), description="Microsoft Graph.")
    identity: IdentityTable = Field(
        IdentityTable.model_construct(), description="What every tenant uses unless its own table says otherwise."
    )
    tenants: list[TenantTable] = Field([], description="None: one tenant from AZURE_TENANT_ID and its siblings.")
    windows: WindowsTable = Field(WindowsTable.model_construct(), description="What is read again, how often.")
    dedup: DedupTable = Field(DedupTable.model_construct(), description="What is remembered.")
    rows: RowsTable = Field(RowsTable.model_construct(), description="What becomes of rows on their way.")
    pseudonyms: PseudonymsTable = Field(PseudonymsTable.model_construct(), description="Key of the pseudonyms.")
    kafka: KafkaTable = Field(KafkaTable.model_construct(), description="Kafka.")
    schema_registry: SchemaRegistryTable = Field(SchemaRegistryTable.model_construct(), description="Schema registry.")
    http: HttpTable = Field(HttpTable.model_construct(), description="Metrics, health, status.")
    log: LogTable = Field(LogTable.model_construct(), description="Logs, on standard error.")


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema (2020-12) of the configuration file."""
    schema = Document.model_json_schema(schema_generator=_Generator)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **{key: _plain(value) for key, value in schema.items()},
        "title": "direct-routing-connector",
    }


class _Generator(GenerateJsonSchema):
    def encode_default(self, dft: Any) -> Any:
        if isinstance(dft, timedelta):
            return duration_text(dft)
        if isinstance(dft, Reference):
            return dft.value
        if isinstance(dft, SweepTable):
            return {"every": self.encode_default(dft.every), "overlap": self.encode_default(dft.overlap)}
        if isinstance(dft, BaseModel):
            return None
        if isinstance(dft, list):
            return [self.encode_default(part) for part in dft]
        return super().encode_default(dft)


def _plain(node: Any) -> Any:
    # TOML has no null: a key without a value is left out, so neither a null default nor a null type is valid.
    if isinstance(node, list):
        return [_plain(part) for part in node]
    if not isinstance(node, dict):
        return node
    node = {key: _plain(value) for key, value in node.items() if not (key == "default" and value is None)}
    if isinstance(node.get("title"), str):
        del node["title"]
    choices = [choice for choice in node.get("anyOf", []) if choice != {"type": "null"}]
    if choices:
        node["anyOf"] = choices
    if len(choices) == 1:
        del node["anyOf"]
        node = {**choices[0], **node}
    return node
