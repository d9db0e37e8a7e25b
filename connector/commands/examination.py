"""Checks of `connector check`: they test everything that `run` needs, without affecting a running worker.

1. The checks publish no row, join no group, and create no topic or schema. One request per tenant goes to Graph.
2. A check that depends on a failed one is skipped and not listed, because it would only repeat the same problem.
3. All checks run concurrently, and every wait is limited. If nothing can be reached, they take half a minute.
"""

import asyncio
import dataclasses
import os
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal, NamedTuple, TextIO
from urllib.parse import urlsplit

from connector import brokers, log
from connector.commands import arguments
from connector.config import Settings, Tenant, no_tenants, suspicious_values
from connector.core.coverage import Window
from connector.errors import (
    BrokersUnavailableError,
    FatalError,
    RegistryUnavailableError,
    SourceError,
)
from connector.graph.client import GraphClient
from connector.graph.source import Source
from connector.graph.source_events import NoEvents
from connector.graph.token_claims import OLDER_ROLE, ROLE, TokenClaims
from connector.kafka import topics
from connector.kafka.limits import raise_command
from connector.kafka.probe import Probe, TopicFindings
from connector.kafka.registry import Registry, subjects
from connector.kafka.topic_admin import Found
from connector.kafka.topic_problems import Problem

_ANSWER = timedelta(seconds=8)
_TENANT_S = 25.0
_AGO, _LENGTH = timedelta(minutes=1), timedelta(seconds=1)
_AT_ONCE = 60_000.0

Check = Literal["configuration", "token", "role", "graph", "brokers", "topics", "transactions", "schema_registry"]


class Finding(NamedTuple):
    """Result of one check."""

    check: Check
    tenant: str | None
    ok: bool
    message: str
    remedy: str | None
    "Remedy for the problem, or None if the check passed."


def _passed(check: Check, message: str, tenant: str | None = None) -> Finding:
    return Finding(check, tenant, ok=True, message=message, remedy=None)


def _failed(check: Check, message: str, remedy: str, tenant: str | None = None) -> Finding:
    return Finding(check, tenant, ok=False, message=message, remedy=remedy)


def examine(config: Path | None, *, as_json: bool) -> bool:
    """Run all checks, print their results as JSON or as text, and return whether all of them passed."""
    settings = arguments.read_settings(config, contacts_graph=True)
    log.configure(settings.log.format, "critical")  # problems are reported as findings, not in the log
    found = asyncio.run(Examination(settings).run())
    if as_json:
        arguments.print_json([finding._asdict() for finding in found])
    else:
        _print(found, sys.stdout)
    return all(finding.ok for finding in found)


def _print(found: Sequence[Finding], stream: TextIO) -> None:
    passed, failed = ("✓", "✗") if stream.isatty() else ("ok", "FAILED")
    for finding in found:
        mark = passed if finding.ok else failed
        what = f"{finding.check} of {finding.tenant}" if finding.tenant else finding.check
        todo = f"; to do: {finding.remedy}" if finding.remedy else ""
        stream.write(f"{mark} {what}: {finding.message}{todo}\n")
    failures = sum(not finding.ok for finding in found)
    stream.write(f"{failures} of {len(found)} checks failed\n" if failures else f"all {len(found)} checks passed\n")


class Examination:
    """All checks of one configuration.

    The constructor raises ConfigurationError if there are no tenants.
    """

    def __init__(self, settings: Settings) -> None:
        if not settings.tenants:
            raise no_tenants()
        self._settings = settings
        self._probe = Probe(settings.kafka, brokers.clients(settings))
        self._registry = Registry(settings.schema_registry) if settings.schema_registry.url else None

    async def run(self) -> list[Finding]:
        """Run all checks, and return their results in the order of docs/interface.md."""
        timeout = min(self._settings.graph.timeout, _ANSWER)
        async with GraphClient(dataclasses.replace(self._settings.graph, timeout=timeout)) as client:
            tenants = [self._tenant(client, tenant) for tenant in self._settings.tenants]
            found = await asyncio.gather(*tenants, self._brokers(), self._schemas())
        count = len(self._settings.tenants)
        warnings = suspicious_values(self._settings, os.environ, datetime.now(UTC))
        words = f"complete, with {count} tenant{'' if count == 1 else 's'}"
        words += "".join(f"; warning: {warning}" for warning in warnings)
        return [_passed("configuration", words), *(finding for part in found for finding in part)]

    async def _tenant(self, client: GraphClient, tenant: Tenant) -> list[Finding]:
        # The budget delays a tenant's first request by one interval. The check makes only one request, so the interval
        # can be short.
        source = client.source(dataclasses.replace(tenant, requests_per_minute=_AT_ONCE), NoEvents())
        found: list[Finding] = []
        at: Check = "token"
        try:
            async with asyncio.timeout(_TENANT_S):
                claims, host = await source.sign_in()
                found += self._check_token(claims, host, tenant.label)
                if found[0].ok:
                    at = "graph"
                    found.append(await self._request_once(source, tenant.label))
        except SourceError as error:
            found.append(_failed(at, error.wrong, error.remedy or _REACH, tenant.label))
        except TimeoutError:
            found.append(_failed(at, f"sign-in or Graph did not answer within {_TENANT_S:g} s", _REACH, tenant.label))
        finally:
            await source.close()
        return found

    def _check_token(self, claims: TokenClaims | None, host: str, tenant: str) -> list[Finding]:
        """Check that a token is for the configured cloud and has the application role.

        `host` is the host of Graph in the sign-in metadata of the tenant. It is empty if the metadata has none.
        """
        graph = self._settings.graph
        ours = urlsplit(graph.scope).hostname or ""
        theirs = host or urlsplit(claims.audience if claims else "").hostname or ours
        if theirs != ours:
            wrong = f"sign-in issues a token for {theirs}, but graph.cloud = {graph.cloud} needs a token for {ours}"
            return [_failed("token", wrong, f"set graph.cloud to the cloud of {theirs}", tenant)]
        signed_in = _passed("token", f"sign-in issued a token for {ours}", tenant)
        if claims is None:
            return [
                signed_in,
                _passed(
                    "role",
                    "the token does not list its permissions; the request to Graph shows whether they suffice",
                    tenant,
                ),
            ]
        if claims.roles & {ROLE, OLDER_ROLE}:
            has = ROLE if ROLE in claims.roles else OLDER_ROLE
            return [signed_in, _passed("role", f"the token has {has}", tenant)]
        instead = ", ".join(sorted(claims.roles)) or "none"
        wrong = f"the token lacks the application permission {ROLE}; it has {instead}"
        return [signed_in, _failed("role", wrong, f"grant {ROLE} and give admin consent in this tenant", tenant)]

    async def _request_once(self, source: Source, tenant: str) -> Finding:
        end = datetime.now(UTC).replace(microsecond=0) - _AGO
        await source.ask_once(Window(end - _LENGTH, end))
        return _passed("graph", "the direct routing log can be read", tenant)

    async def _brokers(self) -> list[Finding]:
        try:
            found = await asyncio.to_thread(self._probe.look)
        except BrokersUnavailableError as error:
            wrong = f"no broker answers at {self._settings.kafka.bootstrap_servers}: {error}"
            return [_failed("brokers", wrong, error.remedy)]
        unreachable = await asyncio.to_thread(self._probe.unreachable, found)
        if unreachable:
            return _failures("brokers", unreachable)
        more = await asyncio.gather(self._topics(found), self._transactions(found))
        answering = _passed("brokers", f"the brokers of cluster {found.cluster} answer")
        return [answering, *(one for part in more for one in part)]

    async def _topics(self, found: Found) -> list[Finding]:
        settings = self._settings
        kafka, key = settings.kafka, settings.rows.key
        wanted = topics.wanted(kafka.app, settings.topics, kafka.shards, kafka.partitions, kafka.topic_properties, key)
        try:
            standing = await asyncio.to_thread(self._probe.topics, wanted, found)
        except BrokersUnavailableError as error:
            return [_failed("topics", f"the brokers do not answer: {error}", error.remedy)]
        except FatalError as error:
            return [_failed("topics", error.wrong, error.remedy or "choose another kafka.app")]
        if standing.problems:
            return _failures("topics", standing.problems)
        created = f"; connector run will create {', '.join(standing.missing)}" if standing.missing else ""
        refused = (
            f"; brokers refuse settings, so connector run will create {standing.left_out}" if standing.left_out else ""
        )
        return [
            _passed(
                "topics",
                f"{len(wanted) - len(standing.missing)} topics are correct{created}{refused}{_low_limits(standing)}",
            )
        ]

    async def _transactions(self, found: Found) -> list[Finding]:
        problems = await asyncio.to_thread(self._probe.transactions, found)
        words = "a transaction can be begun and aborted"
        if self._settings.kafka.delivery == "at_least_once":
            words = "not used, because kafka.delivery is at_least_once"
            if not self._probe.is_idempotent:
                words += "; the brokers have no idempotent producers, so that a retry can write records twice"
        return _failures("transactions", problems) or [_passed("transactions", words)]

    async def _schemas(self) -> list[Finding]:
        if self._registry is None:
            return [
                _passed("schema_registry", "no registry is configured; values are in Avro's single-object encoding")
            ]
        return await asyncio.to_thread(self._compare_schemas, self._registry)

    def _compare_schemas(self, registry: Registry) -> list[Finding]:
        settings = self._settings
        wanted = subjects(settings.topics, settings.schema_registry.subject_name_strategy)
        failed, unknown = [], 0
        for subject in wanted:
            try:
                unknown += registry.expect(subject).id is None
            except FatalError as error:
                failed.append(
                    _failed("schema_registry", error.wrong, error.remedy or "check the subject in the schema registry")
                )
            except RegistryUnavailableError as error:
                wrong, _, remedy = str(error).partition("; ")
                remedy = remedy or "check schema_registry.url, and that the registry runs and can be reached"
                return [*failed, _failed("schema_registry", wrong, remedy)]
        will = f"; connector run will register {unknown} of them" if unknown else ""
        return failed or [_passed("schema_registry", f"{len(wanted)} schemas are compatible{will}")]


def _low_limits(standing: TopicFindings) -> str:
    """Return the part of a message that names topics with a low maximum record size, or "" if there are none."""
    words = (
        f"; topic {topic} accepts at most {limit} bytes (max.message.bytes), so longer rows become dead letters; "
        f"raise the limit with: {raise_command(topic)}"
        for topic, limit in standing.limits.items()
    )
    return "".join(words)


def _failures(check: Check, problems: Sequence[Problem]) -> list[Finding]:
    return [_failed(check, problem.wrong, problem.remedy) for problem in problems]


_REACH = "check that this machine reaches sign-in and Graph over HTTPS; behind a proxy, set HTTPS_PROXY"
