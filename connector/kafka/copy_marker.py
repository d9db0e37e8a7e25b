"""Marker in each state partition of an app that `connector copy-state` fills: no worker may start before it is removed.

The markers are written to all shards before any other record. When everything was compared, all of them are declared
complete, and then removed. So a single complete marker proves that no shard misses anything.
"""

from typing import Self

import msgspec

from connector.errors import FatalError
from connector.kafka.seen import Record

KEY = b"copy"
# The version of a checkpoint is lower, so that a release that knows no markers refuses the state as well.
_VERSION = 2


class CopyMarker(msgspec.Struct, frozen=True):
    """Origin of a copy."""

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
        """Return the marker in a record. Raises FatalError if the connector did not write it."""
        try:
            return msgspec.json.decode(value, type=cls)
        except msgspec.DecodeError as error:
            raise FatalError(f"the state topic holds a record that is none of ours (key {KEY!r})") from error

    @property
    def record(self) -> Record:
        """Return the record of the state topic."""
        return Record(KEY, msgspec.json.encode(self))

    def is_from(self, other: "CopyMarker") -> bool:
        """Return whether both name the same app, cluster and row topic."""
        return (self.app, self.cluster, self.topic) == (other.app, other.cluster, other.topic)

    @property
    def source(self) -> str:
        """Return the source of the copy for a message."""
        return f"app {self.app} on cluster {self.cluster}"


def incomplete(value: bytes) -> FatalError:
    """Return why the state cannot be used, from the value of the marker."""
    return FatalError(
        f"the state is a copy of {CopyMarker.parse(value).source} that is not complete",
        "run connector copy-state again with the same --from, and start the worker when it has succeeded",
    )
