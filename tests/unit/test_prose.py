"""The documentation and the docstrings use plain English and short lines, and the check finds violations."""

from functools import cache

import pytest

from tests import prose


def test_documentation_contains_no_unusual_words() -> None:
    texts = list(prose.pages())

    assert 1000 * len(prose.dialect(texts)) / prose.words(texts) < 1


@cache
def docstrings() -> list[prose.Text]:
    return list(prose.docstrings("connector", "benchmarks", "examples", "deploy", "tests"))


def test_docstrings_contain_no_unusual_words() -> None:
    texts = docstrings()

    assert 1000 * len(prose.dialect(texts)) / prose.words(texts) < 1


def test_docstrings_start_with_a_verb() -> None:
    texts = [text for text in docstrings() if not text.file.startswith("tests/")]

    assert [(text.file, text.line) for text in prose.nominal(texts)] == []


def test_documentation_contains_no_long_line() -> None:
    assert {name: found for name, text in prose.markdown() if (found := prose.long_lines(text))} == {}


@pytest.mark.parametrize(
    ("line", "is_found"),
    [
        ("word " * 20, False),
        ("word " * 20 + ".", True),
        ("| " + "cell " * 50 + "|", False),
        ("| " + "cell " * 60 + "|", True),
        ("![" + "alternative text " * 10 + "](picture.png)", False),
        ("See [" + "a link inside of text " * 10 + "](page.md)", True),
        ("```\n" + "code " * 50 + "\n```", False),
        ("```\n" + "code " * 61 + "\n```", True),
        ("```\ncode\n```\n" + "word " * 21, True),
    ],
)
def test_line_check_finds_planted_long_lines(line: str, is_found: bool) -> None:  # noqa: FBT001
    assert bool(prose.long_lines(line)) is is_found


def test_prose_check_finds_planted_violations() -> None:
    planted = prose.Text("planted.py", 7, "What a page says.\n\nIt is mended amid a run.", is_docstring=True)

    assert prose.nominal([planted]) == [planted]
    assert [(line, word) for _, line, word in prose.dialect([planted])] == [(9, "mended"), (9, "amid")]
