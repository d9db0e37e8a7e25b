"""Personal data in rows, made unreadable before anything leaves the process.

1. `null` and "" stay as they are: that nothing was said is no personal data.
2. What cannot be treated is not let through: a value that is no string becomes null, a row that is no object nothing.
3. In JSON that the schema does not know (dead letters, further members) a treated field is recognised however its name
   is spelled (escapes, upper and lower case), as often as it is there, and at any depth.
"""

import hashlib
import hmac
import json
import re
from collections.abc import Callable, Mapping
from typing import Any

KEY_MIN_BYTES = 32
_CLEAR = 6  # country and area of a number, by which calls are still told apart
_TOKEN = re.compile(rb'\s+|"[^"\\]*(?:\\.[^"\\]*)*"|[{}\[\],:]|[^\s{}\[\],:"]+', re.DOTALL)
_STRING, _OPEN, _CLOSE, _OBJECT = (b'"', b"{[", b"}]", b"{")

Treat = Callable[[str], str | None]


def treatable(schema: Mapping[str, Any]) -> tuple[str, ...]:
    """The fields of a row's Avro schema that may be treated: strings of Graph's, but not the row's identity."""
    return tuple(
        field["name"]
        for field in schema["fields"]
        if "since" in field and field["name"] != "id" and field["type"] in ("string", ["null", "string"])
    )


def mask(value: str) -> str:
    """The value with stars for letters and digits, of a number (begins with + or a digit) those after the sixth."""
    clear = _CLEAR if value[:1] == "+" or value[:1].isdecimal() else 0
    return value[:clear] + "".join("*" if character.isalnum() else character for character in value[clear:])


def pseudonym(key: bytes) -> Callable[[str], str]:
    """What turns a value into `{kid}:{hex}`: the same for the same value and key."""
    kid = hashlib.sha256(key).hexdigest()[:8]

    def treat(value: str) -> str:
        return f"{kid}:{hmac.digest(key, value.encode(), 'sha256').hex()}" if value else value

    return treat


def _drop(value: str) -> str | None:
    return None if value else value


class Privacy:
    """Treats rows and their JSON. False when there is nothing to treat."""

    def __init__(self, treatments: Mapping[str, str], key: bytes | None) -> None:
        """`treatments`: mask, pseudonymize or drop, by field; `key`: of the pseudonyms, needed for pseudonymize."""
        known: dict[str, Treat] = {"mask": mask, "drop": _drop}
        if key is not None:
            known["pseudonymize"] = pseudonym(key)
        self._fields = [(name, known[treatment]) for name, treatment in treatments.items()]
        self._by_spelling = {name.casefold(): treat for name, treat in self._fields}

    def __bool__(self) -> bool:
        return bool(self._fields)

    def treat(self, columns: dict[str, list[Any]]) -> None:
        """Treats the values of rows, given as a column for each field; lists stay as they are."""
        for name, treat in self._fields:
            columns[name] = [value if value is None else treat(value) for value in columns[name]]

    def treat_members(self, members: Mapping[str, str]) -> dict[str, str]:
        """Members that the schema does not know, each as JSON text, treated; what cannot be read is left out."""
        treated = {}
        for name, text in members.items():
            result = self._treat_json(text.encode(), self._by_spelling.get(name.casefold()))
            if result:
                treated[name] = result.decode()
        return treated

    def treat_row(self, raw: bytes) -> bytes:
        """A row's JSON with its treated members, else byte by byte as it is; empty when it is no object."""
        if not self:
            return raw
        return self._treat_json(raw, None) if raw.lstrip().startswith(_OBJECT) else b""

    def _treat_json(self, raw: bytes, treat: Treat | None) -> bytes:
        try:
            return b"".join(_Rewriting(self._by_spelling, treat).run(raw))
        except (ValueError, IndexError):
            return b""


class _Rewriting:
    """One walk over a JSON text, without recursion: rows may be nested deeper than Python calls."""

    def __init__(self, treats: Mapping[str, Treat], treat: Treat | None) -> None:
        self._treats = treats
        self._treat = treat
        "Of the value that comes next."
        self._inside: list[bytes] = []
        self._is_name = False
        self._hidden_from = 0
        "Depth of a value that is left out: nothing deeper is written."

    def run(self, raw: bytes) -> list[bytes]:
        """The pieces of the result. Raises ValueError or IndexError for what is no JSON."""
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
    """A value's JSON, treated; null where it is no string of whole characters."""
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
        raise ValueError("a name that is no string")  # noqa: TRY004 - a text that is no JSON, as elsewhere here
    return text
