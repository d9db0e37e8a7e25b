"""Warnings about topic settings that would delete records whose timestamp is the start of the call."""

from datetime import timedelta

import pytest

from connector.kafka.event_time import dangers

WEEK, HORIZON = timedelta(days=7), timedelta(days=150)
DAY_MS = 86_400_000
HARMLESS = {
    "cleanup.policy": "delete",
    "retention.ms": "-1",
    "message.timestamp.type": "CreateTime",
    "message.timestamp.before.max.ms": str(2**63 - 1),
    "message.timestamp.after.max.ms": "3600000",
}


def found(**changes: str) -> list[tuple[str, str]]:
    settings = HARMLESS | {name.replace("_", "."): value for name, value in changes.items()}
    return [(danger.setting, danger.needed) for danger in dangers(settings, WEEK, HORIZON)]


def test_topic_settings_safe_for_event_time_cause_no_warning() -> None:
    assert found() == []
    assert found(retention_ms=str(151 * DAY_MS)) == []
    assert dangers({}, WEEK, HORIZON) == []


@pytest.mark.parametrize(("days", "who"), [(7, "sweeps and the first start"), (149, "a backfill"), (150, "a backfill")])
def test_retention_shorter_than_the_horizon_causes_a_warning(days: int, who: str) -> None:
    (danger,) = dangers(HARMLESS | {"retention.ms": str(days * DAY_MS)}, WEEK, HORIZON)
    assert (danger.setting, danger.needed) == ("retention.ms", str(150 * DAY_MS))
    assert who in danger.reason


def test_compacted_topic_causes_no_retention_warning() -> None:
    assert found(cleanup_policy="compact", retention_ms="1") == []
    assert found(cleanup_policy="compact,delete", retention_ms="1") == [("retention.ms", str(150 * DAY_MS))]


def test_topic_that_refuses_old_timestamps_causes_a_warning() -> None:
    assert found(message_timestamp_before_max_ms="1000") == [("message.timestamp.before.max.ms", str(150 * DAY_MS))]
    assert found(message_timestamp_after_max_ms="1000") == [("message.timestamp.after.max.ms", "3600000")]
    assert found(message_timestamp_difference_max_ms="1000") == [
        ("message.timestamp.difference.max.ms", str(150 * DAY_MS))
    ]


def test_topic_with_log_append_time_causes_one_warning() -> None:
    assert found(message_timestamp_type="LogAppendTime", retention_ms="1") == [("message.timestamp.type", "CreateTime")]
