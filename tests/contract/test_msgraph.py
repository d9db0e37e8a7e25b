"""The simulator compared with Microsoft's SDK and with the page that Microsoft publishes as an example."""

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from connector.core.pages import decode_page
from connector.simulator import Options, Simulator
from tests import environments
from tests.workers import ROOT

PAGE = ROOT / "tests" / "data" / "page-first.json"
"Microsoft's published sample page, to which a failed call was added."
READER = ROOT / "tests" / "reading_with_msgraph.py"
NOON = datetime(2026, 3, 4, 12, tzinfo=UTC)
DAY = timedelta(days=1)
DEADLINE_S = 240.0


@pytest.fixture
async def simulator() -> AsyncIterator[Simulator]:
    options = Options(calls_per_day=500, days=3, page_size=100, requests_per_minute=0, revised=0.1)
    async with Simulator(options, lambda: NOON) as simulator:
        yield simulator


@pytest.fixture(scope="module")
def python() -> Path:
    """Return the interpreter that has Microsoft's packages."""
    return environments.python("msgraph")


async def read(python: Path, simulator: Simulator, start: str, end: str) -> tuple[int, list[dict[str, Any]], str]:
    """Return the exit code, the rows and the problem of a process that reads a range with Microsoft's packages."""
    of_simulator = (simulator.url, str(simulator.ca_path), simulator.tenants[0])
    arguments = (*of_simulator, simulator.client_id, simulator.client_secret, start, end)
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(python, READER, *arguments, stdout=pipe, stderr=pipe)
    try:
        async with asyncio.timeout(DEADLINE_S):
            rows, problem = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode is not None
    return process.returncode, [json.loads(line) for line in rows.splitlines()], problem.decode()


def comparable(row: dict[str, Any]) -> dict[str, Any]:
    """Return the members of a row as the SDK writes them: without nulls, and with instants in its own format."""
    return {
        name: datetime.fromisoformat(value) if name.endswith("DateTime") else value
        for name, value in row.items()
        if value is not None
    }


async def test_microsoft_sdk_reads_every_row_of_the_simulator(python: Path, simulator: Simulator) -> None:
    code, rows, problem = await read(python, simulator, f"{NOON - DAY:%Y-%m-%dT%XZ}", f"{NOON:%Y-%m-%dT%XZ}")
    assert code == 0, problem
    last = [row for row in simulator.truth(start=NOON - DAY, end=NOON) if row.until is None]
    truth = [comparable(json.loads(bytes(row.row))) for row in last]
    assert {row["id"]: comparable(row) for row in rows} == {row["id"]: row for row in truth}
    assert len(rows) == len(truth) > 400
    pages = [request.rows for request in simulator.requests if request.kind == "graph"]
    assert pages == [100] * (len(rows) // 100) + [len(rows) % 100]


async def test_simulator_refuses_the_url_that_the_sdk_builds(python: Path, simulator: Simulator) -> None:
    """The SDK writes `+00:00` instead of `Z` and omits the comma between the arguments.

    Other tests build the URL themselves.
    """
    code, rows, problem = await read(python, simulator, (NOON - DAY).isoformat(), NOON.isoformat())
    assert (code, rows) == (1, [])
    assert "400 BadRequest" in problem
    link = next(request.url for request in simulator.requests if request.kind == "graph")
    assert "2026-03-03T12%3A00%3A00%2B00%3A00" in link


async def test_simulated_rows_have_the_members_of_microsofts_sample(simulator: Simulator) -> None:
    sample = [json.loads(bytes(row)) for row in decode_page(PAGE.read_bytes()).rows]
    types = {name: {type(row[name]) for row in sample} | {type(None)} for name in sample[0]}
    rows = [json.loads(bytes(row.row)) for row in simulator.truth(start=NOON - DAY, end=NOON)]
    assert {row["successfulCall"] for row in rows} == {True, False}
    data = [{name: value for name, value in row.items() if not name.startswith("@")} for row in rows]
    assert {frozenset(row) for row in data} >= {frozenset(types)}
    for row in data:
        assert list(row) == [name for name in types if name in row]
        assert [name for name, value in row.items() if type(value) not in types[name]] == []
