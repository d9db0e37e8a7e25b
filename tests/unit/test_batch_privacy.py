"""Privacy settings and timestamps of records, and what the dedup index holds of such rows."""

import json
from pathlib import Path
from typing import Any

import pytest

from connector.config import PseudonymKey
from connector.core import instants
from connector.kafka import avro
from connector.kafka.publishing import Outgoing
from tests.property.model import moment
from tests.unit.test_batch import Bench, row

NOW_MS = instants.to_ms(moment(1.0))
NUMBER = "+4930123456789"
_decode = avro.decoder(avro.ROW)


def new_bench(**rows: Any) -> Bench:
    return Bench(**{"pseudonym_key": None, **rows})


def values(record: Outgoing) -> dict[str, Any]:
    return dict(_decode(record.value or b""))


def started(ahead_ms: int) -> dict[str, Any]:
    return row(startDateTime=instants.text(instants.from_ms(NOW_MS + ahead_ms)))


def test_new_pseudonym_key_republishes_nothing(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_bytes(b"1" * 32)
    key = PseudonymKey.from_file(file)
    bench = new_bench(privacy={"callerNumber": "pseudonymize"}, pseudonym_key=key, key="id")
    (first,) = bench.read(row(callerNumber=NUMBER)).rows
    bench.commit()
    file.write_bytes(b"2" * 32)
    assert not bench.read(row(callerNumber=NUMBER)).has_rows
    (second,) = bench.read(row(callerNumber=NUMBER, duration=1)).rows
    one, other = values(first)["callerNumber"], values(second)["callerNumber"]
    assert (values(first)["revision"], values(second)["revision"]) == (0, 1)
    assert one.partition(":")[0] != other.partition(":")[0]
    assert NUMBER.encode() not in (first.value or b"") + (second.value or b"")


def test_change_of_a_masked_value_is_a_revision() -> None:
    """Revisions are recognized by the received values."""
    bench = new_bench(privacy={"callerNumber": "mask"})
    bench.read(row(callerNumber="+4930123456"))
    bench.commit()
    (record,) = bench.read(row(callerNumber="+4930123457")).rows
    assert (values(record)["callerNumber"], values(record)["revision"]) == ("+49301*****", 1)


def test_record_key_is_the_masked_value_or_the_row_id() -> None:
    masked = new_bench(privacy={"userId": "mask"}, key="userId")
    assert masked.read(row(userId="abc-d")).rows[0].key == b"***-*"
    dropped = new_bench(privacy={"userId": "drop"}, key="userId")
    assert dropped.read(row(userId="abc-d")).rows[0].key == b"a"


def test_additional_properties_are_masked_by_member_name() -> None:
    bench = new_bench(privacy={"callerNumber": "mask"}, additional_properties="keep")
    (record,) = bench.read(row(CallerNumber=NUMBER, leg={"callerNumber": NUMBER}, other=1)).rows
    assert values(record)["additionalProperties"] == {
        "CallerNumber": '"+49301********"',
        "leg": '{"callerNumber": "+49301********"}',
        "other": "1",
    }


def test_dedup_of_dead_letters_uses_the_unmasked_row() -> None:
    bench = new_bench(privacy={"callerNumber": "drop", "userDisplayName": "mask"})
    unfit = row(callerNumber=NUMBER, duration="x", userDisplayName=7)
    (letter,) = bench.read(unfit).dead_letters
    assert json.loads(letter.value or b"") == row(callerNumber=None, duration="x", userDisplayName=None)
    bench.commit()
    assert not bench.read(unfit).dead_letters
    (other,) = bench.read({**unfit, "callerNumber": "+1"}).dead_letters
    assert other.value == letter.value
    assert bench.read([NUMBER]).dead_letters[-1].value == b""


def test_pseudonymized_dead_letter_that_is_too_long_has_no_value() -> None:
    """A record that brokers always refuse would stop the tenant forever."""
    members = ",".join('"callerNumber":"a"' for _ in range(20_000))
    key = PseudonymKey(b"1" * 32)
    bench = new_bench(privacy={"callerNumber": "pseudonymize"}, pseudonym_key=key)
    (letter,) = bench.read(f'{{"id":"x","duration":"x",{members}}}'.encode()).dead_letters
    assert (letter.key, letter.value) == (b"x", b"")


@pytest.mark.parametrize("ahead_ms", [-(10**10), 0, 50 * 60_000])
def test_timestamp_setting_event_uses_the_call_start(ahead_ms: int) -> None:
    bench = new_bench(timestamp="event")
    assert bench.read(started(ahead_ms)).rows[0].timestamp_ms == NOW_MS + ahead_ms


@pytest.mark.parametrize("ahead_ms", [60 * 60_000, 10**13, -NOW_MS, -NOW_MS - 10**12])
def test_call_start_that_brokers_refuse_is_replaced_by_read_time(ahead_ms: int) -> None:
    """Otherwise one such row would stop the tenant forever. With timestamp 0, librdkafka would use its own clock."""
    bench = new_bench(timestamp="event")
    assert bench.read(started(ahead_ms)).rows[0].timestamp_ms == NOW_MS
