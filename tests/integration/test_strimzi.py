"""The resources for Strimzi, read by the Java classes from which Strimzi generates its CRDs."""

from pathlib import Path

import pytest

from tests.strimzi import FOLDER
from tests.strimzi_software import problems


def test_strimzi_accepts_the_example_topics_and_users() -> None:
    assert problems(FOLDER / "topics.yaml", FOLDER / "users.yaml") == []


@pytest.mark.parametrize(
    ("file", "right", "wrong", "problem"),
    [
        ("topics.yaml", "partitions: 1", "partition: 1", "direct-routing-calls.progress.Spec.partition: unknown"),
        ("topics.yaml", "partitions: 1", "partitions: one", "not a valid"),
        ("users.yaml", "patternType: prefix", "patternType: prefixed", "prefixed is not taken"),
        ("users.yaml", "- Describe\n", "- Descripe\n", "Descripe is not taken"),
        ("users.yaml", "strimzi.io/v1", "strimzi.io/v1beta2", "v1beta2 is not taken"),
    ],
)
def test_strimzi_refuses_an_invalid_field_and_names_it(
    file: str, right: str, wrong: str, problem: str, tmp_path: Path
) -> None:
    text = (FOLDER / file).read_text(encoding="utf-8")
    assert right in text
    changed = tmp_path / file
    changed.write_text(text.replace(right, wrong, 1), encoding="utf-8")
    found = problems(changed)
    assert any(problem in line for line in found), found
