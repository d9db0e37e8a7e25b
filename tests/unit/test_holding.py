"""Decision whether a group member still owns a shard, without a broker."""

import pytest

from connector.kafka.membership import Membership, Snapshot


@pytest.mark.parametrize("is_kept", [True, False])
def test_ownership_check_waits_for_a_poll_that_began_after_it(
    monkeypatch: pytest.MonkeyPatch, *, is_kept: bool
) -> None:
    """A poll that is already running may have started before the worker was frozen, so its result may be outdated."""
    membership = object.__new__(Membership)
    membership.snapshot = Snapshot(7, frozenset({0}), None)
    later = [Snapshot(8, frozenset({0}), None), Snapshot(9, frozenset({0} if is_kept else ()), None)]

    def poll(_seconds: float) -> None:
        membership.snapshot = later.pop(0)

    monkeypatch.setattr("connector.kafka.membership.time.sleep", poll)
    assert membership.holds(0) is is_kept
    assert not later
