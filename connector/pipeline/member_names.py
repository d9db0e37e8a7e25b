"""Names of members that the schema does not know: a bounded set, so that no source can fill memory or the log."""

from collections.abc import Iterable, Iterator

MAX_NAMES = 100
MAX_CHARACTERS = 64


class MemberNames:
    """The first MAX_NAMES different names. Members with further names are counted, not named."""

    def __init__(self) -> None:
        self._names: dict[str, None] = {}
        self.unnamed = 0
        "Number of members whose name came after the first MAX_NAMES."

    def __contains__(self, name: str) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def add(self, names: Iterable[str]) -> list[str]:
        """Add names, cut to MAX_CHARACTERS, and return those that are new. Each name takes constant time."""
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
