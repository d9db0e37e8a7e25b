"""Search for values that must not appear, byte by byte."""

import json
import re
from collections import defaultdict
from collections.abc import Iterable


class Watch:
    """Finds values in bytes, plain and as JSON escapes them."""

    def __init__(self, values: Iterable[str]) -> None:
        self._by_beginning: dict[bytes, set[bytes]] = defaultdict(set)
        for value in values:
            for text in (value, json.dumps(value)[1:-1]):
                self._by_beginning[text.encode()[:6]].add(text.encode())
        self._any = re.compile(b"|".join(map(re.escape, self._by_beginning)))

    def find(self, content: bytes) -> set[bytes]:
        return {
            value
            for match in self._any.finditer(content)
            for value in self._by_beginning[match.group()]
            if content.startswith(value, match.start())
        }
