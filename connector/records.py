"""Records of the row topic, made from rows: values are resolved, treated for privacy and encoded column by column."""

from collections.abc import Callable, Mapping, Sequence
from itertools import repeat
from typing import Any, NamedTuple

import msgspec

from connector import log
from connector.config import Tenant
from connector.core.privacy import Privacy
from connector.core.rows import InvalidRow, Row, RowSchema
from connector.kafka import avro
from connector.kafka.limits import LIMIT, Limits
from connector.kafka.publishing import Outgoing

ROW_MAX_BYTES = 900_000
"Limit for the JSON of a row, even if its topic accepts more."
# A broker refuses a whole batch if the timestamp of one record is more than one hour ahead of its clock.
_AHEAD_MAX_MS = 55 * 60_000
_logger = log.get(__name__)
_ColumnEncoder = Callable[[Sequence[Sequence[Any]]], list[bytes]]


class Made(NamedTuple):
    """Records made from rows, and the rows that have none.

    Index i of `at`, `records`, `starts_ms` and `ends_ms` belongs to the same row.
    """

    at: list[int]
    "Index of the row in the list that was passed in."
    records: list[Outgoing]
    starts_ms: list[int | None]
    ends_ms: list[int | None]
    unfit: list[InvalidRow]
    "Rows that have no record because they are invalid."


class RowRecords:
    """Builder of row records, for use in one thread."""

    def __init__(
        self, rows: Any, shape: RowSchema, schema_ids: Mapping[str, int] | None, limits: Limits | None = None
    ) -> None:
        """`rows` is the `rows` section of the settings. `schema_ids` is per topic, None without a schema registry."""
        self._rows = rows
        self._shape = shape
        self._schema_ids = schema_ids
        self._limits = limits or Limits()
        self._fields = [field["name"] for field in avro.load(avro.ROW)["fields"]]
        self._encoders: dict[str, _ColumnEncoder] = {}
        self._key: bytes | None = None
        self._key_problem: str | None = None
        self._privacy = Privacy({}, None)

    def renew_privacy(self) -> None:
        """Load the current key of the pseudonyms and use it for the following rows."""
        if not self._rows.privacy:
            return
        source = self._rows.pseudonym_key
        key = source.get() if source is not None else None
        if not self._privacy or key != self._key:
            self._key, self._privacy = key, Privacy(self._rows.privacy, key)
        problem = source.problem if source is not None else None
        if problem is not None and problem != self._key_problem:
            _logger.warning("pseudonym_key_not_read", reason=problem, remedy="the key before it is used until then")
        self._key_problem = problem

    def dead_letter_value(self, row: InvalidRow) -> bytes:
        """Return the value of a row's dead letter: its JSON after privacy, or nothing if it is too long."""
        return b"" if row.is_too_long or len(row.raw) > ROW_MAX_BYTES else self._privacy.treat_row(row.raw)

    def make(
        self, rows: Sequence[Row], raws: Sequence[msgspec.Raw], revisions: list[int], observed_ms: int, tenant: Tenant
    ) -> Made:
        """Return the records of valid rows, and the invalid rows with a description of the problem."""
        made = self._encode(rows, raws, revisions, observed_ms, tenant)
        return self._without_long(made, rows, raws)

    def _without_long(self, made: Made, rows: Sequence[Row], raws: Sequence[msgspec.Raw]) -> Made:
        """Return `made` without the records that are too long for their topic; their rows become invalid.

        Only keys and values are measured, because a row record has no headers.
        """
        records = made.records
        if not records:
            return made
        topic = records[0].topic
        room = self._limits.room(topic)
        sizes = [len(record.key or b"") + len(record.value or b"") for record in records]
        if max(sizes) <= room:
            return made
        problem = f"row: longer than topic {topic} takes ({LIMIT}={self._limits.of(topic)})"
        unfit = [
            InvalidRow(bytes(raws[at]), rows[at].id, problem, start, is_too_long=True)
            for at, start, length in zip(made.at, made.starts_ms, sizes, strict=True)
            if length > room
        ]
        kept = [index for index, length in enumerate(sizes) if length <= room]
        return Made(
            [made.at[index] for index in kept],
            [records[index] for index in kept],
            [made.starts_ms[index] for index in kept],
            [made.ends_ms[index] for index in kept],
            made.unfit + unfit,
        )

    def _encode(
        self, rows: Sequence[Row], raws: Sequence[msgspec.Raw], revisions: list[int], observed_ms: int, tenant: Tenant
    ) -> Made:
        columns, problems = self._shape.resolve_columns(rows, raws)
        for index, raw in enumerate(raws):
            if memoryview(raw).nbytes > ROW_MAX_BYTES and index not in problems:
                problem = f"row: longer than {ROW_MAX_BYTES} bytes"
                problems[index] = InvalidRow(
                    bytes(raw), rows[index].id, problem, columns["startDateTime"][index], is_too_long=True
                )
        at = list(range(len(rows)))
        unfit = [problems[index] for index in sorted(problems)]
        if unfit:
            at = [index for index in at if index not in problems]
            columns = {name: [column[index] for index in at] for name, column in columns.items()}
            rows, revisions = [rows[index] for index in at], [revisions[index] for index in at]
        starts_ms = columns["startDateTime"]
        if self._privacy:
            self._privacy.treat(columns)
        columns |= {
            "tenantId": [tenant.id] * len(at),
            "observedDateTime": [observed_ms] * len(at),
            "revision": revisions,
            "additionalProperties": self._unknown(rows),
        }
        names = [name or row.id for name, row in zip(columns[self._rows.key], rows, strict=True)]
        values = self._encoder(tenant.topic)([columns[name] for name in self._fields])
        stamps = self._stamps(starts_ms, observed_ms)
        records = list(map(Outgoing, repeat(tenant.topic), map(str.encode, names), values, repeat(-1), stamps))
        return Made(at, records, starts_ms, columns["endDateTime"], unfit)

    def _unknown(self, rows: Sequence[Row]) -> list[Mapping[str, str]]:
        if self._rows.additional_properties != "keep":
            return [{}] * len(rows)
        if self._privacy:
            return [self._privacy.treat_members(row.unknown) if row.unknown else {} for row in rows]
        return [row.unknown for row in rows]

    def _stamps(self, starts_ms: list[int | None], observed_ms: int) -> list[int]:
        if self._rows.timestamp != "event":
            return [observed_ms] * len(starts_ms)
        latest = observed_ms + _AHEAD_MAX_MS
        return [start if start is not None and 0 < start <= latest else observed_ms for start in starts_ms]

    def _encoder(self, topic: str) -> _ColumnEncoder:
        encode = self._encoders.get(topic)
        if encode is None:
            written_as = None if self._schema_ids is None else self._schema_ids[topic]
            encode = self._encoders[topic] = avro.column_encoder(avro.ROW, written_as)
        return encode
