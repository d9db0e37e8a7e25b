"""Comparison of the topics with the source. It shares no code with the connector except the Avro decoder.

1. Topics are read with `read_committed`, from their beginning to the last stable offset.
2. Fields are compared as the contract words them, from the JSON that the source served: never with the connector's
   own reading of a row.
3. A difference is reported by ids, never with the content of a row.
"""

import json
import re
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any, NamedTuple, cast

from confluent_kafka import Consumer, IsolationLevel, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

from connector.kafka import avro
from connector.schema_files import schema_text
from connector.simulator import TruthRow

Truth = Mapping[str, Sequence[TruthRow]]
"By tenant: every version of every row that was visible at the time of the comparison."

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_OWN = frozenset({"tenantId", "observedDateTime", "revision", "additionalProperties"})
_BETA = frozenset(
    {"administrativeUnitInfos", "otherPartyCountryCode", "transferorCorrelationId", "userCountryCode"},
)
_HEADERS = (
    "__connect.errors.topic",
    "__connect.errors.exception.class.name",
    "__connect.errors.exception.message",
    "tenant",
    "window.from",
    "window.to",
)
_INSTANT = re.compile(r"(.{19})(?:\.(\d+))?Z")
_DEADLINE_S = 60.0
_SHOWN = 10


class Entry(NamedTuple):
    """Committed record."""

    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes
    headers: tuple[tuple[str, bytes], ...]


class Published(NamedTuple):
    """Decoded record of the row topic; `fields` are the row's own, times in epoch milliseconds."""

    tenant: str
    id: str
    revision: int
    fields: dict[str, Any]
    entry: Entry


class Statement(NamedTuple):
    """Decoded progress record."""

    tenant: str
    overlap: timedelta
    complete_through: datetime
    gap_seconds: int
    offsets: tuple[int, ...]


@dataclass
class Committed:
    """Everything that a `read_committed` reader finds."""

    topic: str
    rows: list[Published] = field(default_factory=list)
    dead_letters: list[Entry] = field(default_factory=list)
    progress: list[Statement] = field(default_factory=list)
    open: list[str] = field(default_factory=list)
    "Partitions whose last stable offset is below their high watermark."

    @property
    def newest(self) -> dict[tuple[str, str], Published]:
        """Return the newest version of each row; of records with the same revision, the later one."""
        newest: dict[tuple[str, str], Published] = {}
        for row in self.rows:
            known = newest.get((row.tenant, row.id))
            if known is None or row.revision >= known.revision:
                newest[row.tenant, row.id] = row
        return newest


def read(bootstrap: str, topic: str, isolation_level: str = "read_committed") -> list[Entry]:
    """Return every record of a topic that a consumer with this isolation level sees, ordered within each partition."""
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": "oracle",
            "isolation.level": isolation_level,
            "enable.partition.eof": True,
            "enable.auto.commit": False,
            "fetch.wait.max.ms": 20,
            "log_level": 0,
        }
    )
    try:
        partitions = consumer.list_topics(topic, timeout=_DEADLINE_S).topics[topic].partitions
        consumer.assign([TopicPartition(topic, number, 0) for number in partitions])
        entries: list[Entry] = []
        unread = set(partitions)
        deadline = time.monotonic() + _DEADLINE_S
        while unread:
            assert time.monotonic() < deadline, f"{topic} cannot be read to its end"
            for message in consumer.consume(10_000, 0.05):
                partition, error = message.partition(), message.error()
                assert partition is not None
                if error is not None:
                    assert error.name() == "_PARTITION_EOF", error.str()
                    unread.discard(partition)
                    continue
                headers = tuple(cast("list[tuple[str, bytes]]", message.headers() or []))
                offset, value = message.offset(), message.value()
                assert offset is not None
                entries.append(Entry(partition, offset, message.timestamp()[1], message.key(), value or b"", headers))
        return sorted(entries)
    finally:
        consumer.close()


def open_transactions(bootstrap: str, topics: Iterable[str]) -> list[str]:
    """Return the partitions with an open transaction, at which `read_committed` readers wait."""
    admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})
    known = admin.list_topics(timeout=_DEADLINE_S).topics
    partitions = [TopicPartition(topic, number) for topic in topics for number in known[topic].partitions]
    latest: OffsetSpec = OffsetSpec.latest()  # type: ignore[no-untyped-call]
    ends = []
    for level in (IsolationLevel.READ_COMMITTED, IsolationLevel.READ_UNCOMMITTED):
        futures = admin.list_offsets(dict.fromkeys(partitions, latest), isolation_level=level)
        ends.append({(p.topic, p.partition): future.result(_DEADLINE_S).offset for p, future in futures.items()})
    stable, high = ends
    return [f"{topic}-{number}" for (topic, number), end in high.items() if stable[topic, number] != end]


def committed(bootstrap: str, topic: str, app: str) -> Committed:
    """Return everything that is committed on the topics of a connector."""
    # With a registry, values name a schema of this version by its id.
    row = avro.decoder(avro.ROW, lambda _: avro.load(avro.ROW))
    progress = avro.decoder(avro.PROGRESS, lambda _: avro.load(avro.PROGRESS))
    result = Committed(topic)
    for entry in read(bootstrap, topic):
        record = row(entry.value)
        fields = {
            name: _ms(value) if isinstance(value, datetime) else value
            for name, value in record.items()
            if name not in _OWN
        }
        fields["additionalProperties"] = _parsed(record["additionalProperties"])
        result.rows.append(Published(record["tenantId"], record["id"], record["revision"], fields, entry))
    result.dead_letters = read(bootstrap, f"{topic}.dlq")
    for entry in read(bootstrap, f"{topic}.progress"):
        record = progress(entry.value)
        statement = Statement(
            record["tenantId"],
            timedelta(seconds=record["overlapSeconds"]),
            record["completeThroughDateTime"],
            record["gapSeconds"],
            tuple(record["offsets"]),
        )
        result.progress.append(statement)
        assert entry.key == statement.tenant.encode(), "the key of a progress record is its tenant"
    internal = [f"{app}.{name}" for name in ("control", "state", "seen")]
    result.open = open_transactions(bootstrap, [topic, f"{topic}.dlq", f"{topic}.progress", *internal])
    return result


def check(
    bootstrap: str,
    topic: str,
    app: str,
    truth: Truth,
    *,
    claims: bool = True,
    key: str = "id",
    repeats: bool = False,
) -> Committed:
    """Assert that the topics contain exactly what the source shows, and return the contents of the topics.

    `claims`: True to check progress records as well, which is impossible after the clock of the source was moved.
    `key`: field that is the key of the records. `repeats`: True if a version may be published again, as it may be
    without transactions. The AssertionError names all differences.
    """
    found = committed(bootstrap, topic, app)
    problems = differences(found, truth, claims=claims, key=key, repeats=repeats)
    assert not problems, f"{topic} is not what the source shows:\n" + "\n".join(problems)
    return found


class Tally(NamedTuple):
    """Counts of records, and of what is wrong with them."""

    rows: int
    "Number of records of the row topic and of dead letters."
    revisions: int
    missing: int
    doubled: int


def tally(found: Committed, truth: Truth) -> Tally:
    """Return the counts behind `differences`, for a table."""
    newest = found.newest
    versions = Counter((row.tenant, row.id, row.revision) for row in found.rows)
    dead = Counter(entry.value for entry in found.dead_letters)
    still = {bytes(v.row) for of in truth.values() for v in of if not v.fits and v.until is None}
    behind = sum(
        key not in newest or newest[key].fields != expected(bytes(valid_versions[-1].row))
        for key, valid_versions in _fitting(truth).items()
    )
    return Tally(
        len(found.rows) + len(found.dead_letters),
        sum(row.revision > 0 for row in found.rows),
        behind + len(still - dead.keys()),
        sum(count - 1 for count in (*versions.values(), *dead.values())),
    )


def differences(
    found: Committed, truth: Truth, *, claims: bool = True, key: str = "id", repeats: bool = False
) -> list[str]:
    """Return what is wrong, one sentence each; empty when the topics contain exactly what the source shows."""
    problems = [f"a transaction is still open in {partition}" for partition in found.open]
    valid_versions = _fitting(truth)
    numbers, unlike = _numbers(found.rows, valid_versions)
    newest = found.newest
    problems += _named("missing", (key for key in valid_versions if key not in newest))
    problems += _named("never shown by the source", (key for key in newest if key not in valid_versions))
    problems += _named("published with fields that the source never showed", unlike)
    behind = [
        key
        for key, row in newest.items()
        if key in valid_versions and row.fields != expected(bytes(valid_versions[key][-1].row)) and key not in unlike
    ]
    problems += _named("not in its newest version", behind)
    if not repeats:
        problems += _revisions(found.rows, numbers)
    misplaced = {(row.tenant, row.id) for row in found.rows if row.entry.key != (row.fields[key] or row.id).encode()}
    problems += _named(f"with a key other than its {key}", misplaced)
    problems += _dead_letters(found, truth, repeats=repeats)
    if claims:
        for statement in found.progress:
            problems += _claims(statement, found, valid_versions, numbers)
    return problems


def expected(row: bytes) -> dict[str, Any]:
    """Return the fields that a row is published with.

    Null, absent and the empty date are the same; times are truncated to milliseconds.
    """
    members = json.loads(row)
    instants = _instants()
    fields = {name: _instant(members.get(name)) if name in instants else members.get(name) for name in _fields()}
    unknown = {name: value for name, value in members.items() if name not in fields and not name.startswith("@")}
    return fields | dict.fromkeys(_BETA) | {"additionalProperties": unknown}


def _fitting(truth: Truth) -> dict[tuple[str, str], list[TruthRow]]:
    """Return the versions of each row that match the schema, oldest first."""
    valid_versions: dict[tuple[str, str], list[TruthRow]] = defaultdict(list)
    for tenant, versions in truth.items():
        for version in versions:
            if version.fits:
                assert version.id is not None
                valid_versions[tenant, version.id].append(version)
    for versions in valid_versions.values():
        versions.sort(key=lambda version: version.version)
    return valid_versions


def _numbers(
    rows: Sequence[Published], valid_versions: Mapping[tuple[str, str], Sequence[TruthRow]]
) -> tuple[dict[tuple[int, int], int], set[tuple[str, str]]]:
    """Return the source's version number of each record, and the rows that have an unknown version.

    A record is identified by partition and offset, a row by tenant and id.
    """
    numbers: dict[tuple[int, int], int] = {}
    unlike: set[tuple[str, str]] = set()
    for row in rows:
        key = row.tenant, row.id
        for version in valid_versions.get(key, ()):
            if row.fields == expected(bytes(version.row)):
                numbers[row.entry.partition, row.entry.offset] = version.version
                break
        else:
            if key in valid_versions:
                unlike.add(key)
    return numbers, unlike


def _revisions(rows: Sequence[Published], numbers: Mapping[tuple[int, int], int]) -> list[str]:
    """Return the rows whose revisions are wrong.

    No version occurs twice. The revisions of an id count from 0 and follow the order of the source's versions and of
    the topic.
    """
    counts = Counter((row.tenant, row.id, row.revision) for row in rows)
    problems = _named("published twice", ((t, f"{i} revision {r}") for (t, i, r), count in counts.items() if count > 1))
    histories: dict[tuple[str, str], list[Published]] = defaultdict(list)
    for row in rows:
        histories[row.tenant, row.id].append(row)
    gaps, order = [], []
    for key, history in histories.items():
        history.sort(key=lambda row: (row.revision, row.entry.offset))
        if [row.revision for row in history] != list(range(len(history))):
            gaps.append(key)
        places = [(row.entry.partition, row.entry.offset) for row in history]
        versions = [numbers[place] for place in places if place in numbers]
        if places != sorted(places) or versions != sorted(set(versions)):
            order.append(key)
    problems += _named("whose revisions are not consecutive from 0", gaps)
    return problems + _named("whose revisions are not in the order of the source's", order)


def _dead_letters(found: Committed, truth: Truth, *, repeats: bool) -> list[str]:
    shown: dict[bytes, tuple[str, TruthRow]] = {}
    for tenant, versions in truth.items():
        shown |= {bytes(version.row): (tenant, version) for version in versions if not version.fits}
    counts = Counter(entry.value for entry in found.dead_letters)
    repeated = 0 if repeats else sum(count > 1 for count in counts.values())
    unknown = sum(value not in shown for value in counts)
    still = {value for value, (_, version) in shown.items() if version.until is None}
    missing = len(still - counts.keys())
    problems = []
    if repeated or unknown or missing:
        problems.append(
            f"dead letters: {len(found.dead_letters)} for {len(still)} rows that do not fit: "
            f"{repeated} more than once, {unknown} never shown, {missing} missing"
        )
    for entry in found.dead_letters:
        tenant, version = shown.get(entry.value, ("", None))
        if version is not None and (wrong := _wrong_headers(entry, found.topic, tenant, version)):
            problems.append(f"dead letter {entry.partition}/{entry.offset}: {wrong}")
    return problems[:_SHOWN]


def _wrong_headers(entry: Entry, topic: str, tenant: str, version: TruthRow) -> str:
    if tuple(name for name, _ in entry.headers) != _HEADERS:
        return f"its headers are {[name for name, _ in entry.headers]}"
    headers = {name: value.decode() for name, value in entry.headers}
    if headers["__connect.errors.topic"] != topic or headers["tenant"] != tenant:
        return "its headers name another topic or tenant"
    start, end = (datetime.fromisoformat(headers[name]) for name in ("window.from", "window.to"))
    if not start <= version.start < end:
        return "its headers name a window that the row was not in"
    row = json.loads(entry.value)
    row_id = row.get("id") if isinstance(row, dict) else None
    key = row_id.encode() if isinstance(row_id, str) and row_id else None
    return "" if entry.key == key else "its key is not the row's id"


def _claims(
    statement: Statement,
    found: Committed,
    valid_versions: Mapping[tuple[str, str], Sequence[TruthRow]],
    numbers: Mapping[tuple[int, int], int],
) -> list[str]:
    """Return the rows for which a progress record is not true.

    For each call that began before `complete_through` the record claims: what was visible `overlap` later was read, and
    is below `offsets`.
    """
    below: dict[str, int] = {}
    ends = dict(enumerate(statement.offsets))
    for row in found.rows:
        partition, offset = row.entry.partition, row.entry.offset
        if row.tenant == statement.tenant and offset < ends.get(partition, 0):
            number = numbers.get((partition, offset), -1)
            below[row.id] = max(number, below.get(row.id, -1))
    untrue = []
    for (tenant, row_id), versions in valid_versions.items():
        moves = any(version.start != versions[0].start for version in versions)
        began = versions[0].start
        if tenant != statement.tenant or moves or began >= statement.complete_through:
            continue
        due = [version.version for version in versions if version.visible <= began + statement.overlap]
        if due and below.get(row_id, -1) < due[-1]:
            untrue.append((tenant, row_id))
    what = f"not where progress (overlap {statement.overlap}, through {statement.complete_through}) says"
    return _named(what, untrue)


def _named(what: str, keys: Iterable[tuple[str, str]]) -> list[str]:
    names = sorted({row_id for _, row_id in keys})
    if not names:
        return []
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return [f"{len(names)} {what}: {', '.join(names[:_SHOWN])}{more}"]


def _ms(moment: datetime) -> int:
    return (moment - _EPOCH) // timedelta(milliseconds=1)


def _instant(text: str | None) -> int | None:
    if text is None or text.startswith("0001-01-01T00:00:00"):
        return None
    match = _INSTANT.fullmatch(text)
    assert match is not None, "the simulator writes instants with Z"
    second, fraction = match.groups()
    return _ms(datetime.fromisoformat(f"{second}+00:00")) + int(f"{fraction or ''}000"[:3])


def _parsed(texts: Mapping[str, str]) -> dict[str, Any]:
    return {name: json.loads(text) for name, text in texts.items()}


@cache
def _schema() -> dict[str, Any]:
    schema: dict[str, Any] = json.loads(schema_text("directRoutingLogRow"))
    return schema


@cache
def _fields() -> tuple[str, ...]:
    """Return the names of the members of Graph v1.0."""
    return tuple(f["name"] for f in _schema()["fields"] if f["name"] not in _OWN | _BETA)


@cache
def _instants() -> frozenset[str]:
    return frozenset(f["name"] for f in _schema()["fields"] if "timestamp-millis" in json.dumps(f["type"]))
