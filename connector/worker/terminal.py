"""Output for a person who runs the worker in a terminal: the page's address, and a line about the first rows."""

import asyncio
from collections.abc import Callable, Iterable
from typing import TextIO

from connector.config import Tenant
from connector.metrics.worker import Metrics

_LOOK_EVERY_S = 0.5
_ANYWHERE = ("", "0.0.0.0", "::")  # noqa: S104


def page_address(host: str, port: int) -> str:
    """Return the URL of the web page for a browser on this machine. `host` and `port` are where the worker listens."""
    name = "localhost" if host in _ANYWHERE else f"[{host}]" if ":" in host else host
    return f"http://{name}:{port}/"


async def greet(address: str, metrics: Metrics, tenants: Callable[[], Iterable[Tenant]], stream: TextIO) -> None:
    """Print the address of the page. When the first rows are published, print a line with their tenant and topic."""
    stream.write(f"Status page: {address}\n")
    stream.flush()
    while True:
        for tenant in tenants():
            activity = metrics.activity(tenant.label)
            if activity is not None and activity.rows_per_minute > 0:
                stream.write(f"The first rows are published: tenant {tenant.label}, topic {tenant.topic}.\n")
                stream.flush()
                return
        await asyncio.sleep(_LOOK_EVERY_S)
