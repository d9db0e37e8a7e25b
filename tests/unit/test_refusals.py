"""What sign-in's refusals mean, and what a token says of itself."""

import base64
import json

import pytest

from connector.graph import permit, refusals


@pytest.mark.parametrize(
    ("document", "kind", "expected"),
    [
        ({"error": "invalid_client", "error_codes": [7000222]}, "client_secret", "secret has expired"),
        ({"error": "invalid_client", "error_codes": [700027]}, "client_certificate", "add its public part"),
        (
            {"error": "invalid_client", "error_codes": [1]},
            "client_certificate",
            "check client_id and client_certificate",
        ),
        (
            {"error": "invalid_request", "error_description": "AADSTS900382: Cross cloud."},
            "client_secret",
            "graph.cloud",
        ),
        ({"error": "invalid_resource", "error_codes": [500011]}, "client_secret", "check graph.cloud"),
        ({"error": "invalid_request", "error_description": "Identity not found"}, "managed_identity", "assign it"),
        ({"error": "temporarily_unavailable"}, "client_secret", ""),
    ],
)
def test_a_refusal_has_a_remedy_unless_it_passes_by_itself(
    document: dict[str, object], kind: str, expected: str
) -> None:
    refusal = refusals.read(document, kind)
    assert refusal is not None
    assert expected in refusal.remedy
    assert bool(refusal.remedy) == bool(expected)


@pytest.mark.parametrize("error", [None, 5, "<script>", "x" * 65, ""])
def test_what_is_no_oauth_error_is_no_refusal(error: object) -> None:
    assert refusals.read({"error": error}, "client_secret") is None


def test_descriptions_are_not_repeated() -> None:
    document = {
        "error": "invalid_client",
        "error_description": "AADSTS7000215: secret hunter2",
        "correlation_id": "a b",
    }
    assert "hunter2" not in str(refusals.read(document, "client_secret"))
    assert "a b" not in str(refusals.read(document, "client_secret"))


def test_a_token_tells_audience_roles_and_tenant_or_nothing() -> None:
    claims = {"aud": "https://graph.microsoft.us", "roles": ["A", 1], "tid": "t"}
    text = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
    assert permit.read(f"x.{text}.y") == permit.Permit("https://graph.microsoft.us", frozenset({"A"}), "t")
    assert permit.read("opaque") is None
    assert permit.read("x.!!.y") is None


@pytest.mark.parametrize(
    ("graph", "expected"),
    [
        ("https://graph.microsoft.us", "graph.microsoft.us (cloud us-gov-l4)"),
        ("https://dod-graph.microsoft.us/", "dod-graph.microsoft.us (cloud us-gov-l5)"),
        ("graph.microsoft.com", "graph.microsoft.com (cloud global)"),
        ("https://somebody.example", ""),
        ("00000003-0000-0000-c000-000000000000", ""),
    ],
)
def test_a_graph_is_named_with_its_cloud(graph: str, expected: str) -> None:
    assert permit.cloud_of(graph) == expected
