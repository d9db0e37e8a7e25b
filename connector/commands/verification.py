"""Implementation of `connector verify`: it reads Graph and the topic, and compares the newest version of each row.

First, the topic is read up to the end that it had at the start. Then Graph is read, with a request budget in addition
to that of a running worker. The call time of rows that are on the topic, but that Graph did not return, is read again.
Finally, the records that were published meanwhile are searched for the missing rows.
"""

import asyncio
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, aclosing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple, Self

import msgspec

from connector import brokers
from connector.commands import arguments
from connector.commands.comparison import SHOWN, Comparison, Digest, Fields, Key, Result, Suspect, id_key, id_keys
from connector.commands.range_reading import ShowProgress, progress_screen, ranges_around, read_pages
from connector.commands.topic_reading import DeadLetters, TopicReading, bytes_hash
from connector.commands.verification_report import Report, listed, notes
from connector.config import Settings, Tenant
from connector.core import instants, withdrawals
from connector.core.coverage import Window
from connector.core.rows import InvalidRow, Row, RowSchema
from connector.errors import (
    BrokersUnavailableError,
    ConfigurationError,
    FatalError,
    ForbiddenError,
    SourceError,
)
from connector.graph.client import GraphClient
from connector.graph.source_events import NoEvents
from connector.kafka import avro, topics
from connector.kafka.log_reader import Entry
from connector.kafka.records import row_decoder
from connector.kafka.registry import Registry
from connector.kafka.topic_admin import TopicAdmin

_LONGEST_WAIT_S = 120.0
_WAIT_WHEN_CUT_S = 5.0
_GRACE_S = 5.0
_LOOK_EVERY_S = 1.0
_KEPT = 5 * SHOWN
_ROW_MAX_BYTES = 900_000  # the connector dead-letters a longer row


def compare(
    config: Path | None, tenant: str, begin: str, end: str, requests_per_minute: float, *, as_json: bool
) -> bool:
    """Compare Graph with the topic, print the report, and return whether no row is missing, duplicated or different."""
    settings, chosen, window = arguments.read_graph_range(config, tenant, begin, end, requests_per_minute)
    try:
        with _Verification(settings, chosen, window) as verification:
            report = verification.run()
    except ForbiddenError as error:
        raise FatalError(f"topic {chosen.topic} cannot be read: {error}") from error
    except BrokersUnavailableError as error:
        raise FatalError(f"topic {chosen.topic} cannot be read: {error}", error.remedy) from error
    except SourceError as error:
        raise FatalError(str(error)) from error
    if as_json:
        arguments.print_json(report.content)
    else:
        sys.stdout.write(report.describe(chosen.label))
    return not report.failed


class _SuspectRow(NamedTuple):
    """Row of Graph that was missing on the topic, or had other values there, when Graph was read."""

    id: str
    values: dict[str, Any]


class _InvalidGraphRow(NamedTuple):
    """Invalid row of Graph. `start_s` is the start of the window in which it was read, in epoch seconds."""

    hash: int
    id: str | None
    start_s: int


class _Verification:
    """One run of `connector verify`. It is a context manager that closes its connections to the brokers."""

    def __init__(self, settings: Settings, tenant: Tenant, window: Window) -> None:
        self._settings = settings
        self._tenant = tenant
        self._window = window
        self._begun = datetime.now(UTC)
        schema = avro.load(avro.ROW)
        self._shape = RowSchema(schema, settings.graph.api_version)
        names = {version: [f["name"] for f in schema["fields"] if f.get("since") == version] for version in _VERSIONS}
        beta = names["beta"] if settings.graph.api_version == "beta" else []
        self._fields = Fields(names["v1.0"], beta, settings.rows.privacy)
        self._is_ignoring = settings.rows.revisions == "ignore"
        self._comparison = Comparison()
        registry = Registry(settings.schema_registry) if settings.schema_registry.url else None
        self._decode = row_decoder(registry.schema if registry is not None else None)
        self._stack = ExitStack()
        self._clients = brokers.clients(settings)
        self._clients.check()
        self._rows = TopicReading(self._clients, tenant.topic, self._stack)
        self._letters = TopicReading(self._clients, topics.dead_letters(tenant.topic), self._stack)
        self._dead = DeadLetters(tenant.key, altered=bool(settings.rows.privacy))
        self._shown: dict[Key, _SuspectRow] = {}
        self._invalid: dict[int, _InvalidGraphRow] = {}
        self._foreign = 0
        self._read_twice: set[Key] = set()
        "Rows on the topic that the first reading of Graph did not return, and that were searched for again."

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def run(self) -> Report:
        """Read the topic and Graph, search again for missing rows, and return the report."""
        self._rows.open(self._window.start)
        if not self._rows.bounds:
            raise ConfigurationError([f"kafka.topic: {self._rows.name} does not exist; start connector run first"])
        self._letters.open(self._window.start)
        is_cut = self._check_retention()
        with progress_screen(self._window) as show:
            show("reading the topic", self._window.start)
            self._read_topics()
            asyncio.run(self._read_graph(show, [self._window]))
            self._read_again(show)
            lost = self._wait_for_missing(show, _WAIT_WHEN_CUT_S if is_cut else _LONGEST_WAIT_S)
            result = self._comparison.result()
            # With revisions = "ignore", no sweep publishes a changed row: the row is neither pending nor a failure.
            suspects = [one for one in self._comparison.suspects() if one.is_missing or not self._is_ignoring]
            ids, values = self._look_up(result)
        if is_cut and (result.missing or lost):
            raise ConfigurationError([_retention_text(self._rows.name, self._window)])
        return self._report(result, suspects, lost, ids, values)

    def _check_retention(self) -> bool:
        """Return whether Kafka may have deleted records of the compared range.

        Raises ConfigurationError if it certainly has, because the range begins before the topic's retention time.
        """
        cut = self._rows.may_be_cut()
        is_by_event = self._settings.rows.timestamp == "event"
        if not cut and not (is_by_event and any(low for low, _ in self._rows.bounds.values())):
            return False
        settings = TopicAdmin(self._clients).settings([self._rows.name]).get(self._rows.name, {})
        retention_ms = int(settings.get("retention.ms") or -1)
        if retention_ms >= 0 and self._window.start < self._begun - timedelta(milliseconds=min(retention_ms, _EVER_MS)):
            raise ConfigurationError([_retention_text(self._rows.name, self._window)])
        return True

    def _read_topics(self) -> None:
        """Read the records of the row topic and of the dead-letter topic that were not read yet."""
        start_ms, end_ms = (instants.to_ms(moment) for moment in self._window)
        for entries in self._rows.rest():
            ids: list[str] = []
            revisions: list[int] = []
            digests: list[Digest] = []
            inside: list[bool] = []
            for record in self._tenant_rows(entries):
                began_ms = record["startDateTime"]
                ids.append(record["id"])
                revisions.append(record["revision"])
                digests.append(self._fields.digest(record))
                inside.append(began_ms is not None and start_ms <= began_ms < end_ms)
            self._comparison.add_records(id_keys(ids), revisions, digests, inside)
        for entries in self._letters.rest():
            self._dead.add(entries)

    def _tenant_rows(self, entries: Sequence[Entry]) -> Iterator[dict[str, Any]]:
        """Yield the records that are rows of the tenant.

        Records that are not rows of this connector are counted and skipped.
        """
        for entry in entries:
            try:
                record = self._decode(entry.value)
            except ValueError:
                self._foreign += 1
                continue
            if record["tenantId"].lower() == self._tenant.key:
                yield record

    def _wait_for_missing(self, show: ShowProgress, longest_s: float) -> list[_InvalidGraphRow]:
        """Read more of the topic until no row is missing, or until the sweeps had time to publish the missing rows.

        Wait at most `longest_s` seconds. Return the invalid rows of Graph for which there is no dead letter.
        """
        begun = time.monotonic()
        while True:
            suspects = [suspect.start_s for suspect in self._comparison.suspects()]
            lost = [row for row in self._invalid.values() if not self._dead.holds(row.hash, row.id)]
            wait_s = max((self._wait_s(s) for s in (*suspects, *(row.start_s for row in lost))), default=0.0)
            left_s = begun + min(wait_s, longest_s) - time.monotonic()
            if not suspects and not lost:
                return lost
            # Read the topic at least once more. Rows that appeared in Graph during the read may be published by now.
            self._rows.look_again()
            self._letters.look_again()
            self._read_topics()
            if left_s <= 0:
                return [row for row in lost if not self._dead.holds(row.hash, row.id)]
            show("reading the topic again", self._window.end)
            time.sleep(min(_LOOK_EVERY_S, left_s))

    def _cadence_for(self, start_s: int) -> timedelta | None:
        """Return the shortest cadence of the sweeps that still read a call. Return None if no sweep reads it any more.

        `start_s` is the start of the call in epoch seconds. A sweep reads the call if its overlap reaches back to it.
        """
        age = self._begun - instants.from_ms(start_s * 1000)
        return min((s.every for s in self._settings.windows.sweeps if s.overlap >= age), default=None)

    def _wait_s(self, start_s: int) -> float:
        every = self._cadence_for(start_s)
        return 0.0 if every is None else min(_LONGEST_WAIT_S, every.total_seconds() + _GRACE_S)

    def _is_pending(self, start_s: int) -> bool:
        """Return whether a row is pending: a sweep will still read it, but perhaps after this command has ended.

        `start_s` is the start of the row's call in epoch seconds.
        """
        every = self._cadence_for(start_s)
        return every is not None and every.total_seconds() + _GRACE_S > _LONGEST_WAIT_S

    def _read_again(self, show: ShowProgress) -> None:
        """Read the call time around unexpected rows again, because a row that moved between pages can be overlooked.

        The start of its call can have moved as well (see `withdrawals.MARGIN`). Rows of calls before the horizon are
        left out, because Graph may have deleted them at the end of its retention.
        """
        unexpected, starts = set(self._comparison.result().unexpected_keys), {}
        for entries in self._rows.again() if unexpected else []:
            records = list(self._tenant_rows(entries))
            for key, record in zip(id_keys(record["id"] for record in records), records, strict=True):
                if key in unexpected and record["startDateTime"] is not None:
                    starts[key] = instants.from_ms(record["startDateTime"])
        oldest = self._begun - self._settings.dedup.horizon
        recent = {key: start for key, start in starts.items() if start >= oldest}
        self._read_twice = set(recent)
        ranges = ranges_around(recent.values(), withdrawals.MARGIN, self._settings.windows.slice)
        if ranges:
            asyncio.run(self._read_graph(show, ranges, self._read_twice))

    async def _read_graph(self, show: ShowProgress, ranges: Sequence[Window], only: set[Key] | None = None) -> None:
        """Add the rows of `ranges` in Graph to the comparison. With `only`, add no other rows than these."""
        async with GraphClient(self._settings.graph) as graph:
            source = graph.source(self._tenant, NoEvents())
            try:
                for part in ranges:
                    async with aclosing(read_pages(source, part, self._settings.windows.slice, show)) as pages:
                        async for window, page in pages:
                            self._take(page.rows if only is None else self._only(page.rows, only), window)
            finally:
                await source.close()

    def _only(self, raws: Sequence[msgspec.Raw], keys: set[Key]) -> list[msgspec.Raw]:
        entries = self._shape.read(raws).entries
        found = zip(raws, entries["hi"].tolist(), entries["lo"].tolist(), strict=True)
        return [raw for raw, hi, lo in found if (hi, lo) in keys]

    def _take(self, raws: Sequence[msgspec.Raw], window: Window) -> None:
        """Add the rows of one page of Graph to the comparison. `window` is the range that was requested."""
        reading = self._shape.read(raws)
        keys: list[Key] = []
        digests: list[Digest] = []
        starts_s: list[int] = []
        shown: list[_SuspectRow] = []
        for row, raw, hi, lo in zip(
            reading.rows, raws, reading.entries["hi"].tolist(), reading.entries["lo"].tolist(), strict=True
        ):
            values, problem = self._resolve(row, bytes(raw))
            if problem is not None:
                start_s = int(window.start.timestamp())
                self._invalid[bytes_hash(problem.raw)] = _InvalidGraphRow(bytes_hash(problem.raw), problem.id, start_s)
                if problem.id:
                    self._comparison.add_invalid([id_key(problem.id)])
                continue
            began_ms = values["startDateTime"]
            keys.append((hi, lo))
            digests.append(self._fields.digest(values))
            starts_s.append(began_ms // 1000 if began_ms is not None else int(window.start.timestamp()))
            shown.append(_SuspectRow(values["id"], values))
        for at in self._comparison.add_rows(keys, digests, starts_s).nonzero()[0].tolist():
            if len(self._shown) < _KEPT or keys[at] in self._shown:
                self._shown[keys[at]] = shown[at]

    def _resolve(self, row: Row | InvalidRow, raw: bytes) -> tuple[dict[str, Any], InvalidRow | None]:
        if isinstance(row, InvalidRow):
            return {}, row
        values, problem = self._shape.resolve(row, raw)
        if problem is None and len(raw) > _ROW_MAX_BYTES:
            problem = InvalidRow(raw, row.id, "row: too long", values["startDateTime"])
        return values, problem

    def _look_up(self, result: Result) -> tuple[dict[Key, str], dict[Key, dict[str, Any]]]:
        """Read the topic a second time to get ids and values, because the comparison has only their hashes.

        Return the ids of duplicated and unexpected rows, and the newest version of each differing row.
        """
        differing = set(result.differing_keys[:SHOWN])
        named = {key for key, _, _ in result.duplicated_keys[:SHOWN]} | set(result.unexpected_keys[:SHOWN])
        ids: dict[Key, str] = {}
        values: dict[Key, dict[str, Any]] = {}
        if not differing and not named:
            return ids, values
        for entries in self._rows.again():
            records = list(self._tenant_rows(entries))
            for key, record in zip(id_keys(record["id"] for record in records), records, strict=True):
                if key in named:
                    ids[key] = record["id"]
                if key in differing and record["revision"] >= values.get(key, record)["revision"]:
                    values[key] = record
        return ids, values

    def _report(
        self,
        result: Result,
        suspects: list[Suspect],
        lost: list[_InvalidGraphRow],
        ids: dict[Key, str],
        values: dict[Key, dict[str, Any]],
    ) -> Report:
        everys = [
            self._cadence_for(start_s) for start_s in [one.start_s for one in suspects] + [row.start_s for row in lost]
        ]
        pending = [one for one in suspects if self._is_pending(one.start_s)]
        keys = {one.key for one in pending}
        missing = [one for one in suspects if one.is_missing and one.key not in keys]
        bad_pending = [row for row in lost if self._is_pending(row.start_s)]
        bad_missing = [row for row in lost if not self._is_pending(row.start_s)]
        differing = [
            {"id": self._shown[key].id, "fields": self._fields.differences(self._shown[key].values, values[key])}
            for key in result.differing_keys[:SHOWN]
            if key in self._shown and key in values and key not in keys
        ]
        duplicated = [
            {"id": ids[key], "revision": revision, "times": times}
            for key, revision, times in result.duplicated_keys[:SHOWN]
            if key in ids
        ]
        dead = [row.id for row in self._invalid.values() if row not in lost]
        unexpected = [ids[key] for key in result.unexpected_keys[:SHOWN] if key in ids]
        withdrawn = [key for key in result.unexpected_keys if key in self._read_twice]
        missing_count, pending_count = len(missing) + len(bad_missing), len(pending) + len(bad_pending)
        differing_count = result.differing - sum(not one.is_missing for one in pending)
        content = {
            "tenant": self._tenant.id,
            "from": instants.text(self._window.start),
            "to": instants.text(self._window.end),
            "graph_rows": result.graph_rows + len(self._invalid),
            "topic_records": result.topic_records,
            "identical": result.identical,
            "missing": listed(missing_count, [*self._ids(missing), *(row.id for row in bad_missing)]),
            "pending": listed(pending_count, [*self._ids(pending), *(row.id for row in bad_pending)]),
            "duplicated": listed(result.duplicated, duplicated),
            "differing": listed(differing_count, differing),
            "unexpected": listed(result.unexpected, unexpected),
            "withdrawn": listed(len(withdrawn), [ids[key] for key in withdrawn[:SHOWN] if key in ids]),
            "dead_lettered": listed(len(dead), dead),
            "notes": notes(
                self._settings, everys, differing=differing_count, pending=pending_count, foreign=self._foreign
            ),
        }
        failed = bool(missing_count or result.duplicated or (differing_count and not self._is_ignoring))
        return Report(content, failed)

    def _ids(self, suspects: Sequence[Suspect]) -> list[str]:
        return [self._shown[one.key].id for one in suspects if one.key in self._shown]


_VERSIONS = ("v1.0", "beta")
_EVER_MS = 10**13


def _retention_text(topic: str, window: Window) -> str:
    return (
        f"--from: the retention of topic {topic} has begun to delete records that were published since "
        f"{instants.text(window.start)}; use a later time, or raise the topic's retention.ms"
    )
