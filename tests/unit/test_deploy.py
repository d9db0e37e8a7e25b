"""The Dockerfile and the Compose file are valid and refer only to what exists."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import yaml

from connector import config
from connector.simulator import certificates
from connector.simulator.http_server import Simulator
from connector.simulator.options import Options

ROOT = Path(__file__).parents[2]


VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
IPV6 = ("--file=docker-compose.yml", "--file=deploy/compose.ipv6.yml")
GRAPH = ("--file=docker-compose.yml", "--file=deploy/compose.graph.yml")
APPLICATION = {
    "AZURE_TENANT_ID": "11111111-1111-1111-1111-111111111111",
    "AZURE_CLIENT_ID": "22222222-2222-2222-2222-222222222222",
    "AZURE_CLIENT_SECRET": "a secret",
}


def tool(name: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    program = Path(sys.executable).parent / name
    environment = {name: text for name, text in os.environ.items() if not name.startswith(("AZURE_", "COMPOSE_"))}
    return subprocess.run(
        [program, *arguments],
        cwd=ROOT,
        env=environment | variables,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def compose(*files: str, **variables: str) -> dict[str, Any]:
    done = tool("docker-compose", *files, "config", "--format", "json", **variables)
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def test_compose_files_are_valid() -> None:
    for files, variables in (((), {}), (IPV6, {}), (GRAPH, APPLICATION)):
        done = tool("docker-compose", *files, "config", "--quiet", **variables)
        assert (done.returncode, done.stderr) == (0, "")


def test_compose_for_real_graph_requires_application_settings() -> None:
    done = tool("docker-compose", *GRAPH, "config", "--quiet")
    assert done.returncode != 0
    assert all(name in done.stderr for name in APPLICATION)


def test_compose_for_a_real_graph_has_no_simulator() -> None:
    services = compose(*GRAPH, **APPLICATION)["services"]
    assert "simulator" not in services
    connector = services["connector"]
    assert "volumes" not in connector
    assert connector["depends_on"].keys() == {"kafka", "registry"}
    environment = {name: text for name, text in connector["environment"].items() if text is not None}
    settings = config.load(None, environment, required=("kafka.bootstrap_servers",))
    assert [tenant.id for tenant in settings.tenants] == [APPLICATION["AZURE_TENANT_ID"]]
    assert settings.graph.root == "https://graph.microsoft.com"


def test_compose_images_and_versions_are_pinned() -> None:
    images = {name: service["image"] for name, service in compose()["services"].items()}
    assert images.pop("connector") == images.pop("simulator") == "direct-routing-connector:dev"
    assert all(re.search(r":v?\d+\.\d+\.\d+$", image) for image in images.values()), images
    recipe = (ROOT / "deploy/Dockerfile").read_text(encoding="utf-8")
    assert "\nARG VERSION=dev\n" in recipe
    chart = yaml.safe_load((ROOT / "deploy/helm/direct-routing-connector/Chart.yaml").read_text(encoding="utf-8"))
    assert chart["appVersion"] == VERSION


def test_compose_services_have_health_checks() -> None:
    services = compose()["services"]
    assert services.keys() == {"kafka", "registry", "simulator", "connector", "prometheus", "grafana"}
    assert "\nHEALTHCHECK " in (ROOT / "deploy/Dockerfile").read_text(encoding="utf-8")
    checks = {name: service["healthcheck"]["test"][0] for name, service in services.items() if name != "connector"}
    assert set(checks.values()) == {"CMD"}
    waits = [wait for service in services.values() for wait in service.get("depends_on", {}).values()]
    assert waits
    assert {wait["condition"] for wait in waits} == {"service_healthy"}


def test_compose_ports_are_on_loopback_only() -> None:
    for files, hosts in (((), {"127.0.0.1"}), (IPV6, {"127.0.0.1", "::1"})):
        ports = [port for service in compose(*files)["services"].values() for port in service.get("ports", [])]
        assert {port["host_ip"] for port in ports} == hosts


def test_compose_override_for_ipv6_publishes_each_port_for_both_families() -> None:
    for name, service in compose(*IPV6)["services"].items():
        published = [(port["published"], port["host_ip"]) for port in service.get("ports", [])]
        ports = {port for port, _ in published}
        assert set(published) == {(port, host) for port in ports for host in ("127.0.0.1", "::1")}, name


def test_compose_mounts_existing_files_only() -> None:
    binds = [
        Path(volume["source"])
        for service in compose()["services"].values()
        for volume in service.get("volumes", [])
        if volume["type"] == "bind"
    ]
    assert binds
    assert [bind for bind in binds if not bind.exists()] == []


def test_hadolint_accepts_the_dockerfile() -> None:
    done = tool("hadolint", "deploy/Dockerfile")
    assert (done.returncode, done.stdout) == (0, "")


def test_container_image_runs_as_a_fixed_non_root_user() -> None:
    users = re.findall(r"^USER (\d+):(\d+)$", (ROOT / "deploy/Dockerfile").read_text(encoding="utf-8"), re.MULTILINE)
    assert users
    assert all(int(uid) > 0 and int(gid) > 0 for uid, gid in users)


def test_compose_connector_is_configured_for_the_compose_simulator(tmp_path: Path) -> None:
    services = compose()["services"]
    written = (ROOT / "deploy/connector.toml").read_text(encoding="utf-8")
    path = tmp_path / "connector.toml"
    authority = tmp_path / "ca.pem"
    simulator = Simulator(Options(tenants=2, seed=7, days=0.1, calls_per_day=1))
    authority.write_bytes(certificates.make(["simulator"])[0])
    path.write_text(written.replace("/var/lib/connector/ca.pem", str(authority)), encoding="utf-8")
    settings = config.load(path, services["connector"]["environment"])
    assert [tenant.id for tenant in settings.tenants] == simulator.tenants
    assert {"--tenants=2", "--seed=7"} <= set(services["simulator"]["command"])
    for tenant in settings.tenants:
        assert tenant.identity.client_id == simulator.client_id
        assert tenant.identity.client_secret is not None
        assert tenant.identity.client_secret.get() == simulator.client_secret


def test_compose_connects_grafana_and_prometheus() -> None:
    services = compose()["services"]
    source = (ROOT / "deploy/grafana/provisioning/datasources/prometheus.yml").read_text(encoding="utf-8")
    assert "url: http://prometheus:9090\n" in source
    scraped = (ROOT / "deploy/prometheus/prometheus.yml").read_text(encoding="utf-8")
    assert 'targets: ["connector:9464"]\n' in scraped
    assert {"prometheus", "connector"} <= set(services)


def test_grafana_starts_with_the_overview_dashboard() -> None:
    environment = compose()["services"]["grafana"]["environment"]
    home = Path(environment["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])
    assert home.parent == Path("/var/lib/grafana/dashboards")
    assert json.loads((ROOT / "deploy/grafana/dashboards" / home.name).read_text())["uid"] == "direct-routing-overview"


def test_prometheus_container_finds_its_rule_files() -> None:
    mounted = {volume["target"]: Path(volume["source"]) for volume in compose()["services"]["prometheus"]["volumes"]}
    assert "rule_files: [alerts.yml, slo.yml]\n" in mounted["/etc/prometheus/prometheus.yml"].read_text(
        encoding="utf-8"
    )
    for name in ("alerts.yml", "slo.yml"):
        assert mounted[f"/etc/prometheus/{name}"] == ROOT / "deploy/prometheus" / name


def test_commands_in_the_container_find_the_configuration() -> None:
    connector = compose()["services"]["connector"]
    mounted = {volume["target"] for volume in connector["volumes"]}
    assert connector["environment"]["CONNECTOR_CONFIG"] in mounted


def test_pinned_requirements_name_no_package_index() -> None:
    for path in sorted((ROOT / "requirements").glob("*.txt")):
        text = path.read_text(encoding="utf-8")
        assert "://" not in text
        assert not re.search(r"^--?[a-z]", text, re.MULTILINE), path.name
        pinned = re.findall(r"^[a-z0-9][^ ]*", text, re.MULTILINE)
        assert all("==" in line for line in pinned), path.name
        assert text.count("--hash=sha256:") >= len(pinned)
        assert os.fspath(Path.home()) not in text


def test_image_is_named_after_a_release_only_at_its_git_tag(tmp_path: Path) -> None:
    def run(*command: str) -> str:
        environ = {"PATH": os.environ["PATH"], "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
        done = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    run("git", "init", "--quiet")
    run("git", "add", ".")
    run("git", "-c", "user.name=a", "-c", "user.email=a@example.com", "commit", "--quiet", "--message=first")
    assert re.fullmatch(rf"{re.escape(VERSION)}-dev\.[0-9a-f]{{7,}}", run("make", "-s", "image-tag"))
    run("git", "tag", f"v{VERSION}")
    assert run("make", "-s", "image-tag") == VERSION
    (tmp_path / "Makefile").write_text((ROOT / "Makefile").read_text(encoding="utf-8") + "\n", encoding="utf-8")
    assert re.fullmatch(rf"{re.escape(VERSION)}-dev\.[0-9a-f]{{7,}}\.dirty", run("make", "-s", "image-tag"))
