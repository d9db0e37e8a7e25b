"""Validity, content and comparison of rows."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from connector.core.fingerprints import BETA_KNOWN, LAYOUT, UNFIT, differ, invalid_entry
from connector.core.pages import NotAPageError, decode_page
from connector.core.rows import InvalidRow, PageRows, Row, RowSchema
from connector.kafka import avro

DATA = Path(__file__).parent.parent / "data"
SCHEMA = avro.load(avro.ROW)
V1, BETA = RowSchema(SCHEMA, "v1.0"), RowSchema(SCHEMA, "beta")
WHOLE: dict[str, Any] = json.loads((DATA / "page-first.json").read_text())["value"][0]
INSTANTS = ("startDateTime", "inviteDateTime", "failureDateTime", "endDateTime")
INT32 = ("duration", "finalSipCode", "callEndSubReason")


def text(**members: Any) -> bytes:
    """Return the JSON of a row with an id."""
    return json.dumps({"id": "a", **members}).encode()


def read_one(raw: bytes, shape: RowSchema = V1) -> Row | InvalidRow:
    return shape.read([raw]).rows[0]


def problem(raw: bytes) -> str:
    """Return why a row is invalid; assert that it is."""
    row = read_one(raw)
    if isinstance(row, Row):
        _, unfit = V1.resolve(row, raw)
        assert unfit is not None, raw
        return unfit.problem
    return row.problem


def values_of(raw: bytes, shape: RowSchema = V1) -> dict[str, Any]:
    row = read_one(raw, shape)
    assert isinstance(row, Row), row
    values, unfit = shape.resolve(row, raw)
    assert unfit is None
    return values


def unknown_of(raw: bytes) -> dict[str, str]:
    row = read_one(raw)
    assert isinstance(row, Row), row
    return dict(row.unknown)


def is_revised(first: bytes, second: bytes, shape: RowSchema = V1, other: RowSchema | None = None) -> bool:
    """Return whether two readings of a row differ; both must have the same id."""
    first_entries, second_entries = shape.read([first]).entries, (other or shape).read([second]).entries
    assert (first_entries["hi"], first_entries["lo"]) == (second_entries["hi"], second_entries["lo"])
    return bool(differ(first_entries, second_entries)[0])


class TestPages:
    """A page is an object with an array `value`; anything else is refused and never taken for data."""

    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b"null",
            b"[]",
            b"{}",
            b'{"value":null}',
            b'{"value":{}}',
            b'{"value":"x"}',
            b"<!DOCTYPE html><html></html>",
            b'{"error":{"code":"x","message":"","innerError":{}}}',
            b'{"value":[{"id":"a"}',
            b'{"value":[{"id":"a"}]',
            b'{"value":[{"id":"a"},]}',
            b'{"value":[{"id":nul}]}',
            b'{"value":[{"id":01}]}',
            b'{"value":[{"id":"\xff"}]}',
            b'{"value":[{"x":"\xc5 \x99"}]}',
            b'{"value":[{"id":"a"}]}}',
            b'{"value":[],"@odata.nextLink":7}',
            b"\x1f\x8b\x08\x00garbage",
            b"[" * 5000,
            b'{"value":[' + b"[" * 5000,
        ],
    )
    def test_body_that_is_not_a_page_is_refused(self, body: bytes) -> None:
        with pytest.raises(NotAPageError):
            decode_page(body)

    def test_truncated_page_is_refused(self) -> None:
        body = (DATA / "page-first.json").read_bytes().rstrip()
        for length in range(0, len(body), 7):
            with pytest.raises(NotAPageError):
                decode_page(body[:length])

    def test_page_truncated_within_a_character_is_refused(self) -> None:
        for pad in range(32_760, 32_775):
            decode_page(b'{"value":["%b\xc5\x99"]}' % (b"x" * pad))
            with pytest.raises(NotAPageError):
                decode_page(b'{"value":["%b\xc5"]}' % (b"x" * pad))

    @pytest.mark.parametrize("name", ["@odata.nextLink", "@odata.NextLink", "@ODATA.NEXTLINK"])
    def test_next_link_member_is_read_in_any_case(self, name: str) -> None:
        page = decode_page(json.dumps({"value": [], name: "https://graph/x?$skip=1000"}).encode())
        assert page.next_link == "https://graph/x?$skip=1000"
        assert page.rows == []

    @pytest.mark.parametrize("members", [{}, {"@odata.nextLink": None}, {"@odata.nextLink": ""}])
    def test_page_without_next_link_is_the_last(self, members: dict[str, Any]) -> None:
        assert decode_page(json.dumps({"value": [], **members}).encode()).next_link is None

    def test_next_link_text_inside_a_row_is_ignored(self) -> None:
        assert decode_page(b'{"value":[{"id":"@odata.nextlink"}]}').next_link is None

    def test_documented_example_pages_are_read(self) -> None:
        first = decode_page((DATA / "page-first.json").read_bytes())
        assert [type(row) for row in V1.read(first.rows).rows] == [Row] * len(first.rows)
        assert first.next_link
        assert decode_page((DATA / "page-last.json").read_bytes()).next_link is None

    @pytest.mark.parametrize(
        "row",
        [
            b'{"id":"x","callerNumber":"+\\ud83d"}',
            b'{"id":"x","callerNumber":"\\uDC00\\ud83d\\ud83d"}',
            b'{"id":"x","zz":' + b"[" * 5000 + b"]" * 5000 + b"}",
            b'{"id":"x","zz":' + b'{"a":' * 5000 + b"1" + b"}" * 5000 + b"}",
        ],
    )
    def test_row_that_cannot_be_decoded_is_invalid(self, row: bytes) -> None:
        others = [b'{"id":"\\\\ud800"}', b'{"id":"b","userDisplayName":"\\ud83d\\ude00 [{"}']
        body = b'{"value":[%b,%b,%b],"@odata.NextLink":"l"}' % (others[0], row, others[1])
        page = decode_page(body)
        assert [bytes(raw) for raw in page.rows] == [others[0], row, others[1]]
        assert page.next_link == "l"
        first, second, third = V1.read(page.rows).rows
        assert isinstance(second, InvalidRow)
        assert (second.raw, second.id) == (row, "x")
        assert [row.id for row in (first, third)] == ["\\ud800", "b"]

    @pytest.mark.parametrize("opening", ["[", '{"a":'])
    def test_nesting_limit_is_the_same_in_every_python_version(self, opening: str) -> None:
        def row(depth: int) -> bytes:
            closing = "]" if opening == "[" else "}"
            return f'{{"id":"a","zz":{opening * depth}1{closing * depth}}}'.encode()

        assert isinstance(read_one(row(499)), Row)
        assert (
            problem(row(500)) == problem(row(50_000)) == "row: expected complete Unicode characters and no deep nesting"
        )
        assert isinstance(read_one(b'{"id":"a","zz":[%b1]}' % (b'"[[[[",' * 999)), Row)

    def test_unknown_json_member_with_deep_nesting_is_kept(self) -> None:
        deep = "[" * 100 + "]" * 100
        page = decode_page(b'{"value":[{"id":"a","zz":%b}]}' % deep.encode())
        assert unknown_of(bytes(page.rows[0])) == {"zz": deep}


class TestValidity:
    """A row is invalid when it is anything but an object, has no id, or a known member has another type."""

    @pytest.mark.parametrize("raw", [b"1", b"null", b"true", b'"a"', b"[]", b'[{"id":"a"}]'])
    def test_row_that_is_not_an_object_is_invalid(self, raw: bytes) -> None:
        assert problem(raw) == "row: expected an object"

    @pytest.mark.parametrize("raw", [b"{}", b'{"id":null}', b'{"id":""}', b'{"id":5}', b'{"id":["a"]}', b'{"Id":"a"}'])
    def test_row_without_a_non_empty_string_id_is_invalid(self, raw: bytes) -> None:
        assert problem(raw) == "id: expected a string that is not empty"
        row = read_one(raw)
        assert isinstance(row, InvalidRow)
        assert row.id is None

    def test_row_with_only_an_id_is_valid(self) -> None:
        assert set(values_of(b'{"id":"a"}').items()) >= {("id", "a"), ("startDateTime", None), ("duration", None)}

    @pytest.mark.parametrize("name", [name for name in V1.names if name != "id"])
    def test_row_with_a_member_of_another_type_is_invalid(self, name: str) -> None:
        wrong: dict[str, list[Any]] = {
            "string": [5, True, [], {}],
            "int": ["5", 5.0, True, [5], {}],
            "boolean": ["true", 0, []],
            "nested": ["x", {}, 5, ["x"], [{"id": 5}]],
        }
        field = next(field for field in SCHEMA["fields"] if field["name"] == name)
        kind = field["type"][1] if isinstance(field["type"][1], str) else "string"
        for value in wrong["nested" if name in V1.nested else kind]:
            message = problem(text(**{name: value}))
            assert message.startswith(f"{name}")
            assert "expected" in message

    @pytest.mark.parametrize("name", INT32)
    @pytest.mark.parametrize("value", ["2147483648", "-2147483649", "99999999999999999999999", "5.0", "1e2", "1e999"])
    def test_integer_member_outside_of_int32_is_invalid(self, name: str, value: str) -> None:
        assert problem(b'{"id":"a","%b":%b}' % (name.encode(), value.encode())).startswith(f"{name}: expected")

    @pytest.mark.parametrize("name", INT32)
    @pytest.mark.parametrize("value", [2147483647, -2147483648, 0])
    def test_smallest_and_largest_int32_are_valid(self, name: str, value: int) -> None:
        assert values_of(text(**{name: value}))[name] == value

    @pytest.mark.parametrize("name", INSTANTS)
    @pytest.mark.parametrize("value", ["", "yesterday", "2026-13-45T10:00:00Z", "2026-01-01", "2026-01-01T25:00:00Z"])
    def test_row_with_an_invalid_timestamp_is_invalid(self, name: str, value: str) -> None:
        assert problem(text(**{name: value})) == f"{name}: expected an instant (RFC 3339)"

    def test_error_text_of_an_invalid_row_contains_no_value(self) -> None:
        for name in V1.names:
            for value in ("+4930123secret", 49301234567890, ["+4930123secret"], {"+4930123secret": 1}):
                raw = json.dumps({"id": "a"} | {name: value}).encode()
                row = read_one(raw)
                if isinstance(row, InvalidRow):
                    assert "secret" not in row.problem
                    assert "49301" not in row.problem

    def test_invalid_row_keeps_its_id_and_start(self) -> None:
        row = read_one(text(startDateTime="2026-01-01T00:00:00Z", duration="x"))
        assert isinstance(row, InvalidRow)
        assert (row.id, row.start_ms) == ("a", 1_767_225_600_000)
        row = read_one(text(startDateTime="x", duration="x"))
        assert isinstance(row, InvalidRow)
        assert row.start_ms is None

    @pytest.mark.parametrize("name", ["startDateTime", "callerNumber", "duration", "mediaBypassEnabled"])
    def test_null_and_absent_members_are_valid(self, name: str) -> None:
        assert values_of(text(**{name: None}))[name] is None

    def test_last_value_of_a_repeated_member_counts(self) -> None:
        assert values_of(b'{"id":"b","duration":1,"id":"a","duration":2}')["id"] == "a"
        assert values_of(b'{"id":"a","duration":1,"duration":2}')["duration"] == 2
        assert unknown_of(b'{"id":"a","zz":1,"zz":2}') == {"zz": "2"}
        assert unknown_of(b'{"id":"a","\\u007a":1}') == {"z": "1"}

    @given(
        st.lists(
            st.sampled_from([b'{"id":"a"}', b'{"id":""}', b"7", b'{"id":"b","zz":1}', b'{"id":"c","duration":"x"}']),
            max_size=200,
        )
    )
    def test_reading_a_page_matches_reading_its_rows_one_by_one(self, raws: list[bytes]) -> None:
        together = V1.read(raws)
        assert len(together.rows) == len(together.entries) == len(raws)
        for at, raw in enumerate(raws):
            alone = V1.read([raw])
            assert alone.entries[0] == together.entries[at]
            assert type(alone.rows[0]) is type(together.rows[at])
            assert (alone.rows[0].id, getattr(alone.rows[0], "unknown", None)) == (
                together.rows[at].id,
                getattr(together.rows[at], "unknown", None),
            )


class TestValues:
    """Values of a row as they are published."""

    @pytest.mark.parametrize("name", INSTANTS)
    @pytest.mark.parametrize(
        "spelling",
        [
            "0001-01-01T00:00:00Z",
            "0001-01-01T00:00:00z",
            "0001-01-01t00:00:00Z",
            "0001-01-01 00:00:00Z",
            "0001-01-01T00:00:00.0Z",
            "0001-01-01T00:00:00.0000000Z",
            "0001-01-01T00:00:00+00:00",
            "0001-01-01T00:00:00-00:00",
            "0001-01-01T00:00:00+05:30",
            "0001-01-01T00:00:00-08:00",
            "0001-01-01T02:00:00+02:00",
            "0001-01-01T00:00:00",
            "0001-01-01T00:00",
            "0001-01-01",
        ],
    )
    def test_date_in_year_1_is_null_in_any_spelling(self, name: str, spelling: str) -> None:
        assert values_of(text(**{name: spelling}))[name] is None
        assert not is_revised(text(**{name: spelling}), text())
        assert not is_revised(text(**{name: None}), text(**{name: spelling}))
        assert is_revised(text(**{name: spelling}), text(**{name: "2026-01-01T00:00:00Z"}))

    def test_date_in_year_1_is_kept_in_members_of_another_type(self) -> None:
        raw = text(callerNumber="0001-01-01T00:00:00Z")
        assert values_of(raw)["callerNumber"] == "0001-01-01T00:00:00Z"
        assert is_revised(raw, text())

    @pytest.mark.parametrize(
        ("spelling", "milliseconds"),
        [
            ("2026-01-01T00:00:00Z", 0),
            ("2026-01-01T00:00:00.9Z", 900),
            ("2026-01-01T00:00:00.99Z", 990),
            ("2026-01-01T00:00:00.999Z", 999),
            ("2026-01-01T00:00:00.9999999Z", 999),
            ("2026-01-01T00:00:00.0009Z", 0),
            ("2025-12-31T23:59:59.9999999Z", -1),
            ("2026-01-01T02:00:00.5+02:00", 500),
            ("2025-12-31T16:00:00-08:00", 0),
            ("2026-01-01T05:45:00+05:45", 0),
        ],
    )
    def test_timestamp_with_any_utc_offset_is_truncated_to_milliseconds(self, spelling: str, milliseconds: int) -> None:
        for _ in range(2):  # the second result comes from the cache
            assert values_of(text(startDateTime=spelling))["startDateTime"] == 1_767_225_600_000 + milliseconds

    @pytest.mark.parametrize("value", ["", " ", "+12345678***", "null", "Łucja \U0001f600", "a\u0000b", "x" * 5000])
    def test_string_values_are_published_as_received(self, value: str) -> None:
        assert values_of(text(callerNumber=value))["callerNumber"] == value

    def test_beta_members_are_published_with_any_api_version(self) -> None:
        raw = text(userCountryCode="DE", administrativeUnitInfos=[{"id": "u", "zz": 1}, {"id": None}, {}])
        for shape in (V1, BETA):
            values = values_of(raw, shape)
            assert values["userCountryCode"] == "DE"
            assert values["administrativeUnitInfos"] == [{"id": "u"}, {"id": None}, {"id": None}]

    def test_unknown_json_members_are_kept_unchanged(self) -> None:
        raw = (
            b'{"id":"a", "big": 9007199254740993 ,"f":1.50,"n":null,"o":{"a" : [1]},'
            b'"e":1e999,"Duration":"7","s":"\\u00e9"}'
        )
        assert unknown_of(raw) == {
            "big": "9007199254740993",
            "f": "1.50",
            "n": "null",
            "o": '{"a" : [1]}',
            "e": "1e999",
            "Duration": '"7"',
            "s": '"\\u00e9"',
        }

    def test_odata_annotations_of_the_row_are_ignored(self) -> None:
        raw = b'{"@odata.type":"#x","id":"a","@odata.etag":1e999,"@x":5,"duration@odata.type":"#Int32"}'
        assert unknown_of(raw) == {"duration@odata.type": '"#Int32"'}
        assert not is_revised(raw, text())

    def test_page_may_mix_rows_with_and_without_unknown_json_members(self) -> None:
        raws = [text(), text(zz=1), text(), b'{"id":"a","@x":1}']
        rows = V1.read(raws).rows
        assert [dict(row.unknown) for row in rows if isinstance(row, Row)] == [{}, {"zz": "1"}, {}, {}]
        assert [row.id for row in rows[1:3]] == ["a", "a"]

    def test_documented_example_row_is_read(self) -> None:
        values = values_of(json.dumps(WHOLE).encode())
        assert {name: values[name] for name in WHOLE if name not in INSTANTS} == {
            name: value for name, value in WHOLE.items() if name not in INSTANTS
        }
        assert values["failureDateTime"] is None
        assert set(values) == set(V1.names)


class TestRevised:
    """A row is revised when a field of the schema has another value as received."""

    @pytest.mark.parametrize("name", [name for name in V1.names if name not in ("id", *V1.nested)])
    def test_change_of_any_member_is_a_revision(self, name: str) -> None:
        other: dict[type, Any] = {str: "2026-05-05T05:05:05Z", int: 77, bool: None, type(None): "x"}
        changed = {**WHOLE, name: other[type(WHOLE.get(name))]}
        shape = V1 if name in WHOLE else BETA
        assert is_revised(json.dumps(WHOLE).encode(), json.dumps(changed).encode(), shape)

    def test_change_of_a_nested_member_is_a_revision(self) -> None:
        some = text(administrativeUnitInfos=[{"id": "u"}])
        assert is_revised(some, text(administrativeUnitInfos=[]), BETA)
        assert is_revised(some, text(), BETA)
        assert is_revised(some, text(administrativeUnitInfos=[{"id": "v"}]), BETA)
        assert not is_revised(some, text(administrativeUnitInfos=[{"id": "u", "zz": 1}]), BETA)

    def test_timestamp_written_in_another_form_is_a_revision(self) -> None:
        first = text(startDateTime="2026-01-01T00:00:00.5Z")
        assert is_revised(first, text(startDateTime="2026-01-01T00:00:00.500Z"))
        assert is_revised(first, text(startDateTime="2026-01-01T00:00:00.5+00:00"))
        assert is_revised(
            text(startDateTime="2026-01-01T00:00:00.1234Z"), text(startDateTime="2026-01-01T00:00:00.1235Z")
        )

    @given(st.randoms(use_true_random=False))
    def test_member_order_and_unknown_members_make_no_revision(self, rng: random.Random) -> None:
        members = [*WHOLE.items(), ("zz", rng.random()), ("@odata.type", "#x"), ("@y", {})]
        rng.shuffle(members)
        shuffled = json.dumps(dict(members), indent=rng.choice([None, 1, "\t"]), ensure_ascii=rng.random() < 0.5)
        assert not is_revised(json.dumps(WHOLE).encode(), shuffled.encode())

    def test_null_and_absent_members_are_equal(self) -> None:
        for name in (name for name in V1.names if name != "id"):
            assert not is_revised(text(**{name: None}), text(), BETA)

    def test_change_from_null_to_empty_string_is_a_revision(self) -> None:
        assert is_revised(text(userId=""), text(userId=None))

    def test_swapped_values_of_two_members_are_a_revision(self) -> None:
        assert is_revised(text(callerNumber="a", calleeNumber="b"), text(callerNumber="b", calleeNumber="a"))
        assert is_revised(text(failureDateTime="2026-01-01T00:00:00Z"), text(endDateTime="2026-01-01T00:00:00Z"))
        assert is_revised(text(userId="a"), text(userPrincipalName="a"))

    def test_json_member_of_only_one_api_version_makes_no_revision(self) -> None:
        plain, more = json.dumps(WHOLE).encode(), json.dumps({**WHOLE, "userCountryCode": "DE"}).encode()
        assert not is_revised(plain, more, V1, BETA)
        assert not is_revised(more, plain, BETA, V1)
        assert not is_revised(plain, more, V1, V1)
        assert is_revised(plain, more, BETA, BETA)

    def test_change_of_a_v1_member_is_a_revision_across_api_versions(self) -> None:
        changed = json.dumps({**WHOLE, "duration": 6, "userCountryCode": "DE"}).encode()
        assert is_revised(json.dumps(WHOLE).encode(), changed, V1, BETA)
        assert is_revised(changed, json.dumps(WHOLE).encode(), BETA, V1)


class TestEntries:
    """Entries of the dedup index for the rows of a page."""

    def test_row_ids_that_differ_in_case_or_bytes_are_distinct(self) -> None:
        ids = ["a", "A", "a ", "ä", "a\u0308", "i", "u", "a\u0000"]
        entries = V1.read([json.dumps({"id": row_id}).encode() for row_id in ids]).entries
        assert len({(int(e["hi"]), int(e["lo"])) for e in entries}) == len(ids)

    def test_escaped_and_unescaped_row_ids_are_equal(self) -> None:
        first, second = (V1.read([raw]).entries for raw in (b'{"id":"\\u00e9"}', '{"id":"é"}'.encode()))
        assert first == second

    def test_invalid_row_is_identified_by_its_bytes(self) -> None:
        raws = [b'{"id":"a","duration":"x"}', b'{"id":"a","duration":"y"}', b'{"id":"a", "duration":"x"}']
        entries = V1.read(raws).entries
        assert len({int(entry["hi"]) for entry in entries}) == 3
        assert all(entry["meta"] & UNFIT for entry in entries)
        assert (invalid_entry(raws[0])["hi"], invalid_entry(raws[0])["lo"]) == (entries[0]["hi"], entries[0]["lo"])

    def test_invalid_row_is_never_taken_for_a_valid_row(self) -> None:
        """An invalid row is identified by its bytes.

        It stays distinct even if its bytes equal the id of a valid row.
        """
        unfit, fit = V1.read([b'"a"']).entries, V1.read([b'{"id":"\\"a\\""}', b'{"id":"a"}']).entries
        assert unfit["hi"][0] not in fit["hi"]

    @pytest.mark.parametrize(("shape", "flags"), [(V1, LAYOUT), (BETA, LAYOUT | BETA_KNOWN)])
    def test_dedup_entry_records_the_fingerprint_version(self, shape: RowSchema, flags: int) -> None:
        assert shape.read([text()]).entries["meta"].tolist() == [flags]

    @pytest.mark.parametrize("count", [0, 1, 63, 64, 65, 1000])
    def test_page_with_any_number_of_rows_is_read(self, count: int) -> None:
        reading: PageRows = V1.read([json.dumps({"id": f"i{n}"}).encode() for n in range(count)])
        assert [row.id for row in reading.rows] == [f"i{n}" for n in range(count)]
        assert len(np.unique(reading.entries["hi"])) == count

    def test_row_schema_reads_rows_from_a_generator(self) -> None:
        reading = V1.read(msgspec.Raw(text(duration=n)) for n in range(3))
        assert [row.values.duration for row in reading.rows if isinstance(row, Row)] == [0, 1, 2]


def _frozen(shape: RowSchema) -> Callable[[bytes], dict[str, int]]:
    def entry(raw: bytes) -> dict[str, int]:
        found = shape.read([raw]).entries[0]
        return {name: int(found[name]) for name in ("hi", "lo", "meta", "fp")}

    return entry


def test_fingerprints_of_documented_rows_never_change() -> None:
    """Otherwise an upgrade would publish every row of the dedup index again."""
    golden = json.loads((DATA / "entries-1.json").read_text())
    rows = [bytes(raw) for raw in decode_page((DATA / "page-first.json").read_bytes()).rows]
    rows += [b'{"id":"a","duration":"x"}', b'{"id":"a","administrativeUnitInfos":[{"id":"u"}],"userCountryCode":"DE"}']
    assert golden == {
        version: [_frozen(shape)(raw) for raw in rows] for version, shape in (("v1.0", V1), ("beta", BETA))
    }
