"""Names of JSON members of rows that the schema does not have.

The number of stored names is limited, so that Graph cannot fill memory or the log.
"""

from collections.abc import Iterable, Iterator

MAX_NAMES = 100
MAX_CHARACTERS = 64


class MemberNames:
    """Names of those JSON members of rows that the schema does not have.

    The first MAX_NAMES names are stored. Members with other names are only counted.
    """

    def __init__(self) -> None:
        self._names: dict[str, None] = {}
        self.unnamed = 0
        "Number of members whose name was not stored, because MAX_NAMES names were already stored."

    def __contains__(self, name: str) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def add(self, names: Iterable[str]) -> list[str]:
        """Store names, each cut to MAX_CHARACTERS. Return those that were not stored before."""
        new: list[str] = []
        for name in names:
            short = name if len(name) <= MAX_CHARACTERS else f"{name[:MAX_CHARACTERS]}…"
            if short in self._names:
                continue
            if len(self._names) < MAX_NAMES:
                self._names[short] = None
                new.append(short)
            else:
                self.unnamed += 1
        return new
