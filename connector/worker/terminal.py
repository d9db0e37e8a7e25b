"""Lines for a person who runs the worker on a terminal: the page's address, and the first rows."""

import asyncio
from collections.abc import Callable, Iterable
from typing import TextIO

from connector.config import Tenant
from connector.metrics.worker import Metrics

_LOOK_EVERY_S = 0.5
_ANYWHERE = ("", "0.0.0.0", "::")  # noqa: S104


def page_address(host: str, port: int) -> str:
    """Return the page's address as a browser on this machine takes it."""
    name = "localhost" if host in _ANYWHERE else f"[{host}]" if ":" in host else host
    return f"http://{name}:{port}/"


async def greet(address: str, metrics: Metrics, tenants: Callable[[], Iterable[Tenant]], stream: TextIO) -> None:
    """Write the page's address, then a line when the first rows are published."""
    stream.write(f"The page: {address}\n")
    stream.flush()
    while True:
        for tenant in tenants():
            activity = metrics.activity(tenant.label)
            if activity is not None and activity.rows_per_minute > 0:
                stream.write(f"The first rows are published: tenant {tenant.label}, topic {tenant.topic}.\n")
                stream.flush()
                return
        await asyncio.sleep(_LOOK_EVERY_S)
