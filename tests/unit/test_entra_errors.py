"""Errors of sign-in and their remedies, and the claims of a token."""

import base64
import json
import re
from pathlib import Path

import pytest

from connector.graph import entra_errors, token_claims


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
def test_permanent_sign_in_errors_have_a_remedy(document: dict[str, object], kind: str, expected: str) -> None:
    refusal = entra_errors.read(document, kind)
    assert refusal is not None
    assert expected in refusal.remedy
    assert bool(refusal.remedy) == bool(expected)


@pytest.mark.parametrize("error", [None, 5, "<script>", "x" * 65, ""])
def test_malformed_error_member_is_not_an_entra_error(error: object) -> None:
    assert entra_errors.read({"error": error}, "client_secret") is None


def test_entra_error_does_not_repeat_the_description() -> None:
    document = {
        "error": "invalid_client",
        "error_description": "AADSTS7000215: secret hunter2",
        "correlation_id": "a b",
    }
    assert "hunter2" not in str(entra_errors.read(document, "client_secret"))
    assert "a b" not in str(entra_errors.read(document, "client_secret"))


def test_token_claims_are_read_and_opaque_tokens_have_none() -> None:
    claims = {"aud": "https://graph.microsoft.us", "roles": ["A", 1], "tid": "t"}
    text = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
    assert token_claims.read(f"x.{text}.y") == token_claims.TokenClaims(
        "https://graph.microsoft.us", frozenset({"A"}), "t"
    )
    assert token_claims.read("opaque") is None
    assert token_claims.read("x.!!.y") is None


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
def test_cloud_is_recognized_by_its_graph_host(graph: str, expected: str) -> None:
    assert token_claims.cloud_of(graph) == expected


REMEDY_WORDS = {
    "secret's value": (70002, 7000215),
    "create a new one": (7000222,),
    "configure client_secret": (7000216, 7000218),
    "public client": (700025,),
    "add its public part": (700027, 50012),
    "own certificate first": (700030,),
    "trust the issuer": (50017,),
    "replace it if it has expired": (1000502,),
    "check client_id": (700021, 50048, 700016, 700011, 70001),
    "graph.authority": (700023, 50049, 50059, 50128, 90019),
    "renew the federated token": (700024, 500133),
    "key and certificate belong": (900384,),
    "add a federated credential": (70021, 700211, 700213),
    "api://AzureADTokenExchange": (700212,),
    "another issuer": (700222,),
    "issued to an application": (700229,),
    "which issuer": (50013,),
    "AZURE_FEDERATED_TOKEN_FILE": (50027,),
    "give admin consent": (7000229, 90099),
    "enable its enterprise application": (7000112,),
    "administrator why it is blocked": (1000031,),
    "multitenant": (50194,),
    "assign it": (50105,),
    "CallRecords.Read.All and give admin consent": (65001, 65005, 650056, 650057, 90008, 90094),
    "check the tenant's id": (90002,),
    "tenant's id is not valid": (900021, 900023),
    "check graph.cloud": (90038, 90051, 900382, 900432, 50001, 500011, 28002, 70011, 700022, 1002012),
    "check its subscriptions": (650052, 650054),
    "exclude it": (53003, 50131, 530032),
    "security defaults": (530035,),
    "sign-in log": (50053,),
    "tenant restrictions": (50002, 500021, 500022),
    "no proxy changes requests": (70003, 90004, 90013, 90014, 90023, 90100, 900144, 900561, 9002313),
    "support request": (50000, 90036, 90092),
}


@pytest.mark.parametrize(("code", "words"), [(code, words) for words, codes in REMEDY_WORDS.items() for code in codes])
def test_sign_in_code_alone_determines_the_remedy(code: int, words: str) -> None:
    """The code is found as a number and in the description, and it counts whatever the OAuth error is."""
    for error in ("invalid_client", "invalid_request", "unauthorized_client", "interaction_required"):
        for document in (
            {"error": error, "error_codes": [code]},
            {"error": error, "error_description": f"AADSTS{code}: Something. Trace ID: x"},
        ):
            refusal = entra_errors.read(document, "client_secret")
            assert refusal is not None
            assert words in refusal.remedy
            assert "; " in refusal.remedy
            assert f"AADSTS{code}" in refusal.codes


def test_each_sign_in_code_with_a_remedy_has_a_test_case() -> None:
    assert sorted(code for codes in REMEDY_WORDS.values() for code in codes) == sorted(entra_errors.REMEDIES)


@pytest.mark.parametrize("code", [50033, 50196, 90006, 90012, 90024, 90033, 90055, 90090, 90091])
def test_transient_sign_in_code_is_retried(code: int) -> None:
    refusal = entra_errors.read({"error": "invalid_request", "error_codes": [code]}, "client_secret")
    assert refusal is not None
    assert refusal.remedy == ""
    assert "wait" in refusal.wait
    assert code in entra_errors.PASSING


def test_documented_sign_in_codes_match_the_implementation() -> None:
    text = (Path(__file__).parents[2] / "docs/identities.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| AADSTS(\d+) \| (.*) \| (.*) \|$", text, re.MULTILINE)
    assert {int(code): f"{wrong}; {todo}" for code, wrong, todo in rows} == entra_errors.REMEDIES | entra_errors.PASSING


@pytest.mark.parametrize("error", ["invalid_client", "invalid_grant", "invalid_resource", "access_denied", "other"])
@pytest.mark.parametrize("kind", ["client_secret", "client_certificate", "workload_identity", "managed_identity"])
def test_unknown_sign_in_code_still_has_a_remedy(error: str, kind: str) -> None:
    refusal = entra_errors.read({"error": error, "error_codes": [123456]}, kind)
    assert refusal is not None
    assert refusal.remedy
