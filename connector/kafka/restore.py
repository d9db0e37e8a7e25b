"""Reader of a shard's partitions of the internal topics, from their first record to their end."""

import ctypes
import math
import sys
import time
from collections.abc import Callable
from typing import NamedTuple

from connector import log
from connector.errors import BrokersUnavailableError, FatalError, HandedOverError, ShardRestartError
from connector.kafka.clients import Clients
from connector.kafka.log_reader import LogReader, apply, from_beginning

_LOG_EVERY_S = 5.0
_logger = log.get(__name__)


class PartitionContents(NamedTuple):
    """Contents of the same partition number in several topics, as a `read_committed` reader sees them."""

    values: dict[str, dict[bytes, bytes]]
    "By topic: the newest value of each key."
    offsets: dict[str, int]
    "By topic: the offset of the newest record; -1 if there is none."
    undecided: frozenset[str] = frozenset()
    "Topics in which an open transaction hides later records."


def read_compacted(
    clients: Clients,
    topics: tuple[str, ...],
    partition: int,
    *,
    is_stopped: Callable[[], bool] = lambda: False,
) -> dict[str, dict[bytes, bytes]]:
    """Read partition `partition` of several topics. Return the newest committed value of each key, by topic."""
    return read_partition(clients, topics, partition, is_stopped=is_stopped).values


def read_partition(
    clients: Clients,
    topics: tuple[str, ...],
    partition: int,
    *,
    is_stopped: Callable[[], bool] = lambda: False,
    decided_within_s: float = math.inf,
) -> PartitionContents:
    """Read partition `partition` of several topics to its end.

    An open transaction may hide the newest records. `decided_within_s` is the number of seconds to wait until the
    transaction ends. If it stays open for longer, `undecided` contains the topic. By default the reading does not wait:
    it ends at the last stable offset.

    Blocks, and logs its progress. Raises ShardRestartError if the partition cannot be read, and HandedOverError soon
    after `is_stopped` returns True.
    """
    values: dict[str, dict[bytes, bytes]] = {topic: {} for topic in topics}
    offsets = dict.fromkeys(topics, -1)
    with LogReader(clients) as reader:
        progress = _Progress(reader, partition, is_stopped)
        starts = from_beginning((topic, partition) for topic in topics)
        try:
            for records in reader.read_to_end(starts, decided_within_s=decided_within_s, progress=progress.check):
                progress.records += len(records)
                for record in records:
                    topic = record.topic() or ""
                    offsets[topic] = record.offset() or 0
                    apply(values[topic], record)
        except (BrokersUnavailableError, FatalError) as error:
            raise ShardRestartError(str(error)) from error
        return PartitionContents(values, offsets, frozenset(topic for topic, _ in reader.undecided))


class _Progress:
    """Log of the progress of a restoration. It also stops the reading if the shard must be released."""

    def __init__(self, reader: LogReader, shard: int, is_stopped: Callable[[], bool]) -> None:
        self.records = 0
        self._reader = reader
        self._shard = shard
        self._is_stopped = is_stopped
        self._logged_at = time.monotonic()

    def check(self) -> None:
        """Log the progress every few seconds. Raises HandedOverError if the shard must be released."""
        if self._is_stopped():
            raise HandedOverError
        if time.monotonic() - self._logged_at > _LOG_EVERY_S:
            self._logged_at = time.monotonic()
            _logger.info("shard_restoring", shard=self._shard, records=self.records, offsets_left=self._reader.left())


def trim_heap() -> None:
    """Give free memory of the process back to the operating system, after a restoration.

    Otherwise glibc keeps the memory, and the process would occupy twice the memory that it needs.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)
