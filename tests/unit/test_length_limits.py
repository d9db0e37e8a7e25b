"""Limits of record lengths, and the content of dead letters that would exceed them."""

import numpy as np
import pytest
from confluent_kafka import KafkaError, KafkaException

from connector.core.coverage import Window
from connector.core.dedup import DedupIndex
from connector.core.fingerprints import ENTRY
from connector.core.rows import InvalidRow
from connector.errors import ShardRestartError
from connector.kafka import seen
from connector.kafka.fatal_errors import fatal_errors
from connector.kafka.limits import LEAST, MOST_OVERHEAD, PRODUCER_DEFAULT, Limits, TooLong, refusing_topics, size
from connector.kafka.publishing import AbortedError, Outgoing
from connector.kafka.seen import SeenLog
from connector.pipeline.change import Change
from connector.pipeline.dead_letters import dead_letter
from tests.property.model import TOPIC, moment
from tests.unit.test_batch import TENANT, Bench, published_versions, row

WINDOW = Window(moment(-60), moment(0))
DLQ = "calls.dlq"


def limits(**known: int) -> Limits:
    found = Limits()
    found.learn({name.replace("_", "."): {"max.message.bytes": str(limit)} for name, limit in known.items()})
    return found


def test_producer_limits_follow_the_record_limits_of_topics() -> None:
    assert limits(calls=20_000, app_state=2_000_000).producer() == {
        "message.max.bytes": 2_000_000,
        "batch.size": 20_000,
    }
    assert Limits().producer() == {"message.max.bytes": PRODUCER_DEFAULT, "batch.size": PRODUCER_DEFAULT}


def test_configured_length_limits_override_those_of_topics() -> None:
    own = Limits({"message.max.bytes": "50000", "batch.size": 3_000})
    own.learn({"calls": {"max.message.bytes": "2000000"}})
    assert own.producer() == {"message.max.bytes": 50_000, "batch.size": 3_000}
    assert own.of("calls") == 50_000


def test_lowered_record_limit_stays_until_brokers_report_another() -> None:
    found = limits(calls=20_000)
    found.lower("calls")
    assert (found.of("calls"), found.producer()["batch.size"]) == (10_000, 10_000)
    found.learn({"calls": {"max.message.bytes": "20000"}})
    assert found.of("calls") == 10_000
    found.learn({"calls": {"max.message.bytes": "30000"}})
    assert found.of("calls") == 30_000


def test_too_long_record_is_found_with_its_topic_and_length() -> None:
    records = [Outgoing("calls", b"k", b"v" * length) for length in (10, 500, 300)]
    assert limits(calls=400).too_long(records) == TooLong("calls", 501 + MOST_OVERHEAD)
    assert limits(calls=601).too_long(records) is None


def test_topic_that_refused_a_record_is_found_in_the_error_chain() -> None:
    refusal = KafkaException(KafkaError(KafkaError.MSG_SIZE_TOO_LARGE), "calls")
    aborted = AbortedError("aborted")
    aborted.__cause__ = refusal
    assert refusing_topics(aborted) == ["calls"]
    assert refusing_topics(ShardRestartError("something else")) == []


@pytest.mark.parametrize("limit", [PRODUCER_DEFAULT, 5_000, 2_000, 500, 300, 150, MOST_OVERHEAD])
@pytest.mark.parametrize("id_length", [0, 10, 1_000, 600_000])
@pytest.mark.parametrize("too_long", [False, True])
def test_dead_letter_always_fits_the_record_limit(limit: int, id_length: int, too_long: bool) -> None:  # noqa: FBT001
    row_id = "x" * id_length or None
    unfit = InvalidRow(b"{}", row_id, "problem " * 1_000, None, is_too_long=too_long)
    value = b"" if too_long else b"v" * 400_000
    letter = dead_letter(unfit, value, "calls", TENANT, WINDOW, 0, limits(calls_dlq=limit))
    assert size(letter) <= max(0, limit - MOST_OVERHEAD)
    if limit == PRODUCER_DEFAULT and (id_length <= 1_000 or not too_long):
        is_kept = id_length + len(value) < 900_000 or id_length <= 1_000
        assert letter.key == (row_id.encode() if row_id and is_kept else None)


@pytest.mark.parametrize("limit", [LEAST, 2_000, 20_000])
def test_dedup_index_records_are_split_at_the_limit(limit: int) -> None:
    log, room = SeenLog("t"), limit - MOST_OVERHEAD
    log.width = 384
    stored: dict[bytes, bytes] = {}
    written = 0
    for batch_rows in (1, 30, 200, 1, 700, 5):
        entries = np.zeros(batch_rows, ENTRY)
        entries["hi"] = np.arange(written, written + batch_rows)
        entries["meta"] = 1
        written += batch_rows
        part = log.write(entries, np.zeros(batch_rows, np.uint32), room)
        assert all(len(record.key) + len(record.value or b"") <= room for record in part.records)
        stored.update({record.key: record.value or b"" for record in part.records})
        log.apply(part)
    remembered, restored = seen.restore(stored)["t"]
    assert len(remembered) == written
    assert isinstance(remembered, DedupIndex)
    gone = {record.key for record in restored.forget(10_000, 10_000).records}
    assert gone == set(stored)


class TestTooLongRows:
    def bench(self) -> Bench:
        bench = Bench()
        bench.limits.learn({"calls": {"max.message.bytes": "2000"}, DLQ: {"max.message.bytes": "2000"}})
        return bench

    def test_too_long_row_is_dead_lettered_once(self) -> None:
        bench = self.bench()
        long = row("long", zz="x" * 3_000)
        change = bench.read(row("a"), long, row("b"))
        assert published_versions(change) == [("a", 0), ("b", 0)]
        (letter,) = change.dead_letters
        assert (letter.key, letter.value) == (b"long", b"")
        problem = b"row: longer than topic calls accepts (max.message.bytes=2000)"
        assert dict(letter.headers or [])["__connect.errors.exception.message"] == problem
        bench.commit()
        assert not bench.read(row("a"), long).dead_letters

    def test_dead_lettered_row_is_published_after_the_limit_rises(self) -> None:
        bench = self.bench()
        long = row("long", zz="x" * 3_000)
        bench.read(long)
        bench.commit()
        bench.limits.learn({"calls": {"max.message.bytes": "20000"}})
        assert published_versions(bench.read(long)) == [("long", 0)]

    def test_too_long_checkpoint_is_detected_before_writing(self) -> None:
        bench = Bench()
        bench.read(row())
        bench.end()
        assert bench.contents().too_long() is None
        bench.limits.learn({"app.state": {"max.message.bytes": "200"}})
        found = bench.contents().too_long()
        assert found is not None
        assert found.topic == "app.state"
        written = bench.contents().final_records({"t": {0: 10**9}})
        checkpoint = next(record for record in written if record.topic == "app.state")
        assert found.needed >= size(checkpoint) + MOST_OVERHEAD

    def test_too_long_progress_record_is_left_out(self) -> None:
        bench = Bench()
        bench.limits.learn({"calls.progress": {"max.message.bytes": "110"}})
        state = bench.tenant_state.checkpoint.state
        moved = state._replace(sweeps=(state.sweeps[0]._replace(through=moment(0)),))
        bench.changes["t"] = Change(moved)
        assert f"{TOPIC}.progress" not in {record.topic for record in bench.commit()}
        assert bench.tenant_state.checkpoint.stated == ()


def test_circular_error_chain_is_searched_without_endless_loop() -> None:
    fatal = KafkaException(KafkaError(KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED))
    outer = SystemError("a callback failed")
    outer.__cause__, fatal.__cause__ = fatal, outer

    assert refusing_topics(fatal) == []


def test_fatal_kafka_error_in_a_callback_replaces_the_system_error() -> None:
    fatal = KafkaException(KafkaError(KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED))

    with pytest.raises(KafkaException) as raised, fatal_errors():
        raise SystemError("a callback failed") from fatal

    assert raised.value is fatal
    assert raised.value.__cause__ is None
