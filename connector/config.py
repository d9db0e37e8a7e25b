"""Settings: a TOML file, overridden by CONNECTOR_* variables, checked as a whole.

1. Every problem is reported at once, one line each: file or variable, key, what is wrong, what to do.
2. No message shows a value that may be a secret.
3. What passes is frozen and resolved: durations, paths, roots, and each tenant with what it inherits.
"""

import json
import re
import ssl
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from difflib import SequenceMatcher
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, Self, TypeVar, get_args, get_origin

from pydantic import BaseModel, ValidationError

from connector import document
from connector.core import certificates, privacy
from connector.core.windows import Sweep
from connector.document import (
    Document,
    IdentityTable,
    Reference,
    SchemaRegistryTable,
    TenantTable,
    duration_text,
    shown,
)
from connector.errors import ConfigurationError
from connector.schemata import schema_text

__all__ = ["Settings", "duration_text", "load"]

PREFIX = "CONNECTOR_"
FILE_VARIABLE = "CONNECTOR_CONFIG"

Key = tuple[str | int, ...]
_Text = TypeVar("_Text", str, bytes)

_CLOUDS = {
    "global": ("https://graph.microsoft.com", "https://login.microsoftonline.com"),
    "us-gov-l4": ("https://graph.microsoft.us", "https://login.microsoftonline.us"),
    "us-gov-l5": ("https://dod-graph.microsoft.us", "https://login.microsoftonline.us"),
}
_CREDENTIALS = ("client_secret", "client_certificate", "workload_identity", "managed_identity")
_START = document.parse_instant("-7d")
_UNSET = Reference("text", "")


class _Hidden(Generic[_Text]):
    """Something that only `get` shows. A file is read again each time, so that a rotated secret is seen."""

    __slots__ = ("_path", "_source", "_value")

    def __init__(self, value: _Text, source: str = "value", path: Path | None = None) -> None:
        self._value: _Text = value
        self._source = source
        self._path = path

    @classmethod
    def from_file(cls, path: Path) -> Self:
        """The content of a file. Raises OSError, UnicodeDecodeError."""
        return cls(cls._read(path), f"file {path}", path)

    @staticmethod
    def _read(path: Path) -> _Text:
        raise NotImplementedError

    def get(self) -> _Text:
        """The secret as it is now; while its file cannot be read, or is empty, as it was last."""
        if self._path is not None:
            try:
                self._value = self._read(self._path) or self._value
            except (OSError, UnicodeDecodeError):
                return self._value
        return self._value

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._source})"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, type(self)):
            return NotImplemented
        return (self._source, self._path, self._value) == (other._source, other._path, other._value)

    def __hash__(self) -> int:
        return hash((self._source, self._path))


class Secret(_Hidden[str]):
    """Text; of a file, without the line end at its end."""

    __slots__ = ()

    @staticmethod
    def _read(path: Path) -> str:
        return _read_secret(path)


class SecretBytes(_Hidden[bytes]):
    """Bytes; of a file, all of them."""

    __slots__ = ()

    @staticmethod
    def _read(path: Path) -> bytes:
        return path.read_bytes()


class PseudonymKey:
    """Bytes that only `get` shows. A file is read again each time."""

    __slots__ = ("_path", "_source", "_value", "problem")

    def __init__(self, value: bytes, source: str = "value", path: Path | None = None) -> None:
        self._value = value
        self._source = source
        self._path = path
        self.problem: str | None = None
        "Why the file was not taken when it was last read."

    @classmethod
    def from_file(cls, path: Path) -> "PseudonymKey":
        """The content of a file without the line end at its end; any bytes. Raises OSError."""
        return cls(_without_line_end(path.read_bytes()), f"file {path}", path)

    def get(self) -> bytes:
        """The key as it is now; while its file cannot be read, or is too short for a key, as it was last."""
        if self._path is not None:
            self.problem = None
            try:
                value = _without_line_end(self._path.read_bytes())
            except OSError as error:
                self.problem = f"{self._source} cannot be read ({error.strerror})"
            else:
                if len(value) < privacy.KEY_MIN_BYTES:
                    self.problem = f"{self._source} is {len(value)} bytes long, less than {privacy.KEY_MIN_BYTES}"
                else:
                    self._value = value
        return self._value

    def become(self, other: "PseudonymKey") -> None:
        """Is what another one is: the configuration was read again."""
        for name in self.__slots__:
            setattr(self, name, getattr(other, name))

    def __repr__(self) -> str:
        return f"PseudonymKey({self._source})"


def _without_line_end(content: bytes) -> bytes:
    return content.removesuffix(b"\n").removesuffix(b"\r") if content.endswith(b"\n") else content


def _read_secret(path: Path) -> str:
    text = path.read_bytes().decode("utf-8-sig")
    return text.removesuffix("\n").removesuffix("\r") if text.endswith("\n") else text


_H = TypeVar("_H", bound=_Hidden[Any])


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
    """The registry; an empty `url` means Avro single-object encoding. `url` has no slash at its end."""

    url: str
    username: str
    password: Secret | None
    token: Secret | None
    ca_bundle: Path | None
    subject_name_strategy: str
    auto_register: bool


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


def load(path: Path | None, environ: Mapping[str, str], *, required: Iterable[str] = ()) -> Settings:
    """The settings from the file (`path`, else CONNECTOR_CONFIG, else none) and the environment.

    `required` names keys that may not be empty here, such as "kafka.bootstrap_servers".
    Raises ConfigurationError with every problem at once, each "FILE-or-VARIABLE: key: what is wrong; what to do".
    """
    source = _Source(path, environ)
    source.read_file()
    source.read_variables()
    checked = _check(source)
    if source.unreadable:
        raise ConfigurationError(source.problems)
    settings = _resolve(source, checked, required)
    if source.problems:
        raise ConfigurationError(source.problems)
    return settings


# --- reading ----------------------------------------------------------------------------------------------------------


class _Source:
    """What was written, key by key, by whom; and what is wrong with it so far, at most one problem a key."""

    def __init__(self, path: Path | None, environ: Mapping[str, str]) -> None:
        self.environ = environ
        self.tree: dict[str, Any] = {}
        self._file_tree: dict[str, Any] = {}
        self.variables: dict[Key, str] = {}
        self.problems: list[str] = []
        self.unreadable = False
        self._reported: set[Key] = set()
        self._chosen_by: str | None = None
        self.path = path
        if path is None:
            for name, text in environ.items():
                if name.upper() == FILE_VARIABLE and text:
                    self.path, self._chosen_by = Path(text), name

    def read_file(self) -> None:
        if self.path is None:
            return
        origin = self._chosen_by or str(self.path)
        try:
            text = self.path.read_bytes().decode("utf-8-sig")
            self.tree, self._file_tree = tomllib.loads(text), tomllib.loads(text)
        except OSError as error:
            why = error.strerror or type(error).__name__
            what = f"{self.path} cannot be read ({why}); name a file that exists and that this user may read"
        except UnicodeDecodeError:
            what = f"{self.path} is not UTF-8; save it as UTF-8"
        except (tomllib.TOMLDecodeError, RecursionError) as error:
            what = f"{self.path} is not TOML: {_one_line(str(error))}; repair that place"
        else:
            return
        self.unreadable = True
        self.problems.append(_printable(f"{origin}: {what}"))

    def read_variables(self) -> None:
        found: dict[tuple[str, ...], tuple[str, str]] = {}
        for name, text in sorted(self.environ.items()):
            upper = name.upper()
            if not upper.startswith(PREFIX) or upper == FILE_VARIABLE:
                continue
            rest = upper.removeprefix(PREFIX).lower()
            if "__" not in rest and rest not in Document.model_fields:
                continue
            segments = tuple(rest.split("__"))
            if segments in found and found[segments][1] != text:
                self.report(segments, f"is also set by {found[segments][0]}; remove one of them", name)
            found[segments] = (name, text)
        for segments in sorted(found, key=len):  # what is more specific counts more
            self._place(segments, *found[segments])

    def _place(self, segments: tuple[str, ...], name: str, text: str) -> None:
        model: type[BaseModel] = Document
        for depth, segment in enumerate(segments):
            kind = _kind(model, segment)
            key, rest = segments[: depth + 1], segments[depth + 1 :]
            if isinstance(kind, type) and issubclass(kind, BaseModel) and rest:
                model = kind
                continue
            if kind is dict and rest:
                key, rest = (*key, _name_below(key, rest[0])), rest[1:]
                kind = Reference
            if kind is None:
                self._put(segments, text, name)
            elif kind is Reference and rest in (("file",), ("env",)):
                self._put(key, {rest[0]: text}, name)
            elif kind is list and rest:
                self.report(key, f"is a list, which is set as a whole; put JSON into {_variable(key)}", name)
            elif rest and len(key) > depth + 1:
                whole = _variable((*key, *rest[:-1])) + "_" + rest[-1].upper()
                self.report(segments, f"is no property; one underscore stands for a dot, as in {whole}", name)
            elif rest:
                self.report(segments, f"is no key, since {_key_text(key)} is a value; set {_variable(key)}", name)
            else:
                self._place_value(key, kind, text, name)
            return

    def _place_value(self, key: Key, kind: Any, text: str, name: str) -> None:
        value: Any = text
        if kind is list or kind is dict or (isinstance(kind, type) and issubclass(kind, BaseModel)):
            try:
                value = json.loads(text)
            except (ValueError, RecursionError) as error:
                place = (
                    f" ({error.msg} at character {error.pos + 1})" if isinstance(error, json.JSONDecodeError) else ""
                )
                self.report(key, f"is not JSON{place}; write {'[…]' if kind is list else '{…}'}", name)
                return
        elif kind is Reference and text.startswith("{"):
            try:
                value = json.loads(text)
            except ValueError:
                value = text
        elif kind is bool and text.lower() in ("true", "false"):
            value = text.lower() == "true"
        elif kind is int and re.fullmatch(r"[+-]?[0-9]{1,18}", text):
            value = int(text)
        elif kind is float and re.fullmatch(r"[+-]?[0-9]{1,18}(?:\.[0-9]*)?", text):
            value = float(text)
        self._merge(key, kind, value, name)

    def _merge(self, key: Key, kind: Any, value: Any, name: str) -> None:
        # Tables are merged key by key; a list, a value and { file } or { env } replace what was there.
        model = kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None
        if isinstance(value, dict) and (model is not None or kind is dict):
            self._put(key, None, name)
            for inner, part in value.items():
                self._merge((*key, inner), _kind(model, inner) if model else Reference, part, name)
        else:
            self._put(key, value, name)

    def _put(self, key: Key, value: Any, name: str) -> None:
        """Sets the value; None only makes sure that there is a table."""
        table = self.tree
        for segment in key[:-1]:
            inner = table.get(str(segment))
            if not isinstance(inner, dict):
                inner = table[str(segment)] = {}
            table = inner
        last = str(key[-1])
        if value is None:
            if not isinstance(table.get(last), dict):
                table[last] = {}
            return
        table[last] = value
        self.variables[key] = name

    def set_list(self, key: str, value: list[dict[str, Any]], names: Mapping[Key, str]) -> None:
        self.tree[key] = value
        self.variables.update(names)

    # --- reporting

    def report(self, key: Key, what: str, origin: str | None = None) -> None:
        """Notes a problem, unless the key or a table around it has one already. `what` begins with a verb."""
        if any(key[:length] in self._reported for length in range(1, len(key) + 1)):
            return
        self._reported.add(key)
        self.problems.append(_printable(f"{origin or self.origin(key)}: {_key_text(key)}: {what}"))

    def is_reported(self, *key: str | int) -> bool:
        return any(key[:length] in self._reported for length in range(1, len(key) + 1))

    def origin(self, key: Key) -> str:
        """Who wrote the key; when nobody did, who could."""
        for length in range(len(key), 0, -1):
            if key[:length] in self.variables:
                return self.variables[key[:length]]
        if self.path is not None:
            return str(self.path)
        return next((name for written, name in self.variables.items() if written[: len(key)] == key), _variable(key))

    def below(self, key: Key) -> list[tuple[Key, str]]:
        """What variables wrote below the key."""
        return [
            (written, name) for written, name in self.variables.items() if written[: len(key)] == key and written != key
        ]

    def is_variable(self, key: Key) -> bool:
        """Whether a variable wrote the key, alone and as plain text."""
        return key in self.variables and _variable(key) == self.variables[key].upper()

    def is_in_file(self, key: Key) -> bool:
        """Whether the file wrote the key or something below it."""
        return _at(self._file_tree, key[:-1], key[-1])[1]

    def remove(self, key: Key) -> None:
        """Takes a value out of the tree, so that the rest can be checked; in a list an empty table takes its place."""
        node, there = _at(self.tree, key[:-1], key[-1])
        if there and isinstance(node, list):
            node[int(key[-1])] = {}
        elif there:
            del node[key[-1]]


def _name_below(table: Key, segment: str) -> str:
    """What a variable's last part names: names of properties have dots, and those of fields upper case."""
    if table[0] == "kafka":
        return segment.replace("_", ".")
    return next((name for name in _treatable() if name.lower() == segment), segment)


@cache
def _row_fields() -> dict[str, bool]:
    """The names of a row's fields, and whether they are Graph's."""
    return {field["name"]: "since" in field for field in json.loads(schema_text("directRoutingLogRow"))["fields"]}


@cache
def _treatable() -> tuple[str, ...]:
    return privacy.treatable(json.loads(schema_text("directRoutingLogRow")))


def _at(node: Any, around: Key, last: str | int) -> tuple[Any, bool]:
    for segment in around:
        if not _has(node, segment):
            return node, False
        node = node[segment]
    return node, _has(node, last)


def _has(node: Any, segment: str | int) -> bool:
    return (isinstance(node, dict) and segment in node) or (
        isinstance(node, list) and isinstance(segment, int) and segment < len(node)
    )


def _kind(model: type[BaseModel], name: str | int) -> Any:
    """What a key takes: a table's model, list, dict, Reference or a plain type; None for an unknown key."""
    info = model.model_fields.get(str(name))
    if info is None:
        return None
    kind: Any = info.annotation
    while True:
        origin = get_origin(kind)
        if origin is Annotated:
            kind = get_args(kind)[0]
        elif origin in (list, dict):
            return origin
        elif origin is None:
            return kind
        elif origin is Literal:
            return str
        else:  # a union: what is not None; bool | str takes "true" as a word
            kind = get_args(kind)[0]


def _variable(key: Key) -> str:
    return PREFIX + "__".join(str(part) for part in key if isinstance(part, str)).upper().replace(".", "_")


def _key_text(key: Key) -> str:
    text = ""
    for part in key:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            bare = part if re.fullmatch(r"[A-Za-z0-9_-]+", part) else shown(part)
            text += f".{bare}" if text else bare
    return text


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


# --- checking ---------------------------------------------------------------------------------------------------------


def _check(source: _Source) -> Document:
    """The document, with the keys that are wrong left out and reported."""
    while True:
        try:
            return Document.model_validate(source.tree)
        except ValidationError as error:
            keys = []
            for problem in error.errors(include_url=False):
                key = problem["loc"]
                keys.append(key)
                if problem["type"] == "extra_forbidden":
                    _report_unknown(source, key)
                else:
                    source.report(key, _sentence(problem, by_variable=source.is_variable(key)))
            for key in sorted(set(keys), key=len, reverse=True):
                source.remove(key)


def _sentence(problem: Mapping[str, Any], *, by_variable: bool) -> str:
    context = problem.get("ctx", {})
    if isinstance(context.get("error"), ValueError):
        return str(context["error"])
    kind = str(problem["type"])
    match kind:
        case "literal_error":
            return f"is {shown(problem['input'])}; write one of {context['expected']}"
        case "greater_than_equal":
            return f"is {shown(problem['input'])}; write at least {context['ge']:g}"
        case "less_than_equal":
            return f"is {shown(problem['input'])}; write at most {context['le']:g}"
        case "finite_number":
            return "is no finite number; write one"
    as_list = "[…]" if by_variable else f"[[{_key_text(problem['loc'])}]]"
    unquoted = "" if by_variable else ", without quotes"
    expected = {
        "string": "is no text; write text in quotes",
        "int": f"is no whole number; write one{unquoted}",
        "float": f"is no number; write one{unquoted}",
        "bool": f"is neither true nor false; write one of them{unquoted}",
        "list": f"is no list; write {as_list}",
        "dict": "is no table; write one",
        "model": "is no table; write one",
    }
    return expected.get(kind.partition("_")[0], _one_line(str(problem["msg"])))


def _report_unknown(source: _Source, key: Key) -> None:
    found = source.below(key)
    if not found or source.is_in_file(key):
        found.append((key, source.origin(key)))
    for written, origin in found:
        nearest = _nearest(written)
        by_variable = origin.upper().startswith(PREFIX) and origin.upper() == _variable(written)
        hint = _variable(nearest) if by_variable else _key_text(nearest)
        source.report(written, f"is not a known key; the nearest is {hint}", origin)


def _nearest(key: Key) -> Key:
    """The known key that is spelled most alike; one in the same table is preferred."""
    pattern = tuple(part for part in key if isinstance(part, str))

    def likeness(known: Key) -> float:
        names = tuple(part for part in known if isinstance(part, str))
        alike = SequenceMatcher(None, ".".join(pattern).lower(), ".".join(names)).ratio()
        last = SequenceMatcher(None, pattern[-1].lower(), names[-1]).ratio()
        return alike + last + (0.3 if names[:-1] == pattern[:-1] else 0)

    best = max(_known_keys(Document), key=likeness)
    shared = {tuple(part for part in key[:length] if isinstance(part, str)): key[:length] for length in range(len(key))}
    names = tuple(part for part in best if isinstance(part, str))
    return (*shared[names[:-1]], names[-1]) if names[:-1] in shared else best


def _known_keys(model: type[BaseModel], prefix: Key = ()) -> list[Key]:
    keys: list[Key] = []
    for name in model.model_fields:
        keys.append((*prefix, name))
        kind = _kind(model, name)
        if kind is list:
            kind = {"tenants": TenantTable, "sweeps": document.SweepTable}[name]
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            keys += _known_keys(kind, (*prefix, name))
    return keys


# --- resolving --------------------------------------------------------------------------------------------------------


def _resolve(source: _Source, checked: Document, required: Iterable[str]) -> Settings:
    checked, azure_authority = _azure(source, checked)
    treatments = _privacy(source, checked)
    graph = _graph(source, checked, azure_authority)
    kafka = _kafka(source, checked)
    shared = _own_identity(source, ("identity",), checked.identity)
    tenants = _tenants(source, checked, shared)
    kafka = replace(kafka, event_hubs=_event_hubs(source, checked, shared, tenants))
    _check_names(source, checked)
    windows = _windows(source, checked)
    for name in required:
        section, key = name.split(".")
        if not getattr(getattr(checked, section), key):
            example = ', for instance "broker-1:9092"' if key == "bootstrap_servers" else ""
            source.report((section, key), f"is empty; set it{example}")
    host, port = document.split_listen(checked.http.listen)
    return Settings(
        graph=graph,
        tenants=tenants,
        windows=windows,
        dedup=Dedup(checked.dedup.horizon),
        rows=Rows(
            key=checked.rows.key,
            timestamp=checked.rows.timestamp,
            revisions=checked.rows.revisions,
            additional_properties=checked.rows.additional_properties or ("drop" if treatments else "keep"),
            privacy=treatments,
            pseudonym_key=_pseudonym_key(source, checked),
        ),
        kafka=kafka,
        schema_registry=_schema_registry(source, checked.schema_registry),
        http=Http(host, port),
        log=Log(checked.log.format, checked.log.level),
    )


def _azure(source: _Source, checked: Document) -> tuple[Document, str]:
    """The document with the tenant of AZURE_TENANT_ID when it names none, and AZURE_AUTHORITY_HOST then."""
    if checked.tenants or source.is_reported("tenants"):
        return checked, ""
    environ = source.environ
    tenant_id = environ.get("AZURE_TENANT_ID", "")
    if not tenant_id:
        have = [name for name in ("AZURE_CLIENT_ID", "AZURE_CLIENT_SECRET") if environ.get(name)]
        todo = (
            "set AZURE_TENANT_ID too"
            if have
            else "add [[tenants]], or set AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_CLIENT_SECRET"
        )
        source.report(("tenants",), f"names no tenant; {todo}")
        return checked, ""
    tenant: dict[str, Any] = {"id": tenant_id}
    names: dict[Key, str] = {("tenants", 0, "id"): "AZURE_TENANT_ID"}
    if checked.identity.client_id is None and environ.get("AZURE_CLIENT_ID"):
        tenant["client_id"] = environ["AZURE_CLIENT_ID"]
        names["tenants", 0, "client_id"] = "AZURE_CLIENT_ID"
    if not _credentials(checked.identity):
        for name, key, value in (
            ("AZURE_CLIENT_SECRET", "client_secret", environ.get("AZURE_CLIENT_SECRET")),
            (
                "AZURE_CLIENT_CERTIFICATE_PATH",
                "client_certificate",
                {"file": environ.get("AZURE_CLIENT_CERTIFICATE_PATH")},
            ),
            ("AZURE_FEDERATED_TOKEN_FILE", "workload_identity", True),
        ):
            if environ.get(name):
                tenant[key] = value
                names["tenants", 0, key] = name
                break
    if "client_certificate" in tenant and environ.get("AZURE_CLIENT_CERTIFICATE_PASSWORD"):
        tenant["client_certificate_password"] = environ["AZURE_CLIENT_CERTIFICATE_PASSWORD"]
        names["tenants", 0, "client_certificate_password"] = "AZURE_CLIENT_CERTIFICATE_PASSWORD"
    source.set_list("tenants", [tenant], names)
    return _check(source), environ.get("AZURE_AUTHORITY_HOST", "")


def _credentials(table: IdentityTable) -> list[str]:
    return [name for name in _CREDENTIALS if getattr(table, name) not in (None, False, "")]


def _privacy(source: _Source, checked: Document) -> dict[str, str]:
    """Treatments by field; those of fields that cannot be treated are reported."""
    treatments: dict[str, str] = {}
    for name, treatment in checked.rows.privacy.items():
        key: Key = ("rows", "privacy", name)
        if name in _treatable():
            treatments[name] = treatment
        elif name == "id":
            source.report(key, "cannot be treated, since rows are told apart by it; leave it out")
        elif _row_fields().get(name):
            source.report(key, "is a field that is no string, and only strings can be treated; leave it out")
        elif name in _row_fields():
            source.report(
                key, "is a field that the connector adds, and only those of Graph can be treated; leave it out"
            )
        else:
            nearest = max(_treatable(), key=lambda known: SequenceMatcher(None, name.lower(), known.lower()).ratio())
            source.report(key, f"is no field of a row; the nearest that can be treated is {nearest}")
    return treatments


def _pseudonym_key(source: _Source, checked: Document) -> PseudonymKey | None:
    """The key of the pseudonyms; None when there is none, or it is reported."""
    here: Key = ("pseudonyms", "key")
    reference = checked.pseudonyms.key
    least = privacy.KEY_MIN_BYTES
    if reference is None:
        wanted = [name for name, treatment in checked.rows.privacy.items() if treatment == "pseudonymize"]
        if wanted and not source.is_reported(*here):
            of = _key_text(("rows", "privacy", wanted[0]))
            todo = f'write {{ file = "PATH" }} or {{ env = "NAME" }}, of at least {least} bytes'
            source.report(here, f'is missing, but {of} is "pseudonymize"; {todo}')
        return None
    match reference.kind:
        case "file":
            path = _file(source, reference.value)
            try:
                key = PseudonymKey.from_file(path)
            except OSError as error:
                todo = "create it or name another"
                source.report(here, f"names the file {path}, which cannot be read ({error.strerror}); {todo}")
                return None
            what = f"names the file {path}, which "
        case "env":
            key = PseudonymKey(_as_bytes(source.environ.get(reference.value, "")), f"variable {reference.value}")
            what = f"names the variable {reference.value}, which "
        case _:
            key, what = PseudonymKey(_as_bytes(reference.value)), ""
    length = len(key.get())
    if length < least:
        size = f"is {length} bytes long" if length else "is empty" if reference.kind != "env" else "is not set or empty"
        todo = f"write at least {least} bytes, for instance those of: openssl rand -hex {least}"
        source.report(here, f"{what}{size}; {todo}")
        return None
    return key


def _as_bytes(text: str) -> bytes:
    """The text as UTF-8; where a variable was none, its bytes."""
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogatepass")


def _graph(source: _Source, checked: Document, azure_authority: str) -> Graph:
    table = checked.graph
    root, authority = _CLOUDS[table.cloud]
    if table.authority:
        authority = table.authority
    elif azure_authority:
        try:
            authority = document.to_authority(
                azure_authority if "://" in azure_authority else f"https://{azure_authority}"
            )
        except ValueError as error:
            source.report(("graph", "authority"), str(error), "AZURE_AUTHORITY_HOST")
    if table.timeout <= timedelta(0):
        source.report(("graph", "timeout"), 'must be longer than nothing; write for instance "30s"')
    bundle = _file(source, table.ca_bundle) if table.ca_bundle else None
    if bundle is not None:
        _check_bundle(source, ("graph", "ca_bundle"), bundle)
    return Graph(
        cloud=table.cloud,
        root=table.base_url or root,
        authority=authority,
        scope=f"{root}/.default",
        ca_bundle=bundle,
        api_version=table.api_version,
        requests_per_minute=table.requests_per_minute,
        timeout=table.timeout,
        concurrency=table.concurrency,
    )


def _file(source: _Source, written: str) -> Path:
    return (source.path.parent if source.path else Path()).absolute() / written


def _check_bundle(source: _Source, key: Key, bundle: Path) -> None:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cafile=bundle)
    except ssl.SSLError:
        source.report(key, f"names {bundle}, which holds no certificates; name a PEM file")
    except OSError as error:
        source.report(key, f"names {bundle}, which cannot be read ({error.strerror}); name a PEM file")


def _secret(source: _Source, key: Key, reference: Reference) -> Secret | None:
    """The secret; None when it is reported as missing."""
    return _hidden(source, key, reference, Secret, str)


def _secret_bytes(source: _Source, key: Key, reference: Reference) -> SecretBytes | None:
    """The same, of any bytes."""
    return _hidden(source, key, reference, SecretBytes, _as_bytes)


def _hidden(
    source: _Source, key: Key, reference: Reference, kind: type[_H], convert: Callable[[str], Any]
) -> _H | None:
    match reference.kind:
        case "file":
            path = _file(source, reference.value)
            try:
                secret = kind.from_file(path)
            except OSError as error:
                source.report(
                    key, f"names the file {path}, which cannot be read ({error.strerror}); create it or name another"
                )
                return None
            except UnicodeDecodeError:
                source.report(key, f"names the file {path}, which is not UTF-8 text; name another")
                return None
            what = f"names the file {path}, which is empty; write the secret into it"
        case "env":
            secret = kind(convert(source.environ.get(reference.value, "")), f"variable {reference.value}")
            what = f"names the variable {reference.value}, which is not set or empty; set it"
        case _:
            secret, what = kind(convert(reference.value)), "is empty; set it, or leave it out"
    if not secret.get():
        source.report(key, what)
        return None
    return secret


def _tenants(source: _Source, checked: Document, shared: Identity) -> tuple[Tenant, ...]:
    tenants: list[Tenant] = []
    ids: dict[str, int] = {}
    for number, table in enumerate(checked.tenants):
        identity = _identity(source, checked, number, table, shared)
        if table.id is None:
            source.report(("tenants", number, "id"), "is missing; write the directory (tenant) id")
            continue
        key = table.id.lower()
        if key in ids:
            source.report(
                ("tenants", number, "id"), f"is the same as that of tenants[{ids[key]}]; name each tenant once"
            )
        ids.setdefault(key, number)
        tenants.append(
            Tenant(
                id=table.id,
                key=key,
                name=table.name or None,
                label=table.name or table.id,
                identity=identity,
                start=table.start if table.start is not None else _START,
                requests_per_minute=table.requests_per_minute or checked.graph.requests_per_minute,
                topic=table.topic or checked.kafka.topic,
            )
        )
    names: dict[str, int] = {}
    for number, table in enumerate(checked.tenants):
        if not table.name:
            continue
        if table.name in names:
            source.report(
                ("tenants", number, "name"), f"is the same as that of tenants[{names[table.name]}]; names are unique"
            )
        elif ids.get(table.name.lower(), number) != number:
            source.report(
                ("tenants", number, "name"), f"is the id of tenants[{ids[table.name.lower()]}]; choose another"
            )
        names.setdefault(table.name, number)
    return tuple(tenants)


def _own_identity(source: _Source, here: Key, table: IdentityTable) -> Identity:
    """What a table says by itself. Its certificate is not looked at: the password may be another table's."""
    chosen = _credentials(table)
    for name in chosen[1:]:
        what = f"is set, and so is {chosen[0]}; leave one of the two out"
        source.report((*here, name), what)
    password, managed = table.client_certificate_password, table.managed_identity
    identity = Identity(
        client_id=table.client_id or None,
        client_certificate_password=(
            _secret(source, (*here, "client_certificate_password"), password) if password is not None else None
        ),
    )
    if table.client_secret is not None:
        return replace(identity, client_secret=_secret(source, (*here, "client_secret"), table.client_secret))
    if table.client_certificate is not None:
        content = _secret_bytes(source, (*here, "client_certificate"), table.client_certificate)
        return replace(identity, client_certificate=content)
    if table.workload_identity:
        return replace(identity, federated_token=_federated_token(source, (*here, "workload_identity")))
    if managed:
        return replace(identity, client_id=managed if isinstance(managed, str) else None, managed_identity=True)
    return identity


def _federated_token(source: _Source, key: Key) -> Secret | None:
    """What Kubernetes puts into AZURE_FEDERATED_TOKEN_FILE."""
    written = source.environ.get("AZURE_FEDERATED_TOKEN_FILE", "")
    if not written:
        todo = "let Azure's workload identity webhook set it (label azure.workload.identity/use), or set it"
        source.report(key, f"needs the variable AZURE_FEDERATED_TOKEN_FILE, which is not set; {todo}")
        return None
    return _secret(source, key, Reference("file", str(Path(written).absolute())))


def _identity(source: _Source, checked: Document, number: int, table: TenantTable, shared: Identity) -> Identity:
    """What a tenant signs in with: its own credential, else the shared one, unless that is switched off here."""
    here: Key = ("tenants", number)
    own = _own_identity(source, here, table)
    chosen, there = _credentials(table), _credentials(checked.identity)
    identity = own
    if not chosen and there and getattr(table, there[0]) is None:
        identity = replace(
            shared,
            client_id=shared.client_id if shared.managed_identity else own.client_id or shared.client_id,
            client_certificate_password=own.client_certificate_password or shared.client_certificate_password,
        )
        chosen, here = there, ("identity",)
    elif chosen and not own.managed_identity:
        identity = replace(
            own,
            client_id=own.client_id or shared.client_id,
            client_certificate_password=own.client_certificate_password or shared.client_certificate_password,
        )
    if identity.federated_token is not None and identity.client_id is None:
        identity = replace(identity, client_id=source.environ.get("AZURE_CLIENT_ID") or None)
    _check_identity(source, number, table, identity, (*here, chosen[0]) if chosen else None)
    return identity


def _check_identity(source: _Source, number: int, table: TenantTable, identity: Identity, chosen: Key | None) -> None:
    """Reports what a tenant lacks to sign in. `chosen`: the key of its credential."""
    here: Key = ("tenants", number)
    from_azure = source.variables.get((*here, "id")) == "AZURE_TENANT_ID"
    if identity.client_id is None and not identity.managed_identity and not source.is_reported("identity", "client_id"):
        todo = "set AZURE_CLIENT_ID" if from_azure else "set it here or in [identity]"
        source.report((*here, "client_id"), f"is missing; {todo}", "AZURE_CLIENT_ID" if from_azure else None)
    if chosen is None and not any(source.is_reported("identity", name) for name in _CREDENTIALS):
        todo = "set it here or in [identity], or client_certificate, workload_identity or managed_identity"
        if from_azure:
            todo = "set AZURE_CLIENT_SECRET, AZURE_CLIENT_CERTIFICATE_PATH or AZURE_FEDERATED_TOKEN_FILE"
        source.report((*here, "client_secret"), f"is missing; {todo}", "AZURE_CLIENT_SECRET" if from_azure else None)
    if identity.client_certificate is None:
        if table.client_certificate_password is not None:
            what = "is set, but there is no client_certificate; leave it out"
            source.report((*here, "client_certificate_password"), what)
        return
    password = identity.client_certificate_password
    try:
        certificates.read(identity.client_certificate.get(), password.get() if password else None)
    except certificates.NoCertificateError as error:
        source.report(chosen or here, str(error))


def _event_hubs(source: _Source, checked: Document, shared: Identity, tenants: tuple[Tenant, ...]) -> EventHubs | None:
    """[identity] in AZURE_TENANT_ID, else in the first tenant; that tenant's own where there is no shared one."""
    here: Key = ("kafka", "azure_event_hubs")
    table = checked.kafka
    if not table.azure_event_hubs or not tenants:
        return None
    for name in table.properties:
        if name.strip().lower() in ("sasl.mechanism", "sasl.mechanisms", "sasl.username", "sasl.password"):
            what = "is set, but kafka.azure_event_hubs signs in with OAUTHBEARER; leave one of the two out"
            source.report(("kafka", "properties", name), what)
    host = table.bootstrap_servers.split(",")[0].rpartition("://")[2].rpartition(":")[0]
    if not host:
        source.report(
            here, 'needs kafka.bootstrap_servers with a port, for instance "NAMESPACE.servicebus.windows.net:9093"'
        )
    protocol = next((r.value for n, r in table.properties.items() if n.strip().lower() == "security.protocol"), "")
    if protocol and protocol.lower() != "sasl_ssl" and not document.is_protected(f"http://{host}"):
        what = "is not SASL_SSL, so that the token would be sent unprotected; leave it out"
        source.report(("kafka", "properties", "security.protocol"), what)
    identity = tenants[0].identity
    if _credentials(checked.identity):
        client_id = shared.client_id
        if client_id is None and not shared.managed_identity:
            client_id = source.environ.get("AZURE_CLIENT_ID") or identity.client_id
        identity = replace(shared, client_id=client_id)
    tenant = source.environ.get("AZURE_TENANT_ID") or tenants[0].id
    return EventHubs(tenant, f"Kafka at {host}", identity, f"https://{host}/.default")


def _kafka(source: _Source, checked: Document) -> Kafka:
    table = checked.kafka
    properties: dict[str, str | Secret] = {}
    for name, reference in table.properties.items():
        key: Key = ("kafka", "properties", name)
        why = document.REFUSED_PROPERTIES.get(name.strip().lower())
        if why is not None:
            source.report(key, f"cannot be set, since {why}; leave it out")
        elif reference.kind == "text":
            properties[name] = reference.value
        else:
            secret = _secret(source, key, reference)
            if secret is not None:
                properties[name] = secret
    topic_properties: dict[str, str] = {}
    for name, reference in table.topic_properties.items():
        if reference.kind == "text":
            topic_properties[name] = reference.value
        else:
            source.report(("kafka", "topic_properties", name), "must be text; it is no secret")
    return Kafka(
        bootstrap_servers=table.bootstrap_servers,
        topic=table.topic,
        app=table.app,
        shards=table.shards,
        delivery=table.delivery,
        create_topics=table.create_topics,
        partitions=table.partitions,
        replication_factor=table.replication_factor,
        event_hubs=None,
        topic_properties=topic_properties,
        properties=properties,
    )


def _schema_registry(source: _Source, table: SchemaRegistryTable) -> SchemaRegistry:
    here = "schema_registry"
    has_password, has_token = table.password != _UNSET, table.token != _UNSET
    if has_token and (table.username or has_password):
        source.report((here, "token"), "is set, and so is a user name or password; leave one of the two out")
    elif has_password and not table.username:
        source.report((here, "username"), "is missing, but there is a password; set it too")
    elif table.username and not has_password:
        source.report((here, "password"), "is missing, but there is a user name; set it too")
    elif ":" in table.username:
        source.report((here, "username"), "contains a colon, which no user name can; leave it out")
    elif (has_password or has_token) and table.url and not document.is_protected(table.url):
        what = "where the secret would be sent unprotected; write https:// (http:// only for localhost)"
        source.report((here, "url"), f"is {shown(table.url)}, {what}")
    bundle = _file(source, table.ca_bundle) if table.ca_bundle else None
    if bundle is not None:
        _check_bundle(source, (here, "ca_bundle"), bundle)
    return SchemaRegistry(
        url=table.url,
        username=table.username,
        password=_secret(source, (here, "password"), table.password) if has_password else None,
        token=_secret(source, (here, "token"), table.token) if has_token else None,
        ca_bundle=bundle,
        subject_name_strategy=table.subject_name_strategy,
        auto_register=table.auto_register,
    )


def _check_names(source: _Source, checked: Document) -> None:
    """No topic may have two uses. Kafka tells names apart neither that differ only in '.' and '_'."""
    taken: dict[str, tuple[str, Key]] = {}
    app: Key = ("kafka", "app")
    uses: list[tuple[str, Key]] = [(f"{checked.kafka.app}.{suffix}", app) for suffix in ("control", "state", "seen")]
    row_topics: dict[str, Key] = {checked.kafka.topic: ("kafka", "topic")}
    for number, table in enumerate(checked.tenants):
        if table.topic is not None:
            row_topics.setdefault(table.topic, ("tenants", number, "topic"))
    for topic, key in row_topics.items():
        uses += [(topic, key), (f"{topic}.dlq", key), (f"{topic}.progress", key)]
    for name, key in uses:
        same = name.replace(".", "_")
        other, other_key = taken.setdefault(same, (name, key))
        if other_key != key:
            source.report(
                key, f"needs the topic {name}, which collides with {other} of {_key_text(other_key)}; choose another"
            )


def _windows(source: _Source, checked: Document) -> Windows:
    table = checked.windows
    if not timedelta(seconds=1) <= table.slice <= timedelta(days=30):
        source.report(("windows", "slice"), f'is "{duration_text(table.slice)}"; write a duration from "1s" to "30d"')
    if not table.sweeps:
        source.report(("windows", "sweeps"), "is empty; add a [[windows.sweeps]] or leave it out")
    seen: dict[timedelta, int] = {}
    sweeps: list[Sweep] = []
    for number, sweep in enumerate(table.sweeps):
        here: Key = ("windows", "sweeps", number)
        for name, value in (("every", sweep.every), ("overlap", sweep.overlap)):
            if value is None:
                source.report((*here, name), 'is missing; write a duration such as "15m"')
            elif value <= timedelta(0):
                source.report((*here, name), 'must be longer than nothing; write a duration such as "15m"')
        if sweep.overlap is not None and sweep.overlap > checked.dedup.horizon:
            deepest, horizon = duration_text(sweep.overlap), duration_text(checked.dedup.horizon)
            what = (
                f'is "{horizon}", shorter than the overlap "{deepest}" of {_key_text(here)}; write at least "{deepest}"'
            )
            if sweep.overlap == max(other.overlap for other in table.sweeps if other.overlap is not None):
                source.report(("dedup", "horizon"), what)
        if sweep.every is not None and sweep.every in seen:
            source.report(
                (*here, "every"), f"is the same as that of windows.sweeps[{seen[sweep.every]}]; each cadence once"
            )
        if sweep.every is not None and sweep.overlap is not None:
            seen.setdefault(sweep.every, number)
            sweeps.append(Sweep(sweep.every, sweep.overlap))
    return Windows(table.settle, table.slice, tuple(sorted(sweeps, key=lambda sweep: sweep.every)))
