"""Marker of an unfinished copy. `connector copy-state` writes it to each partition of the state topic that it fills.

No worker starts while its state topic contains a marker. `connector copy-state` works in this order:

1. It writes the marker to all shards.
2. It writes all other records, and compares every shard with the source.
3. It changes all markers to complete, and then removes them. So one complete marker proves that every shard is copied.
"""

from typing import Self

import msgspec

from connector.errors import FatalError
from connector.kafka.seen import Record

KEY = b"copy"
# It is higher than the version of a checkpoint, so that releases that do not know markers refuse the state, too.
_VERSION = 2


class CopyMarker(msgspec.Struct, frozen=True):
    """Marker of a copy: the source of the copy, and whether the copy is complete."""

    app: str
    cluster: str
    topic: str
    ends: tuple[int, ...]
    "Offsets at which the partitions of the source ended when the copy began."
    complete: bool = False
    "True once the copy was compared with the source, so that the markers may be removed."
    v: int = _VERSION

    @classmethod
    def parse(cls, value: bytes) -> Self:
        """Return the marker in the value of a record. Raises FatalError if the connector did not write the value."""
        try:
            return msgspec.json.decode(value, type=cls)
        except msgspec.DecodeError as error:
            raise foreign(KEY) from error

    @property
    def record(self) -> Record:
        """Return the record that stores this marker in the state topic."""
        return Record(KEY, msgspec.json.encode(self))

    def is_from(self, other: "CopyMarker") -> bool:
        """Return whether this marker and `other` name the same app, cluster and row topic as their source."""
        return (self.app, self.cluster, self.topic) == (other.app, other.cluster, other.topic)

    @property
    def source(self) -> str:
        """Return a description of the copy's source, for messages."""
        return f"app {self.app} on cluster {self.cluster}"


def foreign(key: bytes) -> FatalError:
    """Return the error for a record of the state topic that another program has written. `key` is the record's key."""
    return FatalError(
        f"a record in the state topic was not written by the connector (key {key!r})",
        "stop the program that writes to the topic, then delete the record or set kafka.app to a new name",
    )


def incomplete(value: bytes) -> FatalError:
    """Return the error for a state topic that still contains a marker: the copy of the state has not been finished.

    `value` is the value of the marker's record.
    """
    return FatalError(
        f"the state topic contains an incomplete copy of {CopyMarker.parse(value).source}",
        "run connector copy-state again with the same --from, and start the worker when it has succeeded",
    )
