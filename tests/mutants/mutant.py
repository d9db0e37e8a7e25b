"""What a mutant is."""

from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent.parent


class Mutant(NamedTuple):
    """`old` becomes `new`, once, in `file`; `test` (pytest arguments) must fail."""

    name: str
    file: str
    old: str
    new: str
    test: str
    broker: bool = False
    "Whether it takes a real broker to catch it: the fast tests (`FAST`) notice nothing."


FAST = "tests/unit --hypothesis-profile=quick --ignore=tests/unit/test_mutants.py"
"""What `make check` runs, but for the test that each mutant can be made: of one that was made it cannot."""


def stale(mutant: Mutant, root: Path = ROOT) -> str:
    """Why a mutant cannot be made; empty when it can."""
    count = (root / mutant.file).read_text(encoding="utf-8").count(mutant.old)
    return "" if count == 1 else f"{mutant.file} has {count} of {mutant.old!r}"
