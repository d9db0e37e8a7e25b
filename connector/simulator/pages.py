"""Pages of the rows that are visible at a given time. All times are epoch milliseconds."""

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from connector.simulator.calls import MOST_MOVED_MS, Block, CallSequence, Longs
from connector.simulator.options import Order
from connector.simulator.row_content import Texts, beta, key_of

K = TypeVar("K")
V = TypeVar("V")

_INDEX_ROWS = 2_000_000
_TEXT_BYTES = 256 * 1024 * 1024
_TENANT = 64
_ID = slice(7, 43)  # place of the id in the JSON text of a row


class WeightedCache(Generic[K, V]):
    """Cache with a limit on the total weight of its entries. It removes the least recently used entries first."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._weight = 0
        self._kept: OrderedDict[K, tuple[V, int]] = OrderedDict()

    def get(self, key: K) -> V | None:
        """Return a cached value and mark it as used, or return None."""
        kept = self._kept.get(key)
        if kept is None:
            return None
        self._kept.move_to_end(key)
        return kept[0]

    def put(self, key: K, value: V, weight: int) -> None:
        """Add a value that is not in the cache yet."""
        self._kept[key] = (value, weight)
        self._weight += weight
        while self._weight > self.most and len(self._kept) > 1:
            self._weight -= self._kept.popitem(last=False)[1][1]


@dataclass(frozen=True, slots=True)
class Pick:
    """Rows of one block that are on a page.

    `calls` are the positions of their calls in the block, in the order in which the rows are served. `versions` has the
    current version of every call of the block.
    """

    block: Block
    calls: Longs
    versions: NDArray[np.int8]


@dataclass(frozen=True, slots=True)
class ServedPage:
    """Rows of one page, as JSON and as references to their blocks. `more` is true if another page follows."""

    rows: list[bytes]
    more: bool
    picks: list[Pick]


class Version(NamedTuple):
    """One version of one row, visible from `visible_ms` until `until_ms`. It is still visible if `until_ms` is None."""

    block: Block
    call: int
    number: int
    visible_ms: int
    until_ms: int | None
    fits: bool
    text: bytes


class CallLog:
    """Call log of one tenant, which returns its rows in pages.

    Several tenants may share the caches: `index` has blocks of calls, `texts` has the JSON text of rows. In each
    method, `at_ms` is the simulated current time. Rows that appear later are left out.
    """

    def __init__(
        self,
        calls: CallSequence,
        index: WeightedCache[tuple[int, int], Block] | None = None,
        texts: WeightedCache[tuple[int, int], Texts] | None = None,
    ) -> None:
        self.calls = calls
        self._index = WeightedCache[tuple[int, int], Block](_INDEX_ROWS) if index is None else index
        self._texts = WeightedCache[tuple[int, int], Texts](_TEXT_BYTES) if texts is None else texts
        self.withdrawn: frozenset[bytes] = frozenset()
        "Ids of rows that no page contains any more."

    def block(self, number: int) -> Block:
        """Return the calls of the block `number`, from the cache if it has them."""
        key = (self.calls.key, number)
        block = self._index.get(key)
        if block is None:
            block = self.calls.block(number)
            self._index.put(key, block, len(block) + _TENANT)
        return block

    def texts(self, block: Block) -> Texts:
        """Return the rows of a block as JSON text, from the cache if it has them."""
        key = (self.calls.key, block.number)
        texts = self._texts.get(key)
        if texts is None:
            texts = Texts(self.calls.recipe, self.calls.key, block)
            self._texts.put(key, texts, texts.size)
        return texts

    def page(
        self,
        bounds: tuple[int, int],
        at_ms: int,
        offset: int,
        limit: int,
        order: Order = "start",
        *,
        is_beta: bool = False,
    ) -> ServedPage:
        """Return one page of the rows that are visible at `at_ms` and whose call start is within `bounds`.

        The page begins at the row number `offset` and has at most `limit` rows.
        """
        chosen = self._by_id(bounds, at_ms) if order == "id" else self._by_start(bounds, at_ms, order, offset)
        picks: list[Pick] = []
        wanted, more = limit, False
        for pick, count in chosen:
            if offset >= count:
                offset -= count
                continue
            if not wanted:
                more = True
                break
            taken = pick.calls[offset : offset + wanted]
            more = offset + len(taken) < count
            offset = 0
            wanted -= len(taken)
            picks.append(Pick(pick.block, taken, pick.versions))
            if more:
                break
        rows: list[bytes] = []
        for pick in picks:
            rows += self._rows(pick, is_beta=is_beta)
        return ServedPage(rows, more, picks)

    def _rows(self, pick: Pick, *, is_beta: bool) -> list[bytes]:
        texts, block = self.texts(pick.block), pick.block
        calls = pick.calls.tolist()
        if block.changes:
            versions = pick.versions
            rows = [
                texts.text(call, int(versions[call])) if call in block.changes else texts.first[call] for call in calls
            ]
        elif len(calls) == len(block) and calls[0] == 0:
            rows = texts.first
        else:
            rows = [texts.first[call] for call in calls]
        return [beta(row, key_of(block, call)) for row, call in zip(rows, calls, strict=True)] if is_beta else rows

    def _by_start(self, bounds: tuple[int, int], at_ms: int, order: Order, offset: int) -> Iterator[tuple[Pick, int]]:
        numbers = self.calls.numbers(*bounds)
        for number in reversed(numbers) if order == "newest" else numbers:
            block = self.block(number)
            if self._is_inside(block, bounds) and not self.withdrawn:
                count = block.count(at_ms)
                if count <= offset:
                    offset -= count
                    yield _NOTHING, count
                    continue
            calls, versions = self._seen(block, bounds, at_ms)
            offset -= min(offset, len(calls))
            yield Pick(block, calls[::-1] if order == "newest" else calls, versions), len(calls)

    def _by_id(self, bounds: tuple[int, int], at_ms: int) -> Iterator[tuple[Pick, int]]:
        """Yield the visible rows in the order of their keys, which are random.

        A row that becomes visible later can therefore have any place in this order.
        """
        blocks = [self.block(number) for number in self.calls.numbers(*bounds)]
        seen = [self._seen(block, bounds, at_ms) for block in blocks]
        if not seen:
            return
        keys = np.concatenate([block.keys[calls] for block, (calls, _) in zip(blocks, seen, strict=True)])
        owner = np.repeat(np.arange(len(blocks)), [len(calls) for calls, _ in seen])
        calls = np.concatenate([calls for calls, _ in seen])
        order = np.argsort(keys, kind="stable")
        edges = [0, *(np.flatnonzero(np.diff(owner[order])) + 1).tolist(), len(order)]
        for first, end in pairwise(edges):
            if first < end:
                number = int(owner[order[first]])
                yield Pick(blocks[number], calls[order[first:end]], seen[number][1]), end - first

    @staticmethod
    def _is_inside(block: Block, bounds: tuple[int, int]) -> bool:
        return block.from_ms - MOST_MOVED_MS >= bounds[0] and block.to_ms + MOST_MOVED_MS <= bounds[1]

    def _seen(self, block: Block, bounds: tuple[int, int], at_ms: int) -> tuple[Longs, NDArray[np.int8]]:
        calls, versions = block.view(at_ms)
        if self.withdrawn:
            texts = self.texts(block)
            is_left = [texts.text(call, 0)[_ID] not in self.withdrawn for call in calls.tolist()]
            calls = calls[np.array(is_left, np.bool_)]
        if self._is_inside(block, bounds):
            return calls, versions
        starts = block.start
        if block.changes:
            starts = starts.copy()
            for call in block.changes:
                starts[call] = block.start_of(call, max(0, int(versions[call])))
        kept = starts[calls]
        return calls[(kept >= bounds[0]) & (kept < bounds[1])], versions

    def versions(self, bounds: tuple[int, int], at_ms: int, *, is_beta: bool = False) -> Iterator[Version]:
        """Yield every row version that has appeared by `at_ms` and whose call start is within `bounds`."""
        for number in self.calls.numbers(*bounds):
            block = self.block(number)
            texts = self.texts(block)
            for call in range(len(block)):
                count = block.version_count(call)
                for version in range(count):
                    visible = block.visible_from(call, version)
                    if visible > at_ms or not bounds[0] <= block.start_of(call, version) < bounds[1]:
                        continue
                    until = block.visible_from(call, version + 1) if version + 1 < count else None
                    row = texts.text(call, version)
                    yield Version(
                        block,
                        call,
                        version,
                        visible,
                        None if until is None or until > at_ms else until,
                        block.fits(call, version),
                        beta(row, key_of(block, call)) if is_beta else row,
                    )


_NO_CALLS: Longs = np.empty(0, dtype=np.int64)
_NOTHING = Pick(
    Block(
        (0, 0, 0),
        np.empty(0, dtype=np.uint64),
        np.empty(0, dtype=np.uint64),
        (_NO_CALLS, _NO_CALLS, _NO_CALLS),
        (np.empty(0, dtype=np.bool_), np.empty(0, dtype=np.bool_), np.empty(0, dtype=np.int8)),
        ({}, {}),
    ),
    _NO_CALLS,
    np.empty(0, dtype=np.int8),
)
