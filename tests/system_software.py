"""Programs of the operating system that tests run, installed if they are missing and that is possible without asking.

On Debian as root a missing program is installed with apt-get; elsewhere MissingSoftwareError names what to install.
"""

import fcntl
import os
import shutil
import subprocess
from pathlib import Path

from tests.kafka_software import MissingSoftwareError, cache_directory

PACKAGES = {
    "chromium": ("chromium", "fonts-dejavu-core"),
    "dockerd": ("docker.io", "iptables"),
    "initdb": ("postgresql",),
    "jq": ("jq",),
    "mmdebstrap": ("mmdebstrap",),
    "node": ("nodejs",),
    "npm": ("npm",),
    "postgres": ("postgresql",),
    "prometheus": ("prometheus",),
    "promtool": ("prometheus",),
    "prometheus-alertmanager": ("prometheus-alertmanager",),
    "setpriv": ("util-linux",),
}


def program(name: str) -> Path:
    """Return the path of a program; install it first if it is missing.

    Raises MissingSoftwareError, and KeyError for a program that is not listed.
    """
    packages = PACKAGES[name]
    found = _find(name)
    if found is None and os.geteuid() == 0 and shutil.which("apt-get"):
        _install(packages)
        found = _find(name)
    if found is None:
        raise MissingSoftwareError(f"{name} is needed: install it (Debian: apt-get install {' '.join(packages)})")
    return Path(found)


def _find(name: str) -> str | None:
    # Debian keeps the programs of the PostgreSQL server outside of PATH.
    folders = [os.environ.get("PATH", os.defpath), *map(str, Path("/usr/lib/postgresql").glob("*/bin"))]
    return shutil.which(name, path=os.pathsep.join(folders))


def _install(packages: tuple[str, ...]) -> None:
    folder = cache_directory()
    folder.mkdir(parents=True, exist_ok=True)
    # RUNLEVEL keeps Debian from starting what it has installed.
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    with (folder / "apt.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for arguments in (("update",), ("install", "--yes", "--no-install-recommends", *packages)):
            done = subprocess.run(
                ["apt-get", "--quiet", *arguments],  # noqa: S607 - its path differs between systems
                env=environment,
                check=False,
                capture_output=True,
                text=True,
            )
            if done.returncode:
                raise MissingSoftwareError(f"apt-get {' '.join(arguments)} failed:\n{done.stderr[-2000:]}")
