"""Credentials of tenants: exactly one, either its own or the shared one, and one sentence per mistake."""

from functools import cache
from pathlib import Path

import pytest

from connector.config import Identity, load
from connector.errors import ConfigurationError
from tests.certificates import key_pair

TENANT = "11111111-1111-1111-1111-111111111111"
AZURE = {"AZURE_TENANT_ID": TENANT, "AZURE_CLIENT_ID": "app"}
RSA = key_pair("unit")


@cache
def files() -> dict[str, bytes]:
    """Create the credential files once for all tests, because encryption is slow on purpose."""
    return {
        "app.pem": RSA.pem(),
        "locked.pem": RSA.pem("p4ss"),
        "app.pfx": RSA.pfx("p4ss"),
        "key.pem": RSA.key_pem(),
        "certificate.pem": RSA.certificate_pem,
        "curve.pem": key_pair("curve", curve=True).pem(),
        "foreign.pem": RSA.key_pem() + key_pair("curve", curve=True).certificate_pem,
        "broken.pem": RSA.certificate_pem + b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
        "text": b"no certificate",
        "token": b"\nfederated\n\n",
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, content in files().items():
        (tmp_path / name).write_bytes(content)
    return tmp_path


def identity(folder: Path, shared: str, own: str = "", environ: dict[str, str] | None = None) -> Identity:
    text = f'[identity]\n{shared}\n[[tenants]]\nid = "{TENANT}"\n{own}\n'
    path = folder / "connector.toml"
    path.write_text(text, encoding="utf-8")
    return load(path, environ or {}).tenants[0].identity


def problems(folder: Path, shared: str, own: str = "", environ: dict[str, str] | None = None) -> list[str]:
    with pytest.raises(ConfigurationError) as caught:
        identity(folder, shared, own, environ)
    return [problem.replace(f"{folder}/", "").removeprefix("connector.toml: ") for problem in caught.value.problems]


SECRET = 'client_id = "app"\nclient_secret = "hunter2"\n'
CERTIFICATE = 'client_id = "app"\nclient_certificate = { file = "app.pem" }\n'


def kinds(found: Identity) -> list[str]:
    names = ("client_secret", "client_certificate", "federated_token", "managed_identity")
    return [name for name in names if getattr(found, name)]


@pytest.mark.parametrize(
    ("shared", "own", "expected", "client_id"),
    [
        (CERTIFICATE, "", ["client_certificate"], "app"),
        (SECRET, 'client_certificate = { file = "app.pem" }', ["client_certificate"], "app"),
        (CERTIFICATE, 'client_secret = "own"\nclient_id = "mine"', ["client_secret"], "mine"),
        (SECRET, "managed_identity = true", ["managed_identity"], None),
        (SECRET, 'managed_identity = "assigned"', ["managed_identity"], "assigned"),
        ("managed_identity = true", SECRET, ["client_secret"], "app"),
        ("managed_identity = true", 'client_id = "unused"', ["managed_identity"], None),
        (SECRET, "managed_identity = false", ["client_secret"], "app"),
        (SECRET, "workload_identity = true", ["federated_token"], "app"),
        ('client_id = "app"\nworkload_identity = true', "", ["federated_token"], "app"),
        ("workload_identity = true", "", ["federated_token"], "webhook"),
    ],
)
def test_credential_of_a_tenant_replaces_the_shared_one(
    folder: Path, shared: str, own: str, expected: list[str], client_id: str | None
) -> None:
    environ = {"AZURE_FEDERATED_TOKEN_FILE": str(folder / "token"), "AZURE_CLIENT_ID": "webhook"}
    found = identity(folder, shared, own, environ)
    assert (kinds(found), found.client_id) == (expected, client_id)


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (
            'client_certificate = { file = "missing.pem" }',
            "names the file missing.pem, which cannot be read (No such file or directory); create it or use another",
        ),
        (
            'client_certificate = { file = "curve.pem" }',
            "holds a key that is not an RSA key, but Microsoft Entra accepts only RSA; create an RSA key",
        ),
        (
            'client_certificate = { file = "key.pem" }',
            "holds no certificate; write PEM with an RSA key and its certificate, or PFX",
        ),
        (
            'client_certificate = { file = "certificate.pem" }',
            "holds no private key; write PEM with an RSA key and its certificate, or PFX",
        ),
        (
            'client_certificate = { file = "foreign.pem" }',
            "holds no certificate for its private key; write PEM with an RSA key and its certificate, or PFX",
        ),
        (
            'client_certificate = { file = "broken.pem" }',
            "holds a private key that cannot be read; write PEM with an RSA key and its certificate, or PFX",
        ),
        ('client_certificate = { file = "locked.pem" }', "is encrypted; set client_certificate_password"),
        (
            'client_certificate = { file = "locked.pem" }\nclient_certificate_password = "wr0ng"',
            "holds a private key that cannot be read; check client_certificate_password",
        ),
        ('client_certificate = { file = "app.pfx" }', "cannot be opened; set client_certificate_password"),
        (
            'client_certificate = { file = "app.pfx" }\nclient_certificate_password = "wr0ng"',
            "cannot be opened; check client_certificate_password",
        ),
        (
            'client_certificate = "app.pem"',
            "is neither PEM nor PFX; write PEM with an RSA key and its certificate, or PFX",
        ),
    ],
)
def test_unusable_certificate_error_names_its_setting(folder: Path, lines: str, expected: str) -> None:
    assert problems(folder, f'client_id = "app"\n{lines}') == [f"identity.client_certificate: {expected}"]
    assert problems(folder, "", f'client_id = "app"\n{lines}') == [f"tenants[0].client_certificate: {expected}"]


@pytest.mark.parametrize(
    ("shared", "own", "expected"),
    [
        (
            SECRET + 'client_certificate = { file = "app.pem" }',
            "",
            "identity.client_certificate: cannot be combined with client_secret; remove one of them",
        ),
        (
            "",
            SECRET + "managed_identity = true",
            "tenants[0].managed_identity: cannot be combined with client_secret; remove one of them",
        ),
        (
            SECRET,
            'client_certificate_password = "p4ss"',
            "tenants[0].client_certificate_password: is set, but there is no client_certificate; remove it",
        ),
        (
            'client_id = "app"\nworkload_identity = true',
            "",
            (
                "identity.workload_identity: needs the variable AZURE_FEDERATED_TOKEN_FILE, which is not set; set it, "
                "or let Azure's workload identity webhook set it (label azure.workload.identity/use)"
            ),
        ),
        (
            "managed_identity = 1",
            "",
            "identity.managed_identity: must be true, false or the client id of a user-assigned identity",
        ),
    ],
)
def test_exactly_one_credential_per_identity_is_allowed(folder: Path, shared: str, own: str, expected: str) -> None:
    assert expected in problems(folder, shared, own)


def test_shared_password_decrypts_certificates_of_tenants(folder: Path) -> None:
    shared = 'client_id = "app"\nclient_certificate_password = "p4ss"'
    found = identity(folder, shared, 'client_certificate = { file = "app.pfx" }')
    assert found.client_certificate_password is not None
    assert found.client_certificate_password.get() == "p4ss"


@pytest.mark.parametrize(
    ("present", "expected"),
    [
        (("AZURE_CLIENT_SECRET", "AZURE_CLIENT_CERTIFICATE_PATH", "AZURE_FEDERATED_TOKEN_FILE"), "client_secret"),
        (("AZURE_CLIENT_CERTIFICATE_PATH", "AZURE_FEDERATED_TOKEN_FILE"), "client_certificate"),
        (("AZURE_FEDERATED_TOKEN_FILE",), "federated_token"),
    ],
)
def test_azure_credential_variables_have_a_fixed_precedence(
    folder: Path, present: tuple[str, ...], expected: str
) -> None:
    values = {
        "AZURE_CLIENT_SECRET": "hunter2",
        "AZURE_CLIENT_CERTIFICATE_PATH": str(folder / "locked.pem"),
        "AZURE_FEDERATED_TOKEN_FILE": str(folder / "token"),
    }
    environ = AZURE | {name: values[name] for name in present} | {"AZURE_CLIENT_CERTIFICATE_PASSWORD": "p4ss"}
    assert kinds(load(None, environ).tenants[0].identity) == [expected]


def test_managed_identity_needs_no_client_id() -> None:
    environ = {"AZURE_TENANT_ID": TENANT, "CONNECTOR_IDENTITY__MANAGED_IDENTITY": "true"}
    (tenant,) = load(None, environ).tenants
    assert (tenant.id, tenant.identity.managed_identity, tenant.identity.client_id) == (TENANT, True, None)
    environ["CONNECTOR_IDENTITY__MANAGED_IDENTITY"] = "assigned"
    assert load(None, environ).tenants[0].identity.client_id == "assigned"


def test_repr_of_an_identity_shows_no_credential(folder: Path) -> None:
    shown = repr(identity(folder, CERTIFICATE + 'client_certificate_password = "p4ss"'))
    assert "p4ss" not in shown
    assert "PRIVATE" not in shown


# Azure Event Hubs

HUBS = '[kafka]\nbootstrap_servers = "voice.servicebus.windows.net:9093"\nazure_event_hubs = true\n'


def event_hubs(
    folder: Path, text: str, environ: dict[str, str] | None = None, hubs: str = HUBS
) -> tuple[str, str, str | None]:
    """Return scope, tenant and client id of the Event Hubs login."""
    path = folder / "connector.toml"
    path.write_text(hubs + text, encoding="utf-8")
    found = load(path, environ or {}).kafka.event_hubs
    assert found is not None
    return found.scope, found.id, found.identity.client_id


def test_event_hubs_login_uses_the_shared_identity(folder: Path) -> None:
    scope = "https://voice.servicebus.windows.net/.default"
    tenant = f'[[tenants]]\nid = "{TENANT}"\n'
    own = tenant + 'client_id = "own"\nclient_secret = "x"\n'
    assert event_hubs(folder, f"[identity]\n{SECRET}{own}") == (scope, TENANT, "app")
    assert event_hubs(folder, own) == (scope, TENANT, "own")
    assert event_hubs(folder, f"[identity]\n{SECRET}{own}", {"AZURE_TENANT_ID": "other"}) == (scope, "other", "app")
    assert event_hubs(folder, "", AZURE | {"AZURE_CLIENT_SECRET": "x"}) == (scope, TENANT, "app")
    assert event_hubs(folder, f"[identity]\nmanaged_identity = true\n{tenant}") == (scope, TENANT, None)
    several = HUBS.replace("voice", "SASL_SSL://other.servicebus.usgovcloudapi.net:9093,voice")
    assert event_hubs(folder, own, hubs=several)[0] == "https://other.servicebus.usgovcloudapi.net/.default"


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("sasl.mechanism", "PLAIN", "is set, but kafka.azure_event_hubs signs in with OAUTHBEARER"),
        ("sasl.password", "hunter2", "is set, but kafka.azure_event_hubs signs in with OAUTHBEARER"),
        ("security.protocol", "SASL_PLAINTEXT", "is not SASL_SSL, so that the token would be sent unprotected"),
    ],
)
def test_conflicting_event_hubs_settings_are_refused(folder: Path, name: str, value: str, expected: str) -> None:
    tenant = f'[[tenants]]\nid = "{TENANT}"\n{SECRET}'
    with pytest.raises(ConfigurationError) as caught:
        event_hubs(folder, f'[kafka.properties]\n"{name}" = "{value}"\n{tenant}')
    (problem,) = caught.value.problems
    assert f'kafka.properties."{name}": {expected}' in problem
    assert "hunter2" not in problem


@pytest.mark.parametrize(
    "written", ['client_secret = { env = "ABSENT" }', 'client_certificate = { file = "absent" }', ""]
)
def test_commands_without_graph_need_no_credentials(folder: Path, written: str) -> None:
    file = folder / "connector.toml"
    file.write_text(
        f'[identity]\n{written}\n[[tenants]]\nid = "11111111-1111-1111-1111-111111111111"\nname = "contoso"\n'
    )

    assert [tenant.name for tenant in load(file, {}, contacts_graph=False).tenants] == ["contoso"]
    with pytest.raises(ConfigurationError):
        load(file, {})
    with pytest.raises(ConfigurationError, match=r"windows\.slice"):
        load(file, {"CONNECTOR_WINDOWS__SLICE": "31d"}, contacts_graph=False)
