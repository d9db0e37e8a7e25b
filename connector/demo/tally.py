"""Comparison of the topics with the rows that Graph showed. Of the connector's code, it uses only the Avro decoder.

1. A row counts as missing if it is not on the topic, or if its newest version there differs in a field from the newest
   version of Graph. An invalid row counts as missing if there is no dead letter for it.
2. A record counts as duplicated if an earlier record has the same tenant, id and revision, or if the topic has more
   versions of a row than Graph ever showed.
"""

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any, NamedTuple

from connector.kafka import avro
from connector.kafka.log_reader import Entry
from connector.simulator import TruthRow

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_OWN = frozenset({"tenantId", "observedDateTime", "revision", "additionalProperties"})
_INSTANT = re.compile(r"(.{19})(?:\.(\d+))?Z")


class Arrival(NamedTuple):
    """Record that arrived on the row topic or the dead-letter topic. `row` is None for a dead letter.

    `former` is the previous version of the row. `complaint` is the reason for a dead letter.
    """

    tenant: str
    row: dict[str, Any] | None
    former: dict[str, Any] | None = None
    complaint: str = ""


class Verdict(NamedTuple):
    """Result of the comparison for one tenant, as counts of rows or records."""

    served: int = 0
    published: int = 0
    revised: int = 0
    dead_letters: int = 0
    missing: int = 0
    duplicated: int = 0


class Tally:
    """Counts of the records that arrived. It is not thread-safe."""

    def __init__(self, topic: str) -> None:
        self._topic = topic
        self._decode = avro.decoder(avro.ROW)
        self._versions: Counter[tuple[str, str, int]] = Counter()
        self._newest: dict[tuple[str, str], tuple[int, bytes]] = {}
        self._dead: dict[str, Counter[bytes]] = defaultdict(Counter)
        self.published = 0
        self.revised = 0
        self.dead_letters = 0

    def add(self, entries: Iterable[Entry]) -> list[Arrival]:
        """Decode and count records, and return them."""
        return [self._row(entry) if entry.topic == self._topic else self._dead_letter(entry) for entry in entries]

    def verdict(self, tenant: str, truth: Sequence[TruthRow]) -> Verdict:
        """Compare the records of one tenant with `truth`, all versions of its rows that Graph showed."""
        wanted: dict[str, list[TruthRow]] = defaultdict(list)
        for version in truth:
            if version.fits and version.id is not None:
                wanted[version.id].append(version)
        found = {row_id: held for (of, row_id), held in self._newest.items() if of == tenant}
        missing = sum(not self._is_newest(found.get(row_id), versions) for row_id, versions in wanted.items())
        unfit = {bytes(version.row) for version in truth if not version.fits}
        due = {bytes(version.row) for version in truth if not version.fits and version.until is None}
        dead = self._dead[tenant]
        records = Counter[str]()
        for (of, row_id, _), times in self._versions.items():
            if of == tenant:
                records[row_id] += times
        own = {key: times for key, times in self._versions.items() if key[0] == tenant}
        repeated = sum(own.values()) - len(own) + dead.total() - len(dead)
        excess = sum(max(0, times - len(wanted.get(row_id, ()))) for row_id, times in records.items())
        return Verdict(
            served=len(wanted),
            published=len(found),
            revised=sum(times for (_, _, revision), times in own.items() if revision),
            dead_letters=dead.total(),
            missing=missing + len(due - dead.keys()),
            duplicated=max(repeated, excess + dead.total() - len(dead)) + len(dead.keys() - unfit),
        )

    def _row(self, entry: Entry) -> Arrival:
        row = self._decode(entry.value)
        tenant, row_id, revision = row["tenantId"], row["id"], row["revision"]
        self._versions[tenant, row_id, revision] += 1
        held = self._newest.get((tenant, row_id))
        if held is None or revision > held[0]:
            self._newest[tenant, row_id] = revision, entry.value
        self.published += 1
        self.revised += revision > 0
        return Arrival(tenant, row, self._decode(held[1]) if held is not None else None)

    def _dead_letter(self, entry: Entry) -> Arrival:
        tenant = entry.headers.get("tenant", b"").decode()
        self._dead[tenant][entry.value] += 1
        self.dead_letters += 1
        return Arrival(tenant, None, complaint=entry.headers.get(_MESSAGE, b"").decode())

    def _is_newest(self, held: tuple[int, bytes] | None, versions: Sequence[TruthRow]) -> bool:
        newest = max(versions, key=lambda version: version.version)
        return held is not None and _published(self._decode(held[1])) == _shown(bytes(newest.row))


_MESSAGE = "__connect.errors.exception.message"


def _published(row: dict[str, Any]) -> dict[str, Any]:
    fields = {name: _ms(value) if isinstance(value, datetime) else value for name, value in row.items()}
    unknown = {name: json.loads(text) for name, text in row["additionalProperties"].items()}
    known = {name: value for name, value in fields.items() if name not in _OWN}
    return {name: value for name, value in (known | unknown).items() if value is not None}


def _shown(row: bytes) -> dict[str, Any]:
    fields = {name: _instant(value) if name in _instants() else value for name, value in json.loads(row).items()}
    return {name: value for name, value in fields.items() if not name.startswith("@") and value is not None}


def _instant(text: str | None) -> int | None:
    match = _INSTANT.fullmatch(text or "")
    if match is None or match[1] == "0001-01-01T00:00:00":
        return None
    return _ms(datetime.fromisoformat(f"{match[1]}+00:00")) + int(f"{match[2] or ''}000"[:3])


def _ms(moment: datetime) -> int:
    return (moment - _EPOCH) // timedelta(milliseconds=1)


@cache
def _instants() -> frozenset[str]:
    fields = avro.load(avro.ROW)["fields"]
    return frozenset(field["name"] for field in fields if "timestamp-millis" in json.dumps(field["type"])) - _OWN
