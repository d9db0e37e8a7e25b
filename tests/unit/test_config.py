"""Settings from file and environment: each documented rule, and the report of all problems."""

import copy
import json
from collections.abc import Mapping
from dataclasses import FrozenInstanceError
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from connector import config
from connector.config import Secret, Settings, duration_text, load
from connector.core.windows import Sweep
from connector.errors import ConfigurationError

TENANT = "11111111-1111-1111-1111-111111111111"
OTHER = "22222222-2222-2222-2222-22222222222A"
AZURE = {"AZURE_TENANT_ID": TENANT, "AZURE_CLIENT_ID": "app", "AZURE_CLIENT_SECRET": "from-azure"}
VALID = f"""
[[tenants]]
id = "{TENANT}"
client_id = "app"
client_secret = "hunter2"
"""


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "connector.toml"
    path.write_text(text, encoding="utf-8")
    return path


def settings(tmp_path: Path, text: str, environ: Mapping[str, str] | None = None) -> Settings:
    return load(written(tmp_path, text), environ or {})


def problems(tmp_path: Path, text: str, environ: Mapping[str, str] | None = None, *, tenant: bool = True) -> list[str]:
    """Return every problem of a configuration, without the folder of the file."""
    with pytest.raises(ConfigurationError) as caught:
        settings(tmp_path, text + (VALID if tenant else ""), environ)
    assert all("\n" not in problem for problem in caught.value.problems)
    return [problem.replace(f"{tmp_path}/", "") for problem in caught.value.problems]


def problem(tmp_path: Path, text: str, environ: Mapping[str, str] | None = None, *, tenant: bool = True) -> str:
    found = problems(tmp_path, text, environ, tenant=tenant)
    assert len(found) == 1, found
    return found[0]


class TestDefaults:
    def test_default_settings_match_the_documentation(self, tmp_path: Path) -> None:
        got = settings(tmp_path, VALID)
        graph = got.graph
        assert (graph.root, graph.authority) == ("https://graph.microsoft.com", "https://login.microsoftonline.com")
        assert graph.scope == "https://graph.microsoft.com/.default"
        assert (graph.api_version, graph.requests_per_minute, graph.concurrency) == ("v1.0", 45, 4)
        assert graph.timeout == timedelta(seconds=30)
        assert graph.ca_bundle is None
        assert got.windows.settle == timedelta(0)
        assert got.windows.slice == timedelta(days=1)
        assert got.windows.sweeps == (
            Sweep(timedelta(minutes=1), timedelta(minutes=15)),
            Sweep(timedelta(minutes=15), timedelta(hours=3)),
            Sweep(timedelta(hours=2), timedelta(hours=48)),
            Sweep(timedelta(hours=24), timedelta(days=7)),
        )
        assert got.dedup.horizon == timedelta(days=150)
        rows = got.rows
        assert (rows.key, rows.timestamp, rows.revisions) == ("id", "ingest", "publish")
        assert (rows.additional_properties, rows.privacy) == ("keep", {})
        kafka = got.kafka
        assert (kafka.bootstrap_servers, kafka.topic, kafka.app) == ("", "direct-routing-calls", "direct-routing")
        assert (kafka.shards, kafka.partitions, kafka.replication_factor) == (8, 6, -1)
        assert (kafka.delivery, kafka.create_topics, kafka.event_hubs) == ("exactly_once", True, None)
        assert (kafka.topic_properties, kafka.properties) == ({}, {})
        assert (got.http.host, got.http.port) == ("0.0.0.0", 9464)  # noqa: S104
        assert (got.log.format, got.log.level) == ("auto", "info")

    def test_tenant_inherits_settings_that_it_does_not_set(self, tmp_path: Path) -> None:
        got = settings(
            tmp_path,
            f"""
            graph.requests_per_minute = 30
            kafka.topic = "calls"
            [identity]
            client_id = "shared"
            client_secret = "shared-secret"
            [[tenants]]
            id = "{OTHER}"
            [[tenants]]
            id = "{TENANT}"
            name = "contoso"
            client_id = "own"
            client_secret = "own-secret"
            start = "2026-01-31T01:00:00+01:00"
            requests_per_minute = 12.5
            topic = "contoso-calls"
            """,
        )
        first, second = got.tenants
        assert (first.id, first.key, first.label, first.name) == (OTHER, OTHER.lower(), OTHER, None)
        assert (first.start, first.requests_per_minute, first.topic) == (timedelta(days=-7), 30, "calls")
        assert first.identity.client_id == "shared"
        assert first.identity.client_secret is not None
        assert first.identity.client_secret.get() == "shared-secret"
        assert (second.label, second.identity.client_id) == ("contoso", "own")
        assert second.identity.client_secret is not None
        assert second.identity.client_secret.get() == "own-secret"
        assert second.start == datetime(2026, 1, 31, tzinfo=UTC)
        assert (second.requests_per_minute, second.topic) == (12.5, "contoso-calls")
        assert got.topics == ("calls", "contoso-calls")

    def test_settings_are_immutable(self, tmp_path: Path) -> None:
        got = settings(tmp_path, VALID)
        with pytest.raises(FrozenInstanceError):
            got.kafka.topic = "x"  # type: ignore[misc]

    @pytest.mark.parametrize(
        ("cloud", "root", "sign_in"),
        [
            ("us-gov-l4", "https://graph.microsoft.us", "https://login.microsoftonline.us"),
            ("us-gov-l5", "https://dod-graph.microsoft.us", "https://login.microsoftonline.us"),
        ],
    )
    def test_cloud_setting_selects_graph_and_sign_in_hosts(
        self, tmp_path: Path, cloud: str, root: str, sign_in: str
    ) -> None:
        graph = settings(tmp_path, f'graph.cloud = "{cloud}"{VALID}').graph
        assert (graph.root, graph.authority, graph.scope) == (root, sign_in, f"{root}/.default")

    def test_base_url_and_authority_do_not_change_the_token_scope(self, tmp_path: Path) -> None:
        graph = settings(
            tmp_path,
            f'graph.base_url = "https://localhost:8443/"\ngraph.authority = "https://localhost:8444/"{VALID}',
        ).graph
        assert (graph.root, graph.authority) == ("https://localhost:8443", "https://localhost:8444")
        assert graph.scope == "https://graph.microsoft.com/.default"

    @pytest.mark.parametrize(
        ("listen", "host", "port"),
        [("127.0.0.1:0", "127.0.0.1", 0), ("[::1]:80", "::1", 80), (":9", "0.0.0.0", 9)],  # noqa: S104
    )
    def test_listen_setting_is_split_into_host_and_port(
        self, tmp_path: Path, listen: str, host: str, port: int
    ) -> None:
        http = settings(tmp_path, f'http.listen = "{listen}"{VALID}').http
        assert (http.host, http.port) == (host, port)

    def test_sweeps_are_sorted_by_cadence(self, tmp_path: Path) -> None:
        got = settings(
            tmp_path, f'windows.sweeps = [{{every="24h", overlap="7d"}}, {{every="60s", overlap="900s"}}]{VALID}'
        )
        assert [duration_text(sweep.every) for sweep in got.windows.sweeps] == ["60s", "24h"]
        assert duration_text(copy.deepcopy(got).windows.sweeps[0].every) == "60s"

    def test_byte_order_mark_of_the_configuration_file_is_ignored(self, tmp_path: Path) -> None:
        assert settings(tmp_path, "\ufeff" + VALID).tenants[0].id == TENANT

    def test_unquoted_toml_datetime_is_accepted(self, tmp_path: Path) -> None:
        got = settings(tmp_path, VALID + "start = 2026-01-31T01:00:00+01:00")
        assert got.tenants[0].start == datetime(2026, 1, 31, tzinfo=UTC)


class TestEnvironment:
    def test_environment_overrides_single_keys_of_the_file(self, tmp_path: Path) -> None:
        got = settings(
            tmp_path,
            f'[kafka]\ntopic = "from-file"\napp = "app-of-file"{VALID}',
            {"connector_Kafka__Topic": "from-variable", "CONNECTOR_KAFKA__SHARDS": "3"},
        )
        assert (got.kafka.topic, got.kafka.app, got.kafka.shards) == ("from-variable", "app-of-file", 3)

    def test_environment_alone_configures_the_connector(self) -> None:
        got = load(
            None,
            {
                "CONNECTOR_TENANTS": json.dumps([{"id": TENANT, "client_id": "app", "client_secret": "s"}]),
                "CONNECTOR_KAFKA__CREATE_TOPICS": "False",
                "CONNECTOR_GRAPH__REQUESTS_PER_MINUTE": "2.5",
                "CONNECTOR_WINDOWS__SWEEPS": '[{"every": "500ms", "overlap": "1h"}]',
                "CONNECTOR_HTTP": '{"listen": "127.0.0.1:0"}',
                "CONNECTOR_LOG__LEVEL": "DEBUG",
            },
        )
        assert got.tenants[0].id == TENANT
        assert got.kafka.create_topics is False
        assert got.graph.requests_per_minute == 2.5
        assert got.windows.sweeps == (Sweep(timedelta(milliseconds=500), timedelta(hours=1)),)
        assert (got.http.port, got.log.level) == (0, "debug")

    def test_variable_of_a_key_overrides_the_variable_of_its_table(self, tmp_path: Path) -> None:
        got = settings(
            tmp_path,
            f"[kafka]\nshards = 5{VALID}",
            {"CONNECTOR_KAFKA": '{"topic": "table", "app": "table"}', "CONNECTOR_KAFKA__TOPIC": "key"},
        )
        assert (got.kafka.topic, got.kafka.app, got.kafka.shards) == ("key", "table", 5)

    def test_underscores_in_kafka_property_variables_mean_dots(self, tmp_path: Path) -> None:
        got = settings(
            tmp_path,
            f'[kafka.properties]\n"sasl.password" = {{ file = "absent" }}\n"linger.ms" = 5{VALID}',
            {
                "CONNECTOR_KAFKA__PROPERTIES__SASL_PASSWORD": "hunter2",
                "CONNECTOR_KAFKA__TOPIC_PROPERTIES__RETENTION_MS": "1000",
                "CONNECTOR_KAFKA__PROPERTIES": '{"enable.ssl.certificate.verification": true}',
            },
        )
        assert got.kafka.properties == {
            "sasl.password": "hunter2",
            "linger.ms": "5",
            "enable.ssl.certificate.verification": "true",
        }
        assert got.kafka.topic_properties == {"retention.ms": "1000"}

    def test_connector_config_variable_names_the_file(self, tmp_path: Path) -> None:
        path = written(tmp_path, f'kafka.topic = "chosen"{VALID}')
        assert load(None, {"CONNECTOR_CONFIG": str(path)}).kafka.topic == "chosen"
        assert load(path, {"CONNECTOR_CONFIG": "/nowhere"}).kafka.topic == "chosen"

    def test_variables_that_kubernetes_injects_are_ignored(self, tmp_path: Path) -> None:
        environ = {
            "CONNECTOR_SERVICE_HOST": "10.0.0.1",
            "CONNECTOR_PORT": "tcp://10.0.0.1:9464",
            "CONNECTOR_PORT_9464_TCP_ADDR": "10.0.0.1",
            "CONNECTORS__X": "1",
            "KAFKA__TOPIC": "x",
        }
        assert settings(tmp_path, VALID, environ) == settings(tmp_path, VALID)

    def test_secret_variable_may_be_json_or_name_one_nested_key(self, tmp_path: Path) -> None:
        (tmp_path / "secret").write_text("from-file\n")
        got = settings(
            tmp_path,
            f'[[tenants]]\nid = "{TENANT}"\n',
            {
                "CONNECTOR_IDENTITY__CLIENT_ID": "app",
                "CONNECTOR_IDENTITY__CLIENT_SECRET": '{"env": "MINE"}',
                "MINE": "m",
            },
        )
        assert got.tenants[0].identity.client_secret is not None
        assert got.tenants[0].identity.client_secret.get() == "m"
        got = settings(
            tmp_path,
            f'[identity]\nclient_id = "app"\nclient_secret = {{ env = "MINE" }}\n[[tenants]]\nid = "{TENANT}"\n',
            {"CONNECTOR_IDENTITY__CLIENT_SECRET__FILE": "secret"},
        )
        assert got.tenants[0].identity.client_secret is not None
        assert got.tenants[0].identity.client_secret.get() == "from-file"

    def test_invalid_json_in_a_secret_variable_is_taken_literally(self, tmp_path: Path) -> None:
        got = settings(tmp_path, VALID, {"CONNECTOR_KAFKA__PROPERTIES__SASL_PASSWORD": "{x"})
        assert got.kafka.properties == {"sasl.password": "{x"}

    @pytest.mark.parametrize(
        ("environ", "expected"),
        [
            (
                {"CONNECTOR_KAFKA__TOPIK": "x"},
                "CONNECTOR_KAFKA__TOPIK: kafka.topik: is not a known key; the most similar is CONNECTOR_KAFKA__TOPIC",
            ),
            (
                {"CONNECTOR_KAFAK__TOPIC": "x"},
                "CONNECTOR_KAFAK__TOPIC: kafak.topic: is not a known key; the most similar is CONNECTOR_KAFKA__TOPIC",
            ),
            (
                {"CONNECTOR_KAFKA__SHARDS": "eight"},
                "CONNECTOR_KAFKA__SHARDS: kafka.shards: is not a whole number; write one",
            ),
            (
                {"CONNECTOR_KAFKA__CREATE_TOPICS": "maybe"},
                "CONNECTOR_KAFKA__CREATE_TOPICS: kafka.create_topics: is neither true nor false; write true or false",
            ),
            ({"CONNECTOR_KAFKA": "[]"}, "CONNECTOR_KAFKA: kafka: is not a table; write a table"),
            (
                {"CONNECTOR_TENANTS": "[}"},
                "CONNECTOR_TENANTS: tenants: is not JSON (Expecting value at character 2); write […]",
            ),
            (
                {"CONNECTOR_TENANTS__0__ID": "x"},
                (
                    "CONNECTOR_TENANTS__0__ID: tenants: is a list, which only one variable can set; "
                    "put the list as JSON into CONNECTOR_TENANTS"
                ),
            ),
            (
                {"CONNECTOR_GRAPH__CLOUD__X": "x"},
                (
                    "CONNECTOR_GRAPH__CLOUD__X: graph.cloud.x: is not a key: graph.cloud takes a single value; "
                    "set CONNECTOR_GRAPH__CLOUD"
                ),
            ),
            (
                {"CONNECTOR_KAFKA__PROPERTIES__SASL__PASSWORD": "x"},
                (
                    "CONNECTOR_KAFKA__PROPERTIES__SASL__PASSWORD: kafka.properties.sasl.password: is not a property; "
                    "write one underscore for each dot of its name, as in CONNECTOR_KAFKA__PROPERTIES__SASL_PASSWORD"
                ),
            ),
            (
                {"CONNECTOR_KAFKA__TOPIC": "a", "connector_kafka__topic": "b"},
                "connector_kafka__topic: kafka.topic: is also set by CONNECTOR_KAFKA__TOPIC; remove one of them",
            ),
            (
                {"CONNECTOR_WINDOWS__SWEEPS": '[{"every": "1m"}]'},
                'CONNECTOR_WINDOWS__SWEEPS: windows.sweeps[0].overlap: is missing; write a duration such as "15m"',
            ),
        ],
    )
    def test_error_in_an_environment_variable_names_variable_and_key(
        self, tmp_path: Path, environ: dict[str, str], expected: str
    ) -> None:
        assert problem(tmp_path, "", environ) == expected

    def test_missing_configuration_file_error_names_its_variable(self) -> None:
        with pytest.raises(
            ConfigurationError, match=r"^CONNECTOR_CONFIG: /nowhere\.toml cannot be read \(No such file"
        ):
            load(None, {"CONNECTOR_CONFIG": "/nowhere.toml", **AZURE})


class TestAzure:
    def test_azure_variables_define_a_tenant(self) -> None:
        (tenant,) = load(None, AZURE).tenants
        assert (tenant.id, tenant.identity.client_id, tenant.label) == (TENANT, "app", TENANT)
        assert tenant.identity.client_secret is not None
        assert tenant.identity.client_secret.get() == "from-azure"

    def test_configured_tenants_replace_azure_variables(self, tmp_path: Path) -> None:
        got = settings(tmp_path, VALID.replace(TENANT, OTHER), {**AZURE, "AZURE_AUTHORITY_HOST": "https://a.example"})
        assert [tenant.id for tenant in got.tenants] == [OTHER]
        assert got.graph.authority == "https://login.microsoftonline.com"

    def test_identity_table_overrides_azure_variables(self, tmp_path: Path) -> None:
        (tenant,) = settings(tmp_path, '[identity]\nclient_id = "mine"\nclient_secret = "mine"', AZURE).tenants
        assert tenant.identity.client_id == "mine"
        assert tenant.identity.client_secret is not None
        assert tenant.identity.client_secret.get() == "mine"

    @pytest.mark.parametrize("host", ["https://login.microsoftonline.us/", "login.microsoftonline.us"])
    def test_azure_authority_host_sets_the_authority(self, host: str) -> None:
        environ = {**AZURE, "AZURE_AUTHORITY_HOST": host}
        assert load(None, environ).graph.authority == "https://login.microsoftonline.us"
        environ["CONNECTOR_GRAPH__AUTHORITY"] = "https://other.example"
        assert load(None, environ).graph.authority == "https://other.example"

    @pytest.mark.parametrize(
        ("environ", "expected"),
        [
            (
                {},
                (
                    "CONNECTOR_TENANTS: tenants: has no tenant; name a configuration file with --config, "
                    "or set AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_CLIENT_SECRET"
                ),
            ),
            (
                {**AZURE, "AZURE_TENANT_ID": ""},
                "CONNECTOR_TENANTS: tenants: has no tenant; set AZURE_TENANT_ID too",
            ),
            (
                {**AZURE, "AZURE_TENANT_ID": "nonsense"},
                (
                    'AZURE_TENANT_ID: tenants[0].id: is "nonsense", which is not a tenant id; '
                    "write the directory (tenant) id that Microsoft Entra shows, or a domain of the tenant"
                ),
            ),
            (
                {**AZURE, "AZURE_CLIENT_ID": ""},
                "AZURE_CLIENT_ID: tenants[0].client_id: is missing; set AZURE_CLIENT_ID",
            ),
            (
                {**AZURE, "AZURE_CLIENT_SECRET": ""},
                (
                    "AZURE_CLIENT_SECRET: tenants[0].client_secret: is missing; set AZURE_CLIENT_SECRET, "
                    "AZURE_CLIENT_CERTIFICATE_PATH or AZURE_FEDERATED_TOKEN_FILE"
                ),
            ),
            (
                {**AZURE, "AZURE_CLIENT_SECRET": "", "AZURE_CLIENT_CERTIFICATE_PATH": "/c.pem"},
                (
                    "AZURE_CLIENT_CERTIFICATE_PATH: tenants[0].client_certificate: names the file /c.pem, "
                    "which cannot be read (No such file or directory); create it or use another"
                ),
            ),
            (
                {**AZURE, "AZURE_CLIENT_SECRET": "", "AZURE_FEDERATED_TOKEN_FILE": "/token"},
                (
                    "AZURE_FEDERATED_TOKEN_FILE: tenants[0].workload_identity: names the file /token, "
                    "which cannot be read (No such file or directory); create it or use another"
                ),
            ),
            (
                {**AZURE, "AZURE_AUTHORITY_HOST": "http://login.example"},
                (
                    'AZURE_AUTHORITY_HOST: graph.authority: is "http://login.example", but secrets are sent to '
                    "this URL; write https://"
                ),
            ),
        ],
    )
    def test_error_in_an_azure_variable_names_the_variable(self, environ: dict[str, str], expected: str) -> None:
        with pytest.raises(ConfigurationError) as caught:
            load(None, environ)
        assert caught.value.problems == [expected]


class TestSecrets:
    def test_changed_secret_file_is_read_again_without_line_ends(self, tmp_path: Path) -> None:
        file = tmp_path / "secret"
        file.write_bytes(b" first \r\n")
        got = settings(tmp_path, VALID.replace('"hunter2"', '{ file = "secret" }'))
        secret = got.tenants[0].identity.client_secret
        assert secret is not None
        assert secret.get() == " first "
        file.write_bytes(b"second\n\n")
        assert secret.get() == "second"
        file.write_bytes(b"")
        assert secret.get() == "second"
        file.unlink()
        assert secret.get() == "second"

    def test_repr_of_settings_shows_no_secret(self, tmp_path: Path) -> None:
        got = settings(
            tmp_path,
            f'[kafka.properties]\n"sasl.password" = "hunter2"\n"ssl.key.password" = {{ env = "S" }}{VALID}',
            {"S": "x1"},
        )
        assert "hunter2" not in repr(got)
        assert repr(got.kafka.properties["ssl.key.password"]) == "Secret(variable S)"
        assert "hunter2" not in f"{Secret('hunter2')!r}{Secret('hunter2')!s}"

    @pytest.mark.parametrize(
        ("reference", "expected"),
        [
            (
                '{ env = "ABSENT" }',
                "names the variable ABSENT, which is not set or empty; set the variable",
            ),
            (
                '{ file = "absent" }',
                "names the file absent, which cannot be read (No such file or directory); create it or use another",
            ),
            ('{ file = "connector.toml", env = "X" }', 'must be text, { file = "PATH" } or { env = "NAME" }'),
            ('{ fil = "x" }', 'must be text, { file = "PATH" } or { env = "NAME" }'),
            ("12", 'must be text, { file = "PATH" } or { env = "NAME" }'),
            ('""', "is empty; write the secret, or remove the key"),
        ],
    )
    def test_unreadable_secret_reference_is_reported(self, tmp_path: Path, reference: str, expected: str) -> None:
        text = VALID.replace('"hunter2"', reference)
        assert problem(tmp_path, text, tenant=False) == f"connector.toml: tenants[0].client_secret: {expected}"
        shared = f'[identity]\nclient_secret = {reference}\n[[tenants]]\nid = "{TENANT}"\nclient_id = "app"\n'
        assert problem(tmp_path, shared, tenant=False) == f"connector.toml: identity.client_secret: {expected}"

    def test_settings_with_the_same_secrets_are_equal(self, tmp_path: Path) -> None:
        assert settings(tmp_path, VALID) == settings(tmp_path, VALID)
        assert settings(tmp_path, VALID) != settings(tmp_path, VALID.replace("hunter2", "other"))


class TestFile:
    @pytest.mark.parametrize(
        ("content", "expected"),
        [
            (b"[graph\n", "is not TOML: Expected ']' at the end of a table declaration (at line 1, column 7); correct"),
            (b"a = '\xff'", "is not UTF-8; save it as UTF-8"),
        ],
    )
    def test_unreadable_configuration_file_is_the_only_reported_problem(
        self, tmp_path: Path, content: bytes, expected: str
    ) -> None:
        path = tmp_path / "connector.toml"
        path.write_bytes(content)
        with pytest.raises(ConfigurationError) as caught:
            load(path, {})
        assert len(caught.value.problems) == 1
        assert caught.value.problems[0].startswith(f"{path}: {path} {expected}")

    def test_relative_paths_start_at_the_configuration_file(self, tmp_path: Path) -> None:
        (tmp_path / "etc").mkdir()
        (tmp_path / "secret").write_text("s")
        path = written(tmp_path / "etc", VALID.replace('"hunter2"', '{ file = "../secret" }'))
        secret = load(path, {}).tenants[0].identity.client_secret
        assert secret is not None
        assert secret.get() == "s"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[graf]", "graf: is not a known key; the most similar is graph"),
        ("[kafka]\nlisten = 1", "kafka.listen: is not a known key; the most similar is http.listen"),
        (
            "[graph]\nrequests_per_minut = 3",
            "graph.requests_per_minut: is not a known key; the most similar is graph.requests_per_minute",
        ),
        (
            'windows.sweeps = [{evry = "1m", every = "1m", overlap = "1h"}]',
            "windows.sweeps[0].evry: is not a known key; the most similar is windows.sweeps[0].every",
        ),
        ('"a\\nb" = 1', None),
        ('pseudonyms.key = { file = "a\\nb" }\nrows.privacy = {}', None),
        ('graph.cloud = "gobal"', "graph.cloud: is \"gobal\"; write one of 'global', 'us-gov-l4' or 'us-gov-l5'"),
        (
            'graph.cloud = "china"',
            (
                'graph.cloud: is "china", but Microsoft does not offer these records in its cloud in China; '
                "only global, us-gov-l4 and us-gov-l5 can be read"
            ),
        ),
        (
            'graph.authority = "https://login.partner.microsoftonline.cn"',
            (
                'graph.authority: is "https://login.partner.microsoftonline.cn", '
                "but Microsoft does not offer these records in its cloud in China; use the address of another cloud"
            ),
        ),
        (
            'graph.base_url = "http://graph.example"',
            (
                'graph.base_url: is "http://graph.example", which would send the token unprotected; '
                "write https:// (http:// only for localhost)"
            ),
        ),
        (
            'graph.base_url = "localhost:8443"',
            'graph.base_url: is not an address; write for example "https://localhost:8443"',
        ),
        ('graph.base_url = "https://u:hunter2@h"', "graph.base_url: contains a user name; remove it"),
        (
            'graph.base_url = "https://h/?a"',
            "graph.base_url: has a query or a fragment; specify scheme, host and port only",
        ),
        (
            'graph.base_url = "https://h/v1.0"',
            (
                'graph.base_url: is "https://h/v1.0", but the connector appends the version itself; '
                "remove it and set graph.api_version"
            ),
        ),
        (
            'graph.authority = "http://localhost"',
            'graph.authority: is "http://localhost", but secrets are sent to this URL; write https://',
        ),
        (
            'graph.ca_bundle = "absent.pem"',
            "graph.ca_bundle: names absent.pem, which cannot be read (No such file or directory); specify a PEM file",
        ),
        (
            'graph.ca_bundle = "connector.toml"',
            "graph.ca_bundle: names connector.toml, which holds no certificates; specify a PEM file",
        ),
        ("graph.requests_per_minute = 0.5", "graph.requests_per_minute: is 0.5; write at least 1"),
        ("graph.requests_per_minute = inf", "graph.requests_per_minute: is not a finite number; write a finite number"),
        ("graph.requests_per_minute = true", "graph.requests_per_minute: is not a number; write one, without quotes"),
        ("graph.concurrency = 0", "graph.concurrency: is 0; write at least 1"),
        ('graph.timeout = "0s"', 'graph.timeout: must be greater than zero; write for example "30s"'),
        ("graph.timeout = 30", 'graph.timeout: is not a duration; write text with a unit, for example "30s"'),
        (
            'graph.timeout = "half an hour"',
            (
                'graph.timeout: is "half an hour", which is not a duration; '
                'write for example "500ms", "15s", "10m", "2h" or "7d"'
            ),
        ),
        ("kafka = 3", "kafka: is not a table; write a table"),
        ('kafka.shards = "8"', "kafka.shards: is not a whole number; write one, without quotes"),
        ("kafka.shards = 0", "kafka.shards: is 0; write at least 1"),
        ("kafka.partitions = 0", "kafka.partitions: is 0; write at least 1"),
        (
            "kafka.replication_factor = 0",
            "kafka.replication_factor: is 0; write -1 for the broker's default, or at least 1",
        ),
        ("kafka.topic = 1", "kafka.topic: is not text; write text in quotes"),
        (
            'kafka.topic = "a b"',
            "kafka.topic: is \"a b\", which Kafka does not allow; use letters, digits, '.', '_' and '-'",
        ),
        (f'kafka.topic = "{"a" * 241}"', "kafka.topic: is 241 characters long; use at most 240"),
        (
            'kafka.app = "direct-routing-calls"\nkafka.topic = "direct-routing-calls.state"',
            (
                "kafka.topic: needs the topic direct-routing-calls.state, "
                "which collides with direct-routing-calls.state of kafka.app; choose another name"
            ),
        ),
        (
            (
                'kafka.app = "x_dlq"\nkafka.topic = "x"\n[[tenants]]\nid = "contoso.com"\nclient_id = "a"\n'
                'client_secret = "s"\ntopic = "x_dlq"'
            ),
            "tenants[0].topic: needs the topic x_dlq, which collides with x.dlq of kafka.topic; choose another name",
        ),
        (
            'kafka.bootstrap_servers = "a b:9092"',
            'kafka.bootstrap_servers: is not a list of brokers; write for example "broker-1:9092,broker-2:9092"',
        ),
        (
            '[kafka.properties]\n"transactional.id" = "x"',
            (
                'kafka.properties."transactional.id": cannot be set, because it is derived from '
                "kafka.app and the shard; remove it"
            ),
        ),
        (
            '[kafka.properties]\n"group.instance.id" = "worker-0"',
            (
                'kafka.properties."group.instance.id": cannot be set, because workers with the same configuration '
                "would fence each other repeatedly; remove it"
            ),
        ),
        (
            '[kafka.properties]\nsasl.password = "hunter2"',
            (
                "kafka.properties.sasl: is a table, but must be a value; put quotes around the whole name, "
                'as in "sasl.password" = "…"'
            ),
        ),
        (
            '[kafka.properties]\n"sasl.password" = { env = "ABSENT" }',
            'kafka.properties."sasl.password": names the variable ABSENT, which is not set or empty; set the variable',
        ),
        (
            'http.listen = "localhost"',
            'http.listen: is "localhost", which is not an address; write HOST:PORT, for example "0.0.0.0:9464"',
        ),
        (
            'http.listen = "h:65536"',
            'http.listen: is "h:65536", which is not an address; write HOST:PORT, for example "0.0.0.0:9464"',
        ),
        ('windows.slice = "31d"', 'windows.slice: is "31d"; write a duration from "1s" to "30d"'),
        ('windows.slice = "0s"', 'windows.slice: is "0s"; write a duration from "1s" to "30d"'),
        ("windows.sweeps = []", "windows.sweeps: is empty; add a [[windows.sweeps]] table, or remove the key"),
        ('[windows.sweeps]\nevery = "1m"', "windows.sweeps: is not a list; write [[windows.sweeps]]"),
        (
            'windows.sweeps = [{every = "0s", overlap = "1h"}]',
            'windows.sweeps[0].every: must be greater than zero; write a duration such as "15m"',
        ),
        (
            'windows.sweeps = [{every = "60s", overlap = "1h"}, {every = "1m", overlap = "2h"}]',
            "windows.sweeps[1].every: is also the cadence of windows.sweeps[0]; use each cadence only once",
        ),
        (
            'dedup.horizon = "6d"',
            (
                'dedup.horizon: is "6d", but must be at least the longest overlap "7d" plus the cadence of that sweep '
                '"24h" plus "1h"; write at least "193h"'
            ),
        ),
        ('rows.key = "callerNumber"', None),
        ('log.level = "loud"', None),
        (
            'schema_registry.url = "registry:8081"',
            'schema_registry.url: is not an address; write for example "https://localhost:8443"',
        ),
        (
            'schema_registry.url = "https://one:8081, ftp://registry"',
            'schema_registry.url: is "ftp://registry", which is not an address; write for example "https://registry:8081"',
        ),
        (
            'schema_registry = { url = "https://one,http://registry:8081", token = "hunter2" }',
            (
                'schema_registry.url: is "http://registry:8081", which would send the secret unprotected; '
                "write https:// (http:// only for localhost)"
            ),
        ),
        (
            'schema_registry = { url = "https://r", client_key = "key.pem" }',
            (
                "schema_registry.client_certificate: is missing, but schema_registry.client_key is set; "
                "set the certificate too"
            ),
        ),
        (
            'schema_registry.url = "ftp://registry"',
            'schema_registry.url: is "ftp://registry", which is not an address; write for example "https://registry:8081"',
        ),
        (
            'schema_registry = { url = "https://r", username = "u" }',
            "schema_registry.password: is missing, but schema_registry.username is set; set the password too",
        ),
        (
            'schema_registry = { url = "https://r", password = "hunter2" }',
            "schema_registry.username: is missing, but schema_registry.password is set; set the user name too",
        ),
        (
            'schema_registry = { url = "https://r", username = "u", password = "hunter2", token = "hunter2" }',
            "schema_registry.token: cannot be combined with a user name or password; remove one of them",
        ),
        (
            'schema_registry = { url = "http://registry:8081", token = "hunter2" }',
            (
                'schema_registry.url: is "http://registry:8081", which would send the secret unprotected; '
                "write https:// (http:// only for localhost)"
            ),
        ),
        (
            'schema_registry = { url = "https://r", token = { env = "ABSENT" } }',
            "schema_registry.token: names the variable ABSENT, which is not set or empty; set the variable",
        ),
        ('schema_registry = { url = "https://r", subject_name_strategy = "topics" }', None),
        (
            '[rows.privacy]\ncallernumber = "mask"',
            "rows.privacy.callernumber: is not a field of a row; the most similar is callerNumber",
        ),
        (
            'rows.privacy.userName = "drop"',
            "rows.privacy.userName: is not a field of a row; the most similar is userDisplayName",
        ),
        (
            'rows.privacy.id = "mask"',
            "rows.privacy.id: is not possible, because the id of a row must stay unchanged; remove this setting",
        ),
        (
            'rows.privacy.tenantId = "drop"',
            (
                "rows.privacy.tenantId: is a field that the connector adds, "
                "but privacy settings apply only to fields of Graph; remove this setting"
            ),
        ),
        (
            'rows.privacy.startDateTime = "drop"',
            (
                "rows.privacy.startDateTime: is not a string field, "
                "but privacy settings apply only to string fields; remove this setting"
            ),
        ),
        ('rows.privacy.administrativeUnitInfos = "drop"', None),
        ('rows.privacy.duration = "mask"', None),
        (
            'rows.privacy.callerNumber = "hash"',
            "rows.privacy.callerNumber: is \"hash\"; write one of 'mask', 'pseudonymize' or 'drop'",
        ),
        (
            'rows.privacy.userId = "pseudonymize"',
            (
                'pseudonyms.key: is missing, but rows.privacy.userId is "pseudonymize"; '
                'write { file = "PATH" } or { env = "NAME" }, of at least 32 bytes'
            ),
        ),
        (
            'pseudonyms.key = "hunter2"',
            ("pseudonyms.key: is 7 bytes long; write at least 32 bytes, for example those of: openssl rand -hex 32"),
        ),
        (
            'pseudonyms.key = ""',
            "pseudonyms.key: is empty; write at least 32 bytes, for example those of: openssl rand -hex 32",
        ),
        (
            'pseudonyms.key = { env = "ABSENT" }',
            (
                "pseudonyms.key: names the variable ABSENT, which is not set or empty; "
                "write at least 32 bytes, for example those of: openssl rand -hex 32"
            ),
        ),
        (
            "kafka.azure_event_hubs = true",
            (
                "kafka.azure_event_hubs: needs kafka.bootstrap_servers with a port, for example "
                '"NAMESPACE.servicebus.windows.net:9093"'
            ),
        ),
    ],
)
def test_invalid_value_is_reported_with_file_key_and_remedy(tmp_path: Path, text: str, expected: str | None) -> None:
    got = problem(tmp_path, f"{text}\n", tenant=True)
    assert "hunter2" not in got
    assert got.startswith("connector.toml: ")
    if expected is not None:
        assert got == f"connector.toml: {expected}"


def test_schema_registry_table_of_the_configuration_is_read(tmp_path: Path) -> None:
    text = """
        [schema_registry]
        url = "http://localhost:8081/apis/ccompat/v7/"
        username = "reader"
        password = { env = "REGISTRY" }
        subject_name_strategy = "record"
        auto_register = false
    """
    registry = settings(tmp_path, text + VALID, {"REGISTRY": "hunter2"}).schema_registry
    assert (registry.url, registry.username) == ("http://localhost:8081/apis/ccompat/v7", "reader")
    assert registry.password is not None
    assert registry.password.get() == "hunter2"
    assert registry.token is None
    assert (registry.subject_name_strategy, registry.auto_register) == ("record", False)
    assert "hunter2" not in repr(registry)


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ('name = "x"', "tenants[1].id: is missing; write the directory (tenant) id"),
        (f'id = "{TENANT}"', "tenants[1].id: is also the id of tenants[0]; configure each tenant once"),
        ('id = "common"', None),
        (f'id = "{OTHER}"\nname = "{TENANT}"', "tenants[1].name: is the id of tenants[0]; choose another name"),
        (
            f'id = "{OTHER}"\nstart = "7d"',
            'tenants[1].start: is "7d", a positive duration; write "-7d" for a time in the past',
        ),
        (
            f'id = "{OTHER}"\nstart = 2026-01-01T00:00:00',
            'tenants[1].start: has no offset from UTC; write for example "2026-01-31T00:00:00Z"',
        ),
        (
            f'id = "{OTHER}"\nstart = "yesterday"',
            (
                'tenants[1].start: is "yesterday", which is not an instant; write for example "2026-01-31T00:00:00Z", '
                'or "-7d" for seven days ago'
            ),
        ),
        (f'id = "{OTHER}"\nrequests_per_minute = 0', "tenants[1].requests_per_minute: is 0; write at least 1"),
        (f'id = "{OTHER}"\ntopic = ""', None),
    ],
)
def test_invalid_tenant_is_reported_in_one_line(tmp_path: Path, lines: str, expected: str | None) -> None:
    text = f'{VALID}[[tenants]]\nclient_id = "app"\nclient_secret = "s"\n{lines}\n'
    got = problem(tmp_path, text, tenant=False)
    assert got.startswith("connector.toml: tenants[1].")
    if expected is not None:
        assert got == f"connector.toml: {expected}"


def test_tenant_that_is_configured_twice_is_refused(tmp_path: Path) -> None:
    one = 'client_id = "app"\nclient_secret = "s"\nname = "same"\n'
    text = f'[[tenants]]\nid = "{OTHER}"\n{one}[[tenants]]\nid = "{OTHER.lower()}"\n{one}'
    assert problems(tmp_path, text, tenant=False) == [
        "connector.toml: tenants[1].id: is also the id of tenants[0]; configure each tenant once",
        "connector.toml: tenants[1].name: is also the name of tenants[0]; choose another name",
    ]


def test_tenant_without_a_credential_is_refused(tmp_path: Path) -> None:
    assert problems(tmp_path, f'[[tenants]]\nid = "{TENANT}"\n', tenant=False) == [
        "connector.toml: tenants[0].client_id: is missing; set it for the tenant or in [identity]",
        (
            "connector.toml: tenants[0].client_secret: is missing; set it for the tenant or in [identity], "
            "or client_certificate, workload_identity or managed_identity"
        ),
    ]


@pytest.mark.parametrize(
    "name",
    [
        "transactional.id",
        "enable.idempotence",
        "acks",
        "group.id",
        "group.instance.id",
        "isolation.level",
        "enable.auto.commit",
        "auto.offset.reset",
    ],
)
def test_protected_kafka_property_is_refused(tmp_path: Path, name: str) -> None:
    assert f"kafka.properties.{name if '.' not in name else json.dumps(name)}: cannot be set" in problem(
        tmp_path, f'[kafka.properties]\n"{name}" = "x"\n'
    )
    variable = f"CONNECTOR_KAFKA__PROPERTIES__{name.upper().replace('.', '_')}"
    assert problem(tmp_path, "", {variable: "x"}).startswith(f"{variable}: kafka.properties.")


_BEARER = """
[kafka]
azure_event_hubs = {hubs}
bootstrap_servers = "broker.example:9093"
[kafka.properties]
"security.protocol" = "SASL_SSL"
"sasl.mechanism" = "OAUTHBEARER"
{more}
"""


@pytest.mark.parametrize("spelling", ["sasl.mechanism", "sasl.mechanisms"])
def test_oauthbearer_without_a_token_source_is_refused(tmp_path: Path, spelling: str) -> None:
    text = _BEARER.format(hubs="false", more="").replace("sasl.mechanism", spelling)
    assert problem(tmp_path, text) == (
        f'connector.toml: kafka.properties."{spelling}": is "OAUTHBEARER", but no source of the token is configured; '
        'set "sasl.oauthbearer.method" = "oidc" with the client id, client secret and token endpoint, '
        "or kafka.azure_event_hubs = true (docs/kafka.md)"
    )
    name = f"CONNECTOR_KAFKA__PROPERTIES__{spelling.upper().replace('.', '_')}"
    assert "no source of the token" in problem(tmp_path, "", {name: "OAUTHBEARER"})


@pytest.mark.parametrize(
    "more", ['"sasl.oauthbearer.method" = "oidc"', '"enable.sasl.oauthbearer.unsecure.jwt" = true']
)
def test_oauthbearer_with_a_token_source_is_accepted(tmp_path: Path, more: str) -> None:
    got = settings(tmp_path, _BEARER.format(hubs="false", more=more) + VALID)
    assert got.kafka.properties["sasl.mechanism"] == "OAUTHBEARER"


def test_two_oauthbearer_token_sources_are_refused(tmp_path: Path) -> None:
    text = _BEARER.format(hubs="true", more='"sasl.oauthbearer.method" = "oidc"')
    assert problem(tmp_path, text.replace('"sasl.mechanism" = "OAUTHBEARER"', "")) == (
        'connector.toml: kafka.properties."sasl.oauthbearer.method": cannot be combined with kafka.azure_event_hubs; '
        "remove one of them"
    )


def test_aws_msk_iam_error_names_an_alternative(tmp_path: Path) -> None:
    text = '[kafka.properties]\n"sasl.mechanism" = "AWS_MSK_IAM"\n'
    assert problem(tmp_path, text) == (
        'connector.toml: kafka.properties."sasl.mechanism": is "AWS_MSK_IAM", which librdkafka does not support; '
        "use SCRAM-SHA-512 or a client certificate (docs/kafka.md)"
    )


def test_all_configuration_problems_are_reported_at_once(tmp_path: Path) -> None:
    text = """
    [grap]
    cloud = "global"
    [graph]
    timeout = "soon"
    requests_per_minute = 0
    [windows]
    slice = "40d"
    [kafka]
    shards = 0
    delivery = "twice"
    [kafka.properties]
    acks = "1"
    [[tenants]]
    id = "x"
    start = "7d"
    """
    got = problems(tmp_path, text, {"CONNECTOR_HTTP__LISTEN": "here", "CONNECTOR_LOG__LEVL": "info"}, tenant=False)
    assert {tuple(line.split(": ")[:2]) for line in got} == {
        ("connector.toml", "grap"),
        ("connector.toml", "graph.timeout"),
        ("connector.toml", "graph.requests_per_minute"),
        ("connector.toml", "windows.slice"),
        ("connector.toml", "kafka.shards"),
        ("connector.toml", "kafka.delivery"),
        ("connector.toml", "kafka.properties.acks"),
        ("connector.toml", "tenants[0].id"),
        ("connector.toml", "tenants[0].start"),
        ("connector.toml", "tenants[0].client_id"),
        ("connector.toml", "tenants[0].client_secret"),
        ("CONNECTOR_HTTP__LISTEN", "http.listen"),
        ("CONNECTOR_LOG__LEVL", "log.levl"),
    }
    assert len(got) == 13


def test_each_key_of_an_unknown_table_is_reported(tmp_path: Path) -> None:
    environ = {"CONNECTOR_KAFAK__TOPIC": "x", "CONNECTOR_KAFAK__APP": "x"}
    got = problems(tmp_path, "[kafak]\nshards = 1\n", environ)
    assert [line.split(": ")[0] for line in sorted(got)] == [
        "CONNECTOR_KAFAK__APP",
        "CONNECTOR_KAFAK__TOPIC",
        "connector.toml",
    ]


def test_required_setting_must_not_be_empty(tmp_path: Path) -> None:
    path = written(tmp_path, VALID)
    assert load(path, {}).kafka.bootstrap_servers == ""
    with pytest.raises(ConfigurationError) as caught:
        load(path, {}, required=["kafka.bootstrap_servers"])
    assert caught.value.problems == [f'{path}: kafka.bootstrap_servers: is empty; set it, for example "broker-1:9092"']


def test_white_space_in_bootstrap_servers_is_removed(tmp_path: Path) -> None:
    got = settings(tmp_path, f'kafka.bootstrap_servers = "a:9092, SASL_SSL://b, [::1]:9092"{VALID}')
    assert got.kafka.bootstrap_servers == "a:9092,SASL_SSL://b,[::1]:9092"


def test_plain_http_base_url_is_allowed_on_loopback_only(tmp_path: Path) -> None:
    for url in ("http://localhost:1", "http://127.0.0.1:1", "http://[::1]:1"):
        assert settings(tmp_path, f'graph.base_url = "{url}"{VALID}').graph.root == url


def test_ca_bundle_path_is_relative_to_the_configuration_file(tmp_path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a CA")])
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), 1)
        .not_valid_before(datetime(2026, 1, 1, tzinfo=UTC))
        .not_valid_after(datetime(2027, 1, 1, tzinfo=UTC))
        .sign(key, hashes.SHA256())
    )
    (tmp_path / "ca.pem").write_bytes(certificate.public_bytes(Encoding.PEM))
    assert settings(tmp_path, f'graph.ca_bundle = "ca.pem"{VALID}').graph.ca_bundle == tmp_path / "ca.pem"


def test_config_package_exports_its_public_names() -> None:
    assert {"Settings", "Tenant", "Identity", "Secret", "load", "duration_text"} <= vars(config).keys()


# --- privacy ----------------------------------------------------------------------------------------------------------


KEYED = 'pseudonyms.key = { file = "key" }\nrows.privacy = { callerNumber = "pseudonymize" }\n'


def test_privacy_settings_drop_unknown_json_members_by_default(tmp_path: Path) -> None:
    masked = settings(tmp_path, 'rows.privacy = { callerNumber = "mask", userCountryCode = "drop" }\n' + VALID).rows
    assert masked.additional_properties == "drop"
    assert masked.treated == {"callerNumber", "userCountryCode"}
    kept = settings(tmp_path, 'rows = { additional_properties = "keep", privacy = { userId = "drop" } }\n' + VALID).rows
    assert kept.additional_properties == "keep"


def test_privacy_variable_accepts_a_field_name_in_any_case(tmp_path: Path) -> None:
    variables = {
        "CONNECTOR_ROWS__PRIVACY__CALLERNUMBER": "drop",
        "connector_rows__privacy__userPrincipalName": "mask",
    }
    rows = settings(tmp_path, 'rows.privacy = { callerNumber = "mask" }\n' + VALID, variables).rows
    assert rows.privacy == {"callerNumber": "drop", "userPrincipalName": "mask"}


def test_changed_pseudonym_key_file_is_read_again(tmp_path: Path) -> None:
    file = tmp_path / "key"
    first, second = bytes(range(224, 256)), bytes(range(100, 164))
    file.write_bytes(first + b"\r\n")
    key = settings(tmp_path, KEYED + VALID).rows.pseudonym_key
    assert key is not None
    assert (key.get(), key.problem) == (first, None)
    file.write_bytes(second)
    assert (key.get(), key.problem) == (second, None)
    file.write_bytes(b"")
    assert key.get() == second
    assert "0 bytes" in str(key.problem)
    file.unlink()
    assert key.get() == second
    assert "cannot be read" in str(key.problem)
    assert "224" not in repr(key)


@pytest.mark.parametrize(("content", "what"), [(b"", "is empty"), (b"x" * 31 + b"\n", "is 31 bytes long"), (None, "")])
def test_unusable_pseudonym_key_file_is_reported(tmp_path: Path, content: bytes | None, what: str) -> None:
    if content is not None:
        (tmp_path / "key").write_bytes(content)
    got = problem(tmp_path, KEYED, tenant=True)
    assert got.startswith("connector.toml: pseudonyms.key: names the file ")
    assert (what if content is not None else "cannot be read") in got
    assert "xxx" not in got
