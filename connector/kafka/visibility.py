"""Queries about partitions: whether their transactions have ended, and which records are visible to readers.

A transaction has ended in a partition when its commit or abort marker is written there. The query for this needs the
right to describe the topic or to write to it. A query for records needs the right to read the topic.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from confluent_kafka import IsolationLevel, KafkaError, KafkaException, Message, TopicPartition
from confluent_kafka.admin import OffsetSpec

from connector.errors import BrokersUnavailableError, FatalError, HandedOverError, ShardRestartError
from connector.kafka.clients import Clients
from connector.kafka.log_reader import LogReader, Place, place_of

_OFFSETS_S = 2.0
_GONE_AFTER_S = 3.0
_PAUSE_S = 0.05

Places = dict[str, dict[int, list[tuple[int, int]]]]
"Positions of records: for each topic and partition, ranges of offsets (first and last, both included)."


class Lost(NamedTuple):
    """Records that `read_committed` readers do not see, although the log still contains them."""

    records: dict[Place, list[Message]]
    unreadable: dict[Place, str]
    "Partitions for which the right to read is missing, with the reason and the remedy."


def last_offsets(places: Places) -> dict[Place, int]:
    """Return the last offset in `places` for each partition."""
    return {
        (topic, number): offset_ranges[-1][1] for topic, of in places.items() for number, offset_ranges in of.items()
    }


def merge(*parts: Places) -> Places:
    """Return the offset ranges of all parts together. The parts must be in the order in which they were written."""
    merged: Places = {}
    for part in parts:
        for topic, partitions in part.items():
            for number, offset_ranges in partitions.items():
                merged.setdefault(topic, {}).setdefault(number, []).extend(offset_ranges)
    return merged


def after(places: Places, stable: Mapping[Place, int | None]) -> Places:
    """Return the offset ranges in `places` that end at or after the last stable offset of their partition.

    The transaction of such a range may still be open. `stable` holds the last stable offset of each partition. It is
    None for a partition that does not exist: its ranges are left out.
    """
    left: Places = {}
    for topic, partitions in places.items():
        for number, offset_ranges in partitions.items():
            end = stable.get((topic, number), 0)
            open_ranges = [one for one in offset_ranges if end is not None and one[1] >= end]
            if open_ranges:
                left.setdefault(topic, {})[number] = open_ranges
    return left


def offsets(clients: Clients, places: Iterable[Place], isolation: IsolationLevel) -> dict[Place, int | None]:
    """Return the end of each partition, as readers with the given isolation level see it.

    The end is None if the partition does not exist. If no broker answers for a partition, the result does not contain
    it. Blocks.
    """
    latest = OffsetSpec.latest()  # type: ignore[no-untyped-call]
    asked = {TopicPartition(*place): latest for place in places}
    if not asked:
        return {}
    answers = clients.asking.list_offsets(asked, isolation_level=isolation, request_timeout=_OFFSETS_S)
    found: dict[Place, int | None] = {}
    for partition, answer in answers.items():
        try:
            end = answer.result(2 * _OFFSETS_S).offset
        except KafkaException as error:
            if error.args[0].code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
                found[partition.topic, partition.partition] = None
        except TimeoutError:
            pass
        else:
            if end >= 0:  # librdkafka 2.16 returns -1001 without an error if the partition has no leader
                found[partition.topic, partition.partition] = end
    return found


def undecided(
    clients: Clients,
    ends: Mapping[Place, int | None],
    within_s: float,
    is_stopped: Callable[[], bool] = lambda: False,
) -> set[Place]:
    """Wait until all transactions before the offsets in `ends` have ended, for about `within_s` seconds at most.

    Return the partitions in which a transaction is still open. If `ends` contains None for a partition, the current end
    of the partition is used. Blocks. Raises HandedOverError soon after `is_stopped` returns True.
    """
    waiting, goals, missing_since = set(ends), dict[Place, int](), dict[Place, float]()
    deadline = time.monotonic() + within_s
    while True:
        # The high watermark is read once per partition: records that others write later do not prolong the wait.
        for place, high in offsets(clients, waiting - goals.keys(), IsolationLevel.READ_UNCOMMITTED).items():
            if high is not None:
                end = ends[place]
                goals[place] = high if end is None else min(high, end)
            elif time.monotonic() - missing_since.setdefault(place, time.monotonic()) > _GONE_AFTER_S:
                waiting.discard(place)
        for place, stable in offsets(clients, waiting & goals.keys(), IsolationLevel.READ_COMMITTED).items():
            if stable is not None and stable >= goals[place]:
                waiting.discard(place)
        if not waiting or time.monotonic() > deadline:
            return waiting
        if is_stopped():
            raise HandedOverError
        time.sleep(_PAUSE_S)


def lost(clients: Clients, places: Places) -> Lost:
    """Return the records in `places` that `read_committed` readers do not see, although the log still contains them.

    Call this when no transaction is open at lower offsets. Blocks. Raises ShardRestartError if brokers do not answer.
    """
    # One marker decides about all open records of a producer in a partition. So if the last record is visible, all are.
    # Only partitions where the last record is hidden have to be read completely.
    ends = {place: (end, end) for place, end in last_offsets(places).items()}
    visible, unreadable = read(clients, ends, "read_committed")
    hidden = {
        (topic, number): offset_ranges
        for topic, of in places.items()
        for number, offset_ranges in of.items()
        if (topic, number) not in unreadable and offset_ranges[-1][1] not in visible[topic, number]
    }
    ranges = {place: (offset_ranges[0][0], offset_ranges[-1][1]) for place, offset_ranges in hidden.items()}
    written, _ = read(clients, ranges, "read_uncommitted")
    committed, _ = read(clients, ranges, "read_committed")
    found = {
        place: [
            message
            for offset, message in written[place].items()
            if offset not in committed[place] and any(first <= offset <= last for first, last in offset_ranges)
        ]
        for place, offset_ranges in hidden.items()
    }
    return Lost({place: messages for place, messages in found.items() if messages}, unreadable)


def read(
    clients: Clients, ranges: Mapping[Place, tuple[int, int]], isolation: str
) -> tuple[dict[Place, dict[int, Message]], dict[Place, str]]:
    """Read the records in `ranges`, which hold the first and the last offset for each partition.

    Return two mappings. The first holds the records by partition and offset. The second holds the partitions for which
    a right is missing, with the reason. Blocks. Raises ShardRestartError if a partition cannot be read for any other
    reason.
    """
    found: dict[Place, dict[int, Message]] = {of: {} for of in ranges}
    unreadable: dict[Place, str] = {}
    if not ranges:
        return found, unreadable
    starts, ends = ({of: edges[0] for of, edges in ranges.items()}, {of: edges[1] + 1 for of, edges in ranges.items()})
    with LogReader(clients, isolation) as reader:
        try:
            for records in reader.read_to_end(starts, ends, unreadable=unreadable):
                for record in records:
                    found[place_of(record)][record.offset() or 0] = record
        except (BrokersUnavailableError, FatalError) as error:
            raise ShardRestartError(f"the records of earlier transactions cannot be read: {error}") from error
    return found, unreadable
