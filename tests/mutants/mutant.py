"""Type of a mutant, and the check that a mutant fits the code."""

from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent.parent


class Mutant(NamedTuple):
    """Change of `old` to `new` at one place of `file`, which must make `test` (pytest arguments) fail."""

    name: str
    file: str
    old: str
    new: str
    test: str
    broker: bool = False
    "True if only a real broker catches it: the fast tests (`FAST`) do not notice it."


FAST = "tests/unit --hypothesis-profile=quick --ignore=tests/unit/test_mutants.py"
"Tests that `make check` runs, except the test of the mutants themselves, which fails with any mutant applied."


def stale(mutant: Mutant, root: Path = ROOT) -> str:
    """Return why a mutant does not fit the code; empty when it fits."""
    count = (root / mutant.file).read_text(encoding="utf-8").count(mutant.old)
    return "" if count == 1 else f"{mutant.file} has {count} of {mutant.old!r}"
