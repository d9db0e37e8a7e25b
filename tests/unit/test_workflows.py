"""CI workflows may only call make targets that exist."""

from tests import workflows

MAKEFILE = "check: dev ## Check\n\t@true\n"


def test_workflow_with_an_unknown_make_target_is_reported() -> None:
    steps = "steps:\n  - run: make check\n  - run: make chek\n"
    assert workflows.unknown_targets([steps], MAKEFILE) == {"chek"}


def test_workflow_with_known_make_targets_is_accepted() -> None:
    assert workflows.unknown_targets(["steps:\n  - run: make check PYTHON=python3.13\n"], MAKEFILE) == set()
