"""The Helm chart: what it renders for several kinds of installations, held against the schemas that clusters use."""

import json
import re
import shutil
import subprocess
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from connector import config
from tests import helm
from tests.certificates import key_pair
from tests.helm import CHART, ROOT
from tests.system_software import program

pytestmark = pytest.mark.timeout(900)  # the first test of all waits until Helm is compiled

INSTALLATIONS = sorted(path.name.removesuffix("-values.yaml") for path in (CHART / "ci").glob("*-values.yaml"))
VERSIONS = ("1.27", "1.32", "1.37")
OPERATOR = "monitoring.coreos.com/v1"
SECRETS = "/etc/connector/secrets"

ID = "11111111-1111-1111-1111-111111111111"

Resources = dict[str, dict[str, Any]]
"Rendered resources by kind; the chart has at most one of each."


def run_helm(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([helm.helm(), *arguments], cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)


def values_file(installation: str) -> str:
    return str(CHART / "ci" / f"{installation}-values.yaml")


def template(installation: str, *options: str) -> subprocess.CompletedProcess[str]:
    values = f"--values={values_file(installation)}"
    return run_helm("template", "calls", str(CHART), values, *options)


@pytest.fixture(scope="module")
def render() -> Callable[..., Resources]:
    """Return a function that renders an installation with additional `--set` options."""

    def rendered(installation: str, *options: str) -> Resources:
        done = template(installation, "--namespace=telephony", *options)
        assert done.returncode == 0, done.stderr
        documents = [document for document in yaml.safe_load_all(done.stdout) if document]
        found = {document["kind"]: document for document in documents}
        assert len(found) == len(documents)
        return found

    return rendered


@pytest.fixture(scope="module", params=INSTALLATIONS)
def installation(request: pytest.FixtureRequest, render: Callable[..., Resources]) -> tuple[str, Resources]:
    """Each of the values files, rendered."""
    return request.param, render(request.param)


def pod(resources: Resources) -> dict[str, Any]:
    spec: dict[str, Any] = resources["Deployment"]["spec"]["template"]["spec"]
    return spec


def container(resources: Resources) -> dict[str, Any]:
    (only,) = pod(resources)["containers"]
    return dict(only)


def test_lint_has_nothing_to_say_about_any_installation() -> None:
    assert len(INSTALLATIONS) >= 5
    for name in INSTALLATIONS:
        done = run_helm("lint", "--strict", str(CHART), f"--values={values_file(name)}")
        assert done.returncode == 0, done.stdout
        assert "[WARNING]" not in done.stdout


def test_every_resource_is_what_clusters_take(installation: tuple[str, Resources]) -> None:
    _, resources = installation
    assert {"Deployment", "Service"} <= resources.keys()
    for kind, resource in resources.items():
        if resource["apiVersion"] == OPERATOR:
            jsonschema.validate(resource, helm.resource_schema(kind))
            continue
        for version in VERSIONS:
            kubernetes_validate.validate(resource, version, strict=True)


def test_the_schemas_refuse_a_member_that_nobody_knows(render: Callable[..., Resources]) -> None:
    resources = render("monitoring")
    resources["Deployment"]["spec"]["replica"] = 2
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(resources["Deployment"], VERSIONS[0], strict=True)
    resources["ServiceMonitor"]["spec"]["endpoints"][0]["intervall"] = "1s"
    with pytest.raises(jsonschema.ValidationError, match="intervall"):
        jsonschema.validate(resources["ServiceMonitor"], helm.resource_schema("ServiceMonitor"))


def test_user_and_groups_are_fixed_unless_values_leave_them_out(render: Callable[..., Resources]) -> None:
    """OpenShift's restricted-v2 refuses pods that name a user or group outside of the range of the project."""
    names = ("runAsUser", "runAsGroup", "fsGroup")
    fixed = pod(render("minimal"))["securityContext"]
    assert [fixed[name] for name in names] == [10001] * 3
    chosen = render("openshift")
    assert pod(chosen)["securityContext"].keys() == {"runAsNonRoot", "seccompProfile"}
    assert container(chosen)["securityContext"].keys().isdisjoint(names)
    for name in names:
        without = pod(render("minimal", f"--set=podSecurityContext.{name}=null"))["securityContext"]
        assert set(names) - without.keys() == {name}
    other = pod(render("minimal", "--set=podSecurityContext.runAsUser=1000660000"))["securityContext"]
    assert other["runAsUser"] == 1000660000
    for wrong in ("0", "root"):
        done = template("minimal", f"--set=podSecurityContext.runAsUser={wrong}")
        assert done.returncode != 0
        assert "runAsUser" in done.stderr


def test_every_worker_runs_with_as_little_as_it_needs(installation: tuple[str, Resources]) -> None:
    _, resources = installation
    spec, only = pod(resources), container(resources)
    assert spec["enableServiceLinks"] is False
    assert spec["automountServiceAccountToken"] is False
    assert spec["terminationGracePeriodSeconds"] > 10
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"].get("runAsUser", 1) > 0
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert only["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert only["resources"]["limits"]["memory"]
    assert {only[f"{kind}Probe"]["httpGet"]["path"] for kind in ("startup", "liveness")} == {"/livez"}
    assert only["readinessProbe"]["httpGet"]["path"] == "/readyz"


def test_selectors_find_the_workers_and_nothing_secret_is_written_down(installation: tuple[str, Resources]) -> None:
    _, resources = installation
    labels = resources["Deployment"]["spec"]["template"]["metadata"]["labels"]
    selectors = [resources["Service"]["spec"]["selector"]]
    selectors += [
        resources[kind]["spec"][place]["matchLabels"]
        for kind, place in (
            ("Deployment", "selector"),
            ("PodDisruptionBudget", "selector"),
            ("NetworkPolicy", "podSelector"),
            ("ServiceMonitor", "selector"),
        )
        if kind in resources
    ]
    assert all(selector and selector.items() <= labels.items() for selector in selectors)
    assert "Secret" not in resources


def test_the_configuration_arrives_as_it_was_written(installation: tuple[str, Resources]) -> None:
    name, resources = installation
    values = yaml.safe_load(Path(values_file(name)).read_text(encoding="utf-8"))
    if "ConfigMap" in resources:
        assert tomllib.loads(resources["ConfigMap"]["data"]["connector.toml"]) == values["config"]
    else:
        sources = [volume["secret"]["secretName"] for volume in pod(resources)["volumes"]]
        assert sources == [values["existingConfigSecret"]]


def test_the_rendered_configuration_loads(installation: tuple[str, Resources], tmp_path: Path) -> None:
    name, resources = installation
    if name == "private-registry":
        assert "ConfigMap" not in resources  # it is a Secret that is there already
        return
    written = resources["ConfigMap"]["data"]["connector.toml"]
    mounted = {mount["mountPath"] for mount in container(resources)["volumeMounts"]}
    content = {"certificate.pem": key_pair("chart").pem()}
    for place in re.findall(rf'"{SECRETS}/([^"]+)"', written):
        assert f"{SECRETS}/{place.partition('/')[0]}" in mounted
        file = tmp_path / "secrets" / place
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content.get(file.name, b"long enough for a key, and for any secret"))
    path = tmp_path / "connector.toml"
    path.write_text(written.replace(SECRETS, str(tmp_path / "secrets")), encoding="utf-8")
    environment = {one["name"]: one.get("value", "from a secret") for one in container(resources)["env"]}
    if name == "monitoring":  # whose tenant is not in the chart
        environment |= {"AZURE_TENANT_ID": ID, "AZURE_CLIENT_ID": ID, "AZURE_CLIENT_SECRET": "a secret"}
    if name.startswith("workload-identity"):  # the token that the webhook, or the cluster, puts there
        (tmp_path / "token").write_text("a token", encoding="utf-8")
        environment["AZURE_FEDERATED_TOKEN_FILE"] = str(tmp_path / "token")
    settings = config.load(path, environment, required=("kafka.bootstrap_servers",))
    signs_in = settings.tenants[0].identity
    assert settings.http.port == 9464
    assert bool(signs_in.client_certificate) == (name == "certificate")
    assert bool(signs_in.federated_token) == name.startswith("workload-identity")


def test_numbers_arrive_as_they_were_written(render: Callable[..., Resources]) -> None:
    written = render("many-tenants")["ConfigMap"]["data"]["connector.toml"]
    assert "shards = 16\n" in written
    assert "requests_per_minute = 12.5\n" in written
    assert '"retention.ms" = "2592000000"\n' in written


def test_a_changed_configuration_starts_the_workers_anew(render: Callable[..., Resources]) -> None:
    def checksum(*options: str) -> str:
        template = render("minimal", *options)["Deployment"]["spec"]["template"]
        return str(template["metadata"]["annotations"]["checksum/config"])

    assert checksum() == checksum()
    assert checksum() != checksum("--set=config.kafka.topic=other")


@pytest.mark.parametrize(
    "wrong",
    [
        "replicas=3",
        "image.tags=1",
        "image.digest=latest",
        "serviceMonitor.enable=true",
        "terminationGracePeriodSeconds=5",
        "config.kafka.bootstrap_server=kafka:9092",
        "config.kafka.delivery=sometimes",
        "config.windows.sweeps[0].every=often",
        "secrets[0].name=graph",
    ],
)
def test_a_wrong_value_is_refused_by_its_name(wrong: str) -> None:
    done = template("minimal", f"--set={wrong}")
    assert done.returncode != 0
    assert "values don't meet the specifications of the schema" in done.stderr
    assert re.split(r"[.\[]", wrong.partition("=")[0])[-2 if "[" in wrong else -1].strip("0].") in done.stderr


def test_the_chart_s_schema_knows_the_configuration_as_the_code_does() -> None:
    written = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
    assert written == helm.values_schema(), "make chart"


def test_workload_identity_marks_the_pod_and_the_service_account(render: Callable[..., Resources]) -> None:
    resources = render("workload-identity")
    labels = resources["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert labels["azure.workload.identity/use"] == "true"
    annotations = resources["ServiceAccount"]["metadata"]["annotations"]
    assert annotations == {"azure.workload.identity/client-id": "22222222-2222-2222-2222-222222222222"}
    assert pod(resources)["serviceAccountName"] == resources["ServiceAccount"]["metadata"]["name"]


def test_without_the_webhook_the_chart_mounts_the_token_where_the_variable_says(
    render: Callable[..., Resources],
) -> None:
    resources = render("workload-identity-without-webhook")
    (token,) = [volume["projected"] for volume in pod(resources)["volumes"] if "projected" in volume]
    (mount,) = [m for m in container(resources)["volumeMounts"] if m["name"] == "azure-identity-token"]
    environment = {one["name"]: one["value"] for one in container(resources)["env"]}
    source = token["sources"][0]["serviceAccountToken"]
    assert source["audience"] == "api://AzureADTokenExchange"
    assert environment["AZURE_FEDERATED_TOKEN_FILE"] == f"{mount['mountPath']}/{source['path']}"
    assert environment["AZURE_TENANT_ID"] == "11111111-1111-1111-1111-111111111111"


def test_a_digest_pins_the_image_and_nothing_is_made_that_is_there_already(render: Callable[..., Resources]) -> None:
    resources = render("private-registry")
    assert container(resources)["image"].endswith("/direct-routing-connector@sha256:" + 64 * "0")
    assert pod(resources)["serviceAccountName"] == "telephony"
    assert resources.keys() == {"Deployment", "Service"}


def test_the_alerts_are_those_of_the_one_file(render: Callable[..., Resources], tmp_path: Path) -> None:
    spec = render("monitoring")["PrometheusRule"]["spec"]
    alerts = ROOT / "deploy/prometheus/alerts.yml"
    assert spec == yaml.safe_load(alerts.read_text(encoding="utf-8"))
    rules = tmp_path / "rules.yml"
    rules.write_text(yaml.safe_dump(spec), encoding="utf-8")
    done = subprocess.run(
        [program("promtool"), "check", "rules", rules], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_notes_say_what_is_missing(tmp_path: Path) -> None:
    chart = tmp_path / "chart"
    shutil.copytree(CHART, chart)
    # Only a cluster gets the notes; as part of another template they are rendered without one.
    notes = '{{ include "direct-routing-connector/templates/NOTES.txt" . | toJson }}'
    (chart / "templates/notes.yaml").write_text(f"kind: Notes\ntext: {notes}\n", encoding="utf-8")

    def rendered(*options: str) -> str:
        done = run_helm("template", "calls", str(chart), "--show-only=templates/notes.yaml", *options)
        assert done.returncode == 0, done.stderr
        return str(yaml.safe_load(done.stdout)["text"])

    bare, complete = rendered(), rendered(f"--values={values_file('monitoring')}")
    assert "There is no configuration yet" in bare
    assert "prometheusRule.enabled" in bare
    assert "configuration yet" not in complete
    assert "prometheusRule.enabled" not in complete
    assert "connector status" in complete
