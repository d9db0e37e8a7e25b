"""The resources for Strimzi are current."""

from tests import strimzi


def test_strimzi_resources_match_the_code() -> None:
    found = {path.name: path.read_text(encoding="utf-8") for path in strimzi.FOLDER.glob("*.yaml")}
    assert found == strimzi.files(), "run make strimzi"
