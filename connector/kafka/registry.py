"""Client of a schema registry with Confluent's API. It looks up and registers the schema of each topic.

1. It is used at the start and by `connector schema`, but never while rows are published. So if the registry is
   unavailable, a running worker continues.
2. A schema is registered only if it and the newest version of its subject can read each other's records. This holds for
   every compatibility level of the registry. The registry's own check must succeed as well.
3. A problem that may be temporary (no answer, 401, 403, 5xx, no JSON) raises RegistryUnavailableError. Any other
   problem raises FatalError.

docs/adr/0007-schema-registry-client.md explains why no existing client is used.
"""

import json
import os
import re
import ssl
import time
from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import Any, NamedTuple
from urllib.error import URLError
from urllib.parse import quote
from urllib.request import HTTPHandler, HTTPSHandler, OpenerDirector, Request

from connector import proxies
from connector.config import SchemaRegistry
from connector.errors import ConfigurationError, FatalError, RegistryUnavailableError
from connector.kafka import avro, evolution, topics
from connector.proxies import Proxy
from connector.tls import Trust

_TIMEOUT_S = 5.0
_WHOLE_ANSWER_S = 8.0
_ANSWER_MAX_BYTES = 4 * 1024 * 1024
_MEDIA_TYPE = "application/vnd.schemaregistry.v1+json"
_REFUSED_TUNNEL = re.compile(r"Tunnel connection failed: ([0-9]{3})")
_SUBJECT_UNKNOWN, _VERSION_UNKNOWN, _SCHEMA_UNKNOWN = 40401, 40402, 40403


class Subject(NamedTuple):
    """Subject of the registry, with its schema and the topics whose values have this schema."""

    name: str
    schema: str
    "Name of a schema that the connector ships: a member of `schema_files.NAMES`."
    topics: tuple[str, ...]


class SchemaLookup(NamedTuple):
    """Result of looking up a schema under its subject.

    `id` is None if the schema is not registered. `is_first` is True if the subject has no version at all.
    """

    id: int | None
    is_first: bool


def subjects(row_topics: Iterable[str], strategy: str) -> list[Subject]:
    """Return all subjects of the row topics and their progress topics.

    `strategy` is "topic", "record" or "topic_record".
    """
    found: dict[str, Subject] = {}
    for topic in row_topics:
        for schema, written in ((avro.ROW, topic), (avro.PROGRESS, topics.progress(topic))):
            record = evolution.full_name(avro.load(schema))
            name = {"topic": f"{written}-value", "record": record, "topic_record": f"{written}-{record}"}[strategy]
            known = found.get(name, Subject(name, schema, ()))
            found[name] = known._replace(topics=(*known.topics, written))
    return list(found.values())


class Registry:
    """Client of a schema registry that has one or several addresses. Its methods block, for seconds at most.

    They raise RegistryUnavailableError and FatalError, as rule 3 of this module states.
    """

    def __init__(self, settings: SchemaRegistry) -> None:
        """Prepare the connection: check the certificates and the proxy in the settings.

        Raises ConfigurationError if the certificates cannot be read or the proxy cannot be used.
        """
        self._settings = settings
        self._trust = Trust("schema_registry", settings.ca_bundle, strict=settings.tls_strict)
        try:
            self._proxies = {url: proxies.choose(url, os.environ) for url in settings.urls}
        except proxies.UnusableProxyError as error:
            raise ConfigurationError([f"{error.variable}: {error}"]) from error
        self._url, *self._others = settings.urls
        "The address that answered last, and the other addresses, which are tried if it does not answer."
        self._context()

    def ensure(self, wanted: Sequence[Subject]) -> dict[str, int]:
        """Return the schema id of each topic; register missing schemas if the settings allow it. Raises FatalError."""
        ids, problems = self.ensure_each(wanted)
        if problems:
            raise FatalError("\n".join(problems.values()))
        return ids

    def ensure_each(self, wanted: Sequence[Subject]) -> tuple[dict[str, int], dict[Subject, str]]:
        """Return the schema id of each topic, and an error message for each subject that cannot be used."""
        ids: dict[str, int] = {}
        problems: dict[Subject, str] = {}
        for subject in wanted:
            try:
                schema_id = self.expect(subject).id
                if schema_id is None:
                    schema_id = self.register(subject)
            except FatalError as error:
                problems[subject] = str(error)
                continue
            ids |= dict.fromkeys(subject.topics, schema_id)
        return ids, problems

    def register(self, subject: Subject) -> int:
        """Register the schema of a subject if it is not registered yet. Return its id."""
        found = self.check(subject)
        if found.id is not None:
            return found.id
        status, answer = self._ask("POST", f"/subjects/{_quoted(subject.name)}/versions", _body(subject))
        if status == 200:
            return self._id(answer)
        # Two workers that start together both register. A registry may refuse the second request, also with 409.
        known = self.find(subject)
        if known is None:
            reason = _cut(str(answer.get("message") or "no reason given"))
            raise FatalError(
                f"subject {subject.name}: the registry refuses the schema {subject.schema} ({status}): {reason}",
                "remove the reason in the registry, for example its read-only mode, and try again",
            )
        return known

    def check(self, subject: Subject) -> SchemaLookup:
        """Look up the schema of a subject. If it is not registered, check that the subject would accept it.

        Raises FatalError if it would not. The message names the incompatible field.
        """
        known = self.find(subject)
        if known is not None:
            return SchemaLookup(known, is_first=False)
        latest = self._version(subject, "latest")
        if latest is None:
            return SchemaLookup(None, is_first=True)
        self._compare(subject, latest)
        path = f"/compatibility/subjects/{_quoted(subject.name)}/versions"
        status, answer = self._ask("POST", f"{path}?verbose=true", _body(subject))
        if status == 404:  # registries before 2021 compare with one version only
            status, answer = self._ask("POST", f"{path}/latest?verbose=true", _body(subject))
        if status != 200 or not isinstance(answer.get("is_compatible"), bool):
            raise self._unavailable(f"does not report compatibility ({status}); check schema_registry.url")
        if not answer["is_compatible"]:
            for number in self._numbers(subject):
                version = self._version(subject, str(number))
                if version is not None:
                    self._compare(subject, version)
            reason = "; ".join(map(str, answer.get("messages") or [])) or "no reason given"
            raise _refusal(subject, f"by the registry's rules, {_cut(reason)}")
        return SchemaLookup(None, is_first=False)

    def find(self, subject: Subject) -> int | None:
        """Return the id under which the subject has exactly this schema; None if the schema is not registered."""
        status, answer = self._ask("POST", f"/subjects/{_quoted(subject.name)}", _body(subject))
        if status == 200:
            return self._id(answer)
        latest = self._version(subject, "latest")
        if latest is not None and _parsed(latest) == avro.load(subject.schema):  # only white space differs
            return self._id(latest)
        return None

    def schema(self, schema_id: int) -> dict[str, Any]:
        """Return the schema with the given id, as parsed JSON. Raises FatalError if there is none."""
        status, answer = self._ask("GET", f"/schemas/ids/{schema_id}")
        schema = _parsed(answer)
        if status != 200 or not isinstance(schema, dict):
            what = f"the registry {self._url} has no Avro record schema with id {schema_id}"
            raise FatalError(what, "check schema_registry.url")
        return schema

    def expect(self, subject: Subject) -> SchemaLookup:
        """Look up the schema of a subject without registering it.

        Raises FatalError if the schema is not acceptable, or is missing and may not be registered.
        """
        found = self.check(subject)
        if found.id is None and not self._settings.auto_register:
            what = "the subject has no schema" if found.is_first else "the subject has other, compatible schemas"
            raise FatalError(
                f"subject {subject.name}: schema {subject.schema} is not registered ({what}), and "
                "schema_registry.auto_register is false",
                "register it with `connector schema register`",
            )
        return found

    def _version(self, subject: Subject, number: str) -> Mapping[str, Any] | None:
        status, answer = self._ask("GET", f"/subjects/{_quoted(subject.name)}/versions/{number}")
        return answer if status == 200 else None

    def _numbers(self, subject: Subject) -> list[int]:
        _, answer = self._ask("GET", f"/subjects/{_quoted(subject.name)}/versions")
        return [number for number in reversed(answer.get("list", [])) if isinstance(number, int)]

    @staticmethod
    def _compare(subject: Subject, version: Mapping[str, Any]) -> None:
        """Raise FatalError if the subject's schema and a registered version cannot read each other's records."""
        number = version.get("version")
        kind = version.get("schemaType") or "AVRO"
        if kind != "AVRO":
            raise _refusal(subject, f"version {number} is not an Avro schema, but has the type {_cut(str(kind))}")
        try:
            found = evolution.clashes(avro.load(subject.schema), _parsed(version))
        except (KeyError, TypeError, AttributeError, RecursionError):
            found = ["it is not an Avro schema"]
        if found:
            more = f" (and {len(found) - 5} more)" if len(found) > 5 else ""
            raise _refusal(subject, f"version {number}: {_cut('; '.join(found[:5]), 1000)}{more}")

    def _id(self, answer: Mapping[str, Any]) -> int:
        schema_id = answer.get("id")
        if not isinstance(schema_id, int) or isinstance(schema_id, bool) or not 0 <= schema_id < 2**31:
            raise self._unavailable("answers without the id of a schema; check schema_registry.url")
        return schema_id

    def _ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> tuple[int, dict[str, Any]]:
        """Send a request. Return the status and the JSON object of the answer; an array becomes the member `list`.

        The status is 200, 404 (unknown subject, version or schema), 409 or 422. Each address is tried once. If none of
        them gives such an answer, RegistryUnavailableError is raised.
        """
        problems = []
        for _ in range(1 + len(self._others)):
            try:
                return self._ask_one(method, path, body)
            except RegistryUnavailableError as error:
                problems.append(str(error))
                self._others.append(self._url)
                self._url = self._others.pop(0)
        *first, last = problems
        raise RegistryUnavailableError(" and ".join([*(problem.partition("; ")[0] for problem in first), last]))

    def _ask_one(self, method: str, path: str, body: Mapping[str, Any] | None) -> tuple[int, dict[str, Any]]:
        data = None if body is None else json.dumps(body).encode()
        headers = {"Accept": f"{_MEDIA_TYPE}, application/json", "User-Agent": "direct-routing-connector"}
        if data is not None:
            headers["Content-Type"] = _MEDIA_TYPE
        headers |= self._authorization()
        request = Request(self._url + path, data, headers, method=method)  # noqa: S310 - http or https
        if self._proxy is not None:
            _send_through(request, self._proxy)
        try:
            with self._opener().open(request, timeout=_TIMEOUT_S) as response:
                status, content = int(response.status), _read(response)
        except URLError as error:
            raise self._unavailable(self._unreached(error.reason)) from None
        except (OSError, HTTPException) as error:
            raise self._unavailable(f"does not answer: {_reason(error)}") from None
        if self._proxy is not None and status == 407:
            raise self._unavailable(f"cannot be reached: {self._proxy.refused(status)}")
        return status, self._understood(status, content)

    @property
    def _proxy(self) -> Proxy | None:
        return self._proxies[self._url]

    def _context(self) -> ssl.SSLContext:
        context = self._trust.context()
        if self._settings.client_certificate is not None:
            _load_certificate(context, self._settings.client_certificate, self._settings.client_key)
        return context

    def _opener(self) -> OpenerDirector:
        # Without urllib's error and redirect processors every status is an answer, and no redirect forwards the secret.
        opener = OpenerDirector()
        for handler in (HTTPHandler(), HTTPSHandler(context=self._context())):
            opener.add_handler(handler)
        return opener

    def _unreached(self, reason: object) -> str:
        """Describe why the connection failed. The reason may be a problem with a proxy."""
        if isinstance(reason, ssl.SSLError):
            return f"cannot be reached: {self._trust.describe(reason)}"
        if self._proxy is None:
            return f"cannot be reached: {_reason(reason)}"
        if refused := _REFUSED_TUNNEL.search(str(reason)):
            return f"cannot be reached: {self._proxy.refused(int(refused[1]))}"
        return f"cannot be reached: {self._proxy.unreachable(_reason(reason))}"

    def _understood(self, status: int, content: bytes) -> dict[str, Any]:
        if status in (401, 403):
            has = self._settings.username or self._settings.token
            what = "refuses the credentials" if has else "requires credentials"
            todo = "check schema_registry.username and password, or token, and what they allow"
            raise self._unavailable(f"{what} ({status}); {todo}")
        if 300 <= status < 400:
            raise self._unavailable(f"redirects to another address ({status}); set schema_registry.url to it")
        try:
            answer = json.loads(content)
        except (ValueError, RecursionError):
            answer = None
        if isinstance(answer, list):
            answer = {"list": answer}
        is_unknown = isinstance(answer, dict) and answer.get("error_code") in (
            _SUBJECT_UNKNOWN,
            _VERSION_UNKNOWN,
            _SCHEMA_UNKNOWN,
        )
        if status not in (200, 409, 422) and not (status in (404, 405) and is_unknown):
            hint = "; check that schema_registry.url is the root of its Confluent API" if status == 404 else ""
            raise self._unavailable(f"answers {status}{hint}")
        if not isinstance(answer, dict):
            raise self._unavailable("answers with something that is not a JSON object; check schema_registry.url")
        return answer

    def _authorization(self) -> dict[str, str]:
        settings = self._settings
        if settings.token is not None:
            token = settings.token.get().rstrip("\r\n")
            if not token.isascii() or not token.isprintable():
                raise self._unavailable(
                    "cannot be called: schema_registry.token has characters that a header cannot contain; correct it"
                )
            return {"Authorization": f"Bearer {token}"}
        if settings.password is not None:
            pair = f"{settings.username}:{settings.password.get()}"
            return {"Authorization": f"Basic {b64encode(pair.encode()).decode()}"}
        return {}

    def _unavailable(self, what: str) -> RegistryUnavailableError:
        return RegistryUnavailableError(f"the schema registry at {self._url} {what}")


def _load_certificate(context: ssl.SSLContext, certificate: Path, key: Path | None) -> None:
    """Load the client certificate for a registry that requires one. Raises ConfigurationError."""
    try:
        context.load_cert_chain(certificate, key, password="")
    except (OSError, ValueError) as error:
        what = f"{certificate} and its key cannot be used ({_reason(error)})"
        todo = "use PEM files of a certificate and of its key, without a password"
        raise ConfigurationError([f"schema_registry.client_certificate: {what}; {todo}"]) from error


def _send_through(request: Request, proxy: Proxy) -> None:
    request.set_proxy(proxy.place, "http")
    for name, value in proxy.headers.items():
        request.add_header(name, value)


def _read(response: HTTPResponse) -> bytes:
    """Return the body of a response. Raises TimeoutError if it takes too long to receive the whole body.

    The time-out of the socket is not enough, because it only limits the time between two pieces of the body.
    """
    deadline = time.monotonic() + _WHOLE_ANSWER_S
    pieces = []
    left = _ANSWER_MAX_BYTES
    while piece := response.read1(left):
        pieces.append(piece)
        left -= len(piece)
        if left <= 0:
            raise HTTPException(f"an answer longer than {_ANSWER_MAX_BYTES} bytes")
        if time.monotonic() > deadline:
            raise TimeoutError("timed out")
    return b"".join(pieces)


def _body(subject: Subject) -> dict[str, str]:
    return {"schema": json.dumps(avro.load(subject.schema), separators=(",", ":"), ensure_ascii=False)}


def _parsed(answer: Mapping[str, Any]) -> Any:
    """Return the parsed schema in an answer of the registry; None if the answer contains none."""
    try:
        return json.loads(answer.get("schema") or "null")
    except (TypeError, ValueError, RecursionError):
        return None


def _refusal(subject: Subject, why: str) -> FatalError:
    return FatalError(
        f"subject {subject.name}: schema {subject.schema} is not compatible with the registered one: {why}",
        "set another topic or another schema_registry.subject_name_strategy, or delete the subject",
    )


def _cut(text: str, longest: int = 300) -> str:
    """Shorten text that another system has sent to one line of at most `longest` characters."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line if len(line) <= longest else f"{line[:longest]}…"


def _reason(error: object) -> str:
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return _cut(str(text))


def _quoted(subject: str) -> str:
    return quote(subject, safe="")
