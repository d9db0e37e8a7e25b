"""Implementation of `connector support-case`: it reads a range of call time once and writes a support-case file.

The file is created before Graph is contacted. If the read fails, the file holds the requests up to the failure, because
Microsoft's support needs them.
"""

import asyncio
import sys
from collections.abc import Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

import msgspec

from connector import __version__
from connector.commands import arguments
from connector.commands.case_file import CaseFile
from connector.commands.case_redaction import Redaction
from connector.commands.range_reading import progress_screen, read_pages
from connector.config import Settings, Tenant
from connector.core import instants
from connector.core.coverage import Window
from connector.errors import FatalError, PermanentError, SourceError, TransientError
from connector.graph.client import GraphClient
from connector.graph.source_events import NoEvents
from connector.kafka import avro


def write(
    config: Path | None, tenant: str, begin: str, end: str, output: Path | None, requests_per_minute: float
) -> None:
    """Read the range, write the file and print its name. Raise FatalError if the range was not read completely."""
    settings, chosen, window = arguments.read_graph_range(config, tenant, begin, end, requests_per_minute, required=())
    path = output or Path(f"support-case-{chosen.key}-{window.start:%Y%m%dT%H%M%SZ}.json")
    redaction = Redaction(avro.load(avro.ROW))
    summary = _Summary(chosen, window, redaction)
    with CaseFile(path, redaction) as file:
        error = asyncio.run(_read(settings, chosen, window, file, summary))
        if error is not None and not file.requests:
            raise FatalError(str(error)) from error
        file.finish(summary.content(error))
    if error is not None:
        raise FatalError(
            f"{error} The range was not read completely; {path} holds the requests up to the error"
        ) from error
    sys.stdout.write(f"{path}: requests: {file.requests}, pages: {summary.pages}, rows: {summary.rows}\n")


async def _read(
    settings: Settings, tenant: Tenant, window: Window, file: CaseFile, summary: "_Summary"
) -> SourceError | None:
    """Read the range, and fill the file and the summary. Return the error that ended the read early, or None."""
    async with GraphClient(settings.graph, record=file.add) as graph:
        source = graph.source(tenant, NoEvents())
        try:
            with progress_screen(window) as show:
                async with aclosing(read_pages(source, window, settings.windows.slice, show)) as pages:
                    async for _, page in pages:
                        summary.add(page.rows)
        except SourceError as error:
            return error
        finally:
            await source.close()
    return None


class _Summary:
    """Summary of the pages that were read."""

    def __init__(self, tenant: Tenant, window: Window, redaction: Redaction) -> None:
        self.pages = self.rows = 0
        self._tenant = tenant
        self._window = window
        self._redaction = redaction
        self._ids: dict[str, None] = {}
        self._first: tuple[int, str] | None = None
        self._last: tuple[int, str] | None = None

    def add(self, rows: Sequence[msgspec.Raw]) -> None:
        """Count the rows of one page, and store their ids and the first and the last call start."""
        self.pages += 1
        self.rows += len(rows)
        for raw in rows:
            row_id, start = self._redaction.values(bytes(raw), "id", "startDateTime")
            self._add_start(start)
            if isinstance(row_id, str) and row_id:
                self._ids[row_id] = None

    def _add_start(self, text: object) -> None:
        try:
            began_ms = instants.parse_ms(text) if isinstance(text, str) else None
        except ValueError:
            return
        if isinstance(text, str) and began_ms is not None:
            began = began_ms, text
            self._first, self._last = min(self._first or began, began), max(self._last or began, began)

    def content(self, error: SourceError | None) -> dict[str, Any]:
        """Return the summary as a JSON object. `error` is the error that ended the read early, or None."""
        return {
            "connector_version": __version__,
            "tenant": self._tenant.id,
            "from": instants.text(self._window.start),
            "to": instants.text(self._window.end),
            "complete": error is None,
            "failure": _failure(error),
            "pages": self.pages,
            "rows": self.rows,
            "first_start": self._first[1] if self._first else None,
            "last_start": self._last[1] if self._last else None,
            "ids": list(self._ids),
        }


def _failure(error: SourceError | None) -> str | None:
    """Return the reason for an error as one word without any text of the response. Return None if there is no error."""
    if isinstance(error, TransientError | PermanentError):
        return error.reason
    return None if error is None else "range_too_long"
