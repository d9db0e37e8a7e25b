"""Commands for tenants that are not read yet. They are stored in the record of the shard.

A command can arrive too early: during a rolling deployment, the owner of the shard may not know a new tenant yet.
"""

from collections.abc import Iterable

from connector.kafka import control
from connector.kafka.control import TenantCommand
from connector.kafka.membership import ControlRecord

MAX_BYTES = 16_384

Kept = tuple[str, ...]
"JSON of each command, oldest first."


def parse(kept: Kept) -> list[TenantCommand]:
    """Decode stored commands, except commands that this version does not know."""
    commands = (control.parse(ControlRecord(-1, None, text.encode())) for text in kept)
    return [one for one in commands if one is not None]


def pack(commands: Iterable[TenantCommand]) -> Kept:
    """Encode commands for the record of the shard. If they exceed `MAX_BYTES`, the oldest are dropped."""
    kept: list[str] = []
    size = 0
    for one in reversed(list(commands)):
        text = control.encode(one.tenant, one.order).decode()
        size += len(text.encode())
        if size > MAX_BYTES:
            break
        kept.append(text)
    return tuple(reversed(kept))
