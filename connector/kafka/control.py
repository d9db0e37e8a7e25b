"""Commands of operators on the control topic. They are JSON and keyed by the tenant.

A command is in the partition of the tenant's shard. Any client with the right to write to the topic can write anything.
A record that is not a valid command is ignored.
"""

import zlib
from datetime import datetime, timedelta
from typing import Literal, NamedTuple
from uuid import UUID

import msgspec

from connector.core import instants, jobs
from connector.core.coverage import Window
from connector.kafka.membership import ControlRecord

_LONGEST_BYTES = 4096


class TenantCommand(NamedTuple):
    """Command of an operator for one tenant. `tenant` is the tenant's id in lower case."""

    tenant: str
    order: jobs.Command


class _Record(msgspec.Struct, omit_defaults=True):
    id: str
    command: Literal["backfill", "cancel", "pause", "resume"]
    tenant: str
    filed: str
    window_from: str | None = msgspec.field(name="from", default=None)
    window_to: str | None = msgspec.field(name="to", default=None)
    again: bool = False
    job: str | None = None


def partition_of(tenant: str, shards: int) -> int:
    """Return the shard of a tenant, which is also the partition of its commands.

    It depends only on the tenant's id, without regard to case.
    """
    return zlib.crc32(tenant.lower().encode()) % shards


def encode(tenant: str, order: jobs.Command) -> bytes:
    """Encode a command as the value of a record. `tenant` is the id as spelled in the configuration."""
    window = order.window
    record = _Record(
        order.id,
        order.command,
        tenant,
        instants.text(order.filed),
        instants.text(window.start) if window else None,
        instants.text(window.end) if window else None,
        order.again,
        order.job or None,
    )
    return msgspec.json.encode(record)


def parse(command: ControlRecord) -> TenantCommand | None:
    """Decode a record of the control topic. Return None if it is not a command that this version knows."""
    if command.value is None or len(command.value) > _LONGEST_BYTES:
        return None
    try:
        record = msgspec.json.decode(command.value, type=_Record)
        order_id = str(UUID(record.id))
        filed = _instant(record.filed)
        window = None
        if record.command == "backfill":
            window = Window(_second(_instant(record.window_from or "")), _second(_instant(record.window_to or "")))
            if window.start >= window.end:
                return None
        job = str(UUID(record.job or "")) if record.command == "cancel" else ""
    except (msgspec.DecodeError, ValueError, OverflowError, RecursionError):
        return None
    return TenantCommand(
        record.tenant.lower(), jobs.Command(order_id, record.command, filed, window, record.again, job)
    )


def _instant(text: str) -> datetime:
    milliseconds = instants.parse_ms(text)
    if milliseconds is None:
        raise ValueError("the empty date")
    return instants.from_ms(milliseconds)


def _second(moment: datetime) -> datetime:
    return moment - timedelta(microseconds=moment.microsecond)
