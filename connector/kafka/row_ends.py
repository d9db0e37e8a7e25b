"""Ends of row topics: for each partition, the offset after the last record that a consumer sees."""

from functools import cache
from typing import NamedTuple

from connector.kafka import recreation
from connector.kafka.clients import Clients
from connector.kafka.log_reader import LogReader, place_of

_FIRST_SPAN = 1_000


class RowEnd(NamedTuple):
    """End of a row topic: for each partition, the offset after the last visible record; 0 if there is none."""

    offsets: tuple[int, ...]
    topic_id: str


class RowEnds:
    """Look-up of the ends of row topics. Each topic is looked up only once. The methods block."""

    def __init__(self, clients: Clients) -> None:
        self._clients = clients
        self.of = cache(self._look_up)

    def _look_up(self, topic: str) -> RowEnd:
        """Return the ends of the partitions of a topic. There are none if the topic does not exist.

        The high watermark is not used, because it also counts the markers of transactions, which consumers never see.
        """
        with LogReader(self._clients) as reader:
            bounds = {place: reader.bounds(place) for place in reader.partitions(topic)}
            found = dict.fromkeys(bounds, 0)
            waiting = {place for place, (first, end) in bounds.items() if first < end}
            span = _FIRST_SPAN
            while waiting:
                starts = {place: max(bounds[place][0], bounds[place][1] - span) for place in waiting}
                ends = {place: bounds[place][1] for place in waiting}
                for records in reader.read_to_end(starts, ends):
                    for record in records:
                        found[place_of(record)] = (record.offset() or 0) + 1
                waiting = {place for place in waiting if not found[place] and starts[place] > bounds[place][0]}
                span *= 8
        return RowEnd(tuple(found[place] for place in sorted(found)), recreation.topic_id(self._clients, topic))
