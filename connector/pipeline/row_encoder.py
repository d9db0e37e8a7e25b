"""Encoder of row records. It masks, pseudonymizes or drops configured fields and encodes the rows.

It works column by column, because this is faster than row by row.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import repeat
from typing import Any

import msgspec

from connector import log
from connector.config import Tenant
from connector.core.privacy import Privacy
from connector.core.rows import InvalidRow, Row, RowSchema
from connector.kafka import avro
from connector.kafka.limits import LIMIT, Limits
from connector.kafka.publishing import Outgoing

ROW_MAX_BYTES = 900_000
"Maximum length of a row's JSON, even if its topic accepts longer records."
# A broker refuses a whole batch if the timestamp of one record is more than one hour ahead of its clock.
_AHEAD_MAX_MS = 55 * 60_000
_logger = log.get(__name__)
_Columns = dict[str, list[Any]]
_ColumnEncoder = Callable[[Sequence[Sequence[Any]]], list[bytes]]


# No object of the next two classes can be part of a reference cycle. The garbage collector need not track them.
class FoundRow(msgspec.Struct, frozen=True, gc=False):
    """Row that is going to be published."""

    at: int
    "Index of the row in its page."
    row: Row | InvalidRow
    raw: msgspec.Raw
    revision: int
    is_version: bool = True
    "False for a known row that is only published again. Its entry is already in the deduplication index."


class EncodedRow(msgspec.Struct, frozen=True, gc=False):
    """Record of a valid row, with the start and end of its call in epoch milliseconds."""

    record: Outgoing
    start_ms: int | None
    end_ms: int | None


class RowEncoder:
    """Encoder of rows: it makes the record of each row. Only one thread uses it."""

    def __init__(
        self, rows: Any, shape: RowSchema, schema_ids: Mapping[str, int] | None, limits: Limits | None = None
    ) -> None:
        """Create the encoder. `rows` is the section `rows` of the settings.

        `schema_ids` maps each topic to the id of its schema; it is None without a schema registry.
        """
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
        """Read the key for pseudonyms again. All following rows use the current key."""
        if not self._rows.privacy:
            return
        source = self._rows.pseudonym_key
        key = source.get() if source is not None else None
        if not self._privacy or key != self._key:
            self._key, self._privacy = key, Privacy(self._rows.privacy, key)
        problem = source.problem if source is not None else None
        if problem is not None and problem != self._key_problem:
            _logger.warning(
                "pseudonym_key_unreadable",
                reason=problem,
                remedy="restore the key file; the previous key is used until the file can be read",
            )
        self._key_problem = problem

    def dead_letter_value(self, row: InvalidRow) -> bytes:
        """Return the row's JSON for a dead letter, with configured fields masked, pseudonymized or dropped.

        The result is empty if the row is too long.
        """
        return b"" if row.is_too_long or len(row.raw) > ROW_MAX_BYTES else self._privacy.treat_row(row.raw)

    def encode(self, rows: Sequence[FoundRow], observed_ms: int, tenant: Tenant) -> list[EncodedRow | InvalidRow]:
        """Encode rows.

        The result has one element per row, in the same order: the record of the row, or an InvalidRow if the row cannot
        be encoded.
        """
        invalid = {at: one.row for at, one in enumerate(rows) if isinstance(one.row, InvalidRow)}
        if invalid:
            rows = [one for at, one in enumerate(rows) if at not in invalid]
        valid: list[Row] = [one.row for one in rows]  # type: ignore[misc]  # the invalid ones are left out
        return _put_back(invalid, self._encode_valid(valid, rows, observed_ms, tenant))

    def _encode_valid(
        self, valid: Sequence[Row], rows: Sequence[FoundRow], observed_ms: int, tenant: Tenant
    ) -> list[EncodedRow | InvalidRow]:
        """Encode rows whose members have the JSON types of the schema.

        A row becomes an InvalidRow if one of its instants cannot be parsed, or if it is too long.
        """
        raws = [one.raw for one in rows]
        columns, invalid = self._shape.resolve_columns(valid, raws)
        for at, raw in enumerate(raws):
            if memoryview(raw).nbytes > ROW_MAX_BYTES and at not in invalid:
                problem = f"row: longer than {ROW_MAX_BYTES} bytes"
                invalid[at] = _too_long(rows[at], problem, columns["startDateTime"][at])
        if invalid:
            left = [at for at in range(len(rows)) if at not in invalid]
            columns = {name: [column[at] for at in left] for name, column in columns.items()}
            valid, rows = [valid[at] for at in left], [rows[at] for at in left]
        return _put_back(invalid, self._encode_columns(columns, valid, rows, observed_ms, tenant))

    def _encode_columns(
        self, columns: _Columns, valid: Sequence[Row], rows: Sequence[FoundRow], observed_ms: int, tenant: Tenant
    ) -> list[EncodedRow | InvalidRow]:
        """Encode rows whose values are in `columns`. A row whose record is too long becomes an InvalidRow."""
        starts_ms, ends_ms = columns["startDateTime"], columns["endDateTime"]
        if self._privacy:
            self._privacy.treat(columns)
        columns |= {
            "tenantId": [tenant.id] * len(rows),
            "observedDateTime": [observed_ms] * len(rows),
            "revision": [one.revision for one in rows],
            "additionalProperties": self._unknown(valid),
        }
        names = [name or row.id for name, row in zip(columns[self._rows.key], valid, strict=True)]
        keys = list(map(str.encode, names))
        values = self._encoder(tenant.topic)([columns[name] for name in self._fields])
        stamps = self._stamps(starts_ms, observed_ms)
        records = map(Outgoing, repeat(tenant.topic), keys, values, repeat(-1), stamps)
        encoded: list[EncodedRow | InvalidRow] = list(map(EncodedRow, records, starts_ms, ends_ms))
        # Only keys and values are measured, because a row record has no headers.
        lengths = list(map(int.__add__, map(len, keys), map(len, values)))
        room = self._limits.room(tenant.topic)
        if max(lengths, default=0) > room:
            problem = f"row: longer than topic {tenant.topic} accepts ({LIMIT}={self._limits.of(tenant.topic)})"
            for at, length in enumerate(lengths):
                if length > room:
                    encoded[at] = _too_long(rows[at], problem, starts_ms[at])
        return encoded

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


def _too_long(found: FoundRow, problem: str, start_ms: int | None) -> InvalidRow:
    return InvalidRow(bytes(found.raw), found.row.id, problem, start_ms, is_too_long=True)


def _put_back(
    invalid: Mapping[int, InvalidRow], encoded: list[EncodedRow | InvalidRow]
) -> list[EncodedRow | InvalidRow]:
    """Insert the invalid rows into `encoded`, and return the result.

    The keys of `invalid` are the indices of the invalid rows in the result.
    """
    if not invalid:
        return encoded
    rest = iter(encoded)
    return [invalid[at] if at in invalid else next(rest) for at in range(len(encoded) + len(invalid))]
