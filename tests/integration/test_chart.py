"""The Helm chart: rendered for several kinds of installations and validated with the schemas that clusters use."""

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
from deploy.helm.generator.files import CHART, ROOT, RUNBOOK, generated
from tests import helm
from tests.certificates import key_pair
from tests.system_software import program

pytestmark = pytest.mark.timeout(900)  # the first test waits until Helm is compiled

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


def name_of(document: dict[str, Any]) -> str:
    if "grafana_dashboard" in document["metadata"].get("labels", {}):
        (file,) = document["data"]
        return str(file)
    return str(document["kind"])


@pytest.fixture(scope="module")
def render() -> Callable[..., Resources]:
    """Return a function that renders an installation with additional `--set` options."""

    def rendered(installation: str, *options: str) -> Resources:
        done = template(installation, "--namespace=telephony", *options)
        assert done.returncode == 0, done.stderr
        documents = [document for document in yaml.safe_load_all(done.stdout) if document]
        found = {name_of(document): document for document in documents}
        assert len(found) == len(documents)
        return found

    return rendered


@pytest.fixture(scope="module", params=INSTALLATIONS)
def installation(request: pytest.FixtureRequest, render: Callable[..., Resources]) -> tuple[str, Resources]:
    """Return the name and the rendered resources of each values file."""
    return request.param, render(request.param)


def pod(resources: Resources) -> dict[str, Any]:
    spec: dict[str, Any] = resources["Deployment"]["spec"]["template"]["spec"]
    return spec


def container(resources: Resources) -> dict[str, Any]:
    (only,) = pod(resources)["containers"]
    return dict(only)


def test_helm_lint_accepts_the_chart_with_every_values_file() -> None:
    assert len(INSTALLATIONS) >= 5
    for name in INSTALLATIONS:
        done = run_helm("lint", "--strict", str(CHART), f"--values={values_file(name)}")
        assert done.returncode == 0, done.stdout
        assert "[WARNING]" not in done.stdout


def test_rendered_resources_match_the_kubernetes_schemas(installation: tuple[str, Resources]) -> None:
    _, resources = installation
    assert {"Deployment", "Service"} <= resources.keys()
    for kind, resource in resources.items():
        if resource["apiVersion"] == OPERATOR:
            jsonschema.validate(resource, helm.resource_schema(kind))
            continue
        for version in VERSIONS:
            kubernetes_validate.validate(resource, version, strict=True)


def test_kubernetes_schemas_refuse_unknown_members(render: Callable[..., Resources]) -> None:
    resources = render("monitoring")
    resources["Deployment"]["spec"]["replica"] = 2
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(resources["Deployment"], VERSIONS[0], strict=True)
    resources["ServiceMonitor"]["spec"]["endpoints"][0]["intervall"] = "1s"
    with pytest.raises(jsonschema.ValidationError, match="intervall"):
        jsonschema.validate(resources["ServiceMonitor"], helm.resource_schema("ServiceMonitor"))


def test_pods_have_a_fixed_user_unless_values_omit_it(render: Callable[..., Resources]) -> None:
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


def test_worker_pods_run_with_least_privilege(installation: tuple[str, Resources]) -> None:
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


def test_chart_selectors_match_pods_and_no_secret_is_rendered(installation: tuple[str, Resources]) -> None:
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


def test_chart_renders_the_configuration_unchanged(installation: tuple[str, Resources]) -> None:
    name, resources = installation
    values = yaml.safe_load(Path(values_file(name)).read_text(encoding="utf-8"))
    if "ConfigMap" in resources:
        assert tomllib.loads(resources["ConfigMap"]["data"]["connector.toml"]) == values["config"]
    else:
        sources = [volume["secret"]["secretName"] for volume in pod(resources)["volumes"]]
        assert sources == [values["existingConfigSecret"]]


def test_connector_accepts_the_rendered_configuration(installation: tuple[str, Resources], tmp_path: Path) -> None:
    name, resources = installation
    if name == "private-registry":
        assert "ConfigMap" not in resources  # an existing Secret is used
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
    environment = {entry["name"]: entry.get("value", "from a secret") for entry in container(resources)["env"]}
    if name == "monitoring":  # the tenant is not part of the chart
        environment |= {"AZURE_TENANT_ID": ID, "AZURE_CLIENT_ID": ID, "AZURE_CLIENT_SECRET": "a secret"}
    if name.startswith("workload-identity"):  # the webhook or the cluster provides this token
        (tmp_path / "token").write_text("a token", encoding="utf-8")
        environment["AZURE_FEDERATED_TOKEN_FILE"] = str(tmp_path / "token")
    settings = config.load(path, environment, required=("kafka.bootstrap_servers",))
    signs_in = settings.tenants[0].identity
    assert settings.http.port == 9464
    assert bool(signs_in.client_certificate) == (name == "certificate")
    assert bool(signs_in.federated_token) == name.startswith("workload-identity")


def test_chart_renders_numbers_unchanged(render: Callable[..., Resources]) -> None:
    written = render("many-tenants")["ConfigMap"]["data"]["connector.toml"]
    assert "shards = 16\n" in written
    assert "requests_per_minute = 12.5\n" in written
    assert '"retention.ms" = "2592000000"\n' in written


def test_changed_configuration_restarts_the_workers(render: Callable[..., Resources]) -> None:
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
        "prometheusRule.thresholds.lagWarning=5",
        "prometheusRule.runbookUrl=docs/runbook.md",
        "service.ipFamilyPolicy=Both",
        "extraVolumeMounts[0].name=here",
    ],
)
def test_chart_error_names_the_invalid_value(wrong: str) -> None:
    done = template("minimal", f"--set={wrong}")
    assert done.returncode != 0
    assert "values don't meet the specifications of the schema" in done.stderr
    assert re.split(r"[.\[]", wrong.partition("=")[0])[-2 if "[" in wrong else -1].strip("0].") in done.stderr


def test_generated_files_of_the_chart_are_current() -> None:
    """If this fails, run `make chart`."""
    expected = generated()
    assert {name: (CHART / name).read_text(encoding="utf-8") for name in expected} == expected
    assert {f"files/{path.relative_to(CHART / 'files')}" for path in (CHART / "files").rglob("*.*")} <= expected.keys()


def test_chart_folder_contains_no_symbolic_link() -> None:
    assert [path for path in CHART.rglob("*") if path.is_symlink()] == []


def test_chart_readme_describes_every_value_of_the_schema() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
    described = set(re.findall(r"^\| `([\w.]+)` \|", (CHART / "README.md").read_text(encoding="utf-8"), re.MULTILINE))
    missing = {
        name for name in schema["properties"] if not any(f"{path}.".startswith(f"{name}.") for path in described)
    }
    assert missing == {"global"}


def test_workload_identity_is_set_on_pods_and_service_account(render: Callable[..., Resources]) -> None:
    resources = render("workload-identity")
    labels = resources["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert labels["azure.workload.identity/use"] == "true"
    annotations = resources["ServiceAccount"]["metadata"]["annotations"]
    assert annotations == {"azure.workload.identity/client-id": "22222222-2222-2222-2222-222222222222"}
    assert pod(resources)["serviceAccountName"] == resources["ServiceAccount"]["metadata"]["name"]


def test_chart_mounts_the_federated_token_if_no_webhook_does(
    render: Callable[..., Resources],
) -> None:
    resources = render("workload-identity-without-webhook")
    (token,) = [volume["projected"] for volume in pod(resources)["volumes"] if "projected" in volume]
    (mount,) = [m for m in container(resources)["volumeMounts"] if m["name"] == "azure-identity-token"]
    environment = {entry["name"]: entry["value"] for entry in container(resources)["env"]}
    source = token["sources"][0]["serviceAccountToken"]
    assert source["audience"] == "api://AzureADTokenExchange"
    assert environment["AZURE_FEDERATED_TOKEN_FILE"] == f"{mount['mountPath']}/{source['path']}"
    assert environment["AZURE_TENANT_ID"] == "11111111-1111-1111-1111-111111111111"


def test_image_digest_in_the_values_pins_the_image(render: Callable[..., Resources]) -> None:
    resources = render("private-registry")
    assert container(resources)["image"].endswith("/direct-routing-connector@sha256:" + 64 * "0")
    assert pod(resources)["serviceAccountName"] == "telephony"
    assert resources.keys() == {"Deployment", "Service", "Pod"}


def test_rendered_alert_rules_equal_the_files_by_default(render: Callable[..., Resources], tmp_path: Path) -> None:
    spec = render("monitoring")["PrometheusRule"]["spec"]
    files = [
        yaml.safe_load((ROOT / "deploy/prometheus" / name).read_text("utf-8")) for name in ("alerts.yml", "slo.yml")
    ]
    assert spec["groups"] == [group for file in files for group in file["groups"]]
    rules = tmp_path / "rules.yml"
    rules.write_text(yaml.safe_dump(spec), encoding="utf-8")
    done = subprocess.run(
        [program("promtool"), "check", "rules", rules], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_chart_notes_name_missing_values(tmp_path: Path) -> None:
    chart = tmp_path / "chart"
    shutil.copytree(CHART, chart)
    # Helm shows the notes only after an installation. As part of another template they are rendered without a cluster.
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
    assert complete.count("-- connector status\n") == 1
    assert "prometheusRule.runbookUrl" in complete
    assert "prometheusRule.runbookUrl" not in rendered(f"--values={values_file('platform')}")


def test_helm_values_set_scheduling_and_pull_secrets_of_the_pods(render: Callable[..., Resources]) -> None:
    values = yaml.safe_load(Path(values_file("platform")).read_text(encoding="utf-8"))
    resources = render("platform")
    deployment = resources["Deployment"]
    spec, only, template = pod(resources), container(resources), deployment["spec"]["template"]
    for name in ("imagePullSecrets", "priorityClassName", "nodeSelector", "tolerations", "affinity"):
        assert spec[name] == values[name]
    assert only["image"] == f"{values['image']['repository']}@{values['image']['digest']}"
    assert only["envFrom"] == values["envFrom"]
    assert all(entry in only["env"] for entry in values["extraEnv"])
    assert all(entry in only["volumeMounts"] for entry in values["extraVolumeMounts"])
    assert all(entry in spec["volumes"] for entry in values["extraVolumes"])
    assert values["podSecurityContext"].items() <= spec["securityContext"].items()
    assert spec["securityContext"]["runAsUser"] == 10001
    (constraint,) = spec["topologySpreadConstraints"]
    assert values["topologySpreadConstraints"][0].items() <= constraint.items()
    assert constraint["labelSelector"]["matchLabels"] == deployment["spec"]["selector"]["matchLabels"]
    assert values["podLabels"].items() <= template["metadata"]["labels"].items()
    assert values["podAnnotations"].items() <= template["metadata"]["annotations"].items()
    assert values["deploymentAnnotations"].items() <= deployment["metadata"]["annotations"].items()
    for resource in resources.values():
        assert resource["metadata"]["labels"]["team"] == "telephony"
        assert resource["metadata"]["annotations"]["example.org/owner"] == "telephony"


def test_helm_values_set_ip_families_and_metric_relabelings(render: Callable[..., Resources]) -> None:
    resources = render("platform")
    assert resources["Service"]["spec"]["ipFamilyPolicy"] == "PreferDualStack"
    assert resources["Service"]["spec"]["ipFamilies"] == ["IPv6", "IPv4"]
    (endpoint,) = resources["ServiceMonitor"]["spec"]["endpoints"]
    assert endpoint["relabelings"][0]["replacement"] == "west"
    assert endpoint["metricRelabelings"][0]["action"] == "drop"


def test_helm_values_set_thresholds_and_runbook_url_of_alerts(render: Callable[..., Resources]) -> None:
    rules = [rule for group in render("platform")["PrometheusRule"]["spec"]["groups"] for rule in group["rules"]]
    expressions = {(rule["alert"], rule["labels"]["severity"]): rule["expr"] for rule in rules if "alert" in rule}
    assert "> 1800" in expressions["DirectRoutingLag", "warning"]
    assert "> 7200" in expressions["DirectRoutingLag", "critical"]
    assert "14.4 * (1 - 0.995)" in expressions["DirectRoutingFreshnessBudgetBurn", "critical"]
    assert "14.4 * (1 - 0.99)" in expressions["DirectRoutingCompletenessBudgetBurn", "critical"]
    assert "> bool 360" in next(rule["expr"] for rule in rules if rule.get("record") == "direct_routing:stale:bool")
    links = {rule["annotations"]["runbook_url"] for rule in rules if "alert" in rule}
    assert {link.partition("#")[0] for link in links} == {"https://wiki.example.org/direct-routing/runbook"}
    assert RUNBOOK not in yaml.safe_dump(rules)
    without = render("platform", "--set=prometheusRule.slo.enabled=false")["PrometheusRule"]["spec"]["groups"]
    assert [group["name"] for group in without] == ["direct-routing-tenants", "direct-routing-workers"]


def test_each_threshold_value_changes_an_alert_rule(render: Callable[..., Resources]) -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))["prometheusRule"]
    before = render("monitoring")["PrometheusRule"]
    for group in ("thresholds", "slo"):
        for name, value in values[group].items():
            option = f"--set-json=prometheusRule.{group}.{name}={'false' if value is True else value / 2}"
            assert render("monitoring", option)["PrometheusRule"] != before, name


def test_dashboards_are_rendered_as_config_maps_if_enabled(render: Callable[..., Resources]) -> None:
    folder = ROOT / "deploy/grafana/dashboards"
    resources = render("platform", "--set=dashboards.namespace=grafana")
    for file in folder.iterdir():
        written = resources[file.name]
        assert json.loads(written["data"][file.name]) == json.loads(file.read_text(encoding="utf-8"))
        assert written["metadata"]["namespace"] == "grafana"
        assert written["metadata"]["annotations"]["grafana_folder"] == "Telephony"
    assert not any(name.endswith(".json") for name in render("minimal"))


def test_workers_and_test_pod_have_the_configuration_path(installation: tuple[str, Resources]) -> None:
    """Therefore `kubectl exec ... -- connector status` works as the runbook says."""
    _, resources = installation
    (check,) = resources["Pod"]["spec"]["containers"]
    assert (container(resources)["args"], check["args"]) == (["run"], ["check"])
    for entry in (container(resources), check):
        assert {"name": "CONNECTOR_CONFIG", "value": "/etc/connector/config/connector.toml"} in entry["env"]
        assert {"name": "config", "mountPath": "/etc/connector/config", "readOnly": True} in entry["volumeMounts"]


def test_helm_test_pod_is_a_hook_that_no_selector_matches(installation: tuple[str, Resources]) -> None:
    _, resources = installation
    check = resources["Pod"]
    assert check["metadata"]["annotations"]["helm.sh/hook"] == "test"
    assert check["spec"]["restartPolicy"] == "Never"
    selector = resources["Service"]["spec"]["selector"]
    assert not selector.items() <= check["metadata"]["labels"].items()
    for name in ("securityContext", "serviceAccountName", "volumes"):
        assert check["spec"][name] == pod(resources)[name]
    without = ("name", "args", "ports", "startupProbe", "livenessProbe", "readinessProbe")
    assert {k: v for k, v in container(resources).items() if k not in without} == {
        k: v for k, v in check["spec"]["containers"][0].items() if k not in without
    }
