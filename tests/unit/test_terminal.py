"""Lines of `connector run` on a terminal."""

import asyncio
import io
from datetime import timedelta

import pytest

from connector.config import Identity, Tenant
from connector.metrics.worker import Metrics
from connector.worker import terminal

TENANT = Tenant("AA", "aa", "contoso", "contoso", Identity(None, None), -timedelta(days=1), 45, "calls")


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("0.0.0.0", "http://localhost:9464/"),  # noqa: S104
        ("", "http://localhost:9464/"),
        ("::1", "http://[::1]:9464/"),
        ("worker.example", "http://worker.example:9464/"),
    ],
)
def test_terminal_shows_a_page_address_that_browsers_accept(host: str, address: str) -> None:
    assert terminal.page_address(host, 9464) == address


async def test_terminal_shows_the_page_address_and_the_first_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terminal, "_LOOK_EVERY_S", 0)
    metrics, stream = Metrics("1", 8, lambda: 1_000.0), io.StringIO()
    series = metrics.tenant("contoso", ["1m"])
    greeting = asyncio.create_task(terminal.greet("http://localhost:9464/", metrics, lambda: [TENANT], stream))
    for _ in range(3):  # turns of the event loop in which only the address may be printed
        await asyncio.sleep(0)
    assert stream.getvalue() == "Status page: http://localhost:9464/\n"

    series.rows_committed(published=5)
    await asyncio.wait_for(greeting, 5)

    assert stream.getvalue().splitlines()[1:] == ["The first rows are published: tenant contoso, topic calls."]
