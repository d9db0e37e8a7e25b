"""Unknown member names: bounded in number and length, in linear time."""

from connector.pipeline.member_names import MAX_CHARACTERS, MAX_NAMES, MemberNames


class Counted(str):
    """A name that counts how often it is hashed."""

    __slots__ = ()
    hashes = 0

    def __hash__(self) -> int:
        Counted.hashes += 1
        return super().__hash__()

    def __eq__(self, other: object) -> bool:
        return super().__eq__(other)


def test_unknown_json_members_over_the_limit_are_only_counted() -> None:
    names = MemberNames()
    first = [f"name {number}" for number in range(MAX_NAMES)]
    assert names.add(first) == first
    assert names.add([*first, "one", "two"]) == []
    assert (list(names), names.unnamed) == (first, 2)


def test_long_name_of_an_unknown_json_member_is_truncated() -> None:
    names = MemberNames()
    (short,) = names.add(["x" * 1_000_000])
    assert len(short) == MAX_CHARACTERS + 1
    assert names.add(["x" * 1_000_000]) == []


def test_each_member_name_is_hashed_a_constant_number_of_times() -> None:
    """Regression test: each row copied all names found before it, so that a full batch took 10 s."""
    names, rows = MemberNames(), 10_000
    Counted.hashes = 0
    for row in range(rows):
        names.add([Counted(f"{row} {number}") for number in range(5)])
    assert names.unnamed == 5 * rows - MAX_NAMES
    assert Counted.hashes <= 2 * 5 * rows
