"""Findings of the comparison between Graph and the topic."""

from typing import Any

import pytest

from connector.commands.comparison import Comparison, Digest, Fields, id_key

FIELDS = Fields(["id", "callType", "duration"], ["userCountryCode"], ["callType"])


def values(name: str, **changes: Any) -> dict[str, Any]:
    return {"id": name, "callType": "ByotIn", "duration": 5, "userCountryCode": None, **changes}


def publish(comparison: Comparison, *versions: tuple[str, int, dict[str, Any]], inside: bool = True) -> None:
    comparison.add_records(
        [id_key(name) for name, _, _ in versions],
        [revision for _, revision, _ in versions],
        [FIELDS.digest(values(name, **changes)) for name, _, changes in versions],
        [inside] * len(versions),
    )


def show(comparison: Comparison, *rows: tuple[str, dict[str, Any]], start_s: int = 0) -> list[bool]:
    digests: list[Digest] = [FIELDS.digest(values(name, **changes)) for name, changes in rows]
    found: list[bool] = comparison.add_rows([id_key(name) for name, _ in rows], digests, [start_s] * len(rows)).tolist()
    return found


@pytest.fixture
def comparison() -> Comparison:
    return Comparison()


def test_row_counts_as_identical_if_its_newest_version_matches(comparison: Comparison) -> None:
    publish(comparison, ("a", 1, {"duration": 7}), ("a", 0, {}), ("b", 0, {}))
    assert show(comparison, ("a", {"duration": 7}), ("b", {})) == [False, False]
    result = comparison.result()
    assert (result.identical, result.graph_rows, result.topic_records) == (2, 2, 3)
    assert (result.missing, result.differing, result.duplicated, result.unexpected) == (0, 0, 0, 0)


def test_comparison_distinguishes_each_kind_of_difference(comparison: Comparison) -> None:
    publish(
        comparison, ("same", 0, {}), ("other", 0, {"duration": 6}), ("twice", 0, {}), ("twice", 0, {}), ("gone", 0, {})
    )
    publish(comparison, ("outside", 0, {}), inside=False)
    show(comparison, ("same", {}), ("other", {}), ("twice", {}), ("lost", {}))
    result = comparison.result()
    assert result.missing_keys == [id_key("lost")]
    assert result.differing_keys == [id_key("other")]
    assert result.duplicated_keys == [(id_key("twice"), 0, 2)]
    assert result.unexpected_keys == [id_key("gone")]
    assert (result.identical, result.graph_rows, result.topic_records) == (2, 4, 5)


def test_comparison_skips_fields_with_privacy_settings(comparison: Comparison) -> None:
    publish(comparison, ("a", 0, {"callType": "******"}))
    assert show(comparison, ("a", {})) == [False]


def test_beta_fields_are_compared_if_graph_and_topic_have_them(comparison: Comparison) -> None:
    publish(comparison, ("v1", 0, {}), ("beta", 0, {"userCountryCode": "DE"}))
    assert show(comparison, ("v1", {"userCountryCode": "DE"}), ("beta", {"userCountryCode": "FR"})) == [False, True]
    assert FIELDS.differences(values("a", userCountryCode="DE"), values("a", userCountryCode="FR")) == [
        "userCountryCode"
    ]
    assert FIELDS.differences(values("a", userCountryCode="DE"), values("a", duration=6)) == ["duration"]


def test_row_published_while_verify_runs_counts_as_identical(comparison: Comparison) -> None:
    publish(comparison, ("a", 0, {}))
    show(comparison, ("a", {"duration": 9}), ("late", {}), start_s=17)
    assert {suspect.start_s for suspect in comparison.suspects()} == {17}
    publish(comparison, ("late", 0, {}), ("a", 1, {"duration": 9}))
    assert comparison.suspects() == []
    result = comparison.result()
    assert (result.identical, result.missing, result.differing, result.topic_records) == (2, 0, 0, 3)


def test_row_revised_while_verify_runs_counts_as_identical(comparison: Comparison) -> None:
    publish(comparison, ("a", 0, {}))
    show(comparison, ("a", {}))
    publish(comparison, ("a", 1, {"duration": 9}))
    assert comparison.result().identical == 1


def test_comparison_uses_the_last_read_of_a_repeated_row(comparison: Comparison) -> None:
    publish(comparison, ("a", 0, {"duration": 9}), ("b", 0, {}))
    show(comparison, ("a", {}), ("b", {}))
    show(comparison, ("a", {"duration": 9}), ("b", {"duration": 1}))
    result = comparison.result()
    assert result.differing_keys == [id_key("b")]
    assert result.graph_rows == 2


def test_published_row_that_became_invalid_is_not_unexpected(comparison: Comparison) -> None:
    publish(comparison, ("a", 0, {}))
    comparison.add_invalid([id_key("a")])
    result = comparison.result()
    assert (result.unexpected, result.identical, result.graph_rows) == (0, 0, 0)


def test_comparison_without_any_rows_finds_no_difference(comparison: Comparison) -> None:
    result = comparison.result()
    assert (result.graph_rows, result.topic_records, result.missing) == (0, 0, 0)
