"""Rules of docs/schema-evolution.md.

All released schema versions and invented later ones can read each other. No row is published again only because a new
release of the connector knows more fields.
"""

import copy
import io
import itertools
import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import fastavro
import numpy as np
import pytest

from connector.core import dedup, fingerprints
from connector.core.coverage import Window
from connector.core.dedup import DedupIndex
from connector.core.fingerprints import LAYOUT
from connector.core.instants import EPOCH
from connector.core.rows import Row, RowSchema
from connector.core.windows import Slice
from connector.errors import FatalError
from connector.kafka import avro, seen
from connector.kafka.evolution import clashes, obstacles
from connector.pipeline.messages import PageRead
from connector.pipeline.page_chain import join_pages
from connector.schema_files import NAMES

SHIPPED = Path(__file__).parent.parent / "data" / "schemas"
INSTANT = ["null", {"type": "long", "logicalType": "timestamp-millis"}]
TEXT = ["null", "string"]


def field(name: str, kind: Any, **more: Any) -> dict[str, Any]:
    return {"name": name, "type": kind, "default": None, "doc": "Made up.", **more}


def learned(schema: dict[str, Any], *fields: dict[str, Any], unit: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return a later version of a schema with more fields. `unit` is a field that is added to administrative units."""
    result = copy.deepcopy(schema)
    at = next((n for n, f in enumerate(result["fields"]) if f["name"] == "tenantId"), 0)
    result["fields"][at:at] = fields
    if unit is not None:
        units = next(f for f in result["fields"] if f["name"] == "administrativeUnitInfos")
        units["type"][1]["items"]["fields"].append(unit)
    return result


def shipped(name: str) -> dict[str, Any]:
    """Return every version ever shipped, oldest first."""
    files = sorted(SHIPPED.glob(f"{name}-v*.avsc"), key=lambda file: int(file.stem.rpartition("-v")[2]))
    return {file.stem.rpartition("-")[2]: json.loads(file.read_text(encoding="utf-8")) for file in files}


V1 = shipped("directRoutingLogRow")["v1"]
# What Microsoft may add: a member of beta; members of v1.0, one of them an instant; a member of an administrative unit.
NEXT = learned(V1, field("callerCity", TEXT, since="beta", layout=2))
AFTER = learned(
    NEXT,
    field("sbcRegion", TEXT, since="v1.0", layout=3),
    field("ringDateTime", INSTANT, since="v1.0", layout=3),
    field("handoverDateTime", INSTANT, since="beta", layout=3),
    unit=field("displayName", TEXT, layout=3),
)
ROW_VERSIONS = {**shipped("directRoutingLogRow"), "made up 1": NEXT, "made up 2": AFTER}
PROGRESS_VERSIONS = {
    **shipped("progress"),
    "made up 1": learned(shipped("progress")["v1"], field("sweeps", ["null", "long"])),
}

KNOWN = {
    "id": "call-1",
    "callType": "ByotOut",
    "startDateTime": "2026-11-01T10:00:00.1234567Z",
    "failureDateTime": "0001-01-01T00:00:00Z",
    "duration": 12,
    "successfulCall": True,
}
BETA = {"userCountryCode": "CH", "administrativeUnitInfos": [{"id": "unit"}]}
LEARNED = {
    "callerCity": "Bern",
    "sbcRegion": "west",
    "ringDateTime": "2026-11-01T10:00:01Z",
    "handoverDateTime": "2026-11-01T10:00:02Z",
    "administrativeUnitInfos": [{"id": "unit", "displayName": "North"}],
}


def filled(avro_type: Any) -> Any:
    """Return a value of a type that differs from every default."""
    if isinstance(avro_type, list):
        return filled(avro_type[-1])
    if isinstance(avro_type, dict):
        match avro_type["type"]:
            case "array":
                return [filled(avro_type["items"])]
            case "map":
                return {"member": filled(avro_type["values"])}
            case "record":
                return {f["name"]: filled(f["type"]) for f in avro_type["fields"]}
            case other:
                return filled(other)
    return {"string": "text", "int": 7, "long": 1_700_000_000_000, "boolean": True}[avro_type]


def default(schema: dict[str, Any], name: str) -> Any:
    return next(f for f in schema["fields"] if f["name"] == name)["default"]


def read(writer: dict[str, Any], reader: dict[str, Any], record: dict[str, Any]) -> Any:
    body = io.BytesIO()
    fastavro.schemaless_writer(body, fastavro.parse_schema(copy.deepcopy(writer)), record)
    body.seek(0)
    return fastavro.schemaless_reader(
        body, fastavro.parse_schema(copy.deepcopy(writer)), fastavro.parse_schema(copy.deepcopy(reader))
    )


@pytest.mark.parametrize("name", NAMES)
def test_current_schema_equals_the_newest_archived_version(name: str) -> None:
    """A schema changes only as a new version. All released versions stay in the archive."""
    assert list(shipped(name).values())[-1] == avro.load(name)


@pytest.mark.parametrize("versions", [ROW_VERSIONS, PROGRESS_VERSIONS], ids=["rows", "progress"])
def test_all_schema_versions_are_compatible(versions: dict[str, Any]) -> None:
    """Full transitive compatibility: common fields keep their values, other fields get their defaults."""
    print(f"\n{'written by':>12} | " + " | ".join(f"read by {name}" for name in versions))  # noqa: T201 - the compatibility matrix
    for name, writer in versions.items():
        record = filled(writer)
        cells = []
        for reader in versions.values():
            assert obstacles(reader, writer) == []
            got = read(writer, reader, record)
            asked = read(writer, writer, record)
            for f in reader["fields"]:
                known = f["name"] in record
                expected = asked[f["name"]] if known else default(reader, f["name"])
                if f["name"] == "administrativeUnitInfos":
                    assert got[f["name"]][0]["id"] == expected[0]["id"]
                else:
                    assert got[f["name"]] == expected
            cells.append("yes")
        columns = [f"{cell:^{len(reader) + 8}}" for cell, reader in zip(cells, versions, strict=True)]
        print(f"{name:>12} | " + " | ".join(columns))  # noqa: T201


@pytest.mark.parametrize("versions", [ROW_VERSIONS, PROGRESS_VERSIONS], ids=["rows", "progress"])
def test_later_schema_versions_only_add_fields_with_defaults(versions: dict[str, Any]) -> None:
    for older, newer in itertools.pairwise(versions.values()):
        names = [f["name"] for f in older["fields"]]
        assert [f["name"] for f in newer["fields"] if f["name"] in names] == names
        assert all("default" in f for f in newer["fields"] if f["name"] not in names)


def test_fingerprint_version_is_that_of_the_newest_field() -> None:
    assert RowSchema(avro.load(avro.ROW), "v1.0").layout == LAYOUT


def test_schema_conflict_names_the_field_and_both_types() -> None:
    other = copy.deepcopy(V1)
    other["fields"] = [f for f in other["fields"] if f["name"] not in ("tenantId", "callType")]
    next(f for f in other["fields"] if f["name"] == "callerNumber")["type"] = "long"
    other["fields"].append({"name": "cost", "type": "double"})
    assert clashes(V1, other) == [
        "field callerNumber is long in the registry and null or string in the connector",
        "field tenantId is missing in the registry and has no default in the connector",
        "field cost has no default in the registry and is missing in the connector",
    ]
    assert clashes(V1, {**V1, "name": "call"}) == [
        (
            "the schema itself is record microsoft.graph.callRecords.call in the registry and "
            "record microsoft.graph.callRecords.directRoutingLogRow in the connector"
        )
    ]
    assert clashes(V1, "string") != []
    assert clashes(V1, AFTER) == []


@pytest.mark.parametrize(
    ("reader", "writer", "fits"),
    [
        ("long", "int", True),
        ("int", "long", False),
        (["null", "double"], "int", True),
        ("string", ["null", "string"], False),
        ({"type": "map", "values": "long"}, {"type": "map", "values": "int"}, True),
        ({"type": "enum", "name": "e", "symbols": ["A"]}, {"type": "enum", "name": "e", "symbols": ["A", "B"]}, False),
        ({"type": "fixed", "name": "f", "size": 4}, {"type": "fixed", "name": "f", "size": 8}, False),
        (
            {"type": "record", "name": "n", "fields": [{"name": "next", "type": ["null", "n"]}]},
            {"type": "record", "name": "n", "fields": [{"name": "next", "type": ["null", "n"]}]},
            True,
        ),
    ],
)
def test_schema_check_follows_the_avro_resolution_rules(reader: Any, writer: Any, fits: bool) -> None:  # noqa: FBT001
    assert (not obstacles(reader, writer)) is fits


# --- the dedup index across an upgrade --------------------------------------------------------------------------------


def raw(*parts: dict[str, Any]) -> bytes:
    return json.dumps({name: value for part in parts for name, value in part.items()}).encode()


def outcome(before: RowSchema, first: bytes, after: RowSchema, second: bytes) -> str:
    """Return the dedup result of a second reading after the first was published and restored from the topic."""
    entries = before.read([first]).entries
    log = seen.SeenLog("t")
    written = log.write(entries, np.array([480_000], np.uint32))
    remembered = DedupIndex()
    remembered.restore(np.frombuffer(written.records[0].value[1:], fingerprints.ENTRY), np.array([480_000], np.uint32))  # type: ignore[index]
    reading = after.read([second])
    result = dedup.classify(reading.entries, (remembered,), reading.fingerprints)
    return "new" if len(result.new) else "revised" if len(result.revised) else "known"


@pytest.mark.parametrize("api_version", ["v1.0", "beta"])
@pytest.mark.parametrize("older", [V1, NEXT], ids=["v1", "later version"])
def test_upgrade_with_new_fields_republishes_nothing(older: dict[str, Any], api_version: str) -> None:
    """Graph sent these members already before the upgrade: they become fields instead of additional properties."""
    row = raw(KNOWN, BETA, LEARNED)
    before, after = RowSchema(older, api_version), RowSchema(AFTER, api_version)
    assert outcome(before, row, after, row) == "known"
    assert outcome(after, row, after, row) == "known"
    if older is V1:  # a member that the older version does not know may have any value
        assert outcome(before, raw(KNOWN, BETA), after, row) == "known"


@pytest.mark.parametrize("api_version", ["v1.0", "beta"])
def test_change_of_an_old_field_is_a_revision_after_an_upgrade(api_version: str) -> None:
    before, after = RowSchema(V1, api_version), RowSchema(AFTER, api_version)
    row = raw(KNOWN, BETA, LEARNED)
    assert outcome(before, row, after, raw(KNOWN, BETA, LEARNED, {"duration": 13})) == "revised"
    changed = outcome(before, row, after, raw(KNOWN, BETA, LEARNED, {"userCountryCode": "DE"}))
    assert changed == ("revised" if api_version == "beta" else "known")


def test_change_of_a_new_field_is_a_revision_if_it_was_read_before() -> None:
    after = RowSchema(AFTER, "beta")
    row = raw(KNOWN, BETA, LEARNED)
    for change in (
        {"callerCity": "Basel"},
        {"sbcRegion": "east"},
        {"ringDateTime": "2026-11-01T10:00:03Z"},
        {"handoverDateTime": None},
        {"administrativeUnitInfos": [{"id": "unit", "displayName": "South"}]},
    ):
        assert outcome(after, row, after, raw(KNOWN, BETA, LEARNED, change)) == "revised"


def test_switching_between_v1_and_beta_republishes_nothing() -> None:
    v1, beta = RowSchema(V1, "v1.0"), RowSchema(V1, "beta")
    assert outcome(v1, raw(KNOWN), beta, raw(KNOWN, BETA)) == "known"
    assert outcome(beta, raw(KNOWN, BETA), v1, raw(KNOWN)) == "known"


def test_beta_members_are_published_as_row_fields() -> None:
    reading = RowSchema(V1, "beta").read([raw(KNOWN, BETA)])
    row = reading.rows[0]
    assert isinstance(row, Row)
    values, problem = RowSchema(V1, "beta").resolve(row, raw(KNOWN, BETA))
    assert problem is None
    assert {name: values[name] for name in BETA} == BETA
    assert row.unknown == {}


def test_date_in_year_1_of_a_new_field_equals_null() -> None:
    after = RowSchema(AFTER, "beta")
    empty = {"ringDateTime": "0001-01-01T00:00:00.000Z", "handoverDateTime": "0001-01-01T00:00:00Z"}
    nothing = {"ringDateTime": None, "handoverDateTime": None}
    assert outcome(after, raw(KNOWN, empty), after, raw(KNOWN, nothing)) == "known"


def test_dedup_index_of_a_newer_fingerprint_version_is_refused() -> None:
    """Otherwise all its rows would be published again."""
    entries = RowSchema(NEXT, "v1.0").read([raw(KNOWN)]).entries
    written = seen.SeenLog("t").write(entries, np.array([480_000], np.uint32))
    with pytest.raises(FatalError, match="version 2, but this connector reads versions up to 1"):
        seen.restore({record.key: record.value for record in written.records if record.value is not None})


def test_backfill_with_option_again_keeps_older_fingerprints() -> None:
    """All pages of a chain are committed as one.

    Rows of an older fingerprint version must not become false revisions.
    """
    texts = [json.dumps({"id": f"call-{number}"} | KNOWN | BETA | LEARNED).encode() for number in range(7)]
    before, after = RowSchema(V1, "v1.0"), RowSchema(AFTER, "v1.0")
    remembered = DedupIndex()
    remembered.put(before.read(texts).entries, np.full(len(texts), 480_000, np.uint32))
    piece = Slice(Window(EPOCH, EPOCH + timedelta(hours=1)), 1000, EPOCH, "job", again=True)
    parts: tuple[list[bytes], ...] = (texts[:2], texts[2:3], [], texts[3:])
    pages = [PageRead("t", piece, [], after.read(part), EPOCH, 1, ()) for part in parts]
    reading = join_pages(pages).reading
    result = dedup.classify(reading.entries, (remembered,), reading.fingerprints)
    assert len(reading.rows) == len(texts)
    assert not len(result.new)
    assert not len(result.revised)
