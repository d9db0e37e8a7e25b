"""Python environments with packages that the connector's own environment must not have, kept in the cache."""

import hashlib
import subprocess
import sys
from pathlib import Path

from tests.kafka_software import MissingSoftwareError, cache_directory, install_once

REQUIREMENTS = Path(__file__).parent.parent / "requirements"


def python(name: str) -> Path:
    """Return an interpreter that has the packages of `requirements/{name}.txt`. Raises MissingSoftwareError."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    requirements = REQUIREMENTS / f"{name}.txt"
    pins = hashlib.sha256(requirements.read_bytes()).hexdigest()[:12]
    home = cache_directory() / f"{name}-{version}-{pins}"
    install_once(home, lambda target: _install(target, requirements))
    return home / "bin" / "python"


def _install(target: Path, requirements: Path) -> None:
    uv = str(Path(sys.executable).with_name("uv"))
    interpreter = str(target / "bin" / "python")
    for command in (
        [uv, "venv", "--quiet", "--allow-existing", "--no-python-downloads", "--python", sys.executable, str(target)],
        [uv, "pip", "install", "--quiet", "--python", interpreter, "--require-hashes", "-r", str(requirements)],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise MissingSoftwareError(f"{requirements} could not be installed: {done.stderr.strip()[-2000:]}")
