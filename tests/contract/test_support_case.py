"""`connector support-case` writes what Microsoft's support needs, and no personal data and no secret."""

import json
import re
import stat
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import web

from connector import __version__
from connector.simulator import graph, responses
from tests import commands
from tests.brokers import wait_until
from tests.commands import Done
from tests.simulation import Simulation
from tests.watch import Watch
from tests.workers import configuration, toml

BEGIN = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(days=3)
END = BEGIN + timedelta(days=2)
DIAGNOSTIC = '{"ServerInfo":{"DataCenter":"West Europe","RoleInstance":"AM2PEPF0001BE1C","Host":"10.20.30.40"}}'
PLANTED = {
    "callerNumber": "+4930555000111222",
    "calleeNumber": 49305550003334,
    "userDisplayName": "Zoë Plantéd",
    "userPrincipalName": "planted.person@contoso.example",
    "userId": "0a0b0c0d-1111-4222-8333-444455556666",
    "trunkFullyQualifiedDomainName": "203.0.113.77",
    "finalSipCodePhrase": "No answer from sip:planted@198.51.100.99",
    "callType": "Planted Caller",
    "inviteDateTime": "2001:db8::beef:77",
    "sbcNote": "sip:+4930555000444555@sbc.planted.example",
    "+4930555000666777": {"name": "Zoë Nestéd", "address": ["192.0.2.123"]},
}
SECRET_HEADERS = {
    "Set-Cookie": "session=planted-cookie",
    "Authorization": "Bearer planted-token",
    "X-Forwarded-For": "203.0.113.201",
    "x-ms-ags-diagnostic": DIAGNOSTIC,
}


@pytest.fixture
def source() -> Iterator[Simulation]:
    with Simulation(days=4, calls_per_day=150, page_size=50, lateness="none", users=5, frozen=True) as it:
        yield it


@pytest.fixture
def config(source: Simulation, tmp_path: Path) -> Path:
    """Return a configuration file. Its broker does not exist: the command must not contact Kafka."""
    path = tmp_path / "connector.toml"
    path.write_text(toml(configuration("127.0.0.1:1", "calls", "app", source)), encoding="utf-8")
    return path


def run(config: Path, source: Simulation, output: Path, *options: str) -> Done:
    given = ("--tenant", source.tenants[0], "--from", BEGIN.isoformat(), "--to", END.isoformat())
    return commands.run(
        config, "support-case", *given, "--output", str(output), "--requests-per-minute", "60000", *options
    )


def rows_of(source: Simulation) -> list[dict[str, Any]]:
    """Return the rows of the range, each in its newest version."""
    rows = [json.loads(bytes(one.row)) for one in source.truth()[source.tenants[0]] if one.until is None]
    return [row for row in rows if BEGIN.isoformat()[:19] <= row["startDateTime"] < END.isoformat()[:19]]


def to_the_millisecond(text: str) -> str:
    return datetime.fromisoformat(text).isoformat(timespec="milliseconds")


def test_support_case_states_every_request_and_all_rows(config: Path, source: Simulation, tmp_path: Path) -> None:
    expected = rows_of(source)
    done = run(config, source, tmp_path / "case.json")

    case = json.loads((tmp_path / "case.json").read_text())
    requests, summary = case["requests"], case["summary"]
    answered = source.requests()
    assert done.code == 0, done.error
    assert (
        done.output
        == f"{tmp_path / 'case.json'}: requests: {len(answered)}, pages: {len(answered)}, rows: {len(expected)}\n"
    )
    assert len(answered) > 4
    starts = [to_the_millisecond(row["startDateTime"]) for row in expected]
    assert to_the_millisecond(summary.pop("first_start")) == min(starts)
    assert to_the_millisecond(summary.pop("last_start")) == max(starts)
    assert summary | {"ids": set(summary["ids"])} == {
        "connector_version": __version__,
        "tenant": source.tenants[0],
        "from": f"{BEGIN:%Y-%m-%dT%H:%M:%S}.000Z",
        "to": f"{END:%Y-%m-%dT%H:%M:%S}.000Z",
        "complete": True,
        "failure": None,
        "pages": len(answered),
        "rows": len(expected),
        "ids": {row["id"] for row in expected},
    }
    assert [(one["client_request_id"], one["headers"]["request-id"]) for one in requests] == [
        (one.client_request_id, one.request_id) for one in answered
    ]
    assert [f"{one['path']}{'?' if one['query'] else ''}{one['query']}" for one in requests] == [
        one.url for one in answered
    ]
    assert all(one["status"] == 200 and one["method"] == "GET" and one["duration_ms"] >= 0 for one in requests)
    assert sum(one["row_count"] for one in requests) == len(expected)
    assert stat.S_IMODE((tmp_path / "case.json").stat().st_mode) == 0o600


def test_support_case_contains_no_personal_data_and_no_secret(
    config: Path, source: Simulation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Graph plants values in every row, in headers and in links. The whole file is searched for them byte by byte."""
    finish, body, link, tokens = responses.finish, graph._body, graph._link, set()

    def planting_finish(world: Any, note: Any, response: web.StreamResponse) -> None:
        finish(world, note, response)
        response.headers.update(SECRET_HEADERS)
        response.headers["Retry-After"] = "+4930555000888999"

    def planting_body(question: Any, rows: list[bytes], *rest: Any) -> bytes:
        tokens.add(question.request.headers["Authorization"].removeprefix("Bearer "))
        planted = [msgspec.json.encode(json.loads(row) | PLANTED) for row in rows]
        return body(question, [*planted, b'"Zo\\u00eb Plant\\u00e9d"', b'["203.0.113.77"]'], *rest)

    def planting_link(*arguments: Any) -> tuple[str | None, str]:
        target, name = link(*arguments)
        return target and f"{target}&x=planted-skip-token&sip:planted@198.51.100.99=1", name

    monkeypatch.setattr(graph, "finish", planting_finish)
    monkeypatch.setattr(graph, "_body", planting_body)
    monkeypatch.setattr(graph, "_link", planting_link)
    real = rows_of(source)
    done = run(config, source, tmp_path / "case.json")

    content = (tmp_path / "case.json").read_bytes()
    case = json.loads(content)
    texts = [str(value) for name, value in PLANTED.items() if name != "+4930555000666777"]
    fields = ("callerNumber", "calleeNumber", "userId", "userPrincipalName", "userDisplayName")
    texts += [row[name] for row in real for name in fields if len(row.get(name) or "") >= 7]
    texts += ["+4930555000666777", "Zoë Nestéd", "192.0.2.123", "+4930555000888999", "planted", "Planted"]
    texts += ["203.0.113", "198.51.100", "10.20.30", "2001:db8", "session=", source.identity["client_secret"]]
    texts += [*tokens, *(part for token in tokens for part in token.split("."))]
    assert done.code == 0, done.error
    assert tokens
    assert case["summary"]["rows"] == len(real) + 2 * case["summary"]["pages"]
    assert set(case["summary"]["ids"]) == {row["id"] for row in real}
    assert not Watch(texts).find(content)
    assert not Watch(texts).find(content.decode().encode("unicode_escape"))
    assert not re.search(rb"(?<![0-9.])(?:[0-9]{1,3}\.){3}[0-9]{1,3}(?![0-9.])", content)
    first, second = case["requests"][0], case["requests"][1]
    assert first["headers"]["x-ms-ags-diagnostic"] == {
        "ServerInfo": {"DataCenter": "West Europe", "RoleInstance": "AM2PEPF0001BE1C"}
    }
    assert first["headers"]["retry-after"] == "(removed)"
    assert re.fullmatch(r"\$skip=50&[0-9a-f]{8}:.*", second["query"])
    assert len({row["callerNumber"] for one in case["requests"] for row in one["rows"] if isinstance(row, dict)}) == 1


def test_each_support_case_file_has_its_own_pseudonyms(config: Path, source: Simulation, tmp_path: Path) -> None:
    numbers = []
    for name in ("first.json", "second.json"):
        assert run(config, source, tmp_path / name).code == 0
        case = json.loads((tmp_path / name).read_text())
        numbers.append({row["callerNumber"] for one in case["requests"] for row in one["rows"]} - {"", None})
    assert len(numbers[0]) == len(numbers[1]) > 100
    assert not numbers[0] & numbers[1]


def test_support_case_never_overwrites_a_file(config: Path, source: Simulation, tmp_path: Path) -> None:
    output = tmp_path / "case.json"
    output.write_text("mine")

    done = run(config, source, output)

    assert done.code == 2
    assert done.error == f"--output: {output} exists and is not overwritten; choose another name\n"
    assert output.read_text() == "mine"
    assert not source.requests()


def test_support_case_records_failed_requests_and_continues(config: Path, source: Simulation, tmp_path: Path) -> None:
    source.set_faults(throttled="1x2", retry_after_s=0.1)
    source.set_faults(server_error="1x1", status=503)

    done = run(config, source, tmp_path / "case.json")

    case = json.loads((tmp_path / "case.json").read_text())
    assert done.code == 0, done.error
    assert [one["status"] for one in case["requests"]][:4] == [429, 429, 503, 200]
    assert [one["error_code"] for one in case["requests"]][:3] == ["TooManyRequests", "TooManyRequests", None]
    assert case["requests"][0]["headers"]["retry-after"] == "1"
    assert case["requests"][2]["headers"]["content-type"] == "text/html"
    assert case["requests"][2]["rows"] is None
    assert case["summary"]["complete"]
    assert case["summary"]["rows"] == len(rows_of(source))


def test_support_case_records_a_response_that_is_cut_off(config: Path, source: Simulation, tmp_path: Path) -> None:
    source.set_faults(cut="1x1")

    assert run(config, source, tmp_path / "case.json").code == 0

    first = json.loads((tmp_path / "case.json").read_text())["requests"][0]
    assert first["status"] is None
    assert first["failure"]


def test_support_case_keeps_the_file_if_graph_refuses_access(config: Path, source: Simulation, tmp_path: Path) -> None:
    source.set_faults(forbidden=1)

    done = run(config, source, tmp_path / "case.json")

    case = json.loads((tmp_path / "case.json").read_text())
    assert done.code == 1
    assert done.error.endswith(f"{tmp_path / 'case.json'} holds the requests up to the error\n")
    assert [one["status"] for one in case["requests"]] == [403]
    assert (case["summary"]["complete"], case["summary"]["failure"]) == (False, "permission")


def test_support_case_leaves_no_file_if_sign_in_fails(config: Path, source: Simulation, tmp_path: Path) -> None:
    secret = source.identity["client_secret"]
    config.write_text(config.read_text(encoding="utf-8").replace(secret, "wrong"), encoding="utf-8")

    done = run(config, source, tmp_path / "case.json")

    assert done.code == 1
    assert "client secret" in done.error
    assert not (tmp_path / "case.json").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--from", "1d"), "--from: "),
        (("--to", "2100-01-01T00:00:00Z"), "is in the future"),
        (("--requests-per-minute", "0"), "--requests-per-minute: must be at least 1"),
        (("--output", "/nowhere/case.json"), "--output: /nowhere/case.json cannot be created (No such file"),
    ],
)
def test_support_case_refuses_wrong_arguments(
    config: Path, source: Simulation, tmp_path: Path, options: tuple[str, str], message: str
) -> None:
    done = run(config, source, tmp_path / "case.json", *options)

    assert done.code == 2
    assert message in done.error
    assert not (tmp_path / "case.json").exists()
    assert not source.requests()


def test_interrupted_support_case_leaves_no_file(config: Path, source: Simulation, tmp_path: Path) -> None:
    source.set_faults(hang=1)
    output = tmp_path / "case.json"
    options = ("--tenant", source.tenants[0], "--from", "-2d", "--to", "-1d", "--output", str(output))
    started = commands.start(config, "support-case", *options, "--requests-per-minute", "60000")
    wait_until(lambda: len(source.requests("token")) > 0, "a request for a token", commands.DEADLINE_S)
    assert output.exists()

    done = commands.interrupt(started)

    assert (done.code, done.output) == (130, "")
    assert not output.exists()
