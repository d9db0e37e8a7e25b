"""Apache Flink for the tests of `examples/flink`: a Python environment of its own and the jars of its connectors.

Both are fetched once and kept in the cache, as Kafka is. PyFlink needs Python packages of its own, some of them older
than those of the connector, and supports Python up to 3.12.
"""

import shutil
import subprocess
import sys
from pathlib import Path

from tests.kafka_software import MissingSoftwareError, _install_atomically, cache_directory, fetch_with_maven

FLINK_VERSION = "2.3.0"
JARS = (
    ("org.apache.flink", "flink-sql-connector-kafka", "5.0.0-2.2"),
    ("org.apache.flink", "flink-sql-avro-confluent-registry", FLINK_VERSION),
)
REQUIREMENTS = Path(__file__).parent.parent / "requirements" / "flink.txt"
_PYTHONS = ("python3.11", "python3.12")


def python() -> Path:
    """Return an interpreter that has PyFlink. Raises MissingSoftwareError."""
    home = cache_directory() / f"flink-{FLINK_VERSION}"
    if not home.is_dir():
        _install_atomically(home, _install)
    return home / "bin" / "python"


def jars() -> list[Path]:
    """Return the jars of the connectors. Raises MissingSoftwareError."""
    home = cache_directory() / f"flink-{FLINK_VERSION}-jars"
    if not home.is_dir():
        _install_atomically(home, _fetch)
    return sorted(home.glob("*.jar"))


def _install(target: Path) -> None:
    base = next((found for name in _PYTHONS if (found := shutil.which(name))), None)
    if base is None and sys.version_info < (3, 13):
        base = sys.executable
    if base is None:
        raise MissingSoftwareError("The tests of examples/flink need Python 3.11 or 3.12 as well: install it.")
    _run([base, "-m", "venv", "--without-pip", str(target)])
    pip = [sys.executable, "-m", "pip", "--python", str(target / "bin" / "python"), "install", "--quiet"]
    _run([*pip, "--disable-pip-version-check", "--require-hashes", "--requirement", str(REQUIREMENTS)])


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise MissingSoftwareError(f"Flink {FLINK_VERSION} could not be installed: {done.stderr.strip()[-2000:]}")


def _fetch(target: Path) -> None:
    if not shutil.which("mvn"):
        raise MissingSoftwareError("The tests of examples/flink need Maven (Debian: `apt-get install maven`).")
    problem = fetch_with_maven(target, JARS, "-DexcludeTransitive=true")
    if problem is not None:
        raise MissingSoftwareError(f"The jars of Flink's connectors could not be fetched: {problem}")
