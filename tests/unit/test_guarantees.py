"""docs/guarantees.md and SECURITY.md name only tests that exist."""

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parent.parent
PAGES = ("docs/guarantees.md", "SECURITY.md")
TEXTS = {page: (TESTS.parent / page).read_text(encoding="utf-8") for page in PAGES}
TEXT = "\n".join(TEXTS.values())
NAMED = re.findall(r"`((?:unit|property|contract|integration|e2e)/test_\w+\.py)`(?: `(test_\w+)`)?", TEXT)
CASES = re.findall(r"`((?:unit|property|contract|integration|e2e)/test_\w+\.py)` `(test_\w+)` \(`(\w+)`\)", TEXT)


def source(file: str) -> str:
    return (TESTS / file).read_text(encoding="utf-8")


@pytest.mark.parametrize(("file", "test"), sorted(set(NAMED)))
def test_guarantees_page_names_existing_tests(file: str, test: str) -> None:
    assert re.search(rf"def {test}\(" if test else r"def test_\w+\(", source(file))


@pytest.mark.parametrize(("file", "test", "case"), sorted(set(CASES)))
def test_guarantees_page_names_existing_test_cases(file: str, test: str, case: str) -> None:
    assert f'"{case}"' in source(file).split(f"def {test}(")[0].rpartition("\n\n\n")[2]


@pytest.mark.parametrize(("page", "least"), [("docs/guarantees.md", 6), ("SECURITY.md", 1)])
def test_every_row_of_the_guarantee_tables_names_a_test(page: str, least: int) -> None:
    tables = [part for part in re.split(r"^## ", TEXTS[page], flags=re.MULTILINE) if re.search(r"\| test \|\n", part)]
    assert len(tables) >= least
    for table in tables:
        rows = [
            line for line in table.splitlines() if line.startswith("| ") and not re.search(r"\| (test|---) \|$", line)
        ]
        assert rows
        assert [row for row in rows if not re.search(r"/test_\w+\.py`", row)] == []
