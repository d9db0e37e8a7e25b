"""Decoder of a page of getDirectRoutingCalls: the JSON of each row as received, and the link to the next page."""

import codecs
import re

import msgspec
import numpy as np

_DEEPEST = 64
_DEEPEST_ROW = 500  # nesting that Python 3.11 can decode whatever the depth of the call stack; 3.13 decodes more
_MOST_PARTS = 400_000  # values and brackets of a page; a page of Graph, of a thousand rows, has about 25,000
_PIECE = 1 << 15
_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*"|[\[{\]}]', re.DOTALL)
_ESCAPE = re.compile(rb"\\(?:u[dD][89abAB]..\\u[dD][c-fC-F]..|u[dD][89a-fA-F]..|.)", re.DOTALL)

_QUOTE, _SURROGATE = ord('"'), rb"\ud"


class NotAPageError(ValueError):
    """The body is not a page of rows. It may be HTML, incomplete, or other JSON."""


class Page(msgspec.Struct, frozen=True):
    """One page of rows. Each row is the JSON that Graph sent."""

    rows: list[msgspec.Raw]
    next_link: str | None


class _Envelope(msgspec.Struct):
    value: list[msgspec.Raw]
    next_link: str | None = msgspec.field(name="@odata.nextLink", default=None)


_envelope_decoder = msgspec.json.Decoder(_Envelope)

decode_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def decode_page(body: bytes) -> Page:
    """Decode a page into its rows and the link to the next page.

    The name of the member with the link may be in upper or lower case. A row that cannot be decoded is returned like
    any other row, if it is valid JSON. Raises NotAPageError if `body` is not a complete page.
    """
    if _count_parts(body) > _MOST_PARTS:
        # Decoding costs time and memory for each value, so this body is not decoded.
        raise NotAPageError("the body has more JSON values than a page of rows can have")
    try:
        _check_utf8(body)  # rows stay undecoded here: invalid UTF-8 inside one would be missed
        envelope, readable = _decode_envelope(body)
        link = envelope.next_link
        if link is None and b"nextlink" in body.lower():
            for name, raw in decode_members(readable).items():
                if name.lower() == "@odata.nextlink":
                    link = msgspec.json.decode(raw, type=str | None)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise NotAPageError("the body is not a page of rows") from error
    return Page(envelope.value, link or None)


def _count_parts(body: bytes) -> int:
    characters = np.frombuffer(body, np.uint8)
    return sum(int(np.count_nonzero(characters == part)) for part in b",[{")


def _check_utf8(body: bytes) -> None:
    """Raise UnicodeDecodeError if `body` is not UTF-8.

    `body` is decoded in pieces, because the text of a whole page does not fit into the processor's cache.
    """
    if not body.isascii():
        decode = codecs.getincrementaldecoder("utf-8")().decode
        pieces = memoryview(body)
        for first in range(0, len(body), _PIECE):
            decode(pieces[first : first + _PIECE])
        decode(b"", final=True)


def _decode_envelope(body: bytes) -> tuple[_Envelope, bytes]:
    """Decode a page into undecoded rows and the link. Also return the text that was decoded.

    The text is `body` itself. If `body` cannot be decoded, the text is a masked copy of the same length (see `mask`).
    """
    try:
        return _envelope_decoder.decode(body), body
    except (msgspec.DecodeError, RecursionError) as error:
        if isinstance(error, msgspec.DecodeError) and _SURROGATE not in body.lower():
            raise
    # Decode a copy of equal length that can be decoded, then take each row from the same position of the body.
    masked = mask(body)
    envelope = _envelope_decoder.decode(masked)
    at, rows = 0, []
    for raw in envelope.value:
        at = masked.index(raw, at)
        end = at + len(bytes(raw))
        rows.append(msgspec.Raw(body[at:end]))
        at = end
    return _Envelope(rows, envelope.next_link), masked


def mask(text: bytes) -> bytes:
    """Replace lone surrogates and deeply nested values, which JSON allows but the decoder rejects.

    The result has the same length as `text`, so that every other value stays at its position.
    """
    # `deep_at` is the depth of the outermost value that is nested too deeply; the whole value becomes the number 0.
    pieces, at, depth, deep_at = [], 0, 0, 0
    for token in _TOKEN.finditer(text):
        first = text[token.start()]
        if first == _QUOTE:
            if not deep_at and rb"\u" in token[0]:
                pieces += [text[at : token.start()], _ESCAPE.sub(_whole_character, token[0])]
                at = token.end()
        elif first in b"[{":
            depth += 1
            if depth > _DEEPEST and not deep_at:
                deep_at = depth
                pieces.append(text[at : token.start()])
                at = token.start()
        else:
            if depth == deep_at and deep_at:
                pieces.append(b"0".ljust(token.end() - at))
                at, deep_at = token.end(), 0
            depth -= 1
    return b"".join([*pieces, text[at:]])


def is_deep(row: bytes) -> bool:
    """Return whether a row is nested more deeply than Python 3.11 can decode.

    Newer versions of Python decode deeper nesting. The limit is fixed, so that the same rows are valid with every
    version.
    """
    if row.count(b"[") + row.count(b"{") <= _DEEPEST_ROW:
        return False
    depth = 0
    for token in _TOKEN.finditer(row):
        depth += (token[0][:1] in b"[{") - (token[0] in b"]}")
        if depth > _DEEPEST_ROW:
            return True
    return False


def _whole_character(escape: re.Match[bytes]) -> bytes:
    lone = len(escape[0]) == 6 and escape[0][2:3] in b"dD"
    return rb"\ufffd" if lone else escape[0]
