"""Privacy treatment of rows: personal data is made unreadable before anything leaves the process.

1. `null` and "" stay as they are, because they hold no personal data.
2. A value that cannot be treated is not let through: one that is not a string becomes null, and a row that is not an
   object becomes empty.
3. In JSON that the schema does not know (dead letters, further members) a treated field is recognized however its name
   is spelled (escapes, upper and lower case), each time it occurs, and at any depth.
"""

import hashlib
import hmac
import json
import re
from collections.abc import Callable, Mapping
from typing import Any

KEY_MIN_BYTES = 32
CLEAR = 6  # country and area code of a phone number, which still tell calls apart
_TOKEN = re.compile(rb'\s+|"[^"\\]*(?:\\.[^"\\]*)*"|[{}\[\],:]|[^\s{}\[\],:"]+', re.DOTALL)
_STRING, _OPEN, _CLOSE, _OBJECT = (b'"', b"{[", b"}]", b"{")

Treat = Callable[[str], str | None]


def treatable(schema: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the fields of a row's Avro schema that may be treated: strings of Graph, except the row's identity."""
    return tuple(
        field["name"]
        for field in schema["fields"]
        if "since" in field and field["name"] != "id" and field["type"] in ("string", ["null", "string"])
    )


def mask(value: str, clear: int = CLEAR) -> str:
    """Return the value with its letters and digits replaced by stars. A phone number keeps `clear` characters.

    A value that begins with + or a digit counts as a phone number.
    """
    clear = clear if value[:1] == "+" or value[:1].isdecimal() else 0
    return value[:clear] + "".join("*" if character.isalnum() else character for character in value[clear:])


def pseudonym(key: bytes) -> Callable[[str], str]:
    """Return a function that turns a value into `{kid}:{hex}`, always the same for the same value and key."""
    kid = hashlib.sha256(key).hexdigest()[:8]

    def treat(value: str) -> str:
        return f"{kid}:{hmac.digest(key, value.encode(), 'sha256').hex()}" if value else value

    return treat


def _drop(value: str) -> str | None:
    return None if value else value


class Privacy:
    """Privacy treatment of rows and their JSON. It is false when no field is treated."""

    def __init__(self, treatments: Mapping[str, str], key: bytes | None) -> None:
        """Set the treatment per field: mask, pseudonymize or drop. `key` is needed for pseudonymize."""
        known: dict[str, Treat] = {"mask": mask, "drop": _drop}
        if key is not None:
            known["pseudonymize"] = pseudonym(key)
        self._fields = [(name, known[treatment]) for name, treatment in treatments.items()]
        self._by_spelling = {name.casefold(): treat for name, treat in self._fields}

    def __bool__(self) -> bool:
        return bool(self._fields)

    def treat(self, columns: dict[str, list[Any]]) -> None:
        """Treat the values of rows in place. `columns` has one column per field."""
        for name, treat in self._fields:
            columns[name] = [value if value is None else treat(value) for value in columns[name]]

    def treat_members(self, members: Mapping[str, str]) -> dict[str, str]:
        """Return members that the schema does not know, treated.

        Each is JSON text; one that cannot be read is left out.
        """
        treated = {}
        for name, text in members.items():
            result = self._treat_json(text.encode(), self._by_spelling.get(name.casefold()))
            if result:
                treated[name] = result.decode()
        return treated

    def treat_row(self, raw: bytes) -> bytes:
        """Return a row's JSON with its fields treated and all other bytes unchanged; empty when it is not an object."""
        if not self:
            return raw
        return self._treat_json(raw, None) if raw.lstrip().startswith(_OBJECT) else b""

    def _treat_json(self, raw: bytes, treat: Treat | None) -> bytes:
        try:
            return b"".join(_Rewriting(self._by_spelling, treat).run(raw))
        except (ValueError, IndexError):
            return b""


class _Rewriting:
    """One pass over a JSON text. It does not recurse, because rows may be nested deeper than Python allows calls."""

    def __init__(self, treats: Mapping[str, Treat], treat: Treat | None) -> None:
        self._treats = treats
        self._treat = treat
        "Treatment of the value that comes next."
        self._inside: list[bytes] = []
        self._is_name = False
        self._hidden_from = 0
        "Depth of a value that is left out. Nothing at this depth or deeper is written."

    def run(self, raw: bytes) -> list[bytes]:
        """Return the pieces of the result. Raises ValueError or IndexError when `raw` is not JSON."""
        pieces: list[bytes] = []
        at = 0
        while at < len(raw):
            match = _TOKEN.match(raw, at)
            if match is None:
                raise ValueError("a string without end")
            token, at = match.group(), match.end()
            pieces.append(token if token.isspace() and not self._hidden_from else self._take(token))
        if self._inside:
            raise ValueError("an object or array without end")
        return pieces

    def _take(self, token: bytes) -> bytes:
        # In an object the token before `:` is a name, which selects the treatment of the value after it. An object or
        # array in place of that value becomes null.
        first = token[:1]
        if first in _OPEN:
            return self._enter(token)
        if first in _CLOSE:
            return self._leave(token)
        if first == b",":
            self._is_name = self._inside[-1] == _OBJECT
            self._treat = None
        elif first == b":":
            self._is_name = False
        elif self._hidden_from:
            return b""
        elif self._is_name:
            self._treat = self._treats.get(_text(token).casefold())
        elif self._treat is not None:
            treat, self._treat = self._treat, None
            return _treated(token, treat)
        return b"" if self._hidden_from else token

    def _enter(self, token: bytes) -> bytes:
        self._inside.append(token)
        self._is_name = token == _OBJECT
        hides = self._treat is not None and not self._hidden_from
        self._treat = None
        if hides:
            self._hidden_from = len(self._inside)
            return b"null"
        return b"" if self._hidden_from else token

    def _leave(self, token: bytes) -> bytes:
        if _OPEN.index(self._inside.pop()) != _CLOSE.index(token):
            raise ValueError("brackets that do not match")
        self._is_name = False
        if self._hidden_from:
            if len(self._inside) < self._hidden_from:
                self._hidden_from = 0
            return b""
        return token


def _treated(token: bytes, treat: Treat) -> bytes:
    """Return a value's JSON, treated; null where it is not a string of valid characters."""
    if token[:1] != _STRING:
        return b"null"
    text = _text(token)
    try:
        text.encode()
    except UnicodeEncodeError:
        return b"null"
    result = treat(text)
    return token if result == text else json.dumps(result, ensure_ascii=False).encode()


def _text(token: bytes) -> str:
    text: str = json.loads(token.decode(), strict=False)
    if not isinstance(text, str):
        raise ValueError("a name that is no string")  # noqa: TRY004 - the error for all text that is not JSON
    return text
