"""Dead letters: records for rows that cannot be published. Each part of a dead letter has a size limit."""

from connector.core import instants
from connector.core.coverage import Window
from connector.core.rows import InvalidRow
from connector.kafka import topics
from connector.kafka.limits import LIMIT, Limits, size
from connector.kafka.publishing import Outgoing

_MAX_KEY_BYTES = 1_024
_MAX_PROBLEM_BYTES = 1_024
_PROBLEM = "__connect.errors.exception.message"


def dead_letter(
    row: InvalidRow, value: bytes, topic: str, tenant: str, window: Window, observed_ms: int, limits: Limits
) -> Outgoing:
    """Return the dead letter of an invalid or rejected row of `topic`.

    `value` is the row's JSON, in which the configured fields are already masked, pseudonymized or dropped.

    If the dead letter is too long for its topic, parts are left out until it fits: first the value, then the key if it
    is long, then any key, then headers.
    """
    name = topics.dead_letters(topic)
    key = row.id.encode() if row.id else None
    problem = row.problem.encode()[:_MAX_PROBLEM_BYTES].decode(errors="ignore")
    error = b"connector.RowConflict" if row.is_conflict else b"connector.RowDoesNotFit"
    headers = [
        ("__connect.errors.topic", topic.encode()),
        ("__connect.errors.exception.class.name", error),
        (_PROBLEM, problem.encode()),
        ("tenant", tenant.encode()),
        ("window.from", instants.text(window.start).encode()),
        ("window.to", instants.text(window.end).encode()),
    ]
    record = Outgoing(name, key, value, timestamp_ms=observed_ms, headers=headers)
    if not row.is_too_long and size(record) <= limits.room(name):
        return record
    if value:
        problem += f"; the value is left out: topic {name} accepts {limits.of(name)} bytes ({LIMIT})"
    headers[2] = _PROBLEM, problem.encode()
    record = record._replace(value=b"")
    if key is not None and len(key) > _MAX_KEY_BYTES:
        record = record._replace(key=None)
    smaller = (
        record,
        record._replace(key=None),
        record._replace(key=None, headers=headers[2:4]),
        record._replace(key=None, headers=headers[3:4]),
        record._replace(key=None, headers=[]),
    )
    return next((one for one in smaller if size(one) <= limits.room(name)), smaller[-1])
