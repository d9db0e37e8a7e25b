"""The documentation and the docstrings use plain English, and the check finds violations."""

from tests import prose


def test_documentation_contains_no_unusual_words() -> None:
    texts = list(prose.pages())

    assert 1000 * len(prose.dialect(texts)) / prose.words(texts) < 1


def test_docstrings_contain_no_unusual_words() -> None:
    texts = list(prose.docstrings("connector", "benchmarks", "examples", "deploy", "tests"))

    assert 1000 * len(prose.dialect(texts)) / prose.words(texts) < 1


def test_docstrings_start_with_a_verb() -> None:
    texts = list(prose.docstrings("connector", "benchmarks", "examples", "deploy"))

    assert [(text.file, text.line) for text in prose.nominal(texts)] == []


def test_prose_check_finds_planted_violations() -> None:
    planted = prose.Text("planted.py", 7, "What a page says.\n\nIt is mended amid a run.", is_docstring=True)

    assert prose.nominal([planted]) == [planted]
    assert [(line, word) for _, line, word in prose.dialect([planted])] == [(9, "mended"), (9, "amid")]
