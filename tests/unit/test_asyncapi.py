"""The AsyncAPI document is current, and lists what the code writes."""

from datetime import UTC, datetime

from connector.core.coverage import Window
from connector.core.rows import InvalidRow
from connector.kafka.limits import Limits
from connector.pipeline.dead_letters import dead_letter
from tests import asyncapi


def test_asyncapi_document_matches_the_code() -> None:
    assert asyncapi.FILE.read_text(encoding="utf-8") == asyncapi.text(), "run make docs"


def test_asyncapi_document_lists_the_headers_of_dead_letters() -> None:
    window = Window(datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 2, tzinfo=UTC))
    row = InvalidRow(b"{}", "a", "id is missing", None)
    letter = dead_letter(row, b"{}", "calls", "tenant", window, 0, Limits())
    headers = asyncapi.document()["components"]["messages"]["deadLetters"]["headers"]["properties"]
    assert list(headers) == [name for name, _ in letter.headers or ()]
