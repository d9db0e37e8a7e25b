"""Commands that wait until their tenant is read. The record of the shard keeps them.

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
    """Decode kept commands. A command that this version does not know is left out."""
    commands = (control.parse(ControlRecord(-1, None, text.encode())) for text in kept)
    return [one for one in commands if one is not None]


def pack(commands: Iterable[TenantCommand]) -> Kept:
    """Encode the newest of these commands, as many as fit into `MAX_BYTES`."""
    kept: list[str] = []
    size = 0
    for one in reversed(list(commands)):
        text = control.encode(one.tenant, one.order).decode()
        size += len(text.encode())
        if size > MAX_BYTES:
            break
        kept.append(text)
    return tuple(reversed(kept))
