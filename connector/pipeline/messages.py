"""Messages between the stages of a shard: the sweepers put them into the buffer."""

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
    """Message that runs have started: one run of every sweep that was due at `now`."""

    tenant: str
    now: datetime
    start: datetime | None = None
    "Start of the tenant if it was never read before; otherwise None."


class PageRead(NamedTuple):
    """Message that one page of a slice was read. It contains the rows of the page."""

    tenant: str
    slice: Slice
    raws: Sequence[msgspec.Raw]
    reading: PageRows
    received_at: datetime
    bytes: int
    uncounted: tuple[Window, ...]
    "Parts of the slice that were never read before (first start, outage). Lateness is not measured for their rows."
    requests: int = 1
    number: int = 0
    "Number of the page in its chain, from 0."
    repeated: frozenset[int] = frozenset()
    """Ids that were also on an earlier page of the chain, given by the first half of their hash (field `hi` of the
    entry).
    """
    suspects: frozenset[int] = frozenset()
    "Ids that were on two pages when the chain was read before, in the same form. Empty if it is read the first time."
    room: PageRoom = NO_ROOM
    "Memory that the page occupies. It is freed when the page is committed or discarded."


class SliceRead(NamedTuple):
    """Message that a slice was read to its end. All of its pages are in the buffer before this message."""

    tenant: str
    slice: Slice
    steady: bool
    now: datetime


class RangeFailed(NamedTuple):
    """Message that Graph did not serve a range of call time."""

    tenant: str
    window: Window
    failure: RangeFailure


class RunsDropped(NamedTuple):
    """Message that all runs of the tenant that were in progress have failed."""

    tenant: str
    reason: str
    message: str


class Commanded(NamedTuple):
    """Message that a record of the control topic was received.

    If the record holds no command, the message only moves the control offset. `offset` is the offset of the record. It
    is -1 for a command that had waited for a sweeper of its tenant, because the offset of its record was committed
    before.
    """

    offset: int
    now: datetime
    tenant: str = ""
    command: jobs.Command | None = None
    kept: tuple[str, ...] | None = None
    "All commands, as JSON, that wait from now on until their tenant is read; None if these commands did not change."


Item = RunsStarted | PageRead | SliceRead | RangeFailed | RunsDropped | Commanded
