"""Transactions that hang: the coordinator says that they are over, and some partitions never got their markers.

Kafka 4.3.0, 4.3.1 and 4.4.0 take a partition that has no leader at that moment for deleted (KAFKA-20734). So a commit
that was
acknowledged, or an abort, may never reach a partition whose only replica died amid it, or whose replicas all did.
Read_committed readers then wait there; and whatever the producer's id ends next in that partition, be it a commit or an
abort, ends what hangs as well. So a shard ends it before it goes on, by what of it can be seen already:

1. something: it was committed, and it is committed where the shard remembers it;
2. nothing: it is aborted everywhere, and its rows are read and published again.
"""

from collections.abc import Mapping
from typing import Literal

from connector.kafka import state
from connector.kafka.clients import Clients
from connector.kafka.publishing import Position
from connector.kafka.restore import read_compacted
from connector.kafka.topics import Names
from connector.kafka.transaction import Transactions
from connector.kafka.visibility import Place, visible


def end(
    transactions: Transactions,
    clients: Clients,
    names: Names,
    committed: dict[bytes, bytes],
    row_topics: Mapping[str, int],
    position: Position,
) -> Literal["committed", "aborted"]:
    """Ends what hangs of the shard at `position`, whose producer was just opened; returns how. Blocking.

    `committed`: what its partition of the state topic says without it. `row_topics`: the partitions of each topic that
    the shard's transactions write to. Raises ShardRestartError.
    """
    shard = position.partition
    internal = [(names.state, shard), (names.seen, shard)]
    if visible(clients, _last_rows(clients, names.state, shard, committed)):
        transactions.end(internal, position, committed=True)
        return "committed"
    rows = [(topic, number) for topic, count in row_topics.items() for number in range(count)]
    transactions.end(internal + rows, position, committed=False)
    return "aborted"


def _last_rows(clients: Clients, topic: str, shard: int, committed: dict[bytes, bytes]) -> dict[Place, int]:
    """Offsets of the last rows that what hangs in a partition of the state topic tells of, by where they lie."""
    known = state.restore(committed).checkpoints
    open_too = read_compacted(clients, (topic,), shard, isolation="read_uncommitted")[topic]
    found: dict[Place, int] = {}
    for tenant, checkpoint in state.restore(open_too).checkpoints.items():
        before = known[tenant].offsets if tenant in known else ()
        for partition, offset in enumerate(checkpoint.offsets):
            if offset > (before[partition] if partition < len(before) else 0):
                place = checkpoint.topic, partition
                found[place] = max(found.get(place, 0), offset - 1)
    return found
