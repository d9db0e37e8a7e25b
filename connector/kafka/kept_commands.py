"""Commands for tenants that a shard does not read: they are kept in its record until the tenant is read.

During a rolling deployment, a new tenant may belong to a worker that does not know it yet.
"""

from collections.abc import Iterable

from connector.kafka import control
from connector.kafka.control import Heard
from connector.kafka.membership import ControlRecord

MAX_BYTES = 16_384

Kept = tuple[str, ...]
"JSON of each command, oldest first."


def parse(kept: Kept) -> list[Heard]:
    """Return the commands, without any that this version does not know."""
    heard = (control.parse(ControlRecord(-1, None, text.encode())) for text in kept)
    return [one for one in heard if one is not None]


def pack(commands: Iterable[Heard]) -> Kept:
    """Return the newest of these commands that fit into `MAX_BYTES`."""
    kept: list[str] = []
    size = 0
    for one in reversed(list(commands)):
        text = control.encode(one.tenant, one.order).decode()
        size += len(text.encode())
        if size > MAX_BYTES:
            break
        kept.append(text)
    return tuple(reversed(kept))
