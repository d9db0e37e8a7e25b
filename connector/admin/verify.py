"""`connector verify`: reads Graph and the topic, and compares the newest version of each row.

The topic is read first, up to its end at the start. Rows of Graph that are missing on the topic are then looked for
among the records published since. Graph is read with a separate budget, in addition to that of a running worker.
"""

import asyncio
import dataclasses
import math
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, NamedTuple, Self

import msgspec
import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from connector import brokers, log
from connector.admin import arguments, text
from connector.admin.arguments import ConfigOption, FromOption, JsonOption, TenantOption, ToOption
from connector.config import Settings, Tenant, duration_text
from connector.core import instants, windows
from connector.core.comparison import SHOWN, Comparison, Fields, Key, Result, Said, id_key, id_keys
from connector.core.coverage import Window
from connector.core.rows import InvalidRow, Row, RowSchema, invalid_entry
from connector.errors import BrokersUnavailableError, ConfigurationError, FatalError, RangeTooLongError, SourceError
from connector.graph.client import GraphClient, NoEvents
from connector.kafka import avro, topics
from connector.kafka.clients import Clients
from connector.kafka.records import Bounds, Entry, Offsets, Records, row_decoder
from connector.kafka.registry import Registry

_LONGEST_WAIT_S = 120.0
_WAIT_WHEN_CUT_S = 5.0
_GRACE_S = 5.0
_LOOK_EVERY_S = 1.0
_KEPT = 5 * SHOWN
_ROW_MAX_BYTES = 900_000  # the limit of the service, which dead-letters a longer row
_FAILED = 1


def verify(
    *,
    tenant: TenantOption,
    begin: FromOption,
    end: ToOption,
    requests_per_minute: Annotated[
        float, typer.Option("--requests-per-minute", help="What it takes of Graph's limit, beside a running worker.")
    ] = 5,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    r"""Compare Graph with the topic, row by row and field by field.

    Rows that seem to be missing are looked for again after one `every` of the sweep that covers them, at most two
    minutes.

    \b
    Exits 0 when they are identical, 1 when rows are missing, duplicated or differ, 2 when the arguments are wrong or
    the topic's retention has started to delete the range.

    \b
    Example:
      connector verify --tenant contoso --from -2d --to -1h
      connector verify --tenant contoso --from 2026-03-01T00:00:00Z --to 2026-03-02T00:00:00Z --json
    """
    settings = arguments.read_settings(config, contacts_graph=True)
    log.configure(settings.log.format, settings.log.level)
    chosen = arguments.find_tenant(settings, tenant)
    window = arguments.read_window(begin, end, datetime.now(UTC))
    if not 1 <= requests_per_minute < math.inf:
        raise ConfigurationError(["--requests-per-minute: must be a number from 1; 5 leaves a running worker its 45"])
    budgeted = dataclasses.replace(chosen, requests_per_minute=requests_per_minute)
    try:
        with _Verification(settings, budgeted, window) as verification:
            report = verification.run()
    except BrokersUnavailableError as error:
        raise FatalError(f"reading topic {chosen.topic}: {error}; check kafka.bootstrap_servers") from error
    except SourceError as error:
        raise FatalError(str(error)) from error
    if as_json:
        arguments.print_json(report.content)
    else:
        sys.stdout.write(report.describe(chosen.label))
    if report.failed:
        raise typer.Exit(_FAILED)


class _Report(NamedTuple):
    content: dict[str, Any]
    failed: bool

    def describe(self, label: str) -> str:
        """Return the report for people: ids, counts and names of fields, but no values of rows."""
        found = self.content
        lines = [
            f"{label}, calls from {text.when(found['from'])} to {text.when(found['to'])} (UTC)",
            f"Graph shows {text.number(found['graph_rows'])} rows",
            f"the topic holds {text.number(found['topic_records'])} records of them",
            "",
            f"  {'identical':<14}{text.number(found['identical']):>12}",
        ]
        lines += [f"  {name.replace('_', '-'):<14}{text.number(found[name]['count']):>12}" for name in _LISTED]
        for name, what in _LISTED.items():
            if found[name]["count"]:
                lines += ["", f"{what}:"]
                lines += [f"  {_line(entry)}" for entry in found[name]["ids"]]
                more = found[name]["count"] - len(found[name]["ids"])
                lines += [f"  and {text.number(more)} more"] if more else []
        lines += ["", *found["notes"]] if found["notes"] else []
        lines += ["", "not identical" if self.failed else "identical"]
        return "\n".join(lines) + "\n"


_LISTED = {
    "missing": "missing on the topic",
    "duplicated": "on the topic more than once",
    "differing": "differing",
    "unexpected": "on the topic, and not shown by Graph any more",
    "dead_lettered": "dead-lettered",
}


def _line(entry: Any) -> str:
    if isinstance(entry, dict) and "fields" in entry:
        return f"{entry['id']}  {', '.join(entry['fields'])}"
    if isinstance(entry, dict):
        return f"{entry['id']}  revision {entry['revision']}, {entry['times']} times"
    return str(entry) if entry is not None else "(a row without an id)"


class _Shown(NamedTuple):
    """A row of Graph that was missing or different on the topic when Graph was read."""

    id: str
    values: dict[str, Any]


class _UnfitShown(NamedTuple):
    """An invalid row of Graph."""

    hash: int
    id: str | None
    start_s: int


class _DeadLetters:
    """The dead letters of a tenant, by the hash of their bytes, or by id if those are not the bytes from Graph."""

    def __init__(self, tenant: str, *, altered: bool) -> None:
        self._tenant = tenant
        self._altered = altered
        self._hashes: set[int] = set()
        self._ids: set[Key | None] = set()

    def add(self, entries: Sequence[Entry]) -> None:
        """Add the dead letters that belong to the tenant."""
        for entry in entries:
            if entry.headers.get("tenant", b"").decode(errors="replace").lower() != self._tenant:
                continue
            if self._altered or not entry.value:
                self._ids.add(id_key(entry.key.decode(errors="replace")) if entry.key else None)
            else:
                self._hashes.add(_bytes_hash(entry.value))

    def hold(self, row: _UnfitShown) -> bool:
        """Return whether a row was dead-lettered."""
        return row.hash in self._hashes or (id_key(row.id) if row.id else None) in self._ids


class _Topic:
    """A topic with the offsets up to which it was read."""

    def __init__(self, clients: Clients, name: str, stack: ExitStack) -> None:
        self.name = name
        self.records = stack.enter_context(Records(clients, name))
        self.bounds: Bounds = {}
        self.begin: Offsets = {}
        self.next: Offsets = {}

    def open(self, since: datetime) -> None:
        """Look up the bounds of the topic, and the offsets of the first records published since a time."""
        self.bounds = self.records.bounds()
        self.begin = self.records.since(since, self.bounds) if self.bounds else {}
        self.next = dict(self.begin)

    def rest(self) -> Iterator[list[Entry]]:
        """Yield the records that were not read yet, up to the end that was last looked up."""
        return self.records.read(self.next, {number: end for number, (_, end) in self.bounds.items()})

    def look_again(self) -> None:
        """Look up the current end of the topic."""
        self.bounds = self.records.bounds()

    def again(self) -> Iterator[list[Entry]]:
        """Yield all records that were read once more."""
        return self.records.read(dict(self.begin), self.next)

    def may_be_cut(self) -> list[int]:
        """Return the partitions that may have lost records of the range.

        These partitions have lost records, and hold no record that is known to be older than the range.
        """
        return [number for number, (low, _) in self.bounds.items() if low > 0 and self.begin[number] <= low]


class _Verification:
    """One comparison. A context manager, because it holds connections to the brokers."""

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
        self._comparison = Comparison()
        registry = Registry(settings.schema_registry) if settings.schema_registry.url else None
        self._decode = row_decoder(registry.schema if registry is not None else None)
        self._stack = ExitStack()
        self._clients = brokers.clients(settings)
        self._clients.check()
        self._rows = _Topic(self._clients, tenant.topic, self._stack)
        self._letters = _Topic(self._clients, topics.dead_letters(tenant.topic), self._stack)
        self._dead = _DeadLetters(tenant.key, altered=bool(settings.rows.privacy))
        self._shown: dict[Key, _Shown] = {}
        self._unfit: dict[int, _UnfitShown] = {}
        self._foreign = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def run(self) -> _Report:
        """Read the topic and Graph, look again for rows that are missing, and return the report."""
        self._rows.open(self._window.start)
        if not self._rows.bounds:
            raise ConfigurationError([f"kafka.topic: there is no topic {self._rows.name}; nothing was published yet"])
        self._letters.open(self._window.start)
        is_cut = self._check_retention()
        with _screen(self._window) as told:
            told("reading the topic", self._window.start)
            self._read_topics()
            asyncio.run(self._read_graph(told))
            lost = self._look_again(told, _WAIT_WHEN_CUT_S if is_cut else _LONGEST_WAIT_S)
            result = self._comparison.result()
            ids, values = self._look_up(result)
        if is_cut and (result.missing or lost):
            raise ConfigurationError([_cut(self._rows.name, self._window)])
        return self._report(result, lost, ids, values)

    def _check_retention(self) -> bool:
        """Return whether records of the range may have been deleted.

        Raise ConfigurationError if the retention time of the topic is so short that it deletes them.
        """
        cut = self._rows.may_be_cut()
        is_by_event = self._settings.rows.timestamp == "event"
        if not cut and not (is_by_event and any(low for low, _ in self._rows.bounds.values())):
            return False
        settings = topics.Admin(self._clients).settings([self._rows.name]).get(self._rows.name, {})
        retention_ms = int(settings.get("retention.ms") or -1)
        if retention_ms >= 0 and self._window.start < self._begun - timedelta(milliseconds=min(retention_ms, _EVER_MS)):
            raise ConfigurationError([_cut(self._rows.name, self._window)])
        return True

    def _read_topics(self) -> None:
        """Read the records of both topics that were not read yet."""
        start_ms, end_ms = (instants.to_ms(moment) for moment in self._window)
        for entries in self._rows.rest():
            ids: list[str] = []
            revisions: list[int] = []
            said: list[Said] = []
            inside: list[bool] = []
            for record in self._own(entries):
                began_ms = record["startDateTime"]
                ids.append(record["id"])
                revisions.append(record["revision"])
                said.append(self._fields.said(record))
                inside.append(began_ms is not None and start_ms <= began_ms < end_ms)
            self._comparison.add_records(id_keys(ids), revisions, said, inside)
        for entries in self._letters.rest():
            self._dead.add(entries)

    def _own(self, entries: Sequence[Entry]) -> Iterator[dict[str, Any]]:
        """Yield the tenant's rows. Records that are not rows of this connector are skipped and counted."""
        for entry in entries:
            try:
                record = self._decode(entry.value)
            except ValueError:
                self._foreign += 1
                continue
            if record["tenantId"].lower() == self._tenant.key:
                yield record

    def _look_again(self, told: "_Tell", longest_s: float) -> list[_UnfitShown]:
        """Read on until nothing is missing or the sweeps had time to publish it.

        Return the invalid rows that are not dead-lettered.
        """
        begun = time.monotonic()
        while True:
            suspects = [suspect.start_s for suspect in self._comparison.suspects()]
            lost = [row for row in self._unfit.values() if not self._dead.hold(row)]
            wait_s = max((self._wait_s(s) for s in (*suspects, *(row.start_s for row in lost))), default=0.0)
            left_s = begun + min(wait_s, longest_s) - time.monotonic()
            if not suspects and not lost:
                return lost
            # Read at least once more: rows that Graph added while it was read may have been published since.
            self._rows.look_again()
            self._letters.look_again()
            self._read_topics()
            if left_s <= 0:
                return [row for row in lost if not self._dead.hold(row)]
            told("looking again for what is missing", self._window.end)
            time.sleep(min(_LOOK_EVERY_S, left_s))

    def _every(self, start_s: int) -> timedelta | None:
        """Return the cadence of the most frequent sweep that covers a call, or None if no sweep covers it."""
        age = self._begun - instants.from_ms(start_s * 1000)
        return min((s.every for s in self._settings.windows.sweeps if s.overlap >= age), default=None)

    def _wait_s(self, start_s: int) -> float:
        every = self._every(start_s)
        return 0.0 if every is None else min(_LONGEST_WAIT_S, every.total_seconds() + _GRACE_S)

    async def _read_graph(self, told: "_Tell") -> None:
        async with GraphClient(self._settings.graph) as graph:
            source = graph.source(self._tenant, NoEvents())
            try:
                left = [self._window]
                while left:
                    window = left.pop()
                    if window.end - window.start > self._settings.windows.slice:
                        edge = window.start + self._settings.windows.slice
                        left += [Window(edge, window.end), Window(window.start, edge)]
                        continue
                    told("reading Graph", window.start)
                    try:
                        async for page in source.pages(window, 0):
                            self._take(page.rows, window)
                    except RangeTooLongError:
                        parts = windows.halves(window)
                        if len(parts) < 2:
                            raise
                        left += reversed(parts)
            finally:
                await source.close()

    def _take(self, raws: Sequence[msgspec.Raw], window: Window) -> None:
        """Add the rows of one page to the comparison."""
        reading = self._shape.read(raws)
        keys: list[Key] = []
        said: list[Said] = []
        starts_s: list[int] = []
        shown: list[_Shown] = []
        for row, raw, hi, lo in zip(
            reading.rows, raws, reading.entries["hi"].tolist(), reading.entries["lo"].tolist(), strict=True
        ):
            values, problem = self._resolve(row, bytes(raw))
            if problem is not None:
                start_s = int(window.start.timestamp())
                self._unfit[_bytes_hash(problem.raw)] = _UnfitShown(_bytes_hash(problem.raw), problem.id, start_s)
                if problem.id:
                    self._comparison.add_unfit([id_key(problem.id)])
                continue
            began_ms = values["startDateTime"]
            keys.append((hi, lo))
            said.append(self._fields.said(values))
            starts_s.append(began_ms // 1000 if began_ms is not None else int(window.start.timestamp()))
            shown.append(_Shown(values["id"], values))
        for at in self._comparison.add_rows(keys, said, starts_s).nonzero()[0].tolist():
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
        """Return the ids of rows that the report names from the topic, and the newest version of differing rows.

        The topic is read a second time, because the comparison keeps hashes only.
        """
        differing = set(result.differing_keys[:SHOWN])
        named = {key for key, _, _ in result.duplicated_keys[:SHOWN]} | set(result.unexpected_keys[:SHOWN])
        ids: dict[Key, str] = {}
        values: dict[Key, dict[str, Any]] = {}
        if not differing and not named:
            return ids, values
        for entries in self._rows.again():
            records = list(self._own(entries))
            for key, record in zip(id_keys(record["id"] for record in records), records, strict=True):
                if key in named:
                    ids[key] = record["id"]
                if key in differing and record["revision"] >= values.get(key, record)["revision"]:
                    values[key] = record
        return ids, values

    def _report(
        self, result: Result, lost: list[_UnfitShown], ids: dict[Key, str], values: dict[Key, dict[str, Any]]
    ) -> _Report:
        missing: list[str | None] = [self._shown[key].id for key in result.missing_keys if key in self._shown]
        missing += [row.id for row in lost]
        differing = [
            {"id": self._shown[key].id, "fields": self._fields.differences(self._shown[key].values, values[key])}
            for key in result.differing_keys[:SHOWN]
            if key in self._shown and key in values
        ]
        duplicated = [
            {"id": ids[key], "revision": revision, "times": times}
            for key, revision, times in result.duplicated_keys[:SHOWN]
            if key in ids
        ]
        dead = [row.id for row in self._unfit.values() if row not in lost]
        is_ignoring = self._settings.rows.revisions == "ignore"
        content = {
            "tenant": self._tenant.id,
            "from": instants.text(self._window.start),
            "to": instants.text(self._window.end),
            "graph_rows": result.graph_rows + len(self._unfit),
            "topic_records": result.topic_records,
            "identical": result.identical,
            "missing": {"count": result.missing + len(lost), "ids": missing[:SHOWN]},
            "duplicated": {"count": result.duplicated, "ids": duplicated},
            "differing": {"count": result.differing, "ids": differing},
            "unexpected": {
                "count": result.unexpected,
                "ids": [ids[key] for key in result.unexpected_keys[:SHOWN] if key in ids],
            },
            "dead_lettered": {"count": len(dead), "ids": dead[:SHOWN]},
            "notes": self._notes(result, lost, is_ignoring=is_ignoring),
        }
        failed = bool(result.missing or lost or result.duplicated or (result.differing and not is_ignoring))
        return _Report(content, failed)

    def _notes(self, result: Result, lost: list[_UnfitShown], *, is_ignoring: bool) -> list[str]:
        """Return notes for the reader of the report."""
        notes = []
        if result.missing or lost:
            starts_s = [suspect.start_s for suspect in self._comparison.suspects() if suspect.key in self._shown]
            everys = Counter(self._every(start_s) for start_s in (*starts_s, *(row.start_s for row in lost)))
            for every, count in sorted(everys.items(), key=lambda item: item[0] or timedelta.max):
                if every is None:
                    notes.append(f"No sweep reaches back to {text.number(count)} of these rows: a backfill finds them.")
                elif every.total_seconds() + _GRACE_S > _LONGEST_WAIT_S:
                    notes.append(
                        f"{text.number(count)} of these rows only a slower sweep finds, the one every "
                        f"{duration_text(every)}, which was not waited for: run verify again after it."
                    )
        if result.differing and is_ignoring:
            notes.append('Rows may differ since rows.revisions is "ignore"; that does not count as a failure.')
        if self._settings.rows.privacy:
            notes.append(f"Not compared, for rows.privacy: {', '.join(sorted(self._settings.rows.privacy))}.")
        if self._foreign:
            notes.append(f"{text.number(self._foreign)} records of the topic are no rows of this connector.")
        return notes


_VERSIONS = ("v1.0", "beta")
_EVER_MS = 10**13
_Tell = Callable[[str, datetime], None]


def _cut(topic: str, window: Window) -> str:
    return (
        f"--from: the retention of topic {topic} has begun to delete what was published since "
        f"{instants.text(window.start)}; name a later instant, or raise the topic's retention.ms"
    )


def _bytes_hash(raw: bytes) -> int:
    return int(invalid_entry(raw)["hi"][0])


@contextmanager
def _screen(window: Window) -> Iterator[_Tell]:
    """Show progress on standard error, by the call time that was read. It appears on a terminal only."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=window.seconds)

        def tell(what: str, at: datetime) -> None:
            progress.update(task, description=what, completed=(at - window.start).total_seconds())

        yield tell
