"""Redaction of requests, responses and rows for a support-case file.

Timestamps, ids of rows, SIP codes and regions stay readable, because they hold no personal data and no secrets. The
form of these values is checked, too. Any other value becomes a pseudonym, which is computed with a random key. Within
one file, equal values have equal pseudonyms. The key is not stored. A value can therefore not be recovered from its
pseudonym, and pseudonyms of two files cannot be compared.
"""

import re
import secrets
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import unquote

import msgspec
from yarl import URL

from connector.core.pages import decode_members
from connector.core.privacy import KEY_MIN_BYTES, pseudonym
from connector.graph.exchange import error_code

REMOVED = "(removed)"
_INSTANT_TEXT = r"\d{4}-\d\d-\d\d(?:T\d\d:\d\d:\d\d(?:\.\d{1,7})?(?:Z|[+-]\d\d:\d\d))?"
_INSTANT = re.compile(_INSTANT_TEXT, re.ASCII)
_GUID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_REGION, _COUNTRY, _CALL_TYPE = re.compile("[A-Z]{4}"), re.compile("[A-Z]{2}"), re.compile("Byot[A-Za-z]{1,40}")
_HTTP_DATE = re.compile(r"[A-Z][a-z]{2}, \d\d [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d GMT", re.ASCII)
_RETRY_AFTER = re.compile(rf"\d{{1,6}}(?:\.\d{{1,3}})?|{_HTTP_DATE.pattern}", re.ASCII)
_MEDIA_TYPE = re.compile("(?:application|text)/[a-z+-]{1,30}")
_ERROR_CODE = re.compile("[A-Za-z_]{1,64}")
_SERVER_VALUE = re.compile("(?!.*[0-9]{7})[A-Za-z0-9 _-]{1,40}")
_SERVER_MEMBERS = ("DataCenter", "Slice", "Ring", "ScaleUnit", "RoleInstance")
_CALL = re.compile(
    r"/(?:v1\.0|beta)/communications/callRecords/(?:microsoft\.graph\.callRecords\.)?"
    rf"getDirectRoutingCalls\(fromDateTime={_INSTANT_TEXT},toDateTime={_INSTANT_TEXT}\)\Z",
    re.ASCII,
)
_QUERY_NAMES = ("$skip", "$skiptoken", "$top")
_COUNTS = ("$skip", "$top")
_LONGEST_COUNT = 7  # digits; a phone number is longer
_TEXT_FORMS = {
    "id": _GUID,
    "correlationId": _GUID,
    "transferorCorrelationId": _GUID,
    "callType": _CALL_TYPE,
    "mediaPathLocation": _REGION,
    "signalingLocation": _REGION,
    "userCountryCode": _COUNTRY,
    "otherPartyCountryCode": _COUNTRY,
}


class Redaction:
    """Redaction of one file, with a random key of its own. The key exists only in memory."""

    def __init__(self, schema: Mapping[str, Any]) -> None:
        """Create the key. `schema` is the Avro schema of rows. Member names that are not in it become pseudonyms."""
        self._pseudonym: Callable[[str], str | None] = pseudonym(secrets.token_bytes(KEY_MIN_BYTES))
        self._types = {field["name"]: _type_of(field) for field in schema["fields"] if "since" in field}

    def row(self, raw: bytes) -> dict[str, Any] | str | None:
        """Return the members of a row, with pseudonyms for all values that may be personal data.

        Names of members that the schema does not have also become pseudonyms. A row that is not an object becomes one
        pseudonym.
        """
        members = _members(raw)
        if members is None:
            return self._pseudonym(raw.decode(errors="backslashreplace"))
        treated: dict[str, Any] = {}
        for name, value in members.items():
            shown = name if name in self._types else self._pseudonym(name) or ""
            treated[shown] = self._value(name, bytes(value))
        return treated

    def values(self, raw: bytes, *names: str) -> list[Any]:
        """Return the members `names` of a row, redacted as in the method `row`. A missing member is None."""
        members = _members(raw) or {}
        return [self._value(name, bytes(members[name])) if name in members else None for name in names]

    def _value(self, name: str, raw: bytes) -> Any:
        """Return a member's value if it cannot hold personal data, otherwise its pseudonym."""
        try:
            value = msgspec.json.decode(raw)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return self._pseudonym(raw.decode(errors="backslashreplace"))
        if value is None or value == "" or isinstance(value, bool):
            return value
        kind = self._types.get(name)
        if isinstance(value, int) and kind == "int" and len(raw) <= _LONGEST_COUNT:
            return value
        if not isinstance(value, str):
            return self._pseudonym(raw.decode())
        form = _INSTANT if kind == "long" else _TEXT_FORMS.get(name)
        return value if form is not None and form.fullmatch(value) else self._pseudonym(value)

    def path(self, url: URL) -> str | None:
        """Return the path of a URL that requests the call log. Return a pseudonym for the path of any other URL.

        The part before the API version is left out, because it can name the operator's own gateway.
        """
        found = _CALL.search(unquote(url.raw_path))
        return found[0] if found else self._pseudonym(url.raw_path)

    def query(self, url: URL) -> str:
        """Return the query of a URL. All values except the numbers of `$skip` and `$top` become pseudonyms."""
        parts = []
        for part in filter(None, url.raw_query_string.split("&")):
            name, _, value = part.partition("=")
            plain = unquote(name)
            is_count = plain in _COUNTS and len(value) <= _LONGEST_COUNT and value.isascii() and value.isdecimal()
            shown = plain if plain in _QUERY_NAMES else self._pseudonym(name)
            parts.append(f"{shown}={value if is_count else self._pseudonym(value)}")
        return "&".join(parts)


def _members(raw: bytes) -> Mapping[str, msgspec.Raw] | None:
    """Return the members of a row, or None if it is not an object."""
    try:
        return decode_members(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _type_of(field: Mapping[str, Any]) -> str:
    """Return the primitive type of a schema field, such as "int". Return "" for a personal or an array field."""
    if field.get("pii"):
        return ""
    kinds = field["type"] if isinstance(field["type"], list) else [field["type"]]
    names = [kind.get("type", "") if isinstance(kind, dict) else kind for kind in kinds]
    return next((name for name in names if name in ("string", "int", "long", "boolean")), "")


def visible_headers(headers: Mapping[str, str]) -> dict[str, Any]:
    """Return those headers of a response that Microsoft's support needs. All others are left out.

    A value that does not have the usual form of its header is replaced by "(removed)".
    """
    shown: dict[str, Any] = {}
    for name, form in (
        ("request-id", _GUID),
        ("client-request-id", _GUID),
        ("date", _HTTP_DATE),
        ("retry-after", _RETRY_AFTER),
    ):
        if name in headers:
            shown[name] = headers[name] if form.fullmatch(headers[name]) else REMOVED
    if "content-type" in headers:
        media_type = headers["content-type"].partition(";")[0].strip()
        shown["content-type"] = media_type if _MEDIA_TYPE.fullmatch(media_type) else REMOVED
    if "x-ms-ags-diagnostic" in headers:
        shown["x-ms-ags-diagnostic"] = _server_info(headers["x-ms-ags-diagnostic"])
    return shown


def _server_info(text: str) -> dict[str, Any] | str:
    """Return the data centre and the server of Graph that the header `x-ms-ags-diagnostic` names."""
    try:
        info = msgspec.json.decode(text, type=dict[str, dict[str, Any]])["ServerInfo"]
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError, KeyError):
        return REMOVED
    texts = {name: info[name] for name in _SERVER_MEMBERS if isinstance(info.get(name), str)}
    return {"ServerInfo": {name: text for name, text in texts.items() if _SERVER_VALUE.fullmatch(text)}}


def visible_error_code(body: bytes) -> str | None:
    """Return Graph's error code from the body of a response. Return None if it is missing or not a single word."""
    code = error_code(body)
    return code if _ERROR_CODE.fullmatch(code) else None
