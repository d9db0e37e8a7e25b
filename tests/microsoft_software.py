"""Microsoft's own `msgraph-sdk` and `azure-identity` in a Python environment of their own, kept in the cache."""

import hashlib
import subprocess
import sys
from pathlib import Path

from tests.kafka_software import MissingSoftwareError, cache_directory, install_once

REQUIREMENTS = Path(__file__).parent.parent / "requirements" / "msgraph.txt"


def python() -> Path:
    """Return an interpreter that has the pinned packages. Raises MissingSoftwareError."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    pins = hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest()[:12]
    home = cache_directory() / f"msgraph-{version}-{pins}"
    install_once(home, _install)
    return home / "bin" / "python"


def _install(target: Path) -> None:
    _run([sys.executable, "-m", "venv", "--without-pip", str(target)])
    pip = [sys.executable, "-m", "pip", "--python", str(target / "bin" / "python"), "install", "--quiet"]
    _run([*pip, "--disable-pip-version-check", "--require-hashes", "--requirement", str(REQUIREMENTS)])


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise MissingSoftwareError(f"Microsoft's packages could not be installed: {done.stderr.strip()[-2000:]}")
