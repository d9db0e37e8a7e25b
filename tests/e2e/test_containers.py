"""The image and the Compose file, built and run by a Docker daemon that only the tests use (tests/containers.py).

Published images cannot be downloaded wherever the tests run. Therefore the programs of Kafka, the registry and
Prometheus run in the base image, with all other settings of docker-compose.yml. Grafana is left out.
"""

import json
import re
import sys
import tomllib
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import oracle
from tests.brokers import free_ports, wait_until
from tests.containers import BASE, ROOT, Daemon
from tests.kafka_software import kafka, packaged_java
from tests.registries import _software as registry_software
from tests.secured import SecuredBroker, documented_rights, documented_topics
from tests.simulation import Simulation
from tests.system_software import program
from tests.workers import configuration, toml

pytestmark = [pytest.mark.timeout(900), pytest.mark.java]

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
IMAGE = "direct-routing-connector:dev"
DEADLINE_S = 240.0


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    """Yield a daemon that has built the image."""
    with Daemon() as daemon:
        daemon.build(IMAGE, VERSION=PROJECT["version"], REVISION="a-revision", CREATED="2026-01-02T03:04:05Z")
        yield daemon


@pytest.fixture
def container(daemon: Daemon, unique: str) -> Iterator[Callable[..., str]]:
    """Yield a function that runs the image in the background with few privileges and returns the container's name."""
    names: list[str] = []

    def run(user: str, *options: str, command: tuple[str, ...] = ()) -> str:
        name = f"{unique}-{len(names)}"
        names.append(name)
        daemon.docker(
            "run",
            "--detach",
            f"--name={name}",
            "--network=host",
            "--read-only",
            "--cap-drop=ALL",
            "--security-opt=no-new-privileges",
            f"--user={user}",
            # The image must work without a shell.
            *(f"--volume=/dev/null:/usr/bin/{shell}:ro" for shell in ("bash", "dash")),
            "--health-interval=1s",
            *options,
            IMAGE,
            *command,
        )
        return name

    yield run
    for name in names:
        daemon.docker("rm", "--force", "--volumes", name)


def until(daemon: Daemon, container: str, condition: Callable[[], bool], what: str) -> None:
    """Wait until `condition()` holds. Raises an error with the log if the container ends first or it takes too long."""

    def holds() -> bool:
        state = daemon.inspect(container)["State"]
        assert state["Running"], f"{container} ended with {state['ExitCode']}: {daemon.logs(container)[-15:]}"
        return condition()

    try:
        wait_until(holds, what, DEADLINE_S, every_s=0.3)
    except TimeoutError as error:
        raise TimeoutError(f"{error}; its log ends: {daemon.logs(container)[-15:]}") from None


def test_container_image_has_labels_and_a_fixed_user(daemon: Daemon) -> None:
    configuration = daemon.inspect(IMAGE)["Config"]
    labels = configuration["Labels"]
    prefix = "org.opencontainers.image."
    assert labels[f"{prefix}version"] == PROJECT["version"]
    assert labels[f"{prefix}revision"] == "a-revision"
    assert labels[f"{prefix}created"] == "2026-01-02T03:04:05Z"
    assert labels[f"{prefix}licenses"] == PROJECT["license"]
    assert configuration["User"] == "10001:10001"
    assert configuration["Entrypoint"] == ["connector"]


def test_container_image_adds_less_than_160_mb(daemon: Daemon) -> None:
    above = daemon.inspect(IMAGE)["Size"] - daemon.inspect(BASE)["Size"]
    assert above < 160_000_000
    files = daemon.docker("run", "--rm", "--network=none", "--entrypoint=find", IMAGE, "/opt/connector", "-type", "d")
    names = {Path(line).name for line in files.splitlines()}
    assert "connector" in names
    assert names.isdisjoint({"tests", "pip", "hatchling", "cyclonedx_py"})


def test_sbom_lists_exactly_the_pinned_packages(daemon: Daemon) -> None:
    text = daemon.docker("run", "--rm", "--network=none", "--entrypoint=cat", IMAGE, "/opt/connector/sbom.cdx.json")
    sbom = json.loads(text)
    lines = re.findall(r"^([\w.-]+)==([^ ]+)( ;)?", (ROOT / "requirements/runtime.txt").read_text(), re.MULTILINE)
    pinned = {(_normal(name), version) for name, version, _ in lines}  # some depend on the version of Python
    everywhere = {_normal(name) for name, _, condition in lines if not condition}
    listed = {_normal(component["name"]): component["version"] for component in sbom["components"]}
    own = _normal(PROJECT["name"])
    assert sbom["bomFormat"] == "CycloneDX"
    assert sbom["metadata"]["component"]["name"] == PROJECT["name"]
    assert listed.pop(own, PROJECT["version"]) == PROJECT["version"]
    assert everywhere <= listed.keys()
    assert listed.items() <= pinned


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.fixture
def secured() -> Iterator[SecuredBroker]:
    """Yield a broker with TLS, sign-in and ACLs."""
    with SecuredBroker() as broker:
        yield broker


@pytest.mark.parametrize(
    ("user", "mechanism", "principal"),
    [("1000660000:0", "SCRAM-SHA-512", "by-password"), ("10001:10001", "MUTUAL", "CN=by-certificate")],
)
def test_container_publishes_as_any_user_on_a_read_only_root(  # noqa: PLR0917 - fixtures
    daemon: Daemon,
    container: Callable[..., str],
    simulate: Callable[..., Simulation],
    secured: SecuredBroker,
    topic: str,
    app: str,
    tmp_path: Path,
    user: str,
    mechanism: str,
    principal: str,
) -> None:
    kafka_user = principal.removeprefix("CN=")
    secured.add_user(kafka_user)
    secured.create(documented_topics(topic, app, partitions=3, shards=2))
    secured.grant(*documented_rights("The connector", topic, app, principal))
    kafka_settings = {**secured.kafka(mechanism, kafka_user), "create_topics": False}
    source = simulate(tenants=1, days=1, calls_per_day=200)
    settings = configuration(secured.plain, topic, app, source, kafka=kafka_settings)
    (port,) = free_ports(1)
    name = container(user, *mounted(tmp_path, settings), f"--env=CONNECTOR_HTTP__LISTEN=127.0.0.1:{port}")
    until(daemon, name, lambda: bool(oracle.read(secured.plain, topic)), "rows")
    until(
        daemon,
        name,
        lambda: daemon.inspect(name)["State"]["Health"]["Status"] == "healthy",
        "a healthy container",
    )
    daemon.docker("stop", "--time=15", name)
    # 137 would mean that it was killed after 15 s.
    assert daemon.inspect(name)["State"]["ExitCode"] == 0, daemon.logs(name)[-15:]


def mounted(folder: Path, settings: dict[str, Any]) -> list[str]:
    """Return Docker options that mount a configuration and its files, readable for every user."""
    shared, inside = folder / "shared", Path("/etc/connector")
    shared.mkdir()

    def moved(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: moved(part) for name, part in value.items()}
        if isinstance(value, list):
            return [moved(part) for part in value]
        if not isinstance(value, str) or not value.startswith("/"):
            return value
        copy = shared / f"file-{len(list(shared.iterdir()))}"
        copy.write_bytes(Path(value).read_bytes())
        return str(inside / copy.name)

    (shared / "connector.toml").write_text(toml(moved(settings)), encoding="utf-8")
    shared.chmod(0o755)
    for file in shared.iterdir():
        file.chmod(0o644)
    return [f"--volume={shared}:{inside}:ro", f"--env=CONNECTOR_CONFIG={inside}/connector.toml"]


def test_container_with_invalid_settings_exits_2(daemon: Daemon, container: Callable[..., str]) -> None:
    name = container("12345:12345", "--env=CONNECTOR_KAFKA__TOPIK=x")
    wait_until(lambda: not daemon.inspect(name)["State"]["Running"], "the container to end", DEADLINE_S, every_s=0.2)
    assert daemon.inspect(name)["State"]["ExitCode"] == 2


# Replacement for the image of Kafka: settings come from environment variables, as in that image.
KAFKA_LAUNCHER = """\
import os, subprocess, sys
settings = {name[6:].lower().replace("_", "."): value for name, value in os.environ.items()
            if name.startswith("KAFKA_") and name != "KAFKA_HEAP_OPTS"}
with open("/tmp/server.properties", "w") as file:
    file.writelines(f"{name}={value}\\n" for name, value in settings.items())
    file.write("log.dirs=/tmp/kafka\\n")
java = sys.argv[1:]
cluster = ["--cluster-id", "AAAAAAAAAAAAAAAAAAAAAQ", "--config", "/tmp/server.properties"]
subprocess.run([*java, "kafka.tools.StorageTool", "format", *cluster], check=True)
os.execv(java[0], [java[0], os.environ["KAFKA_HEAP_OPTS"], *java[1:], "kafka.Kafka", "/tmp/server.properties"])
"""


def stand_ins(folder: Path) -> dict[str, Any]:
    """Return a Compose file with replacements, made from the base image, for published images in docker-compose.yml."""
    java = packaged_java()
    assert java is not None
    home, libraries, registry = java.parent.parent, kafka().jars[0].parent, registry_software()
    launcher = folder / "kafka.py"
    launcher.write_text(KAFKA_LAUNCHER, encoding="utf-8")
    options = ["-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]
    monitor, tool = program("prometheus"), program("promtool")
    inside_java = f"/opt/java/{java.relative_to(home)}"
    patient = {"healthcheck": {"start_period": "240s", "interval": "1s"}}
    return {
        "services": {
            "kafka": {
                "entrypoint": ["python3", "/opt/kafka.py", inside_java, *options, "-cp", "/opt/kafka/*"],
                "volumes": [f"{home}:/opt/java:ro", f"{libraries}:/opt/kafka:ro", f"{launcher}:/opt/kafka.py:ro"],
                **patient,
            },
            "registry": {
                "entrypoint": [inside_java, *options, "-Xmx320m", "-jar", "/opt/registry/quarkus-run.jar"],
                "volumes": [f"{home}:/opt/java:ro", f"{registry}:/opt/registry:ro"],
                **patient,
            },
            "prometheus": {
                "entrypoint": ["prometheus"],
                "tmpfs": ["/prometheus"],
                "volumes": [f"{path}:/usr/local/bin/{path.name}:ro" for path in (monitor, tool)],
                **patient,
            },
            "simulator": patient,
            "connector": patient,
        }
    }


def get(port: int, path: str, host: str = "127.0.0.1") -> Any:
    with urllib.request.urlopen(f"http://{host}:{port}{path}", timeout=10) as response:
        return json.load(response)


def test_compose_stack_starts_and_publishes_rows(daemon: Daemon, tmp_path: Path) -> None:
    kafka_port, connector_port, registry_port, prometheus_port = free_ports(4)
    variables = {
        "KAFKA_PORT": str(kafka_port),
        "CONNECTOR_PORT": str(connector_port),
        "REGISTRY_PORT": str(registry_port),
        "PROMETHEUS_PORT": str(prometheus_port),
        **{f"{name}_IMAGE": BASE for name in ("KAFKA", "REGISTRY", "PROMETHEUS")},
    }
    override = tmp_path / "stand-ins.json"
    override.write_text(json.dumps(stand_ins(tmp_path)), encoding="utf-8")
    files = ["--file=docker-compose.yml", "--file=deploy/compose.ipv6.yml", f"--file={override}"]
    compose: list[Path | str] = [Path(sys.executable).parent / "docker-compose", *files]
    try:
        daemon.run([*compose, "up", "--wait", "--no-build", "--pull=never", "prometheus"], variables)
        wait_until(lambda: bool(oracle.read(f"localhost:{kafka_port}", "direct-routing-calls")), "rows", DEADLINE_S)
        subjects = get(registry_port, "/apis/ccompat/v7/subjects")
        assert "direct-routing-calls-value" in subjects

        def scraped() -> bool:
            targets = get(prometheus_port, "/api/v1/targets")["data"]["activeTargets"]
            return [target["health"] for target in targets] == ["up"]

        wait_until(scraped, "Prometheus to have scraped the connector", DEADLINE_S, every_s=0.5)
        groups = get(prometheus_port, "/api/v1/rules")["data"]["groups"]
        assert sum(len(group["rules"]) for group in groups) > 5
        for host in ("127.0.0.1", "[::1]"):
            tenants = get(connector_port, "/status", host)["tenants"]
            assert {tenant["name"] for tenant in tenants} == {"contoso", "fabrikam"}
    except AssertionError as error:
        logs = daemon.run([*compose, "logs", "--no-color", "--tail=20"], variables)
        raise AssertionError(f"{error}\n{logs}") from None
    finally:
        daemon.run([*compose, "down", "--volumes", "--timeout=15"], variables)
    assert daemon.docker("ps", "--all", "--quiet") == ""
    assert daemon.docker("volume", "ls", "--quiet") == ""
