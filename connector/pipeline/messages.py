"""Messages that the stages of a shard exchange: what was read, what failed and what was commanded."""

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

import msgspec

from connector.core import jobs
from connector.core.coverage import Window
from connector.core.failing_ranges import RangeFailure
from connector.core.rows import PageRows
from connector.core.windows import Slice
from connector.graph.page_memory import NO_ROOM, PageRoom


class RunsStarted(NamedTuple):
    """Start of a run of every sweep that was due at `now`."""

    tenant: str
    now: datetime
    start: datetime | None = None
    "The tenant's start if the tenant was never read before, else None."


class PageRead(NamedTuple):
    """One page of a slice."""

    tenant: str
    slice: Slice
    raws: Sequence[msgspec.Raw]
    reading: PageRows
    received_at: datetime
    bytes: int
    uncounted: tuple[Window, ...]
    "Call time that was never read before (first start, outage). Its rows do not count towards lateness."
    requests: int = 1
    number: int = 0
    "Number of the page in its chain, from 0."
    attempt: int = 0
    "Number of earlier readings of the chain for this slice."
    repeated: frozenset[int] = frozenset()
    "First halves of the ids (field `hi` of their entries) that were on an earlier page of the chain."
    room: PageRoom = NO_ROOM
    "Released when the page is committed or discarded."


class SliceRead(NamedTuple):
    """End of a slice. All of its pages were put into the buffer before this item."""

    tenant: str
    slice: Slice
    steady: bool
    now: datetime


class RangeFailed(NamedTuple):
    """Failure of a range of call time, which Graph did not serve."""

    tenant: str
    window: Window
    failure: RangeFailure


class RunsDropped(NamedTuple):
    """Failure of all of the tenant's runs that were in progress."""

    tenant: str
    reason: str
    message: str


class Commanded(NamedTuple):
    """Record of the control topic. A record without a command only moves the control offset past it.

    `offset` is -1 for a command that was kept, which the control offset is past already.
    """

    offset: int
    now: datetime
    tenant: str = ""
    command: jobs.Command | None = None
    kept: tuple[str, ...] | None = None
    "Commands that the shard keeps from now on for tenants that are not read; None if they did not change."


Item = RunsStarted | PageRead | SliceRead | RangeFailed | RunsDropped | Commanded
