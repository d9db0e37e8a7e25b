"""Docker daemon for tests only, and a base image built from the Debian of this machine without an image registry.

The daemon has its own folders and socket. A daemon that already runs on the machine is not affected. What it
needs is installed the first time (tests/system_software.py); the base is kept in the cache.
"""

import fcntl
import json
import os
import shutil
import signal
import subprocess
import tempfile
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.brokers import wait_until
from tests.kafka_software import MissingSoftwareError, cache_directory, install_once
from tests.processes import Process, Startable, start_process
from tests.system_software import program

ROOT = Path(__file__).parent.parent
BASE = "base"
"Tag of the base image."
DEADLINE_S = 800.0
_CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
_SYSTEM_CLIENT = Path("/usr/bin/docker")


class Daemon(Startable):
    """Running `dockerd` with the base image, as a context manager. On exit it is removed completely."""

    def __init__(self) -> None:
        self._server = program("dockerd")
        self._client = _SYSTEM_CLIENT if _SYSTEM_CLIENT.is_file() else Path(shutil.which("docker") or "docker")
        self._folder = Path(tempfile.mkdtemp(prefix="drc-docker-"))
        self._process: Process | None = None
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("DOCKER_", "COMPOSE_"))},
            "DOCKER_HOST": f"unix://{self._folder}/socket",
            "DOCKER_CONFIG": str(self._folder / "client"),
            "DOCKER_BUILDKIT": "1",
        }

    def docker(self, *arguments: str, deadline_s: float = DEADLINE_S) -> str:
        """Run the Docker client and return its output without the last line end.

        Raises AssertionError with all output when the client fails.
        """
        return self.run([self._client, *arguments], deadline_s=deadline_s)

    def run(
        self, command: list[Path | str], environment: Mapping[str, str] | None = None, deadline_s: float = DEADLINE_S
    ) -> str:
        """Run any program that uses this daemon and return its output without the last line end.

        Raises AssertionError with the end of its output when it fails.
        """
        done = subprocess.run(
            command,
            cwd=ROOT,
            env={**self.environment, **(environment or {})},
            capture_output=True,
            text=True,
            check=False,
            timeout=deadline_s,
        )
        assert done.returncode == 0, f"{command}:\n{done.stdout[-3000:]}\n{done.stderr[-5000:]}"
        return done.stdout.rstrip("\n")

    def build(self, tag: str, **arguments: str) -> None:
        """Build the project's image on the base image. `arguments` are build arguments."""
        values = [f"--build-arg={name}={value}" for name, value in {"BASE": BASE, **arguments}.items()]
        self.docker("build", "--network=host", "--file=deploy/Dockerfile", f"--tag={tag}", *values, ".")

    def inspect(self, name: str) -> dict[str, Any]:
        """Return what `docker inspect` reports on a container or an image."""
        found: list[dict[str, Any]] = json.loads(self.docker("inspect", name))
        return found[0]

    def logs(self, container: str) -> list[dict[str, Any]]:
        """Return the JSON lines that a container wrote to standard output and standard error."""
        done = subprocess.run(
            [self._client, "logs", container],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=True,
        )
        return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{") and line.endswith("}")]

    def start(self) -> None:
        """Start the daemon, and give it the base image."""
        base = base_image()
        # Two daemons that start at once remove each other's iptables chains.
        with (cache_directory() / "dockerd.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self._start()
        self.docker("import", "--change=ENV PIP_CERT=" + str(_CERTIFICATES), str(base), BASE)

    def close(self) -> None:
        """Remove the containers, end the daemon, and unmount and delete its folders."""
        if self._process is not None and self._process.poll() is None:
            containers = self.docker("ps", "--all", "--quiet").split()
            if containers:
                self.docker("rm", "--force", "--volumes", *containers)
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(60)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait(20)
        mounts = Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines()
        for place in sorted((line.split()[1] for line in mounts if str(self._folder) in line), reverse=True):
            subprocess.run(["umount", "--lazy", place], check=False, capture_output=True)  # noqa: S607 - its path differs between systems
        shutil.rmtree(self._folder, ignore_errors=True)

    def _start(self) -> None:
        command = [
            str(self._server),
            f"--data-root={self._folder}/data",
            f"--exec-root={self._folder}/exec",
            f"--pidfile={self._folder}/pid",
            f"--host=unix://{self._folder}/socket",
            "--bridge=none",
            # Networks that no other daemon on this machine hands out.
            f"--default-address-pool=base=10.{128 + uuid.uuid4().int % 120}.0.0/16,size=24",
            "--log-level=warn",
        ]
        log = self._folder / "dockerd.log"
        process = self._process = start_process(command, log)

        def serves() -> bool:
            assert process.poll() is None, f"dockerd ended:\n{log.read_text(encoding='utf-8')[-3000:]}"
            return self._answers()

        wait_until(serves, "dockerd to serve", 120, every_s=0.1)

    def _answers(self) -> bool:
        asked = subprocess.run([self._client, "version"], env=self.environment, check=False, capture_output=True)
        return asked.returncode == 0


def base_image() -> Path:
    """Return the path of the base image; make it first if the cache does not have it. Raises MissingSoftwareError."""
    release = dict(line.split("=", 1) for line in Path("/etc/os-release").read_text().splitlines() if "=" in line)
    name = release.get("VERSION_CODENAME", "").strip('"')
    image = cache_directory() / f"base-{name}-1" / "base.tar"
    install_once(image.parent, lambda folder: _make_base(name, folder / image.name))
    return image


def _make_base(release: str, target: Path) -> None:
    """Make an image of Debian with Python, from this machine's package sources and with its certificate authorities."""
    lists = [Path("/etc/apt/sources.list"), *Path("/etc/apt/sources.list.d").glob("debian.sources")]
    command = [
        str(program("mmdebstrap")),
        "--variant=apt",
        "--include=ca-certificates,python3,python3-venv",
        *(f"--dpkgopt=path-exclude=/usr/share/{part}/*" for part in ("doc", "locale", "man")),
        f"--customize-hook=copy-in {_CERTIFICATES} {_CERTIFICATES.parent}",
        release,
        str(target),
        *(str(path) for path in lists if path.is_file()),
    ]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise MissingSoftwareError(f"the base image cannot be built:\n{done.stderr[-2000:]}")
