"""Helm and the schemas that clusters check resources with, both from the proxy of Go modules, kept in the cache.

`python -m tests.helm FOLDER` writes the chart's archive into a folder (`make chart-package`).
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml

from deploy.helm.generator.files import CHART
from tests.kafka_software import MissingSoftwareError, cache_directory, install_once

HELM_VERSION = "3.18.6"
KUBERNETES_VERSION = "1.33"
"Version that Helm assumes for the cluster; Helm's makefile passes it to the linker too."
OPERATOR_VERSION = "0.85.0"
_CRDS = "example/prometheus-operator-crd/monitoring.coreos.com_{}.yaml"
_KINDS = {"ServiceMonitor": "servicemonitors", "PrometheusRule": "prometheusrules"}


def helm() -> Path:
    """Return the path of Helm; compile it first if the cache does not have it (about two minutes).

    Raises MissingSoftwareError.
    """
    program = cache_directory() / f"helm-{HELM_VERSION}" / "helm"
    install_once(program.parent, _build)
    return program


def resource_schema(kind: str) -> dict[str, Any]:
    """Return the JSON Schema of a resource of the Prometheus operator, without any unnamed member."""
    folder = cache_directory() / f"prometheus-operator-{OPERATOR_VERSION}"
    install_once(folder, _fetch_crds)
    definition = yaml.safe_load((folder / f"{_KINDS[kind]}.yaml").read_text(encoding="utf-8"))
    schema: dict[str, Any] = definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    schema["properties"]["metadata"] = {"type": "object"}
    strict: dict[str, Any] = _strict(schema)
    return strict


def _strict(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_strict(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    strict = {name: _strict(part) for name, part in schema.items()}
    if isinstance(schema.get("properties"), dict) and "x-kubernetes-preserve-unknown-fields" not in schema:
        strict.setdefault("additionalProperties", False)
    if schema.get("x-kubernetes-int-or-string"):
        strict.pop("type", None)
    if isinstance(strict.get("pattern"), str):
        strict["pattern"] = strict["pattern"].replace("^(?i)", "(?i)^")  # in the place where Python's re requires flags
    return strict


def _build(target: Path) -> None:
    major, minor = KUBERNETES_VERSION.split(".")
    flags = ["-s", "-w"]
    for package in ("chartutil", "lint/rules"):
        place = f"helm.sh/helm/v3/pkg/{package}.k8sVersion"
        flags += [f"-X {place}Major={major}", f"-X {place}Minor={minor}"]
    install_with_go(f"helm.sh/helm/v3/cmd/helm@v{HELM_VERSION}", target, f"-ldflags={' '.join(flags)}")


def install_with_go(module: str, target: Path, *flags: str) -> None:
    """Compile a program of a Go module into a folder. Raises MissingSoftwareError."""
    _go("install", "-trimpath", *flags, module, GOBIN=str(target))


def _fetch_crds(target: Path) -> None:
    module = f"github.com/prometheus-operator/prometheus-operator@v{OPERATOR_VERSION}"
    folder = Path(json.loads(_go("mod", "download", "-json", module))["Dir"])
    for name in _KINDS.values():
        shutil.copy(folder / _CRDS.format(name), target / f"{name}.yaml")


def _go(*arguments: str, **environment: str) -> str:
    go = shutil.which("go")
    if go is None:
        raise MissingSoftwareError("Helm and actionlint are compiled with Go 1.24 or newer: install it.")
    with tempfile.TemporaryDirectory(prefix="drc-go-") as folder:
        variables = {**os.environ, "GOFLAGS": "-mod=mod", **environment}
        done = subprocess.run([go, *arguments], cwd=folder, env=variables, check=False, capture_output=True, text=True)
    if done.returncode:
        raise MissingSoftwareError(f"go {arguments[0]} failed:\n{done.stderr[-2000:]}")
    return done.stdout


def main() -> None:
    """Write the chart as an archive into the folder that the command names."""
    subprocess.run([helm(), "package", CHART, "--destination", sys.argv[1]], check=True)


if __name__ == "__main__":
    main()
