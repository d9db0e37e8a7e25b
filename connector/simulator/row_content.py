"""JSON text of rows with the member names of Graph. The same input always gives the same bytes."""

from functools import lru_cache
from typing import NamedTuple

import msgspec
import numpy as np

from connector.simulator.calls import TEXT_SLOTS, Block, Longs, Words, draw, guid, mix_one
from connector.simulator.options import Recipe

EMPTY_DATE = "0001-01-01T00:00:00Z"
_WORDS = 10

_CALL_TYPES = (
    *("ByotIn",) * 26,
    *("ByotOut",) * 26,
    *("ByotInUcap", "ByotOutUserForwarding", "ByotOutUserTransfer", "ByotOutUcap") * 2,
    *("ByotOutConf", "ByotInCallQueue", "ByotInAutoAttendant", "ByotOutUserForwarding"),
)
_REGIONS = ("EUNO", "EUWE", "USWE", "USEA", "APSE", "FRCE", "DEWC", "")
_ENDS = (
    (486, "Busy Here"),
    (487, "Request Terminated"),
    (404, "Not Found"),
    (480, "Temporarily Unavailable"),
    (408, "Request Timeout"),
    (503, "Service Unavailable"),
    (603, "Decline"),
    (403, "Forbidden"),
)
_FIRST = ("Anna", "Bram", "Chloé", "Dmitri", "Elif", "Femi", "Greta", "Hiro", "Inès", "Jürgen", "Kofi", "Łucja")
_LAST = ("Almeida", "Bergström", "Castillo", "O\\u0027Brien", "Dvořák", "Eriksen", "Фролова", "García", "Huang", "李")
_PREFIXES = ("+4930", "+4420", "+1425", "+1212", "+3318", "+9140", "+6129", "+5511")
_TEXT_NUMBERS = ("anonymous", "Reception", "+1001", "1042", "sip:lobby@sbc01.adatum.biz", "", "Conference Room 4", "0")
_COUNTRIES = ("DE", "GB", "US", "US", "FR", "IN", "AU", "BR")
_UNKNOWN = (
    ',"sbcRegion":"emea"',
    ',"qualityScore":4.25',
    ',"recordingIds":["r-1","r-2"]',
    ',"policy":{"name":"Frankfurt","level":3}',
    ',"isEmergencyCall":false',
    ',"note":null',
    ',"pstnCarrierId":9007199254740993',
    ',"Duration":"7","sbcRegion":"apac"',
)
_BETA_UNKNOWN = (',"administrativeUnitInfos":[]', ',"administrativeUnitInfos":null')

_LONGEST_RING_MS = 25_000
_INSTANT = np.dtype("datetime64[ms]")


def _instants(moments: Longs, digits: list[int], extras: list[str]) -> list[str]:
    """Format times with 0 to 7 digits after the decimal point.

    `digits` has the number of these digits, and `extras` has the digits after the milliseconds. Both have one entry per
    time.
    """
    texts = np.datetime_as_string(moments.astype(_INSTANT)).tolist()
    return [
        f"{text}Z" if many == 3 else f"{text[: 20 + many] if many else text[:19]}{extra[: max(0, many - 3)]}Z"
        for text, many, extra in zip(texts, digits, extras, strict=True)
    ]


def _guids(high: Words, low: Words) -> list[str]:
    """Return GUIDs of version 4, each made of two 64-bit words. Each is equal to the result of `calls.guid`."""
    pairs = np.empty((len(high), 2), dtype=">u8")
    pairs[:, 0] = (high & np.uint64(0xFFFFFFFFFFFF0FFF)) | np.uint64(0x4000)
    pairs[:, 1] = (low & np.uint64(0x3FFFFFFFFFFFFFFF)) | np.uint64(0x8000000000000000)
    text = pairs.tobytes().hex()
    whole = (text[at : at + 32] for at in range(0, len(text), 32))
    return [f"{one[:8]}-{one[8:12]}-{one[12:16]}-{one[16:20]}-{one[20:]}" for one in whole]


@lru_cache(maxsize=256)
def _users(key: int, count: int) -> tuple[str, ...]:
    users = []
    for number in range(count):
        word = mix_one(key + number * 7919 + 11)
        first, last = _FIRST[word % len(_FIRST)], _LAST[(word >> 8) % len(_LAST)]
        user_id = guid(word, mix_one(word))
        address = f"user{number}@contoso.example"
        users.append(f'"userId":"{user_id}","userPrincipalName":"{address}","userDisplayName":"{first} {last}"')
    return tuple(users)


_NOBODY = (
    '"userId":"","userPrincipalName":"","userDisplayName":null',
    '"userId":null,"userPrincipalName":null,"userDisplayName":null',
    '"userId":"","userPrincipalName":"","userDisplayName":""',
    '"userPrincipalName":"","userDisplayName":"Auto Attendant"',
)


def _number(word: int, masked: int) -> str:
    if word & 31 == 0:
        return _TEXT_NUMBERS[(word >> 5) & 7]
    digits = f"{_PREFIXES[(word >> 5) & 7]}{(word >> 8) % 10_000_000:07d}"
    return f"{digits[:-3]}***" if (word >> 32) & 0xFFFF < masked else digits


def _missing(name: str, kind: int) -> str:
    if kind < 26:
        return f'"{name}":"{EMPTY_DATE}",'
    return f'"{name}":null,' if kind < 29 else ""


class _Body(NamedTuple):
    """Parts of the JSON text that all versions of a row have in common."""

    head: str
    invited: str
    ends: str
    middle: str
    reason: int
    tail: str

    def row(self, began: str, duration: int, version: int = 0) -> bytes:
        """Return the JSON text of one version. `began` is the JSON member startDateTime, followed by a comma."""
        return (
            f'{self.head}{began}"inviteDateTime":"{self.invited}",{self.ends}"duration":{duration},'
            f'{self.middle}"callEndSubReason":{self.reason + version},{self.tail}}}'
        ).encode()


class Texts:
    """JSON text of all rows of one block.

    `first` has the first version of each row, in the order of the calls. `later` has the other versions. Its keys
    consist of the call's position in the block and the version number.
    """

    __slots__ = ("first", "later", "size")

    def __init__(self, recipe: Recipe, key: int, block: Block) -> None:
        words = draw(block.keys, TEXT_SLOTS, _WORDS)
        legs = draw(block.base_keys, TEXT_SLOTS + 2, 2)
        digits = block.digits.tolist()
        extras = [f"{word % 9999 + 1:04d}" for word in (words[7] >> np.uint64(8)).tolist()]
        ring = (words[7] >> np.uint64(24)).astype(np.int64) % _LONGEST_RING_MS
        invite = np.where(block.failed & ~block.late_start, block.start, block.start - ring)
        columns = zip(
            block.failed.tolist(),
            ((block.end - block.start) // 1000).tolist(),
            *(_instants(moments, digits, extras) for moments in (block.start, invite, block.end)),
            _guids(words[0], words[1]),
            _guids(legs[0], legs[1]),
            *words[4:].tolist(),
            strict=True,
        )
        users, masked = _users(key, recipe.users), int(recipe.masked * 0x10000)
        startless, unknown = int(recipe.startless * 0x10000), int(recipe.unknown * 0x10000)
        self.first: list[bytes] = []
        self.later: dict[tuple[int, int], bytes] = {}
        for call, (failed, length, started, invited, ended, row_id, of, w4, w5, w6, w7, w8, w9) in enumerate(columns):
            kind = w7 & 31
            if failed:
                code, phrase = _ENDS[(w6 >> 8) & 7]
                reason, duration = 560_000 + code, 0
                ends = f'"failureDateTime":"{ended}",{_missing("endDateTime", kind)}'
            else:
                code, phrase, reason, duration = 0, "BYE", 540_000, length
                ends = f'{_missing("failureDateTime", kind)}"endDateTime":"{ended}",'
            user_kind = (w4 >> 32) & 255
            user = users[w4 % len(users)] if user_kind > 30 else _NOBODY[user_kind & 3]
            head = f'{{"id":"{row_id}","correlationId":"{of}",{user},'
            middle = (
                f'"callType":"{_CALL_TYPES[w6 % len(_CALL_TYPES)]}","successfulCall":{"false" if failed else "true"},'
                f'"callerNumber":"{_number(w5, masked)}","calleeNumber":"{_number(w9, masked)}",'
                f'"mediaPathLocation":"{"" if failed else _REGIONS[(w6 >> 16) & 7]}",'
                f'"signalingLocation":"{_REGIONS[(w6 >> 19) & 3]}","finalSipCode":{code},'
            )
            tail = (
                f'"finalSipCodePhrase":"{phrase}","trunkFullyQualifiedDomainName":'
                f'"sbc{(w6 >> 24) % recipe.trunks + 1:02d}.adatum.biz",'
                f'"mediaBypassEnabled":{"true" if w6 >> 40 & 1 else "false"}'
            )
            if (w6 >> 44) & 63 == 0:
                tail += ',"@odata.type":"#microsoft.graph.callRecords.directRoutingLogRow"'
            if w8 & 0xFFFF < unknown:
                tail += _UNKNOWN[(w8 >> 16) & 7]
            began = '"startDateTime":null,' if (w8 >> 32) & 0xFFFF < startless else f'"startDateTime":"{started}",'
            body = _Body(head, invited, ends, middle, reason, tail)
            row = body.row(began, duration)
            self.first.append(row)
            for version, change in enumerate(block.changes.get(call, ()), 1):
                if began[-5:] != "null,":
                    moved = np.array([change.start_ms], dtype=np.int64)
                    moved_to = _instants(moved, digits[call : call + 1], extras[call : call + 1])[0]
                    began = f'"startDateTime":"{moved_to}",'
                self.later[call, version] = body.row(began, 0 if failed else duration + version, version)
            if call in block.unfit:
                self.first[call] = spoil(row, block.unfit[call])
        self.size = sum(map(len, self.first)) + sum(map(len, self.later.values())) + 200 * len(self.first)

    def text(self, call: int, version: int) -> bytes:
        """Return the JSON text of one version of a row."""
        return self.later[call, version] if version else self.first[call]


_ABSENT = object()
UNFIT: tuple[tuple[str, object], ...] = (
    ("duration", msgspec.Raw(b'"5"')),
    ("duration", msgspec.Raw(b"5.0")),
    ("finalSipCode", msgspec.Raw(b"2147483648")),
    ("callEndSubReason", msgspec.Raw(b"-2147483649")),
    ("startDateTime", msgspec.Raw(b'"yesterday"')),
    ("inviteDateTime", msgspec.Raw(b'"2026-13-45T10:00:00Z"')),
    ("endDateTime", msgspec.Raw(b"1767225600")),
    ("failureDateTime", msgspec.Raw(b'""')),
    ("successfulCall", msgspec.Raw(b'"true"')),
    ("mediaBypassEnabled", msgspec.Raw(b"0")),
    ("callerNumber", msgspec.Raw(b"49301234567")),
    ("callType", msgspec.Raw(b'["ByotIn"]')),
    ("userDisplayName", msgspec.Raw(b'{"name":"x"}')),
    ("id", _ABSENT),
    ("id", msgspec.Raw(b'""')),
    ("id", msgspec.Raw(b"null")),
    ("id", msgspec.Raw(b"17")),
    ("", "array"),
    ("", "string"),
)


def spoil(row: bytes, kind: int) -> bytes:
    """Return an invalid variant of a row. `kind` selects what is wrong with it.

    The invalid rows of two calls are never equal.
    """
    name, value = UNFIT[kind % len(UNFIT)]
    members = msgspec.json.decode(row, type=dict[str, msgspec.Raw])
    if not name:
        row_id = bytes(members["id"])
        return b"[%b]" % row_id if value == "array" else row_id
    if value is _ABSENT:
        del members[name]
    elif isinstance(value, msgspec.Raw):
        members[name] = value
    return msgspec.json.encode(members)


def beta(row: bytes, key: int) -> bytes:
    """Return `row` with four more members, which only /beta has. A row that is not an object is not changed."""
    if not row.startswith(b"{"):
        return row
    word = mix_one(key)
    transferor = f'"{guid(word, mix_one(word))}"' if word & 15 == 0 else "null"
    kind = (word >> 4) & 3
    if kind:
        units = ",".join(f'{{"id":"{guid(mix_one(word + n), word)}"}}' for n in range(kind - 1))
        infos = f',"administrativeUnitInfos":[{units}]'
    else:
        infos = _BETA_UNKNOWN[(word >> 6) & 1]
    more = (
        f',"userCountryCode":"{_COUNTRIES[(word >> 8) & 7]}","otherPartyCountryCode":"{_COUNTRIES[(word >> 11) & 7]}"'
        f',"transferorCorrelationId":{transferor}{infos}}}'
    )
    return row[:-1] + more.encode()


def key_of(block: Block, call: int) -> int:
    """Return the key from which the beta members of a row are derived."""
    return int(np.uint64(block.keys[call]))
