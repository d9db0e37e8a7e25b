"""Check of the addresses that brokers advertise.

A client uses the bootstrap address only for its first request, and the advertised addresses for all others.
"""

import socket
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

_CONNECT_S = 5.0
_AT_ONCE = 32
REMEDY = (
    "check that advertised.listeners of each broker has an address that this machine can resolve and reach, "
    "for the listener of kafka.bootstrap_servers"
)


class Address(NamedTuple):
    """Host and port that a broker advertises."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def unreachable(brokers: Mapping[int, Address]) -> list[str]:
    """Try to connect to the advertised address of each broker. Return one sentence per broker that cannot be reached.

    Blocks for seconds.
    """
    if not brokers:
        return []
    numbers = sorted(brokers)
    with ThreadPoolExecutor(min(_AT_ONCE, len(brokers)), thread_name_prefix="advertised address") as pool:
        reasons = pool.map(_failure, [brokers[number] for number in numbers])
    return [
        f"broker {number} advertises {brokers[number]}, which cannot be reached: {reason}"
        for number, reason in zip(numbers, reasons, strict=True)
        if reason is not None
    ]


def _failure(address: Address) -> str | None:
    try:
        socket.create_connection(address, timeout=_CONNECT_S).close()
    except TimeoutError:
        return f"no answer within {_CONNECT_S:g} s"
    except (OSError, UnicodeError) as error:
        return getattr(error, "strerror", None) or str(error)
    return None
