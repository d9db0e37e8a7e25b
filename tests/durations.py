"""Durations of tests, kept in tests/durations.json so that the longest tests start first.

`make test KEEP_DURATIONS=1` updates the file with what it measured.
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

FILE = Path(__file__).with_name("durations.json")
SHORTEST_S = 1.0
"Shortest duration that the file contains."
UNKNOWN_BROKER_S = 5.0
"Assumed duration of a test on a broker that was not measured yet."

Test = tuple[str, str, bool]
"Name, group and whether it runs on a broker. Tests of a group run in one process, in their order."


_GROUP = re.compile(r"@(?:several_java|java-\d|tests/\S+\.py)$")


def without_group(name: str) -> str:
    """Return a test's name without the group that pytest-xdist appends to it."""
    return _GROUP.sub("", name)


def load(file: Path = FILE) -> dict[str, float]:
    """Return the known durations in seconds, by test name."""
    known: dict[str, float] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    return known


def keep(measured: Mapping[str, float], file: Path = FILE) -> None:
    """Update the file with measured durations."""
    known = {name: round(seconds, 1) for name, seconds in {**load(file), **measured}.items() if seconds >= SHORTEST_S}
    file.write_text(json.dumps(known, indent=0, sort_keys=True) + "\n", encoding="utf-8")


def sums(tests: Sequence[Test], known: Mapping[str, float]) -> dict[str, float]:
    """Return the expected duration of each group in seconds. A test without a group is one by its name."""
    found: dict[str, float] = {}
    for name, group, on_broker in tests:
        seconds = known.get(name, UNKNOWN_BROKER_S if on_broker else 0.0)
        found[group or name] = found.get(group or name, 0.0) + seconds
    return found


def balanced(durations: Mapping[str, float], lanes: int) -> dict[str, int]:
    """Return a lane from 0 to `lanes` - 1 for each name, so that the lanes last almost equally long."""
    totals = [0.0] * lanes
    chosen: dict[str, int] = {}
    for name in sorted(durations, key=lambda name: (-durations[name], name)):
        lane = totals.index(min(totals))
        chosen[name] = lane
        totals[lane] += durations[name]
    return chosen


def longest_first(tests: Sequence[Test], known: Mapping[str, float]) -> list[int]:
    """Return the positions of tests in starting order: groups stay together, the longest sum of durations first."""
    lasting = sums(tests, known)
    groups = [group or name for name, group, _ in tests]
    first = {group: position for position, group in reversed(list(enumerate(groups)))}
    return sorted(range(len(tests)), key=lambda n: (-lasting[groups[n]], first[groups[n]], n))
