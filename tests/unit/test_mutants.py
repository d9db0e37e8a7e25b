"""The list of mutants matches the code. `make mutants` applies them and runs their tests."""

import re
import shlex
from collections import Counter

import pytest

from tests.mutants import MUTANTS
from tests.mutants.mutant import ROOT, Mutant, stale


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_each_mutant_matches_the_code_and_names_a_test(mutant: Mutant) -> None:
    assert not stale(mutant)
    assert mutant.new != mutant.old
    file, *selection = shlex.split(mutant.test)
    source = (ROOT / file).read_text(encoding="utf-8")
    selected = selection[1].split(" or ") if selection else []
    assert all(re.search(rf"(def|class|ids=.*) ?[\"(\[]*{word}", source) for word in selected), selected


def test_no_two_mutants_are_equal() -> None:
    assert len(MUTANTS) >= 25
    assert sum(mutant.broker for mutant in MUTANTS) >= 10
    assert max(Counter(mutant.name for mutant in MUTANTS).values()) == 1
