"""Simulated calls, and the times at which the versions of their rows become visible. Times are epoch milliseconds.

1. A call depends only on the seed, the tenant, the day and the call's number in that day. It never depends on the clock
   or on earlier requests.
2. Every random number is a hash of the call's key and a slot number. The slot states what the number is used for. Only
   + - * / are applied to random numbers, so that the times are the same on every machine.
3. Calls are generated in blocks. A block holds the calls that begin in one range of time, and can be cached.
4. A later version of a row may have another call start than the first version. The difference is at most
   `MOST_MOVED_MS`, so this start may lie outside of the block.
"""

from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from connector.simulator.options import DURATIONS, LATENESS, Recipe, Spread

Longs: TypeAlias = NDArray[np.int64]
Words: TypeAlias = NDArray[np.uint64]
Floats: TypeAlias = NDArray[np.float64]

DAY_MS = 86_400_000
MOST_MOVED_MS = 60_000
ROWS_A_BLOCK = 150

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15
_BLOCK_LENGTHS_S = (60, 300, 900, 3600, 21600, 86400)
_LEG_SHARE = 0.1
_LEG_SPREAD_MS = 4000
_FAILING_MS = 30_000

# Slots of a call's random numbers. The text of the row uses slots 16 and above.
_POSITION, _LEG, _KIND, _DIGITS, _LENGTH, _LENGTH_IN, _LATE, _LATE_IN, _REVISED, _UNFIT = range(10)
_SLOTS = 10
_CHANGE_SLOTS = 10
TEXT_SLOTS = 16

# Number of digits after the decimal point of a row's times. Each entry applies to 5 % of the rows.
_DIGITS_OF_20 = np.array([3] * 14 + [0, 1, 2, 5, 6, 7], dtype=np.int8)


def mix(words: Words) -> Words:
    """Return a 64-bit hash of each word, computed by the last step of the splitmix64 algorithm."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


def mix_one(word: int) -> int:
    """Return the same hash as `mix`, for a single Python integer."""
    word &= _MASK
    word = ((word ^ (word >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    word = ((word ^ (word >> 27)) * 0x94D049BB133111EB) & _MASK
    return word ^ (word >> 31)


def draw(keys: Words, first: int, count: int) -> Words:
    """Return `count` random 64-bit words for each key, from the slot number `first` on.

    The same key and slot number always give the same word. The array has one row per slot and one column per key.
    """
    steps = np.arange(first + 1, first + count + 1, dtype=np.uint64) * np.uint64(_GOLDEN)
    return mix(keys[None, :] + steps[:, None])


def _unit(words: Words) -> Floats:
    return (words >> np.uint64(11)).astype(np.float64) * 2.0**-53


def tenant_key(seed: int, number: int) -> int:
    """Return the key of a tenant, from which all its random numbers are derived."""
    return mix_one(mix_one(seed + 0x51ED270B) + (number + 1) * _GOLDEN)


def guid(high: int, low: int) -> str:
    """Return a GUID of version 4 that is made of two 64-bit words."""
    text = f"{high & _MASK:016x}{low & _MASK:016x}"
    return f"{text[:8]}-{text[8:12]}-4{text[13:16]}-{'89ab'[int(text[16], 16) & 3]}{text[17:20]}-{text[20:]}"


@lru_cache(maxsize=64)
def _sampler(text: str, named: str) -> tuple[Floats, Longs, Longs]:
    parts = Spread.parse(text, {"lateness": LATENESS, "durations": DURATIONS}.get(named, {})).parts
    shares = np.cumsum(np.array([part[0] for part in parts]))
    return shares / shares[-1], np.array([p[1] for p in parts]), np.array([p[2] for p in parts])


def _sample_ms(text: str, named: str, which: Floats, where: Floats) -> Longs:
    shares, low, high = _sampler(text, named)
    part = np.minimum(np.searchsorted(shares, which, side="right"), len(shares) - 1)
    least = low[part]
    sampled: Longs = (least + (high[part] - least) * where * where).astype(np.int64)
    return sampled


def _curve(recipe: Recipe) -> tuple[list[float], list[float]]:
    """Return the distribution of calls over a day.

    The first list has times of the day in ms. The second list has the share of calls that began before each time.
    """
    if recipe.shape == "flat":
        return [0.0, float(DAY_MS)], [0.0, 1.0]
    eight, eighteen = 8 * 3_600_000.0, 18 * 3_600_000.0
    morning = 0.1 * 8 / 14
    return [0.0, eight, eighteen, float(DAY_MS)], [0.0, morning, morning + 0.9, 1.0]


class LaterVersion(NamedTuple):
    """Later version of a row: the time from which it is visible, and its value of `startDateTime`."""

    visible_ms: int
    start_ms: int


class Block:
    """Calls that began in [from_ms, to_ms), ordered by their start. Each array has one entry per call."""

    __slots__ = (
        "_final",
        "_sorted",
        "base_keys",
        "changes",
        "digits",
        "end",
        "failed",
        "from_ms",
        "keys",
        "late_start",
        "number",
        "settled_ms",
        "start",
        "to_ms",
        "unfit",
        "visible",
    )

    def __init__(
        self,
        bounds: tuple[int, int, int],
        keys: Words,
        base_keys: Words,
        times: tuple[Longs, Longs, Longs],
        kinds: tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.int8]],
        sparse: tuple[dict[int, tuple[LaterVersion, ...]], dict[int, int]],
    ) -> None:
        self.number, self.from_ms, self.to_ms = bounds
        self.keys = keys
        self.base_keys = base_keys
        self.start, self.end, self.visible = times
        self.failed, self.late_start, self.digits = kinds
        self.changes, self.unfit = sparse
        last = int(self.visible.max()) if len(keys) else 0
        self.settled_ms = max([last, *(changes[-1].visible_ms for changes in self.changes.values())])
        self._sorted: Longs | None = None
        self._final: tuple[Longs, NDArray[np.int8]] | None = None

    def __len__(self) -> int:
        """Return the number of calls in the block."""
        return len(self.keys)

    def count(self, at_ms: int) -> int:
        """Return how many rows are visible at `at_ms`."""
        if at_ms >= self.settled_ms:
            return len(self.keys)
        if self._sorted is None:
            self._sorted = np.sort(self.visible)
        return int(np.searchsorted(self._sorted, at_ms, side="right"))

    def view(self, at_ms: int) -> tuple[Longs, NDArray[np.int8]]:
        """Return which rows are visible at `at_ms`, and with which version.

        The first array has the positions of the calls whose rows are visible. The second array has one version number
        per call, which is -1 if the row is not visible yet.
        """
        if at_ms >= self.settled_ms:
            if self._final is None:
                self._final = self._view(at_ms)
            return self._final
        return self._view(at_ms)

    def _view(self, at_ms: int) -> tuple[Longs, NDArray[np.int8]]:
        versions = np.where(self.visible <= at_ms, 0, -1).astype(np.int8)
        for call, changes in self.changes.items():
            for version, change in enumerate(changes, 1):
                if change.visible_ms <= at_ms:
                    versions[call] = version
        return np.flatnonzero(versions >= 0).astype(np.int64), versions

    def start_of(self, call: int, version: int) -> int:
        """Return the call start that a version of a row states, in ms. `call` is the call's position in the block."""
        return self.changes[call][version - 1].start_ms if version else int(self.start[call])

    def visible_from(self, call: int, version: int) -> int:
        """Return the time from which a version of a row is visible, in epoch milliseconds."""
        return self.changes[call][version - 1].visible_ms if version else int(self.visible[call])

    def version_count(self, call: int) -> int:
        """Return how many versions the row of a call has in total, including those that are not visible yet."""
        return 1 + len(self.changes.get(call, ()))

    def fits(self, call: int, version: int) -> bool:
        """Return whether a version matches the schema. Only the first version of an invalid row does not match."""
        return version > 0 or call not in self.unfit


class CallSequence:
    """All calls of one tenant that began at `since_ms` or later."""

    def __init__(self, recipe: Recipe, key: int, since_ms: int) -> None:
        self.recipe = recipe
        self.key = key
        self.since_ms = since_ms
        wanted = [s for s in _BLOCK_LENGTHS_S if recipe.calls_per_day * s >= ROWS_A_BLOCK * 86400]
        self.block_ms = (wanted[0] if wanted else 86400) * 1000
        self._times, self._shares = _curve(recipe)

    def numbers(self, from_ms: int, to_ms: int) -> range:
        """Return the numbers of all blocks that can contain rows whose start time is in [from_ms, to_ms)."""
        first = max(from_ms - MOST_MOVED_MS, self.since_ms) // self.block_ms
        return range(first, max(first, -((-to_ms - MOST_MOVED_MS) // self.block_ms)))

    def block(self, number: int) -> Block:
        """Generate the block with the number `number`: all calls that begin in its range of time."""
        recipe = self.recipe
        from_ms = number * self.block_ms
        to_ms = from_ms + self.block_ms
        day = from_ms // DAY_MS
        day_ms = day * DAY_MS
        calls = self._candidates(from_ms - day_ms, to_ms - day_ms)
        keys = self._keys(day, calls)
        words = draw(keys, 0, _SLOTS)
        unit = _unit(words)
        legs = (calls % 2 == 1) & (unit[_LEG] < _LEG_SHARE)
        base_calls = calls - legs
        base_keys = self._keys(day, base_calls)
        position = (base_calls + _unit(draw(base_keys, _POSITION, 1))[0]) / max(recipe.calls_per_day, 1)
        start = np.interp(position, self._shares, self._times).astype(np.int64)
        start += np.where(legs, (unit[_POSITION] * _LEG_SPREAD_MS).astype(np.int64), 0)
        start = np.minimum(start, DAY_MS - 1) + day_ms
        digits = _DIGITS_OF_20[(unit[_DIGITS] * 20).astype(np.int64)]
        step = np.where(digits == 0, 1000, np.where(digits == 1, 100, np.where(digits == 2, 10, 1)))
        start -= start % step
        kept = np.flatnonzero((start >= max(from_ms, self.since_ms)) & (start < to_ms))
        kept = kept[np.argsort(start[kept], kind="stable")]
        start, digits, unit, words = start[kept], digits[kept], unit[:, kept], words[:, kept]
        keys, base_keys = keys[kept], base_keys[kept]

        failed = unit[_KIND] < recipe.failed
        late_start = failed & ((words[_KIND] & np.uint64(3)) == 0)
        length = _sample_ms(recipe.durations, "durations", unit[_LENGTH], unit[_LENGTH_IN])
        failing = np.where(late_start, 0, (unit[_LENGTH_IN] * _FAILING_MS).astype(np.int64))
        end = start + np.where(failed, failing, length)
        visible = end + _sample_ms(recipe.lateness, "lateness", unit[_LATE], unit[_LATE_IN])
        if recipe.latest_ms is not None:
            visible = np.maximum(np.minimum(visible, start + recipe.latest_ms), end)
        changes = self._changes(keys, start, visible, unit)
        spoiled = self._unfit(unit[_UNFIT], words[_UNFIT])
        # An invalid row has at most one later version, which is valid. If invalid rows that are not JSON objects had
        # several versions, these would have the same bytes.
        changes.update({call: changes[call][:1] for call in spoiled if call in changes})
        return Block(
            (number, from_ms, to_ms),
            keys,
            base_keys,
            (start, end, visible),
            (failed, late_start, digits),
            (changes, spoiled),
        )

    def _keys(self, day: int, calls: Longs) -> Words:
        of_day = mix_one(self.key + day * 0xD1342543DE82EF95)
        return mix(np.uint64(of_day) ^ (calls.astype(np.uint64) * np.uint64(0xA24BAED4963EE407)))

    def _candidates(self, from_ms: int, to_ms: int) -> Longs:
        """Return the sequence numbers of a day's calls that may begin between `from_ms` and `to_ms` after midnight.

        A few of these calls begin outside of that range, so the caller must check each start.
        """
        total = self.recipe.calls_per_day
        low, high = np.interp([from_ms - 2 * _LEG_SPREAD_MS, to_ms], self._times, self._shares) * total
        return np.arange(max(0, int(low) - 2), min(total, int(high) + 3), dtype=np.int64)

    def _changes(self, keys: Words, start: Longs, visible: Longs, unit: Floats) -> dict[int, tuple[LaterVersion, ...]]:
        recipe = self.recipe
        revised = np.flatnonzero(unit[_REVISED] < recipe.revised)
        if not len(revised):
            return {}
        words = draw(keys[revised], _CHANGE_SLOTS, 6)
        unit = _unit(words)
        delays = [
            _sample_ms(recipe.revised_after, "", unit[slot], _unit(mix(words[slot]))).tolist() for slot in range(3)
        ]
        changes: dict[int, tuple[LaterVersion, ...]] = {}
        for at, call in enumerate(revised.tolist()):
            many = float(unit[3, at])
            seen, began = int(visible[call]), int(start[call])
            latest = None if recipe.latest_ms is None else began + recipe.latest_ms
            if unit[4, at] < recipe.moved:
                began += (int(unit[5, at] * 2 * MOST_MOVED_MS) - MOST_MOVED_MS) // 1000 * 1000
            later = []
            for version in range(1 + (many > 0.75) + (many > 0.95)):
                seen += max(1, delays[version][at])
                if latest is not None and seen > latest:
                    break
                later.append(LaterVersion(seen, began))
            if later:
                changes[call] = tuple(later)
        return changes

    def _unfit(self, unit: Floats, words: Words) -> dict[int, int]:
        unfit = np.flatnonzero(unit < self.recipe.unfit).tolist()
        return {call: int(words[call]) & 0xFFFF for call in unfit}

    def blocks(self, from_ms: int, to_ms: int) -> Iterator[Block]:
        """Yield the blocks that may contain rows with a start in [from_ms, to_ms), oldest first."""
        return map(self.block, self.numbers(from_ms, to_ms))
