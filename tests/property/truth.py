"""Reference for the coverage of a tenant, kept per second and computed without code of the connector."""

import math
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import numpy as np
from numpy.typing import NDArray

from connector.core import windows
from connector.core.windows import State
from tests.property.model import CommittedRead, Statement, moment, seconds_of

_FIRST_S, _LAST_S = -2 * 86_400, 8 * 86_400
_HOUR_S = 3600


def _nothing() -> NDArray[np.float64]:
    return np.full(_LAST_S - _FIRST_S, -math.inf)


@dataclass
class Truth:
    """Time at which each second of a tenant's call time was last read, as far as the reads are committed."""

    read_s: NDArray[np.float64] = field(default_factory=_nothing)
    forgotten_before_s: float = -math.inf
    "Rows of calls that began before this time have expired."

    def record(self, reads: list[CommittedRead]) -> None:
        """Record committed reads. Parts that lie before the expiry time publish nothing and do not count."""
        for read in reads:
            start_s = max(seconds_of(read.window.start), self.forgotten_before_s)
            part = self._part(int(start_s), int(max(start_s, seconds_of(read.window.end))))
            np.maximum(part, read.began_s, out=part)

    def forget(self, now_s: float, horizon: timedelta) -> None:
        """Record a commit that lets rows behind the horizon expire, by whole hours."""
        before_s = math.floor((now_s - horizon.total_seconds()) / _HOUR_S) * _HOUR_S
        self.forgotten_before_s = max(self.forgotten_before_s, before_s)

    def gaps(self, start: datetime) -> list[tuple[datetime, datetime]]:
        """Return the call time between a start and the newest second read that was never read."""
        first_s = int(seconds_of(start))
        part = self._part(first_s, _LAST_S)
        read = np.flatnonzero(part > -math.inf)
        unread = np.flatnonzero(part[: read[-1] + 1] == -math.inf) if len(read) else read
        edges = np.flatnonzero(np.diff(unread) > 1)
        begins = [unread[0], *unread[edges + 1]] if len(unread) else []
        ends = [*unread[edges], unread[-1]] if len(unread) else []
        pairs = zip(begins, ends, strict=True)
        return [(moment(first_s + int(a)), moment(first_s + int(b) + 1)) for a, b in pairs]

    def check_coverage(self, state: State, time_s: float, tolerance_s: float) -> None:
        """Raise unless each covered second was read, no earlier than the coverage states, and not in the future."""
        for read in state.coverage.reads:
            part = self._part(int(seconds_of(read.start)), int(seconds_of(read.end)))
            assert part.min() >= seconds_of(read.at) - tolerance_s, f"not read: {read}"
            assert seconds_of(read.end) <= time_s + tolerance_s, f"in the future: {read}"

    def check_gaps(self, state: State, *, may_claim_less: bool) -> None:
        """Raise unless the gaps equal the call time never read. After a clock was set back, more may be a gap."""
        gaps = [(gap.start, gap.end) for gap in windows.gaps(state)]
        true = self.gaps(state.start)
        if may_claim_less:
            through = state.coverage.through or state.start
            true = [(start, min(end, through)) for start, end in true if start < through]
            assert all(any(a <= start and end <= b for a, b in gaps) for start, end in true), (true, gaps)
        else:
            assert gaps == true

    def check_progress(self, state: State, time_s: float, tolerance_s: float) -> None:
        """Raise unless each second that a sweep reports as complete was read at least its overlap later."""
        for sweep_state in state.sweeps:
            overlap_s = sweep_state.sweep.overlap.total_seconds()
            start_s, through_s = int(seconds_of(state.start)), int(seconds_of(sweep_state.through))
            assert through_s <= max(start_s, time_s - overlap_s + tolerance_s), "in the future"
            part = self._part(start_s, max(start_s, through_s))
            ages_s = part - np.arange(start_s + 1, start_s + 1 + len(part))
            assert len(part) == 0 or ages_s.min() >= overlap_s - tolerance_s, sweep_state

    def check_statement(self, statement: Statement, state: State) -> None:
        """Raise unless a progress record agrees with its state and names no offset beyond the end of a partition."""
        record = statement.record
        (through,) = {s.through for s in state.sweeps if s.sweep.overlap.total_seconds() == record["overlapSeconds"]}
        assert record["completeThroughDateTime"] == through
        assert record["gapSeconds"] == sum((gap.end - gap.start).total_seconds() for gap in windows.gaps(state))
        assert all(offset <= statement.ends.get(n, 0) for n, offset in enumerate(record["offsets"]))

    def _part(self, start_s: int, end_s: int) -> NDArray[np.float64]:
        assert start_s >= _FIRST_S, "the model keeps call time of ten days"
        return self.read_s[start_s - _FIRST_S : end_s - _FIRST_S]
