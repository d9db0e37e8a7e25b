"""How long tests take, kept in tests/durations.json so that the longest begin first.

`make test KEEP_DURATIONS=1` writes what it measured over what was known.
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

FILE = Path(__file__).with_name("durations.json")
SHORTEST_S = 1.0
"Tests that take less are not in the file."
UNKNOWN_BROKER_S = 5.0
"What a test on a broker is taken to last before it was measured."

Test = tuple[str, str, bool]
"Name, group and whether it runs on a broker. Tests of a group run in one process, in their order."


_GROUP = re.compile(r"@(?:three_brokers|tests/\S+\.py)$")


def without_group(name: str) -> str:
    """Return a test's name without the group that pytest-xdist appends to it."""
    return _GROUP.sub("", name)


def load(file: Path = FILE) -> dict[str, float]:
    """Return seconds by the name of a test."""
    known: dict[str, float] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    return known


def keep(measured: Mapping[str, float], file: Path = FILE) -> None:
    """Write what was measured over what was known."""
    known = {name: round(seconds, 1) for name, seconds in {**load(file), **measured}.items() if seconds >= SHORTEST_S}
    file.write_text(json.dumps(known, indent=0, sort_keys=True) + "\n", encoding="utf-8")


def longest_first(tests: Sequence[Test], known: Mapping[str, float]) -> list[int]:
    """Return the positions of tests in the order in which they are to begin: groups whole, each by its sum."""
    sums: dict[str, float] = {}
    groups = [group or name for name, group, _ in tests]
    for (name, _, on_broker), group in zip(tests, groups, strict=True):
        sums[group] = sums.get(group, 0.0) + known.get(name, UNKNOWN_BROKER_S if on_broker else 0.0)
    first = {group: position for position, group in reversed(list(enumerate(groups)))}
    return sorted(range(len(tests)), key=lambda n: (-sums[groups[n]], first[groups[n]], n))
