"""Order in which the tests of a run start."""

from pathlib import Path

from tests import durations


def test_longest_tests_start_first() -> None:
    tests = [("a", "", False), ("b", "g", False), ("c", "", False), ("d", "g", True), ("e", "", True), ("f", "", False)]
    known = {"a": 6.0, "b": 3.0, "c": 7.0}
    # The group lasts 8 s with its test on a broker, which was never measured.
    assert durations.longest_first(tests, known) == [1, 3, 2, 0, 4, 5]


def test_lanes_have_almost_equal_durations() -> None:
    assert durations.balanced({"a": 1.0, "b": 5.0, "c": 3.0, "d": 3.0}, 2) == {"b": 0, "c": 1, "d": 1, "a": 0}


def test_measured_test_durations_replace_stored_ones(tmp_path: Path) -> None:
    file = tmp_path / "durations.json"
    durations.keep({"a": 3.04, "b": 2.0, "short": 0.9}, file)
    durations.keep({"b": 5.0, "c": 1.0}, file)
    assert durations.load(file) == {"a": 3.0, "b": 5.0, "c": 1.0}


def test_xdist_group_suffix_is_removed_from_test_names() -> None:
    name = "tests/unit/test_a.py::test_b[user@example.org]"
    assert durations.without_group(name) == name
    for group in ("several_java", "java-1", "tests/e2e/test_c.py"):
        assert durations.without_group(f"{name}@{group}") == name
