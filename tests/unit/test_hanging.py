"""Decision whether a transaction was committed although some of its records are not visible, without a broker."""

import re
from types import SimpleNamespace
from typing import Any, cast

import pytest

from connector.errors import ShardRestartError
from connector.kafka import hanging, visibility
from connector.kafka.clients import Clients
from connector.kafka.hanging import Inspection, Unseen
from connector.kafka.log_reader import Place
from connector.kafka.restore import PartitionContents
from connector.kafka.state import ShardRecord, StateIdentity, shard_record
from connector.kafka.topics import Names
from connector.kafka.transaction import Transactions

ROWS, SEEN = ("calls", 0), ("app.seen", 0)
TRANSACTION = Unseen(
    ShardRecord(
        "app", "cluster", "calls", 0, transaction="1", places={"calls": {0: [(3, 5)]}, "app.seen": {0: [(7, 7)]}}
    ),
    {},
)
REMEDY = "calls: Topic authorization failed: allow it: kafka-acls.sh"


@pytest.fixture
def readable(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Set which records are visible, and which partitions cannot be read."""

    def look(visible: set[Place], unreadable: set[Place]) -> None:
        found = {place: ({1: object()} if place in visible else {}) for place in (ROWS, SEEN)}
        monkeypatch.setattr(visibility, "read", lambda *_: (found, dict.fromkeys(unreadable, REMEDY)))

    return look


def was_committed(doubtful: set[Place]) -> bool:
    return hanging._was_committed(cast("Any", None), TRANSACTION, doubtful)


def test_one_visible_record_proves_that_a_transaction_committed(readable: Any) -> None:
    readable({SEEN}, {ROWS})
    assert was_committed({ROWS})


def test_shard_restarts_if_it_cannot_read_a_hanging_transaction(readable: Any) -> None:
    """The outcome is never guessed. The error names the missing right."""
    readable(set(), {ROWS})
    with pytest.raises(ShardRestartError, match=re.escape(f" was committed: {REMEDY}")):
        was_committed({SEEN})


def test_detecting_an_ordinary_abort_needs_no_right_to_read_rows(readable: Any) -> None:
    readable(set(), {ROWS})
    assert not was_committed(set())


@pytest.mark.parametrize(("transaction", "rows"), [("", set()), ("1", {("calls", 0), ("calls", 1)})])
def test_transaction_of_an_older_connector_version_is_not_aborted(
    monkeypatch: pytest.MonkeyPatch, transaction: str, rows: set[Place]
) -> None:
    """The state of an older version does not say where its rows are, so they could not be written again."""
    monkeypatch.setattr(hanging, "unseen_transactions", lambda _: [])
    metadata = SimpleNamespace(topics={"calls": SimpleNamespace(partitions=[0, 1])})
    clients = SimpleNamespace(asking=SimpleNamespace(list_topics=lambda **_: metadata))
    record = shard_record(StateIdentity("app", "cluster", "calls"), 0, transaction)
    read = PartitionContents({"app.state": {record.key: record.value or b""}}, {})
    inspection = Inspection(cast("Any", clients), Names("app"), 0, read)
    assert hanging._watched(inspection, ["calls"]) == rows | {("app.state", 0), ("app.seen", 0)}


@pytest.mark.parametrize("lost", [{ROWS: [object()]}, {}])
async def test_abort_is_verified_only_if_earlier_commits_are_visible(
    monkeypatch: pytest.MonkeyPatch, lost: dict[Place, list[Any]]
) -> None:
    transactions = Transactions(Clients("localhost:1", {}), "app-0")
    transactions._unproven = [(0.0, {"calls": {0: [(3, 5)]}})]
    monkeypatch.setattr(visibility, "undecided", lambda *_: set())
    monkeypatch.setattr(visibility, "lost", lambda *_: visibility.Lost(lost, {}))
    if lost:
        with pytest.raises(
            ShardRestartError, match="removed records of an earlier, committed transaction from calls-0"
        ):
            transactions._verify_abort()
    else:
        transactions._verify_abort()
        assert not transactions._unproven
    await transactions.close()


def test_wait_for_open_transactions_lasts_as_long_as_their_timeout() -> None:
    """Brokers abort a transaction only after its timeout, and look for such transactions every ten seconds."""
    assert Clients("127.0.0.1:1", {"transaction.timeout.ms": 90_000}).decided_within_s == 100.0
    assert Clients("127.0.0.1:1", {}).decided_within_s == 20.0
