"""Progress records of a tenant: each states up to which call time a sweep was complete."""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from connector import log
from connector.core import instants, windows
from connector.core.windows import State
from connector.kafka import avro, topics
from connector.kafka.limits import MOST_OVERHEAD, Limits, raise_command, size
from connector.kafka.publishing import Outgoing
from connector.kafka.state import Checkpoint
from connector.pipeline.tenant_state import TenantState

_logger = log.get(__name__)
_EVERY_S = 60


class Stated(NamedTuple):
    """Content of the last progress record of a sweep."""

    through_s: int = 0
    "Call time up to which the sweep was complete, in epoch seconds."
    at_s: int = 0
    "Time at which the record was made, in epoch seconds."
    gap_s: int | None = None
    "Total length of the gaps in seconds; None if it is not known."


_NEVER_STATED = Stated()


def last_stated(checkpoint: Checkpoint) -> dict[int, Stated]:
    """Return the content of each sweep's last progress record. The keys are the overlaps of the sweeps in seconds."""
    gaps = dict(checkpoint.stated_gaps)
    return {overlap: Stated(through, at, gaps.get(overlap)) for overlap, through, at in checkpoint.stated}


def gap_seconds(state: State) -> float:
    """Return the total length of the tenant's gaps in seconds."""
    return sum(gap.seconds for gap in windows.gaps(state))


class ProgressRecords:
    """Builder of the progress records of a shard."""

    def __init__(self, schema_ids: Mapping[str, int] | None, limits: Limits) -> None:
        """Create the builder.

        `schema_ids` maps each topic to the id of its schema; it is None without a schema registry.
        """
        self._schema_ids = schema_ids
        self._limits = limits
        self._encoders: dict[str, Callable[[Mapping[str, Any]], bytes]] = {}
        self._too_short: set[str] = set()
        "Topics that do not accept a progress record because of its length, and for which this was logged."

    def due(
        self, state: State, stated: dict[int, Stated], tenant_state: TenantState, offsets: Sequence[int], now: datetime
    ) -> list[Outgoing]:
        """Return the progress records that are due at `now`, and store their content in `stated`.

        `stated` holds the content of each sweep's last progress record; the keys are the overlaps of the sweeps in
        seconds. A record is due at most once per minute, and only if its content has changed. `offsets` are the
        tenant's offsets in its row topic.
        """
        records = []
        now_s = instants.to_ms(now) // 1000
        for sweep_state in state.sweeps:
            overlap_s = int(sweep_state.sweep.overlap.total_seconds())
            last = stated.get(overlap_s, _NEVER_STATED)
            # A time in the future (a clock that was set back) does not delay the next record.
            if sweep_state.through <= state.start or 0 <= now_s - last.at_s < _EVERY_S:
                continue
            through_s, gap_s = instants.to_ms(sweep_state.through) // 1000, int(gap_seconds(state))
            if (through_s, gap_s) == (last.through_s, last.gap_s):
                continue
            topic = topics.progress(tenant_state.tenant.topic)
            value = self._encoder(topic)(
                {
                    "tenantId": tenant_state.tenant.id,
                    "overlapSeconds": overlap_s,
                    "completeThroughDateTime": through_s * 1000,
                    "observedDateTime": instants.to_ms(now),
                    "gapSeconds": gap_s,
                    "offsets": list(offsets),
                }
            )
            record = Outgoing(topic, tenant_state.tenant.id.encode(), value, partition=0)
            if self._limits.too_long([record]):
                self._log_too_long(record)
                continue
            stated[overlap_s] = Stated(through_s, now_s, gap_s)
            records.append(record)
        return records

    def _log_too_long(self, record: Outgoing) -> None:
        """Log, once per topic, that a progress record is too long and is not published.

        Consumers then do not learn of the progress, but no row is lost.
        """
        if record.topic not in self._too_short:
            self._too_short.add(record.topic)
            needed = size(record) + MOST_OVERHEAD
            _logger.warning("progress_record_too_long", topic=record.topic, remedy=raise_command(record.topic, needed))

    def _encoder(self, topic: str) -> Callable[[Mapping[str, Any]], bytes]:
        encode = self._encoders.get(topic)
        if encode is None:
            schema_id = None if self._schema_ids is None else self._schema_ids[topic]
            encode = self._encoders[topic] = avro.encoder(avro.PROGRESS, schema_id)
        return encode
