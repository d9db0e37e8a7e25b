"""Choice of the proxy for a URL from environment variables. Graph, sign-in and the schema registry use it.

The variables have the same meaning as in curl, because operators test a proxy with curl first:

1. `https_proxy` or `HTTPS_PROXY` sets the proxy for https URLs, `http_proxy` or `HTTP_PROXY` the one for http URLs. If
   both are empty, `all_proxy` or `ALL_PROXY` sets it. The variable in lower case takes precedence. A value without a
   scheme means http, and a value without a port means port 1080 (443 for https).
2. `no_proxy` or `NO_PROXY` lists the hosts that are reached without a proxy, separated by commas or spaces: `*`, an
   address, a CIDR range, or a domain. A domain includes its subdomains, with or without a leading dot or `*.`. A port
   may follow.
"""

import ipaddress
import re
from base64 import b64encode
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

_PORTS = {"http": 1080, "https": 443}
_URL_PORTS = {"http": 80, "https": 443}
_EXCEPTION = re.compile(
    r"(?P<host>\[[^\]]*\](?:/[0-9]+)?|[^:]*|[0-9a-f:.%/]*:[0-9a-f:.%/]*:[0-9a-f:.%/]*)(?::(?P<port>[0-9]+))?"
)
_WRITE = "write http://HOST:PORT"


class UnusableProxyError(ValueError):
    """A proxy variable has an invalid value. The caller puts the variable's name in front of the message."""

    def __init__(self, variable: str, problem: str) -> None:
        super().__init__(problem)
        self.variable = variable


class Proxy(NamedTuple):
    """Proxy that an environment variable configures."""

    variable: str
    scheme: str
    "http or https: the protocol between the connector and the proxy."
    host: str
    port: int
    user: str = ""
    password: str = ""

    @property
    def place(self) -> str:
        """Return `host:port`, with brackets around an IPv6 address."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def address(self) -> str:
        """Return the proxy's URL without user name and password."""
        return f"{self.scheme}://{self.place}"

    @property
    def headers(self) -> dict[str, str]:
        """Return the headers that authenticate the connector to the proxy. They are empty without a user name."""
        if not self.user:
            return {}
        pair = f"{self.user}:{self.password}"
        return {"Proxy-Authorization": f"Basic {b64encode(pair.encode()).decode()}"}

    def unreachable(self, why: str) -> str:
        """Return the error message for a proxy that cannot be reached. `why` is the reason."""
        return f"the proxy {self.address} cannot be reached ({why}); check {self.variable}, and that the proxy runs"

    def refused(self, status: int) -> str:
        """Return the error message for a proxy that refused the connection with an HTTP error status."""
        if status == 407:
            what = "does not accept the user name and password" if self.user else "requires a user name and password"
            todo = "with http://USER:PASSWORD@HOST:PORT, special characters percent-encoded"
            return f"the proxy {self.address} {what} (407); set them in {self.variable}, {todo}"
        return f"the proxy {self.address} refuses the connection ({status}); allow this host and port in the proxy"

    def __repr__(self) -> str:
        return f"Proxy({self.variable}, {self.address})"


def choose(url: str, environ: Mapping[str, str]) -> Proxy | None:
    """Return the proxy for a URL, or None for a direct connection.

    Raises UnusableProxyError if the environment variable for this URL has an invalid value.
    """
    parts = urlsplit(url)
    found = _first(environ, f"{parts.scheme}_proxy", "all_proxy")
    if found is None:
        return None
    exceptions = _first(environ, "no_proxy")
    port = parts.port or _URL_PORTS.get(parts.scheme, 0)
    if exceptions is not None and _is_excepted(parts.hostname or "", port, exceptions[1]):
        return None
    return _read(*found)


def _first(environ: Mapping[str, str], *names: str) -> tuple[str, str] | None:
    """Return the name and value of the first environment variable in `names` that is set and not empty.

    Each name is looked up in lower case first, then in upper case.
    """
    for name in names:
        for spelled in (name, name.upper()):
            if value := environ.get(spelled, "").strip():
                return spelled, value
    return None


def _read(variable: str, value: str) -> Proxy:
    if "://" not in value:
        value = f"http://{value}"
    try:
        parts = urlsplit(value)
        port = parts.port
    except ValueError:
        raise UnusableProxyError(variable, f"is not the address of a proxy; {_WRITE}") from None
    if parts.scheme not in _PORTS:
        what = f"names a {parts.scheme[:20]}:// proxy, and only http:// proxies are supported"
        raise UnusableProxyError(variable, f"{what}; {_WRITE}, or unset it")
    host = parts.hostname or ""
    if not re.fullmatch(r"[!-~]+", host) or re.search(r"[/\\@?#]", host) or port == 0:
        raise UnusableProxyError(variable, f"is not the address of a proxy; {_WRITE}")
    user, password = unquote(parts.username or ""), unquote(parts.password or "")
    if ":" in user or not (user + password).isprintable():
        raise UnusableProxyError(variable, "has a user name or password with a colon or control character; change it")
    return Proxy(variable, parts.scheme, host, port or _PORTS[parts.scheme], user, password)


def _is_excepted(host: str, port: int, exceptions: str) -> bool:
    if exceptions == "*":
        return True
    host = host.rstrip(".").lower()
    return any(_matches(host, port, part) for part in re.split(r"[,\s]+", exceptions.lower()) if part)


def _matches(host: str, port: int, exception: str) -> bool:
    found = _EXCEPTION.fullmatch(exception)
    if found is None or (found["port"] and int(found["port"]) != port):
        return False
    wanted = found["host"].replace("[", "").replace("]", "")
    address = _address(host)
    if address is not None:
        try:
            return address in ipaddress.ip_network(wanted.partition("%")[0], strict=False)
        except ValueError:
            return False
    domain = wanted.removeprefix("*").strip(".")
    return wanted == "*" or (domain != "" and (host == domain or host.endswith(f".{domain}")))


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address
