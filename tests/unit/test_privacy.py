"""Personal data: effect of mask, pseudonymize and drop on values, and on JSON that cannot be decoded into fields."""

import hashlib
import hmac
import json
import unicodedata
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connector.core.privacy import Privacy, mask, treatable
from connector.kafka import avro

KEY = bytes(range(32))
SECRET = "+4930123456789"
ALL = {"callerNumber": "mask", "userId": "pseudonymize", "userDisplayName": "drop"}
PRIVACY = Privacy(ALL, KEY)


def pseudonym(value: str) -> str:
    kid = hashlib.sha256(KEY).hexdigest()[:8]
    return f"{kid}:{hmac.new(KEY, value.encode(), hashlib.sha256).hexdigest()}"


def test_privacy_applies_to_string_fields_except_the_id() -> None:
    fields = treatable(avro.load(avro.ROW))
    assert {"callerNumber", "userPrincipalName", "correlationId", "userCountryCode"} <= set(fields)
    assert not {"id", "tenantId", "startDateTime", "duration", "administrativeUnitInfos", "additionalProperties"} & set(
        fields
    )


@pytest.mark.parametrize(
    ("value", "masked"),
    [
        ("+4930123456789", "+49301********"),
        ("004930123456", "004930******"),
        ("+1 (425) 555-0100", "+1 (42*) ***-****"),
        ("+1001", "+1001"),
        ("1042", "1042"),
        ("1042-ab-Ж李٣²", "1042-a*-****"),
        ("٠١٢٣٤٥٦٧", "٠١٢٣٤٥**"),
        ("+4930123***", "+49301*****"),
        ("Anna-Łucja Фролова 李", "****-***** ******* *"),
        ("sip:lobby@sbc01.adatum.biz", "***:*****@*****.******.***"),
        ("anonymous", "*********"),
        ("(425) 5550100", "(***) *******"),
        (" +4930123456", " +**********"),
        ("", ""),
        ("+", "+"),
        ("🙂a", "🙂*"),
    ],
)
def test_mask_keeps_six_characters_of_a_phone_number(value: str, masked: str) -> None:
    assert mask(value) == masked


@given(st.text())
def test_mask_keeps_length_and_punctuation_in_any_script(value: str) -> None:
    masked = mask(value)
    number = value.startswith("+") or unicodedata.category(value[:1] or " ") == "Nd"
    assert len(masked) == len(value)
    for at, (before, after) in enumerate(zip(value, masked, strict=True)):
        readable = unicodedata.category(before)[0] in "LN"
        assert after == ("*" if readable and not (number and at < 6) else before)


def test_pseudonym_is_stable_and_names_its_key() -> None:
    columns: dict[str, Any] = {name: ["Jürgen"] for name in ALL} | {"id": ["1"]}
    PRIVACY.treat(columns)
    treated = {"callerNumber": "******", "userId": pseudonym("Jürgen"), "userDisplayName": None, "id": "1"}
    assert columns == {name: [value] for name, value in treated.items()}


@pytest.mark.parametrize("value", [None, ""])
def test_privacy_leaves_null_and_empty_values_unchanged(value: str | None) -> None:
    columns: dict[str, Any] = {name: [value] for name in ALL}
    PRIVACY.treat(columns)
    assert columns == {name: [value] for name in ALL}
    row = json.dumps(dict.fromkeys(ALL, value)).encode()
    assert PRIVACY.treat_row(row) == row


@pytest.mark.parametrize(
    ("row", "treated"),
    [
        (
            '{ "b" : 5.0,"callerNumber": "+4930123456" ,\t"a":[1e3, "ü\\u00fc"] }',
            '{ "b" : 5.0,"callerNumber": "+49301*****" ,\t"a":[1e3, "ü\\u00fc"] }',
        ),
        ('{"callerNumber":49301234567,"x":1}', '{"callerNumber":null,"x":1}'),
        ('{"callerNumber":true}', '{"callerNumber":null}'),
        (
            '{"userDisplayName":{"name":"x","callerNumber":[{}, "+4930"]} ,"id":"1"}',
            '{"userDisplayName":null ,"id":"1"}',
        ),
        ('{"userDisplayName":["a", ["b"]],"id":[{"a":1}]}', '{"userDisplayName":null,"id":[{"a":1}]}'),
        ('{"\\u0063allerNumber":"+4930123456"}', '{"\\u0063allerNumber":"+49301*****"}'),
        ('{"CALLERNUMBER":"Anna","callernumber":"Bo"}', '{"CALLERNUMBER":"****","callernumber":"**"}'),
        (
            '{"callerNumber":"1","callerNumber":"Anna","id":"","callerNumber":2}',
            '{"callerNumber":"1","callerNumber":"****","id":"","callerNumber":null}',
        ),
        (
            '{"raw":{"leg":[{"callerNumber":"Anna","n":{"userDisplayName":"Bo"}}]},"callerNumber":null}',
            '{"raw":{"leg":[{"callerNumber":"****","n":{"userDisplayName":null}}]},"callerNumber":null}',
        ),
        ('{"callerNumber":"A\\u006ena \\"\\\\"}', '{"callerNumber":"**** \\"\\\\"}'),
        ('{"callerNumber":"\\u004anna\\ud83d"}', '{"callerNumber":null}'),
        ('{"callerNumber":"\\ud83d\\ude42a"}', '{"callerNumber":"🙂*"}'),
        ('{"a":"callerNumber","b":"x: \\"callerNumber\\""}', '{"a":"callerNumber","b":"x: \\"callerNumber\\""}'),
        ('{"a":"}","callerNumber":"]{Anna"}', '{"a":"}","callerNumber":"]{****"}'),
        ("{}", "{}"),
        ('["callerNumber","+4930123456"]', ""),
        ('"+4930123456"', ""),
        ("49301234567", ""),
        ('{"callerNumber":"Anna"', ""),
        ('{"callerNumber":"Anna', ""),
        ('{"callerNumber":"Anna"]}', ""),
        ('{"callerNumber":"Anna"}, "Anna"', ""),
    ],
)
def test_privacy_applies_to_members_of_an_invalid_row(row: str, treated: str) -> None:
    """A member is masked in any letter case, at any depth and if it is repeated.

    A text that is not a JSON object is left out completely.
    """
    assert PRIVACY.treat_row(row.encode()).decode() == treated


def test_privacy_applies_to_a_deeply_nested_row() -> None:
    deep = b'{"a":' * 5_000 + b'{"callerNumber":"Anna"}' + b"}" * 5_000
    assert PRIVACY.treat_row(deep) == deep.replace(b"Anna", b"****")
    hidden = b'{"userDisplayName":' + b"[" * 5_000 + b"]" * 5_000 + b"}"
    assert PRIVACY.treat_row(hidden) == b'{"userDisplayName":null}'


def test_row_is_unchanged_without_privacy_settings() -> None:
    assert Privacy({}, None).treat_row(b'["+4930123456"]') == b'["+4930123456"]'


def test_privacy_applies_to_unknown_json_members_by_name() -> None:
    members = {
        "CallerNumber": '"Anna"',
        "leg": '{"userId": "u", "n": 1}',
        "callernumber ": '"x"',
        "n": "9007199254740993",
    }
    assert PRIVACY.treat_members(members) == {
        "CallerNumber": '"****"',
        "leg": f'{{"userId": "{pseudonym("u")}", "n": 1}}',
        "callernumber ": '"x"',
        "n": "9007199254740993",
    }


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.just(SECRET) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from([*ALL, "CallerNumber", "other", "leg"]), inner, max_size=4)
    ),
    max_leaves=12,
)


def _expected(value: Any, *, is_treated: str | None = None) -> Any:
    if is_treated is not None:
        if value == "" or value is None or is_treated == "drop" or not isinstance(value, str):
            return "" if value == "" else None
        return mask(value) if is_treated == "mask" else pseudonym(value)
    if isinstance(value, dict):
        names = {name.lower(): treatment for name, treatment in ALL.items()}
        return {name: _expected(inner, is_treated=names.get(name.lower())) for name, inner in value.items()}
    return [_expected(inner) for inner in value] if isinstance(value, list) else value


@given(st.dictionaries(st.sampled_from([*ALL, "callernumber", "id", "leg"]), _JSON), st.sampled_from([None, 1]))
def test_privacy_applies_equally_to_json_text_and_decoded_rows(row: dict[str, Any], indent: int | None) -> None:
    text = json.dumps(row, ensure_ascii=indent is None, indent=indent).encode()
    treated = json.loads(PRIVACY.treat_row(text))
    assert treated == _expected(row)
    assert list(treated) == list(row)
