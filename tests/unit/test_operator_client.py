"""Watching a shard's state topic for changes, without a broker."""

from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import KafkaError

from connector.errors import FatalError
from connector.kafka import log_reader
from connector.kafka.operator_client import OperatorClient
from connector.kafka.topics import Names


class Record:
    """Kafka message that reports an error instead of a record."""

    def __init__(self, code: int) -> None:
        self._error = KafkaError(code)

    def error(self) -> KafkaError:
        return self._error

    def topic(self) -> str:
        return "app.state"

    def partition(self) -> int:
        return 0


def following(monkeypatch: pytest.MonkeyPatch, *codes: int) -> Any:
    """Watch the state with an operator client whose reader returns these errors, one after the other."""
    records = [Record(code) for code in codes]
    reader = SimpleNamespace(
        assign=lambda _: None,
        consume=lambda *_, **__: [records.pop(0)] if records else [],
        unassign=lambda: None,
        close=lambda: None,
    )
    monkeypatch.setattr(log_reader, "Consumer", lambda _: reader)
    mine = OperatorClient.__new__(OperatorClient)
    mine._clients = SimpleNamespace(reader=lambda _: {}, app="app")  # type: ignore[assignment]
    mine._names = Names("app")
    mine._kafka = SimpleNamespace(app="app")  # type: ignore[assignment]
    return mine.follow(0)


@pytest.mark.parametrize(
    "code",
    [
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.GROUP_AUTHORIZATION_FAILED,
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError._BAD_MSG,
    ],
)
def test_watching_the_state_topic_ends_at_a_permanent_error(monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    """Otherwise `backfill --wait` would wait forever."""
    commits = following(monkeypatch, code)
    with pytest.raises(FatalError, match="records cannot be read: "):
        next(commits)


def test_watching_the_state_topic_survives_a_broker_outage(monkeypatch: pytest.MonkeyPatch) -> None:
    commits = following(monkeypatch, KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN)
    assert [next(commits) for _ in range(3)] == [None, None, None]
