"""Privacy of rows: personal data in configured fields is made unreadable before it leaves the process.

The configuration determines for each field whether its values are masked, pseudonymized or dropped.

1. `null` and "" stay as they are, because they hold no personal data.
2. Data that cannot be masked or pseudonymized is removed: a value that is not a string becomes null, and a row that is
   not an object becomes empty.
3. Some JSON is not described by the schema (dead letters and unknown members). There, a configured field is recognized
   in every spelling of its name (escapes, upper and lower case), at every occurrence and at any depth.
"""

import hashlib
import hmac
import json
import re
from collections.abc import Callable, Mapping
from typing import Any

KEY_MIN_BYTES = 32
CLEAR = 6  # country and area code of a phone number, which stay readable
_TOKEN = re.compile(rb'\s+|"[^"\\]*(?:\\.[^"\\]*)*"|[{}\[\],:]|[^\s{}\[\],:"]+', re.DOTALL)
_STRING, _OPEN, _CLOSE, _OBJECT = (b'"', b"{[", b"}]", b"{")

Treat = Callable[[str], str | None]


def treatable(schema: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the fields of the Avro schema that may be masked, pseudonymized or dropped.

    These are all fields of Graph with the type string, except the row's id.
    """
    return tuple(
        field["name"]
        for field in schema["fields"]
        if "since" in field and field["name"] != "id" and field["type"] in ("string", ["null", "string"])
    )


def mask(value: str, clear: int = CLEAR) -> str:
    """Replace the letters and digits of a value by stars. A phone number keeps its first `clear` characters.

    A value that begins with + or a digit counts as a phone number.
    """
    clear = clear if value[:1] == "+" or value[:1].isdecimal() else 0
    return value[:clear] + "".join("*" if character.isalnum() else character for character in value[clear:])


def pseudonym(key: bytes) -> Callable[[str], str]:
    """Return a function that replaces a value by `{kid}:{hex}`.

    `kid` identifies the key, and `hex` is an HMAC of the value. The same value and key always give the same result.
    """
    kid = hashlib.sha256(key).hexdigest()[:8]

    def treat(value: str) -> str:
        return f"{kid}:{hmac.digest(key, value.encode(), 'sha256').hex()}" if value else value

    return treat


def _drop(value: str) -> str | None:
    return None if value else value


class Privacy:
    """Masks, pseudonymizes or drops the configured fields of rows. The object is falsy if no field is configured."""

    def __init__(self, treatments: Mapping[str, str], key: bytes | None) -> None:
        """Create the object. `treatments` maps the name of each field to "mask", "pseudonymize" or "drop".

        `key` is only needed for "pseudonymize".
        """
        known: dict[str, Treat] = {"mask": mask, "drop": _drop}
        if key is not None:
            known["pseudonymize"] = pseudonym(key)
        self._fields = [(name, known[treatment]) for name, treatment in treatments.items()]
        self._by_spelling = {name.casefold(): treat for name, treat in self._fields}

    def __bool__(self) -> bool:
        return bool(self._fields)

    def treat(self, columns: dict[str, list[Any]]) -> None:
        """Mask, pseudonymize or drop values of many rows in place.

        `columns` maps the name of each field to the list of its values, one per row.
        """
        for name, treat in self._fields:
            columns[name] = [value if value is None else treat(value) for value in columns[name]]

    def treat_members(self, members: Mapping[str, str]) -> dict[str, str]:
        """Mask, pseudonymize or drop the configured fields in members that the schema does not know.

        `members` maps the name of each member to its JSON text. The result has the same form. A member whose JSON
        cannot be read is left out.
        """
        treated = {}
        for name, text in members.items():
            result = self._treat_json(text.encode(), self._by_spelling.get(name.casefold()))
            if result:
                treated[name] = result.decode()
        return treated

    def treat_row(self, raw: bytes) -> bytes:
        """Return a row's JSON with configured fields masked, pseudonymized or dropped, and all other bytes unchanged.

        The result is empty if the row is not an object.
        """
        if not self:
            return raw
        return self._treat_json(raw, None) if raw.lstrip().startswith(_OBJECT) else b""

    def _treat_json(self, raw: bytes, treat: Treat | None) -> bytes:
        try:
            return b"".join(_Rewriting(self._by_spelling, treat).run(raw))
        except (ValueError, IndexError):
            return b""


class _Rewriting:
    """Rewriter of one JSON text: it masks, pseudonymizes or drops the values of the configured fields.

    It uses a stack instead of recursion, because a row may be nested more deeply than Python's recursion limit.
    """

    def __init__(self, treats: Mapping[str, Treat], treat: Treat | None) -> None:
        self._treats = treats
        self._treat = treat
        "Function that masks, pseudonymizes or drops the next value; None if the next value stays as it is."
        self._inside: list[bytes] = []
        self._is_name = False
        self._hidden_from = 0
        "Depth of the array or object that is being left out; 0 if there is none. Nothing inside it is written."

    def run(self, raw: bytes) -> list[bytes]:
        """Rewrite a JSON text and return the result in pieces. Raises ValueError or IndexError if `raw` is not JSON."""
        pieces: list[bytes] = []
        at = 0
        while at < len(raw):
            match = _TOKEN.match(raw, at)
            if match is None:
                raise ValueError("the JSON text ends inside a string")
            token, at = match.group(), match.end()
            pieces.append(token if token.isspace() and not self._hidden_from else self._take(token))
        if self._inside:
            raise ValueError("the JSON text ends inside an object or array")
        return pieces

    def _take(self, token: bytes) -> bytes:
        # In an object the token before `:` is a name, which decides how the value after it is rewritten. An object or
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
            raise ValueError("the brackets of the JSON text do not match")
        self._is_name = False
        if self._hidden_from:
            if len(self._inside) < self._hidden_from:
                self._hidden_from = 0
            return b""
        return token


def _treated(token: bytes, treat: Treat) -> bytes:
    """Apply `treat`, which masks, pseudonymizes or drops a value, to a JSON value. Return the result as JSON.

    The result is `null` if the value is not a string or contains invalid characters.
    """
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
        raise ValueError("a member name in the JSON text is not a string")  # noqa: TRY004 - the error for all text that is not JSON
    return text
