"""The AsyncAPI document of the topics, read by the official parser."""

import pytest

from tests import asyncapi
from tests.asyncapi_software import parse
from tests.default_topics import default_topics


def test_official_parser_accepts_the_asyncapi_document() -> None:
    parsed = parse(asyncapi.FILE.read_text(encoding="utf-8"))
    assert [problem for problem in parsed["problems"] if problem["severity"] <= 1] == []
    assert parsed["addresses"] == [topic.name for topic in default_topics()]


@pytest.mark.parametrize(
    ("right", "wrong"),
    [("action: send", "action: sent"), ("type: record", "type: recor"), ("partitions: 6", "partitions: six")],
)
def test_official_parser_refuses_an_invalid_asyncapi_document(right: str, wrong: str) -> None:
    text = asyncapi.FILE.read_text(encoding="utf-8")
    problems = parse(text.replace(right, wrong, 1))["problems"]
    assert any(problem["severity"] == 0 for problem in problems)
