"""Client of the schema registry (Confluent's API): looks up and registers the schema of each topic.

1. It is used at the start and by `connector schema`, never while rows are published. An unavailable registry therefore
   stops nothing that runs.
2. A schema is registered only under a subject whose newest version can read it and be read by it, whatever
   compatibility level the registry has. The registry's own check is required as well.
3. Problems that may pass (no answer, 401, 403, 5xx, no JSON) raise RegistryUnavailableError. Others raise FatalError.

docs/adr/0007-schema-registry-client.md explains why this is not an existing client.
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
    """A name in the registry, the schema that belongs to it, and the topics that are written with the schema."""

    name: str
    schema: str
    "A member of schemata.NAMES."
    topics: tuple[str, ...]


class SchemaLookup(NamedTuple):
    """Result of the look-up of a schema under its subject.

    `id`: None if the schema is not registered. `is_first`: the subject has no version at all.
    """

    id: int | None
    is_first: bool


def subjects(row_topics: Iterable[str], strategy: str) -> list[Subject]:
    """Return every subject of row topics and their progress topics. `strategy`: topic, record or topic_record."""
    found: dict[str, Subject] = {}
    for topic in row_topics:
        for schema, written in ((avro.ROW, topic), (avro.PROGRESS, topics.progress(topic))):
            record = evolution.full_name(avro.load(schema))
            name = {"topic": f"{written}-value", "record": record, "topic_record": f"{written}-{record}"}[strategy]
            known = found.get(name, Subject(name, schema, ()))
            found[name] = known._replace(topics=(*known.topics, written))
    return list(found.values())


class Registry:
    """Schema registry at one of several addresses.

    Calls block; each request ends within seconds. Raises RegistryUnavailableError and FatalError.
    """

    def __init__(self, settings: SchemaRegistry) -> None:
        """Check the settings.

        Raises ConfigurationError when the certificates cannot be read or the proxy cannot be used.
        """
        self._settings = settings
        self._trust = Trust("schema_registry", settings.ca_bundle, strict=settings.tls_strict)
        try:
            self._proxies = {url: proxies.choose(url, os.environ) for url in settings.urls}
        except proxies.UnusableProxyError as error:
            raise ConfigurationError([f"{error.variable}: {error}"]) from error
        self._url, *self._others = settings.urls
        "The address that answered last, and the addresses to try when it does not answer."
        self._context()

    def ensure(self, wanted: Sequence[Subject]) -> dict[str, int]:
        """Return the schema id by topic. Registers missing schemas if the settings allow it. Raises FatalError."""
        ids, problems = self.ensure_each(wanted)
        if problems:
            raise FatalError("\n".join(problems.values()))
        return ids

    def ensure_each(self, wanted: Sequence[Subject]) -> tuple[dict[str, int], dict[Subject, str]]:
        """Return the schema id by topic, and the error message of each subject that cannot be used."""
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
        """Register the subject's schema unless it is registered already, and return its id."""
        found = self.check(subject)
        if found.id is not None:
            return found.id
        status, answer = self._ask("POST", f"/subjects/{_quoted(subject.name)}/versions", _body(subject))
        if status == 200:
            return self._id(answer)
        # Two workers that start together both register. A registry may refuse the second request, also with 409.
        known = self.find(subject)
        if known is None:
            said = _cut(str(answer.get("message") or "without saying why"))
            raise FatalError(f"subject {subject.name}: the registry refuses schema {subject.schema} ({status}): {said}")
        return known

    def check(self, subject: Subject) -> SchemaLookup:
        """Return whether the subject has its schema or would accept it.

        Raises FatalError that names the incompatible field.
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
            raise self._away(f"gives no verdict on compatibility ({status})")
        if not answer["is_compatible"]:
            for number in self._numbers(subject):
                version = self._version(subject, str(number))
                if version is not None:
                    self._compare(subject, version)
            said = "; ".join(map(str, answer.get("messages") or [])) or "without saying why"
            raise _refusal(subject, f"by the registry's rules, {_cut(said)}")
        return SchemaLookup(None, is_first=False)

    def find(self, subject: Subject) -> int | None:
        """Return the id of exactly this schema under its subject; None if it is not registered."""
        status, answer = self._ask("POST", f"/subjects/{_quoted(subject.name)}", _body(subject))
        if status == 200:
            return self._id(answer)
        latest = self._version(subject, "latest")
        if latest is not None and _parsed(latest) == avro.load(subject.schema):  # only white space differs
            return self._id(latest)
        return None

    def schema(self, schema_id: int) -> dict[str, Any]:
        """Return the schema with an id of the registry."""
        status, answer = self._ask("GET", f"/schemas/ids/{schema_id}")
        schema = _parsed(answer)
        if status != 200 or not isinstance(schema, dict):
            raise FatalError(f"the schema registry at {self._url} has no Avro record under id {schema_id}")
        return schema

    def expect(self, subject: Subject) -> SchemaLookup:
        """Return the result of `check` without registering anything. Raises FatalError where `ensure` would."""
        found = self.check(subject)
        if found.id is None and not self._settings.auto_register:
            what = "there is none" if found.is_first else "only others, which are compatible"
            raise FatalError(
                f"subject {subject.name}: schema {subject.schema} is not registered ({what}) and "
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
        """Raise FatalError when the subject's schema and a version cannot read each other."""
        number = version.get("version")
        kind = version.get("schemaType") or "AVRO"
        if kind != "AVRO":
            raise _refusal(subject, f"version {number} is a schema of the kind {_cut(str(kind))}")
        try:
            found = evolution.clashes(avro.load(subject.schema), _parsed(version))
        except (KeyError, TypeError, AttributeError, RecursionError):
            found = ["it is no Avro schema"]
        if found:
            more = f" (and {len(found) - 5} more)" if len(found) > 5 else ""
            raise _refusal(subject, f"version {number}: {_cut('; '.join(found[:5]), 1000)}{more}")

    def _id(self, answer: Mapping[str, Any]) -> int:
        schema_id = answer.get("id")
        if not isinstance(schema_id, int) or isinstance(schema_id, bool) or not 0 <= schema_id < 2**31:
            raise self._away("answers without the id of a schema")
        return schema_id

    def _ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> tuple[int, dict[str, Any]]:
        """Return status and JSON object of an answer; an array becomes the member `list`.

        The status is 200, 404 for an unknown subject, version or schema, 409 or 422. Each address is tried once. Raises
        RegistryUnavailableError.
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
            raise self._away(self._unreached(error.reason)) from None
        except (OSError, HTTPException) as error:
            raise self._away(f"does not answer: {_reason(error)}") from None
        if self._proxy is not None and status == 407:
            raise self._away(f"cannot be reached: {self._proxy.refused(status)}")
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
        """Return why the connection failed, including problems of a proxy."""
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
            what = "refuses the credentials" if has else "wants credentials"
            todo = "check schema_registry.username and password, or token, and what they may do"
            raise self._away(f"{what} ({status}); {todo}")
        if 300 <= status < 400:
            raise self._away(f"redirects elsewhere ({status}); set schema_registry.url to where")
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
            hint = "; is schema_registry.url the root of its Confluent API?" if status == 404 else ""
            raise self._away(f"answers {status}{hint}")
        if not isinstance(answer, dict):
            raise self._away("answers with something that is no JSON object; is schema_registry.url right?")
        return answer

    def _authorization(self) -> dict[str, str]:
        settings = self._settings
        if settings.token is not None:
            token = settings.token.get().rstrip("\r\n")
            if not token.isascii() or not token.isprintable():
                raise self._away("cannot be asked: schema_registry.token has characters that no header can carry")
            return {"Authorization": f"Bearer {token}"}
        if settings.password is not None:
            pair = f"{settings.username}:{settings.password.get()}"
            return {"Authorization": f"Basic {b64encode(pair.encode()).decode()}"}
        return {}

    def _away(self, what: str) -> RegistryUnavailableError:
        return RegistryUnavailableError(f"the schema registry at {self._url} {what}")


def _load_certificate(context: ssl.SSLContext, certificate: Path, key: Path | None) -> None:
    """Load the client certificate for a registry that requires one. Raises ConfigurationError."""
    try:
        context.load_cert_chain(certificate, key, password="")
    except (OSError, ValueError) as error:
        what = f"{certificate} and its key cannot be used ({_reason(error)})"
        todo = "name PEM files of a certificate and of its key, without a password"
        raise ConfigurationError([f"schema_registry.client_certificate: {what}; {todo}"]) from error


def _send_through(request: Request, proxy: Proxy) -> None:
    request.set_proxy(proxy.place, "http")
    for name, value in proxy.headers.items():
        request.add_header(name, value)


def _read(response: HTTPResponse) -> bytes:
    """Return the body of a response.

    Raises TimeoutError when it arrives too slowly as a whole, because a socket's time-out only limits the time between
    two pieces.
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
    """Return the schema in an answer; None if there is none."""
    try:
        return json.loads(answer.get("schema") or "null")
    except (TypeError, ValueError, RecursionError):
        return None


def _refusal(subject: Subject, why: str) -> FatalError:
    return FatalError(
        f"subject {subject.name}: schema {subject.schema} is not compatible with what is registered: {why}",
        "name another topic or another schema_registry.subject_name_strategy, or have that subject deleted",
    )


def _cut(text: str, longest: int = 300) -> str:
    """Return text of a foreign system on one line, with at most `longest` characters."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line if len(line) <= longest else f"{line[:longest]}…"


def _reason(error: object) -> str:
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return _cut(str(text))


def _quoted(subject: str) -> str:
    return quote(subject, safe="")
