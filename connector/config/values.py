"""Validators for configured values: addresses, names, secrets and words.

A validator returns the value, sometimes in a normalized form. It raises ValueError for an invalid value. The error
message has no subject, because the key is put in front of it. An example is `is "x", which is …; …`. No message shows a
value that may be a secret.
"""

import re
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Literal
from urllib.parse import SplitResult, urlsplit

from connector.config.quoting import shown

_CHINA = "Microsoft does not offer these records in its cloud in China"
_CHINA_HOSTS = ("chinacloudapi.cn", "partner.microsoftonline.cn", "azure.cn")


@dataclass(frozen=True, slots=True)
class Reference:
    """Configured secret: the text itself, or the file or environment variable that holds it."""

    kind: Literal["text", "file", "env"]
    value: str = field(repr=False)


def to_reference(value: object) -> Reference:
    """Return a configured secret as a Reference. The value is text, or a table with the single key `file` or `env`."""
    if isinstance(value, str):
        return Reference("text", value)
    if isinstance(value, dict) and len(value) == 1:
        kind, target = next(iter(value.items()))
        if kind in ("file", "env") and isinstance(target, str) and target and "\0" not in target:
            return Reference(kind, target)
    raise ValueError('must be text, { file = "PATH" } or { env = "NAME" }')


def to_property(value: object) -> Reference:
    """Return the configured value of a librdkafka or topic property as a Reference.

    The value is text, a number, a boolean, or a table with the single key `file` or `env`.
    """
    if isinstance(value, bool):
        return Reference("text", str(value).lower())
    if isinstance(value, (int, float)):
        return Reference("text", str(value))
    if isinstance(value, dict) and not value.keys() <= {"file", "env"}:  # a name with unquoted dots is a table in TOML
        raise ValueError(
            'is a table, but must be a value; put quotes around the whole name, as in "sasl.password" = "…"'
        )
    return to_reference(value)


def to_identity(value: object) -> bool | str:
    """Validate the setting of a managed identity and return it unchanged: true, false, or a client id."""
    if isinstance(value, bool) or (isinstance(value, str) and re.fullmatch(r"[!-~]{0,256}", value)):
        return value
    raise ValueError("must be true, false or the client id of a user-assigned identity")


def to_cloud(value: object) -> object:
    """Return the name of a cloud unchanged. Raises ValueError for the cloud in China, which lacks the call records."""
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
        raise ValueError('is not an address; write for example "https://localhost:8443"')
    if parts.username is not None or parts.password is not None:
        raise ValueError("contains a user name; remove it")
    if parts.query or parts.fragment or "?" in value or "#" in value:
        raise ValueError("has a query or a fragment; specify scheme, host and port only")
    if any(parts.hostname == host or parts.hostname.endswith(f".{host}") for host in _CHINA_HOSTS):
        raise ValueError(f"is {shown(value)}, but {_CHINA}; use the address of another cloud")
    return parts


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def to_base_url(value: str) -> str:
    """Validate the root URL of Graph, and return it without a trailing slash.

    The URL must use https, unless its host is this machine.
    """
    if not value:
        return value
    parts = _split_url(value)
    if parts.scheme != "https" and not (parts.scheme == "http" and _is_loopback(parts.hostname or "")):
        raise ValueError(
            f"is {shown(value)}, which would send the token unprotected; write https:// (http:// only for localhost)"
        )
    if parts.path.rstrip("/").endswith(("/v1.0", "/beta")):
        raise ValueError(
            f"is {shown(value)}, but the connector appends the version itself; remove it and set graph.api_version"
        )
    return value.rstrip("/")


def to_registry_urls(value: str) -> str:
    """Validate the addresses of the schema registry, separated by commas, and return them without trailing slashes."""
    urls = [url.strip() for url in value.split(",")] if value else []
    for url in urls:
        if _split_url(url).scheme not in ("http", "https"):
            raise ValueError(f'is {shown(url)}, which is not an address; write for example "https://registry:8081"')
    return ",".join(url.rstrip("/") for url in urls)


def is_protected(url: str) -> bool:
    """Return whether a secret may be sent to a URL: only if the URL uses https, or if its host is this machine."""
    parts = urlsplit(url)
    return parts.scheme == "https" or _is_loopback(parts.hostname or "")


def to_authority(value: str) -> str:
    """Validate the root URL of sign-in, and return it without a trailing slash. It must use https."""
    if not value:
        return value
    if _split_url(value).scheme != "https":
        raise ValueError(f"is {shown(value)}, but secrets are sent to this URL; write https://")
    return value.rstrip("/")


def to_topic(value: str) -> str:
    """Validate the name of a row topic. It must be short enough for the suffix `.progress`."""
    return _kafka_name(value, len(".progress"))


def to_app(value: str) -> str:
    """Validate `kafka.app`, the prefix of the internal topics. It must be short enough for the suffix `.control`."""
    return _kafka_name(value, len(".control"))


def _kafka_name(value: str, suffix: int) -> str:
    longest = 249 - suffix
    if not re.fullmatch(r"[a-zA-Z0-9._-]+", value) or value in (".", ".."):
        raise ValueError(f"is {shown(value)}, which Kafka does not allow; use letters, digits, '.', '_' and '-'")
    if len(value) > longest:
        raise ValueError(f"is {len(value)} characters long; use at most {longest}")
    if value in ("__consumer_offsets", "__transaction_state"):
        raise ValueError(f"is {shown(value)}, which is reserved by Kafka; choose another name")
    return value


def to_servers(value: str) -> str:
    """Validate a list of brokers, separated by commas, and return it without spaces."""
    servers = [server.strip() for server in value.split(",")] if value.strip() else []
    for server in servers:
        scheme, separator, address = server.rpartition("://")
        if separator and scheme.lower() not in ("plaintext", "ssl", "sasl_plaintext", "sasl_ssl"):
            raise ValueError(
                f"is {shown(server)}, but the address of a broker has the form HOST:PORT; write {shown(address)}"
            )
        match = re.fullmatch(r"(?:[A-Za-z_]+://)?(?:\[[0-9A-Fa-f:.%]+\]|[^\s:/\[\]@]+)(?::([0-9]{1,5}))?", server)
        if match is None or not 1 <= int(match.group(1) or 9092) <= 65_535:
            raise ValueError('is not a list of brokers; write for example "broker-1:9092,broker-2:9092"')
    return ",".join(servers)


def to_listen(value: str) -> str:
    """Validate the address of the HTTP server, and return it unchanged."""
    split_listen(value)
    return value


def split_listen(value: str) -> tuple[str, int]:
    """Return host and port of a text `HOST:PORT`. Raises ValueError if the text has another form."""
    match = re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[^\s:/\[\]@]*):([0-9]{1,5})", value)
    if match is None or int(match.group(2)) > 65_535:
        raise ValueError(f'is {shown(value)}, which is not an address; write HOST:PORT, for example "0.0.0.0:9464"')
    return match.group(1).strip("[]") or "0.0.0.0", int(match.group(2))  # noqa: S104 (what an empty host means everywhere)


def to_replication(value: int) -> int:
    """Validate a replication factor, and return it. The value -1 means the default of the broker."""
    if value != -1 and not 1 <= value <= 32_767:
        raise ValueError(f"is {value}; write -1 for the broker's default, or at least 1")
    return value


def to_level(value: object) -> object:
    """Return the name of a log level in lower case, and "warning" for "warn". Return any other value unchanged."""
    level = value.lower() if isinstance(value, str) else value
    return "warning" if level == "warn" else level


def to_text(value: str) -> str:
    """Validate that text has no control characters, and return it unchanged."""
    if not value.isprintable():
        raise ValueError("contains a control character; remove it")
    return value


def to_tenant_id(value: str) -> str:
    """Validate a tenant id, which is a GUID or a domain, and return it unchanged."""
    guid = re.fullmatch(r"[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}", value)
    label = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
    if not guid and not (len(value) <= 253 and re.fullmatch(rf"{label}(?:\.{label})+", value)):
        todo = "write the directory (tenant) id that Microsoft Entra shows, or a domain of the tenant"
        raise ValueError(f"is {shown(value)}, which is not a tenant id; {todo}")
    return value


def to_client_id(value: str) -> str:
    """Validate a client id, which may be empty, and return it unchanged."""
    if not re.fullmatch(r"[!-~]{0,256}", value):
        raise ValueError("is not a client id; write the application (client) id that Microsoft Entra shows")
    return value
