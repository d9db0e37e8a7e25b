"""Support-case file: a JSON document that is written request by request, so that rows do not fill the memory."""

import json
import os
from pathlib import Path
from typing import Any, Self

from connector.commands.case_redaction import Redaction, visible_error_code, visible_headers
from connector.core import instants
from connector.core.pages import NotAPageError, Page, decode_page
from connector.errors import ConfigurationError, FatalError
from connector.graph.exchange import OK
from connector.graph.recording import RecordedRequest

_OWNER_ONLY = 0o600


class CaseFile:
    """Support-case file that only its owner can read (mode 0600).

    On exit from the context manager, the file is deleted unless `finish` was called.
    """

    def __init__(self, path: Path, redaction: Redaction) -> None:
        """Create the file. Raise ConfigurationError if it exists, or if it cannot be created."""
        self.path = path
        self.requests = 0
        self._redaction = redaction
        self._is_finished = False
        try:
            number = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _OWNER_ONLY)
        except FileExistsError:
            raise ConfigurationError([f"--output: {path} exists and is not overwritten; choose another name"]) from None
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or "the name is not valid"
            raise ConfigurationError([f"--output: {path} cannot be created ({why}); choose another file"]) from None
        self._file = os.fdopen(number, "w", encoding="utf-8")
        self._write('{"requests": [')

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._file.close()
        except OSError as error:
            raise self._unwritable(error) from error
        finally:
            if not self._is_finished:
                self.path.unlink(missing_ok=True)

    def add(self, request: RecordedRequest) -> None:
        """Append a request with its response and the rows of the response. Raise FatalError if that fails."""
        self._write(f"{',' if self.requests else ''}\n{json.dumps(self._described(request))}")
        self.requests += 1

    def finish(self, summary: dict[str, Any]) -> None:
        """Complete the document with its summary. Raise FatalError if that fails."""
        self._write(f'\n],\n"summary": {json.dumps(summary, indent=1)}}}\n')
        try:
            self._file.flush()
        except OSError as error:
            raise self._unwritable(error) from error
        self._is_finished = True

    def _write(self, text: str) -> None:
        try:
            self._file.write(text)
        except OSError as error:
            raise self._unwritable(error) from error

    def _unwritable(self, error: OSError) -> FatalError:
        return FatalError(f"{self.path} cannot be written", f"{error.strerror}; choose another place with --output")

    def _described(self, request: RecordedRequest) -> dict[str, Any]:
        response = request.response
        described: dict[str, Any] = {
            "method": "GET",
            "path": self._redaction.path(request.url),
            "query": self._redaction.query(request.url),
            "client_request_id": request.client_request_id,
            "sent_at": instants.text(request.sent_at),
            "duration_ms": request.duration_ms,
            "failure": request.failure or None,
            "status": None,
        }
        if response is None:
            return described
        page = _page(response.body) if response.status == OK else None
        return described | {
            "status": response.status,
            "error_code": None if page else visible_error_code(response.body),
            "headers": visible_headers(response.headers),
            "body_bytes": len(response.body),
            "has_next_link": page.next_link is not None if page else None,
            "row_count": len(page.rows) if page else None,
            "rows": [self._redaction.row(bytes(row)) for row in page.rows] if page else None,
        }


def _page(body: bytes) -> Page | None:
    try:
        return decode_page(body)
    except NotAPageError:
        return None
