"""`python -m tests.workflows`: checks .github/workflows with actionlint, and that their make targets exist.

Actionlint is compiled once, from the proxy of Go modules, and kept in the cache. Without Go it is left out; in CI that
is an error.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from deploy.helm.generator.files import ROOT
from tests.helm import install_with_go
from tests.kafka_software import cache_directory, install_once

ACTIONLINT_VERSION = "1.7.12"
FOLDER = ROOT / ".github" / "workflows"
_CALL = re.compile(r"\bmake ([a-z0-9.-]+)")
_TARGET = re.compile(r"^([a-z0-9.-]+):", re.MULTILINE)


def actionlint() -> Path:
    """Return the path of actionlint; compile it first if the cache does not have it. Raises MissingSoftwareError."""
    program = cache_directory() / f"actionlint-{ACTIONLINT_VERSION}" / "actionlint"
    module = f"github.com/rhysd/actionlint/cmd/actionlint@v{ACTIONLINT_VERSION}"
    install_once(program.parent, lambda target: install_with_go(module, target))
    return program


def unknown_targets(workflows: Iterable[str], makefile: str) -> set[str]:
    """Return the make targets that workflows call and the Makefile does not have."""
    called = {name for text in workflows for name in _CALL.findall(text)}
    return called - set(_TARGET.findall(makefile))


def main() -> int:
    """Return 1 if a workflow is wrong."""
    files = sorted(FOLDER.glob("*.yml"))
    texts = [file.read_text(encoding="utf-8") for file in files]
    unknown = unknown_targets(texts, (ROOT / "Makefile").read_text(encoding="utf-8"))
    for name in sorted(unknown):
        sys.stderr.write(f"{FOLDER}: make {name}: the Makefile has no such target\n")
    if shutil.which("go") is None and "CI" not in os.environ:
        sys.stderr.write("The workflows are not checked with actionlint, which needs Go.\n")
        return bool(unknown)
    done = subprocess.run([actionlint(), "-no-color", "-shellcheck=", "-pyflakes=", *files], check=False)
    return bool(unknown) or done.returncode


if __name__ == "__main__":
    sys.exit(main())
