"""Reading of the files and variables to which settings refer: secrets, keys and certificates."""

import os
import ssl
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

from connector import proxies
from connector.config.document import Document
from connector.config.secret import Hidden, PseudonymKey, Secret, SecretBytes
from connector.config.source import ConfigSource, Key, key_text
from connector.config.values import Reference
from connector.core import privacy

_H = TypeVar("_H", bound=Hidden[Any])


def path_of(source: ConfigSource, written: str) -> Path:
    """Return the absolute path of a configured file name.

    A relative name is relative to the folder of the configuration file.
    """
    # File names are encoded in UTF-8, even if the locale has another encoding.
    name = os.fsdecode(written.encode("utf-8", "surrogateescape"))
    return (source.path.parent if source.path else Path()).absolute() / name


def check_bundle(source: ConfigSource, key: Key, bundle: Path) -> None:
    """Report a CA bundle that cannot be read or is not a PEM file with certificates."""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cafile=bundle)
    except ssl.SSLError:
        source.report(key, f"names {bundle}, which holds no certificates; specify a PEM file")
    except OSError as error:
        source.report(key, f"names {bundle}, which cannot be read ({error.strerror}); specify a PEM file")


def check_proxies(source: ConfigSource, urls: Iterable[str], registry_url: str) -> None:
    """Report each proxy variable that applies to one of the URLs but cannot be used.

    `urls` are the URLs of Graph and of sign-in. `registry_url` is the URL of the schema registry, whose client cannot
    use a proxy with an https:// URL.
    """
    for url in (*urls, registry_url):
        try:
            proxy = proxies.choose(url, source.environ)
        except proxies.UnusableProxyError as error:
            source.report((error.variable,), str(error), "environment")
            continue
        if proxy is not None and proxy.scheme == "https" and url == registry_url:
            what = "names an https:// proxy, which cannot be used for the schema registry"
            todo = "write http://HOST:PORT, or add the registry's host to NO_PROXY"
            source.report((proxy.variable,), f"{what}; {todo}", "environment")


def read_secret(source: ConfigSource, key: Key, reference: Reference) -> Secret | None:
    """Return the secret text that `reference` names. If it is empty or unreadable, report it and return None."""
    return _hidden(source, key, reference, Secret, str)


def read_secret_bytes(source: ConfigSource, key: Key, reference: Reference) -> SecretBytes | None:
    """Return the secret bytes that `reference` names. If they are empty or unreadable, report it and return None."""
    return _hidden(source, key, reference, SecretBytes, _as_bytes)


def _hidden(
    source: ConfigSource, key: Key, reference: Reference, kind: type[_H], convert: Callable[[str], Any]
) -> _H | None:
    match reference.kind:
        case "file":
            path = path_of(source, reference.value)
            try:
                secret = kind.from_file(path)
            except OSError as error:
                source.report(
                    key,
                    f"names the file {path}, which cannot be read ({error.strerror}); create it or use another",
                )
                return None
            except UnicodeDecodeError:
                source.report(
                    key,
                    f"names the file {path}, which is not UTF-8 or UTF-16 with a byte-order mark; save it as UTF-8",
                )
                return None
            what = f"names the file {path}, which is empty; write the secret into it"
        case "env":
            secret = kind(convert(source.environ.get(reference.value, "")), f"variable {reference.value}")
            what = f"names the variable {reference.value}, which is not set or empty; set the variable"
        case _:
            secret, what = kind(convert(reference.value)), "is empty; write the secret, or remove the key"
    if not secret.get():
        source.report(key, what)
        return None
    return secret


def read_pseudonym_key(source: ConfigSource, checked: Document) -> PseudonymKey | None:
    """Return the key for pseudonyms, or None if there is no usable key.

    Report a key that cannot be used. Report a missing key if a field must be pseudonymized.
    """
    here: Key = ("pseudonyms", "key")
    reference = checked.pseudonyms.key
    least = privacy.KEY_MIN_BYTES
    if reference is None:
        wanted = [name for name, treatment in checked.rows.privacy.items() if treatment == "pseudonymize"]
        if wanted and not source.is_reported(*here):
            of = key_text(("rows", "privacy", wanted[0]))
            todo = f'write {{ file = "PATH" }} or {{ env = "NAME" }}, of at least {least} bytes'
            source.report(here, f'is missing, but {of} is "pseudonymize"; {todo}')
        return None
    match reference.kind:
        case "file":
            path = path_of(source, reference.value)
            try:
                key = PseudonymKey.from_file(path)
            except OSError as error:
                todo = "create it or use another"
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
        todo = f"write at least {least} bytes, for example those of: openssl rand -hex {least}"
        source.report(here, f"{what}{size}; {todo}")
        return None
    return key


def _as_bytes(text: str) -> bytes:
    """Encode text as UTF-8. Text from an environment variable becomes the bytes that the variable really has."""
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogatepass")
