"""The `seen` topic: how many hours a record spans, and the hour that restored rows have."""

import numpy as np
import pytest

from connector.core.fingerprints import ENTRY
from connector.core.index_run import Entries, Hours
from connector.kafka import seen
from connector.kafka.seen import SeenLog

HOUR = 480_000


def rows(count: int, hours: int) -> tuple[Entries, Hours]:
    """Return rows of calls that are spread evenly over a number of hours."""
    entries = np.zeros(count, ENTRY)
    entries["hi"] = np.arange(count)
    return entries, (HOUR + np.arange(count) * hours // count).astype(np.uint32)


@pytest.mark.parametrize(
    ("count", "hours", "width"), [(10_000, 5, 1), (10_000, 24, 4), (2_000, 48, 24), (1_000, 240, 384)]
)
def test_busy_tenant_starts_with_short_buckets(count: int, hours: int, width: int) -> None:
    log = SeenLog("tenant")
    log.write(*rows(count, hours))
    assert log.width == width


def test_few_rows_do_not_change_the_bucket_width() -> None:
    log = SeenLog("tenant")
    log.write(*rows(900, 1))
    assert log.width == 384


def test_restored_dedup_rows_are_counted_in_their_hour() -> None:
    log = SeenLog("tenant")
    entries, hours = rows(12_000, 6)
    written = log.write(entries, hours)
    records = {record.key: record.value for record in written.records if record.value is not None}
    remembered, _ = seen.restore(records)["tenant"]
    assert remembered.per_hour(HOUR, HOUR + 6).tolist() == [2_000] * 6
    first, counts = seen.rows_per_hour(records, {"tenant": HOUR}, HOUR + 6)["tenant"]
    assert (first, counts.tolist()) == (HOUR, [2_000.0] * 6)


def test_row_count_of_a_long_bucket_is_spread_over_its_hours() -> None:
    log = SeenLog("tenant")
    entries, hours = rows(500, 1)
    records = {r.key: r.value for r in log.write(entries, hours).records if r.value is not None}
    first, counts = seen.rows_per_hour(records, {"tenant": HOUR + 5, "other": HOUR}, HOUR + 10)["tenant"]
    assert first == HOUR + 5
    assert counts.tolist() == pytest.approx([100.0] * 5)
