"""Reader of a shard's partitions of the internal topics, up to their end."""

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

_TELL_EVERY_S = 5.0
_logger = log.get(__name__)


class PartitionContents(NamedTuple):
    """Contents of one partition of some topics for a `read_committed` reader."""

    values: dict[str, dict[bytes, bytes]]
    "Newest value of each key, by topic."
    offsets: dict[str, int]
    "Offset of the newest record by topic; -1 if there is none."
    undecided: frozenset[str] = frozenset()
    "Topics with an open transaction, which hides the records after it."


def read_compacted(
    clients: Clients,
    topics: tuple[str, ...],
    partition: int,
    *,
    is_stopped: Callable[[], bool] = lambda: False,
) -> dict[str, dict[bytes, bytes]]:
    """Return by topic the newest value of each key in one partition, up to the last stable offset."""
    return read_partition(clients, topics, partition, is_stopped=is_stopped).values


def read_partition(
    clients: Clients,
    topics: tuple[str, ...],
    partition: int,
    *,
    is_stopped: Callable[[], bool] = lambda: False,
    decided_within_s: float = math.inf,
) -> PartitionContents:
    """Read one partition of some topics to its end.

    `decided_within_s`: seconds to wait for transactions below the high watermark to end. A topic in which one stays
    open for longer is given up and named in `undecided`. By default no topic is given up, and the last stable offset is
    the end.

    Blocks and logs its progress. Raises ShardRestartError when the partition cannot be read, and HandedOverError soon
    after `is_stopped`.
    """
    values: dict[str, dict[bytes, bytes]] = {topic: {} for topic in topics}
    offsets = dict.fromkeys(topics, -1)
    with LogReader(clients) as reader:
        progress = _Progress(reader, partition, is_stopped)
        starts = from_beginning((topic, partition) for topic in topics)
        try:
            for records in reader.read_to_end(starts, decided_within_s=decided_within_s, progress=progress.show):
                progress.records += len(records)
                for record in records:
                    topic = record.topic() or ""
                    offsets[topic] = record.offset() or 0
                    apply(values[topic], record)
        except (BrokersUnavailableError, FatalError) as error:
            raise ShardRestartError(str(error)) from error
        return PartitionContents(values, offsets, frozenset(topic for topic, _ in reader.undecided))


class _Progress:
    """Progress of a restore: logged every few seconds. Ends the restore when the shard was released."""

    def __init__(self, reader: LogReader, shard: int, is_stopped: Callable[[], bool]) -> None:
        self.records = 0
        self._reader = reader
        self._shard = shard
        self._is_stopped = is_stopped
        self._told = time.monotonic()

    def show(self) -> None:
        """Log the progress if it is due. Raises HandedOverError soon after `is_stopped`."""
        if self._is_stopped():
            raise HandedOverError
        if time.monotonic() - self._told > _TELL_EVERY_S:
            self._told = time.monotonic()
            _logger.info("shard_restoring", shard=self._shard, records=self.records, offsets_left=self._reader.left())


def trim_heap() -> None:
    """Return the memory that a restore needed temporarily to the system.

    glibc would keep it, which doubles the memory that the process occupies.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)
